"""Our numbers in the columns of the artifact's files, and the errors against those files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from studies.fusemax.accounting import energy_j
from studies.fusemax.designs import DESIGNS, METHODS, Point
from studies.fusemax.linear import FILES, Layer
from studies.fusemax.pareto import Width
from studies.fusemax.published import columns, published
from studies.study import Comparison, Table

LONG = ("64K", "256K", "1M")
UNITS = {
    "traffic": "B",
    "latency": "s",
    "energy": "pJ",
    "mem_lat": "s",
    "comp_2d_lat": "s",
    "comp_1d_lat": "s",
    "array_2d_area": "um2",
    "area": "um2",
}  # of the artifact's columns; the others are ratios


@dataclass(frozen=True)
class Answers:
    """Everything that the study solved."""

    points: tuple[Point, ...]
    layers: tuple[Layer, ...]
    widths: tuple[Width, ...]

    def files(self) -> Iterator[tuple[str, tuple[Point | Layer | Width, ...]]]:
        """(the artifact's file, our rows of it, in its order)."""
        for design in DESIGNS:
            yield f"attn-{design.file}", tuple(p for p in self.points if p.design == design)
        for machine, file in FILES.items():
            yield file, tuple(x for x in self.layers if x.machine == machine)
        yield "pareto", self.widths


def energy_pj(row: Point | Layer, method: str, accounting: str) -> float:
    """Energy of a row in the artifact's unit."""
    file = row.design.file if isinstance(row, Point) else "linear"
    return sum(energy_j(row.case, row.result(method), accounting, file).values()) * 1e12


def values(row: Point | Layer | Width, method: str, accounting: str) -> dict[str, float]:
    """The artifact's columns, ours."""
    found = row.values(method)
    return found if isinstance(row, Width) else found | {"energy": energy_pj(row, method, accounting)}


def tables(answers: Answers, accounting: str) -> Iterator[Table]:
    """A table for each of the artifact's files, by the closed form; the same from the simulator under `simulated/`."""
    for method, folder in zip(METHODS, ("", "simulated/"), strict=True):
        for file, rows in answers.files():
            names = columns(file)
            made = []
            for row in rows:
                known = values(row, method, accounting)
                keys = ("proposal", *row.key) if file == "pareto" else row.key
                made.append((*keys, *(known[c] for c in names[len(keys) :])))
            title = f"{file}, {method}, energy {accounting}"
            yield Table(f"{folder}{file}", title, names, tuple(made), printed=False)


def comparisons(answers: Answers) -> Iterator[Comparison]:
    """Every published number beside ours by both methods; energies in the accounting of the files."""
    for file, rows in answers.files():
        for row in rows:
            for method in METHODS:
                if row.key in published(file):
                    yield from _compared(file, row, method)


def _compared(file: str, row: Point | Layer | Width, method: str) -> Iterator[Comparison]:
    ours = values(row, method, "as-published")
    for column, value in published(file)[row.key].items():
        where = f"studies/reference/fusemax/{file}.csv, {' '.join(row.key)}, {column}"
        yield Comparison(f"{column}, {method}", row.config, value, ours[column], UNITS.get(column, "1"), where)


def errors(found: tuple[Comparison, ...]) -> Table:
    """Greatest relative error by file, column and method; of the simulated also from 64K tokens on."""
    rows = []
    keys = dict.fromkeys((c.source.split("/")[-1].split(".")[0], c.quantity.split(", ")[0]) for c in found)
    for file, column in keys:
        worst = {}
        for method in METHODS:
            mine = [c for c in found if f"/{file}.csv" in c.source and c.quantity == f"{column}, {method}"]
            worst[method] = max(abs(c.rel_error or 0.0) for c in mine)
            worst["long"] = max((abs(c.rel_error or 0.0) for c in mine if c.config.split()[-1] in LONG), default=None)
            worst["rows"] = len(mine)
        rows.append((file, column, worst["rows"], worst[METHODS[0]], worst[METHODS[1]], worst["long"]))
    names = ("file", "column", "rows", "closed form", "simulated", "simulated, from 64K")
    return Table("errors", "Greatest relative error against the artifact's rows (BERT, XLM)", names, tuple(rows))
