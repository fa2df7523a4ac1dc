"""The cascades that ship with the project, and loading a cascade by name or from a file."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from einsum.cascade import Access, Cascade, Expr, Guard, Name
from einsum.parse import parse
from einsum.problems import InputError, Problem, read_text, suggest

SUFFIX = ".cascade"
CAUSAL = "-causal"


def library() -> tuple[str, ...]:
    """Names of the shipped cascades, sorted; `NAME-causal` is NAME with the guard `m <= p` on its scores."""
    stems = (entry.name.removesuffix(SUFFIX) for entry in _folder().iterdir() if entry.name.endswith(SUFFIX))
    return tuple(sorted(name for stem in stems for name in (stem, stem + CAUSAL)))


def load(name_or_path: str | Path) -> Cascade:
    """A library cascade by its name, or a cascade from a file. Raises `InputError`."""
    name = str(name_or_path)
    if name in library():
        stem = name.removesuffix(CAUSAL)
        cascade = parse((_folder() / (stem + SUFFIX)).read_text(encoding="utf-8"), stem + SUFFIX)
        return cascade if stem == name else _causal(cascade)
    path = Path(name)
    if path.is_file():
        return parse(read_text(path), name)
    if path.suffix or len(path.parts) > 1:
        raise InputError(Problem("no such file", file=name))
    raise InputError(Problem("no such cascade", path="cascade", got=name, hint=suggest(name, library())))


def _folder() -> Traversable:
    return files("einsum") / "library"


def _causal(cascade: Cascade) -> Cascade:
    """The cascade with the guard `key <= p` on the scores, the key's coordinate as the partitioned K spells it."""
    tiled = cascade["BK"].expr if "BK" in cascade else None
    key: Expr = tiled.indices[2] if isinstance(tiled, Access) else Name("m")
    scores = "BQK" if tiled else "QK"
    einsums = tuple(
        replace(e, guards=(Guard(key, "<=", Name("p")),)) if e.name == scores else e for e in cascade.einsums
    )
    doc = f"{cascade.doc}\nCausal: query p sees the keys m <= p."
    return replace(cascade, name=cascade.name + CAUSAL, einsums=einsums, doc=doc)
