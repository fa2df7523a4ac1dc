"""The transfers that holds and leaves imply. SEMANTICS 5.6 and 5.7."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from einsum.cascade import Access, rank_variables
from mapper.mapping import Compute, Hold, Leaf
from mapper.nest import When
from mapper.place import Placement, Variants, unit_names
from mapper.tile import overflowing, state_rank, storage, varying_ranks, whole


@dataclass(frozen=True)
class Transfer:
    """Bytes of a tensor that one grid instance moves in a tile that satisfies `when`.

    `fill` brings a hold's slice in, `drain` takes it out; `read` and `write` go between the memory that holds a
    leaf's operand and the one right above its unit. `copies`: instances of the target that receive each element.
    `spilled`: the part of an access that a partial hold sends on to the next memory out, where alone it counts.
    """

    kind: str  # fill | drain | read | write
    tensor: str
    source: str  # memory
    target: str  # memory
    when: When
    nbytes: Variants
    einsums: tuple[str, ...]  # readers of a fill or read, writers of a drain or write
    hold: Hold | None = None  # of a fill or drain
    depth: int = 0  # the hold stands on the nest's loop `depth - 1`
    copies: int = 1
    spilled: bool = False

    @property
    def name(self) -> str:
        return f"{'spilled ' if self.spilled else ''}{self.kind} {self.tensor} {self.source}>{self.target}"

    @property
    def ends(self) -> tuple[tuple[str, str, int], ...]:
        """(memory, "read" | "write", times) of each access that it makes."""
        read, write = (self.source, "read", 1), (self.target, "write", self.copies)
        if self.spilled:
            return (read,) if self.kind in ("fill", "read") else (write,)
        return read, write


def transfers(place: Placement) -> Iterator[Transfer]:
    """Everything that a tile of the group moves."""
    for tensor in dict.fromkeys(h.tensor for loop in place.loops for h in loop.holds):
        outer, around = place.home(tensor), None
        for hold, depth in place.holds(tensor, place.loops):
            if outer not in (None, hold.memory) and not hold.kept:
                for transfer in _in_and_out(place, tensor, hold, depth, outer):
                    yield from _with_spill(place, transfer, around)
            outer, around = hold.memory, hold
    for leaf in place.leaf.values():
        yield from _accesses(place, leaf)


def _with_spill(place: Placement, transfer: Transfer, held: Hold | None) -> Iterator[Transfer]:
    """The access of a held tensor and, if only a part is held, what goes on to the next memory out."""
    yield transfer
    if held is not None and held.part < 1:
        outer, inner = place.beyond(held.memory), held.memory
        ends = (outer, inner) if transfer.kind in ("fill", "read") else (inner, outer)
        rest = tuple((when, (1 - held.part) * n) for when, n in transfer.nbytes)
        kind = {"fill": "read", "drain": "write"}.get(transfer.kind, transfer.kind)
        yield replace(transfer, kind=kind, source=ends[0], target=ends[1], nbytes=rest, hold=None, spilled=True)


def _in_and_out(place: Placement, tensor: str, hold: Hold, depth: int, outer: str) -> Iterator[Transfer]:
    """What a hold implies: it brings its slice in from the next hold out, or takes it there, or both (a state)."""
    cascade, name = place.cascade, storage(place.cascade, tensor)
    ranks = varying_ranks(cascade, tensor)
    idle = [i for i, loop in enumerate(place.nest.loops) if i >= depth and loop.rank not in ranks]
    access = whole(cascade, tensor)
    cut, short = overflowing(place.workload, access), place.short_of(tensor)
    kinds = place.bytes(cascade.tensor[tensor].ranks, cut, access, hold.part, short)
    state = state_rank(cascade, tensor)
    user = lambda einsum: not hold.users or einsum in hold.users
    written = tensor in place.leaf and user(tensor)
    carried = written and any(loop.rank == state for loop in place.nest.loops[:depth])
    readers = tuple(filter(user, place.readers(tensor)))
    partial = _split(place, tensor, depth) if written else ()
    if not written or carried or partial:
        reads, copies = place.fan_out(place.users(hold)[0], hold.memory, ranks)
        when = tuple((i, "first") for i in idle)
        brought = tuple((cut, reads * n) for cut, n in kinds)
        if partial and not carried:  # nothing has been added up the first time
            brought = tuple(pair for cut, n in brought for pair in (((*cut, *partial), 0.0), (cut, n)))
        yield Transfer("fill", name, outer, hold.memory, when, brought, readers, hold, depth, copies)
    if written:
        when = tuple((i, "last") for i in idle)
        yield Transfer("drain", name, hold.memory, outer, when, kinds, (tensor,), hold, depth)


def _split(place: Placement, tensor: str, depth: int) -> When:
    """The first iterations of the loops around a hold that the tensor is added up over."""
    loops = enumerate(place.nest.loops[:depth])
    return tuple((i, "first") for i, loop in loops if loop.rank in place.cascade[tensor].reduced and loop.axis is None)


def _accesses(place: Placement, leaf: Leaf[Compute]) -> Iterator[Transfer]:
    """The leaf's own reads and writes of memories other than its unit's own, through which they pass."""
    node, einsum = leaf.node, place.cascade[leaf.node.einsum]
    own, name = place.own_memory(unit_names(node)[0]), einsum.name
    when = tuple((i, side) for rank, side in node.at for i in place.nest.positions(rank))

    def moved(kind: str, access: Access, source: str, target: str, kinds: Variants) -> Iterator[Transfer]:
        used = rank_variables(access)
        copies = place.fan_out(leaf, own, used)[1] if kind == "read" else 1
        tensor = storage(place.cascade, access.tensor)
        made = Transfer(kind, tensor, source, target, when, kinds, (name,), copies=copies)
        yield from _with_spill(place, made, place.hold(access.tensor, leaf))

    def kinds(access: Access, times: int) -> Variants:
        return place.bytes(einsum.ranks, place.cut(einsum), access, times, place.short(einsum, access))

    for access in dict.fromkeys(einsum.reads):
        memory = place.memory(access.tensor, leaf)
        if memory != own:
            yield from moved("read", access, memory, own, kinds(access, _repeats(place, leaf, access)))
    memory, output = place.memory(name, leaf), einsum.output
    if memory != own:
        times, started = _repeats(place, leaf, output), place.started(einsum)
        yield from moved("write", output, own, memory, kinds(output, times))
        if started:  # partial results come back to be added to, all but the first
            again = kinds(output, times)
            first = tuple(((*when, *started), n) for when, n in kinds(output, times - 1))
            merged = tuple(pair for both in zip(first, again, strict=True) for pair in both)
            yield from moved("read", output, memory, own, merged)
        elif times > 1:
            yield from moved("read", output, memory, own, kinds(output, times - 1))


def _repeats(place: Placement, leaf: Leaf[Compute], access: Access) -> int:
    """How often each element is fetched in a tile: once for every iteration of a private temporal loop that does not
    vary it but encloses one that does, and for every instance along an axis that cannot multicast (results: reduce)."""
    result = access is place.cascade[leaf.node.einsum].output
    loops, used = leaf.node.loops, set(rank_variables(access))
    left = {rank: place.nest.extent(rank) for loop in loops for rank in loop.ranks}
    counts = []
    for loop in loops:
        counts.append(math.prod(math.ceil(left[r] / t) for r, t in zip(loop.ranks, loop.tile, strict=True)))
        left |= {r: min(left[r], t) for r, t in zip(loop.ranks, loop.tile, strict=True)}
    each = tuple(zip(loops, counts, strict=True))
    varies = [loop.over is None and n > 1 and bool(used & set(loop.ranks)) for loop, n in each]
    repeats = 1
    for i, (loop, count) in enumerate(each):
        if used & set(loop.ranks):
            continue
        if loop.over is None:
            repeats *= count if any(varies[i:]) else 1
            continue
        axis = place.machine.axis(loop.over)
        if not (axis.reduce if result else axis.multicast):
            repeats *= min(count, axis.size)
    return repeats
