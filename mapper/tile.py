"""Which part of a tensor a box of rank coordinates touches."""

from __future__ import annotations

import math
from collections.abc import Mapping

from einsum.affine import Affine, affine
from einsum.cascade import Access, Cascade, Name, Workload, rank_variables
from einsum.ops import is_view

Box = Mapping[str, tuple[int, int]]  # rank -> (first coordinate, extent)


def storage(cascade: Cascade, tensor: str) -> str:
    """The tensor in whose storage `tensor` lives: itself unless it is a view."""
    while tensor in cascade and is_view(cascade[tensor]):
        tensor = cascade[tensor].reads[0].tensor
    return tensor


def state_rank(cascade: Cascade, tensor: str) -> str | None:
    """The rank over which the tensor is a state: its coordinates overwrite each other and share storage."""
    return cascade[tensor].iterative if tensor in cascade else None


def varying_ranks(cascade: Cascade, tensor: str) -> tuple[str, ...]:
    """Rank variables along which the tensor's elements differ."""
    return tuple(r for r in cascade.tensor[tensor].ranks if r != state_rank(cascade, tensor))


def whole(cascade: Cascade, tensor: str) -> Access:
    """The access of a tensor by its own rank variables."""
    return Access(tensor, tuple(Name(r) for r in cascade.tensor[tensor].ranks))


def elements(workload: Workload, access: Access, box: Box) -> int:
    """Distinct elements of the storage behind `access` that the box touches, cut off at the storage's ends.

    Affine indices touch a dense range; any other index (a gather, a floor division) at most one element for each
    combination of its rank variables, and all indices together no more than there are points.
    """
    count, used, gathered = 1, {}, False
    for form, index_ranks, size in _dimensions(workload, access):
        used |= dict.fromkeys(index_ranks)
        if form is None:
            gathered = True
            count *= min(size, math.prod(box[r][1] for r in index_ranks))
            continue
        low = high = form.const
        for rank, factor in form.terms:
            first, extent = box[rank]
            ends = (factor * first, factor * (first + extent - 1))
            low, high = low + min(ends), high + max(ends)
        count *= max(0, min(high, size - 1) - max(low, 0) + 1)
    return min(count, math.prod(box[r][1] for r in used)) if gathered else count


def nbytes(workload: Workload, access: Access, box: Box) -> float:
    """Bytes of `elements`, in the storage's element type."""
    return elements(workload, access, box) * workload.bits(storage(workload.cascade, access.tensor)) / 8


def overflowing(workload: Workload, access: Access) -> tuple[str, ...]:
    """Ranks whose last coordinates can lead beyond the end of the storage (m1 in K[m1*M0+m0], M0 not dividing M)."""
    found: dict[str, None] = {}
    for form, _, size in _dimensions(workload, access):
        if form and form.const + sum(max(0, f * (workload.extent(r) - 1)) for r, f in form.terms) >= size:
            found |= dict.fromkeys(r for r, _ in form.terms)
    return tuple(found)


def _dimensions(workload: Workload, access: Access) -> list[tuple[Affine | None, tuple[str, ...], int]]:
    """(affine form or None, rank variables, size) of each dimension of the storage."""
    cascade, sizes = workload.cascade, workload.sizes
    forms = [affine(i, sizes) for i in access.indices]
    variables = [rank_variables(i) for i in access.indices]
    tensor = access.tensor
    while tensor in cascade and is_view(cascade[tensor]):
        ranks, view = cascade.tensor[tensor].ranks, cascade[tensor].reads[0]
        by_form, by_variables = dict(zip(ranks, forms, strict=True)), dict(zip(ranks, variables, strict=True))
        known = {r: f for r, f in by_form.items() if f is not None}
        inner = [affine(i, sizes) for i in view.indices]
        variables = [tuple(dict.fromkeys(v for r in rank_variables(i) for v in by_variables[r])) for i in view.indices]
        forms = [f.renamed(known) if f and all(r in known for r, _ in f.terms) else None for f in inner]
        tensor = view.tensor
    state = state_rank(cascade, tensor)
    ranks = cascade.tensor[tensor].ranks
    kept = [i for i, r in enumerate(ranks) if r != state]
    return [(forms[i], variables[i], workload.extent(ranks[i])) for i in kept]
