"""Output that every study and command shares: printed tables, and files that are written whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from einsum.problems import InputError, Problem
from mapper.result import Provenance

Cell = str | int | float | None
WIDTH = 160  # columns of a table that does not go to a terminal


def check_place(path: Path) -> None:
    """InputError, before a long run, if nothing could be written at `path` after it."""
    nearest = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "permission denied" if nearest.is_dir() else f"{nearest.name} is not a directory"
        raise InputError(Problem(f"cannot write: {what}", got=str(path)))


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """A scratch directory whose files move into `out` when the block ends well, and vanish when it fails.

    InputError if `out` cannot be made or written.
    """
    with _scratch(out.parent) as scratch:
        yield scratch
        with _writing(out):
            out.mkdir(exist_ok=True)
            for file in files_in(scratch):
                (out / file).parent.mkdir(exist_ok=True)
                (scratch / file).replace(out / file)


def files_in(folder: Path) -> list[Path]:
    """Every file in the folder and its folders, relative to it, sorted."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A scratch path that becomes `path` when the block ends well; InputError if `path` cannot be written."""
    with _scratch(path.parent) as scratch:
        yield scratch / path.name
        with _writing(path):
            (scratch / path.name).replace(path)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    with _writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".stepfall-", dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(Problem(f"cannot write: {(error.strerror or str(error)).lower()}", got=str(path))) from error


def write_json(path: Path, data: object) -> None:
    """JSON with a line break at the end; refuses NaN and infinities, which JSON does not have."""
    path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """A header and rows; floats in full precision, None as an empty field. Makes the folder."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], file: TextIO | None = None) -> None:
    """A table on `file` (standard output); numbers are right-aligned and rounded to 6 significant digits."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = file or sys.stdout
    grid = [tuple(row) for row in rows]
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in grid)
        table.add_column(Text(column), justify="right" if numeric else "left", no_wrap=numeric)
    for row in grid:
        table.add_row(*(Text(cell_text(cell)) for cell in row))
    Console(file=stream, width=None if stream.isatty() else WIDTH, highlight=False).print(table)


def cell_text(cell: Cell) -> str:
    """A cell as a table shows it."""
    if cell is None:
        return "-"
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def relative(ours: float, reference: float) -> float | None:
    """`ours / reference - 1`: 0 when both are 0, None (undefined) when only the reference is."""
    if reference == 0:
        return 0.0 if ours == 0 else None
    return ours / reference - 1


def footer(provenance: Provenance) -> str:
    """One line that says how to make an output again."""
    return f"stepfall {provenance.version}; inputs sha256 {provenance.inputs_sha256[:16]}; {provenance.command}"
