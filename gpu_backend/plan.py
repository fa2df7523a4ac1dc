"""The structure of kernels: launch grids, tile loops, register blocks, loads, stores, and what stands where.

Each run of groups that hand state over to each other (`mapper.handover`) is one kernel; other groups are kernels of
their own, launched one after another, with what passes between them in device memory. `gpu_backend.limits` says what
does not fit. SEMANTICS 7.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from arch.machine import Machine
from einsum.affine import Affine, affine
from einsum.cascade import Access, Cascade, Einsum, Expr, Guard, Name, Workload, factors, rank_variables, walk
from einsum.ops import is_view
from einsum.problems import InputError, Problem
from gpu_backend.base2 import scaled_tensors
from gpu_backend.grid import Grid, launch_grid, merged
from mapper.handover import chains
from mapper.mapping import Compute, Group, Leaf, Loop, Mapping, Move, leaves
from mapper.nest import Nest, NestLoop, nest
from mapper.tile import storage, varying_ranks

DEFAULT_WARPS = 4  # of a block that no spatial loop of a leaf deals out


@dataclass(frozen=True, slots=True)
class Load:
    """A tile of a tensor in memory, read as the Einsums spell it into the variable `name`."""

    name: str  # the tensor or the view that the Einsums name; numbered where it is read in several ways
    read: Access
    access: Access  # of the tensor in memory, its indices in rank variables
    inside: bool  # once an iteration of the tile loop; else once a program


@dataclass(frozen=True)
class Section:
    """A group in a kernel: its nest, and what stands before, inside and after its tile loop, in the mapping's order."""

    group: Group
    nest: Nest  # the spatial ranks, then the rank of the tile loop, if any
    before: tuple[str, ...]
    inside: tuple[str, ...]
    after: tuple[str, ...]
    loads: tuple[Load, ...]
    stages: int  # buffers of a tile that the loop's loads fill
    moved: frozenset[str]  # tensors in memory that a `Move` carries: their tiles go through a descriptor

    @property
    def loop(self) -> NestLoop | None:
        """The tile loop."""
        last = self.nest.loops[-1]
        return None if last.axis else last

    @property
    def einsums(self) -> tuple[str, ...]:
        return (*self.before, *self.inside, *self.after)


