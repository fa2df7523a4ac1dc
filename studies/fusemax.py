"""FuseMax (MICRO 2024): 1-pass attention under +Architecture and +Binding, closed form and simulated.

Every number comes from the general pipeline: the cascade, the machine and the mapping go through `mapper.cost` and
`sim.run`; the published rows are read afterwards, to compare with. BERT and XLM have published rows; TrXL and T5 are
predictions.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING

from arch.machine import Machine
from arch.read import load as load_machine
from einsum.cascade import Cascade
from einsum.library import load as load_cascade
from mapper.check import check
from mapper.cost import cost
from mapper.library import make
from mapper.result import Result, provenance
from sim.run import simulate
from studies.study import Comparison, Figure, Progress, Study, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

# Heads and head dimensions; batch 64. Source: FuseMax, MICRO 2024, table of models, and its artifact.
MODELS = {
    "BERT": {"B": 64, "H": 12, "E": 64, "F": 64},
    "TrXL": {"B": 64, "H": 16, "E": 64, "F": 64},
    "T5": {"B": 64, "H": 8, "E": 64, "F": 64},
    "XLM": {"B": 64, "H": 16, "E": 128, "F": 128},
}
LENGTHS = {"1K": 2**10, "4K": 2**12, "16K": 2**14, "64K": 2**16, "256K": 2**18, "1M": 2**20}
DESIGNS = {"+Architecture": ("fusemax-architecture", "attn-arch"), "+Binding": ("fusemax-binding", "attn-binding")}
UNITS = {"util_2d": "pe_2d", "util_1d": "pe_1d"}
SHARES = {"QK": "BQK", "LM": "LM", "SLN": "SLN", "SLD": "SLD", "SLNV": "SLNV"}  # published column -> Einsum
COLUMNS = ("traffic", "latency", *UNITS, *SHARES)
UNIT_OF = {"traffic": "B", "latency": "s"}
METHODS = ("closed form", "simulated")


@dataclass(frozen=True)
class Point:
    """One design, model and length, by both methods."""

    design: str
    model: str
    length: str
    closed: Result
    simulated: Result

    @property
    def config(self) -> str:
        return f"{self.design} {self.model} {self.length}"

    def values(self, method: str) -> dict[str, float]:
        """The published columns, ours."""
        result = self.closed if method == "closed form" else self.simulated
        found = {"traffic": result.total("bytes", place="dram"), "latency": result.latency_s}
        found |= {column: result.value("utilization", place=unit) for column, unit in UNITS.items()}
        return found | {c: result.value("share", einsum=e, place="pe_2d") for c, e in SHARES.items()}


def run(progress: Progress) -> Study:
    """48 points by both methods, compared with the 24 published ones."""
    machine, cascade = load_machine("fusemax"), load_cascade("attention-1pass")
    points = []
    for design in DESIGNS:
        for model in MODELS:
            for length in LENGTHS:
                progress(f"{design} {model} {length}")
                points.append(_point(design, model, length, cascade, machine))
    summary = tuple(row for point in points for row in _compare(point))
    figures = (
        Figure("utilization", partial(_draw_utilization, points)),
        Figure("shares", partial(_draw_shares, points)),
        Figure("latency", partial(_draw_latency, points)),
    )
    notes = (
        "Nothing is fitted. Published rows: the FuseMax artifact, BERT and XLM; TrXL and T5 are predictions.",
        "The simulated time holds what the closed form leaves out: the first tile's loads and the last tile's drain.",
    )
    stamp = provenance(machine, cascade, MODELS, LENGTHS)
    return Study("fusemax", (_errors(summary), _main(points)), figures, summary, stamp, notes)


def _point(design: str, model: str, length: str, cascade: Cascade, machine: Machine) -> Point:
    sizes = MODELS[model] | {"M": LENGTHS[length], "P": LENGTHS[length]}
    mapping, workload = make(DESIGNS[design][0], cascade, machine, sizes)
    check(mapping, workload, machine)
    return Point(design, model, length, cost(mapping, workload, machine), simulate(mapping, workload, machine))


def published(name: str) -> dict[tuple[str, str], dict[str, float]]:
    """(model, length) -> column -> value, of one of the artifact's files; the first line states its source."""
    text = files("studies").joinpath(f"reference/fusemax/{name}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines()[1:])
    return {(row["model"], row["seq_len"]): {c: float(row[c]) for c in COLUMNS} for row in rows}


def _compare(point: Point) -> Iterator[Comparison]:
    source = DESIGNS[point.design][1]
    row = published(source).get((point.model, point.length))
    if row is None:
        return
    for method in METHODS:
        ours = point.values(method)
        for column in COLUMNS:
            unit = UNIT_OF.get(column, "1")
            where = f"studies/reference/fusemax/{source}.csv, {point.model} {point.length}, {column}"
            yield Comparison(f"{column}, {method}", point.config, row[column], ours[column], unit, where)


def _errors(summary: tuple[Comparison, ...]) -> Table:
    """Greatest relative error by design, method and column, all lengths and from 64K on."""
    rows = []
    for design in DESIGNS:
        for method in METHODS:
            for column in COLUMNS:
                found = [c for c in summary if c.config.startswith(design) and c.quantity == f"{column}, {method}"]
                long = [c for c in found if c.config.split()[-1] in ("64K", "256K", "1M")]
                worst = [max(abs(c.rel_error or 0.0) for c in part) for part in (found, long)]
                rows.append((design, method, column, len(found), *worst))
    columns = ("design", "method", "quantity", "rows", "max |error|", "max |error| from 64K")
    return Table("errors", "Greatest relative error against the published rows (BERT, XLM)", columns, tuple(rows))


def _main(points: list[Point]) -> Table:
    rows = []
    for point in points:
        reference = published(DESIGNS[point.design][1]).get((point.model, point.length))
        for method in METHODS:
            values = point.values(method)
            error = values["latency"] / reference["latency"] - 1 if reference else None
            shown = (f"{values[c]:.4f}" if c not in UNIT_OF else values[c] for c in COLUMNS)
            rows.append((point.design, point.model, point.length, method, *shown, error))
    columns = ("design", "model", "length", "method", "traffic [B]", "latency [s]", *COLUMNS[2:], "latency error")
    return Table("attention", "1-pass attention on FuseMax; shares are of the 2D array's time", columns, tuple(rows))


def _draw_utilization(points: list[Point], canvas: Canvas) -> None:
    axes = canvas.subplots(1, 2, sharey=True)
    for axis, (column, unit) in zip(axes, UNITS.items(), strict=True):
        for color, model in enumerate(("BERT", "XLM")):
            for design, style in zip(DESIGNS, ("--", "-"), strict=True):
                mine = [p for p in points if (p.design, p.model) == (design, model)]
                heights = [p.values("simulated")[column] for p in mine]
                axis.plot(range(len(mine)), heights, style, color=f"C{color}", label=f"{model} {design}")
                known = published(DESIGNS[design][1])
                dots = [known[model, p.length][column] for p in mine]
                axis.plot(range(len(mine)), dots, "o", color=f"C{color}", fillstyle="none")
        axis.set_title(f"{unit} ({column[-2:].upper()} array)")
        axis.set_xticks(range(len(LENGTHS)), LENGTHS)
        axis.set_xlabel("sequence length")
        axis.set_ylim(0, 1.05)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("utilization")
    axes[1].legend(title="line: simulated; circle: published", loc="center right", fontsize=8)


def _draw_shares(points: list[Point], canvas: Canvas) -> None:
    axis = canvas.subplots()
    bars = [p for p in points if p.length in ("1K", "64K", "1M") and p.model in ("BERT", "XLM")]
    bottom = [0.0] * len(bars)
    for column in SHARES:
        heights = [p.values("simulated")[column] for p in bars]
        axis.bar(range(len(bars)), heights, bottom=bottom, label=column)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    axis.set_xticks(range(len(bars)), [f"{p.model}\n{p.length}\n{p.design.lstrip('+')[:7]}" for p in bars], fontsize=8)
    axis.set_ylabel("share of simulated time on the 2D array")
    axis.set_ylim(0, 1.05)
    axis.legend(ncols=5, loc="upper left", fontsize=8)


def _draw_latency(points: list[Point], canvas: Canvas) -> None:
    axis = canvas.subplots()
    for color, model in enumerate(MODELS):
        for design, style in zip(DESIGNS, ("--", "-"), strict=True):
            mine = [p for p in points if (p.design, p.model) == (design, model)]
            gap = [p.simulated.latency_s / p.closed.latency_s - 1 for p in mine]
            axis.loglog(
                [LENGTHS[p.length] for p in mine], gap, style, color=f"C{color}", marker=".", label=f"{model} {design}"
            )
    axis.set_xlabel("sequence length")
    axis.set_ylabel("simulated time over closed-form bound, less 1")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8, ncols=2)
