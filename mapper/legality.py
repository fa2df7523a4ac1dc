"""Legality of a mapping whose names are known: loops cover the ranks, and data is there when it is read.

SEMANTICS 4.5 to 4.11.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from arch.machine import Axis, Machine
from einsum.affine import constraints
from einsum.cascade import Access, Einsum, Workload, rank_variables
from mapper.mapping import GUARD, Compute, Loop, Node, Order, Phases, Pipe
from mapper.sites import At, Report, Site, holds, nest, of_type, private
from mapper.tile import length_guards, state_rank, storage

WAVES = ("cyclic", "dynamic", "sorted")  # fills that deal out more iterations than an axis has instances


def check_nest(report: Report, leaves: tuple[Site[Compute], ...], workload: Workload, machine: Machine) -> None:
    """4.5 to 4.8: each leaf's loops walk exactly the ranks of its Einsum, on axes above its unit."""
    _bounded(report, leaves, workload)
    _coupled_bounds(report, leaves, workload)
    for leaf in leaves:
        einsum = workload.cascade[leaf.node.einsum]
        beside = [workload.cascade[other.node.einsum] for other in leaves if other.group is leaf.group]
        for loop in leaf.loops:
            _foreign_ranks(report, leaf, einsum, loop, beside, workload)
        _conditions(report, leaf, einsum)
        for at, loop in private(leaf):
            for rank in loop.ranks:
                if rank not in einsum.ranks:
                    report.add(at, f"{einsum.name} has no rank {rank}")
        tiles = _tiles(report, leaf, workload)
        if all(machine.unit(name).lanes == 1 for name in leaf.node.unit.split("+")):
            _single_points(report, leaf, einsum, tiles, workload)
        _axes(report, leaf, einsum, workload, machine)


def _bounded(report: Report, leaves: tuple[Site[Compute], ...], workload: Workload) -> None:
    """4.5: a guard bounds the rank of a loop with `extent: guard`; of a length, loops around it walk the rank that the
    length is given for."""
    einsums = workload.cascade.einsums
    affine = {rank for e in einsums for form in constraints(e, workload.sizes) for rank, _ in form.terms}
    lengths = {rank: by for e in einsums for rank, by, _ in length_guards(e)}
    around = {loop: leaf.loops[: i + 1] for leaf in leaves for i, loop in enumerate(leaf.loops)}
    for loop, outer in around.items():
        ranks = loop.node.ranks
        if loop.node.extent != GUARD or affine & set(ranks):
            continue
        tiles = [pair for o in outer for pair in zip(o.node.ranks, o.node.tile, strict=True)]
        by = [by for rank, by in lengths.items() if rank in ranks]
        if not by:
            report.add(loop.at, f"`extent: guard`, but no guard of {workload.cascade.name} bounds {','.join(ranks)}")
        elif any([tile for rank, tile in tiles if rank in names] != [1] for names in by):
            what = (
                f"`extent: guard` by a length of each {','.join(by[0])}, which one loop has to walk one by one before"
            )
            report.add(loop.at, what)


def _coupled_bounds(report: Report, leaves: tuple[Site[Compute], ...], workload: Workload) -> None:
    """4.15: inside a loop that a reduction walks no loop is bounded by that loop's index: the tiles of the inner rank
    would see different last iterations of the outer one, where results are complete and slices go out."""
    found: dict[Site[Loop], str] = {}
    for leaf in leaves:
        beside = [workload.cascade[other.node.einsum] for other in leaves if other.group is leaf.group]
        walked = {rank for einsum in beside for rank in (*einsum.reduced, einsum.iterative) if rank}
        for i, loop in enumerate(leaf.loops):
            around = [rank for outer in leaf.loops[:i] for rank in outer.node.ranks if rank in walked]
            for rank in around if loop.node.extent == GUARD else ():
                if rank not in loop.node.ranks and _guards_join(rank, loop.node, workload):
                    found[loop] = rank
    for loop, rank in found.items():
        what = f"bounded by the loop over {rank} around it, which a reduction walks: bound that one instead"
        report.add(loop.at, what)


def _guards_join(rank: str, loop: Loop, workload: Workload) -> bool:
    einsums = workload.cascade.einsums
    forms = (form for einsum in einsums for form in constraints(einsum, workload.sizes))
    lengths = (length for einsum in einsums for length in length_guards(einsum))
    return any(form.factor(rank) and any(map(form.factor, loop.ranks)) for form in forms) or any(
        rank in by and bounded in loop.ranks for bounded, by, _ in lengths
    )


