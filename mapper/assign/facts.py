"""What there is to decide about a pipe, and what that decides: the facts behind `mapper.assign`. SEMANTICS 8.9.

Times are seconds in an average tile, so that what runs only in a loop's last iteration counts as often as it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping as Dict, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

from arch.machine import Array, Machine, Memory, Node as Part
from einsum.cascade import Einsum, Workload
from einsum.problems import InputError
from mapper.check import check
from mapper.cost import instances, port_bytes_per_s
from mapper.legality import carried
from mapper.mapping import Compute, Greedy, Group, Hold, Leaf, Loop, Mapping, Node, Pipe
from mapper.modulo import reads, tile_seconds, tiles_back
from mapper.nest import NestLoop
from mapper.place import Placement, own_memory, unit_names
from mapper.search.group import units_of
from mapper.tile import state_rank
from mapper.work import GroupWork, Transfer, group_works

Change = Callable[[Pipe], Pipe]


@dataclass(frozen=True)
class Candidate:
    """A leaf on one of the units that can execute it."""

    node: Compute
    units: Dict[str, float]  # unit -> seconds that it is busy
    ports: Dict[str, float]  # memory port -> seconds that the leaf's own accesses keep it busy
    reads: Dict[str, float]  # tensor -> seconds that it takes to the unit, if a port limits that
    write: float  # seconds that the result takes from there (SEMANTICS 6.16)

    @property
    def length(self) -> float:
        """Seconds until all its units are through; they begin together (SEMANTICS 5.4)."""
        return max(self.units.values(), default=0.0)


@dataclass(frozen=True)
class Wait:
    """`after` starts when `before` has ended `tiles` tiles earlier; None: this binds no time. In the sequence of steps
    it comes no earlier than `before` does `steps` steps earlier, or the two would wait for each other."""

    before: str
    after: str
    tiles: int | None
    steps: int
    reads: bool  # `after` reads what `before` makes
    moved: float = 0.0  # seconds of transfers by holds in between


@dataclass(frozen=True)
class Life:
    """A buffer that each tile takes anew: from its first user's start to its last user's end, and while it is moved."""

    where: str
    users: tuple[str, ...]
    deep: int
    moved: float  # seconds of its transfers


@dataclass(frozen=True)
class Stored:
    """A hold whose bytes depend on its first user: the first with a unit right below the memory, else the first."""

    memory: str
    users: tuple[str, ...]
    below: Dict[tuple[str, int], bool]  # (user, candidate) -> whether its unit is right below the memory
    nbytes: Dict[tuple[str, int], float]  # the same -> bytes if this user is the first


@dataclass(frozen=True)
class Facts:
    """A pipe as a problem. Leaves stand in the cascade's order; the first candidate of each is the given one."""

    group: GroupWork
    pipe: Pipe
    candidates: Dict[str, tuple[Candidate, ...]]
    waits: tuple[Wait, ...]
    lives: tuple[Life, ...]
    stored: tuple[Stored, ...]
    ports: Dict[str, float]  # port -> seconds of the transfers that holds imply
    capacity: Dict[str, float]  # memory -> bytes, where they are limited
    clock_hz: float

    @property
    def leaves(self) -> tuple[str, ...]:
        return tuple(self.candidates)

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(u for found in self.candidates.values() for c in found for u in c.units))


def with_pipe(mapping: Mapping, name: str, change: Change) -> Mapping:
    """The mapping with another pipe in the group of that name."""
    groups = tuple(
        replace(g, body=tuple(_piped(n, change) for n in g.body)) if g.name == name else g for g in mapping.groups
    )
    return replace(mapping, groups=groups, places={})


def _piped(node: Node, change: Change) -> Node:
    if isinstance(node, Loop):
        return replace(node, body=tuple(_piped(n, change) for n in node.body))
    return change(node) if isinstance(node, Pipe) else node