@dataclass(frozen=True)
class Plan:
    """A kernel: sections one after another in each program of one launch grid."""

    workload: Workload
    mapping: Mapping
    sections: tuple[Section, ...]
    stored: tuple[str, ...]  # Einsums that the kernel writes to memory
    warps: int  # among which a block is dealt out
    grid: Grid

    @cached_property
    def loops(self) -> tuple[NestLoop, ...]:
        """The loops of all sections, one a rank: those of the grid, then the tile loops."""
        return tuple({loop.rank: loop for section in self.sections for loop in section.nest.loops}.values())

    @property
    def spatial(self) -> tuple[NestLoop, ...]:
        return tuple(loop for loop in self.loops if loop.axis)

    @cached_property
    def tiles(self) -> dict[str, int]:
        """Rank -> coordinates of it that a register block spans, for ranks with an axis in blocks, in axis order."""
        looped = {loop.rank: loop.tile for loop in self.loops}
        used = {r for name in self.einsums for r in self.workload.cascade[name].ranks}
        order = dict.fromkeys((*looped, *(r for r in self.workload.cascade.ranks if r in used)))
        spans = {r: looped.get(r, self.workload.extent(r)) for r in order}
        return {r: span for r, span in spans.items() if r not in looped or span > 1}

    @property
    def wide(self) -> bool:
        """Whether an address is computed, which takes 64 bits; a descriptor takes coordinates."""
        moved = all(load.access.tensor in section.moved for section in self.sections for load in section.loads)
        return not moved or any(name not in self.section(name).moved for name in self.stored)

    @cached_property
    def scaled(self) -> frozenset[str]:
        """Tensors held in base-2 units."""
        return scaled_tensors(self.workload.cascade)

    @property
    def loads(self) -> tuple[Load, ...]:
        return tuple(load for section in self.sections for load in section.loads)

    @property
    def einsums(self) -> tuple[str, ...]:
        """Computed Einsums in program order."""
        return tuple(name for section in self.sections for name in section.einsums)

    def span_text(self, axis: str) -> str:
        """The coordinates of a block axis as text."""
        tiled = any(loop.rank == axis and loop.tile > 1 for loop in self.loops)
        return f"{axis.upper()}_TILE" if tiled else axis.upper()

    def section(self, einsum: str) -> Section:
        """The section that computes an Einsum."""
        return next(s for s in self.sections if einsum in s.einsums)

    def accumulates(self, einsum: Einsum) -> bool:
        """Whether its reduction goes on from one iteration of the tile loop to the next."""
        section = self.section(einsum.name)
        return section.loop is not None and section.loop.rank in einsum.reduced and einsum.name in section.inside

    def axes(self, *exprs: Expr) -> tuple[str, ...]:
        """The block axes along which values vary, in axis order; a gathered index varies as its own index does."""
        ranks = {r for expr in exprs for r in rank_variables(expr)}
        return tuple(r for r in self.tiles if r in ranks)

    def is_dot(self, einsum: Einsum) -> bool:
        """A matrix product: a sum of products of two two-dimensional blocks that share the reduced axis alone."""
        operands = [f for f in factors(einsum.expr) if isinstance(f, Access)]
        if not sums_products(einsum) or len(operands) != 2:
            return False
        sides = [self.axes(f) for f in operands]
        shared = set(sides[0]) & set(sides[1])
        return all(len(s) == 2 for s in sides) and len(shared) == 1 and shared <= set(einsum.reduced)

    def iteration(self, section: Section) -> tuple[int, int]:
        """(matrix multiply-accumulates, bytes loaded) of a whole iteration of the section's tile loop."""
        products = [e for e in map(self.workload.cascade.__getitem__, section.inside) if self.is_dot(e)]
        span = lambda axes: math.prod(self.tiles[r] for r in axes)
        macs = sum(span(self.axes(e.output, *map(Name, e.reduced))) for e in products)
        loads = [load.access for load in section.loads if load.inside]
        return macs * bool(section.loop), sum(span(self.axes(a)) * self.workload.bits(a.tensor) // 8 for a in loads)

    def bounds(self, access: Access) -> tuple[Guard, ...]:
        """The conditions `index < size` that some coordinate of some tile breaks."""
        found = []
        for index, rank in zip(access.indices, stored_ranks(self.workload.cascade, access.tensor), strict=True):
            form = affine(index, self.workload.sizes)
            offset = form is None and not isinstance(index, Access)  # of data; an index that is data alone is in range
            if offset or (form and maximum(form, self._last) >= self.workload.extent(rank)):
                found.append(Guard(index, "<", Name(rank.upper())))
        return tuple(found)

    def masks(self, load: Load) -> tuple[Guard, ...]:
        """What a load leaves out: what lies outside of the tensor, and what a length leaves out of a gathered one."""
        readers = [self.workload.cascade[n] for n in self.einsums if load.read in self.workload.cascade[n].reads]
        lengths = [g for e in readers for g in e.guards if by_data(g)] if gathers(load.access) else []
        return tuple(dict.fromkeys((*self.bounds(load.access), *lengths)))

    def _last(self, rank: str) -> int:
        """The greatest coordinate that a block of the rank covers, in bounds or not."""
        loops = [loop for loop in self.loops if loop.rank == rank]
        return loops[0].count * loops[0].tile - 1 if loops else self.workload.extent(rank) - 1


def maximum(form: Affine, last: Callable[[str], int]) -> int:
    """The greatest value of an affine form over coordinates 0..last(rank)."""
    return form.const + sum(factor * last(rank) for rank, factor in form.terms if factor > 0)


def sums_products(einsum: Einsum) -> bool:
    """A sum of products."""
    return bool(einsum.reduced) and einsum.reduce_op == "add" and len(factors(einsum.expr)) > 1


def stored_ranks(cascade: Cascade, tensor: str) -> tuple[str, ...]:
    """Ranks of a tensor in memory: of a state only its last value is there."""
    return varying_ranks(cascade, tensor)


def source(workload: Workload, access: Access) -> Access:
    """The access of a stored tensor that an access of a chain of views amounts to; others as they are.

    Of a state in memory the index of its last coordinate is dropped.
    """
    cascade = workload.cascade
    while access.tensor in cascade and is_view(cascade[access.tensor]):
        view = cascade[access.tensor]
        if view.output.indices != access.indices or not isinstance(view.expr, Access):
            raise InputError(refusal(access.tensor, "a view is read at the indices that it is defined at"))
        access = view.expr
    return access


def in_memory(workload: Workload, access: Access) -> Access:
    """The access of a tensor that an earlier kernel left in memory, or of an input."""
    cascade, origin = workload.cascade, source(workload, access)
    state = cascade[origin.tensor].iterative if origin.tensor in cascade else None
    if state is None:
        return origin
    at = cascade.tensor[origin.tensor].ranks.index(state)
    if origin.indices[at] != Name(state.upper()):
        raise InputError(refusal(origin.tensor, "another kernel sees only the last value of a state"))
    return Access(origin.tensor, (*origin.indices[:at], *origin.indices[at + 1 :]))


def written(einsum: Einsum) -> Access:
    """Where an Einsum's result goes in memory."""
    state = einsum.iterative
    indices = tuple(i for i in einsum.output.indices if state is None or state not in rank_variables(i))
    return Access(einsum.name, indices)


def refusal(path: str, what: str, got: object = "") -> Problem:
    """The problem that stands for one thing no kernel can be generated for."""
    return Problem(f"no kernel can be generated: {what}", path=path, got=str(got))


def structures(workload: Workload, mapping: Mapping, machine: Machine | None) -> tuple[Plan, ...]:
    """The kernels of a mapping that `limits.mapping_problems` has nothing against, in launch order.

    InputError where a grid cannot be laid out (`grid.launch_grid`).
    """
    by_group = {group.name: [x for x in leaves(mapping) if x.group == group.name] for group in mapping.groups}
    made = []
    for chain in chains(mapping):
        inside = [leaf for group in chain for leaf in by_group[group.name]]
        names = {leaf.node.einsum for leaf in inside if isinstance(leaf.node, Compute)}
        sections: list[Section] = []
        for group in chain:
            sections.append(_section(workload, group, by_group[group.name], names, sections))
        warps = max(_warps(workload, leaf, leaf.loops) for leaf in inside)
        stored = tuple(n for s in sections for n in s.einsums if _leaves_the_kernel(workload, n, names))
        grid = launch_grid(inside[0].loops[0], [section.nest for section in sections], machine)
        made.append(Plan(workload, mapping, tuple(sections), stored, warps, grid))
    return tuple(made)


def _leaves_the_kernel(workload: Workload, name: str, names: set[str]) -> bool:
    cascade = workload.cascade
    others = [e for e in cascade.einsums if e.name not in names and not is_view(e)]
    return name in cascade.outputs or any(source(workload, a).tensor == name for e in others for a in e.reads)


def _section(workload: Workload, group: Group, inside: list[Leaf], names: set[str], earlier: list[Section]) -> Section:
    around, *others = max((leaf.loops for leaf in inside), key=len)
    loops = (merged(around), *others)
    where: dict[str, list[str]] = {"before": [], "inside": [], "after": []}
    looped = loops[-1].over is None
    for leaf in inside:
        if isinstance(leaf.node, Compute):
            side = dict(leaf.node.at).get(loops[-1].ranks[0]) if looped else "first"
            where[{"first": "before", "last": "after"}.get(str(side), "inside")].append(leaf.node.einsum)
    before, within, after = (tuple(x) for x in where.values())
    stages = max((hold.deep for loop in loops if loop.over is None for hold in loop.holds), default=1)
    loads = tuple(_loads(workload, loops, (before, within, after), names, earlier))
    moved = {storage(workload.cascade, leaf.node.tensor) for leaf in inside if isinstance(leaf.node, Move)}
    return Section(group, nest(loops, workload), before, within, after, loads, stages, frozenset(moved))


def _warps(workload: Workload, leaf: Leaf, loops: tuple[Loop, ...]) -> int:
    """Instances that a leaf's private spatial loops deal its block out to."""
    spatial = [loop for loop in getattr(leaf.node, "loops", ()) if loop.over]
    around = {rank: tile for loop in loops for rank, tile in zip(loop.ranks, loop.tile, strict=True)}
    dealt = [(rank, tile) for loop in spatial for rank, tile in zip(loop.ranks, loop.tile, strict=True)]
    counts = [math.ceil(around.get(rank, workload.extent(rank)) / tile) for rank, tile in dealt]
    return math.prod(counts) if counts else DEFAULT_WARPS


def _loads(
    workload: Workload,
    loops: tuple[Loop, ...],
    levels: tuple[tuple[str, ...], ...],
    names: set[str],
    earlier: list[Section],
) -> Iterator[Load]:
    """One load for each way in which a tensor in memory is read; outside the tile loop if it does not vary and is held
    there; none for what an earlier section has loaded and this one takes over."""
    cascade = workload.cascade
    outside = {hold.tensor for loop in loops if loop.over for hold in loop.holds}
    taken = {hold.tensor for loop in loops if loop.over for hold in loop.holds if hold.kept}
    known = {load.read: load for section in earlier for load in section.loads}
    rank = loops[-1].ranks[0] if loops[-1].over is None else None
    seen = {read for read, load in known.items() if {read.tensor, load.access.tensor} & taken}
    for name in (n for level in levels for n in level):
        for access in _gathered_first(cascade[name]):
            origin = source(workload, access)
            if origin.tensor in names or access in seen:
                continue
            seen.add(access)
            origin = in_memory(workload, access)
            varies = rank in rank_variables(origin)
            held = access.tensor in outside or origin.tensor in outside
            yield Load(_variable(access, known), access, origin, name in levels[1] and (varies or not held))
            known[access] = Load(_variable(access, known), access, origin, False)


def _gathered_first(einsum: Einsum) -> tuple[Access, ...]:
    """What an Einsum reads, the tensors inside an index before the tensor that they index."""
    return tuple(dict.fromkeys(sorted(einsum.reads, key=gathers)))


def gathers(access: Access) -> bool:
    """Whether an index is read from a tensor."""
    return any(isinstance(node, Access) for index in access.indices for node in walk(index))


def by_data(guard: Guard) -> bool:
    """Whether a guard compares with a tensor, such as a length."""
    return any(isinstance(node, Access) for side in (guard.left, guard.right) for node in walk(side))


def _variable(access: Access, known: dict[Access, Load]) -> str:
    """The tensor's name, numbered if the tensor is already read in another way."""
    if access in known:
        return known[access].name
    taken = {load.name for load in known.values()}
    names = (access.tensor, *(f"{access.tensor}_{i}" for i in range(2, len(taken) + 3)))
    return next(n for n in names if n not in taken)
