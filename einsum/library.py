"""The cascades that ship with the project, and loading a cascade by name or from a file."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from einsum import moe
from einsum.cascade import Cascade
from einsum.parse import parse
from einsum.problems import InputError, Problem, read_text, suggest
from einsum.variants import BACKWARD, VARIANTS, split, vary

SUFFIX = ".cascade"
VARIED = {"attention-": tuple(VARIANTS), "backward-attention": BACKWARD}  # beginning of a name -> variants it may take


def library() -> tuple[str, ...]:
    """Names of the shipped cascades, sorted: each text, each attention, gate and mixture of experts with each variant
    that it takes, and the layer of each gate.

    `load` takes several variants, in the order of `einsum.variants.VARIANTS` and `einsum.moe`, as well.
    """
    varied = (f"{stem}-{variant}" for stem in _stems() for variant in _variants(stem))
    return tuple(sorted((*_stems(), *varied, *moe.names(_stems()))))


def load(name_or_path: str | Path) -> Cascade:
    """A library cascade by its name, or a cascade from a file. Raises `InputError`."""
    name = str(name_or_path)
    if shipped := _shipped(name):
        return shipped
    path = Path(name)
    if path.is_file():
        return parse(read_text(path), name)
    if path.suffix or len(path.parts) > 1:
        raise InputError(Problem("no such file", file=name))
    raise InputError(Problem("no such cascade", path="cascade", got=name, hint=suggest(name, library())))


@cache
def _shipped(name: str) -> Cascade | None:
    """A library cascade by its name; None if there is none such."""
    stems = _stems()
    if name in stems:
        return parse((_folder() / (name + SUFFIX)).read_text(encoding="utf-8"), name + SUFFIX)
    if name.startswith((moe.GATE, moe.LAYER)):
        return moe.load(name, stems, load)
    found = split(name, tuple(filter(_variants, stems)))
    if found is None or not set(found[1]) <= set(_variants(found[0])):
        return None
    stem = _shipped(found[0])
    return vary(stem, found[1]) if stem else None


def _variants(stem: str) -> tuple[str, ...]:
    return next((variants for beginning, variants in VARIED.items() if stem.startswith(beginning)), ())


def _stems() -> tuple[str, ...]:
    return tuple(e.name.removesuffix(SUFFIX) for e in _folder().iterdir() if e.name.endswith(SUFFIX))


def _folder() -> Traversable:
    return files("einsum") / "library"
