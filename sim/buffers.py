"""Lowering of holds: the chains of tasks around each buffer.

What is moved into or out of a memory goes through a chain of zero-length tasks: `fill` (or `allocate`) takes a
buffer, `have` says that the slice is there, `used` that this tile and those before it are through with it, and
`drain` (or `free`) gives the buffer back. Rules 6.17 and 6.18.
"""

from __future__ import annotations

import math

from einsum.problems import InputError, Problem
from mapper.mapping import Hold
from mapper.tile import state_rank
from mapper.work import Transfer
from sim.builder import Builder
from sim.program import Dep, Slot, Task, When


def fills(b: Builder) -> None:
    """The fill of each hold, after the hold further out has the slice."""
    for hold, fill in b.held("fill"):
        slot = _slot(b, hold, fill)
        outer = [(h, t) for h, t in b.held("fill") if t.tensor == fill.tensor and t.target == fill.source]
        ends = b.move(fill, [Dep(f"have {_label(h, t)}") for h, t in outer], fill.name, (slot,))
        _have(b, hold, fill, ends)


def chains(b: Builder) -> None:
    """Connect each moved hold to its readers and writers, and give its buffer back after the last of them."""
    for (hold, _), moves in reversed(_by_hold(b).items()):  # inner holds first: their moves use the outer ones
        fill = next((t for t in moves if t.kind == "fill"), None)
        drain = next((t for t in moves if t.kind == "drain"), None)
        if fill and not drain:  # what another leaf of the tile puts further out
            b.wait(fill.name, *map(Dep, b.results(fill.tensor)))
        if drain and not fill:
            slot = _slot(b, hold, drain)
            first = tuple(When(w.loop, "first") for w in b.when(drain.when))
            _have(b, hold, drain, [b.add(Task(f"allocate {slot}", None, 0, (), first, acquires=(slot,)))])
        end = _use(b, hold, moves, drain)
        rank = state_rank(b.cascade, moves[0].tensor)
        if fill and drain and rank:  # the state that was put away is fetched again
            b.wait(fill.name, *(Dep(end, carried=c) for c in b.carried(rank, 1)))


def local(b: Builder) -> None:
    """Holds of tensors that live within a tile: a buffer from the producer's start to the last reader's end.

    Holds as deep as the tiles that may be open never wait, those `along` a rank are filled and read in step, and those
    overwritten in place pass from tile to tile element by element, which a tile is too coarse to show.
    """
    moved = [hold for hold, _ in _by_hold(b)]
    for hold in b.nest.loops[-1].source.holds if b.nest.loops else ():
        made = b.of(hold.tensor)
        if hold in moved or not made or state_rank(b.cascade, hold.tensor) or hold.along or hold.deep >= b.open:
            continue
        if hold.inplace or any(other.inplace == hold.tensor for other in b.nest.loops[-1].source.holds):
            continue
        readers = [b.name(w) for w in b.group.works if any(a.tensor == hold.tensor for a in w.einsum.reads)]
        name = f"{hold.tensor} in {hold.memory}"
        b.slots.append(Slot(name, hold.deep))
        begin = b.add(Task(f"allocate {name}", None, 0, acquires=(name,)))
        for task in made:
            b.wait(task, Dep(begin))
        b.add(Task(f"free {name}", None, 0, tuple(map(Dep, (*made, *readers))), releases=(name,)))


def _label(hold: Hold, move: Transfer) -> str:
    """The tensor and the memory that holds it."""
    return f"{move.tensor} in {hold.memory}"


def _by_hold(b: Builder) -> dict[tuple[Hold, int], list[Transfer]]:
    """The fill and the drain of each hold, by the depth at which it stands."""
    found: dict[tuple[Hold, int], list[Transfer]] = {}
    for hold, move in b.held("fill", "drain"):
        found.setdefault((hold, move.depth), []).append(move)
    return found


def _slot(b: Builder, hold: Hold, move: Transfer) -> str:
    """Buffers of a hold, counted in slices of a tile."""
    idle = {position for position, _ in move.when}
    inside = [loop for p, loop in enumerate(b.nest.loops) if p >= move.depth and p not in idle]
    varying = [loop.name for loop in inside if any(p in idle for f in (*loop.start, *loop.stop) for p, _ in f.terms)]
    if varying:
        what = "the slice held varies along a loop that reuses it; hold it further in"
        raise InputError(Problem(what, path=f"hold {hold.tensor} in {hold.memory}", got=varying[0]))
    name = _label(hold, move)
    b.slots.append(Slot(name, hold.deep * math.prod(loop.count for loop in inside)))
    return name


def _have(b: Builder, hold: Hold, move: Transfer, ends: list[str]) -> None:
    """The slice is there in this tile once it was brought, here or in the tile before that shares it."""
    name = f"have {_label(hold, move)}"
    chain = [Dep(name, carried=((w.loop, 1),)) for w in b.when(move.when)]
    b.add(Task(name, None, 0, (*map(Dep, ends), *chain)))


def _use(b: Builder, hold: Hold, moves: list[Transfer], drain: Transfer | None) -> str:
    """Let the users of a hold wait for it, and its end for the users; returns the task that frees the buffer."""
    label, when = _label(hold, moves[0]), b.when(moves[0].when)
    tensor, place = moves[0].tensor, hold.memory
    users = [task for t in moves for einsum in t.einsums for task in b.of(einsum)]
    users += [t.name for t in b.moves("fill") if t.tensor == tensor and t.source == place]
    users += [t.name for t in b.moves("drain") if t.tensor == tensor and t.target == place]
    users = list(dict.fromkeys(users))
    for task in users:
        b.wait(task, Dep(f"have {label}"))
    chain = [Dep(f"used {label}", carried=((w.loop, 1),)) for w in when]
    ends = [b.add(Task(f"used {label}", None, 0, (Dep(f"have {label}"), *map(Dep, users), *chain)))]
    if drain:
        ends = b.move(drain, [Dep(ends[0])], drain.name)
    last = tuple(When(w.loop, "last") for w in when)
    return b.add(Task(f"free {label}", None, 0, tuple(map(Dep, ends)), last, releases=(label,)))
