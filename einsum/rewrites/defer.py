"""An invariant factor, divisor or summand moved behind a reduction: the law of distribution (SEMANTICS 2.5.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Name, rank_variables, walk
from einsum.ops import REDUCTIONS
from einsum.rewrites.laws import DISTRIBUTE, REGROUP, STABLE, Law
from einsum.rewrites.terms import Bindings, changed, fresh, inlined, is_map, matches, rebuilt, refuse, substituted
from einsum.rewrites.tidy import hint, tidied


def defer(cascade: Cascade, name: str, laws: tuple[Law, ...] = STABLE) -> Cascade:
    """Move what does not vary along the reduced ranks of the statement `name` behind its reduction.

    Maps that the reduction reads are written out if that brings the invariant part to light. InputError if `name` is
    no plain reduction, or if no law applies.
    """
    if name not in cascade:
        raise refuse(cascade, "no such statement", name + hint(cascade, name))
    einsum = cascade[name]
    if not einsum.reduced or einsum.iterative or einsum.topk:
        raise refuse(cascade, f"{name} is no reduction")
    for term in _spellings(cascade, einsum):
        for law in (law for law in laws if law.kind == DISTRIBUTE):
            if REDUCTIONS[law.reduction].name == einsum.reduce_op:
                for bound in distributed(cascade, einsum, term, law, laws):
                    return _moved(cascade, einsum, law, bound)
    raise refuse(cascade, f"nothing in {name} moves behind its reduction")


def _spellings(cascade: Cascade, einsum: Einsum) -> Iterator[Expr]:
    """The expression, and with maps that it reads written out: each by itself, then all of them."""
    yield einsum.expr
    maps = [a.tensor for a in walk(einsum.expr) if isinstance(a, Access) and a.tensor in cascade]
    maps = [name for name in dict.fromkeys(maps) if is_map(cascade[name])]
    for names in (*((name,) for name in maps), tuple(maps)):
        if (spelt := inlined(einsum.expr, cascade, names)) != einsum.expr:
            yield spelt


def distributed(cascade: Cascade, einsum: Einsum, term: Expr, law: Law, laws: tuple[Law, ...]) -> Iterator[Bindings]:
    """Ways in which the law applies to the term under the Einsum's reduction."""
    varies = lambda part: bool(set(rank_variables(part)) & set(einsum.reduced))
    allowed = lambda name, part: varies(part) == (name in "xyw") and (varies(part) or _matters(part))
    for bound in matches(law.pattern, regrouped(term, allowed, laws), allowed, {}):
        if not law.given:
            yield bound
        else:
            yield from satisfied(cascade, einsum, law, bound)


def _matters(part: Expr) -> bool:
    """Numbers alone are not worth a statement of their own."""
    return any(isinstance(node, Access) or (isinstance(node, Name) and node.name.isupper()) for node in walk(part))


def satisfied(cascade: Cascade, einsum: Einsum, law: Law, bound: Bindings) -> Iterator[Bindings]:
    """The bindings with those that `given` adds, if `g` is what the law needs: a reduction over the same points."""
    from einsum.parse import parse_expression

    wanted = parse_expression(law.given)
    full = lambda expr: inlined(expr, cascade, [e.name for e in cascade.einsums if is_map(e)])
    terms = {name: full(part) for name, part in bound.items()}
    calls: dict[Expr, Access] = {}
    read = lambda part: changed(part, lambda node: calls.get(node, node))
    written = _written_out(bound["g"], cascade, einsum, calls)
    for found in matches(wanted, written, lambda name, part: True, terms):
        yield bound | {name: read(part) for name, part in found.items() if name not in bound}


def _written_out(expr: Expr, cascade: Cascade, einsum: Einsum, calls: dict[Expr, Access]) -> Expr:
    """An invariant with its maps inlined and reductions over the Einsum's ranks as calls, such as sum(x).

    `calls` remembers which access became which call.
    """

    def change(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor not in cascade:
            return node
        source = cascade[node.tensor]
        by = dict(zip(source.output_ranks, node.indices, strict=True))
        if is_map(source):
            return changed(substituted(source.expr, by), change)
        if source.reduced != einsum.reduced or source.guards or source.iterative or einsum.guards:
            return node
        maps = [e.name for e in cascade.einsums if is_map(e)]
        word = next(word for word, row in REDUCTIONS.items() if row.name == source.reduce_op)
        call = Apply(word, (inlined(substituted(source.expr, by), cascade, maps),))
        return calls.setdefault(call, node) and call

    return changed(expr, change)


def regrouped(term: Expr, allowed: Callable[[str, Expr], bool], laws: tuple[Law, ...]) -> Expr:
    """The term with invariant parts gathered outside, by the laws of regrouping, until none applies."""

    def step(node: Expr) -> Expr:
        for law in laws:
            if law.kind == REGROUP and (bound := next(matches(law.pattern, node, allowed, {}), None)):
                return changed(substituted(law.replacement, bound), step)
        return node

    return changed(term, step)


def _moved(cascade: Cascade, einsum: Einsum, law: Law, bound: Bindings) -> Cascade:
    """The reductions that remain, each a statement of its own, and the map that puts them together."""
    added: list[Einsum] = []

    def change(node: Expr) -> Expr:
        if not (isinstance(node, Apply) and node.op == law.reduction and len(node.args) == 1):
            return node
        names = (*cascade.tensor, *(e.name for e in added))
        target = Access(fresh(names, f"N{einsum.name}"), einsum.output.indices)
        added.append(replace(einsum, output=target, expr=substituted(node.args[0], bound)))
        return target

    reduced = changed(law.replacement, change)
    result = Einsum(einsum.output, substituted_outside(reduced, bound, added))
    statements = (new for e in cascade.einsums for new in ((*added, result) if e is einsum else (e,)))
    return tidied(rebuilt(cascade, statements), cascade.outputs)


def substituted_outside(expr: Expr, bound: Bindings, added: list[Einsum]) -> Expr:
    """Pattern names replaced, but not inside accesses of the statements that were added."""
    if isinstance(expr, Access) and any(expr == e.output for e in added):
        return expr
    if isinstance(expr, Apply):
        return Apply(expr.op, tuple(substituted_outside(a, bound, added) for a in expr.args))
    return bound.get(expr.name, expr) if isinstance(expr, Name) else expr
