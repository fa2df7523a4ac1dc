"""Scatter figures of validation: estimate over measurement, against the measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from studies.study import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from studies.gpu.validate import Estimates

RATIOS = (0.2, 0.5, 1, 2, 3)
COLOURS = {"ours": "tab:blue", "three constants": "tab:orange", "roofline": "0.75"}


def scatter(found: Estimates) -> tuple[Figure, ...]:
    """One figure for each GPU with rows of ours: a panel for each kind of kernel, rows that were not fitted."""
    rows = np.isfinite(found.ours) & ~found.fitted
    names = sorted(set(found.points["gpu"][rows].tolist()))
    return tuple(Figure(f"scatter-{name}", _drawer(found, name), (10.0, 6.0)) for name in names)


def _drawer(found: Estimates, name: str):
    def draw(canvas: Canvas) -> None:
        p = found.points
        rows = np.isfinite(found.ours) & ~found.fitted & (p["gpu"] == name)
        kinds = sorted(set(p["kind"][rows].tolist()))
        panels = canvas.subplots(2, (len(kinds) + 1) // 2, squeeze=False, sharey=True).ravel()
        for panel, kind in zip(panels, kinds, strict=False):
            mine = rows & (p["kind"] == kind)
            for model in reversed(COLOURS):
                seconds = found.seconds(model)[mine]
                panel.plot(
                    p.seconds[mine] * 1e6, seconds / p.seconds[mine], ".", ms=2, color=COLOURS[model], label=model
                )
            panel.set(xscale="log", yscale="log", ylim=(0.2, 3), title=f"{kind}, {name}, rows not fitted")
            panel.set_yticks(RATIOS, [f"{r:g}" for r in RATIOS])
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_minor_formatter("")
            panel.set_xlabel("measured [us]")
            panel.axhline(1.0, color="k", lw=0.6)
        panels[0].set_ylabel("estimate / measured")
        panels[0].legend(markerscale=4, fontsize=7)
        for panel in panels[len(kinds) :]:
            panel.set_visible(False)

    return draw
