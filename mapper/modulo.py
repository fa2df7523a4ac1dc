"""Static orders for the leaves of a pipe: each unit serves them in program order, or some work one tile behind.

The program order is cut in two, and what stands after the cut works for the tile before: each unit begins the next tile
before it ends this one, so that it need not wait for another unit in between. FuseMax's +Binding is the order without a
cut, turned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict, Sequence

from einsum.cascade import Access, Workload
from mapper.legality import carried
from mapper.mapping import Order
from mapper.tile import state_rank, storage
from mapper.work import GroupWork, Work

TILES = 64  # tiles that are tried with each cut
Stages = Dict[str, int]


def static_orders(group: GroupWork) -> tuple[tuple[Stages, Order], ...]:
    """(each leaf's stage, each unit's order): in program order, and, if faster, the cut whose first tiles end soonest.

    Durations and dependencies count, transfers and buffers do not. No order waits for itself in a circle.
    """
    names = tuple(dict.fromkeys(w.name for w in group.works))
    cuts = [{name: int(i >= k) for i, name in enumerate(names)} for k in range(len(names), 0, -1)]
    plain, *others = [(stages, _sequence(group, stages)) for stages in cuts]
    best = min((plain, *others), key=lambda cut: _time(group, *cut))
    return tuple(
        (stages, _order(group, sequence)) for stages, sequence in (plain, *([best] if best is not plain else []))
    )


def _order(group: GroupWork, sequence: Sequence[str]) -> Order:
    units: dict[str, list[str]] = {w.unit.name: [] for w in group.works}
    for name in sequence:
        for unit in dict.fromkeys(w.unit.name for w in group.works if w.name == name):
            units[unit].append(name)
    return Order(tuple((unit, tuple(leaves)) for unit, leaves in units.items()))


def reads(group: GroupWork, name: str) -> list[tuple[str, Access]]:
    """(leaf of the group, access) of what a leaf reads of the others' results."""
    cascade, made = group.nest.workload.cascade, {w.name for w in group.works}
    every = [(storage(cascade, a.tensor), a) for a in dict.fromkeys(cascade[name].reads)]
    return [(maker, access) for maker, access in every if maker in made]


def _sequence(group: GroupWork, stages: Stages) -> tuple[str, ...]:
    """The leaves of one step, those of the newest tile first where the data of the step allow it (SEMANTICS 4.11)."""
    workload: Workload = group.nest.workload
    waits = {n: {m for m, a in reads(group, n) if stages[m] - carried(a, workload) == stages[n]} for n in stages}
    left, sequence = sorted(stages, key=stages.__getitem__), []
    while left:
        name = next(n for n in left if waits[n] <= set(sequence))
        left.remove(name)
        sequence.append(name)
    return tuple(sequence)


def _time(group: GroupWork, stages: Stages, sequence: Sequence[str]) -> float:
    """Seconds until the first tiles have ended in this order."""
    waits = {n: [(m, back) for m, a in reads(group, n) if (back := tiles_back(group, a)) is not None] for n in stages}
    works: dict[str, list[tuple[str, float]]] = {name: [] for name in stages}
    for w in group.works:
        works[w.name].append((w.unit.name, tile_seconds(group, w)))
    free = dict.fromkeys((w.unit.name for w in group.works), 0.0)
    ends: dict[tuple[str, int], float] = {}
    for step in range(TILES + 1):
        for name in sequence:
            tile = step - stages[name]
            if 0 <= tile < TILES:
                ready = max((ends.get((maker, tile - back), 0.0) for maker, back in waits[name]), default=0.0)
                for unit, seconds in works[name]:
                    free[unit] = max(free[unit], ready) + seconds
                ends[name, tile] = max(free[unit] for unit, _ in works[name])
    return max(free.values())


def tiles_back(group: GroupWork, access: Access) -> int | None:
    """By how many tiles earlier what is read was made; None if before all tiles."""
    workload = group.nest.workload
    if not carried(access, workload):
        return 0
    positions = group.nest.positions(state_rank(workload.cascade, access.tensor) or "")
    return math.prod(loop.count for loop in group.nest.loops[positions[-1] + 1 :]) if positions else None


def tile_seconds(group: GroupWork, work: Work) -> float:
    """What a leaf takes in an average tile."""
    return group.total(work.when, work.cycles) / work.unit.clock_hz / group.nest.count()
