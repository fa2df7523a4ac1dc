"""The structure of a kernel: launch grid, tile loop, register blocks, loads, and what stands where.

The thin slice: one group, one linearised spatial loop of programs, at most one temporal tile loop with carried state,
everything between loads and stores in registers. `gpu_backend.limits` says what does not fit. SEMANTICS 7.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from einsum.affine import Affine, affine
from einsum.cascade import Access, Apply, Einsum, Expr, Guard, Name, Workload, rank_variables
from einsum.ops import is_view
from einsum.problems import InputError, Problem
from gpu_backend.base2 import scaled_tensors
from mapper.mapping import Compute, Leaf, Loop, Mapping, leaves
from mapper.nest import Nest, nest

DEFAULT_WARPS = 4  # of a block that no spatial loop of a leaf deals out


@dataclass(frozen=True, slots=True)
class Load:
    """A tile of an input, read through `access` into the variable `name`; once a program, or once an iteration."""

    name: str  # of the input, or of the view that partitions it
    access: Access  # of the input, its indices in rank variables
    inside: bool


@dataclass(frozen=True)
class Plan:
    """A kernel's structure. Einsums stand before, inside and after the tile loop, in the mapping's order."""

    workload: Workload
    mapping: Mapping
    nest: Nest  # the spatial ranks, then the rank of the tile loop, if any
    before: tuple[str, ...]
    inside: tuple[str, ...]
    after: tuple[str, ...]
    loads: tuple[Load, ...]
    stages: int  # buffers of a tile that the loop's loads fill
    warps: int  # among which a block is dealt out

    @cached_property
    def tiles(self) -> dict[str, int]:
        """Rank -> coordinates of it that a register block spans, for ranks with an axis in blocks, in axis order."""
        looped = {loop.rank: loop.tile for loop in self.nest.loops}
        order = dict.fromkeys((*looped, *self.workload.cascade.ranks))
        spans = {r: looped.get(r, self.workload.extent(r)) for r in order}
        return {r: span for r, span in spans.items() if r not in looped or span > 1}

    @property
    def programs(self) -> int:
        """Programs of a launch."""
        return math.prod(loop.count for loop in self.nest.loops if loop.axis)

    @property
    def loop(self) -> str | None:
        """The rank of the tile loop."""
        last = self.nest.loops[-1]
        return None if last.axis else last.rank

    @cached_property
    def scaled(self) -> frozenset[str]:
        """Tensors held in base-2 units."""
        return scaled_tensors(self.workload.cascade)

    @property
    def einsums(self) -> tuple[str, ...]:
        """Computed Einsums in program order."""
        return (*self.before, *self.inside, *self.after)

    def axes(self, *exprs: Expr) -> tuple[str, ...]:
        """The block axes along which expressions vary, in axis order."""
        ranks = {r for expr in exprs for r in rank_variables(expr)}
        return tuple(r for r in self.tiles if r in ranks)

    def bounds(self, access: Access) -> tuple[Guard, ...]:
        """The conditions `index < size` that some coordinate of some tile breaks."""
        found = []
        for index, rank in zip(access.indices, self.workload.cascade.tensor[access.tensor].ranks, strict=True):
            form = affine(index, self.workload.sizes)
            if form and maximum(form, self._last) >= self.workload.extent(rank):
                found.append(Guard(index, "<", Name(rank.upper())))
        return tuple(found)

    def _last(self, rank: str) -> int:
        """The greatest coordinate that a block of the rank covers, in bounds or not."""
        loops = [loop for loop in self.nest.loops if loop.rank == rank]
        return loops[0].count * loops[0].tile - 1 if loops else self.workload.extent(rank) - 1


def maximum(form: Affine, last: Callable[[str], int]) -> int:
    """The greatest value of an affine form over coordinates 0..last(rank)."""
    return form.const + sum(factor * last(rank) for rank, factor in form.terms if factor > 0)


def factors(expr: Expr) -> tuple[Expr, ...]:
    """The factors of a product."""
    if isinstance(expr, Apply) and expr.op == "*":
        return factors(expr.args[0]) + factors(expr.args[1])
    return (expr,)


def is_dot(einsum: Einsum) -> bool:
    """A sum of products: what a matrix unit computes, when its operands have the shape for it."""
    return bool(einsum.reduced) and einsum.reduce_op == "add" and len(factors(einsum.expr)) > 1


def source(workload: Workload, access: Access) -> Access:
    """The access of an input that an access of a chain of views amounts to; other accesses as they are."""
    cascade = workload.cascade
    while access.tensor in cascade and is_view(cascade[access.tensor]):
        view = cascade[access.tensor]
        if view.output.indices != access.indices or not isinstance(view.expr, Access):
            raise InputError(refusal(access.tensor, "a view is read at the indices that it is defined at"))
        access = view.expr
    return access


def refusal(path: str, what: str, got: object = "") -> Problem:
    """The problem that stands for one thing no kernel can be generated for."""
    return Problem(f"no kernel can be generated: {what}", path=path, got=str(got))


def structure(workload: Workload, mapping: Mapping) -> Plan:
    """The plan of a mapping that `limits.mapping_problems` has nothing against."""
    every = tuple(leaves(mapping))
    loops = max((leaf.loops for leaf in every), key=len)
    where: dict[str, list[str]] = {"before": [], "inside": [], "after": []}
    for leaf in every:
        if isinstance(leaf.node, Compute):
            inside = len(leaf.loops) == len(loops) and not leaf.node.at and loops[-1].over is None
            where["inside" if inside else "after" if where["inside"] else "before"].append(leaf.node.einsum)
    before, inside, after = (tuple(names) for names in where.values())
    stages = max((hold.deep for loop in loops if loop.over is None for hold in loop.holds), default=1)
    warps = max(_warps(workload, leaf, loops) for leaf in every)
    made = Plan(workload, mapping, nest(loops, workload), before, inside, after, (), stages, warps)
    return replace(made, loads=tuple(_loads(made, loops)))


def _warps(workload: Workload, leaf: Leaf, loops: tuple[Loop, ...]) -> int:
    """Instances that a leaf's private spatial loops deal its block out to."""
    spatial = [loop for loop in getattr(leaf.node, "loops", ()) if loop.over]
    around = {rank: tile for loop in loops for rank, tile in zip(loop.ranks, loop.tile, strict=True)}
    dealt = [(rank, tile) for loop in spatial for rank, tile in zip(loop.ranks, loop.tile, strict=True)]
    counts = [math.ceil(around.get(rank, workload.extent(rank)) / tile) for rank, tile in dealt]
    return math.prod(counts) if counts else DEFAULT_WARPS


def _loads(made: Plan, loops: tuple[Loop, ...]) -> Iterator[Load]:
    """One load for each input or view that is read; outside the tile loop if it does not vary and is held there."""
    cascade = made.workload.cascade
    outside = {hold.tensor for loop in loops if loop.over for hold in loop.holds}
    seen: set[str] = set()
    for name in made.einsums:
        for access in cascade[name].reads:
            origin = source(made.workload, access)
            if origin.tensor in cascade.inputs and access.tensor not in seen:
                seen.add(access.tensor)
                varies = made.loop in rank_variables(origin)
                held = access.tensor in outside or origin.tensor in outside
                yield Load(access.tensor, origin, name in made.inside and (varies or not held))
