"""What each decision about a group costs, for many tile shapes at once.

Every cost is a product of factors that depend on one rank's tiles each, since the tiles of a rank cover it exactly once
however they are cut. The numbers are those of `mapper.cost` for the mapping that `build` makes of the decisions, which
the tests hold them against. SEMANTICS 8.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from arch.machine import Machine
from einsum.cascade import Access, Einsum, Workload, rank_variables
from einsum.ops import operation_classes
from mapper.cost import port_bytes_per_s
from mapper.place import own_memory
from mapper.search.group import Group, Option, Use
from mapper.tile import dimensions, elements, state_rank, whole
from mapper.work import executes, expand

Array = Any  # a number, or numbers for each shape
Vector = dict[str, Array]  # metric -> its value for each shape; absent: zero
ENERGY = "energy"


class Hold(NamedTuple):
    """Where a tensor is held: in which memory, in which block of loops, inside the loops over which of its ranks.

    `along` a private rank that its users walk outermost, one step of it lives at a time.
    """

    memory: str
    block: int
    outside: frozenset[str]
    along: str | None = None


@dataclass(frozen=True)
class Shapes:
    """Tiles and counts of the walked ranks, as arrays that broadcast against each other.

    `tile[r][b]`: coordinates of a tile inside block b's loops (b = 0: the whole rank); `count[r][b]`: tiles there are.
    """

    tile: dict[str, list[Array]]
    count: dict[str, list[Array]]

    @staticmethod
    def of(workload: Workload, ranks: tuple[str, ...], columns: list[np.ndarray]) -> Shapes:
        """From a (..., blocks) array of tiles for each rank."""
        tile, count = {}, {}
        for rank, column in zip(ranks, columns, strict=True):
            extent = workload.extent(rank)
            tile[rank] = [extent, *np.moveaxis(column, -1, 0)]
            count[rank] = [1, *(ceil_div(extent, t) for t in tile[rank][1:])]
        return Shapes(tile, count)


def ceil_div(a: Array, b: Array) -> Array:
    """Quotient of whole numbers, rounded up."""
    return -(-a // b)


def times(values: Iterator[Array]) -> Array:
    """A product that starts from one."""
    return math.prod(values, start=1.0)


class Prices:
    """The cost of decisions about a group, for each of `shapes`; `buffers`: of each hold."""

    def __init__(self, group: Group, shapes: Shapes, buffers: int) -> None:
        self.group, self.shapes, self.buffers = group, shapes, buffers
        self.workload, self.machine = group.workload, group.machine

    def inner_tile(self, rank: str) -> Array:
        """Coordinates of a rank in the innermost tile."""
        return self.shapes.tile[rank][-1] if rank in self.shapes.tile else self.workload.extent(rank)

    def tiles(self, ranks) -> Array:
        """Innermost tiles along the walked ones of these ranks."""
        return times(self.shapes.count[r][-1] for r in ranks if r in self.shapes.count)

    def own(self, option: Option) -> str:
        """The memory right above the option's units."""
        return own_memory(self.machine, option.unit.split("+")[0]).name

    def fits(self, e: Einsum, option: Option) -> Array:
        """Whether the option's loops divide the tile, and a register that must keep an operand does."""
        fits = self.options_fit(e, option)
        for access in dict.fromkeys(e.reads):
            if self.group.stays(e, access, option.unit.split("+")[0]):
                fits = fits & (self._again(e, access, option) == 1)
        return fits

    def leads(self, e: Einsum, option: Option, rank: str) -> Array:
        """Whether the rank's loop is the Einsum's outermost in time, a coordinate at a time."""
        loops = temporal(e, option, self.machine)
        if option.over(rank) or rank not in loops:
            return False
        first: Array = True
        for other in loops[: loops.index(rank)]:
            first = first & (self._turns(option, other) == 1)
        return first

    def options_fit(self, e: Einsum, option: Option) -> Array:
        """Whether the option's loops divide the tile: what is spread over axes fills them, or is all there is."""
        fits: Array = True
        for rank in {r for _, r in option.spread}:
            tile, axes = self.inner_tile(rank), option.over(rank)
            divides: Array = True
            for i, axis in enumerate(axes):
                size = math.prod(self.machine.axis(a).size for a in axes[i:])
                part = (tile <= size) & (axis not in self.group.deep)
                divides = divides & (part | (tile % size == 0))
            fits = fits & (divides | (tile == self.workload.extent(rank)))
        return fits

    def _span(self, option: Option, rank: str) -> int:
        """Instances that a rank is spread over."""
        return math.prod(self.machine.axis(axis).size for axis in option.over(rank))

    def _instances(self, option: Option, axis: str, rank: str) -> Array:
        """Iterations of the loop that spreads a rank over an axis."""
        axes, tile = option.over(rank), self.inner_tile(rank)
        below = math.prod(self.machine.axis(a).size for a in axes[axes.index(axis) + 1 :])
        return np.minimum(self.machine.axis(axis).size, ceil_div(np.minimum(tile, self._span(option, rank)), below))

    def _busiest(self, option: Option, rank: str, extent: Array) -> Array:
        """Coordinates that fall to the busiest instance."""
        axes = option.over(rank)
        for i, axis in enumerate(axes):
            below = math.prod(self.machine.axis(a).size for a in axes[i + 1 :])
            waves = ceil_div(ceil_div(extent, below), self.machine.axis(axis).size)
            extent = np.minimum(extent, waves * below)
        return extent

    def compute(self, e: Einsum, option: Option) -> Vector:
        """Units' time, and the energy of operations and of the operands at the unit."""
        vector: Vector = {ENERGY: 0.0}
        units = [self.machine.unit(name) for name in option.unit.split("+")]
        shares: dict[str, dict[str, int]] = {u.name: {} for u in units}
        for name, n in operation_classes(e).items():
            shares[next(u.name for u in units if executes(u, name))][name] = n
        for unit in units:
            per_point = sum(n * unit.ops[c].cycles for c, n in expand(shares[unit.name], unit).items())
            cycles = self._cycles(e, option, unit.lanes) * per_point
            vector[f"busy {unit.name}"] = cycles / unit.clock_hz
            each = sum(n * unit.ops[c].energy_j for c, n in expand(shares[unit.name], unit).items())
            vector[ENERGY] = vector[ENERGY] + self._points(e, unit.lanes) * each
        first = next((u for u in units if shares[u.name]), None)
        if first is not None:
            points, memory = self._points(e, first.lanes), own_memory(self.machine, first.name)
            begun = self._begun(e, option, first.lanes) if e.reduced else points
            reads = (len(dict.fromkeys(e.reads)) + 1) * points - begun
            vector[ENERGY] = vector[ENERGY] + reads * memory.read_energy_j + points * memory.write_energy_j
        return vector

    def _cycles(self, e: Einsum, option: Option, lanes: float) -> Array:
        """Starts of the busiest instance, over all tiles."""
        if lanes > 1:
            busy = times(self._busiest(option, r, self.inner_tile(r)) for r in e.ranks)
            return self.tiles(e.ranks) * np.ceil(busy / lanes)
        return times(self._over_tiles(r, lambda extent, r=r: self._busiest(option, r, extent)) for r in e.ranks)

    def _over_tiles(self, rank: str, each) -> Array:
        """The sum of `each(extent)` over the innermost tiles of a rank, the last of which may be cut off."""
        extent, tile = self.workload.extent(rank), self.inner_tile(rank)
        rest = extent % tile
        return extent // tile * each(tile) + np.where(rest > 0, each(rest), 0)

    def _points(self, e: Einsum, lanes: float) -> Array:
        """Points issued: units of several lanes issue whole tiles."""
        if lanes > 1:
            return self.tiles(e.ranks) * times(self.inner_tile(r) for r in e.ranks)
        return times(self.workload.extent(r) for r in e.ranks)

    def _begun(self, e: Einsum, option: Option, lanes: float) -> Array:
        """Running values that a reduction begins: one for each result and instance that takes part."""
        results = times(
            self.workload.extent(r) if lanes == 1 else self.tiles((r,)) * self.inner_tile(r) for r in e.output_ranks
        )
        return results * times(self._instances(option, a, r) for a, r in option.spread if r in e.reduced)

    def access(self, e: Einsum, access: Access, option: Option, source: str) -> Vector:
        """What the Einsum's reads of an operand, or the writes of its result, move between memories."""
        own, vector = self.own(option), {}
        if source == own:
            return vector
        used, varying, size = self._facts(e, access)
        repeats, copies = self.repeats(e, access, option), self._copies(option, own, used)
        idle = [r for r in e.ranks if r not in varying]
        moved = size * self.tiles(idle) * repeats
        if access is not e.output:
            self._move(vector, source, own, moved, copies)
            return vector
        self._move(vector, own, source, moved, 1)
        again = moved - size * self.tiles(r for r in idle if r not in e.reduced)
        self._move(vector, source, own, again, copies)
        return vector

    def repeats(self, e: Einsum, access: Access, option: Option) -> Array:
        """How often each element is fetched in a tile (SEMANTICS 5.7)."""
        used, many = self._facts(e, access)[0], self._again(e, access, option)
        for axis, rank in option.spread:
            able = self.machine.axis(axis)
            if rank not in used and not (able.reduce if access is e.output else able.multicast):
                many = many * self._instances(option, axis, rank)
        return many

    def _again(self, e: Einsum, access: Access, option: Option) -> Array:
        """How often each instance fetches an element in a tile."""
        used, loops = self._facts(e, access)[0], temporal(e, option, self.machine)
        many: Array = 1
        for i, rank in enumerate(loops):
            if rank in used:
                continue
            inside: Array = False
            for other in loops[i + 1 :]:
                if other in used:
                    inside = inside | (self._turns(option, other) > 1)
            many = many * np.where(inside, self._turns(option, rank), 1)
        return many

    def _turns(self, option: Option, rank: str) -> Array:
        """Iterations of the temporal loop over a rank inside a tile."""
        return ceil_div(self.inner_tile(rank), self._span(option, rank))

    def _copies(self, option: Option, memory: str, ranks) -> Array:
        """Instances of a memory that receive each read of what does not vary along the axes above it."""
        above = {f"{array}.{axis.name}": axis for array, axis in self.machine.axes(memory)}
        spread = [(a, r) for a, r in option.spread if a in above and r not in ranks and above[a].multicast]
        return times(self._instances(option, a, r) for a, r in spread)

    def _facts(self, e: Einsum, access: Access) -> tuple[tuple[str, ...], set[str], float]:
        """(ranks in an access, those that lead to different elements, bytes touched), made once a group."""
        key = (e.name, id(access))
        if key not in self.group.facts:
            self.group.facts[key] = (rank_variables(access), self._varying(access), self._size(access, e.ranks))
        return self.group.facts[key]

    def _varying(self, access: Access) -> set[str]:
        """Ranks whose coordinates lead to different elements of the storage."""
        ranks, state = (
            self.workload.cascade.tensor[access.tensor].ranks,
            state_rank(self.workload.cascade, access.tensor),
        )
        pairs = zip(ranks, access.indices, strict=True)
        return {v for r, index in pairs if r != state for v in rank_variables(index)}

    def _size(self, access: Access, ranks) -> float:
        """Bytes that all tiles together touch, each once."""
        box = {r: (0, self.workload.extent(r)) for r in ranks}
        return elements(self.workload, access, box) * self.workload.bits(self._storage(access.tensor)) / 8

    def size(self, tensor: str) -> float:
        """Bytes of a tensor; of a state those of one value."""
        if tensor not in self.group.facts:
            ranks = self.workload.cascade.tensor[tensor].ranks
            self.group.facts[tensor] = self._size(whole(self.workload.cascade, tensor), ranks)
        return self.group.facts[tensor]

    def _storage(self, tensor: str) -> str:
        return self.group.uses[tensor].storage

    def _move(self, vector: Vector, source: str, target: str, nbytes: Array, copies: Array) -> None:
        for name, detail, moved in ((source, "read", nbytes), (target, "write", nbytes * copies)):
            memory = self.machine.memory(name)
            each = memory.read_energy_j if detail == "read" else memory.write_energy_j
            vector[ENERGY] = vector.get(ENERGY, 0.0) + moved * (each / memory.access_bytes)
            if bandwidth := port_bytes_per_s(memory, detail):
                port = f"busy {name}" if memory.shared_port else f"busy {name} {detail}"
                vector[port] = vector.get(port, 0.0) + moved / bandwidth

    def hold_fits(self, use: Use, hold: Hold | None) -> Array:
        """Whether what loops add up or carry is held outside of them: `hold` is the outermost (SEMANTICS 4.10)."""
        e = self.workload.cascade[use.tensor] if use.written else None
        fits: Array = True
        for rank in (*e.reduced, *filter(None, [e.iterative])) if e else ():
            if rank in self.shapes.count:
                fits = fits & ((self._outside(hold, rank) if hold else self.shapes.count[rank][-1]) == 1)
        return fits

    def keep(self, use: Use, hold: Hold, outer: str | None, option: Option) -> Vector:
        """What one hold of a tensor moves to and from `outer`, the memory that keeps it around, and occupies.

        `option` is that of the first user below the memory; `outer` is None for what lives in the group only.
        """
        vector: Vector = {}
        memory = hold.memory
        if outer is not None:
            size = self.size(use.tensor)
            idle = [r for r in self.shapes.count if r not in use.ranks]
            moved = size * times(self._outside(hold, r) for r in idle)
            reads, copies = self._fan_out(option, memory, use.ranks)
            reduced = self.workload.cascade[use.tensor].reduced if use.written else ()
            partial = [r for r in reduced if self._has_outside(hold, r)]
            if use.written:
                self._move(vector, memory, outer, moved, 1)
            if not use.written or (use.state and self._has_outside(hold, use.state)):
                self._move(vector, outer, memory, moved * reads, copies)
            elif partial:
                first = size * times(self._outside(hold, r) for r in idle if r not in partial)
                self._move(vector, outer, memory, (moved - first) * reads, copies)
        if self.machine.memory(memory).capacity_bytes is not None:
            vector[f"held {memory}"] = self._footprint(use, hold, option)
        return vector

    def _has_outside(self, hold: Hold, rank: str) -> bool:
        """Whether a loop over the rank stands outside the hold, however many iterations it has."""
        return rank in self.shapes.count and (hold.block > 1 or rank in hold.outside)

    def _outside(self, hold: Hold, rank: str) -> Array:
        """Iterations of the loops over a rank outside a hold."""
        return self.shapes.count[rank][hold.block if rank in hold.outside else hold.block - 1]

    def _fan_out(self, option: Option, memory: str, ranks) -> tuple[Array, Array]:
        above = {f"{array}.{axis.name}": axis for array, axis in self.machine.axes(memory)}
        alike = [(a, r) for a, r in option.spread if a in above and r not in ranks]
        each = lambda able: times(self._instances(option, a, r) for a, r in alike if above[a].multicast is able)
        return each(False), each(True)

    def _footprint(self, use: Use, hold: Hold, option: Option) -> Array:
        """Bytes of all buffers in one instance."""
        level = lambda r: hold.block if r in hold.outside else hold.block - 1
        extent = {
            r: self.shapes.tile[r][level(r)] if r in self.shapes.tile else self.workload.extent(r) for r in use.ranks
        }
        if hold.along:
            extent[hold.along] = 1
        count = times(self._touched(whole(self.workload.cascade, use.tensor), extent))
        above = {f"{array}.{axis.name}" for array, axis in self.machine.axes(hold.memory)}
        spread = dict.fromkeys(r for a, r in option.spread if a in above and r in extent)
        shares = {r: times(self._instances(option, a, r) for a in option.over(r) if a in above) for r in spread}
        dealt = times(np.minimum(n, extent[r]) for r, n in shares.items())
        return count * (self.workload.bits(use.storage) / 8) * self.buffers / dealt

    def _touched(self, access: Access, extent: dict[str, Array]) -> Iterator[Array]:
        """Coordinates of each of the storage's dimensions that a tile touches."""
        for form, _, size in dimensions(self.workload, access):
            assert form is not None
            yield np.minimum(1 + sum(abs(f) * (extent[r] - 1) for r, f in form.terms), size)


def temporal(e: Einsum, option: Option, machine: Machine) -> tuple[str, ...]:
    """Ranks that an Einsum's own loops walk in time, outermost first; several lanes take the others whole."""
    alone = all(machine.unit(name).lanes == 1 for name in option.unit.split("+"))
    ranks = [r for r in e.ranks if alone or option.over(r)]
    return (*(r for r in ranks if r != option.inner), *(r for r in ranks if r == option.inner))
