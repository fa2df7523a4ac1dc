"""What one tile of a mapped group does: work on units, transfers between memories, footprints.

Everything is stated per innermost iteration of the group's nest, with the conditions under which it happens: the
closed form multiplies by exact counts, the simulator lowers the same facts to tasks. SEMANTICS section 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass

from arch.machine import Axis, Machine, Memory, Unit
from einsum.cascade import Access, Einsum, Workload, rank_variables
from einsum.ops import operation_classes
from mapper.mapping import Compute, Group, Hold, Leaf, Loop, Mapping, Pipe, Seq, leaves
from mapper.nest import Nest, When, nest, variants
from mapper.tile import nbytes, overflowing, state_rank, storage, varying_ranks, whole

Variants = tuple[tuple[When, float], ...]  # the first whose conditions hold counts; the last has none


@dataclass(frozen=True)
class Work:
    """A `Compute` leaf in one tile of one grid instance: `cycles` of its unit's clock, `points` issued.

    A leaf bound to several units (`fma+mufu`) makes one `Work` for each, with the classes that fall to it.
    """

    leaf: Leaf
    einsum: Einsum
    unit: Unit
    when: When
    cycles: Variants
    points: Variants
    classes: Dict[str, int]  # operations per point, by class as the cascade names it

    @property
    def name(self) -> str:
        return self.einsum.name


@dataclass(frozen=True)
class Transfer:
    """Bytes of a tensor that one grid instance moves in a tile that satisfies `when`.

    `fill` brings a hold's slice in, `drain` takes it out; `read` and `write` go between the memory that holds a
    leaf's operand and the one right above its unit. `copies`: instances of the target that receive each element.
    """

    kind: str  # fill | drain | read | write
    tensor: str
    source: str  # memory
    target: str  # memory
    when: When
    nbytes: Variants
    einsums: tuple[str, ...]  # readers of a fill or read, writers of a drain or write
    hold: Hold | None = None
    depth: int = 0  # the hold stands on the nest's loop `depth - 1`
    copies: int = 1

    @property
    def name(self) -> str:
        return f"{self.kind} {self.tensor} {self.source}>{self.target}"


@dataclass(frozen=True)
class GroupWork:
    """One fused group: its nest, its leaves and its transfers, in program order."""

    group: Group
    parent: Seq | Pipe | None
    nest: Nest
    works: tuple[Work, ...]
    transfers: tuple[Transfer, ...]
    footprints: tuple[tuple[Hold, str, float], ...]  # (hold, storage, bytes of all its buffers in one instance)

    def total(self, when: When, kinds: Variants) -> float:
        """Sum of the variants' values over all tiles, of all grid instances, that satisfy `when`."""
        exact: list[int] = []
        for conditions, _ in kinds:  # from most to least cut off: what is more cut off has been counted already
            inside = sum(n for n, (other, _) in zip(exact, kinds, strict=False) if set(conditions) < set(other))
            exact.append(self.nest.count((*when, *conditions)) - inside)
        return sum(n * value for n, (_, value) in zip(exact, kinds, strict=True))


def group_works(mapping: Mapping, workload: Workload, machine: Machine) -> tuple[GroupWork, ...]:
    """The facts of every group. The mapping must have passed `mapper.check.check`."""
    every = tuple(leaves(mapping))
    return tuple(_group(group, [leaf for leaf in every if leaf.group == group.name], workload, machine)
                 for group in mapping.groups)


def _group(group: Group, inside: Sequence[Leaf], workload: Workload, machine: Machine) -> GroupWork:
    place = Placement(workload, machine, inside)
    works = tuple(work for leaf in inside for work in _works(place, leaf))
    transfers = (*_hold_transfers(place), *(t for leaf in inside for t in _accesses(place, leaf)))
    return GroupWork(group, inside[0].parent, place.nest, works, transfers, tuple(_footprints(place)))


