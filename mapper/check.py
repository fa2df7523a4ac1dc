"""Whether a mapping is legal for a workload and a machine (SEMANTICS section 4). All problems are reported at once."""

from __future__ import annotations

from collections import Counter, defaultdict

from arch.machine import Machine
from arch.units import DIMENSIONS, brief
from einsum.cascade import DTYPE_BITS, Workload
from einsum.ops import is_view, operation_classes
from einsum.problems import InputError, suggest
from mapper.handover import check_kept
from mapper.legality import check_dataflow, check_holds, check_nest, check_order
from mapper.mapping import Compute, Group, Loop, Mapping, Node, Order, Phases, Pipe, Seq
from mapper.moves import check_moves, check_names
from mapper.nest import check_sizes
from mapper.sites import At, Report, Site, holds, of_type, private, sites
from mapper.uncosted import check_costed


def check(mapping: Mapping, workload: Workload, machine: Machine) -> None:
    """InputError with every problem of the mapping, at its line if the mapping was read from a file.

    Later rules assume the earlier ones, so they are tried in four rounds: names; what is not costed yet; legality;
    capacity.
    """
    check_sizes(workload)
    every = tuple(sites(mapping))
    for rule in (_names, check_costed, _legality, _capacity):
        report = Report(mapping)
        rule(report, every, workload, machine)
        if report.problems:
            raise InputError(report.problems)


def _names(report: Report, every: tuple[Site[Node], ...], workload: Workload, machine: Machine) -> None:
    """4.2: everything that the mapping names exists."""
    _header(report, report.mapping, workload)
    _groups(report, report.mapping.groups)
    units = [u.name for u in machine.units]
    for site in of_type(every, Loop):
        _loop_names(report, site.at, site.node, workload, machine)
    for leaf in of_type(every, Compute):
        report.known(leaf.at, "Einsum", leaf.node.einsum, [e.name for e in workload.cascade.einsums])
        for unit in leaf.node.unit.split("+"):
            report.known(leaf.at, "unit", unit, units)
        for at, loop in private(leaf):
            _loop_names(report, at, loop, workload, machine)
    check_names(report, every, workload, machine)
    for site in of_type(every, Pipe):
        _schedule_names(report, site, units)
    _coverage(report, of_type(every, Compute), workload)


def _header(report: Report, mapping: Mapping, workload: Workload) -> None:
    for name, size in mapping.sizes:
        at = ((), f"sizes.{name}")
        report.known(at, "size", name, workload.sizes)
        if workload.sizes.get(name, size) != size:
            report.add(at, f"the workload has {workload.sizes[name]}", size)
    for tensor, dtype in mapping.dtypes:
        at = ((), f"dtypes.{tensor}")
        report.known(at, "tensor", tensor, ("*", *workload.dtypes))
        report.known(at, "type", dtype, DTYPE_BITS)


def _groups(report: Report, groups: tuple[Group, ...]) -> None:
    earlier: list[str] = []
    for i, group in enumerate(groups):
        at = ((i,), f"groups.{group.name}")
        if group.name in earlier:
            report.add(at, "two groups have this name")
        for name in group.after:
            if name not in earlier:
                report.add(at, "runs after a group that does not stand before it", name, suggest(name, earlier))
        earlier.append(group.name)


def _loop_names(report: Report, at: At, loop: Loop, workload: Workload, machine: Machine) -> None:
    for rank in loop.ranks:
        report.known(at, "rank", rank, workload.cascade.ranks)
    if len(loop.tile) != len(loop.ranks) or any(t < 1 for t in loop.tile):
        report.add(at, "needs one positive tile size for each rank", loop.tile)
    axes = [f"{array}.{axis.name}" for unit in machine.units for array, axis in machine.axes(unit.name)]
    if loop.over is not None:
        report.known(at, "axis", loop.over, dict.fromkeys((*axes, "device")))
    for inner, hold in holds(at, loop):
        report.known(inner, "tensor", hold.tensor, workload.cascade.tensor)
        report.known(inner, "memory", hold.memory, [m.name for m in machine.memories])


def _schedule_names(report: Report, site: Site[Pipe], units: list[str]) -> None:
    bound = [n.einsum for n in site.node.body if isinstance(n, Compute)]
    match site.node.schedule:
        case Order(orders):
            for unit, leaves in orders:
                report.known(site.at, "unit", unit, units)
                for leaf in leaves:
                    report.known(site.at, "leaf", leaf, bound)
        case Phases(phases):
            for phase in phases:
                for leaf in phase.leaves:
                    report.known(site.at, "leaf", leaf, bound)
                if phase.drain is not None:
                    report.known(site.at, "unit", phase.drain, units)