def with_leaves(pipe: Pipe, nodes: Dict[str, Compute], cascade: tuple[str, ...]) -> Pipe:
    """The pipe with some leaves replaced, in the cascade's order, so that of one stage none reads what comes later."""
    body = [nodes.get(n.einsum, n) if isinstance(n, Compute) else n for n in pipe.body]
    place = lambda n: cascade.index(n.einsum) if isinstance(n, Compute) else -1
    return replace(pipe, body=tuple(sorted(body, key=place)))


def facts(mapping: Mapping, workload: Workload, machine: Machine, group: Group, rebind: bool = True) -> Facts:
    """What can be decided about a group with a pipe; without `rebind`, each leaf's only candidate is the given one.

    The mapping must be legal but for its capacities.
    """
    names = tuple(e.name for e in workload.cascade.einsums)

    def loose(pipe: Pipe) -> Pipe:
        nodes = {n.einsum: replace(n, stage=0) for n in pipe.body if isinstance(n, Compute)}
        return replace(with_leaves(pipe, nodes, names), schedule=Greedy())

    base = with_pipe(mapping, group.name, loose)
    work = _work(base, workload, machine, group.name)
    assert isinstance(work.parent, Pipe)
    nodes = {n.einsum: n for n in work.parent.body if isinstance(n, Compute)}
    trial = lambda node: with_pipe(base, group.name, lambda pipe: with_leaves(pipe, {node.einsum: node}, names))
    legal = lambda node: _legal(trial(node), workload, machine)
    candidates = {
        name: tuple(
            _candidate(_work(trial(n), workload, machine, group.name), n, machine)
            for n in (node, *(_elsewhere(node, work, machine, legal) if rebind else ()))
        )
        for name, node in nodes.items()
    }
    moves = [t for t in work.transfers if t.kind in ("fill", "drain")]
    return Facts(
        work,
        work.parent,
        candidates,
        tuple(_waits(work, machine)),
        tuple(_lives(work, machine)),
        tuple(_stored(work, workload, machine, candidates)),
        _busy_ports(work, moves, machine),
        {m.name: m.capacity_bytes for m in machine.memories if m.capacity_bytes is not None},
        machine.clock_hz,
    )


def _work(mapping: Mapping, workload: Workload, machine: Machine, name: str) -> GroupWork:
    return next(g for g in group_works(mapping, workload, machine) if g.group.name == name)


def _legal(mapping: Mapping, workload: Workload, machine: Machine) -> bool:
    """Whether the mapping is legal, capacities aside."""
    try:
        check(mapping, workload, replace(machine, root=_boundless(machine.root)))
    except InputError:
        return False
    return True


def _boundless(part: Part) -> Part:
    if isinstance(part, Memory | Array):
        part = replace(part, children=tuple(map(_boundless, part.children)))
    return replace(part, capacity_bytes=None) if isinstance(part, Memory) else part


def _elsewhere(node: Compute, work: GroupWork, machine: Machine, legal: Callable[[Compute], bool]) -> Iterator[Compute]:
    """The leaf on each other unit, dealt out over its axes in the legal way that takes the fewest cycles."""
    einsum = work.nest.workload.cascade[node.einsum]
    outside = {loop.axis for loop in work.nest.loops}
    for unit in units_of(einsum, machine):
        if set(unit.split("+")) == set(unit_names(node)):
            continue
        first = unit.split("+")[0]
        axes = [(f"{a}.{x.name}", x) for a, x in machine.axes(first) if f"{a}.{x.name}" not in outside]
        ranks = [r for r in einsum.ranks if work.nest.extent(r) > 1 and r != einsum.iterative]
        able = [[None, *(r for r in ranks if r not in einsum.reduced or axis.reduce)] for _, axis in axes]
        spreads = [
            {r: axis for (axis, _), r in zip(axes, chosen, strict=True) if r}
            for chosen in product(*able)
            if len(set(filter(None, chosen))) == sum(map(bool, chosen))
        ]
        steps = lambda spread: math.prod(
            math.ceil(work.nest.extent(r) / (machine.axis(spread[r]).size if r in spread else 1)) for r in einsum.ranks
        )
        dealt = (_loops(einsum, spread, work, machine, first) for spread in sorted(spreads, key=steps))
        yield from islice(filter(legal, (replace(node, unit=unit, loops=loops) for loops in dealt)), 1)


