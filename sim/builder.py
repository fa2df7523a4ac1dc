"""Tasks of a tile under construction: names, conditions, bounds and durations of a group in a program's terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from arch.machine import Machine
from einsum.problems import InputError, Problem
from mapper import nest as facts
from mapper.cost import port_bytes_per_s
from mapper.mapping import Hold, Pipe
from mapper.work import GroupWork, Transfer, Variants, Work
from sim.program import TICKS_PER_CYCLE, Affine, Bound, Dep, Extreme, Slot, Table, Task, Variant, When


class Builder:
    """Collects the tasks, slots and memory ports of one group's tile; tasks stay in the order in which they came."""

    def __init__(self, group: GroupWork, machine: Machine) -> None:
        self.group, self.machine, self.nest = group, machine, group.nest
        self.cascade, self.parent = group.nest.workload.cascade, group.parent
        self.rate = TICKS_PER_CYCLE * machine.clock_hz  # ticks per second
        self.tasks: dict[str, Task] = {}
        self.slots: list[Slot] = []
        self.ports: dict[str, None] = {}  # memory ports with a bandwidth, in order of use
        self.written: dict[str, list[str]] = {}  # Einsum -> tasks that end its writes through a limited port

    @property
    def open(self) -> int:
        """Tiles that may compute at once."""
        return self.parent.open if isinstance(self.parent, Pipe) else 1

    @property
    def window(self) -> int:
        """Tiles launched and not ended: those that compute, and those for which transfers run ahead."""
        if isinstance(self.parent, Pipe):
            return self.parent.open + self.parent.ahead
        return max([hold.deep for hold, _ in self.held("fill")], default=1)

    def name(self, work: Work) -> str:
        """The task of a leaf, or of its part on one of several units."""
        shared = sum(other.name == work.name for other in self.group.works) > 1
        return f"{work.name}@{work.unit.name}" if shared else work.name

    def of(self, einsum: str) -> list[str]:
        """The tasks that compute an Einsum of the group."""
        return [self.name(w) for w in self.group.works if w.name == einsum]

    def results(self, einsum: str) -> list[str]:
        """The tasks after which the result of an Einsum of the group is where its readers look for it."""
        return [*self.of(einsum), *self.written.get(einsum, ())]

    def moves(self, *kinds: str) -> list[Transfer]:
        return [t for t in self.group.transfers if t.kind in kinds]

    def held(self, *kinds: str) -> list[tuple[Hold, Transfer]]:
        """The fills or drains, each with the hold that implies it."""
        return [(t.hold, t) for t in self.moves(*kinds) if t.hold]

    def when(self, when: facts.When) -> tuple[When, ...]:
        return tuple(When(self.nest.loops[position].name, at) for position, at in when)

    def bound(self, floors: Sequence[facts.Floor], op: str) -> Bound:
        parts: list[Bound] = []
        for floor in dict.fromkeys(floors):
            terms = tuple((self.nest.loops[p].name, factor) for p, factor in floor.terms)
            table = Table(self.nest.loops[floor.table[0]].name, floor.table[1]) if floor.table else None
            varies = terms or table
            made = Affine(floor.const, terms, floor.divisor, table) if varies else floor.const // floor.divisor
            parts.append(made)
        return parts[0] if len(parts) == 1 else Extreme(op, tuple(parts))

    def carried(self, rank: str, back: int) -> list[tuple[tuple[str, int], ...]]:
        """Distance vectors to an earlier tile along the loops over a rank: steps of the innermost one, or one of an
        outer loop with those inside it at their last iteration."""
        loops = [self.nest.loops[p] for p in self.nest.positions(rank)]
        vectors = []
        for i, loop in enumerate(loops):
            inside = tuple((inner.name, 1 - inner.count) for inner in loops[i + 1 :] if inner.count > 1)
            vectors.append(((loop.name, back), *inside))
        return vectors

    def ticks(self, seconds: float) -> int:
        """Whole ticks, rounded up: a resource is never faster than the machine says."""
        exact = seconds * self.rate
        return round(exact) if abs(exact - round(exact)) < 1e-6 * max(1.0, exact) else math.ceil(exact)

    def add(self, task: Task) -> str:
        if task.name in self.tasks:
            raise InputError(Problem("two tasks of a tile have one name", got=task.name))
        self.tasks[task.name] = task
        return task.name

    def wait(self, task: str, *deps: Dep) -> None:
        """Let a task wait for more."""
        found = self.tasks[task]
        self.tasks[task] = replace(found, deps=tuple(dict.fromkeys((*found.deps, *deps))))

    def task(
        self,
        name: str,
        resource: str | None,
        busy: str,
        kinds: Variants,
        unit_s: float,
        amounts: Sequence[tuple[str, Variants]],
        **fields,
    ) -> Task:
        """A task of `kinds` times `unit_s` seconds, with its ticks under the counter `busy` if it has a resource.

        The amounts' kinds must stand under the same conditions as the duration's. Amounts of one name add up.
        """
        rows = []
        for i, (cut, value) in enumerate(kinds):
            ticks = self.ticks(value * unit_s)
            counters: dict[str, float] = {busy: ticks} if resource else {}
            for counter, other in amounts:
                if other[i][0] != cut:
                    raise AssertionError(f"{name}: {counter} has other conditions than the duration")
                counters[counter] = counters.get(counter, 0) + other[i][1]
            rows.append((self.when(cut), ticks, tuple(counters.items())))
        variants = tuple(Variant(*row) for row in rows[:-1])
        return Task(name, resource, rows[-1][1], variants=variants, counters=rows[-1][2], **fields)

    def limits(self, transfer: Transfer) -> list[tuple[str, str, float]]:
        """(resource, place|detail, seconds per byte) of each port that the transfer uses and that has a bandwidth."""
        found = []
        for place, detail, copies in transfer.ends:
            memory = self.machine.memory(place)
            if bandwidth := port_bytes_per_s(memory, detail):
                port = place if memory.shared_port else f"{place} {detail}"
                found.append((port, f"{place}|{detail}", copies / bandwidth))
        return found

    def move(
        self, transfer: Transfer, deps: Sequence[Dep], name: str, acquires: tuple[str, ...] = (), stage: int = 0
    ) -> list[str]:
        """Add the tasks of a transfer: its bytes on each limited port at once, then the source's latency. A fill is due
        when its tile may be launched, what a leaf moves when its stage comes. Returns the tasks that end it."""
        lead = self.window - self.open if transfer.kind == "fill" else -stage
        ends, when = [], self.when(transfer.when)
        label = f"busy|{writer(transfer)}|{transfer.tensor}"
        for i, (port, place, per_byte) in enumerate(self.limits(transfer) or [(None, "|", 0.0)]):
            if port:
                self.ports[port] = None
            ends.append(
                self.add(
                    self.task(
                        f"{name} at {port}" if i else name,
                        port,
                        f"{label}|{place}",
                        transfer.nbytes,
                        per_byte,
                        () if i else bytes_moved(transfer),
                        deps=tuple(deps),
                        when=when,
                        acquires=() if i else acquires,
                        lead=lead,
                    )
                )
            )
        latency = sum(m.latency_s for m in self.machine.memories if m.name == transfer.source)
        if latency:
            ends = [self.add(Task(f"{name} latency", None, self.ticks(latency), tuple(map(Dep, ends)), when))]
        return ends


def writer(transfer: Transfer) -> str:
    """The Einsum that a leaf's own access counts for; empty for what a hold implies."""
    return transfer.einsums[0] if transfer.kind in ("read", "write") else ""


def bytes_moved(transfer: Transfer) -> list[tuple[str, Variants]]:
    """Bytes read and written at the transfer's ends, as counters named by the key of their row."""
    key = f"bytes|{writer(transfer)}|{transfer.tensor}"
    return [(f"{key}|{place}|{detail}", times(transfer.nbytes, n)) for place, detail, n in transfer.ends]


def times(kinds: Variants, factor: float) -> Variants:
    """The kinds' values, multiplied."""
    return tuple((when, value * factor) for when, value in kinds)
