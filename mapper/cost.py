"""Closed-form cost of a mapping: time, traffic, operations, footprints and energy, without running anything.

Latency is a lower bound on the simulated time: the sum over groups, and within a group over phases, of the busiest
resource. SEMANTICS section 5.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from arch.machine import Machine, Memory, Unit
from einsum.cascade import Workload
from einsum.domain import existing_points
from mapper.mapping import GUARD, Mapping, Phases, Seq
from mapper.nest import Nest, variants
from mapper.place import own_memory
from mapper.result import Result, Row
from mapper.tile import lengths
from mapper.work import GroupWork, Transfer, Work, expand, group_works


def cost(mapping: Mapping, workload: Workload, machine: Machine) -> Result:
    """The closed-form `Result` of a checked mapping."""
    groups, exist = group_works(mapping, workload, machine), existing_points(workload)
    rows: list[Row] = []
    latency = 0.0
    for group in groups:
        counted = list(_group_rows(group, exist, machine))
        rows += counted
        latency += group_bound_s(group, counted, machine)
    rows.append(Row("latency", latency))
    rows += energy_rows(rows, groups, machine, latency)
    rows += ratios(rows, latency, machine)
    names = {"cascade": mapping.cascade, "machine": machine.name, "mapping": mapping.name}
    config = {**names, "sizes": dict(workload.sizes)}
    return Result("closed form", config, tuple(rows))


def _group_rows(group: GroupWork, exist: dict[str, int], machine: Machine) -> Iterator[Row]:
    yield Row("tiles", group.nest.count(), place=group.group.name)
    for work in group.works:
        yield from _work_rows(group, work, exist[work.name], machine)
    for transfer in group.transfers:
        yield from _transfer_rows(group, transfer, machine)
    for hold, tensor, size in group.footprints:
        yield Row("footprint", size, tensor=tensor, place=hold.memory, detail=hold.tensor)


def _work_rows(group: GroupWork, work: Work, existing: int, machine: Machine) -> Iterator[Row]:
    issued = group.total(work.when, work.points)
    useful = min(existing, _points_of_tiles(group, work))
    for name, n in work.classes.items():
        yield Row("operations", n * issued, work.name, place=work.unit.name, detail=name, boundary="issued")
        yield Row("operations", n * useful, work.name, place=work.unit.name, detail=name, boundary="useful")
    if work.einsum.reduced and work.classes:
        yield Row(
            "combines",
            issued - group.total(work.when, work.results),
            work.name,
            place=work.unit.name,
            boundary="issued",
        )
    seconds = group.total(work.when, work.cycles) / work.unit.clock_hz / instances(group, machine)
    yield Row("busy", seconds, work.name, place=work.unit.name)


def _points_of_tiles(group: GroupWork, work: Work) -> float:
    """Points of the tiles in which an Einsum runs, existing or not: a guard that bounds a loop leaves out states that
    only carry over."""
    if not any(loop.source.extent == GUARD for loop in group.nest.loops):
        return math.inf
    kinds = variants(group.nest, work.einsum.ranks, short=lengths(work.einsum, group.nest.workload.given))
    return group.total(work.when, tuple((when, math.prod(n for _, n in box.values())) for when, box in kinds))


def instances(group: GroupWork, machine: Machine) -> int:
    """Instances that share the group's tiles: those of the axes of its spatial loops, or as many as there are tiles."""
    used = 1
    for over in dict.fromkeys(loop.axis for loop in group.nest.loops if loop.axis):
        used *= min(machine.axis(over).size, _iterations(group.nest, over))
    return used


def _iterations(nest: Nest, axis: str) -> int:
    """Iterations of the loops over an axis: of a rank walked in groups of tiles, its tiles."""
    ranks: dict[str, tuple[int, int]] = {}  # -> (coordinates that its outermost loop walks, innermost tile)
    for depth, loop in enumerate(nest.loops):
        if loop.axis == axis:
            walked = min(nest.extent(loop.rank, depth), nest.workload.extent(loop.rank))
            ranks[loop.rank] = (ranks.get(loop.rank, (walked, 0))[0], loop.tile)
    return math.prod(math.ceil(walked / tile) for walked, tile in ranks.values())


def _transfer_rows(group: GroupWork, transfer: Transfer, machine: Machine) -> Iterator[Row]:
    nbytes = group.total(transfer.when, transfer.nbytes)
    writer = transfer.einsums[0] if transfer.kind in ("read", "write") else ""
    for place, detail, copies in transfer.ends:
        memory = machine.memory(place)
        yield Row("bytes", nbytes * copies, writer, transfer.tensor, place, detail, "issued")
        bandwidth = port_bytes_per_s(memory, detail)
        if bandwidth:
            shared = bandwidth * (instances(group, machine) if machine.instances(place) > 1 else 1)
            yield Row("busy", nbytes * copies / shared, writer, transfer.tensor, place, detail)


def port_bytes_per_s(memory: Memory, detail: str) -> float | None:
    """Bandwidth of the port that a read or a write uses; None when it is not modelled."""
    return memory.read_bytes_per_s if detail == "read" or memory.shared_port else memory.write_bytes_per_s


