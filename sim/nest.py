"""Walking a program's nest: bounds as functions of the indices, a cursor over the tiles, and what each tile holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sim.program import Affine, Bound, Extreme, Loop, Program, Table, When

Evaluate = Callable[[Sequence[int]], int]


def evaluator(bound: Bound, depth: dict[str, int]) -> Evaluate:
    """The bound as a function of the index vector."""
    match bound:
        case Affine(constant, terms, divisor, table):
            placed = [(depth[name], coefficient) for name, coefficient in terms]
            if table is None:
                return lambda at: (constant + sum(c * at[d] for d, c in placed)) // divisor
            look_up = evaluator(table, depth)
            return lambda at: (constant + sum(c * at[d] for d, c in placed) + look_up(at)) // divisor
        case Extreme(op, bounds):
            parts = [evaluator(b, depth) for b in bounds]
            pick = min if op == "min" else max
            return lambda at: pick(part(at) for part in parts)
        case Table(loop, values):
            d = depth[loop]
            return lambda at: values[at[d]]
        case _:
            return lambda at: bound


class Cursor:
    """The next tile to launch: `at` its indices, `start` and `stop` the current bounds of every loop.

    `changed` is the depth of the outermost loop that the last step advanced; every loop inside it has restarted.
    `done` is true once no tile is left.
    """

    def __init__(self, loops: Sequence[Loop]) -> None:
        depth = {loop.name: d for d, loop in enumerate(loops)}
        self._starts = [evaluator(loop.start, depth) for loop in loops]
        self._stops = [evaluator(loop.stop, depth) for loop in loops]
        self.at, self.start, self.stop = ([0] * len(loops) for _ in range(3))
        self.done = False
        empty = self._enter(-1)
        if empty is not None:
            self._next(empty - 1)
        self.changed = -1

    def advance(self) -> None:
        """Step to the next tile, past iterations whose inner loops are empty."""
        self._next(len(self.at) - 1)

    def _next(self, level: int) -> None:
        self.changed = level
        while level >= 0:
            self.changed = min(self.changed, level)
            self.at[level] += 1
            empty = self._enter(level) if self.at[level] < self.stop[level] else level
            if empty is None:
                return
            level = empty - 1
        self.done = True

    def _enter(self, level: int) -> int | None:
        """Restart the loops inside `level`; return the depth of the first that is empty."""
        for d in range(level + 1, len(self.at)):
            self.at[d] = self.start[d] = self._starts[d](self.at)
            self.stop[d] = self._stops[d](self.at)
            if self.at[d] >= self.stop[d]:
                return d
        return None


def holds(condition: When, depth: dict[str, int]) -> Callable[[Cursor], bool]:
    """The condition as a predicate on the cursor."""
    d, at = depth[condition.loop], condition.at
    match at:
        case "first":
            return lambda c: c.at[d] == c.start[d]
        case "not first":
            return lambda c: c.at[d] != c.start[d]
        case "last":
            return lambda c: c.at[d] == c.stop[d] - 1
        case "not last":
            return lambda c: c.at[d] != c.stop[d] - 1
        case _:
            return lambda c: c.at[d] == at


@dataclass(frozen=True, slots=True)
class Shape:
    """What the tasks of a tile are: for each its variant (-1: absent, 0: as declared, i: variants[i - 1]) and ticks."""

    number: int
    variant: tuple[int, ...]
    ticks: tuple[int, ...]


class Shapes:
    """The shape of each tile, by the truth of every condition in the program; equal shapes are one object."""

    def __init__(self, program: Program) -> None:
        self._tasks = program.tasks
        every = (w for t in program.tasks for w in (*t.when, *(w for v in t.variants for w in v.when)))
        self._conditions = tuple(dict.fromkeys(every))
        self._holds = [holds(w, program.depth) for w in self._conditions]
        self._known: dict[tuple[bool, ...], Shape] = {}

    def at(self, cursor: Cursor) -> Shape:
        """The shape of the cursor's tile."""
        truth = tuple(h(cursor) for h in self._holds)
        if truth not in self._known:
            self._known[truth] = self._make(dict(zip(self._conditions, truth, strict=True)))
        return self._known[truth]

    def _make(self, truth: dict[When, bool]) -> Shape:
        variant = []
        for task in self._tasks:
            exists = all(truth[w] for w in task.when)
            fits = (i for i, v in enumerate(task.variants, start=1) if all(truth[w] for w in v.when))
            variant.append(next(fits, 0) if exists else -1)
        ticks = [t.variants[v - 1].ticks if v > 0 else t.ticks for t, v in zip(self._tasks, variant, strict=True)]
        return Shape(len(self._known), tuple(variant), tuple(ticks))
