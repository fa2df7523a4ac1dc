"""What rewrites share: expressions changed and matched, cascades put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from einsum.bind import WHOLE
from einsum.cascade import (
    DEFAULT_DTYPE,
    Access,
    Apply,
    Cascade,
    Einsum,
    Expr,
    Guard,
    Name,
    Tensor,
    TopK,
    rank_variables,
)
from einsum.check import check
from einsum.ops import OPS, is_view
from einsum.problems import InputError, Problem

Bindings = dict[str, Expr]  # pattern variable -> what it stands for


def refuse(cascade: Cascade, what: str, got: str = "") -> InputError:
    """The error of a rewrite whose precondition does not hold."""
    return InputError(Problem(what, path=cascade.name, got=got))


def rebuilt(cascade: Cascade, einsums: Iterable[Einsum], sizes: tuple[tuple[str, Expr], ...] | None = None) -> Cascade:
    """The cascade with other statements, and the types of tensors that stay. InputError if it is not well formed."""
    reduced = lambda e: tuple(r for r in rank_variables(e.expr) if r in e.reduced)  # in order of first use
    statements = tuple(replace(e, line=0, reduced=reduced(e)) for e in einsums)
    written = {e.name for e in statements}
    read = {a.tensor for e in statements for a in e.reads}
    inputs = tuple(t for t in cascade.tensors if t.name in read - written)
    dtype = {t.name: t.dtype for t in cascade.tensors}
    for e in statements:
        viewed = dtype[e.reads[0].tensor] if is_view(e) else DEFAULT_DTYPE
        dtype.setdefault(e.name, viewed if viewed in WHOLE else DEFAULT_DTYPE)
    derived = tuple(Tensor(e.name, e.output_ranks, dtype[e.name]) for e in statements)
    found = replace(
        cascade, tensors=inputs + derived, einsums=statements, sizes=cascade.sizes if sizes is None else sizes
    )
    if problems := check(found):
        raise InputError(replace(p, file=cascade.name) for p in problems)
    return found


def fresh(taken: Iterable[str], base: str) -> str:
    """`base`, or with the first number behind it that no name in `taken` has."""
    used = set(taken)
    number = 2
    name = base
    while name in used:
        name, number = f"{base}{number}", number + 1
    return name


def changed(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The expression with `change` applied to every node, innermost first."""
    match expr:
        case Access(tensor, indices):
            return change(Access(tensor, tuple(changed(i, change) for i in indices)))
        case Apply(op, args):
            return change(Apply(op, tuple(changed(a, change) for a in args)))
        case _:
            return change(expr)


def changed_einsum(einsum: Einsum, change: Callable[[Expr], Expr]) -> Einsum:
    """The Einsum with every node of its right-hand side and guards changed."""
    guards = tuple(Guard(changed(g.left, change), g.relation, changed(g.right, change)) for g in einsum.guards)
    topk = einsum.topk and TopK(einsum.topk.ranks, changed(einsum.topk.count, change))
    return replace(einsum, expr=changed(einsum.expr, change), guards=guards, topk=topk)


def substituted(expr: Expr, by: Mapping[str, Expr]) -> Expr:
    """The expression with other expressions in place of names."""
    return changed(expr, lambda node: by.get(node.name, node) if isinstance(node, Name) else node)


def renamed_tensor(einsum: Einsum, old: str, new: str) -> Einsum:
    """The Einsum reading and writing `new` in place of `old`."""
    change = lambda node: replace(node, tensor=new) if isinstance(node, Access) and node.tensor == old else node
    return replace(changed_einsum(einsum, change), output=replace(einsum.output, tensor=new)
                   if einsum.name == old else einsum.output)  # fmt: skip


def is_map(einsum: Einsum) -> bool:
    """Computed point by point: no reduction, guard, state or choice."""
    return not (einsum.reduced or einsum.guards or einsum.iterative or einsum.topk)


def plain(access: Access, cascade: Cascade) -> bool:
    """Whether a written tensor is read at the ranks that it is written with."""
    return access.indices == cascade[access.tensor].output.indices


def inlined(expr: Expr, cascade: Cascade, names: Iterable[str]) -> Expr:
    """The expression with maps of these names written out where they are read at their own ranks."""
    wanted = set(names)

    def change(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor not in wanted or not plain(node, cascade):
            return node
        return cascade[node.tensor].expr

    return changed(expr, change)


def matches(pattern: Expr, expr: Expr, allowed: Callable[[str, Expr], bool], bound: Bindings) -> Iterator[Bindings]:
    """Every way in which names of the pattern can stand for parts of the expression, each for one part only.

    `allowed(name, part)` says what a name may stand for. Commutative operations match both ways round.
    """
    if isinstance(pattern, Name):
        if pattern.name in bound:
            if bound[pattern.name] == expr:
                yield bound
        elif allowed(pattern.name, expr):
            yield bound | {pattern.name: expr}
    elif isinstance(pattern, Apply):
        if isinstance(expr, Apply) and expr.op == pattern.op and len(expr.args) == len(pattern.args):
            turns = [expr.args]
            if len(expr.args) == 2 and pattern.op in OPS and "commutative" in OPS[pattern.op].laws:
                turns.append(expr.args[::-1])
            for args in turns:
                yield from _all_match(pattern.args, args, allowed, bound)
    elif pattern == expr:
        yield bound


def _all_match(
    patterns: tuple[Expr, ...], exprs: tuple[Expr, ...], allowed: Callable[[str, Expr], bool], bound: Bindings
) -> Iterator[Bindings]:
    if not patterns:
        yield bound
        return
    for first in matches(patterns[0], exprs[0], allowed, bound):
        yield from _all_match(patterns[1:], exprs[1:], allowed, first)
