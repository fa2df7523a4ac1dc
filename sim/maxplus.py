"""Exact evaluation of static programs in (max,+): N iterations of a loop are the N-th power of a matrix.

`walk` goes through the nest once without time (`sim.static`). Where the state comes back at the start of another
iteration of a loop, the steps in between are one operator, applied as often as the loop goes on to repeat them: nested
loops compose, ragged and causal ones become products. Rules 6.21 to 6.24.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.fold import repeats
from sim.nest import Cursor, Shapes
from sim.program import Program
from sim.semiring import NEVER, apply, multiply
from sim.static import Kind, States, Step, path

Amounts = Counter[tuple[str, str, int]]  # (task, name, variant) or (why, name, 0) -> how often


class Operator:
    """A step, or items one after the other, with its matrix and that matrix squared again and again."""

    def __init__(self, content: Step | tuple[Item, ...]) -> None:
        self.content = content
        items = () if isinstance(content, Step) else content
        self.tiles = content.tiles if isinstance(content, Step) else sum(i.op.tiles * i.times for i in items)
        self._squares: list[np.ndarray] = []
        self._paths: dict[tuple[int, int, int], Amounts] = {}

    def square(self, q: int) -> np.ndarray:
        """The matrix to the power 2^q."""
        if not self._squares:
            self._squares.append(self._matrix())
        while len(self._squares) <= q:
            self._squares.append(multiply(self._squares[-1], self._squares[-1]))
        return self._squares[q]

    def _matrix(self) -> np.ndarray:
        if isinstance(self.content, Step):
            return self.content.matrix
        factors = [op.square(q) for op, q in factored(self.content)]
        made = factors[0]
        for factor in factors[1:]:
            made = multiply(factor, made)
        return made

    def path(self, i: int, j: int, q: int = 0) -> Amounts:
        """What lies on a longest path from time j before to time i after 2^q applications."""
        if (found := self._paths.get((i, j, q))) is None:
            if q:
                half = self.square(q - 1)
                k = int((half[i] + half[:, j]).argmax())
                found = self.path(i, k, q - 1) + self.path(k, j, q - 1)
            elif isinstance(self.content, Step):
                found = path(self.content, i, j)
            else:
                start = np.full(self.square(0).shape[1], NEVER)
                start[j] = 0
                found = longest(self.content, start, i)
            self._paths[i, j, q] = found
        return found


@dataclass(frozen=True, eq=False, slots=True)
class Item:
    """An operator and how many times it is applied."""

    op: Operator
    times: int = 1


def factored(items: Iterable[Item]) -> Iterable[tuple[Operator, int]]:
    """Each item as operators to the power 2^q, in the order in which they are applied."""
    return ((i.op, q) for i in items for q in range(i.times.bit_length()) if i.times >> q & 1)


def longest(items: Sequence[Item], start: np.ndarray, end: int) -> Amounts:
    """What lies on a longest path from the times `start` through the items to the time `end` after them."""
    times, factors = [start], list(factored(items))
    for op, q in factors:
        times.append(apply(op.square(q), times[-1]))
    amounts: Amounts = Counter()
    for (op, q), before in zip(reversed(factors), reversed(times[:-1]), strict=True):
        first = int((op.square(q)[end] + before).argmax())
        amounts.update(op.path(end, first, q))
        end = first
    return amounts


@dataclass(frozen=True)
class Evaluation:
    """A static program as a product of operators on the times before its first launch."""

    program: Program
    items: tuple[Item, ...]

    @cached_property
    def ends(self) -> np.ndarray:
        """The times after the last item, in ticks."""
        x = np.zeros(1, dtype=np.int64)
        for op, q in factored(self.items):
            x = apply(op.square(q), x)
        return x

    @property
    def makespan(self) -> int:
        """Ticks from the first launch to the last end."""
        return int(self.ends.max())

    @property
    def tiles(self) -> int:
        return sum(item.op.tiles * item.times for item in self.items)

    @cached_property
    def derivative(self) -> dict[tuple[str, int], int]:
        """(task, variant) -> ticks by which the makespan grows for each tick that it takes longer (0 if left out).

        The makespan is the greatest of sums of durations, hence convex in each of them: where several paths are
        longest this is a subgradient, between the differences for a tick less and a tick more.
        """
        return {(name, variant): n for (kind, name, variant), n in self.critical.items() if kind == "task"}

    @cached_property
    def critical(self) -> Amounts:
        """What lies on a longest path through the whole run: how often each task, and why it waited."""
        return longest(self.items, np.zeros(1, dtype=np.int64), int(self.ends.argmax()))


def evaluate(program: Program) -> Evaluation:
    """The program's run, exactly. Raises NotStatic, and OverflowError beyond 2^62 ticks."""
    evaluation = Evaluation(program, tuple(_Walk(program).items))
    evaluation.ends  # noqa: B018 - overflow shows here
    return evaluation