def _foreign_ranks(
    report: Report, leaf: Site[Compute], einsum: Einsum, loop: Site[Loop], beside: list[Einsum], workload: Workload
) -> None:
    """4.6: a loop over a rank that the Einsum lacks would repeat it, unless `at` picks one iteration."""
    for rank, tile in zip(loop.node.ranks, loop.node.tile, strict=True):
        whole = loop.node.over is not None and tile >= workload.extent(rank)  # one iteration: nothing is repeated
        if rank in einsum.ranks or whole:
            continue
        if not any(rank in other.ranks for other in beside):
            report.add(loop.at, f"no Einsum inside has rank {rank}")
        elif loop.node.over is not None:
            report.add(
                leaf.at, f"{einsum.name} has no rank {rank}, but the loop over {loop.node.over} spreads it along {rank}"
            )
        elif rank not in dict(leaf.node.at):
            what = (
                f"{einsum.name} has no rank {rank}, so the loop over {rank} would repeat it: say `at: {{{rank}: last}}`"
            )
            report.add(leaf.at, what)


def _conditions(report: Report, leaf: Site[Compute], einsum: Einsum) -> None:
    """`at` picks an iteration of an enclosing temporal loop over a rank that the Einsum lacks."""
    around = [rank for loop in leaf.loops if loop.node.over is None for rank in loop.node.ranks]
    for rank, _ in leaf.node.at:
        if rank not in around:
            report.add(leaf.at, f"`at` names {rank}, which no temporal loop around walks")
        elif rank in einsum.ranks:
            report.add(leaf.at, f"{einsum.name} has rank {rank}: `at` would leave out its other iterations")


def _tiles(report: Report, leaf: Site[Compute], workload: Workload) -> dict[str, int]:
    """4.5: on one rank tiles shrink inward by whole factors; returns what each rank is left with."""
    left: dict[str, int] = {}
    for at, loop in nest(leaf):
        for rank, tile in zip(loop.ranks, loop.tile, strict=True):
            outer = left.get(rank)
            if outer is not None and tile > outer:
                report.add(at, f"the tile of {rank} grows inward: {tile} inside {outer}")
            elif outer is not None and outer < workload.extent(rank) and outer % tile:
                report.add(at, f"the tile of {rank} does not divide the one around it: {tile} inside {outer}")
            left[rank] = tile
    return {rank: min(tile, workload.extent(rank)) for rank, tile in left.items()}


def _single_points(
    report: Report, leaf: Site[Compute], einsum: Einsum, tiles: dict[str, int], workload: Workload
) -> None:
    """4.7: a unit of one lane takes one point at a time, so every rank is walked down to single coordinates."""
    for rank in einsum.ranks:
        if rank not in tiles:
            if workload.extent(rank) > 1:
                report.add(leaf.at, f"rank {rank} of {einsum.name} is not mapped: no loop walks it")
        elif tiles[rank] > 1:
            what = (
                f"rank {rank} of {einsum.name} is not mapped to single coordinates: its innermost tile is {tiles[rank]}"
            )
            report.add(leaf.at, what)


def _axes(report: Report, leaf: Site[Compute], einsum: Einsum, workload: Workload, machine: Machine) -> None:
    """4.8: a spatial loop's axis is above the unit, has room, and can reduce what the loop splits."""
    taken: dict[str, str] = {}
    left = {rank: workload.extent(rank) for rank in workload.cascade.ranks}
    for at, loop in nest(leaf):
        counts: list[int] = []
        for rank, tile in zip(loop.ranks, loop.tile, strict=True):
            counts.append(math.ceil(left[rank] / tile))
            left[rank] = min(tile, left[rank])
        if loop.over is None:
            continue
        ranks = ",".join(loop.ranks)
        above = {f"{array}.{axis.name}": axis for array, axis in _shared_axes(leaf, machine)}
        if loop.over in above:
            split = tuple(rank for rank, n in zip(loop.ranks, counts, strict=True) if n > 1)
            _one_axis(report, at, loop, above[loop.over], math.prod(counts), einsum, split)
        else:
            known = ", ".join(above) or "no array"
            report.add(at, f"{loop.over} is not above {leaf.node.unit}, which has {known} above it")
        if loop.over in taken:
            report.add(at, f"{loop.over} is already taken by the loop over {taken[loop.over]}")
        taken[loop.over] = ranks


