"""The study's figures: latency and load over the even split, and experts that a batch activates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studies.moe.active import Activated
from studies.moe.layers import DEVICES, MACHINE, ROUTINGS, Layer, even

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLORS: dict[str, str] = dict(zip(ROUTINGS, ("#bdbdbd", "#9ecae1", "#3182bd", "#08306b"), strict=True))


def over_even(every: tuple[Layer, ...], canvas: Canvas) -> None:
    """Latency over that of the even split, on one device and of the slowest of several; a group of bars a point."""
    points = tuple(dict.fromkeys((x.model, x.tokens) for x in every))
    panels = canvas.subplots(2, 1, sharex=True)
    for panel, title in zip(panels, (f"one {MACHINE}", f"{DEVICES} {MACHINE}"), strict=True):
        for i, routing in enumerate(ROUTINGS):
            found = [next(x for x in every if (x.model, x.tokens, x.routing) == (*p, routing)) for p in points]
            heights = [_ratio(x, even(x, every), title.startswith("one")) for x in found]
            places = [x + 0.2 * (i - 1.5) for x in range(len(points))]
            style = {"color": COLORS[routing], "edgecolor": "black", "linewidth": 0.4, "zorder": 2}
            panel.bar(places, heights, 0.2, label=routing, **style)
        panel.set_title(title)
        panel.set_ylabel("latency over even split")
        _plain(panel)
    panels[1].set_xticks(range(len(points)), [f"{name}\n{tokens}".replace("-", "\n", 1) for name, tokens in points])
    canvas.legend(*panels[1].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)


def _ratio(layer: Layer, base: Layer, one: bool) -> float:
    if one:
        return layer.kernel.latency_s / base.kernel.latency_s
    return float(layer.devices_s().max() / base.devices_s().max())


def activation(rows: tuple[Activated, ...], canvas: Canvas) -> None:
    """Share of the experts that a batch activates: the formula as a line, draws as points."""
    names = tuple(dict.fromkeys(r.model for r in rows))
    panels = canvas.subplots(1, len(names), sharey=True)
    for panel, name in zip(panels, names, strict=True):
        mine = [r for r in rows if r.model == name]
        tokens = [r.tokens for r in mine]
        panel.plot(tokens, [r.formula / r.experts for r in mine], color="black", linewidth=0.8, label="N(t) / E")
        for kind, marker in zip(mine[0].sampled, "o^s", strict=True):
            shares = [r.sampled[kind] / r.experts for r in mine]
            panel.plot(tokens, shares, marker, color=COLORS[kind], ms=4, label=f"{kind}, sampled")
        panel.set_xscale("log", base=2)
        panel.set_title(name)
        panel.set_xlabel("tokens")
        _plain(panel)
    panels[0].set_ylabel("experts activated")
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)


def _plain(panel: Axes) -> None:
    panel.grid(axis="y", color="#dddddd", zorder=0)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
