"""Exponentials in base 2: which tensors a kernel keeps multiplied by log2(e) (SEMANTICS 7.5).

GPUs compute exp2. `exp(x)` is `exp2(x * log2(e))`, and the factor may be applied once, where the logits are made,
if every use of them is a maximum, a minimum, a sum or a difference that ends in an exponential.
"""

from __future__ import annotations

from collections.abc import Set

from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Num, walk

LINEAR = ("+", "-", "max", "min")  # op(c*x, c*y) = c * op(x, y) for c > 0


def scaled_tensors(cascade: Cascade) -> frozenset[str]:
    """Computed tensors held in units of 1/log2(e): the largest set that is consistent, empty without an exponential."""
    exponents = {a.tensor for e in cascade.einsums for x in _exponents(e.expr) for a in _accesses(x)}
    chosen = {name for name in exponents if name in cascade and name not in cascade.outputs}
    refused: set[str] = set()
    while True:
        read = {a.tensor for name in chosen if _homogeneous(cascade[name]) for a in _accesses(cascade[name].expr)}
        grown = chosen | {name for name in read - refused if name in cascade and name not in cascade.outputs}
        kept = {name for name in grown if _consistent(cascade, name, grown)}
        refused |= grown - kept
        if kept == chosen:
            return frozenset(kept)
        chosen = kept


def is_root(einsum: Einsum, scaled: frozenset[str]) -> bool:
    """Whether this Einsum is where the factor is applied."""
    return einsum.name in scaled and not _passes_on(einsum, scaled)


def needs_factor(exponent: Expr, scaled: frozenset[str]) -> bool:
    """Whether an exponential's argument is not held in base-2 units yet."""
    return not (_linear(exponent) and all(a.tensor in scaled for a in _accesses(exponent)))


def _consistent(cascade: Cascade, name: str, scaled: set[str]) -> bool:
    """Every read of `name` ends in an exponential whose other operands are scaled, or in a scaled tensor."""
    for einsum in cascade.einsums:
        inside = [x for x in _exponents(einsum.expr) if name in {a.tensor for a in _accesses(x)}]
        reads = sum(a.tensor == name for a in _accesses(einsum.expr))
        covered = sum(a.tensor == name for x in inside for a in _accesses(x))
        if any(not _linear(x) or not all(a.tensor in scaled for a in _accesses(x)) for x in inside):
            return False
        if reads > covered and not (einsum.name in scaled and _passes_on(einsum, scaled)):
            return False
    return True


def _passes_on(einsum: Einsum, scaled: Set[str]) -> bool:
    """Whether the result is scaled because every operand is."""
    return _homogeneous(einsum) and all(a.tensor in scaled for a in _accesses(einsum.expr))


def _homogeneous(einsum: Einsum) -> bool:
    """Whether scaling every operand scales the result (initial states of 0 and infinity scale to themselves)."""
    reduction = not einsum.reduced or einsum.reduce_op in ("add", "max", "min")
    return reduction and _linear(einsum.expr) and einsum.init in (None, 0.0, float("inf"), float("-inf"))


def _linear(expr: Expr) -> bool:
    match expr:
        case Access():
            return True
        case Apply(op, args):
            return op in LINEAR and all(map(_linear, args))
        case Num(value):
            return value in (0.0, float("inf"), float("-inf"))
    return False


def _exponents(expr: Expr) -> list[Expr]:
    return [node.args[0] for node in walk(expr) if isinstance(node, Apply) and node.op == "exp"]


def _accesses(expr: Expr) -> list[Access]:
    return [node for node in walk(expr) if isinstance(node, Access)]
