"""Whether a mapping is legal for a workload and a machine (SEMANTICS section 4). All problems are reported at once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from arch.machine import Machine
from arch.units import brief
from einsum.cascade import DTYPE_BITS, Workload
from einsum.ops import is_view, operation_classes
from einsum.problems import InputError, suggest
from mapper.legality import check_dataflow, check_holds, check_nest, check_order
from mapper.mapping import Compute, Group, Hold, Loop, Mapping, Move, Order, Phases, Pipe, Seq
from mapper.sites import Report, Site, sites


def check(mapping: Mapping, workload: Workload, machine: Machine) -> None:
    """InputError with every problem of the mapping, at its line if the mapping was read from a file.

    Later rules assume the earlier ones, so they are tried in four rounds: names; what is not costed yet; legality;
    capacity.
    """
    rounds = (_names, _not_costed, _legality, _capacity)
    every = tuple(sites(mapping))
    for rule in rounds:
        report = Report(mapping)
        rule(report, every, workload, machine)
        if report.problems:
            raise InputError(report.problems)


def _names(report: Report, every: tuple[Site, ...], workload: Workload, machine: Machine) -> None:
    """4.2: everything that the mapping names exists."""
    _header(report, report.mapping, workload)
    _groups(report, report.mapping.groups)
    units = [u.name for u in machine.units]
    for site in every:
        match site.node:
            case Loop():
                _loop_names(report, site, site.node, workload, machine)
            case Compute(einsum=name, unit=unit, loops=loops):
                _known(report, site, "Einsum", name, [e.name for e in workload.cascade.einsums])
                for each in unit.split("+"):
                    _known(report, site, "unit", each, units)
                for i, loop in enumerate(loops):
                    inner = Site(loop, (*site.key, "loops", i), f"{site.path}.{','.join(loop.ranks)}", (), None, site.group)
                    _loop_names(report, inner, loop, workload, machine)
            case Pipe(schedule=schedule):
                _schedule_names(report, site, schedule, units)
    _coverage(report, every, workload)


def _known(report: Report, site: Site, kind: str, name: str, options: Iterable[str]) -> None:
    if name not in options:
        report.add(site, f"unknown {kind}", got=name, hint=suggest(name, options))


def _header(report: Report, mapping: Mapping, workload: Workload) -> None:
    for name, size in mapping.sizes:
        if name not in workload.sizes:
            report.add((), "unknown size", f"sizes.{name}", name, suggest(name, workload.sizes))
        elif workload.sizes[name] != size:
            report.add((), f"the workload has {workload.sizes[name]}", f"sizes.{name}", size)
    for tensor, dtype in mapping.dtypes:
        if tensor != "*" and tensor not in workload.dtypes:
            report.add((), "unknown tensor", f"dtypes.{tensor}", tensor, suggest(tensor, workload.dtypes))
        if dtype not in DTYPE_BITS:
            report.add((), "unknown type", f"dtypes.{tensor}", dtype, suggest(dtype, DTYPE_BITS))


def _groups(report: Report, groups: tuple[Group, ...]) -> None:
    earlier: list[str] = []
    for i, group in enumerate(groups):
        path = f"groups.{group.name}"
        if group.name in earlier:
            report.add((i,), "two groups have this name", path)
        for name in group.after:
            if name not in earlier:
                what = "runs after a group that does not stand before it"
                report.add((i,), what, path, name, suggest(name, earlier))
        earlier.append(group.name)


def _loop_names(report: Report, site: Site, loop: Loop, workload: Workload, machine: Machine) -> None:
    for rank in loop.ranks:
        _known(report, site, "rank", rank, workload.cascade.ranks)
    if len(loop.tile) != len(loop.ranks) or any(t < 1 for t in loop.tile):
        report.add(site, "needs one positive tile size for each rank", got=loop.tile)
    axes = [f"{array}.{axis.name}" for unit in machine.units for array, axis in machine.axes(unit.name)]
    if loop.over is not None and loop.over != "device":
        _known(report, site, "axis", loop.over, dict.fromkeys(axes))
    for key, hold in site.holds:
        at = Site(loop, key, f"{site.path}.hold {hold.tensor}", (), None, site.group)
        _known(report, at, "tensor", hold.tensor, workload.cascade.tensor)
        _known(report, at, "memory", hold.memory, [m.name for m in machine.memories])


def _schedule_names(report: Report, site: Site, schedule: object, units: list[str]) -> None:
    bound = [n.einsum for n in site.node.body if isinstance(n, Compute)]
    match schedule:
        case Order(orders):
            for unit, leaves in orders:
                _known(report, site, "unit", unit, units)
                for leaf in leaves:
                    _known(report, site, "leaf", leaf, bound)
        case Phases(phases):
            for phase in phases:
                for leaf in phase.leaves:
                    _known(report, site, "leaf", leaf, bound)
                if phase.drain is not None:
                    _known(report, site, "unit", phase.drain, units)


def _coverage(report: Report, every: tuple[Site, ...], workload: Workload) -> None:
    """4.3: every Einsum but the views is computed by exactly one leaf."""
    leaves = [site for site in every if isinstance(site.node, Compute)]
    times = Counter(site.node.einsum for site in leaves)
    for einsum in workload.cascade.einsums:
        if is_view(einsum):
            for site in (s for s in leaves if s.node.einsum == einsum.name):
                report.add(site, f"{einsum.name} only renames {einsum.reads[0].tensor} and computes nothing: leave it out")
        elif times[einsum.name] == 0:
            report.add((0,), f"Einsum {einsum.name} is computed by no leaf", "groups")
        elif times[einsum.name] > 1:
            report.add(
                [s for s in leaves if s.node.einsum == einsum.name][1],
                f"Einsum {einsum.name} is computed by {times[einsum.name]} leaves",
            )


def _not_costed(report: Report, every: tuple[Site, ...], workload: Workload, machine: Machine) -> None:
    """4.13: fields that neither the closed form nor the simulator understands yet."""

    def refuse(site: Site | tuple, what: str, path: str = "") -> None:
        report.add(site, f"{what} not costed yet", path)

    done: list[str] = []
    for i, group in enumerate(report.mapping.groups):
        if group.share != 1:
            refuse((i,), "a share of the machine is", f"groups.{group.name}")
        if done and done[-1] not in group.after:
            refuse((i,), f"running beside {done[-1]} (`after` does not name it) is", f"groups.{group.name}")
        done.append(group.name)
        leaves = [s for s in every if s.group is group and isinstance(s.node, Compute | Move)]
        for site in leaves:
            if site.nest[: len(site.loops)] != leaves[0].nest[: len(leaves[0].loops)]:
                refuse(site, f"standing in other loops than {leaves[0].path.rpartition('.')[2]}, in one group, is")
            elif site.parent != leaves[0].parent:
                refuse(site, f"standing in another pipe or sequence than {leaves[0].path.rpartition('.')[2]} is")
    for site in every:
        match site.node:
            case Move():
                refuse(site, "a transfer as a leaf is")
            case Compute(shares=shares, loops=loops):
                if shares:
                    refuse(site, "sharing an Einsum's points among units is")
                for i, loop in enumerate(loops):
                    key, path = (*site.key, "loops", i), f"{site.path}.{','.join(loop.ranks)}"
                    inner = Site(loop, key, path, (), None, site.group)
                    _loop_not_costed(refuse, inner, loop)
                    if loop.holds or loop.body:
                        refuse(inner, "a hold or a body in a loop of one leaf is")
            case Loop():
                _loop_not_costed(refuse, site, site.node)


def _loop_not_costed(refuse, site: Site, loop: Loop) -> None:
    if loop.offset is not None:
        refuse(site, "a rotated index (`offset`) is")
    if loop.combine is not None:
        refuse(site, "a reduction combined across instances (`combine`) is")
    if isinstance(loop.extent, tuple):
        refuse(site, "a count for each iteration (`extent`) is")
    if loop.over == "device":
        refuse(site, "a loop over devices is")
    if loop.over is None and len(loop.ranks) > 1:
        refuse(site, "a temporal loop over a product of ranks is")
    for key, hold in site.holds:
        at, path = key, f"{site.path}.hold {hold.tensor}"
        if hold.part != 1:
            refuse(at, "holding a part of a tensor is", path)
        if hold.over is not None or hold.spread != Hold("", "").spread:
            refuse(at, "spreading copies over an axis is", path)


def _legality(report: Report, every: tuple[Site, ...], workload: Workload, machine: Machine) -> None:
    leaves = tuple(site for site in every if isinstance(site.node, Compute))
    for site in every:
        if isinstance(site.node, Loop) and site.node.over is None and site.node.fill != "block":
            report.add(site, "`fill` has a meaning only for a loop over an axis", got=site.node.fill)
        if isinstance(site.node, Pipe | Seq):
            _schedule(report, site, [leaf for leaf in leaves if leaf.parent == site])
    for leaf in leaves:
        _executes(report, leaf, workload, machine)
    check_nest(report, leaves, workload, machine)
    check_holds(report, every, leaves, workload, machine)
    check_dataflow(report, leaves, workload)
    check_order(report, leaves, workload)


def _executes(report: Report, leaf: Site, workload: Workload, machine: Machine) -> None:
    """4.4: the unit executes every operation class of the Einsum, by itself or by expansion."""
    units = [machine.unit(name) for name in leaf.node.unit.split("+")]
    able = tuple(dict.fromkeys(name for unit in units for name in (*unit.ops, *unit.expands)))
    for name in operation_classes(workload.cascade[leaf.node.einsum]):
        if name not in able:
            others = [u.name for u in machine.units if name in u.ops or name in u.expands]
            what = f"{leaf.node.unit} does not execute {name}, it has {', '.join(able)}"
            report.add(leaf, what, hint=suggest(leaf.node.unit, others) or next(iter(others), ""))


def _schedule(report: Report, site: Site, leaves: list[Site]) -> None:
    """4.11: stages fit the pipe, and a schedule names every leaf once."""
    names = [leaf.node.einsum for leaf in leaves]
    if isinstance(site.node, Seq):
        for leaf in leaves:
            if leaf.node.stage:
                report.add(leaf, "a stage has a meaning only in a pipe: a sequence does not overlap iterations")
        return
    for leaf in leaves:
        if leaf.node.stage >= site.node.open:
            what = f"stage {leaf.node.stage} needs {leaf.node.stage + 1} open iterations, the pipe has {site.node.open}"
            report.add(leaf, what)
    match site.node.schedule:
        case Phases(phases):
            _exactly_once(report, site, names, [name for phase in phases for name in phase.leaves], "the phases")
        case Order(orders):
            given = dict(orders)
            for unit in dict.fromkeys(u for leaf in leaves for u in leaf.node.unit.split("+")):
                bound = [leaf.node.einsum for leaf in leaves if unit in leaf.node.unit.split("+")]
                _exactly_once(report, site, bound, list(given.get(unit, ())), f"the order of {unit}")


def _exactly_once(report: Report, site: Site, wanted: list[str], given: list[str], what: str) -> None:
    for name, times in Counter(given).items():
        if name not in wanted:
            report.add(site, f"{what} names {name}, which is not bound to it")
        elif times > 1:
            report.add(site, f"{what} names {name} {times} times")
    for name in wanted:
        if name not in given:
            report.add(site, f"{what} leaves out {name}")


def _capacity(report: Report, every: tuple[Site, ...], workload: Workload, machine: Machine) -> None:
    """4.12: the holds of a group fit their memories."""
    from mapper.work import group_works

    for i, group in enumerate(group_works(report.mapping, workload, machine)):
        held: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for hold, _, size in group.footprints:
            held[hold.memory].append((size, hold.tensor))
        for name, parts in held.items():
            capacity, needed = machine.memory(name).capacity_bytes, sum(size for size, _ in parts)
            if capacity is not None and needed > capacity:
                most = ", ".join(f"{tensor} {brief(size, 'size')}" for size, tensor in sorted(parts, reverse=True)[:4])
                what = f"{name} has {brief(capacity, 'size')}, the holds need {brief(needed, 'size')}, most of it {most}"
                report.add((i,), what, f"groups.{group.group.name}")
