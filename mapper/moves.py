"""Transfers as leaves: each names one that the mapping implies, and says that a copy engine makes it (SEMANTICS 4.16).

Nothing is counted for it: the same bytes go the same way. What changes is who issues them: no unit does.
"""

from __future__ import annotations

from arch.machine import Machine
from einsum.cascade import Workload
from mapper.mapping import Move, Node
from mapper.sites import Report, Site, of_type
from mapper.tile import storage
from mapper.work import GroupWork, Transfer


def check_names(report: Report, every: tuple[Site[Node], ...], workload: Workload, machine: Machine) -> None:
    """4.2: the tensor and the memories exist."""
    memories = [memory.name for memory in machine.memories]
    for site in of_type(every, Move):
        report.known(site.at, "tensor", site.node.tensor, workload.cascade.tensor)
        report.known(site.at, "memory", site.node.source, memories)
        report.known(site.at, "memory", site.node.target, memories)


def check_moves(
    report: Report, every: tuple[Site[Node], ...], groups: tuple[GroupWork, ...], workload: Workload
) -> None:
    """4.16: a group implies the transfer that a move of it names, and no other move names it too."""
    taken: set[tuple[str, ...]] = set()
    for site in of_type(every, Move):
        (group,) = (g for g in groups if g.group is site.group)
        tensor, source, target = storage(workload.cascade, site.node.tensor), site.node.source, site.node.target
        implied = [_at(group, t) for t in group.transfers if (t.tensor, t.source, t.target) == (tensor, source, target)]
        path = f"{tensor} from {source} to {target}"
        if not implied:
            report.add(site.at, f"the mapping implies no transfer of {path}")
        elif frozenset(site.node.at) not in implied:
            sides = ", ".join(f"{rank}: {side}" for rank, side in sorted(implied[0]))
            report.add(site.at, f"{path} is moved " + (f"`at: {{{sides}}}`" if sides else "in every iteration"))
        if (group.group.name, tensor, source, target) in taken:
            report.add(site.at, f"another move of the group moves {path}")
        taken.add((group.group.name, tensor, source, target))


def _at(group: GroupWork, transfer: Transfer) -> frozenset[tuple[str, str | int]]:
    """The iterations of the group's loops in which a transfer happens."""
    return frozenset((group.nest.loops[i].rank, side) for i, side in transfer.when)