def _coverage(report: Report, leaves: tuple[Site[Compute], ...], workload: Workload) -> None:
    """4.3: every Einsum but the views is computed by exactly one leaf."""
    for einsum in workload.cascade.einsums:
        own = [leaf for leaf in leaves if leaf.node.einsum == einsum.name]
        if is_view(einsum):
            what = f"{einsum.name} only renames {einsum.reads[0].tensor} and computes nothing: leave it out"
            for leaf in own:
                report.add(leaf.at, what)
        elif not own:
            report.add(((0,), "groups"), f"Einsum {einsum.name} is computed by no leaf")
        elif len(own) > 1:
            report.add(own[1].at, f"Einsum {einsum.name} is computed by {len(own)} leaves")


def _legality(report: Report, every: tuple[Site[Node], ...], workload: Workload, machine: Machine) -> None:
    leaves = of_type(every, Compute)
    for site in of_type(every, Loop):
        if site.node.over is None and site.node.fill != "block":
            report.add(site.at, "`fill` has a meaning only for a loop over an axis", site.node.fill)
    for site in (*of_type(every, Pipe), *of_type(every, Seq)):
        _schedule(report, site, [leaf for leaf in leaves if leaf.parent == site])
    for leaf in leaves:
        _executes(report, leaf, workload, machine)
    check_nest(report, leaves, workload, machine)
    check_holds(report, every, leaves, workload, machine)
    check_dataflow(report, leaves, workload)
    check_kept(report, every, leaves, workload)
    if not report.problems:  # an order that is not one yet has no meaning
        check_order(report, leaves, workload)


def _executes(report: Report, leaf: Site[Compute], workload: Workload, machine: Machine) -> None:
    """4.4: the unit executes every operation class of the Einsum, by itself or by expansion."""
    units = [machine.unit(name) for name in leaf.node.unit.split("+")]
    able = tuple(dict.fromkeys(name for unit in units for name in (*unit.ops, *unit.expands)))
    for name in operation_classes(workload.cascade[leaf.node.einsum]):
        if name not in able:
            others = [u.name for u in machine.units if name in u.ops or name in u.expands]
            what = f"{leaf.node.unit} does not execute {name}, it has {', '.join(able)}"
            report.add(leaf.at, what, hint=suggest(leaf.node.unit, others) or next(iter(others), ""))


def _schedule(report: Report, site: Site[Pipe] | Site[Seq], leaves: list[Site[Compute]]) -> None:
    """4.11: stages fit the pipe, and a schedule names every leaf once."""
    if isinstance(site.node, Seq):
        for leaf in leaves:
            if leaf.node.stage:
                report.add(leaf.at, "a stage has a meaning only in a pipe: a sequence does not overlap iterations")
        return
    depth = site.node.open
    for leaf in leaves:
        if leaf.node.stage >= depth:
            needed = f"stage {leaf.node.stage} needs {leaf.node.stage + 1} open iterations"
            report.add(leaf.at, f"{needed}, the pipe has {depth}")
    match site.node.schedule:
        case Phases(phases):
            given = [name for phase in phases for name in phase.leaves]
            _exactly_once(report, site.at, [leaf.node.einsum for leaf in leaves], given, "the phases")
        case Order(orders):
            for unit in dict.fromkeys(u for leaf in leaves for u in leaf.node.unit.split("+")):
                bound = [leaf.node.einsum for leaf in leaves if unit in leaf.node.unit.split("+")]
                _exactly_once(report, site.at, bound, list(dict(orders).get(unit, ())), f"the order of {unit}")


def _exactly_once(report: Report, at: At, wanted: list[str], given: list[str], what: str) -> None:
    for name, times in Counter(given).items():
        if name not in wanted:
            report.add(at, f"{name} does not belong in {what}")
        elif times > 1:
            report.add(at, f"{name} stands {times} times in {what}")
    for name in wanted:
        if name not in given:
            report.add(at, f"{name} is missing in {what}")


def _capacity(report: Report, every: tuple[Site[Node], ...], workload: Workload, machine: Machine) -> None:
    """4.12 and 4.16: the holds of a group fit their memories, and its moves are transfers that it implies."""
    from mapper.work import group_works

    groups = group_works(report.mapping, workload, machine)
    check_moves(report, every, groups, workload)
    for i, group in enumerate(groups):
        held: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for hold, _, size in group.footprints:
            held[hold.memory].append((size, hold.tensor))
        for name, parts in held.items():
            capacity, needed = machine.memory(name).capacity_bytes, sum(size for size, _ in parts)
            if capacity is not None and needed > capacity:
                most = ", ".join(f"{tensor} {brief(size, 'size')}" for size, tensor in sorted(parts, reverse=True)[:4])
                unit = brief(capacity, "size").partition(" ")[2]
                want = f"{needed / float(DIMENSIONS['size'][unit]):.6g} {unit}"
                what = f"{name} has {brief(capacity, 'size')}, the holds need {want}, most of it {most}"
                report.add(((i,), f"groups.{group.group.name}"), what)