def _shared_axes(leaf: Site[Compute], machine: Machine) -> list[tuple[str, Axis]]:
    """The axes above every unit of the leaf."""
    each = [machine.axes(unit) for unit in leaf.node.unit.split("+")]
    return [axis for axis in each[0] if all(axis in axes for axes in each)]


def _one_axis(
    report: Report, at: At, loop: Loop, axis: Axis, count: int, einsum: Einsum, split: tuple[str, ...]
) -> None:
    if count > axis.size and loop.fill not in WAVES:
        what = f"{count} iterations do not fit the {axis.size} of {loop.over}: tile it, or deal out waves with `fill`"
        report.add(at, what)
    for rank in split:
        if rank in einsum.reduced and not axis.reduce:
            report.add(at, f"{loop.over} cannot reduce, but {einsum.name} reduces {rank} along it")
        if rank == einsum.iterative:
            report.add(at, f"{einsum.name} carries state along {rank}, so {rank} cannot be spread over {loop.over}")


def check_holds(
    report: Report,
    every: tuple[Site[Node], ...],
    leaves: tuple[Site[Compute], ...],
    workload: Workload,
    machine: Machine,
) -> None:
    """4.9: a held tensor is used inside, moves inward, and what it is walked along is walked in step."""
    for site in of_type(every, Loop):
        users = [leaf for leaf in leaves if site in leaf.loops]
        for at, hold in holds(site.at, site.node):
            own = [leaf for leaf in users if hold.tensor in _touched(leaf, workload)]
            for name in hold.users:
                if name not in (leaf.node.einsum for leaf in own):
                    report.add(at, f"{name} is no user of {hold.tensor} inside the loop", name)
            own = [leaf for leaf in own if not hold.users or leaf.node.einsum in hold.users]
            if hold.inplace is not None and hold.inplace not in (h.tensor for h in site.node.holds):
                report.add(at, f"no hold of this loop keeps {hold.inplace}, whose buffers {hold.tensor} takes over")
            if not own:
                report.add(at, f"no leaf inside the loop reads or writes {hold.tensor}")
            if not 0 < hold.part <= 1:
                report.add(at, "the part that is held must be above 0 and at most 1", hold.part)
            if hold.deep < 1:
                report.add(at, "needs at least one buffer", hold.deep)
            for outer in (h for around in site.loops for h in around.node.holds if h.tensor == hold.tensor):
                if outer.memory == hold.memory and not hold.users and not outer.users:
                    report.add(at, f"{hold.memory} already holds {hold.tensor} in a loop around")
                elif outer.memory not in (n.name for n in machine.path(hold.memory)):
                    report.add(at, f"{hold.memory} is not below {outer.memory}, where a loop around holds it")
            if hold.along is not None:
                _along(report, at, hold.along, hold.tensor, own)


def _touched(leaf: Site[Compute], workload: Workload) -> set[str]:
    einsum = workload.cascade[leaf.node.einsum]
    named = {einsum.name, *(access.tensor for access in einsum.reads)}
    return named | {storage(workload.cascade, tensor) for tensor in named}


def _along(report: Report, at: At, rank: str, tensor: str, users: list[Site[Compute]]) -> None:
    for leaf in users:
        if not any(loop.ranks == (rank,) for loop in leaf.node.loops):
            what = f"{leaf.node.einsum} has no loop of its own over {rank}, so {tensor} cannot pass along it in step"
            report.add(at, what)


def check_dataflow(report: Report, leaves: tuple[Site[Compute], ...], workload: Workload) -> None:
    """4.10: what a leaf reads has been computed, completely, and a memory that both see still holds it."""
    by_name = {leaf.node.einsum: (i, leaf) for i, leaf in enumerate(leaves)}
    for leaf in leaves:
        for access in dict.fromkeys(workload.cascade[leaf.node.einsum].reads):
            source = storage(workload.cascade, access.tensor)
            if source in by_name:
                _flows(report, by_name[source], by_name[leaf.node.einsum], access, workload)
        _partial_results(report, leaf, workload)


def _flows(
    report: Report,
    producer: tuple[int, Site[Compute]],
    consumer: tuple[int, Site[Compute]],
    access: Access,
    workload: Workload,
) -> None:
    (before, maker), (after, reader) = producer, consumer
    name, tensor = reader.node.einsum, maker.node.einsum
    if maker.group is not reader.group:
        return  # through the root memory, as groups run one after another
    if not any(hold.tensor in (tensor, access.tensor) for loop in reader.loops for hold in loop.node.holds):
        report.add(reader.at, f"{tensor} has nowhere to live: no loop around {tensor} and {name} holds it in a memory")
    shift = carried(access, workload)
    if maker.node.stage > reader.node.stage + shift:
        stages = f"stage {maker.node.stage} and not {reader.node.stage}"
        report.add(reader.at, f"{name} reads {tensor}, which is computed later, in {stages}")
    elif not shift and maker.node.stage == reader.node.stage and before > after:
        report.add(reader.at, f"{name} stands before {tensor}, which it reads")
    _completed(report, maker, reader, access, workload)


