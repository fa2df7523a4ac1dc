"""Rows of a block without any point, and outputs that no point reaches (SEMANTICS 7.4).

A guard or a ragged end may leave a row of a tile without points. A running maximum is then still -inf, and the
difference of two of them would not be a number: kernels of such cascades subtract 0 instead.
"""

from __future__ import annotations

import numpy as np

from einsum.affine import Affine, affine
from einsum.cascade import Guard, Workload
from gpu_backend.plan import Plan, by_data, maximum


def below(workload: Workload, guard: Guard) -> Affine:
    """The affine form that is <= 0 where the guard is true."""
    left, right = affine(guard.left, workload.sizes), affine(guard.right, workload.sizes)
    assert left is not None and right is not None, "guards are affine inequalities"
    form = left + right.scaled(-1) if guard.relation in ("<", "<=") else right + left.scaled(-1)
    return form + Affine(guard.relation in ("<", ">"))


def leaves_rows_empty(plan: Plan, conditions: tuple[Guard, ...]) -> bool:
    """Whether the first iteration of the tile loop may find a row of a block without any point: the conditions are not
    all true at coordinate 0 of what the programs do not split, for some coordinate of what they do."""
    split = {loop.rank for loop in plan.spatial}
    for guard in conditions:
        if by_data(guard):
            return True
        form = below(plan.workload, guard)
        worst = Affine(form.const, tuple((r, f) for r, f in form.terms if r in split))
        if maximum(worst, lambda rank: plan.workload.extent(rank) - 1) > 0:
            return True
    return False


def every_row_has_a_point(workload: Workload, conditions: tuple[Guard, ...], kept: tuple[str, ...]) -> bool:
    """Whether for each coordinate of the ranks `kept` some coordinate of the others fulfils all conditions.

    The other ranks have to stand in all conditions in one combination (a key's coordinate); False where they do not.
    Lengths that are data are taken to leave a point.
    """
    forms = [below(workload, guard) for guard in conditions if not by_data(guard)]
    others = {tuple(t for t in form.terms if t[0] not in kept) for form in forms}
    others = {_signed(terms) for terms in others if terms}
    if len(others) != 1:
        return not others and all(maximum(f, lambda r: workload.extent(r) - 1) <= 0 for f in forms)
    (key,) = others
    ranks = tuple(dict.fromkeys(r for form in forms for r, _ in form.terms if r in kept))
    grid = np.meshgrid(*(np.arange(workload.extent(r)) for r in ranks), indexing="ij", sparse=True)
    coordinate = dict(zip(ranks, grid, strict=True))
    low = np.zeros((1,) * len(ranks), int)
    high = low + sum(f * (workload.extent(r) - 1) for r, f in key)
    for form in forms:
        own = tuple(t for t in form.terms if t[0] not in kept)
        rest = form.const + sum(f * coordinate[r] for r, f in form.terms if r in kept)
        if not own:
            high = np.where(rest <= 0, high, -1)
        elif own == key:
            high = np.minimum(high, -rest)
        else:
            low = np.maximum(low, rest)
    return bool((low <= high).all())


def _signed(terms: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """The combination with a positive first factor."""
    return terms if terms[0][1] > 0 else tuple((r, -f) for r, f in terms)
