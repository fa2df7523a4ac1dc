"""Figures 6a to 12 of the paper's kind: bars are ours (simulated), circles are published."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from studies.fusemax.artifact import Answers
from studies.fusemax.designs import DESIGNS, LENGTHS, METHODS, MODELS
from studies.fusemax.headlines import Totals
from studies.fusemax.linear import FILES
from studies.fusemax.pareto import WIDTHS
from studies.fusemax.published import published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

CLOSED, SIMULATED = METHODS
STYLES = {  # apart in grey as well
    "Unfused": {"color": "white", "hatch": "////"},
    "FLAT": {"color": "#bdbdbd"},
    "+Cascade": {"color": "#9ecae1", "hatch": ".."},
    "+Architecture": {"color": "#4292c6"},
    "+Binding": {"color": "#08306b"},
}
EINSUMS = {"QK": "#08306b", "LM": "#fdae6b", "SLN": "#9ecae1", "SLD": "#d94801", "SLNV/AV": "#4292c6"}
Value = Callable[[str, str, str], float | None]  # design, model, length -> height

BESIDE = "published (bars: ours, simulated)"


def _bars(canvas: Canvas, label: str, ours: Value, theirs: Value, top: float | None = None) -> None:
    """A panel a model, a group of bars a length, a bar a design."""
    designs = tuple(STYLES)
    panels = canvas.subplots(1, len(MODELS), sharey=True)
    wide = 0.8 / len(designs)
    for panel, model in zip(panels, MODELS, strict=True):
        for i, design in enumerate(designs):
            places = [x + (i - (len(designs) - 1) / 2) * wide for x in range(len(LENGTHS))]
            heights = [ours(design, model, length) for length in LENGTHS]
            panel.bar(places, heights, wide, label=design, edgecolor="black", linewidth=0.4, zorder=2, **STYLES[design])
            pairs = [(x, theirs(design, model, n)) for x, n in zip(places, LENGTHS, strict=True)]
            known = [(x, y) for x, y in pairs if y is not None]
            if known:
                panel.plot(
                    *zip(*known, strict=True),
                    "o",
                    ms=3,
                    mfc="white",
                    mec="black",
                    mew=0.7,
                    zorder=3,
                    label=BESIDE if i == len(designs) - 1 else None,
                )
        _grid(panel, LENGTHS)
        panel.set_xlabel(model)
    panels[0].set_ylabel(label)
    panels[0].set_ylim(0, top)
    _legend(canvas, panels[0])


def _legend(canvas: Canvas, panel: Axes) -> None:
    """One row above the panels, what is published last."""
    entries = sorted(zip(*panel.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] == BESIDE)
    handles, names = zip(*entries, strict=True)
    canvas.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)


def _grid(panel: Axes, ticks: tuple[str, ...]) -> None:
    panel.set_xticks(range(len(ticks)), ticks)
    panel.grid(axis="y", color="#dddddd", zorder=0)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def utilization(column: str, answers: Answers, totals: Totals, canvas: Canvas) -> None:
    """Figures 6a and 6b."""
    found = {(p.design.name, *p.key): p.values(SIMULATED)[column] for p in answers.points}
    files = {d.name: f"attn-{d.file}" for d in DESIGNS}
    theirs: Value = lambda d, m, n: published(files[d]).get((m, n), {}).get(column)
    array = column.removeprefix("util_").upper()
    _bars(canvas, f"utilization of the {array} array", lambda d, m, n: found[d, m, n], theirs, 1.06)


def breakdown(answers: Answers, totals: Totals, canvas: Canvas) -> None:
    """Figure 7: what the 2D array works on, BERT."""
    short = {"FLAT": "FL", "+Cascade": "+C", "+Architecture": "+A", "+Binding": "+B"}
    panels = canvas.subplots(1, len(LENGTHS), sharey=True)
    for panel, length in zip(panels, LENGTHS, strict=True):
        mine = [p for p in answers.points if p.key == ("BERT", length) and p.design.name in short]
        bottom = [0.0] * len(mine)
        for name, color in EINSUMS.items():
            heights = [sum(p.values(SIMULATED).get(c, 0.0) for c in name.split("/")) for p in mine]
            panel.bar(
                range(len(mine)),
                heights,
                0.75,
                bottom=bottom,
                label=name,
                color=color,
                edgecolor="black",
                linewidth=0.4,
                zorder=2,
            )
            bottom = [a + b for a, b in zip(bottom, heights, strict=True)]
        _grid(panel, tuple(short.values()))
        panel.set_xlabel(length)
    panels[0].set_ylabel("share of time, 2D array")
    panels[0].set_ylim(0, 1)
    _legend(canvas, panels[0])


def speedup(kernel: str, answers: Answers, totals: Totals, canvas: Canvas) -> None:
    """Figures 8 and 10: over the unfused design."""
    ours: Value = lambda d, m, n: (
        totals.latency_s("Unfused", m, n, kernel, SIMULATED) / totals.latency_s(d, m, n, kernel, SIMULATED)
    )
    known = lambda d, m, n: _known("latency", kernel, d, m, n)
    theirs: Value = lambda d, m, n: _quotient(known("Unfused", m, n), known(d, m, n))
    _bars(canvas, f"speedup over unfused, {kernel}", ours, theirs)


def energy(kernel: str, answers: Answers, totals: Totals, canvas: Canvas) -> None:
    """Figures 9 and 11: over the unfused design, in the accounting of the files."""
    total = lambda d, m, n: sum(totals.energy(d, m, n, kernel, "as-published").values())
    ours: Value = lambda d, m, n: total(d, m, n) / total("Unfused", m, n)
    known = lambda d, m, n: _known("energy", kernel, d, m, n)
    theirs: Value = lambda d, m, n: _quotient(known(d, m, n), known("Unfused", m, n))
    _bars(canvas, f"energy over unfused, {kernel}", ours, theirs)


def _known(column: str, kernel: str, design: str, model: str, length: str) -> float | None:
    """A published value of attention, or with the layers around it."""
    found = next(d for d in DESIGNS if d.name == design)
    row = published(f"attn-{found.file}").get((model, length))
    if row is None:
        return None
    around = published(FILES[found.machine])[model, length] if kernel == "end to end" else {}
    return row[column] + around.get(column, 0.0)


def _quotient(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def pareto(answers: Answers, totals: Totals, canvas: Canvas) -> None:
    """Figure 12: area and latency of attention at 256K tokens, arrays of 16 to 512 columns."""
    panel = canvas.subplots()
    for color, marker, model in zip(("#08306b", "#d94801", "#4292c6", "black"), "osD^", MODELS, strict=True):
        mine = [w.values(SIMULATED) for w in answers.widths if w.model == model]
        panel.loglog(
            [v["area"] * 1e-8 for v in mine],
            [v["latency"] for v in mine],
            marker=marker,
            ms=5,
            color=color,
            lw=1.2,
            label=model,
        )
        known = [published("pareto").get((model, str(w))) for w in WIDTHS]
        dots = [(row["area"] * 1e-8, row["latency"]) for row in known if row]
        if dots:
            panel.plot(
                *zip(*dots, strict=True),
                "o",
                ms=10,
                mfc="none",
                mec="black",
                mew=0.7,
                label="published" if model == MODELS[-1] else None,
            )
    panel.set_xlabel("area [cm$^2$]")
    panel.set_ylabel("attention latency [s]")
    panel.grid(color="#dddddd")
    panel.legend(frameon=False)


def gap(answers: Answers, totals: Totals, canvas: Canvas) -> None:
    """How far the simulated time lies above the closed form's bound."""
    panels = canvas.subplots(1, len(MODELS), sharey=True)
    marks = dict(zip(STYLES, "osD^v", strict=True))
    for panel, model in zip(panels, MODELS, strict=True):
        for design, mark in marks.items():
            mine = [p for p in answers.points if (p.design.name, p.model) == (design, model)]
            ratio = [p.result(SIMULATED).latency_s / p.result(CLOSED).latency_s - 1 for p in mine]
            color = "#777777" if design == "Unfused" else STYLES[design]["color"]
            panel.semilogy(
                range(len(mine)), ratio, marker=mark, ms=4, lw=1, label=design, color=color, mec="black", mew=0.4
            )
        _grid(panel, LENGTHS)
        panel.set_xlabel(model)
    panels[0].set_ylabel("simulated over closed form, less 1")
    _legend(canvas, panels[0])


WIDE, SQUARE = (10.0, 3.0), (5.5, 4.0)  # inches
FIGURES = (
    ("fig6a", partial(utilization, "util_1d"), WIDE),
    ("fig6b", partial(utilization, "util_2d"), WIDE),
    ("fig7", breakdown, WIDE),
    ("fig8", partial(speedup, "attention"), WIDE),
    ("fig9", partial(energy, "attention"), WIDE),
    ("fig10", partial(speedup, "end to end"), WIDE),
    ("fig11", partial(energy, "end to end"), WIDE),
    ("fig12", pareto, SQUARE),
    ("simulated-over-closed-form", gap, WIDE),
)
