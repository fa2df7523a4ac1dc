"""Fields of a mapping that neither the closed form nor the simulator understands yet (SEMANTICS 4.13)."""

from __future__ import annotations

from arch.machine import Machine
from einsum.cascade import Workload
from mapper.mapping import Compute, Hold, Loop, Move, Node
from mapper.sites import At, Report, Site, holds, of_type, private


def check_costed(report: Report, every: tuple[Site[Node], ...], workload: Workload, machine: Machine) -> None:
    """Refuse what would otherwise be ignored in silence."""
    _groups(report)
    leaves = (*of_type(every, Compute), *of_type(every, Move))
    for group in report.mapping.groups:
        _one_nest(report, [leaf for leaf in leaves if leaf.group is group])
    for site in of_type(every, Loop):
        _loop(report, site.at, site.node)
    for site in of_type(every, Move):
        if site.node.unit or site.node.stage:
            _refuse(report, site.at, "a transfer that a unit makes, or that runs stages behind, is")
    for leaf in of_type(every, Compute):
        if leaf.node.shares:
            _refuse(report, leaf.at, "sharing an Einsum's points among units is")
        for at, loop in private(leaf):
            _loop(report, at, loop)
            if loop.holds or loop.body:
                _refuse(report, at, "a hold or a body in a loop of one leaf is")


def _refuse(report: Report, at: At, what: str) -> None:
    report.add(at, f"{what} not costed yet")


def _groups(report: Report) -> None:
    """Groups run one after another, each on the whole machine."""
    before = ""
    for i, group in enumerate(report.mapping.groups):
        at = ((i,), f"groups.{group.name}")
        if group.share != 1:
            _refuse(report, at, "a share of the machine is")
        if before and before not in group.after:
            _refuse(report, at, f"running beside {before} (`after` does not name it) is")
        before = group.name


def _one_nest(report: Report, leaves: list[Site[Compute] | Site[Move]]) -> None:
    """All leaves of a group stand in the same loops, in the same pipe or sequence."""
    for leaf in leaves:
        first = leaves[0].path.rpartition(".")[2]
        if [loop.key for loop in leaf.loops] != [loop.key for loop in leaves[0].loops]:
            _refuse(report, leaf.at, f"standing in other loops than {first}, in one group, is")
        elif (leaf.parent and leaf.parent.key) != (leaves[0].parent and leaves[0].parent.key):
            _refuse(report, leaf.at, f"standing in another pipe or sequence than {first} is")


def _loop(report: Report, at: At, loop: Loop) -> None:
    if loop.offset is not None:
        _refuse(report, at, "a rotated index (`offset`) is")
    if loop.combine is not None:
        _refuse(report, at, "a reduction combined across instances (`combine`) is")
    if isinstance(loop.extent, tuple):
        _refuse(report, at, "a count for each iteration (`extent`) is")
    if loop.over == "device":
        _refuse(report, at, "a loop over devices is")
    if loop.over is None and len(loop.ranks) > 1:
        _refuse(report, at, "a temporal loop over a product of ranks is")
    for inner, hold in holds(at, loop):
        if hold.over is not None or hold.spread != Hold("", "").spread:
            _refuse(report, inner, "spreading copies over an axis is")
