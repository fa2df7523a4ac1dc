"""State that one group hands over to the next in the iterations of a spatial loop they share (SEMANTICS 4.14).

Consecutive groups whose outermost loops are the same spatial loop run, iteration by iteration, on the same instance: a
thread block makes several passes over the keys, one loop after another. A hold marked `kept` there says that its
contents stay where they are between the two: what is read is taken over and not filled, what is written is left and
not drained. Each group keeps a nest of its own, so counts stay exact.
"""

from __future__ import annotations

from einsum.cascade import Workload
from mapper.mapping import Compute, Group, Hold, Loop, Mapping, Node
from mapper.sites import Report, Site, holds, of_type
from mapper.tile import storage


def shared_loop(group: Group) -> Loop | None:
    """The group's outermost loop, if it is spatial and holds all of the group."""
    only = group.body[0] if len(group.body) == 1 else None
    return only if isinstance(only, Loop) and only.over else None


def continues(before: Group, after: Group) -> bool:
    """Whether the iterations of both groups' outermost spatial loops are the same ones."""
    one, two = shared_loop(before), shared_loop(after)
    alike = lambda loop: (loop.ranks, loop.tile, loop.over, loop.fill)
    return one is not None and two is not None and alike(one) == alike(two)


def kept(group: Group) -> dict[str, Hold]:
    """Tensor -> hold that is kept between this group and a neighbour."""
    loop = shared_loop(group)
    return {h.tensor: h for h in (loop.holds if loop else ()) if h.kept}


def chains(mapping: Mapping) -> tuple[tuple[Group, ...], ...]:
    """The groups in runs that hand something over: a group that takes over joins the run of the one before."""
    runs: list[list[Group]] = []
    for group in mapping.groups:
        before = runs[-1][-1] if runs else None
        own = {h.tensor for h in kept(group).values()}
        if before and continues(before, group) and own & _held(before).keys():
            runs[-1].append(group)
        else:
            runs.append([group])
    return tuple(map(tuple, runs))


def _held(group: Group) -> dict[str, Hold]:
    loop = shared_loop(group)
    return {h.tensor: h for h in (loop.holds if loop else ())}


def check_kept(
    report: Report, every: tuple[Site[Node], ...], leaves: tuple[Site[Compute], ...], workload: Workload
) -> None:
    """4.14: what is kept is there to be taken over, in the same memory, and is taken over wherever it is read."""
    groups = report.mapping.groups
    made = {leaf.node.einsum: leaf.group for leaf in leaves}
    for site in of_type(every, Loop):
        for at, hold in holds(site.at, site.node):
            if not hold.kept:
                continue
            i = groups.index(site.group)
            if site.node is not shared_loop(site.group):
                report.add(at, "is kept between groups, so it has to stand on the outermost loop, a spatial one")
            elif made.get(storage(workload.cascade, hold.tensor)) is site.group:
                if i + 1 == len(groups) or not _taken_over(hold, site.group, groups[i + 1]):
                    report.add(at, f"{hold.tensor} is kept, but the next group does not take it over")
            elif i == 0 or not _hands_over(hold, groups[i - 1], site.group, made):
                report.add(at, f"{hold.tensor} is kept, but the group before does not hand it over")
    for leaf in leaves:
        for tensor in dict.fromkeys(access.tensor for access in workload.cascade[leaf.node.einsum].reads):
            maker = made.get(tensor, leaf.group)
            if maker is not leaf.group and tensor in kept(maker) and tensor not in kept(leaf.group):
                report.add(leaf.at, f"{tensor} is kept by {maker.name} and not taken over by {leaf.group.name}")


def _taken_over(hold: Hold, group: Group, after: Group) -> bool:
    taken = kept(after).get(hold.tensor)
    return continues(group, after) and taken is not None and taken.memory == hold.memory


def _hands_over(hold: Hold, before: Group, group: Group, made: dict[str, Group]) -> bool:
    """The group before holds the tensor in the same memory; what it computes itself it has to leave there."""
    given = _held(before).get(hold.tensor)
    left = given is not None and (given.kept or made.get(hold.tensor) is not before)
    return continues(before, group) and left and given is not None and given.memory == hold.memory
