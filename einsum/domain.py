"""How many points of each Einsum exist: guards, ragged tails, and what they take away downstream.

A point of a map exists where its guards hold, its indices lie inside their tensors, and its operands exist (all of
them under an intersecting operation, any of them under a uniting one). SEMANTICS section 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from einsum.affine import Affine, affine, constraints
from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Workload
from einsum.ops import OPS

Domain = tuple[Affine, ...]  # forms that are <= 0 where the point exists


def existing_points(workload: Workload) -> dict[str, int]:
    """Points of each Einsum's iteration space that exist, over affine guards and indices.

    A guard by length or by tensor is data: it counts as true, and so do gathered indices. The state of an iterative
    Einsum is taken to exist.
    """
    domains: dict[str, Domain] = {}
    counts: dict[str, int] = {}
    for einsum in workload.cascade.einsums:
        inside = _binding(_domain(einsum, workload, domains), workload)
        counts[einsum.name] = _count(einsum.ranks, inside, workload)
        outer = tuple(_project(form, einsum.reduced, workload) for form in inside)
        domains[einsum.name] = () if einsum.iterative else outer
    return counts


def _domain(einsum: Einsum, workload: Workload, domains: dict[str, Domain]) -> Domain:
    return constraints(einsum, workload.sizes) + _of(einsum.expr, einsum, workload, domains)


def _of(expr: Expr, einsum: Einsum, workload: Workload, domains: dict[str, Domain]) -> Domain:
    if isinstance(expr, Access):
        return _access(expr, workload, domains)
    if not isinstance(expr, Apply):
        return ()
    parts = [_of(arg, einsum, workload, domains) for arg in expr.args if not _is_state(arg, workload.cascade)]
    if OPS[expr.op].merge == "union" and len(parts) > 1:
        return tuple(form for form in parts[0] if all(form in other for other in parts[1:]))
    return tuple(dict.fromkeys(form for part in parts for form in part))


def _is_state(expr: Expr, cascade: Cascade) -> bool:
    return isinstance(expr, Access) and expr.tensor in cascade and cascade[expr.tensor].iterative is not None


def _access(access: Access, workload: Workload, domains: dict[str, Domain]) -> Domain:
    ranks = workload.cascade.tensor[access.tensor].ranks
    forms = {r: affine(i, workload.sizes) for r, i in zip(ranks, access.indices, strict=True)}
    known = {r: form for r, form in forms.items() if form is not None}
    state = _is_state(access, workload.cascade) and workload.cascade[access.tensor].iterative
    found = [bound for r, form in known.items() if r != state and form.terms
             for bound in (form.scaled(-1), form + Affine(1 - workload.extent(r)))]
    inherited = (form.renamed(known) for form in domains.get(access.tensor, ()) if {r for r, _ in form.terms} <= set(known))
    return (*found, *inherited)


def _binding(forms: Sequence[Affine], workload: Workload) -> Domain:
    """Those forms that some point of the iteration space violates."""
    greatest = lambda form: form.const + sum(max(0, f * (workload.extent(r) - 1)) for r, f in form.terms)
    return tuple(form for form in dict.fromkeys(forms) if greatest(form) > 0)


def _project(form: Affine, ranks: Sequence[str], workload: Workload) -> Affine:
    """The form with the ranks at the coordinates that make it least: some point along them exists."""
    least = {r: Affine(0 if f > 0 else workload.extent(r) - 1) for r, f in form.terms if r in ranks}
    return form.renamed(least)


def _count(ranks: Sequence[str], forms: Domain, workload: Workload) -> int:
    """Points of the box that satisfy every form: one rank solved, the others that the forms name enumerated."""
    named = [r for r in ranks if any(form.factor(r) for form in forms)]
    free = math.prod(workload.extent(r) for r in ranks if r not in named)
    if not named:
        return free
    solved = max(named, key=workload.extent)
    others = [r for r in named if r != solved]
    grid = dict(zip(others, np.indices([workload.extent(r) for r in others], sparse=True), strict=True))
    low: np.ndarray | int = np.zeros([workload.extent(r) for r in others], dtype=np.int64)
    high: np.ndarray | int = low + workload.extent(solved) - 1
    for form in forms:
        rest = form.const + sum(f * grid[r] for r, f in form.terms if r != solved)
        factor = form.factor(solved)
        if factor > 0:
            high = np.minimum(high, -rest // factor)
        elif factor < 0:
            low = np.maximum(low, -(-rest // -factor))
        else:
            high = np.where(rest <= 0, high, low - 1)
    return free * int(np.maximum(high - low + 1, 0).sum())
