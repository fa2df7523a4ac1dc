"""From a mapping to programs: one `Program` a fused group, from the same facts as the closed form (`mapper.work`).

Rules 6.14 to 6.20. Each tile computes its leaves on their units (`compute`), moves what the holds imply
(`sim.buffers`), and keeps the schedule (`schedule`): open tiles, sequences, phases, static orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from arch.machine import Machine
from einsum.cascade import Access, Apply, Name, Num, Workload
from einsum.problems import InputError, Problem
from mapper.mapping import Mapping, Order, Phases, Seq
from mapper.tile import state_rank, storage
from mapper.work import GroupWork, Work, group_works
from sim import buffers
from sim.builder import Builder, bytes_moved, times
from sim.check import check
from sim.outcome import NotSimulated
from sim.program import Dep, Loop, Program, Resource, Slot, Task

OPEN = "open tiles"  # the slot of Pipe.open


def lower(mapping: Mapping, workload: Workload, machine: Machine) -> tuple[Program, ...]:
    """The programs of a checked mapping's groups, to be run one after another.

    Raises NotSimulated for a spatial loop around a group, and InputError for a schedule that can never proceed.
    """
    return tuple(_program(mapping.name, group, machine) for group in group_works(mapping, workload, machine))


def _program(name: str, group: GroupWork, machine: Machine) -> Program:
    b = Builder(group, machine)
    spatial = [loop.axis for loop in b.nest.loops if loop.axis]
    if spatial:
        what = "a spatial loop around a group is not simulated yet"
        raise NotSimulated(Problem(what, path=f"groups.{group.group.name}", got=spatial[0]))
    buffers.fills(b)
    for work in group.works:
        _compute(b, work)
    buffers.chains(b)
    buffers.local(b)
    _schedule(b)
    loops = tuple(Loop(x.name, b.bound(x.stop, "min"), b.bound(x.start, "max")) for x in b.nest.loops)
    resources = (*_units(b), *map(Resource, b.ports))
    made = Program(
        f"{name}/{group.group.name}", loops, tuple(b.tasks.values()), resources, b.window, b.rate, tuple(b.slots)
    )
    check(made)
    return made


def _compute(b: Builder, work: Work) -> None:
    """A leaf on its unit. Its own accesses are tasks before and after it where a port limits them."""
    name, first = b.name(work), b.of(work.name)[0]
    made = {a: _producers(b, a) for a in dict.fromkeys(work.einsum.reads)}
    deps = [dep for producers in made.values() for dep in producers]
    mine = [t for t in b.moves("read", "write") if name == first and t.einsums == (work.name,)]
    apart = lambda t: b.limits(t) or [when for when, _ in t.nbytes] != [when for when, _ in work.cycles]
    limited = [(f"{t.name} {n} of {name}", t) for n, t in enumerate(mine) if apart(t)]
    for label, transfer in limited:
        if transfer.kind == "read":  # once its own tensor has been made; partial results with the operands
            of_it = [made[a] for a in made if storage(b.cascade, a.tensor) == transfer.tensor]
            after = [dep for producers in of_it or made.values() for dep in producers]
            for fill in b.moves("fill"):  # and brought to where the leaf reads it
                if (fill.tensor, fill.target) == (transfer.tensor, transfer.source):
                    after.append(Dep(f"have {fill.tensor} in {fill.target}"))
            deps += map(Dep, b.move(transfer, after, label, stage=work.leaf.node.stage))
    amounts = [
        (f"operations|{work.name}||{work.unit.name}|{c}", times(work.points, n)) for c, n in work.classes.items()
    ]
    amounts += [amount for t in mine if not apart(t) for amount in bytes_moved(t)]
    b.add(
        b.task(
            name,
            work.unit.name,
            f"busy|{work.name}||{work.unit.name}|",
            work.cycles,
            1 / work.unit.clock_hz,
            amounts,
            deps=tuple(deps),
            when=b.when(work.when),
        )
    )
    for label, transfer in limited:
        if transfer.kind == "write":
            ends = b.move(transfer, tuple(map(Dep, b.of(work.name))), label, stage=work.leaf.node.stage)
            b.written.setdefault(work.name, []).extend(ends)


def _producers(b: Builder, access: Access) -> list[Dep]:
    """What a read of a tensor waits for: its writer in this tile, or in the earlier tile that wrote the state."""
    names = dict.fromkeys((access.tensor, storage(b.cascade, access.tensor)))
    writers = [task for name in names for task in b.results(name)]
    rank = state_rank(b.cascade, access.tensor)
    back = _steps_back(b, access, rank) if rank else 0
    if not rank or not back:
        return [Dep(w) for w in writers]
    return [Dep(w, carried=c) for w in writers for c in b.carried(rank, back)]


def _steps_back(b: Builder, access: Access, rank: str) -> int:
    """By how many coordinates of the iterative rank the read lies behind what its tile writes."""
    index = access.indices[b.cascade.tensor[access.tensor].ranks.index(rank)]
    if index == Name(rank):
        return 1
    if index in (Apply("+", (Name(rank), Num(1))), Name(rank.upper())):
        return 0
    raise InputError(Problem("this read of a state is not simulated", path=access.tensor, got=repr(index)))


def _schedule(b: Builder) -> None:
    """The open tiles of a pipe as a slot, sequences as chains, phases as barriers."""
    names = [b.name(w) for w in b.group.works]
    if b.open < b.window:
        b.slots.append(Slot(OPEN, b.open))
        gate = b.add(Task("open tile", None, 0, acquires=(OPEN,)))
        for name in names:
            b.wait(name, Dep(gate))
        b.add(Task("close tile", None, 0, (Dep(gate), *map(Dep, names)), releases=(OPEN,)))
    if isinstance(b.parent, Seq):
        for before, after in pairwise(names):
            b.wait(after, Dep(before))
    if isinstance(schedule := getattr(b.parent, "schedule", None), Phases):
        _barriers(b, schedule)


def _barriers(b: Builder, schedule: Phases) -> None:
    """A barrier ends each phase; leaves of stage 1 work for the tile before, in the first phase."""
    stage = {w.name: w.leaf.node.stage for w in b.group.works}
    final = f"barrier {len(schedule.phases) - 1}"
    for i, phase in enumerate(schedule.phases):
        late = [leaf for leaf in phase.leaves if stage[leaf] > (1 if i == 0 else 0)]
        if late:
            what = "in phases a leaf is simulated at stage 0, or at stage 1 in the first phase"
            raise InputError(Problem(what, path=f"phases[{i}].{late[0]}", got=f"stage {stage[late[0]]}"))
        before = Dep(f"barrier {i - 1}") if i else Dep(final, launched=1)
        ends = [Dep(task, launched=stage[leaf]) for leaf in phase.leaves for task in b.of(leaf)]
        drain = b.ticks(b.machine.unit(phase.drain).drain_s) if phase.drain else 0
        b.add(Task(f"barrier {i}", None, drain, (before, *ends)))
        for leaf in phase.leaves:
            for task in b.of(leaf):
                b.wait(task, Dep(final) if stage[leaf] else before)


def _units(b: Builder) -> Iterator[Resource]:
    schedule = getattr(b.parent, "schedule", None)
    orders = dict(schedule.units) if isinstance(schedule, Order) else {}
    for unit in dict.fromkeys(w.unit.name for w in b.group.works):
        order = [
            (b.name(w), w.leaf.node.stage)
            for leaf in orders.get(unit, ())
            for w in b.group.works
            if w.name == leaf and w.unit.name == unit
        ]
        yield Resource(unit, tuple(order) or None)