def group_bound_s(group: GroupWork, rows: list[Row], machine: Machine) -> float:
    """Seconds that the group takes at least: the busiest memory port, or the units under the group's schedule."""
    units, ports = defaultdict(float), defaultdict(float)
    by_einsum: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    memories = {m.name: m for m in machine.memories}
    for row in rows:
        if row.quantity != "busy":
            continue
        if row.place in memories:
            ports[row.place, "" if memories[row.place].shared_port else row.detail] += row.value
        else:
            units[row.place] += row.value
            by_einsum[row.einsum][row.place] += row.value
    if isinstance(schedule := getattr(group.parent, "schedule", None), Phases):
        compute = sum(_phase_s(phase.leaves, by_einsum) for phase in schedule.phases)
        tiles = group.nest.count() / instances(group, machine)
        compute += tiles * sum(machine.unit(p.drain).drain_s for p in schedule.phases if p.drain)
    elif isinstance(group.parent, Seq) and group.nest.count() == instances(group, machine):
        compute = sum(units.values())
    else:
        compute = max(units.values(), default=0.0)
    return max(compute, *ports.values(), 0.0)


def _phase_s(leaves: tuple[str, ...], by_einsum: dict[str, dict[str, float]]) -> float:
    busy: dict[str, float] = defaultdict(float)
    for leaf in leaves:
        for unit, seconds in by_einsum[leaf].items():
            busy[unit] += seconds
    return max(busy.values(), default=0.0)


def energy_rows(rows: list[Row], groups: tuple[GroupWork, ...], machine: Machine, latency: float) -> Iterator[Row]:
    """Energy from the counts in `rows`, whoever counted: operations on units, accesses of memories, registers at the
    units; and static power over the latency."""
    operations = (r for r in rows if (r.quantity, r.boundary) == ("operations", "issued"))
    counted = {(r.einsum, r.place, r.detail): r.value for r in operations}
    for group in groups:
        charged: set[str] = set()
        for work in group.works:
            issued = {name: counted[work.name, work.unit.name, name] for name in work.classes}
            joules = sum(n * _energy_j(name, work.unit) for name, n in issued.items())
            yield Row("energy", joules, work.name, place=work.unit.name)
            if issued and work.name not in charged:  # on several units a point still has its operands once
                charged.add(work.name)
                name, n = next(iter(work.classes.items()))
                yield from _operand_rows(group, work, issued[name] / n, machine)
    for row in rows:
        if row.quantity == "bytes":
            memory = machine.memory(row.place)
            each = memory.read_energy_j if row.detail == "read" else memory.write_energy_j
            yield Row("accesses", row.value / memory.access_bytes, row.einsum, row.tensor, row.place, row.detail)
            yield Row("energy", row.value / memory.access_bytes * each, row.einsum, row.tensor, row.place, row.detail)
    if machine.static_power_w:
        yield Row("energy", machine.static_power_w * latency, place="static")


def _energy_j(name: str, unit: Unit) -> float:
    """Joules of one operation of a class on a unit."""
    return sum(n * unit.ops[c].energy_j for c, n in expand({name: 1}, unit).items())


def _operand_rows(group: GroupWork, work: Work, issued: float, machine: Machine) -> Iterator[Row]:
    """Each point reads its operands from the memory right above the unit and writes its result there; of a reduction
    all but those that begin a running value read it too."""
    memory = own_memory(machine, work.unit.name)
    begun = group.total(work.started, work.begun) if work.einsum.reduced else issued
    reads = len(dict.fromkeys(work.einsum.reads)) * issued + issued - begun
    for detail, times, each in (("read", reads, memory.read_energy_j), ("write", issued, memory.write_energy_j)):
        yield Row("accesses", times, work.name, place=memory.name, detail=f"{detail} by operations")
        yield Row("energy", times * each, work.name, place=memory.name, detail=f"{detail} by operations")


def ratios(rows: list[Row], latency: float, machine: Machine) -> Iterator[Row]:
    """Utilisation of each place, and each Einsum's share of it: for a memory port busy over latency, for a unit the
    issued operations over those that all its instances and lanes could have issued."""
    used: dict[str, float] = defaultdict(float)
    shares: dict[tuple[str, str], float] = defaultdict(float)
    units = {unit.name: unit for unit in machine.units}
    for row in rows:
        if row.quantity == "operations" and row.boundary == "issued":
            unit = units[row.place]
            cycles = sum(n * unit.ops[c].cycles for c, n in expand({row.detail: 1}, unit).items())
            slots = machine.instances(unit.name) * unit.lanes * unit.clock_hz * latency
            shares[row.place, row.einsum] += row.value * cycles / slots
        elif row.quantity == "busy" and row.place not in units:
            used[row.place] += row.value / latency
    for (place, _), share in shares.items():
        used[place] += share
    for place, value in used.items():
        yield Row("utilization", value, place=place)
    for (place, einsum), share in shares.items():
        yield Row("share", share, einsum, place=place)
