"""Why each task of a run started when it did: the events that ended in that very instant and that it waited for.

The engine starts a task as soon as nothing holds it back, so that with the order of service that the run took, each
start is the latest of what it waited for. Those that are latest are its causes; a chain of causes from the last end
back to the first launch takes the whole makespan. Rules 6.25 and 6.26.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from einsum.problems import Problem
from sim.engine import Engine
from sim.fold import Recurrence, Seen, state
from sim.outcome import NotSimulated
from sim.program import Program
from sim.semiring import MOST
from sim.tile import Tile

MOST_EVENTS = 1_000_000  # that are kept: some 300 MB
LAUNCH = -1  # in place of a task
DATA, UNIT, WINDOW = "data", "unit order", "window"  # why an event waited for another; else "slot" and its name


class Event(NamedTuple):
    """A task's run, or the launch of a tile; `causes`: (event, why) of those that ended when it started."""

    task: int
    variant: int
    ticks: int
    causes: tuple[tuple[int, str], ...]


class Repeat(NamedTuple):
    """The events from `begin` to `end` happened `times` times more after `end`. What the events after a period can
    have for a cause before it: `before` the first, and in the same places `after` it."""

    begin: int
    end: int
    times: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    ticks: int  # of a period, without what other repeats add in it
    tiles: int


@dataclass(frozen=True)
class Causes:
    """The events of a run in the order in which they started, those that repeat once; `last` ended at its end."""

    program: Program
    makespan: int  # ticks
    tiles: int
    events: tuple[Event, ...]
    repeats: tuple[Repeat, ...]
    last: tuple[int, ...]

    @property
    def seconds(self) -> float:
        return self.makespan / self.program.ticks_per_second


def causes(program: Program) -> Causes:
    """Run the program by folding and note why each task waited.

    Raises Deadlock, and NotSimulated for a run of more than MOST_EVENTS that do not repeat, or of 2^62 ticks or more.
    """
    engine = _Recorder(program)
    run = engine.run()
    if run.makespan >= MOST:
        raise NotSimulated(Problem("a run of 2^62 ticks or more is not explained", path=program.name))
    last = tuple(i for i, end in enumerate(engine.ends) if end == engine.now)
    return Causes(program, run.makespan, run.tiles, tuple(engine.events), tuple(engine.marks.repeats), last)


@dataclass
class _Ended:
    """What has ended (tasks) or happened (launches) in the instant `at`: nothing earlier can be a cause in it."""

    at: int = -1
    events: list[tuple[int, Tile | None, int, int]] = field(default_factory=list)  # event, tile, its number, task