def carried(access: Access, workload: Workload) -> int:
    """1 if the access reads the state that the previous iteration left, such as RM[m1] of RM[m1+1]; else 0."""
    rank, tensor = state_rank(workload.cascade, access.tensor), workload.cascade.tensor[access.tensor]
    if rank is None:
        return 0
    written = workload.cascade[access.tensor].output.indices[tensor.ranks.index(rank)]
    index = access.indices[tensor.ranks.index(rank)]
    return int(rank in rank_variables(index) and index != written)


def _completed(report: Report, maker: Site[Compute], reader: Site[Compute], access: Access, workload: Workload) -> None:
    """A final value is read only after the last iteration of the loops that it is reduced or carried over."""
    einsum, used = workload.cascade[maker.node.einsum], rank_variables(access)
    final = (*einsum.reduced, *((einsum.iterative,) if einsum.iterative and einsum.iterative not in used else ()))
    for rank in final:
        shared = any(rank in loop.node.ranks and loop.node.over is None for loop in reader.loops)
        if shared and dict(reader.node.at).get(rank) != "last":
            what = f"{reader.node.einsum} reads {einsum.name} inside the loop over {rank}, before it is complete"
            report.add(reader.at, f"{what}: it needs the last {rank}, or a loop of its own")


def _partial_results(report: Report, leaf: Site[Compute], workload: Workload) -> None:
    """A result that a loop around accumulates or carries is held by a loop outside of that loop; one that takes the
    rank whole accumulates nothing."""
    einsum = workload.cascade[leaf.node.einsum]
    for rank in (*einsum.reduced, *((einsum.iterative,) if einsum.iterative else ())):
        whole = workload.extent(rank) if rank != einsum.iterative else math.inf
        loops = [(i, x.node) for i, x in enumerate(leaf.loops) if not x.node.over]
        walked = [i for i, x in loops if rank in x.ranks and x.tile[x.ranks.index(rank)] < whole]
        outside = leaf.loops[: walked[0]] if walked else ()
        if walked and not any(hold.tensor == einsum.name for loop in outside for hold in loop.node.holds):
            verb = "carries" if rank == einsum.iterative else "accumulates"
            what = f"the loop over {rank} {verb} {einsum.name}: a loop around that one must hold it"
            report.add(leaf.at, what)


def check_order(report: Report, leaves: tuple[Site[Compute], ...], workload: Workload) -> None:
    """4.11: within one iteration of a pipe, its schedule and its data do not wait for each other in a circle."""
    for pipe in dict.fromkeys(leaf.parent.key for leaf in leaves if leaf.parent is not None):
        inside = [leaf for leaf in leaves if leaf.parent is not None and leaf.parent.key == pipe]
        site = inside[0].parent
        if site is None or not isinstance(site.node, Pipe):
            continue
        waits: TopologicalSorter[str] = TopologicalSorter()
        for earlier, later in (*_schedule_edges(site.node), *_data_edges(inside, workload)):
            waits.add(later, earlier)
        try:
            waits.prepare()
        except CycleError as error:
            report.add(site.at, f"the schedule never proceeds, it wants {' before '.join(error.args[1])}")


def _schedule_edges(pipe: Pipe) -> Iterator[tuple[str, str]]:
    """(earlier, later) within one iteration."""
    match pipe.schedule:
        case Order(orders):
            for _, names in orders:
                yield from pairwise(names)
        case Phases(phases):
            for phase, following in pairwise(phases):
                yield from ((a, b) for a in phase.leaves for b in following.leaves)


def _data_edges(inside: list[Site[Compute]], workload: Workload) -> Iterator[tuple[str, str]]:
    stage = {leaf.node.einsum: leaf.node.stage for leaf in inside}
    for leaf in inside:
        for access in dict.fromkeys(workload.cascade[leaf.node.einsum].reads):
            maker = storage(workload.cascade, access.tensor)
            if maker in stage and stage[maker] - carried(access, workload) == leaf.node.stage:
                yield maker, leaf.node.einsum