def _loops(einsum: Einsum, spread: Dict[str, str], work: GroupWork, machine: Machine, unit: str) -> tuple[Loop, ...]:
    """Loops of the leaf's own: turns in time, those that a hold passes `along` first, then the axes."""
    held = [h for loop in work.nest.loops for h in loop.source.holds]
    touched = {einsum.name, *(a.tensor for a in einsum.reads)}
    first = {h.along for h in held if h.tensor in touched}
    turns: list[Loop] = []
    for rank in sorted(einsum.ranks, key=lambda r: r not in first):
        at_once = machine.axis(spread[rank]).size if rank in spread else 1
        if work.nest.extent(rank) > at_once and (machine.unit(unit).lanes == 1 or rank in spread):
            turns.append(Loop((rank,), (at_once,)))
    return (*turns, *(Loop((rank,), (1,), over=axis) for rank, axis in spread.items()))


def _candidate(work: GroupWork, node: Compute, machine: Machine) -> Candidate:
    units = {w.unit.name: tile_seconds(work, w) for w in work.works if w.name == node.einsum}
    own = [t for t in work.transfers if t.kind in ("read", "write") and t.einsums == (node.einsum,)]
    took = [(t, _seconds(work, t, machine)) for t in own]
    reads = {t.tensor: seconds for t, seconds in took if t.kind == "read" and seconds}
    write = max((seconds for t, seconds in took if t.kind == "write"), default=0.0)
    return Candidate(node, units, _busy_ports(work, own, machine), reads, write)


def _seconds(work: GroupWork, transfer: Transfer, machine: Machine) -> float:
    """What one transfer takes in an average tile if nothing is in its way; 0 where no port limits it."""
    busy = max(_busy_ports(work, [transfer], machine).values(), default=0.0)
    return busy + machine.memory(transfer.source).latency_s if busy else 0.0


def _busy_ports(work: GroupWork, transfers: list[Transfer], machine: Machine) -> dict[str, float]:
    """Seconds of each limited port in an average tile of one instance."""
    busy: dict[str, float] = {}
    tiles = work.nest.count() / instances(work, machine)
    for transfer in transfers:
        moved = work.total(transfer.when, transfer.nbytes)
        for place, detail, copies in transfer.ends:
            memory = machine.memory(place)
            if bandwidth := port_bytes_per_s(memory, detail):
                shared = bandwidth * (instances(work, machine) if machine.instances(place) > 1 else 1)
                port = place if memory.shared_port else f"{place} {detail}"
                busy[port] = busy.get(port, 0.0) + moved * copies / shared / tiles
    return busy


def _waits(work: GroupWork, machine: Machine) -> Iterator[Wait]:
    """Of reads (4.10, 4.11); of a state's buffer that is filled again after it was drained; where several tiles share a
    hold's contents, of the next ones for the last users of these."""
    nest, cascade = work.nest, work.nest.workload.cascade
    for name in dict.fromkeys(w.name for w in work.works):
        for maker, access in reads(work, name):
            back = tiles_back(work, access)
            if back is not None:
                yield Wait(maker, name, back, carried(access, nest.workload), reads=True)
    for hold, moves in _moved(work).items():
        inside = nest.loops[moves[0].depth :]
        shared = [t for t in work.transfers if t.hold and t.tensor == moves[0].tensor and t.depth >= moves[0].depth]
        users = tuple(dict.fromkeys(name for t in shared for name in t.einsums))
        rank, seconds = state_rank(cascade, hold.tensor), sum(_seconds(work, t, machine) for t in moves)
        if rank and len(moves) == 2:
            back = nest.loops[nest.positions(rank)[-1] + 1 :]
            tiles, steps = math.prod(loop.count for loop in back), math.prod(map(_least, back))
            yield from (Wait(a, b, tiles, steps, reads=False, moved=seconds) for a in users for b in users)
        elif math.prod(loop.count for loop in inside) > 1:
            steps = _tiles_held(moves[0], hold.deep, inside)
            yield from (Wait(a, b, None, steps, reads=False) for a in users for b in users)


