"""Which ranks a top-k thins out, and to how many coordinates (SEMANTICS 1.8, 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

from einsum.affine import affine
from einsum.cascade import Access, Apply, Einsum, Expr, Name, Workload, rank_variables, walk
from einsum.ops import INTERSECTION, OPS

Thinned = Mapping[str, tuple[int, frozenset[str]]]  # rank -> (coordinates at most, ranks for each point of which)


def thinned(workload: Workload, tensor: str) -> Thinned:
    """The ranks of a tensor along which so many of its points exist at most, as a top-k chose them."""
    cascade = workload.cascade
    if tensor not in cascade or cascade[tensor].iterative:
        return {}
    einsum = cascade[tensor]
    if einsum.topk:
        count = affine(einsum.topk.count, workload.sizes)
        known = count is not None and not count.terms and len(einsum.topk.ranks) == 1
        others = frozenset(einsum.output_ranks) - set(einsum.topk.ranks)
        return {r: (min(count.const, workload.extent(r)), others) for r in einsum.topk.ranks} if known and count else {}
    gone = set(einsum.reduced)
    return {r: pair for r, pair in inside(workload, einsum).items() if r not in gone and not gone & pair[1]}


def inside(workload: Workload, einsum: Einsum) -> Thinned:
    """The same of the points of an Einsum: what its expression and its guards read has to exist."""
    guarded = [a for g in einsum.guards for side in (g.left, g.right) for a in walk(side) if isinstance(a, Access)]
    found = [_of(workload, einsum.expr), *(_access(workload, access) for access in guarded)]
    return _least(found)


def _of(workload: Workload, expr: Expr) -> Thinned:
    """Every operand of an intersecting operation has to exist."""
    match expr:
        case Access():
            return _access(workload, expr)
        case Apply(op, args) if OPS[op].merge == INTERSECTION:
            return _least([_of(workload, arg) for arg in args])
    return {}


def _access(workload: Workload, access: Access) -> Thinned:
    """Along a rank variable that is an index of its own: as many coordinates, for each point of the other indices."""
    ranks = workload.cascade.tensor[access.tensor].ranks
    index = dict(zip(ranks, access.indices, strict=True))
    found = {}
    for rank, (count, per) in thinned(workload, access.tensor).items():
        others = frozenset(v for r in per for v in rank_variables(index[r]))
        if isinstance(at := index[rank], Name) and at.name.islower() and at.name not in others:
            found[at.name] = (count, others)
    return found


def _least(every: list[Thinned]) -> Thinned:
    found: dict[str, tuple[int, frozenset[str]]] = {}
    for one in every:
        for rank, pair in one.items():
            found[rank] = min(found.get(rank, pair), pair, key=lambda p: p[0])
    return found