class _Recorder(Engine):
    def __init__(self, program: Program) -> None:
        self.marks = _Marks(program)
        super().__init__(program, self.marks)
        self.events: list[Event] = []
        self.ends: list[int] = []  # ticks, without those skipped
        self.tokens = [(s.count, deque[int]()) for s in program.slots]  # never taken, and givers of the others
        self._running: dict[tuple[int, int], int] = {}  # (tile, task) -> event
        self._ended = _Ended()
        self._met: dict[tuple[int, int], list[int]] = {}  # (tile, task) -> events that it waited for
        self._of_tile: dict[int, list[int]] = {}  # the launch first
        self._served: list[int | None] = [None] * len(program.resources)
        self._passed = [{k: _passes(order, at) for at, (k, _) in enumerate(order)} for order in self.orders]

    @property
    def ended(self) -> list[tuple[int, Tile | None, int, int]]:
        """What has ended in this instant: (event, tile, its number, task)."""
        if self._ended.at != self.now:
            self._ended = _Ended(self.now)
        return self._ended.events

    def frontier(self) -> tuple[int, ...]:
        """The events that later ones can have for a cause, in the order of `state` and `ended`."""
        now = self.now
        latent = sorted((n, k, end - now) for n, k, end in self.latent)
        running = [(n, k) for n, k, _ in (*filter(None, self.running), *latent)]
        return (*(self._running[at] for at in running), *(event for event, *_ in self.ended))

    def _launch(self) -> None:
        number = self.launched
        causes = [(event, WINDOW) for event in self._of_tile.pop(number - self.program.window, ())]
        if before := self._of_tile.get(number - 1):
            causes.append((before[0], ""))
        event = self._add(LAUNCH, 0, 0, causes)
        self._of_tile[number] = [event]
        self.ended.append((event, None, number, LAUNCH))
        super()._launch()

    def _add(self, task: int, variant: int, ticks: int, causes: list[tuple[int, str]]) -> int:
        now = self.now
        tight = tuple(dict.fromkeys((event, why) for event, why in causes if self.ends[event] == now))
        if not tight and self.events:
            raise AssertionError(f"nothing ended when {self.program.tasks[task].name} started")
        if len(self.events) == MOST_EVENTS:
            what = f"more than {MOST_EVENTS} events that do not repeat are not explained"
            raise NotSimulated(Problem(what, path=self.program.name))
        self.events.append(Event(task, variant, ticks, tight))
        self.ends.append(now + ticks)
        return len(self.events) - 1

    def _record(self, tile: Tile, k: int, ticks: int) -> None:
        super()._record(tile, k, ticks)
        number, r = tile.number, self._resource[k]
        found = [(event, DATA) for event in self._met.pop((number, k), ())]
        found += [(self._of_tile[number][0], "")]
        if r >= 0:
            if (before := self._served[r]) is not None:
                found.append((before, UNIT))
            if later := self._of_tile.get(number + self._passed[r].get(k, 0)):
                found.append((later[0], WINDOW))
        for s in self.acquires[k]:
            plain, given = self.tokens[s]
            if plain:
                self.tokens[s] = plain - 1, given
            else:
                found.append((given.popleft(), f"slot {self.program.slots[s].name}"))
        event = self._running[number, k] = self._add(k, tile.shape.variant[k], ticks, found)
        self._of_tile[number].append(event)
        if r >= 0:
            self._served[r] = event

    def _finish(self, tile: Tile, k: int) -> list[tuple[Tile, int]]:
        event = self._running.pop((tile.number, k))
        self.ended.append((event, tile, tile.number, k))
        for waiter, j in tile.waiters.get(k, ()):
            self._met.setdefault((waiter.number, j), []).append(event)
        for s in self._releases[k]:
            self.tokens[s][1].append(event)
        return super()._finish(tile, k)

    def unmet(self, tile: Tile, k: int) -> list[tuple[Tile, int]]:
        """Also notes what ended in the instant of the launch."""
        for event, producer, number, a in self.ended:
            for task, launched, shift in self._deps[k]:
                if task != a or producer is None:
                    continue
                back = tuple(i - d for i, d in zip(tile.index, shift, strict=True)) if shift else ()
                if producer.index == back if shift else number == tile.number - launched:
                    self._met.setdefault((tile.number, k), []).append(event)
        return super().unmet(tile, k)

    def _account(self) -> None:
        """Stalls are not asked for."""


def _passes(order: list[tuple[int, int]], at: int) -> int:
    """By how many tiles later than its own the last one is that must have been launched before the order comes to this
    place: without that it is not known whether there is something to serve first."""
    stage = order[at][1]
    same = [s for _, s in order[:at]]
    return max([0, stage - 1 - min(s for _, s in order), *(stage - s for s in same)])


class _Marks(Recurrence):
    """Folds as the engine does once also the same events have ended in the instant of the launch."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.repeats: list[Repeat] = []
        self._then: dict[int, tuple[int, tuple[int, ...], int]] = {}  # tiles launched -> events, frontier, time

    def key(self, engine: Engine) -> Hashable:
        assert isinstance(engine, _Recorder)
        self._then[engine.launched + engine.skipped] = len(engine.events), engine.frontier(), engine.now
        at = engine.cursor.at
        apart = lambda tile: tile and tuple(i - j for i, j in zip(tile.index, at, strict=True))
        ended = tuple((number - engine.launched, k, apart(tile)) for _, tile, number, k in engine.ended)
        return state(engine), ended

    def skip(self, engine: Engine, d: int, then: Seen, times: int) -> None:
        assert isinstance(engine, _Recorder)
        begin, before, start = self._then[then.tiles]
        tiles, index = engine.launched + engine.skipped - then.tiles, engine.cursor.at[d]
        repeat = Repeat(begin, len(engine.events), times, before, engine.frontier(), engine.now - start, tiles)
        self.repeats.append(repeat)
        super().skip(engine, d, then, times)
        for _, tile, _, _ in engine.ended:
            if tile and tile.number not in engine.open:
                tile.index = (*tile.index[:d], tile.index[d] + engine.cursor.at[d] - index, *tile.index[d + 1 :])
        for s, (_, given) in enumerate(engine.tokens):
            while len(given) > engine.free[s]:  # the others were taken in the periods skipped
                given.popleft()
            engine.tokens[s] = engine.free[s] - len(given), given