def _moved(work: GroupWork) -> dict[Hold, list[Transfer]]:
    """The fill and the drain of each hold."""
    found: dict[Hold, list[Transfer]] = {}
    for transfer in work.transfers:
        if transfer.hold:
            found.setdefault(transfer.hold, []).append(transfer)
    return found


def _least(loop: NestLoop) -> int:
    """Iterations that a loop has at least: its bounds may depend on outer loops."""
    return loop.count if len(loop.start) + len(loop.stop) == 2 else 1


def _tiles_held(move: Transfer, deep: int, inside: Sequence[NestLoop]) -> int:
    """Tiles after the last use of a buffer in which it has to be filled anew, at least (6.17): `deep` iterations of the
    hold's loop after its first use."""
    idle = {position - move.depth for position, _ in move.when}
    if any(_least(loop) < loop.count for loop in inside):
        return deep
    tiles, last = 1, 0
    for i, loop in reversed(tuple(enumerate(inside))):
        last += (loop.count - 1) * tiles if i in idle else 0
        tiles *= loop.count
    return deep * tiles - last


def _lives(work: GroupWork, machine: Machine) -> Iterator[Life]:
    """The holds of one tile: those that are moved, and those of tensors that live within it (SEMANTICS 6.17, 6.18)."""
    for hold, moves in _moved(work).items():
        if math.prod(loop.count for loop in work.nest.loops[moves[0].depth :]) > 1:
            continue
        users = tuple(dict.fromkeys(name for t in moves for name in t.einsums))
        moved = sum(_seconds(work, t, machine) for t in moves)
        yield Life(f"{hold.tensor} in {hold.memory}", users, hold.deep, moved)
    cascade, names = work.nest.workload.cascade, dict.fromkeys(w.name for w in work.works)
    local = work.nest.loops[-1].source.holds if work.nest.loops else ()
    passed = {name for hold in local if hold.inplace for name in (hold.tensor, hold.inplace)}
    for hold in local:
        lives = hold.tensor in names and not state_rank(cascade, hold.tensor) and not hold.along
        if lives and hold not in _moved(work) and hold.tensor not in passed:
            users = [n for n in names if any(a.tensor == hold.tensor for a in cascade[n].reads)]
            yield Life(f"{hold.tensor} in {hold.memory}", (hold.tensor, *users), hold.deep, 0.0)


def _stored(
    work: GroupWork, workload: Workload, machine: Machine, candidates: Dict[str, tuple[Candidate, ...]]
) -> Iterator[Stored]:
    """The bytes of every hold for each user that may be its first."""
    loops = tuple(dict.fromkeys(loop.source for loop in work.nest.loops))
    place = Placement(workload, machine, [w.leaf for w in work.works])
    for i, loop in enumerate(loops):
        for hold in loop.holds:
            names = (hold.tensor, *place.readers(hold.tensor))
            users = tuple(n for n in dict.fromkeys(names) if n in candidates and (not hold.users or n in hold.users))
            alone = tuple(replace(x, holds=(hold,) if n == i else ()) for n, x in enumerate(loops))
            below, nbytes = {}, {}
            for user in users:
                for k, candidate in enumerate(candidates[user]):
                    leaf = Leaf(candidate.node, alone, None, "")
                    below[user, k] = own_memory(machine, unit_names(candidate.node)[0]).name == hold.memory
                    nbytes[user, k] = next(Placement(workload, machine, [leaf]).footprints())[2]
            yield Stored(hold.memory, users, below, nbytes)
