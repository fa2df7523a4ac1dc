"""How many points of each Einsum exist: guards, ragged tails, and what they take away downstream.

A point of a map exists where its guards hold, its indices lie inside their tensors, and its operands exist (all of
them under an intersecting operation, any of them under a uniting one). SEMANTICS section 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from einsum import thinned
from einsum.affine import Affine, affine, constraints
from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Guard, Workload, rank_variables, walk
from einsum.ops import OPS, empty_init
from einsum.show import show_expr, show_guard


@dataclass(frozen=True, slots=True)
class Domain:
    """The points where every form is <= 0; with a `doubt`, some of them may not exist, for that reason."""

    forms: tuple[Affine, ...] = ()
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Space:
    """Where an Einsum has points, and where its output then has elements."""

    inside: Domain  # over the iteration space
    outer: Domain  # over the output's ranks


def existing_points(workload: Workload) -> dict[str, int]:
    """Points of each Einsum's iteration space that exist, over affine guards and indices.

    A guard by length or by tensor is data: it counts as true, and so do gathered indices. The state of an iterative
    Einsum is taken to exist.
    """
    found = spaces(workload)
    return {e.name: points(e, found[e.name].inside, workload) for e in workload.cascade.einsums}


def points(einsum: Einsum, inside: Domain, workload: Workload) -> int:
    """Points of the iteration space in a domain, at most: a rank that a guard sets equal to data has one coordinate,
    and one that a top-k thins out as many as it chooses."""
    fixed: list[str] = []
    for guard in einsum.guards:
        for side, other in ((guard.left, guard.right), (guard.right, guard.left)):
            form = affine(side, workload.sizes) if guard.relation == "==" else None
            rank = form.terms[0][0] if form and len(form.terms) == 1 else ""
            data = affine(other, workload.sizes) is None and not {rank, *fixed} & set(rank_variables(other))
            if rank and data and rank not in fixed and not any(form.factor(rank) for form in inside.forms):
                fixed.append(rank)
    free = [r for r in einsum.ranks if r not in fixed]
    bounds = [count(free, inside.forms, workload)]
    for rank, (most, _) in thinned.inside(workload, einsum).items():
        if rank in free:
            rest = project(inside, [rank], workload).forms
            bounds.append(most * count([r for r in free if r != rank], rest, workload))
    return min(bounds)


def spaces(workload: Workload) -> dict[str, Space]:
    """The space of every Einsum, in program order. Without a doubt it is exact; with one it may be too large."""
    found: dict[str, Space] = {}
    for einsum in workload.cascade.einsums:
        inside = _inside(einsum, workload, found)
        outer = _state(einsum, inside) if einsum.iterative else project(inside, einsum.reduced, workload)
        outer = Domain(outer.forms, f"the choice of {einsum.name}") if einsum.topk else outer
        found[einsum.name] = Space(inside, outer)
    return found


def access_domain(access: Access, workload: Workload, found: dict[str, Space]) -> Domain:
    """Where an access exists: its indices lie inside the tensor, at elements that exist."""
    cascade = workload.cascade
    ranks = cascade.tensor[access.tensor].ranks
    state = cascade[access.tensor].iterative if access.tensor in cascade else None
    forms = {r: affine(i, workload.sizes) for r, i in zip(ranks, access.indices, strict=True)}
    known = {r: form for r, form in forms.items() if form is not None}
    inside = [
        bound
        for r, form in known.items()
        for bound in (form.scaled(-1), form + Affine(1 - workload.extent(r) - (r == state)))
    ]
    tensor = found[access.tensor].outer if access.tensor in found else Domain(doubt=_early_state(access, cascade))
    inherited = (form.renamed(known) for form in tensor.forms if {r for r, _ in form.terms} <= set(known))
    odd = next((show_expr(i, "") for i, r in zip(access.indices, ranks, strict=True) if r not in known), "")
    first = f"the initial state of {access.tensor}" if state in known and _may_be_first(known[state]) else ""
    empty = first if first and empty_init(cascade[access.tensor]) else ""
    return Domain((*inside, *inherited), tensor.doubt or empty or (f"index {odd}" if odd else ""))


def binding(forms: Iterable[Affine], workload: Workload) -> tuple[Affine, ...]:
    """Those forms that some point of the iteration space violates."""
    greatest = lambda form: form.const + sum(max(0, f * (workload.extent(r) - 1)) for r, f in form.terms)
    return tuple(form for form in dict.fromkeys(forms) if greatest(form) > 0)


def project(domain: Domain, ranks: Sequence[str], workload: Workload) -> Domain:
    """The points of the other ranks for which some coordinates of `ranks` lie in the domain."""
    signs = {(r, f > 0) for form in domain.forms for r, f in form.terms if r in ranks}
    torn = next((r for r in ranks if {(r, True), (r, False)} <= signs), "")
    forms = tuple(_least(form, ranks, workload) for form in domain.forms)
    return Domain(forms, domain.doubt or (f"bounds of {torn} on both sides" if torn else ""))


def count(ranks: Sequence[str], forms: Sequence[Affine], workload: Workload) -> int:
    """Points of the box of `ranks` that satisfy every form."""
    return _count(tuple((r, workload.extent(r)) for r in ranks), binding(forms, workload))


def _inside(einsum: Einsum, workload: Workload, found: dict[str, Space]) -> Domain:
    value = _of(_update(einsum, workload.cascade), workload, found)
    doubt = next((text for guard in einsum.guards if (text := _data(guard, workload))), "")
    return Domain(binding((*constraints(einsum, workload.sizes), *value.forms), workload), value.doubt or doubt)


def _data(guard: Guard, workload: Workload) -> str:
    """The guard, if it is no affine bound."""
    sides = (affine(guard.left, workload.sizes), affine(guard.right, workload.sizes))
    bound = guard.relation not in ("true", "!=") and None not in sides
    return "" if bound else f"guard {show_guard(guard)}"


def _of(expr: Expr, workload: Workload, found: dict[str, Space]) -> Domain:
    if isinstance(expr, Access):
        return access_domain(expr, workload, found)
    if not isinstance(expr, Apply):
        return Domain()
    parts = [_of(arg, workload, found) for arg in expr.args]
    doubt = next((part.doubt for part in parts if part.doubt), "")
    if OPS[expr.op].merge != "union" or len(parts) == 1:
        return Domain(tuple(dict.fromkeys(form for part in parts for form in part.forms)), doubt)
    return _union(parts, doubt, workload)


def _update(einsum: Einsum, cascade: Cascade) -> Expr:
    """What is computed: a state that nothing is added to is carried along, not computed."""
    expr = einsum.expr
    if einsum.iterative and isinstance(expr, Apply) and OPS[expr.op].merge == "union":
        added = tuple(arg for arg in expr.args if not _is_state(arg, cascade))
        return added[0] if len(added) == 1 else expr
    return expr


def _union(parts: list[Domain], doubt: str, workload: Workload) -> Domain:
    """Where any part exists, as far as the parts agree."""
    forms = [binding(part.forms, workload) for part in parts]
    if any(not part.doubt and not own for part, own in zip(parts, forms, strict=True)):
        return Domain()
    agreed = tuple(form for form in forms[0] if all(form in other for other in forms[1:]))
    rest = [[form for form in own if form not in agreed] for own in forms]
    differ = any(rest) and not _complementary(rest)
    return Domain(agreed, doubt or ("operands of a union that exist at different points" if differ else ""))


def _complementary(rest: list[list[Affine]]) -> bool:
    """Two bounds of which every point satisfies one, as those of two tensors put side by side do."""
    return [len(own) for own in rest] == [1, 1] and rest[1][0] == rest[0][0].scaled(-1) + Affine(1)


def _state(einsum: Einsum, inside: Domain) -> Domain:
    """A state exists behind the initial one if every update is computed; otherwise it is only taken to."""
    return Domain(doubt=f"the state {einsum.name}" if inside.forms or inside.doubt else "")


def _may_be_first(index: Affine) -> bool:
    """Whether the index of a state can be 0."""
    return index.const <= 0 or any(factor < 0 for _, factor in index.terms)


def _is_state(expr: Expr, cascade: Cascade) -> bool:
    return isinstance(expr, Access) and expr.tensor in cascade and cascade[expr.tensor].iterative is not None


def _early_state(access: Access, cascade: Cascade) -> str:
    """Why nothing is known of a tensor that is read before it is written; nothing to say of an input."""
    gathered = any(isinstance(node, Access) for index in access.indices for node in walk(index))
    return f"the state {access.tensor}" if access.tensor in cascade else "a gathered index" if gathered else ""


def _least(form: Affine, ranks: Sequence[str], workload: Workload) -> Affine:
    """The form with the ranks at the coordinates that make it least."""
    least = {r: Affine(0 if f > 0 else workload.extent(r) - 1) for r, f in form.terms if r in ranks}
    return form.renamed(least)


@lru_cache(maxsize=4096)
def _count(box: tuple[tuple[str, int], ...], forms: tuple[Affine, ...]) -> int:
    """One rank solved, the others that the forms name enumerated."""
    extent = dict(box)
    if any(not form.terms and form.const > 0 for form in forms):
        return 0
    named = [r for r in extent if any(form.factor(r) for form in forms)]
    free = math.prod(n for r, n in box if r not in named)
    if not named:
        return free
    if len(named) < len(box):  # one enumeration serves every Einsum with the same bounds
        return free * _count(tuple((r, extent[r]) for r in named), forms)
    solved = max(named, key=lambda r: extent[r])
    others = [r for r in named if r != solved]
    grid = dict(zip(others, np.indices([extent[r] for r in others], sparse=True), strict=True))
    low: np.ndarray | int = np.zeros([extent[r] for r in others], dtype=np.int64)
    high: np.ndarray | int = low + extent[solved] - 1
    for form in forms:
        rest = form.const + sum(f * grid[r] for r, f in form.terms if r != solved)
        factor = form.factor(solved)
        if factor > 0:
            high = np.minimum(high, -rest // factor)
        elif factor < 0:
            low = np.maximum(low, -(-rest // -factor))
        else:
            high = np.where(rest <= 0, high, low - 1)
    return int(np.maximum(high - low + 1, 0).sum())
