"""What holds a mapping up: the circuits that set its pace, and what more of each parameter of the machine would gain.

The numbers are those of the simulated run, with the order of service that it took. Rules 6.25 to 6.29.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from arch.machine import Machine
from einsum.cascade import Workload
from mapper.mapping import Mapping
from sim import fold
from sim.causes import Causes, causes
from sim.critical import Circuit, circuits, spent
from sim.lower import lower
from sim.outcome import Deadlock, Standstill
from sim.program import Program

LATENCIES = "latencies"  # of memories, and drains of arrays, together
TIED = 1e-3  # of the latency: parameters that account for so much on some longest paths only are also taken together


@dataclass(frozen=True, slots=True)
class Pace:
    """A group's run in ticks, and the circuits that set its pace, that of the longest time first."""

    group: str
    makespan: int
    ticks_per_second: float
    circuits: tuple[Circuit, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """The seconds of the latency that parameters account for: `least` on every longest path, `most` on some.

    They are derivatives by the logarithm of the parameters: with 1% more throughput or bandwidth (or shorter latencies)
    the latency falls by 1% of `least`, with 1% less it grows by 1% of `most`, to first order and in this order.
    """

    parameters: tuple[str, ...]  # as in `studies.refine.parameters_of`, ports that are not shared apart; or LATENCIES
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Depth:
    """A buffer of a group, and the simulated latency in seconds with a slot less (None: it cannot proceed) or more."""

    group: str
    slot: str
    count: int
    less: float | None
    more: float | None


@dataclass(frozen=True)
class Bottleneck:
    """What holds a mapping up. Shares that gain most come first; those tied on several longest paths also together."""

    latency_s: float
    paces: tuple[Pace, ...]
    shares: tuple[Share, ...]
    depths: tuple[Depth, ...]


def bottleneck(mapping: Mapping, workload: Workload, machine: Machine) -> Bottleneck:
    """Simulate a checked mapping and say what holds it up.

    Raises what `sim.run.simulate` does, and NotSimulated for a run of too many events or ticks.
    """
    programs = lower(mapping, workload, machine)
    runs = [causes(program) for program in programs]
    latency = sum(run.seconds for run in runs)
    shares = _shares([(name,) for name in _parameters(machine).values()], runs, machine)
    tied = tuple(share.parameters[0] for share in shares if share.most - share.least > TIED * latency)
    if len(tied) > 1:
        shares += _shares([tied], runs, machine)
    paces, depths = [], []
    for program, run in zip(programs, runs, strict=True):
        group = program.name.rsplit("/", 1)[-1]
        paces.append(Pace(group, run.makespan, program.ticks_per_second, circuits(run)))
        depths += _depths(program, group, latency - run.seconds)
    shares.sort(key=lambda share: (-share.least, -share.most))
    return Bottleneck(latency, tuple(paces), tuple(shares), tuple(depths))


def _shares(groups: list[tuple[str, ...]], runs: list[Causes], machine: Machine) -> list[Share]:
    parameters = _parameters(machine)
    sums = [[0.0, 0.0] for _ in groups]
    for run in runs:
        used = [parameters[task.resource] for task in run.program.tasks]
        works = [{k for k, name in enumerate(used) if name in names} for names in groups]
        for total, times in zip(sums, spent(run, works), strict=True):
            total[:] = [s + t / run.program.ticks_per_second for s, t in zip(total, times, strict=True)]
    return [Share(names, *total) for names, total in zip(groups, sums, strict=True)]


def _parameters(machine: Machine) -> dict[str | None, str]:
    """Resource of a program -> the parameter that is its speed; None -> LATENCIES."""
    found: dict[str | None, str] = {unit.name: f"{unit.name} throughput" for unit in machine.units}
    for memory in machine.memories:
        ways = ("",) if memory.shared_port else (" read", " write")
        for way in ways if memory.read_bytes_per_s or memory.write_bytes_per_s else ():
            found[memory.name + way] = f"{memory.name}{way} bandwidth"
    return found | {None: LATENCIES}


def _depths(program: Program, group: str, rest: float) -> Iterator[Depth]:
    """The program's buffers; `rest` is the time of the other groups."""
    for n, slot in enumerate(program.slots):
        seconds: list[float | None] = []
        for count in (slot.count - 1, slot.count + 1):
            slots = (*program.slots[:n], replace(slot, count=count), *program.slots[n + 1 :])
            try:
                seconds.append(rest + fold.run(replace(program, slots=slots)).seconds)
            except (Deadlock, Standstill):
                seconds.append(None)
        yield Depth(group, slot.name, slot.count, *seconds)
