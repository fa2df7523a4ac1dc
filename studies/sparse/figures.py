"""The study's figures: cost by what is kept, our numbers over published ones, and a diffusion run step by step."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from studies.sparse.claims import TAGS, Key, claims
from studies.sparse.kept import CASES, SHARES, cost_of
from studies.sparse.schedules import run_shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLORS = ("#08306b", "#4292c6", "#d94801", "#fdae6b", "#238b45", "#74c476", "#777777")
MARKS = dict(zip(TAGS, "oDs^x", strict=True))


def by_kept(canvas: Canvas) -> None:
    """Multiply-accumulates and bytes over those of dense attention, by the share kept; prefill in dashes."""
    panels = canvas.subplots(1, 2, sharey=True)
    xs = [1 / share for share in SHARES]
    for panel, quantity in zip(panels, ("macs", "nbytes"), strict=True):
        for case, color in zip(CASES, COLORS, strict=True):
            ys = [getattr(cost_of(case, share), quantity) for share in SHARES]
            style = "-o" if case.queries == 1 else "--o"
            panel.plot(xs, ys, style, ms=3, color=color, label=case.cascade.removeprefix("sparse-"))
        panel.plot(xs, xs, ":", color="black", linewidth=0.8, label="in proportion")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.set_xlabel("share kept")
        _plain(panel)
    panels[0].set_ylabel("over dense attention")
    panels[0].set_title("multiply-accumulates")
    panels[1].set_title("compulsory bytes")
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)


def against(ours: Mapping[Key, float], canvas: Canvas) -> None:
    """Ours over published, a mark a claim, by how far it agrees."""
    panel = canvas.subplots()
    known = [(claim, ours[claim.key]) for claim in claims() if claim.key in ours]
    for tag in TAGS[:-1]:
        found = [(i, value / claim.value) for i, (claim, value) in enumerate(known) if claim.tag(value) == tag]
        if found:
            panel.plot(*zip(*found, strict=True), MARKS[tag], color="#08306b", ms=5, label=tag, linestyle="none")
    panel.axhline(1, color="black", linewidth=0.8)
    for i, (claim, _) in enumerate(known[1:], 1):
        if claim.paper != known[i - 1][0].paper:
            panel.axvline(i - 0.5, color="#bbbbbb", linewidth=0.8)
    panel.set_yscale("log")
    panel.set_ylabel("ours over published")
    papers = dict.fromkeys(claim.paper for claim, _ in known)
    places = {paper: [i for i, (claim, _) in enumerate(known) if claim.paper == paper] for paper in papers}
    middles = [sum(at) / len(at) for at in places.values()]
    panel.set_xticks(middles, list(papers), rotation=30, ha="right")
    panel.legend(frameon=False)
    _plain(panel)


def run(canvas: Canvas) -> None:
    """Attention of each step of a diffusion run and of the run so far, over full attention."""
    panel = canvas.subplots()
    shares = run_shares()
    so_far = [total / (i + 1) for i, total in enumerate(accumulate(shares))]
    panel.bar(range(1, len(shares) + 1), shares, color="#9ecae1", label="the step", zorder=2)
    panel.plot(range(1, len(shares) + 1), so_far, color="#08306b", label="the run so far", zorder=3)
    panel.set_xlabel("step")
    panel.set_ylabel("attention over full attention")
    canvas.legend(loc="outside upper center", ncols=2, frameon=False)
    _plain(panel)


def _plain(panel: Axes) -> None:
    panel.grid(axis="y", color="#dddddd", zorder=0)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
