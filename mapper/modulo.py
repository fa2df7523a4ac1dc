"""A static order for the leaves of a pipe: some work one iteration behind, so that no unit waits for another.

The program order is cut in two; what stands after the cut works one tile behind, and each unit serves that first. So
FuseMax's +Binding runs: its cut stands after LM. Of all cuts the one whose first tiles end soonest is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from einsum.cascade import Workload
from mapper.legality import carried
from mapper.mapping import Order
from mapper.tile import state_rank, storage
from mapper.work import GroupWork, Work

TILES = 64  # tiles that are tried with each cut


def static_order(group: GroupWork) -> tuple[frozenset[str], Order]:
    """(the leaves of stage 1, for each unit the order of its leaves); of equal cuts the one with fewest behind."""
    names = tuple(dict.fromkeys(w.name for w in group.works))
    waits = {name: tuple(_waits(group, name)) for name in names}
    cuts = [(names[k:], names[:k]) for k in range(len(names), 0, -1)]
    behind, front = min(cuts, key=lambda cut: _time(group, *cut, waits))
    units: dict[str, tuple[str, ...]] = {}
    for w in group.works:
        mine = {other.name for other in group.works if other.unit.name == w.unit.name}
        units[w.unit.name] = tuple(name for name in (*behind, *front) if name in mine)
    return frozenset(behind), Order(tuple(units.items()))


def _waits(group: GroupWork, name: str) -> Iterator[tuple[str, int]]:
    """(leaf, by how many tiles earlier) of what a leaf reads of the group's results."""
    workload: Workload = group.nest.workload
    made = {w.name for w in group.works}
    for access in dict.fromkeys(workload.cascade[name].reads):
        maker = storage(workload.cascade, access.tensor)
        if maker not in made:
            continue
        back = carried(access, workload)
        positions = group.nest.positions(state_rank(workload.cascade, access.tensor) or "") if back else ()
        if not back:
            yield maker, 0
        elif positions:
            yield maker, math.prod(loop.count for loop in group.nest.loops[positions[-1] + 1 :])


def _time(group: GroupWork, behind: tuple[str, ...], front: tuple[str, ...], waits) -> float:
    """Seconds until the first tiles have ended under this order, transfers left out."""
    works: dict[str, list[tuple[str, float]]] = {}
    for w in group.works:
        works.setdefault(w.name, []).append((w.unit.name, _seconds(group, w)))
    free = dict.fromkeys((w.unit.name for w in group.works), 0.0)
    ends: dict[tuple[str, int], float] = {}
    for step in range(TILES + 1):
        for tile, names in ((step - 1, behind), (step, front)):
            for name in names if 0 <= tile < TILES else ():
                ready = max((ends.get((maker, tile - back), 0.0) for maker, back in waits[name]), default=0.0)
                for unit, seconds in works[name]:
                    free[unit] = max(free[unit], ready) + seconds
                ends[name, tile] = max(free[unit] for unit, _ in works[name])
    return max(free.values())


def _seconds(group: GroupWork, work: Work) -> float:
    """What a leaf takes in an average tile."""
    return group.total(work.when, work.cycles) / work.unit.clock_hz / group.nest.count()
