"""Legality of a mapping whose names are known: loops cover the ranks, data is there when it is read (SEMANTICS 4.5 to 4.11)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import networkx

from arch.machine import Axis, Machine
from einsum.cascade import Access, Einsum, Workload, rank_variables
from mapper.mapping import Loop, Order, Phases, Pipe
from mapper.sites import Report, Site
from mapper.tile import state_rank, storage

WAVES = ("cyclic", "dynamic", "sorted")  # fills that deal out more iterations than an axis has instances


def check_nest(report: Report, leaves: tuple[Site, ...], workload: Workload, machine: Machine) -> None:
    """4.5 to 4.8: each leaf's loops walk exactly the ranks of its Einsum, on axes above its unit."""
    for leaf in leaves:
        einsum = workload.cascade[leaf.node.einsum]
        beside = [workload.cascade[other.node.einsum] for other in leaves if other.group is leaf.group]
        for loop in leaf.loops:
            _foreign_ranks(report, leaf, einsum, loop, beside)
        _conditions(report, leaf, einsum)
        for i, loop in enumerate(leaf.node.loops):
            for rank in loop.ranks:
                if rank not in einsum.ranks:
                    report.add((*leaf.key, "loops", i), f"{einsum.name} has no rank {rank}", leaf.path)
        tiles = _tiles(report, leaf, workload)
        if all(machine.unit(name).lanes == 1 for name in leaf.node.unit.split("+")):
            _single_points(report, leaf, einsum, tiles, workload)
        _axes(report, leaf, einsum, workload, machine)


def _foreign_ranks(report: Report, leaf: Site, einsum: Einsum, loop: Site, beside: list[Einsum]) -> None:
    """4.6: a loop over a rank that the Einsum lacks would repeat it, unless `at` picks one iteration."""
    for rank in loop.node.ranks:
        if rank in einsum.ranks:
            continue
        if not any(rank in other.ranks for other in beside):
            report.add(loop, f"no Einsum inside has rank {rank}")
        elif loop.node.over is not None:
            report.add(leaf, f"{einsum.name} has no rank {rank}, but the loop over {loop.node.over} spreads it along {rank}")
        elif rank not in dict(leaf.node.at):
            what = f"{einsum.name} has no rank {rank}, so the loop over {rank} would repeat it: say `at: {{{rank}: last}}`"
            report.add(leaf, what)


def _conditions(report: Report, leaf: Site, einsum: Einsum) -> None:
    """`at` picks an iteration of an enclosing temporal loop over a rank that the Einsum lacks."""
    around = [rank for loop in leaf.loops if loop.node.over is None for rank in loop.node.ranks]
    for rank, _ in leaf.node.at:
        if rank not in around:
            report.add(leaf, f"`at` names {rank}, which no temporal loop around walks")
        elif rank in einsum.ranks:
            report.add(leaf, f"{einsum.name} has rank {rank}: `at` would leave out its other iterations")


def _tiles(report: Report, leaf: Site, workload: Workload) -> dict[str, int]:
    """4.5: on one rank tiles shrink inward by whole factors; returns what each rank is left with."""
    left: dict[str, int] = {}
    for key, path, loop in _keyed_loops(leaf):
        for rank, tile in zip(loop.ranks, loop.tile, strict=True):
            outer = left.get(rank)
            if outer is not None and tile > outer:
                report.add(key, f"the tile of {rank} grows inward: {tile} inside {outer}", path)
            elif outer is not None and outer % tile:
                report.add(key, f"the tile of {rank} does not divide the one around it: {tile} inside {outer}", path)
            left[rank] = tile
    return {rank: min(tile, workload.extent(rank)) for rank, tile in left.items()}


def _keyed_loops(leaf: Site) -> Iterator[tuple[tuple, str, Loop]]:
    for site in leaf.loops:
        yield site.key, site.path, site.node
    for i, loop in enumerate(leaf.node.loops):
        yield (*leaf.key, "loops", i), leaf.path, loop


def _single_points(report: Report, leaf: Site, einsum: Einsum, tiles: dict[str, int], workload: Workload) -> None:
    """4.7: a unit of one lane takes one point at a time, so every rank is walked down to single coordinates."""
    for rank in einsum.ranks:
        if rank not in tiles:
            if workload.extent(rank) > 1:
                report.add(leaf, f"rank {rank} of {einsum.name} is not mapped: no loop walks it")
        elif tiles[rank] > 1:
            what = f"rank {rank} of {einsum.name} is not mapped to single coordinates: its innermost tile is {tiles[rank]}"
            report.add(leaf, what)


