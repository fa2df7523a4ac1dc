"""Where the leaves and tensors of a fused group are: loops, holds, memories. SEMANTICS 5.5 to 5.8."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from arch.machine import Machine, Memory
from einsum.cascade import Access, Einsum, Workload, walk
from mapper.mapping import Compute, Hold, Leaf, Loop
from mapper.nest import When, nest, variants
from mapper.tile import Length, Overflow, lengths, nbytes, overflowing, storage, whole

Variants = tuple[tuple[When, float], ...]  # the first whose conditions hold counts; the last has none


class Placement:
    """The leaves of one group on a machine; answers questions about them."""

    def __init__(self, workload: Workload, machine: Machine, inside: Sequence[Leaf[Compute]]) -> None:
        self.workload, self.machine, self.cascade = workload, machine, workload.cascade
        self.loops = inside[0].loops  # one nest a group (`mapper.check`)
        self.nest = nest(self.loops, workload)
        self.leaf = {leaf.node.einsum: leaf for leaf in inside}

    def readers(self, tensor: str) -> tuple[str, ...]:
        """The Einsums of the group that read the tensor or, through a view, its storage."""
        return tuple(n for n in self.leaf if any(a.tensor == tensor for a in self.cascade[n].reads))

    def holds(self, tensor: str, loops: Sequence[Loop]) -> list[tuple[Hold, int]]:
        """The tensor's holds on the loops, outermost first, each with the depth of the nest at which it stands."""
        found, depth = [], 0
        for loop in loops:
            depth += len(loop.ranks)
            found += [(h, depth) for h in loop.holds if h.tensor in (tensor, storage(self.cascade, tensor))]
        return found

    def home(self, tensor: str) -> str | None:
        """The root memory for inputs, outputs and what passes between groups; None for what lives in the group,
        which is only where it is held."""
        name = storage(self.cascade, tensor)
        read_elsewhere = any(a.tensor == name for e in self.cascade.einsums if e.name not in self.leaf for a in e.reads)
        if name in self.leaf and not read_elsewhere and name not in self.cascade.outputs:
            return None
        return self.machine.root.name

    def hold(self, tensor: str, leaf: Leaf[Compute]) -> Hold | None:
        """The hold in which the leaf finds the tensor: the innermost one around it that it is a user of."""
        mine = [h for h, _ in self.holds(tensor, leaf.loops) if not h.users or leaf.node.einsum in h.users]
        return mine[-1] if mine else None

    def memory(self, tensor: str, leaf: Leaf[Compute]) -> str:
        """The memory from which the leaf reads, or to which it writes, the tensor."""
        held = self.hold(tensor, leaf)
        return held.memory if held else self.home(tensor) or self.machine.root.name

    def beyond(self, memory: str) -> str:
        """The next memory out; the root's is the root."""
        out = [n.name for n in self.machine.path(memory)[:-1] if isinstance(n, Memory)]
        return out[-1] if out else memory

    def own_memory(self, unit: str) -> str:
        """The memory right above a unit, or above the arrays around it."""
        return own_memory(self.machine, unit).name

    def cut(self, einsum: Einsum) -> tuple[Overflow, ...]:
        """Where tiles hold less because an operand's storage ends."""
        every = (einsum.output, *einsum.reads)
        return tuple(dict.fromkeys(end for access in every for end in overflowing(self.workload, access)))

    def bytes(
        self,
        ranks: Sequence[str],
        cut: Sequence[Overflow],
        access: Access,
        times: float = 1,
        short: Sequence[Length] = (),
    ) -> Variants:
        """Bytes behind the access in one tile over `ranks`, `times` over, by how the tile is cut off."""
        kinds = variants(self.nest, ranks, cut, short)
        return tuple((when, times * nbytes(self.workload, access, box)) for when, box in kinds)

    def short(self, einsum: Einsum, access: Access) -> tuple[Length, ...]:
        """The lengths that leave out parts of an access: of what the Einsum writes, of what it gathers, and of anything
        along a rank whose loop they bound."""
        gathered = any(isinstance(node, Access) for index in access.indices for node in walk(index))
        every = gathered or access == einsum.output
        return tuple(x for x in lengths(einsum, self.workload.given) if every or self.nest.by_length(x[0]))

    def short_of(self, tensor: str) -> tuple[Length, ...]:
        """The lengths that leave out parts of what a hold of the tensor moves: those of the Einsum that makes it here,
        or those that all who read it here have."""
        if tensor in self.leaf:
            return self.short(self.cascade[tensor], self.cascade[tensor].output)
        each = [
            {(rank, by): values for rank, by, values in self.short(self.cascade[name], whole(self.cascade, tensor))}
            for name in self.readers(tensor)
        ]
        return tuple((*key, values) for key, values in each[0].items() if all(key in other for other in each))

    def started(self, einsum: Einsum) -> When:
        """The condition that nothing of the Einsum's reductions has been added up yet when a tile starts."""
        loops = enumerate(self.nest.loops)
        return tuple((i, "first") for i, loop in loops if loop.rank in einsum.reduced and loop.axis is None)

    def spatial(self, leaf: Leaf[Compute], memory: str) -> Iterator[tuple[str, int]]:
        """(rank, instances) of the leaf's private loops over axes that multiply the memory."""
        above = {f"{array}.{axis.name}" for array, axis in self.machine.axes(memory)}
        for loop in leaf.node.loops:
            for rank, tile in zip(loop.ranks, loop.tile, strict=True):
                if loop.over in above:
                    yield rank, min(self.machine.axis(loop.over).size, math.ceil(self._around(leaf, loop, rank) / tile))

    def fan_out(self, leaf: Leaf[Compute], memory: str, ranks: Sequence[str]) -> tuple[int, int]:
        """(reads, copies): a tensor over `ranks` goes to all the leaf's instances of the memory in so many reads, one
        for each coordinate of an axis that cannot multicast, each read to so many instances."""
        above = {f"{array}.{axis.name}": axis for array, axis in self.machine.axes(memory)}
        reads, copies = 1, 1
        for loop in leaf.node.loops:
            for rank, tile in zip(loop.ranks, loop.tile, strict=True):
                if loop.over in above and rank not in ranks:
                    n = min(above[loop.over].size, math.ceil(self._around(leaf, loop, rank) / tile))
                    reads, copies = (reads, copies * n) if above[loop.over].multicast else (reads * n, copies)
        return reads, copies

    def _around(self, leaf: Leaf[Compute], loop: Loop, rank: str) -> int:
        """Coordinates of a rank that the loops around a private loop leave it."""
        extent = self.nest.extent(rank)
        for other in leaf.node.loops[: leaf.node.loops.index(loop)]:
            if rank in other.ranks:
                extent = min(extent, other.tile[other.ranks.index(rank)])
        return extent

    def footprints(self) -> Iterator[tuple[Hold, str, float]]:
        """(hold, storage, bytes of all its buffers in one instance of its memory)."""
        depth = 0
        for loop in self.loops:
            depth += len(loop.ranks)
            for hold in loop.holds:
                ranks, step = self.cascade.tensor[hold.tensor].ranks, self._step(hold)
                box = {r: (0, step.get(r, self.nest.extent(r, depth))) for r in ranks}
                size = nbytes(self.workload, whole(self.cascade, hold.tensor), box) * hold.deep * hold.part
                size = 0.0 if hold.inplace else size / self._dealt(hold, box)
                yield hold, storage(self.cascade, hold.tensor), size

    def _step(self, hold: Hold) -> dict[str, int]:
        """Coordinates of each rank that live at once when the users walk in step: those of one iteration of the
        private loop over `along` and of the private loops around that one."""
        if hold.along is None:
            return {}
        step: dict[str, int] = {}
        for loop in self.users(hold)[0].node.loops:
            if loop.over is None:
                step |= dict(zip(loop.ranks, loop.tile, strict=True))
            if hold.along in loop.ranks:
                break
        return {rank: min(tile, self.nest.extent(rank)) for rank, tile in step.items()}

    def users(self, hold: Hold) -> list[Leaf[Compute]]:
        """The leaves that use a hold, those right below its memory first."""
        names = [n for n in (hold.tensor, *self.readers(hold.tensor)) if n in self.leaf]
        names = [n for n in names if not hold.users or n in hold.users]
        unit = lambda name: unit_names(self.leaf[name].node)[0]
        return [self.leaf[n] for n in sorted(names, key=lambda n: self.own_memory(unit(n)) != hold.memory)]

    def _dealt(self, hold: Hold, box: dict[str, tuple[int, int]]) -> int:
        """Instances of the hold's memory among which its users' spatial loops deal the tensor out."""
        shares: dict[str, int] = {}
        for rank, n in self.spatial(self.users(hold)[0], hold.memory):
            shares[rank] = shares.get(rank, 1) * n
        return math.prod(min(n, box[rank][1]) for rank, n in shares.items() if rank in box)


def unit_names(node: Compute) -> tuple[str, ...]:
    """The units of a leaf: `fma+mufu` gives each operation class to the first unit that executes it."""
    return tuple(node.unit.split("+"))


def own_memory(machine: Machine, unit: str) -> Memory:
    """The memory right above a unit, or above the arrays around it."""
    return next(n for n in reversed(machine.path(unit)[:-1]) if isinstance(n, Memory))
