"""A study: one question answered by tables, figures and a comparison with published numbers.

A study is a module in `studies/` with `run(progress) -> Study`, listed in `STUDIES`; it computes and returns, and
`write` alone puts files on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum.problems import InputError, Problem, suggest
from mapper.result import Provenance
from studies import report
from studies.report import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Progress = Callable[[str], None]  # told what is being worked on
STUDIES = {"fusemax": "studies.fusemax"}  # name on the command line -> module


@dataclass(frozen=True, slots=True)
class Table:
    """A table, printed and written as `<name>.csv`."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, written as `<name>.png`; `draw` fills an empty matplotlib figure."""

    name: str
    draw: Callable[[Canvas], None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One of our numbers beside the published one, both in `unit`."""

    quantity: str
    config: str
    published: float
    ours: float
    unit: str
    source: str  # file and row, or table and figure of the publication

    @property
    def rel_error(self) -> float | None:
        return report.relative(self.ours, self.published)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"rel_error": self.rel_error}


@dataclass(frozen=True, slots=True)
class Study:
    """A study's answer."""

    name: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    summary: tuple[Comparison, ...]
    provenance: Provenance
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without the figures."""
        return {
            "study": self.name,
            "tables": [asdict(table) for table in self.tables],
            "summary": [row.as_dict() for row in self.summary],
            "notes": list(self.notes),
            "provenance": asdict(self.provenance),
        }


def names() -> tuple[str, ...]:
    """The studies that `run` knows."""
    return tuple(sorted(STUDIES))


def run(name: str, progress: Progress) -> Study:
    """Run a study; InputError for an unknown name."""
    if name not in STUDIES:
        raise InputError(Problem("unknown study", got=name, hint=suggest(name, STUDIES)))
    return import_module(STUDIES[name]).run(progress)


def write(study: Study, out: Path) -> tuple[Path, ...]:
    """Write CSV tables, figures, `summary.json` and `provenance.json` (with a hash of each file); all or nothing."""
    with report.whole_directory(out) as folder:
        for table in study.tables:
            report.write_csv(folder / f"{table.name}.csv", table.columns, table.rows)
        for figure in study.figures:
            _draw(figure, folder / f"{figure.name}.png", study.provenance)
        report.write_json(folder / "summary.json", [row.as_dict() for row in study.summary])
        files = sorted(folder.iterdir())
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        report.write_json(folder / "provenance.json", asdict(study.provenance) | {"sha256": digests})
    return (*(out / file.name for file in files), out / "provenance.json")


def _draw(figure: Figure, path: Path, provenance: Provenance) -> None:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8, 4.5), layout="constrained")
    figure.draw(canvas)
    canvas.savefig(path, dpi=150, metadata={"Description": report.footer(provenance)})