class Placement:
    """Where the leaves and tensors of one group are; answers questions of the functions below."""

    def __init__(self, workload: Workload, machine: Machine, inside: Sequence[Leaf]) -> None:
        self.workload, self.machine, self.cascade = workload, machine, workload.cascade
        self.loops = inside[0].loops  # one nest a group (`mapper.check`)
        self.nest = nest(self.loops, workload)
        self.leaf = {leaf.node.einsum: leaf for leaf in inside if isinstance(leaf.node, Compute)}

    def axis(self, over: str) -> Axis:
        """The axis that a loop's `over` names."""
        array, name = over.split(".")
        return next(axis for axis in self.machine.path(array)[-1].axes if axis.name == name)

    def readers(self, tensor: str) -> tuple[str, ...]:
        return tuple(n for n in self.leaf if any(a.tensor == tensor for a in self.cascade[n].reads))

    def holds(self, tensor: str, loops: Sequence[Loop]) -> list[tuple[Hold, int]]:
        """The tensor's holds on the loops, outermost first, each with the depth of the nest at which it stands."""
        found, depth = [], 0
        for loop in loops:
            depth += len(loop.ranks)
            found += [(h, depth) for h in loop.holds if h.tensor in (tensor, storage(self.cascade, tensor))]
        return found

    def home(self, tensor: str) -> str | None:
        """The root memory for inputs and outputs; None for an intermediate, which lives only where it is held."""
        known = (*self.cascade.inputs, *self.cascade.outputs)
        return self.machine.root.name if storage(self.cascade, tensor) in known else None

    def memory(self, tensor: str, leaf: Leaf) -> str:
        """The memory from which the leaf reads, or to which it writes, the tensor."""
        held = self.holds(tensor, (*leaf.loops, *leaf.node.loops))
        return held[-1][0].memory if held else self.home(tensor) or self.machine.root.name

    def own_memory(self, unit: str) -> str:
        """The memory right above a unit, or above the arrays around it."""
        return next(n.name for n in reversed(self.machine.path(unit)[:-1]) if isinstance(n, Memory))

    def cut(self, einsum: Einsum) -> tuple[str, ...]:
        """Ranks whose last tile holds less because an operand's storage ends."""
        every = (einsum.output, *einsum.reads)
        return tuple(dict.fromkeys(rank for access in every for rank in overflowing(self.workload, access)))

    def bytes(self, ranks: Sequence[str], cut: Sequence[str], access: Access, times: int = 1) -> Variants:
        """Bytes behind the access in one tile over `ranks`, `times` over, by how the tile is cut off."""
        kinds = variants(self.nest, ranks, cut)
        return tuple((when, times * nbytes(self.workload, access, box)) for when, box in kinds)

    def spatial(self, leaf: Leaf, memory: str) -> Iterator[tuple[str, int]]:
        """(rank, instances) of the leaf's private loops over axes that multiply the memory."""
        above = {f"{array}.{axis.name}" for array, axis in self.machine.axes(memory)}
        for loop in leaf.node.loops:
            for rank, tile in zip(loop.ranks, loop.tile, strict=True):
                if loop.over in above:
                    yield rank, min(self.axis(loop.over).size, math.ceil(self.nest.extent(rank) / tile))


def _works(place: Placement, leaf: Leaf) -> Iterator[Work]:
    node, einsum = leaf.node, place.cascade[leaf.node.einsum]
    units = [place.machine.unit(name) for name in unit_names(node)]
    shares: dict[str, dict[str, int]] = {unit.name: {} for unit in units}
    for name, n in operation_classes(einsum).items():
        shares[next(u.name for u in units if executes(u, name))][name] = n
    when = tuple((i, side) for rank, side in node.at for i in place.nest.positions(rank))
    for unit in units:
        classes = shares[unit.name]
        per_point = sum(n * unit.ops[c].cycles for c, n in expand(classes, unit).items())
        cycles, points = [], []
        for cut, box in variants(place.nest, einsum.ranks, place.cut(einsum)):
            issued = {r: place.nest.extent(r) if unit.lanes > 1 else extent for r, (_, extent) in box.items()}
            busy = math.prod(_busiest(place, node, rank, extent) for rank, extent in issued.items())
            cycles.append((cut, math.ceil(busy / unit.lanes) * per_point))
            points.append((cut, math.prod(issued.values())))
        yield Work(leaf, einsum, unit, when, tuple(cycles), tuple(points), classes)


def _busiest(place: Placement, node: Compute, rank: str, extent: int) -> int:
    """Coordinates of `rank` that fall to the busiest instance of the leaf's spatial loops."""
    for loop in node.loops:
        if loop.over and rank in loop.ranks:
            tile = loop.tile[loop.ranks.index(rank)]
            waves = math.ceil(math.ceil(extent / tile) / place.axis(loop.over).size)
            extent = min(extent, waves * tile)
    return extent


def unit_names(node: Compute) -> tuple[str, ...]:
    """The units of a leaf: `fma+mufu` gives each operation class to the first unit that executes it."""
    return tuple(node.unit.split("+"))


def executes(unit: Unit, name: str) -> bool:
    """Whether the unit has the operation class, in hardware or by expansion."""
    return name in unit.ops or name in unit.expands


def expand(classes: Dict[str, int], unit: Unit) -> Dict[str, int]:
    """Operations per point in the classes that the unit's hardware has."""
    done: dict[str, int] = {}
    for name, n in classes.items():
        for inner, times in ({name: 1} if name in unit.ops else unit.expands[name]).items():
            done[inner] = done.get(inner, 0) + n * times
    return done


