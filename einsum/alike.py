"""Whether two cascades are the same up to the names of what they write and the order of ranks."""

from __future__ import annotations

import hashlib

from einsum.cascade import Access, Apply, Cascade, Expr, Num
from einsum.library import library, load


def alike(first: Cascade, second: Cascade) -> dict[str, str] | None:
    """Names of written tensors of `first` -> names in `second`; None if they differ by more than that.

    Inputs, ranks and sizes must have the same names, and operands the same order.
    """
    a, b = _colours(first), _colours(second)
    if first.sizes != second.sizes or sorted(a.values()) != sorted(b.values()):
        return None
    if len(set(a.values())) < len(a):
        return None
    named = {colour: name for name, colour in b.items()}
    return {name: named[colour] for name, colour in a.items() if name in first}


def known_as(cascade: Cascade) -> tuple[str, dict[str, str]] | None:
    """The library's cascade that is alike, among those named after the same thing, and its names for our tensors."""
    family = cascade.name.split("-")[0]
    for name in library():
        if name.split("-")[0] == family and (names := alike(cascade, load(name))) is not None:
            return name, names
    return None


def _colours(cascade: Cascade) -> dict[str, int]:
    """A number for each tensor that only depends on how it is computed, by refining until it takes in everything."""
    found = {t: f"input {t}" if t in cascade.inputs else "" for t in cascade.tensor}
    colours = {name: _digest(text) for name, text in found.items()}
    for _ in cascade.tensor:
        colours |= {e.name: _digest(repr(_seen(cascade, e.name, colours))) for e in cascade.einsums}
    return colours


def _seen(cascade: Cascade, name: str, colours: dict[str, int]) -> tuple:
    e = cascade[name]
    guards = sorted(repr((_of(g.left, cascade, colours), g.relation, _of(g.right, cascade, colours))) for g in e.guards)
    reduction = (e.reduce_op, tuple(sorted(e.reduced))) if e.reduced else ()
    init = None if e.init is None else float(e.init)
    return (_of(e.expr, cascade, colours), reduction, guards, init, e.iterative, sorted(e.output_ranks), repr(e.topk))


def _of(expr: Expr, cascade: Cascade, colours: dict[str, int]) -> object:
    """The expression with colours for tensors, and indices by the rank that they index."""
    if isinstance(expr, Access):
        ranks = cascade.tensor[expr.tensor].ranks
        indices = sorted((r, repr(_of(i, cascade, colours))) for r, i in zip(ranks, expr.indices, strict=True))
        return (colours[expr.tensor], tuple(indices))
    if isinstance(expr, Apply):
        return (expr.op, *(_of(arg, cascade, colours) for arg in expr.args))
    return float(expr.value) if isinstance(expr, Num) else expr.name


def _digest(text: str) -> int:
    """A hash that is the same in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
