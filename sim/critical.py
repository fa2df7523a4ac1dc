"""Longest paths through a run: how long each kind of work is on them, and the circuit that sets the pace.

Every chain of causes (`sim.causes`) from the last end to the first launch takes the makespan. Where several do, the
least and the greatest time that any of them spends on some work are the makespan's two derivatives. A period that
repeats is a (max,+) matrix from the events before it to those at its end, and its repetitions are a power. Rules 6.25
to 6.28.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sim.causes import DATA, LAUNCH, UNIT, WINDOW, Causes, Repeat
from sim.semiring import NEVER, multiply


def spent(causes: Causes, works: Sequence[Collection[int]]) -> list[tuple[int, int]]:
    """The least and the most ticks that a longest path spends on the tasks of each of `works` (positions in the
    program)."""
    every = (*range(len(causes.program.tasks)), LAUNCH)
    mine = np.array([[task in work for work in works] for task in every]).reshape(len(every), len(works))
    weights = np.concatenate([mine, ~mine], axis=1).astype(np.int64)  # what is not spent on the rest is spent on these
    own, rest = _Paths(causes, weights).most().reshape(2, -1).tolist()
    return [(causes.makespan - others, most) for most, others in zip(own, rest, strict=True)]


def live(causes: Causes) -> bytearray:
    """Of each event whether it, or one of its repetitions, is on a longest path."""
    found, at = bytearray(len(causes.events)), {r.end: r for r in causes.repeats}

    def back(begin: int, end: int) -> None:
        for i in range(end - 1, begin - 1, -1):
            if found[i]:
                for j, _ in causes.events[i].causes:
                    found[j] = True
            if i > begin and i in at:
                period(at[i])

    def period(repeat: Repeat) -> None:
        more = True
        while more:  # what a period needs before it, the one before has to bring
            back(repeat.begin, repeat.end)
            more = [b for a, b in zip(repeat.before, repeat.after, strict=True) if found[a] and not found[b]]
            for event in more:
                found[event] = True

    for event in causes.last:
        found[event] = True
    back(0, len(causes.events))
    return found


class _Paths:
    """Greatest weights of chains of causes; `weights`: (task, column) -> weight of a tick, LAUNCH last."""

    def __init__(self, causes: Causes, weights: np.ndarray) -> None:
        self.causes, self.weights = causes, weights
        self.at = {r.end: r for r in causes.repeats}
        self.live = live(causes)
        self._powers: dict[int, list[np.ndarray]] = {}  # repeat (its end) -> its matrix squared again and again

    def most(self) -> np.ndarray:
        """By column the greatest weight of a chain through the whole run."""
        values = self._through(0, len(self.causes.events), {})
        return np.max([np.zeros_like(self.weights[0]), *(values[i][0] for i in self.causes.last)], axis=0)

    def _through(self, begin: int, end: int, values: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """The greatest weights at each live event, from the sources of `values` (source, column)."""
        shape = next(iter(values.values())).shape if values else (1, self.weights.shape[1])
        start = np.full(shape, NEVER) if values else np.zeros(shape, dtype=np.int64)
        for i in range(begin, end):
            if i > begin and (repeat := self.at.get(i)):
                self._repeat(repeat, values)
            if self.live[i]:
                event = self.causes.events[i]
                before = [values[j] for j, _ in event.causes]
                found = np.maximum.reduce(before) if before else start
                values[i] = np.where(found < 0, NEVER, found + event.ticks * self.weights[event.task])
        return values

    def _repeat(self, repeat: Repeat, values: dict[int, np.ndarray]) -> None:
        """Go on from the end of a period to that of the last one."""
        places = self._places(repeat)
        if not places:
            return
        x = np.stack([values[repeat.after[p]] for p in places])
        for q in range(repeat.times.bit_length()):
            if repeat.times >> q & 1:
                x = multiply(self._power(repeat, q), x)
        values.update(zip((repeat.after[p] for p in places), x, strict=True))

    def _places(self, repeat: Repeat) -> list[int]:
        return [p for p, event in enumerate(repeat.after) if self.live[event]]

    def _power(self, repeat: Repeat, q: int) -> np.ndarray:
        """The period 2^q times: (event at its end, event before it, column)."""
        powers = self._powers.setdefault(repeat.end, [])
        if not powers:
            places = self._places(repeat)
            unit = np.full((len(places), len(places), self.weights.shape[1]), NEVER)
            unit[range(len(places)), range(len(places))] = 0
            values = {repeat.before[p]: one for p, one in zip(places, unit, strict=True)}
            self._through(repeat.begin, repeat.end, values)
            powers.append(np.stack([values[repeat.after[p]] for p in places]))
        while len(powers) <= q:
            powers.append(multiply(powers[-1], powers[-1]))
        return powers[q]


@dataclass(frozen=True, slots=True)
class Step:
    """A task on a circuit, and why it waited for the one before: data, unit order, window, or the name of a slot."""

    task: str
    resource: str | None
    ticks: int
    wait: str


@dataclass(frozen=True, slots=True)
class Circuit:
    """Work that waits for itself, some tiles on: they cannot follow each other faster. It sets the pace for `spent`
    ticks of the run."""

    steps: tuple[Step, ...]
    ticks: int
    tiles: int
    spent: int


def circuits(causes: Causes) -> tuple[Circuit, ...]:
    """Critical circuits of each loop that repeats and has none that does within, equal ones once, longest time first.

    Where several are critical, found by walking back: one that stays on its unit, then others that prefer each unit.
    A run in which nothing repeats is taken as one circuit, a longest path.
    """
    on_path, units = live(causes), ("", *(r.name for r in causes.program.resources))
    found: dict[tuple[tuple[Step, ...], int, int], int] = {}
    for repeat, copies in _innermost(causes.repeats):
        places = [p for p, event in enumerate(repeat.after) if on_path[event]]
        if places and repeat.ticks:
            for circuit in dict.fromkeys(_circuit(causes, repeat, places[0], unit) for unit in units):
                found[circuit] = found.get(circuit, 0) + repeat.ticks * copies
    if not found and causes.makespan:
        path = _walk(causes, causes.last[0], 0, "")[0]
        return (Circuit(tuple(_steps(causes, path[::-1])), causes.makespan, causes.tiles, causes.makespan),)
    return tuple(sorted((Circuit(*key, time) for key, time in found.items()), key=lambda c: -c.spent))


def _innermost(repeats: Sequence[Repeat]) -> Iterator[tuple[Repeat, int]]:
    """Repeats without others within (they are in the order of their ends), and how often the period happens."""
    around: list[tuple[int, int]] = []  # begin, copies of the repeats around
    for n in reversed(range(len(repeats))):
        repeat = repeats[n]
        while around and around[-1][0] >= repeat.end:
            around.pop()
        copies = (repeat.times + 1) * (around[-1][1] if around else 1)
        around.append((repeat.begin, copies))
        if not n or repeats[n - 1].end <= repeat.begin:
            yield repeat, copies


def _circuit(causes: Causes, repeat: Repeat, place: int, unit: str) -> tuple[tuple[Step, ...], int, int]:
    """Steps, ticks and tiles of a circuit through periods of a repeat: from a place after them back until one comes
    again."""
    walks: dict[int, list[tuple[int, str]]] = {}  # place after a period -> (event, why it waited) back to its start
    order = {event: p for p, event in enumerate(repeat.before)}
    while place not in walks:
        walks[place], before = _walk(causes, repeat.after[place], repeat.begin, unit)
        place = order[before]
    places = list(walks)[list(walks).index(place) :]
    steps = _steps(causes, [step for p in places for step in walks[p]][::-1])
    ticks, tiles = len(places) * repeat.ticks, len(places) * repeat.tiles
    parts = next(n for n in range(len(steps), 0, -1) if not (len(steps) % n or tiles % n) and _folds(steps, n))
    return _turned(causes, steps[: len(steps) // parts]), ticks // parts, tiles // parts


def _walk(causes: Causes, event: int, begin: int, unit: str) -> tuple[list[tuple[int, str]], int]:
    """(event, why it waited) of a chain of causes back to `begin`, and what the first of them waited for (-1: none).
    Of several causes one on `unit`, then one by the order of a unit, then by data."""
    tasks, walk, by = (*causes.program.tasks, None), [], (UNIT, DATA, "")  # a launch has the last place

    def rank(cause: tuple[int, str]) -> tuple[bool, int, int]:
        task = tasks[causes.events[cause[0]].task]
        return task is None or task.resource != unit, by.index(cause[1]) if cause[1] in by else len(by), cause[0]

    while event >= begin:
        before, why = min(causes.events[event].causes, key=rank, default=(-1, ""))
        walk.append((event, why))
        event = before
    return walk, event


def _steps(causes: Causes, chain: list[tuple[int, str]]) -> list[Step]:
    """The tasks of a closed chain that take time, in order; of the waits between two the one that says most."""
    timed = next((n for n, (event, _) in enumerate(chain) if causes.events[event].ticks), 0)
    whys: list[str] = []
    steps = []
    for event, why in (*chain[timed + 1 :], *chain[: timed + 1]):
        whys.append(why)
        if ticks := causes.events[event].ticks:
            task = causes.program.tasks[causes.events[event].task]
            slots = [w for w in whys if w.startswith("slot")]
            wait = next(w for w in (*slots, WINDOW, UNIT, DATA, "") if w in whys)
            steps.append(Step(task.name, task.resource, ticks, wait))
            whys.clear()
    return [*steps[-1:], *steps[:-1]]


def _folds(steps: list[Step], parts: int) -> bool:
    length = len(steps) // parts
    return steps == steps[:length] * parts


def _turned(causes: Causes, steps: list[Step]) -> tuple[Step, ...]:
    """The circuit from the step on from which it comes first in program order, so that equal ones are equal."""
    keys = [(causes.program.position[s.task], s.ticks, s.wait) for s in steps]
    starts, same = [0, 1], 0  # two candidates, and how many steps from them on are equal
    while max(*starts, same) < len(keys):
        a, b = (keys[(start + same) % len(keys)] for start in starts)
        if a == b:
            same += 1
            continue
        starts[a < b] += same + 1
        starts[1] += starts[0] == starts[1]
        same = 0
    first = min(starts)
    return (*steps[first:], *steps[:first])
