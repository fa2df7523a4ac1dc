"""Which part of a tensor a box of rank coordinates touches."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from einsum.affine import Affine, affine
from einsum.cascade import Access, Cascade, Einsum, Guard, Name, Workload, rank_variables
from einsum.ops import is_view
from einsum.thinned import thinned

Box = Mapping[str, tuple[int, int]]  # rank -> (first coordinate, extent)
Overflow = tuple[Affine, int]  # an index, and the size of what it indexes
Length = tuple[str, tuple[str, ...], np.ndarray]  # coordinates of a rank exist below an array over other ranks


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


def chosen(workload: Workload, tensor: str) -> dict[str, int]:
    """Rank -> how many of its coordinates a top-k leaves the tensor at most."""
    return {rank: n for rank, (n, _) in thinned(workload, tensor).items()}


def elements(workload: Workload, access: Access, box: Box) -> int:
    """Distinct elements of the storage behind `access` that the box touches, cut off at the storage's ends.

    Affine indices touch a dense range; any other index (a gather, a floor division) at most one element for each
    combination of its rank variables, and all indices together no more than there are points.
    """
    count, used, gathered = 1, {}, False
    if any(extent == 0 for _, extent in box.values()):
        return 0
    for form, index_ranks, size in dimensions(workload, access):
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
    for rank, n in chosen(workload, access.tensor).items():
        if box[rank][1] >= workload.extent(rank):
            count = count // workload.extent(rank) * n
    return min(count, math.prod(box[r][1] for r in used)) if gathered else count


def length_guards(einsum: Einsum) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    """(r, (a, b), L) of each guard `r < L[a,b]` of the Einsum."""
    found = []
    for guard in einsum.guards:
        match guard:
            case Guard(Name(rank), "<", Access(tensor, indices)) if all(isinstance(index, Name) for index in indices):
                found.append((rank, rank_variables(guard.right), tensor))
    return tuple(found)


def lengths(einsum: Einsum, given: Mapping[str, np.ndarray]) -> tuple[Length, ...]:
    """The Einsum's guards `r < L[a,b]` whose tensor of lengths is given."""
    return tuple((rank, by, given[tensor]) for rank, by, tensor in length_guards(einsum) if tensor in given)


def nbytes(workload: Workload, access: Access, box: Box) -> float:
    """Bytes of `elements`, in the storage's element type."""
    return elements(workload, access, box) * workload.bits(storage(workload.cascade, access.tensor)) / 8


def overflowing(workload: Workload, access: Access) -> tuple[Overflow, ...]:
    """Index forms whose last coordinates lead beyond the end of the storage (m1*M0+m0 in K, M0 not dividing M), each
    with the size of the storage there."""
    greatest = lambda form: form.const + sum(max(0, f * (workload.extent(r) - 1)) for r, f in form.terms)
    return tuple((form, size) for form, _, size in dimensions(workload, access) if form and greatest(form) >= size)


def dimensions(workload: Workload, access: Access) -> list[tuple[Affine | None, tuple[str, ...], int]]:
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