def _axes(report: Report, leaf: Site, einsum: Einsum, workload: Workload, machine: Machine) -> None:
    """4.8: a spatial loop's axis is above the unit, has room, and can reduce what the loop splits."""
    taken: dict[str, str] = {}
    left = {rank: workload.extent(rank) for rank in workload.cascade.ranks}
    for key, path, loop in _keyed_loops(leaf):
        counts = [math.ceil(left[r] / t) for r, t in zip(loop.ranks, loop.tile, strict=True)]
        left |= {r: min(t, left[r]) for r, t in zip(loop.ranks, loop.tile, strict=True)}
        if loop.over is None:
            continue
        ranks = ",".join(loop.ranks)
        for unit in leaf.node.unit.split("+"):
            axes = {f"{array}.{axis.name}": axis for array, axis in machine.axes(unit)}
            if loop.over not in axes:
                report.add(key, f"{loop.over} is not above {unit}, which has {', '.join(axes) or 'no array'} above it", path)
                break
        else:
            _one_axis(report, (key, path), loop, axes[loop.over], math.prod(counts), einsum)
        if loop.over in taken:
            report.add(key, f"{loop.over} is already taken by the loop over {taken[loop.over]}", path)
        taken[loop.over] = ranks


def _one_axis(report: Report, at: tuple, loop: Loop, axis: Axis, count: int, einsum: Einsum) -> None:
    key, path = at
    if count > axis.size and loop.fill not in WAVES:
        what = f"{count} iterations do not fit the {axis.size} of {loop.over}: tile it, or say how waves are dealt (`fill`)"
        report.add(key, what, path)
    for rank in loop.ranks:
        if rank in einsum.reduced and not axis.reduce:
            report.add(key, f"{loop.over} cannot reduce, but {einsum.name} sums over {rank} along it", path)
        if rank == einsum.iterative:
            report.add(key, f"{einsum.name} carries state along {rank}, so {rank} cannot be spread over {loop.over}", path)


def check_holds(
    report: Report, every: tuple[Site, ...], leaves: tuple[Site, ...], workload: Workload, machine: Machine
) -> None:
    """4.9: a held tensor is used inside, moves inward, and what it is walked along is walked in step."""
    for site in (s for s in every if isinstance(s.node, Loop)):
        users = [leaf for leaf in leaves if site in leaf.loops]
        for key, hold in site.holds:
            path = f"{site.path}.hold {hold.tensor}"
            own = [leaf for leaf in users if hold.tensor in _touched(leaf, workload)]
            if not own:
                report.add(key, f"no leaf inside the loop reads or writes {hold.tensor}", path)
            if hold.deep < 1:
                report.add(key, "needs at least one buffer", path, hold.deep)
            for outer in (h for around in site.loops for h in around.node.holds if h.tensor == hold.tensor):
                if outer.memory == hold.memory:
                    report.add(key, f"{hold.memory} already holds {hold.tensor} in a loop around", path)
                elif outer.memory not in (n.name for n in machine.path(hold.memory)):
                    report.add(key, f"{hold.memory} is not below {outer.memory}, where a loop around holds it", path)
            if hold.along is not None:
                _along(report, key, path, hold.along, hold.tensor, own)


def _touched(leaf: Site, workload: Workload) -> set[str]:
    einsum = workload.cascade[leaf.node.einsum]
    named = {einsum.name, *(access.tensor for access in einsum.reads)}
    return named | {storage(workload.cascade, tensor) for tensor in named}


def _along(report: Report, key: tuple, path: str, rank: str, tensor: str, users: list[Site]) -> None:
    for leaf in users:
        if not any(loop.ranks == (rank,) and loop.over is None for loop in leaf.node.loops):
            what = f"{leaf.node.einsum} does not walk {rank} in a loop of its own, so {tensor} cannot pass along it in step"
            report.add(key, what, path)


def check_dataflow(report: Report, leaves: tuple[Site, ...], workload: Workload) -> None:
    """4.10: what a leaf reads has been computed, completely, and a memory that both see still holds it."""
    by_name = {leaf.node.einsum: (i, leaf) for i, leaf in enumerate(leaves)}
    for leaf in leaves:
        for access in dict.fromkeys(workload.cascade[leaf.node.einsum].reads):
            source = storage(workload.cascade, access.tensor)
            if source in by_name:
                _flows(report, by_name[source], by_name[leaf.node.einsum], access, workload)
        _partial_results(report, leaf, workload)