def _hold_transfers(place: Placement) -> Iterator[Transfer]:
    """What the holds imply: each brings its slice in from the next hold out, or takes it there, or both (a state)."""
    for tensor in dict.fromkeys(h.tensor for loop in place.loops for h in loop.holds):
        outer = place.home(tensor)
        for hold, depth in place.holds(tensor, place.loops):
            if outer is not None:
                yield from _in_and_out(place, tensor, hold, depth, outer)
            outer = hold.memory


def _in_and_out(place: Placement, tensor: str, hold: Hold, depth: int, outer: str) -> Iterator[Transfer]:
    cascade, name = place.cascade, storage(place.cascade, tensor)
    ranks = varying_ranks(cascade, tensor)
    idle = [i for i, loop in enumerate(place.nest.loops) if i >= depth and loop.rank not in ranks]
    access = whole(cascade, tensor)
    kinds = place.bytes(cascade.tensor[tensor].ranks, overflowing(place.workload, access), access)
    written, state = tensor in place.leaf, state_rank(cascade, tensor)
    carried = written and any(loop.rank == state for loop in place.nest.loops[:depth])
    readers = place.readers(tensor)
    if not written or carried:
        copies = math.prod(n for rank, n in place.spatial(place.leaf[readers[0]], hold.memory) if rank not in ranks)
        when = tuple((i, "first") for i in idle)
        yield Transfer("fill", name, outer, hold.memory, when, kinds, readers, hold, depth, copies)
    if written:
        when = tuple((i, "last") for i in idle)
        yield Transfer("drain", name, hold.memory, outer, when, kinds, (tensor,), hold, depth)


def _accesses(place: Placement, leaf: Leaf) -> Iterator[Transfer]:
    """The leaf's own reads and writes of memories other than its unit's own, through which they pass."""
    node, einsum = leaf.node, place.cascade[leaf.node.einsum]
    own, name = place.own_memory(unit_names(node)[0]), einsum.name
    when = tuple((i, side) for rank, side in node.at for i in place.nest.positions(rank))

    def moved(kind: str, access: Access, source: str, target: str, times: int) -> Transfer:
        used = rank_variables(access)
        copies = math.prod(n for rank, n in place.spatial(leaf, own) if rank not in used) if kind == "read" else 1
        kinds = place.bytes(einsum.ranks, place.cut(einsum), access, times)
        return Transfer(kind, storage(place.cascade, access.tensor), source, target, when, kinds, (name,), copies=copies)

    for access in dict.fromkeys(einsum.reads):
        memory = place.memory(access.tensor, leaf)
        if memory != own:
            yield moved("read", access, memory, own, _repeats(place, leaf, access))
    memory, output = place.memory(name, leaf), einsum.output
    if memory != own:
        times = _repeats(place, leaf, output)
        yield moved("write", output, own, memory, times)
        if times > 1:  # partial results come back to be added to
            yield moved("read", output, memory, own, times - 1)


def _repeats(place: Placement, leaf: Leaf, access: Access) -> int:
    """How often each element is fetched in a tile: once for every iteration of a private temporal loop that does not
    vary it but encloses one that does, and for every instance along an axis that cannot multicast."""
    loops, used = leaf.node.loops, set(rank_variables(access))
    repeats = 1
    for i, loop in enumerate(loops):
        if used & set(loop.ranks):
            continue
        count = math.prod(math.ceil(place.nest.extent(r) / t) for r, t in zip(loop.ranks, loop.tile, strict=True))
        if loop.over is None:
            repeats *= count if any(used & set(inner.ranks) for inner in loops[i:] if inner.over is None) else 1
        elif not place.axis(loop.over).multicast:
            repeats *= min(count, place.axis(loop.over).size)
    return repeats


def _footprints(place: Placement) -> Iterator[tuple[Hold, str, float]]:
    depth = 0
    for loop in place.loops:
        depth += len(loop.ranks)
        for hold in loop.holds:
            ranks = place.cascade.tensor[hold.tensor].ranks
            box = {r: (0, 1 if r == hold.along else place.nest.extent(r, depth)) for r in ranks}
            size = nbytes(place.workload, whole(place.cascade, hold.tensor), box) * hold.deep * hold.part
            yield hold, storage(place.cascade, hold.tensor), size / _dealt(place, hold)


def _dealt(place: Placement, hold: Hold) -> int:
    """Instances of the hold's memory among which its users' spatial loops deal the tensor out."""
    users = [n for n in (hold.tensor, *place.readers(hold.tensor)) if n in place.leaf]
    near = [n for n in users if place.own_memory(unit_names(place.leaf[n].node)[0]) == hold.memory] or users
    ranks = place.cascade.tensor[hold.tensor].ranks
    return math.prod(n for rank, n in place.spatial(place.leaf[near[0]], hold.memory) if rank in ranks)
