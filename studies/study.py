"""A study: one question answered by tables, figures and a comparison with published numbers.

A study is a module in `studies/` with `run(progress, **options) -> Study`, listed in `STUDIES`; it computes and
returns, and `write` alone puts files on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum.problems import InputError, Problem, suggest
from mapper.result import Provenance
from studies import report
from studies.report import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Progress = Callable[[str], None]  # told what is being worked on
STUDIES = {  # name on the command line -> module
    "fusemax": "studies.fusemax.study",
    "mapper": "studies.mapper.study",
    "moe": "studies.moe.study",
    "sparse": "studies.sparse.study",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table, written as `<name>.csv` (the name may begin with a folder) and, unless it is only data, printed."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    printed: bool = True


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, written as `<name>.png` and `<name>.svg`; `draw` fills an empty matplotlib figure of `size` inches."""

    name: str
    draw: Callable[[Canvas], None]
    size: tuple[float, float] = (8.0, 4.5)


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


def run(name: str, progress: Progress, **options: str) -> Study:
    """Run a study with its own options; InputError for an unknown name or option."""
    if name not in STUDIES:
        raise InputError(Problem("unknown study", got=name, hint=suggest(name, STUDIES)))
    wanted = import_module(STUDIES[name]).run
    known = list(signature(wanted).parameters)[1:]
    if unknown := [option for option in options if option not in known]:
        raise InputError(Problem(f"study {name} has no such option", path=o, hint=suggest(o, known)) for o in unknown)
    return wanted(progress, **options)


def write(study: Study, out: Path) -> tuple[Path, ...]:
    """Write CSV tables, figures, `summary.json` and `provenance.json` (with a hash of each file); all or nothing."""
    with report.whole_directory(out) as folder:
        for table in study.tables:
            report.write_csv(folder / f"{table.name}.csv", table.columns, table.rows)
        for figure in study.figures:
            _draw(figure, folder, study.provenance)
        report.write_json(folder / "summary.json", [row.as_dict() for row in study.summary])
        files = report.files_in(folder)
        digests = {str(file): hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}
        report.write_json(folder / "provenance.json", asdict(study.provenance) | {"sha256": digests})
    return (*(out / file for file in files), out / "provenance.json")


def _draw(figure: Figure, folder: Path, provenance: Provenance) -> None:
    """The figure as PNG for the screen and as SVG for print, the same bytes for the same data."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    with rc_context({"svg.hashsalt": figure.name, "hatch.linewidth": 0.5, "font.size": 9}):
        canvas = Canvas(figsize=figure.size, layout="constrained")
        figure.draw(canvas)
        note = {"Description": report.footer(provenance)}
        canvas.savefig(folder / f"{figure.name}.png", dpi=200, metadata=note)
        canvas.savefig(folder / f"{figure.name}.svg", metadata=note | {"Date": None})