def _flows(
    report: Report, producer: tuple[int, Site], consumer: tuple[int, Site], access: Access, workload: Workload
) -> None:
    (before, maker), (after, reader) = producer, consumer
    name, tensor = reader.node.einsum, maker.node.einsum
    if maker.group is not reader.group:
        if tensor not in workload.cascade.outputs:
            report.add(reader, f"{name} reads {tensor}, an intermediate of group {maker.group.name}: that is not costed yet")
        return
    if not any(hold.tensor in (tensor, access.tensor) for loop in reader.loops for hold in loop.node.holds):
        report.add(reader, f"{tensor} has nowhere to live: no loop around {tensor} and {name} holds it in a memory")
    shift = carried(access, workload)
    if maker.node.stage > reader.node.stage + shift:
        behind = maker.node.stage - reader.node.stage
        report.add(reader, f"{name} reads {tensor}, whose leaf runs {behind} iterations further behind")
    elif not shift and maker.node.stage == reader.node.stage and before > after:
        report.add(reader, f"{name} stands before {tensor}, which it reads")
    _completed(report, maker, reader, access, workload)


def carried(access: Access, workload: Workload) -> int:
    """1 if the access reads the state that the previous iteration left, such as RM[m1] of RM[m1+1]; else 0."""
    rank, tensor = state_rank(workload.cascade, access.tensor), workload.cascade.tensor[access.tensor]
    if rank is None:
        return 0
    written = workload.cascade[access.tensor].output.indices[tensor.ranks.index(rank)]
    index = access.indices[tensor.ranks.index(rank)]
    return int(rank in rank_variables(index) and index != written)


def _completed(report: Report, maker: Site, reader: Site, access: Access, workload: Workload) -> None:
    """A final value is read only after the last iteration of the loops that it is reduced or carried over."""
    einsum, used = workload.cascade[maker.node.einsum], rank_variables(access)
    final = (*einsum.reduced, *((einsum.iterative,) if einsum.iterative and einsum.iterative not in used else ()))
    for rank in final:
        shared = any(rank in loop.node.ranks and loop.node.over is None for loop in reader.loops)
        if shared and dict(reader.node.at).get(rank) != "last":
            what = f"{reader.node.einsum} reads {einsum.name} inside the loop over {rank}, before it is complete"
            report.add(reader, f"{what}: it needs the last {rank}, or a loop of its own")


def _partial_results(report: Report, leaf: Site, workload: Workload) -> None:
    """A result that a loop around accumulates or carries is held by a loop outside of that loop."""
    einsum = workload.cascade[leaf.node.einsum]
    for rank in (*einsum.reduced, *((einsum.iterative,) if einsum.iterative else ())):
        walked = [i for i, loop in enumerate(leaf.loops) if rank in loop.node.ranks and loop.node.over is None]
        outside = leaf.loops[: walked[0]] if walked else ()
        if walked and not any(hold.tensor == einsum.name for loop in outside for hold in loop.node.holds):
            verb = "carries" if rank == einsum.iterative else "accumulates"
            what = f"the loop over {rank} {verb} {einsum.name}: a loop around that one must hold it"
            report.add(leaf, what)


def check_order(report: Report, leaves: tuple[Site, ...], workload: Workload) -> None:
    """4.11: within one iteration of a pipe, its schedule and its data do not wait for each other in a circle."""
    for pipe in dict.fromkeys(leaf.parent.key for leaf in leaves if leaf.parent is not None):
        inside = [leaf for leaf in leaves if leaf.parent is not None and leaf.parent.key == pipe]
        site = inside[0].parent
        if site is None or not isinstance(site.node, Pipe):
            continue
        waits = networkx.DiGraph(_schedule_edges(site.node))
        waits.add_edges_from(_data_edges(inside, workload))
        try:
            circle = [edge[0] for edge in networkx.find_cycle(waits)]
        except networkx.NetworkXNoCycle:
            continue
        report.add(site, f"the schedule never proceeds: {' before '.join([*circle, circle[0]])}")


def _schedule_edges(pipe: Pipe) -> Iterator[tuple[str, str]]:
    """(earlier, later) within one iteration."""
    match pipe.schedule:
        case Order(orders):
            for _, names in orders:
                yield from zip(names, names[1:], strict=False)
        case Phases(phases):
            for phase, following in zip(phases, phases[1:], strict=False):
                yield from ((a, b) for a in phase.leaves for b in following.leaves)


def _data_edges(inside: list[Site], workload: Workload) -> Iterator[tuple[str, str]]:
    stage = {leaf.node.einsum: leaf.node.stage for leaf in inside}
    for leaf in inside:
        for access in dict.fromkeys(workload.cascade[leaf.node.einsum].reads):
            maker = storage(workload.cascade, access.tensor)
            if maker in stage and stage[maker] - carried(access, workload) == leaf.node.stage:
                yield maker, leaf.node.einsum