class _Walk:
    """Through the nest without time; folds what repeats."""

    def __init__(self, program: Program) -> None:
        self.program, self.states, self.shapes = program, States(program), Shapes(program)
        self.cursor, self.launched = Cursor(program.loops), 0
        self.state = self.states.initial
        self.recent: dict[tuple[int, ...], int] = {}  # index -> number of the last tiles, oldest first
        self.items: list[Item] = []
        self._operators: dict[object, Operator] = {}
        self._seen: list[dict[object, tuple[int, int]]] = [{} for _ in program.loops]
        self._skippable, self._plain_from = repeats(program)
        while not self.cursor.done:
            self._fold()
            self._step(self._kind())
            self.recent[tuple(self.cursor.at)] = self.launched
            self.launched += 1
            while len(self.recent) >= max(2, program.window):
                del self.recent[next(iter(self.recent))]
            self.cursor.advance()
        self._step(None)
        self.states.verify()

    def _step(self, kind: Kind | None) -> None:
        step, self.state = self.states.step(self.state, kind)
        self.items.append(Item(self._operator(id(step), step)))

    def _operator(self, key: object, content: Step | tuple[Item, ...]) -> Operator:
        if key not in self._operators:
            self._operators[key] = Operator(content)
        return self._operators[key]

    def _kind(self) -> Kind:
        """What the tile launched next is, and how far back its carried dependencies lead (0: to none that is open)."""
        back = []
        for _, dep in self.states.carried:
            shift = dict(dep.carried)
            at = tuple(i - shift.get(x.name, 0) for i, x in zip(self.cursor.at, self.program.loops, strict=True))
            back.append(self.launched - self.recent[at] if at in self.recent else 0)
        return self.shapes.at(self.cursor), tuple(back)

    def _fold(self) -> None:
        """At the start of another iteration of a loop: if the state is an earlier one's, skip to the last iteration
        by whole periods. The conditions are those of rule 6.11."""
        cursor, d = self.cursor, self.cursor.changed
        for inner in self._seen[d + 1 :]:
            inner.clear()
        apart = any(index[:d] != tuple(cursor.at[:d]) for index in self.recent)
        if d < 0 or not self._skippable[d] or apart or cursor.at[d] < self._plain_from[d]:
            return
        index, start = self._seen[d].setdefault(self.state, (cursor.at[d], len(self.items)))
        period = cursor.at[d] - index
        times = (cursor.stop[d] - 1 - cursor.at[d]) // period if period else 0
        if times:
            items = tuple(self.items[start:])
            op = self._operator(tuple((id(i.op), i.times) for i in items), items)
            self.items.append(Item(op, times))
            cursor.at[d] += times * period
            self.launched += times * op.tiles
            moved = lambda at: (*at[:d], at[d] + times * period, *at[d + 1 :])
            self.recent = {moved(at): n + times * op.tiles for at, n in self.recent.items()}
