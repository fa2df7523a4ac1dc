"""The type of a program: a guarded loop nest of tiles, each a small DAG of tasks on resources.

A `Program` is the normal form of a mapping's tree, in the spirit of polyhedral 2d+1 schedules: one nest, loops
outermost first, and the tasks of its innermost body in program order. A task that stands before or after an inner
loop is a task with a condition on that loop (`first`, `last`); sibling loops are one loop over sections, with
conditions on its value. One point of the nest is a *tile*; tiles are numbered in launch order.
All times are integer ticks. docs/SEMANTICS.md section 6 numbers the rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

TICKS_PER_CYCLE = 2**20  # a tick is this fraction of a cycle of the machine's fastest clock
CONDITIONS = ("first", "last", "not first", "not last")


@dataclass(frozen=True, slots=True)
class Affine:
    """`(constant + sum(coefficient * index of loop) + table) // divisor`, rounded towards minus infinity."""

    constant: int = 0
    terms: tuple[tuple[str, int], ...] = ()  # (loop, coefficient)
    divisor: int = 1
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Extreme:
    """The smallest (`min`) or largest (`max`) of several bounds."""

    op: str
    bounds: tuple[Bound, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One value for each index of an outer loop that counts from 0 (ragged)."""

    loop: str
    values: tuple[int, ...]


Bound = int | Affine | Extreme | Table


@dataclass(frozen=True, slots=True)
class Loop:
    """`for name in range(start, stop)`; the bounds may depend on the indices of outer loops. May be empty."""

    name: str
    stop: Bound
    start: Bound = 0


@dataclass(frozen=True, slots=True)
class When:
    """A condition on the index of a loop: one of CONDITIONS, or the index itself."""

    loop: str
    at: str | int


@dataclass(frozen=True, slots=True)
class Dep:
    """Wait for the end of `task` in a tile: this one, the one `launched` tiles before it in launch order, or the one
    whose indices are smaller by the distance vector `carried` (lexicographically positive). A tile outside the
    nest, or one in which the task does not exist, is not waited for."""

    task: str
    launched: int = 0
    carried: tuple[tuple[str, int], ...] = ()  # (loop, distance)


@dataclass(frozen=True, slots=True)
class Variant:
    """Another duration, and other counters, where all conditions hold (the ragged last tile)."""

    when: tuple[When, ...]
    ticks: int
    counters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work of a tile: `ticks` on `resource` (None: pure latency, any number at once).

    It exists in the tiles where all conditions of `when` hold. The first variant that fits replaces ticks and
    counters. It takes one of each slot in `acquires` when it starts and gives one of each in `releases` back when
    it ends. `counters` are amounts for each instance, such as ("bytes", 32768.0).
    It is as urgent as its tile would be if it had been launched `lead` tiles earlier (a prefetch).
    """

    name: str
    resource: str | None
    ticks: int
    deps: tuple[Dep, ...] = ()
    when: tuple[When, ...] = ()
    variants: tuple[Variant, ...] = ()
    acquires: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    counters: tuple[tuple[str, float], ...] = ()
    lead: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """A counting semaphore: the buffers of a tensor, or the tiles that may compute at once."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Resource:
    """Serves one task at a time: the ready one of the oldest tile, then the first in program order; or, with `order`,
    at step s = 0, 1, ... each (task, stage) in turn for tile s - stage, passing over what does not exist."""

    name: str
    order: tuple[tuple[str, int], ...] | None = None


@dataclass(frozen=True)
class Program:
    """A nest of tiles. Tile n is launched as soon as tile n - `window` has ended, and tiles launch in nest order."""

    name: str
    loops: tuple[Loop, ...]
    tasks: tuple[Task, ...]
    resources: tuple[Resource, ...]
    window: int
    ticks_per_second: float
    slots: tuple[Slot, ...] = ()

    def __getitem__(self, task: str) -> Task:
        return self.tasks[self.position[task]]

    @cached_property
    def position(self) -> dict[str, int]:
        """Task name -> place in program order."""
        return {t.name: k for k, t in enumerate(self.tasks)}

    @cached_property
    def depth(self) -> dict[str, int]:
        """Loop name -> depth, 0 outermost."""
        return {loop.name: d for d, loop in enumerate(self.loops)}


def loops_of(bound: Bound) -> tuple[str, ...]:
    """The loops that a bound depends on, in order of appearance."""
    match bound:
        case Affine():
            return (*(name for name, coefficient in bound.terms if coefficient), *loops_of(bound.table or 0))
        case Extreme():
            return tuple(name for b in bound.bounds for name in loops_of(b))
        case Table():
            return (bound.loop,)
        case _:
            return ()
