"""A loop nest of another tool, one Einsum's, as a group of a mapping, and back.

There spatial loops stand between temporal ones, and a memory inside an array holds its share of a tensor inside them.
Here spatial loops are the leaf's own, innermost, and a hold on a temporal loop names the memory inside the array, among
whose instances they deal it out (SEMANTICS 5.8). So temporal loops inside a spatial one over the same rank take as many
times its tile: coordinates go to the instances in turn rather than in blocks, and everything counted stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arch.machine import Machine
from einsum.cascade import Einsum, Workload, rank_variables
from mapper.exchange.source import View
from mapper.mapping import Compute, Group, Hold, Key, Loop, Node
from mapper.tile import storage


@dataclass(frozen=True)
class Step:
    """A loop in the order of the file: `tile` coordinates of the rank an iteration, over an axis if spatial."""

    rank: str
    tile: int
    over: str | None
    view: View | None = None


@dataclass(frozen=True)
class Store:
    """A memory keeps a tensor inside the first `depth` steps."""

    tensor: str
    memory: str
    depth: int
    view: View | None = None


Places = dict[Key, tuple[str, int]]


def group(
    einsum: Einsum, steps: Sequence[Step], stores: Sequence[Store], unit: str, workload: Workload, at: tuple[int, View]
) -> tuple[Group, Places]:
    """The group of one Einsum; InputError at a loop that cannot be moved around a spatial one."""
    index, view = at
    temporal, spatial = _moved(steps, workload, view)
    places: Places = {(index,): view.where}
    held: dict[int, list[tuple[Hold, View | None]]] = {}  # index of a temporal loop, -1 outside of all -> its holds
    for store in stores:
        outside = sum(step.over is None for step in steps[: store.depth]) - 1
        held.setdefault(outside, []).append((Hold(store.tensor, store.memory), store.view))
    if -1 in held:  # a hold needs a loop to stand on: one iteration over all of a rank
        rank = einsum.ranks[0]
        temporal.insert(0, Step(rank, workload.extent(rank), None, held[-1][0][1]))
        held = {i + 1: holds for i, holds in held.items()}
    for i in reversed(range(len(temporal) - 1)):  # a loop right inside one over the same rank does the same alone
        outer, inner = temporal[i], temporal[i + 1]
        if outer.rank == inner.rank and i not in held and outer.tile % inner.tile == 0:
            del temporal[i]
            held = {at - (at > i): holds for at, holds in held.items()}
    node: Node = Compute(einsum.name, unit, loops=_merged(spatial))
    for i in reversed(range(len(temporal))):
        key: Key = (index, *(0,) * (i + 1))
        places[key] = (temporal[i].view or view).where
        places |= {(*key, "holds", j): (place or view).where for j, (_, place) in enumerate(held.get(i, ()))}
        node = Loop((temporal[i].rank,), (temporal[i].tile,), holds=tuple(h for h, _ in held.get(i, ())), body=(node,))
    places[index, *(0,) * (len(temporal) + 1)] = view.where
    return Group(einsum.name, (node,)), places


def _moved(steps: Sequence[Step], workload: Workload, view: View) -> tuple[list[Step], list[Step]]:
    """Temporal and spatial steps, the spatial ones taken inside."""
    temporal, spatial, left = [], [], {rank: workload.extent(rank) for rank in workload.cascade.ranks}
    spread: dict[str, int] = {}  # rank -> instances of the spatial loops over it so far
    counts = []
    for step in steps:
        around, left[step.rank] = left[step.rank], min(step.tile, left[step.rank])
        counts.append(math.ceil(around / step.tile))
        if step.over is not None:
            spread[step.rank] = spread.get(step.rank, 1) * counts[-1]
        elif spread.get(step.rank, 1) == 1:
            temporal.append(step)
        else:
            temporal.append(Step(step.rank, step.tile * spread[step.rank], None, step.view))
            if around % step.tile or workload.extent(step.rank) % temporal[-1].tile:
                raise (step.view or view).fail(
                    f"tiles of {step.rank} inside the spatial loop over it do not divide it evenly"
                )
    for step, count in reversed(list(zip(steps, counts, strict=True))):
        if step.over is not None:
            spatial.insert(0, Step(step.rank, left[step.rank], step.over, step.view))
            left[step.rank] *= count
    return temporal, spatial


def _merged(spatial: Sequence[Step]) -> tuple[Loop, ...]:
    """One loop an axis: several ranks on it are a product, the last fastest."""
    by_axis: dict[str, list[Step]] = {}
    for step in spatial:
        by_axis.setdefault(step.over or "", []).append(step)
    return tuple(
        Loop(tuple(s.rank for s in same), tuple(s.tile for s in same), over=over) for over, same in by_axis.items()
    )


def hoisted(store: Store, steps: Sequence[Step], ranks: Sequence[str], least: int) -> Store:
    """The store outside the temporal loops right around it that do not vary the tensor: nothing changes in them."""
    depth = store.depth
    while depth > least and (steps[depth - 1].over is not None or steps[depth - 1].rank not in ranks):
        depth -= 1
    return Store(store.tensor, store.memory, depth, store.view)


def touched(einsum: Einsum, workload: Workload) -> dict[str, tuple[str, ...]]:
    """Tensor (the storage of views) -> rank variables that vary it, results first."""
    found: dict[str, tuple[str, ...]] = {}
    for access in (einsum.output, *einsum.reads):
        name = storage(workload.cascade, access.tensor)
        ranks = tuple(dict.fromkeys(rank for index in access.indices for rank in rank_variables(index)))
        found[name] = tuple(dict.fromkeys((*found.get(name, ()), *ranks)))
    return found


def steps_of(
    loops: Sequence[Loop], leaf: Compute, machine: Machine, workload: Workload, refuse: Callable[[str], Exception]
) -> tuple[list[Step], list[Store]]:
    """The inverse of `group`: spatial loops go outside of the first hold in a memory of their array."""
    spatial = [(_placed(loop, loops, machine, refuse), loop) for loop in leaf.loops]
    temporal = [(loop.ranks[0], loop.tile[0]) for loop in loops]
    counts, instances = _counts(temporal, [loop for _, loop in spatial], workload)
    steps: list[Step] = []
    stores: list[Store] = []
    for i in range(len(loops) + 1):
        before = len(steps)
        for at, loop in spatial:
            for rank, tile in zip(loop.ranks, loop.tile, strict=True) if at == i else ():
                inside = [n for (r, _), n in zip(temporal[i:], counts[i:], strict=True) if r == rank]
                steps.append(Step(rank, tile * math.prod(inside), loop.over))
        for hold in loops[i - 1].holds if i else ():
            within = [at for at, loop in spatial if hold.memory in below(loop.over, machine)]
            if any(at < i and hold.memory not in below(loop.over, machine) for at, loop in spatial):
                raise refuse(f"{hold.memory} keeps {hold.tensor} inside a hold in an array below it")
            stores.append(Store(hold.tensor, hold.memory, len(steps) if within else before))
        if i < len(loops):
            rank, tile = temporal[i]
            spread = math.prod(
                n for (at, loop), each in zip(spatial, instances, strict=True) if at <= i for r, n in each if r == rank
            )
            if spread > 1 and (tile % spread or workload.extent(rank) % tile):
                raise refuse(f"tiles of {rank} do not divide evenly among the instances of a spatial loop around them")
            steps.append(Step(rank, tile // spread, None))
    return steps, stores


def below(over: str | None, machine: Machine) -> tuple[str, ...]:
    """Nodes inside the array of an axis."""
    array = (over or "").partition(".")[0]
    return tuple(n.name for n in machine.nodes() if any(a.name == array for a in machine.path(n.name)[:-1]))


def _placed(loop: Loop, loops: Sequence[Loop], machine: Machine, refuse: Callable[[str], Exception]) -> int:
    """Temporal loops that stay outside of a spatial one."""
    if loop.over is None:
        raise refuse("temporal loops of a leaf's own: put them around the leaf")
    inside = below(loop.over, machine)
    return next((i + 1 for i, outer in enumerate(loops) if any(h.memory in inside for h in outer.holds)), len(loops))


def _counts(
    temporal: Sequence[tuple[str, int]], spatial: Sequence[Loop], workload: Workload
) -> tuple[list[int], list[list[tuple[str, int]]]]:
    """Iterations of each temporal loop, and of each rank of each spatial one."""
    left = {rank: workload.extent(rank) for rank in workload.cascade.ranks}

    def count(rank: str, tile: int) -> int:
        n, left[rank] = math.ceil(left[rank] / tile), min(tile, left[rank])
        return n

    counts = [count(rank, tile) for rank, tile in temporal]
    return counts, [[(r, count(r, t)) for r, t in zip(loop.ranks, loop.tile, strict=True)] for loop in spatial]
