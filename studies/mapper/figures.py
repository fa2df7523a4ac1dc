"""The study's two figures: energy and latency beside the other mapper's, and how long the search takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studies.mapper.peers import Row
from studies.study import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLORS = {"energy": "#9ecae1", "latency": "#08306b"}  # our objective -> bar
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10)
SIDES = (("equal", "#08306b", "o"), ("different", "#d94801", "s"))


def against(rows: tuple[Row, ...], canvas: Canvas) -> None:
    """Our energy and latency over AccelForge's, a pair of bars a case, one for each of our objectives."""
    cases = tuple(dict.fromkeys(row.case.name for row in rows))
    panels = canvas.subplots(1, 2, sharey=True)
    for panel, quantity in zip(panels, ("energy", "latency"), strict=True):
        for i, (objective, color) in enumerate(COLORS.items()):
            ratios = [_ratio(row, quantity) for row in rows if row.objective == objective]
            places = [x + 0.4 * (i - 0.5) for x in range(len(cases))]
            style = {"color": color, "edgecolor": "black", "linewidth": 0.4, "zorder": 2}
            panel.bar(places, [r - 1 for r in ratios], 0.4, bottom=1, label=f"ours, least {objective}", **style)
            for x, ratio in zip(places, ratios, strict=True):
                side, off = ("bottom", 1) if ratio >= 1 else ("top", -2)
                text = {"textcoords": "offset points", "ha": "center", "va": side, "fontsize": 7}
                panel.annotate(f"{ratio:.2f}", (x, ratio), (0, off), **text)
        panel.axhline(1, color="black", linewidth=0.8, zorder=3)
        panel.set_xticks(range(len(cases)), [name.replace("-", "\n") for name in cases])
        panel.set_title(quantity)
        _plain(panel)
    panels[0].set_ylabel("ours / AccelForge's")
    panels[0].set_yscale("log")
    panels[0].set_ylim(0.1, 10)
    panels[0].set_yticks(TICKS, [f"{t:g}" for t in TICKS])
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)


def _ratio(row: Row, quantity: str) -> float:
    ours, theirs = row.result, row.reference
    return ours.energy_j / theirs.energy_j if quantity == "energy" else ours.latency_s / theirs.latency_s


def time_taken(einsums: tuple[Table, ...], lengths: Table, canvas: Canvas) -> None:
    """Seconds against the number of Einsums, and against the length of a sequence."""
    left, right = canvas.subplots(1, 2)
    for table in einsums:
        together = table.name.removeprefix("einsums-")
        for sides, color, marker in SIDES:
            rows = [row for row in table.rows if row[1] == sides]
            xs, ys = zip(*((float(str(r[0])), float(str(r[-2]))) for r in rows), strict=True)
            style = "-" if together == "1" else "--"
            label = f"{sides} sides, {'no loops shared' if together == '1' else f'{together} may share loops'}"
            left.plot(xs, ys, style, color=color, marker=marker, ms=4, label=label, zorder=2)
    left.set_xscale("log", base=2)
    left.set_xlabel("Einsums in a chain")
    counts = [int(str(row[0])) for row in einsums[0].rows[::2]]
    left.set_xticks(counts, [str(n) for n in counts])
    right.plot(
        [str(r[0]) for r in lengths.rows], [float(str(r[-1])) for r in lengths.rows], "-o", color="#08306b", ms=4
    )
    right.set_xlabel("tokens, 1-pass attention")
    right.set_ylim(bottom=0)
    left.set_yscale("log", base=2)
    left.yaxis.set_major_formatter("{x:g}")
    for panel in (left, right):
        panel.set_ylabel("seconds to the proof, median")
        _plain(panel)
    canvas.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)


def _plain(panel: Axes) -> None:
    panel.grid(axis="y", color="#dddddd", zorder=0)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
