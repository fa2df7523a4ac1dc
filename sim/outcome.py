"""What a simulation of a program found."""

from __future__ import annotations

from dataclasses import dataclass, field

from einsum.problems import InputError
from sim.program import Program

Cause = tuple[str, str]  # (dependency, producer) | (slot, name) | (order, task) | (window, "") | (drained, "")


class NotSimulated(InputError):
    """The mapping is legal and has a closed form, but the simulator does not understand it yet."""


class Standstill(InputError):
    """The tasks of a program wait for each other in a circle, whatever their lengths."""


class Deadlock(RuntimeError):
    """Tiles are left but nothing can ever happen again; the message names who waits for what."""


class Overflow(RuntimeError):
    """A slot was given back more often than it was taken: the program is wrong."""


@dataclass(frozen=True, slots=True)
class Span:
    """One run of a task: tile indices, start and end in ticks."""

    resource: str | None
    task: str
    tile: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Run:
    """What a simulation of a program found; every count is exact, whether tiles were skipped or not."""

    program: Program = field(repr=False)
    makespan: int  # ticks
    tiles: int
    simulated: int  # tiles that were run one by one
    counts: dict[str, tuple[int, ...]]  # task -> how often as declared and as each variant
    stalls: dict[str, dict[Cause, int]]  # resource -> cause -> idle ticks
    spans: tuple[Span, ...] = field(default=(), repr=False)

    @property
    def seconds(self) -> float:
        return self.makespan / self.program.ticks_per_second

    def busy(self, resource: str) -> int:
        """Ticks that the resource worked."""
        return sum(self.task_ticks(t.name) for t in self.program.tasks if t.resource == resource)

    def task_ticks(self, task: str) -> int:
        """Ticks over all instances of the task."""
        t = self.program[task]
        lengths = (t.ticks, *(v.ticks for v in t.variants))
        return sum(n * ticks for n, ticks in zip(self.counts[task], lengths, strict=True))

    def counters(self, task: str) -> dict[str, float]:
        """Each counter of the task, summed over its instances."""
        t, total = self.program[task], {}
        for n, amounts in zip(self.counts[task], (t.counters, *(v.counters for v in t.variants)), strict=True):
            for name, amount in amounts:
                total[name] = total.get(name, 0) + n * amount
        return total
