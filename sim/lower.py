"""From a mapping to programs: one `Program` a fused group, from the same facts as the closed form (`mapper.work`).

Each tile computes its leaves on their units and moves what the holds imply. Rules 6.14 to 6.20. A hold of a tensor
that is moved becomes a chain of zero-length tasks: `fill` (or `allocate`) takes a buffer, `have` says that the slice
is there, `used` that this tile and the ones before it are through with it, and `drain` (or `free`) gives it back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from arch.machine import Machine, Memory
from einsum.cascade import Access, Apply, Name, Num, Workload
from einsum.problems import InputError, Problem
from mapper import nest as facts
from mapper.cost import port_bytes_per_s
from mapper.mapping import Hold, Mapping, Order, Phases, Pipe, Seq
from mapper.tile import state_rank, storage
from mapper.work import GroupWork, Transfer, Variants, Work, group_works
from sim.check import check
from sim.program import (
    TICKS_PER_CYCLE,
    Affine,
    Bound,
    Dep,
    Extreme,
    Loop,
    Program,
    Resource,
    Slot,
    Task,
    Variant,
    When,
)

OPEN = "open tiles"  # the slot of Pipe.open


def lower(mapping: Mapping, workload: Workload, machine: Machine) -> tuple[Program, ...]:
    """The programs of a checked mapping's groups, to be run one after another.

    Raises InputError for what is not simulated yet: spatial loops around a group, moves as actors.
    """
    return tuple(Lowering(group, machine).program(mapping.name) for group in group_works(mapping, workload, machine))


@dataclass
class Tasks:
    """Tasks of a tile under construction: in program order by name, and the slots that they use."""

    by_name: dict[str, Task] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)

    def add(self, task: Task) -> str:
        if task.name in self.by_name:
            raise InputError(Problem("two tasks of a tile have one name", got=task.name))
        self.by_name[task.name] = task
        return task.name

    def wait(self, task: str, *deps: Dep) -> None:
        """Let a task wait for more."""
        found = self.by_name[task]
        self.by_name[task] = replace(found, deps=tuple(dict.fromkeys((*found.deps, *deps))))


class Lowering:
    """Builds the program of one group."""

    def __init__(self, group: GroupWork, machine: Machine) -> None:
        self.group, self.machine, self.nest = group, machine, group.nest
        self.workload, self.parent = group.nest.workload, group.parent
        self.rate = TICKS_PER_CYCLE * machine.clock_hz
        self.tasks = Tasks()
        self.ports: dict[str, None] = {}  # memory ports in order of use
        self.work_names = {id(w): self._work_name(w) for w in group.works}
        spatial = [loop.axis for loop in self.nest.loops if loop.axis]
        if spatial:
            what = "a spatial loop around a group is not simulated yet"
            raise InputError(Problem(what, path=f"groups.{group.group.name}", got=spatial[0]))

    def program(self, name: str) -> Program:
        """The group as a checked program."""
        for transfer in self._held("fill"):
            self._begin(transfer)
        for work in self.group.works:
            self._compute(work)
        for hold, transfers in reversed(self._by_hold().items()):
            self._chain(hold, transfers)
        self._local_buffers()
        self._schedule()
        made = Program(
            f"{name}/{self.group.group.name}",
            tuple(Loop(loop.name, self._bound(loop.stop, "min"), self._bound(loop.start, "max"))
                  for loop in self.nest.loops),
            tuple(self.tasks.by_name.values()),
            (*self._units(), *map(Resource, self.ports)),
            self.window,
            self.rate,
            tuple(self.tasks.slots),
        )
        check(made)
        return made

    # -- small translations

    def _work_name(self, work: Work) -> str:
        shared = sum(other.name == work.name for other in self.group.works) > 1
        return f"{work.name}@{work.unit.name}" if shared else work.name

    def _of(self, einsum: str) -> list[str]:
        """The tasks that compute an Einsum."""
        return [self.work_names[id(w)] for w in self.group.works if w.name == einsum]

    def _when(self, when: facts.When) -> tuple[When, ...]:
        return tuple(When(self.nest.loops[position].name, at) for position, at in when)

    def _bound(self, floors: Sequence[facts.Floor], op: str) -> Bound:
        parts = []
        for floor in dict.fromkeys(floors):
            terms = tuple((self.nest.loops[p].name, factor) for p, factor in floor.terms)
            parts.append(Affine(floor.const, terms, floor.divisor) if terms else floor.const // floor.divisor)
        return parts[0] if len(parts) == 1 else Extreme(op, tuple(parts))

    def _ticks(self, seconds: float) -> int:
        """Whole ticks, rounded up: a resource is never faster than the machine says."""
        ticks = seconds * self.rate
        return round(ticks) if abs(ticks - round(ticks)) < 1e-6 * max(1.0, ticks) else math.ceil(ticks)

    # -- tasks

    def _compute(self, work: Work) -> None:
        """A leaf on its unit. Its own accesses are tasks before and after it where a port limits them."""
        name = self.work_names[id(work)]
        deps = [dep for access in dict.fromkeys(work.einsum.reads) for dep in self._producers(access)]
        first = name == self._of(work.name)[0]
        mine = [t for t in self.group.transfers if first and t.kind in ("read", "write") and t.einsums == (work.name,)]
        limited = [(f"{t.name} {n}", t) for n, t in enumerate(mine) if self._limits(t)]
        for label, transfer in limited:
            if transfer.kind == "read":
                deps += map(Dep, self._move(transfer, tuple(deps), label))
        amounts = [(f"operations|{work.name}||{work.unit.name}|{c}", _times(work.points, n))
                   for c, n in work.classes.items()]
        amounts += [amount for t in mine if not self._limits(t) for amount in _bytes(t)]
        busy = f"busy|{work.name}||{work.unit.name}|"
        self.tasks.add(self._task(name, work.unit.name, busy, work.cycles, 1 / work.unit.clock_hz, amounts,
                                  deps=tuple(deps), when=self._when(work.when)))
        for label, transfer in limited:
            if transfer.kind == "write":
                self._move(transfer, tuple(map(Dep, self._of(work.name))), label)

    def _task(self, name: str, resource: str | None, busy: str, kinds: Variants, unit_s: float,
              amounts: Sequence[tuple[str, Variants]], **fields) -> Task:
        """A task of `kinds` times `unit_s` seconds, counted as `busy` ticks; amounts with the same conditions."""
        rows = []
        for i, (cut, value) in enumerate(kinds):
            if any(other[i][0] != cut for _, other in amounts):
                raise AssertionError(f"{name}: an amount has other conditions than the duration")
            ticks, counters = self._ticks(value * unit_s), {busy: 0}
            for counter, other in amounts:
                counters[counter] = counters.get(counter, 0) + other[i][1]
            counters[busy] = ticks
            rows.append((self._when(cut), ticks, tuple(counters.items()) if resource else tuple(counters.items())[1:]))
        variants = tuple(Variant(*row) for row in rows[:-1])
        return Task(name, resource, rows[-1][1], variants=variants, counters=rows[-1][2], **fields)

    def _limits(self, transfer: Transfer) -> list[tuple[str, str, float]]:
        """(resource, place|detail, seconds per byte) of each port that the transfer uses and that has a bandwidth."""
        found = []
        for place, detail, copies in ((transfer.source, "read", 1), (transfer.target, "write", transfer.copies)):
            memory = next((m for m in self.machine.memories if m.name == place), None)
            bandwidth = memory and port_bytes_per_s(memory, detail)
            if memory and bandwidth:
                port = place if memory.shared_port else f"{place} {detail}"
                found.append((port, f"{place}|{detail}", copies / bandwidth))
        return found

    def _move(self, transfer: Transfer, deps: tuple[Dep, ...], name: str, acquires: tuple[str, ...] = ()) -> list[str]:
        """The tasks of a transfer: its bytes on each limited port at once, then the memory's latency."""
        ends, when = [], self._when(transfer.when)
        for i, (port, place, per_byte) in enumerate(self._limits(transfer) or [(None, "|", 0.0)]):
            if port:
                self.ports[port] = None
            task = self._task(f"{name} at {port}" if i else name, port, f"busy|{_writer(transfer)}|{transfer.tensor}|{place}",
                              transfer.nbytes, per_byte, () if i else _bytes(transfer), deps=deps, when=when,
                              acquires=() if i else acquires)
            ends.append(self.tasks.add(task))
        latency = sum(m.latency_s for m in self.machine.memories if m.name == transfer.source)
        if latency:
            ends = [self.tasks.add(Task(f"{name} latency", None, self._ticks(latency), tuple(map(Dep, ends)), when))]
        return ends

    # -- dependencies between leaves

    def _producers(self, access: Access) -> list[Dep]:
        """What a read of a tensor waits for: its writer in this tile, or in the tile that holds the state it reads."""
        cascade = self.workload.cascade
        writers = [task for name in dict.fromkeys((access.tensor, storage(cascade, access.tensor)))
                   for task in self._of(name)]
        rank = state_rank(cascade, access.tensor)
        back = self._steps_back(access, rank) if rank else 0
        if not back:
            return [Dep(w) for w in writers]
        return [Dep(w, carried=c) for w in writers for c in self._carried(rank, back)]

    def _steps_back(self, access: Access, rank: str) -> int:
        """By how many coordinates of the iterative rank the read lies behind what this tile writes."""
        for index, name in zip(access.indices, self.workload.cascade.tensor[access.tensor].ranks, strict=True):
            if name != rank:
                continue
            if index == Name(rank):
                return 1
            if index in (Apply("+", (Name(rank), Num(1))), Name(rank.upper())):
                return 0
            raise InputError(Problem("this read of a state is not simulated", path=access.tensor, got=repr(index)))
        return 0

    def _carried(self, rank: str, back: int) -> list[tuple[tuple[str, int], ...]]:
        """Distance vectors to the tile before along the loops over a rank: one step of the innermost, or of an outer
        one with the loops inside it at their last iteration."""
        loops = [self.nest.loops[p] for p in self.nest.positions(rank)]
        vectors = []
        for i, loop in enumerate(loops):
            inside = tuple((inner.name, 1 - inner.count) for inner in loops[i + 1 :] if inner.count > 1)
            vectors.append(((loop.name, back), *inside))
        return vectors

    # -- holds

    def _held(self, *kinds: str) -> list[Transfer]:
        return [t for t in self.group.transfers if t.kind in kinds]

    def _by_hold(self) -> dict[tuple[Hold, int], list[Transfer]]:
        found: dict[tuple[Hold, int], list[Transfer]] = {}
        for transfer in self._held("fill", "drain"):
            found.setdefault((transfer.hold, transfer.depth), []).append(transfer)
        return found

    def _slot(self, name: str, hold: Hold, depth: int, when: facts.When) -> str:
        """Buffers of a hold, counted in slices of a tile."""
        idle = {p for p, _ in when}
        inside = [loop for p, loop in enumerate(self.nest.loops) if p >= depth and p not in idle]
        varying = [loop.name for loop in inside if any(p in idle for f in (*loop.start, *loop.stop) for p, _ in f.terms)]
        if varying:
            what = "the slice held varies along a loop that reuses it; hold it further in"
            raise InputError(Problem(what, path=f"hold {hold.tensor} in {hold.memory}", got=varying[0]))
        self.tasks.slots.append(Slot(name, hold.deep * math.prod(loop.count for loop in inside)))
        return name

    def _begin(self, fill: Transfer) -> None:
        """The fill of a hold, after the hold further out has the slice; it takes a buffer."""
        slot = self._slot(f"{fill.tensor} in {fill.target}", fill.hold, fill.depth, fill.when)
        outer = [f"have {t.tensor} in {t.target}" for t in self._held("fill")
                 if t.tensor == fill.tensor and t.target == fill.source]
        ends = self._move(fill, tuple(map(Dep, outer)), fill.name, (slot,))
        self._have(fill, [Dep(end) for end in ends])

    def _have(self, fill: Transfer, deps: list[Dep]) -> None:
        deps += [Dep(f"have {fill.tensor} in {fill.target}", carried=((self.nest.loops[p].name, 1),))
                 for p, _ in fill.when]
        self.tasks.add(Task(f"have {fill.tensor} in {fill.target}", None, 0, tuple(deps)))

    def _chain(self, key: tuple[Hold, int], transfers: list[Transfer]) -> None:
        """Connect a moved hold to its readers and writers, and give its buffer back after the last of them."""
        place, first = key[0].memory, transfers[0]
        fill = next((t for t in transfers if t.kind == "fill"), None)
        drain = next((t for t in transfers if t.kind == "drain"), None)
        slot, have, used = (f"{prefix}{first.tensor} in {place}" for prefix in ("", "have ", "used "))
        loops = [self.nest.loops[p].name for p, _ in first.when]
        if fill is None:
            self._slot(slot, *key, drain.when)
            begin = Task(f"allocate {slot}", None, 0, (), tuple(When(n, "first") for n in loops), acquires=(slot,))
            self._have(replace(drain, target=place), [Dep(self.tasks.add(begin))])
        users = [task for t in transfers for einsum in t.einsums for task in self._of(einsum)]
        users += [t.name for t in self._held("fill") if t.tensor == first.tensor and t.source == place]
        users += [t.name for t in self._held("drain") if t.tensor == first.tensor and t.target == place]
        for task in dict.fromkeys(users):
            self.tasks.wait(task, Dep(have))
        chain = tuple(Dep(used, carried=((name, 1),)) for name in loops)
        self.tasks.add(Task(used, None, 0, (*map(Dep, dict.fromkeys((have, *users))), *chain)))
        ends = self._move(drain, (Dep(used),), drain.name) if drain else [used]
        end = Task(f"free {slot}", None, 0, tuple(map(Dep, ends)), tuple(When(n, "last") for n in loops),
                   releases=(slot,))
        self.tasks.add(end)
        rank = state_rank(self.workload.cascade, first.tensor)
        if fill and drain and rank:  # what was put away is fetched again
            self.tasks.wait(fill.name, *(Dep(end.name, carried=c) for c in self._carried(rank, 1)))

    def _local_buffers(self) -> None:
        """Holds of tensors that live within a tile: their producer takes a buffer, the last reader gives it back."""
        moved = {hold for hold, _ in self._by_hold()}
        for loop in dict.fromkeys(loop.source for loop in self.nest.loops):
            for hold in loop.holds:
                made = self._of(hold.tensor)
                inner = loop == self.nest.loops[-1].source
                state = state_rank(self.workload.cascade, hold.tensor)
                if hold in moved or not made or state or not inner or hold.along or hold.deep >= self._open:
                    continue
                readers = [self.work_names[id(w)] for w in self.group.works
                           if any(a.tensor == hold.tensor for a in w.einsum.reads)]
                name = f"{hold.tensor} in {hold.memory}"
                self.tasks.slots.append(Slot(name, hold.deep))
                begin = self.tasks.add(Task(f"allocate {name}", None, 0, (), acquires=(name,)))
                for task in made:
                    self.tasks.wait(task, Dep(begin))
                self.tasks.add(Task(f"free {name}", None, 0, tuple(map(Dep, (*made, *readers))), releases=(name,)))

    # -- schedule

    @property
    def _open(self) -> int:
        """Tiles that may compute at once."""
        return self.parent.open if isinstance(self.parent, Pipe) else 1

    @property
    def window(self) -> int:
        """Tiles launched and not ended: those that compute, and those for which transfers run ahead."""
        match self.parent:
            case Pipe(_, open_, ahead):
                return open_ + ahead
            case _:
                return max([t.hold.deep for t in self._held("fill")], default=1)

    def _schedule(self) -> None:
        """Pipe.open as a slot, sequences as chains, phases as barriers."""
        names = [self.work_names[id(w)] for w in self.group.works]
        if self._open < self.window:
            self.tasks.slots.append(Slot(OPEN, self._open))
            gate = self.tasks.add(Task("open tile", None, 0, acquires=(OPEN,)))
            for name in names:
                self.tasks.wait(name, Dep(gate))
            self.tasks.add(Task("close tile", None, 0, (Dep(gate), *map(Dep, names)), releases=(OPEN,)))
        if isinstance(self.parent, Seq):
            for before, after in zip(names, names[1:], strict=False):
                self.tasks.wait(after, Dep(before))
        if isinstance(schedule := getattr(self.parent, "schedule", None), Phases):
            self._barriers(schedule)

    def _barriers(self, schedule: Phases) -> None:
        """A barrier ends each phase; leaves of stage 1 work for the tile before, in the first phase."""
        stage = {w.name: w.leaf.node.stage for w in self.group.works}
        final = f"barrier {len(schedule.phases) - 1}"
        for i, phase in enumerate(schedule.phases):
            late = [e for e in phase.leaves if stage[e] > (1 if i == 0 else 0)]
            if late:
                what = "in phases a leaf is simulated at stage 0, or at stage 1 in the first phase"
                raise InputError(Problem(what, path=f"phases[{i}].{late[0]}", got=f"stage {stage[late[0]]}"))
            deps = [Dep(task, launched=stage[e]) for e in phase.leaves for task in self._of(e)]
            deps += [Dep(f"barrier {i - 1}")] if i else [Dep(final, launched=1)]
            drain = self._ticks(self.machine.unit(phase.drain).drain_s) if phase.drain else 0
            self.tasks.add(Task(f"barrier {i}", None, drain, tuple(deps)))
            for einsum in phase.leaves:
                before = Dep(f"barrier {i - 1}") if i else Dep(final, launched=1 - stage[einsum])
                for task in self._of(einsum):
                    self.tasks.wait(task, before)

    def _units(self) -> Iterator[Resource]:
        schedule = getattr(self.parent, "schedule", None)
        orders = dict(schedule.units) if isinstance(schedule, Order) else {}
        stage = {w.name: w.leaf.node.stage for w in self.group.works}
        for unit in dict.fromkeys(w.unit.name for w in self.group.works):
            order = [(self.work_names[id(w)], stage[e]) for e in orders.get(unit, ())
                     for w in self.group.works if w.name == e and w.unit.name == unit]
            yield Resource(unit, tuple(order) or None)


def _writer(transfer: Transfer) -> str:
    """The Einsum that a leaf's own access counts for; empty for what a hold implies."""
    return transfer.einsums[0] if transfer.kind in ("read", "write") else ""


def _bytes(transfer: Transfer) -> list[tuple[str, Variants]]:
    """Bytes read at the source and written at the target, as counters named by the key of their row."""
    key = f"bytes|{_writer(transfer)}|{transfer.tensor}"
    return [(f"{key}|{transfer.source}|read", transfer.nbytes),
            (f"{key}|{transfer.target}|write", _times(transfer.nbytes, transfer.copies))]


def _times(kinds: Variants, factor: float) -> Variants:
    return tuple((when, value * factor) for when, value in kinds)
