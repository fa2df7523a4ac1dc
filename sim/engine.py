"""The reference engine: a program of tiles as events on SimPy, in integer time.

Rules 6.2 to 6.6: within a tick all ends of tasks come first, then tiles are launched, then tasks are granted, oldest
tile first, then in program order; a zero-length task ends in the tick that grants it, which opens another round.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import simpy
from simpy.events import EventPriority

from sim.nest import Cursor, Shapes
from sim.outcome import Cause, Deadlock, Overflow, Run, Span
from sim.program import Dep, Program
from sim.stall import cause, explain
from sim.tile import ABSENT, DONE, READY, RUNNING, Tile

GRANT = EventPriority(2)  # SimPy priority after URGENT 0 and NORMAL 1: grants follow every end of the same tick


class _Grant(simpy.Event):
    """Fires after every end of the current tick."""

    def __init__(self, env: simpy.Environment, then: Callable[[simpy.Event], None]) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        self.callbacks.append(then)
        env.schedule(self, priority=GRANT)


class Engine:
    """Runs a program. `before_launch`, when given, is called with the engine before each launch and may move the
    cursor, `offset` (ticks skipped), `skipped` (tiles skipped) and the counts ahead (`sim.fold`)."""

    def __init__(
        self, program: Program, before_launch: Callable[[Engine], None] | None = None, trace_tiles: int = 0
    ) -> None:
        self.program, self._hook, self._trace_tiles = program, before_launch, trace_tiles
        self.env = simpy.Environment(initial_time=0)
        self.cursor, self._shapes = Cursor(program.loops), Shapes(program)
        self.offset = self.skipped = self.launched = self._accounted = 0
        self.open: dict[int, Tile] = {}  # by number, oldest first
        self.by_index: dict[tuple[int, ...], Tile] = {}
        names = {r.name: i for i, r in enumerate(program.resources)}
        slots = {s.name: i for i, s in enumerate(program.slots)}
        self._lead = [t.lead for t in program.tasks]
        self._resource = [-1 if t.resource is None else names[t.resource] for t in program.tasks]
        self.acquires = [[slots[s] for s in t.acquires] for t in program.tasks]
        self._releases = [[slots[s] for s in t.releases] for t in program.tasks]
        self._deps = [_relative(t.deps, program) for t in program.tasks]
        # static order of each resource as (task, stage); empty where the oldest tile comes first
        self.orders = [[(program.position[t], s) for t, s in r.order or ()] for r in program.resources]
        self.turns = [[0, 0] for _ in program.resources]  # step and place in the order
        self.free = [s.count for s in program.slots]
        self.running: list[tuple[int, int, int] | None] = [None] * len(names)  # number, task, end in env time
        self.latent: list[tuple[int, int, int]] = []  # pure latencies that run
        self._ready: dict[int, list[int]] = {}  # task without a static order -> heap of tile numbers
        self.ready_count = [0] * len(program.tasks)
        self.pending: list[list[tuple[int, int]]] = [[] for _ in names]  # heaps of (number, task) not started
        self._grant_due = False
        self.counts = [[0] * (1 + len(t.variants)) for t in program.tasks]
        self.stalls: list[dict[Cause, int]] = [{} for _ in names]
        self.spans: list[Span] = []

    def run(self) -> Run:
        """Simulate to the end. Raises Deadlock."""
        self._request_grant()
        self.env.run()
        if self.open or not self.cursor.done:
            raise Deadlock(explain(self))
        program = self.program
        return Run(
            program,
            self.now + self.offset,
            self.launched + self.skipped,
            self.launched,
            {t.name: tuple(n) for t, n in zip(program.tasks, self.counts, strict=True)},
            {r.name: s for r, s in zip(program.resources, self.stalls, strict=True)},
            tuple(self.spans),
        )

    @property
    def now(self) -> int:
        """The clock in ticks, without those skipped; SimPy's type admits floats, all our times are whole."""
        return int(self.env.now)

    def _request_grant(self) -> None:
        if not self._grant_due:
            self._grant_due = True
            _Grant(self.env, self._grant)

    def _grant(self, _: simpy.Event) -> None:
        """The end of a round: launch what the window allows, then start what can start, in rank order."""
        self._grant_due = False
        while not self.cursor.done and self._window_open():
            if self._hook:
                self._hook(self)
            self._launch()
        while (best := self._best()) is not None:
            self._start(*best)

    def _window_open(self) -> bool:
        oldest = next(iter(self.open), self.launched)
        return self.launched - oldest < self.program.window

    def _launch(self) -> None:
        tile = Tile(self.launched, tuple(self.cursor.at), self._shapes.at(self.cursor))
        self.launched += 1
        if tile.left:
            self.open[tile.number] = self.by_index[tile.index] = tile
        ready = []
        for k, state in enumerate(tile.state):
            if state == ABSENT:
                continue
            if (r := self._resource[k]) >= 0:
                heapq.heappush(self.pending[r], (tile.number, k))
            for producer, a in self.unmet(tile, k):
                producer.waiters.setdefault(a, []).append((tile, k))
                tile.need[k] += 1
            if not tile.need[k]:
                ready.append((tile, k))
        self._make_ready(ready)
        self.cursor.advance()

    def unmet(self, tile: Tile, k: int) -> list[tuple[Tile, int]]:
        """The ends that task k of the tile still waits for. A tile that is not open has ended or does not exist."""
        found = []
        for a, launched, shift in self._deps[k]:
            if launched:
                producer = self.open.get(tile.number - launched)
            elif shift:
                producer = self.by_index.get(tuple(i - d for i, d in zip(tile.index, shift, strict=True)))
            else:
                producer = tile
            if producer is not None and producer.state[a] < DONE:
                found.append((producer, a))
        return found

    def _make_ready(self, ready: list[tuple[Tile, int]]) -> None:
        """Queue tasks that wait for no other. What takes no time, resource or slot ends at once and may ready more."""
        while ready:
            tile, k = ready.pop()
            r = self._resource[k]
            if r < 0 and not tile.shape.ticks[k] and not self.acquires[k]:
                self._record(tile, k, 0)
                ready += self._finish(tile, k)
                continue
            tile.state[k], tile.cached = READY, None
            self.ready_count[k] += 1
            if r < 0 or not self.orders[r]:
                heapq.heappush(self._ready.setdefault(k, []), tile.number)

    def _finish(self, tile: Tile, k: int) -> list[tuple[Tile, int]]:
        """Mark a task as ended and give its slots back; what waited for nothing else."""
        for s in self._releases[k]:
            self.free[s] += 1
            if self.free[s] > self.program.slots[s].count:
                task, slot = self.program.tasks[k].name, self.program.slots[s].name
                raise Overflow(f"{task} of tile {tile.index} gives back {slot}, but none is taken")
        tile.state[k], tile.cached = DONE, None
        tile.left -= 1
        if not tile.left:
            del self.open[tile.number], self.by_index[tile.index]
        ready = []
        for waiter, j in tile.waiters.get(k, ()):
            waiter.need[j] -= 1
            if not waiter.need[j]:
                ready.append((waiter, j))
        return ready

    def _record(self, tile: Tile, k: int, ticks: int) -> None:
        """Count one run of a task, from now on; trace it if its tile is among the first."""
        self.counts[k][tile.shape.variant[k]] += 1
        if tile.number < self._trace_tiles:
            task, start = self.program.tasks[k], self.now + self.offset
            self.spans.append(Span(task.resource, task.name, tile.index, start, start + ticks))

    def _best(self) -> tuple[int, int] | None:
        """(tile number, task) to grant next: the least of those that are ready and find resource and slots free."""
        best = None
        for k, queue in self._ready.items():
            r = self._resource[k]
            idle = r < 0 or self.running[r] is None
            rank = queue[0] - self._lead[k], k
            if idle and (best is None or rank < best) and self.slots_free(k):
                best = rank
        for r, order in enumerate(self.orders):
            if order and self.running[r] is None and (turn := self.turn(r)) is not None:
                number, k = turn
                tile, rank = self.open.get(number), (number - self._lead[k], k)
                if tile and tile.state[k] == READY and self.slots_free(k) and (best is None or rank < best):
                    best = rank
        return best and (best[0] + self._lead[best[1]], best[1])

    def slots_free(self, k: int) -> bool:
        for s in self.acquires[k]:  # noqa: SIM110 - plain, for speed: it runs for every candidate of every grant
            if not self.free[s]:
                return False
        return True

    def turn(self, r: int) -> tuple[int, int] | None:
        """The (tile number, task) that resource r's static order comes to next; None when nothing is left.
        The tile may still have to be launched."""
        order, at = self.orders[r], self.turns[r]
        behind = max(stage for _, stage in order)
        while not (self.cursor.done and at[0] - behind >= self.launched):
            k, stage = order[at[1]]
            number = at[0] - stage
            tile = self.open.get(number)
            to_come = number >= self.launched and not self.cursor.done
            if to_come or (tile is not None and tile.state[k] < RUNNING):
                return number, k
            at[1] += 1
            if at[1] == len(order):
                at[:] = at[0] + 1, 0
        return None

    def _start(self, number: int, k: int) -> None:
        tile, r = self.open[number], self._resource[k]
        if r < 0 or not self.orders[r]:
            heapq.heappop(self._ready[k])
            if not self._ready[k]:
                del self._ready[k]
        for s in self.acquires[k]:
            self.free[s] -= 1
        tile.state[k], tile.cached = RUNNING, None
        self.ready_count[k] -= 1
        ticks = tile.shape.ticks[k]
        entry = number, k, self.now + ticks
        if r < 0:
            self.latent.append(entry)
        else:
            self.running[r] = entry
        self._record(tile, k, ticks)
        self.env.timeout(ticks).callbacks.append(lambda _: self._end(tile, k, entry))

    def _end(self, tile: Tile, k: int, entry: tuple[int, int, int]) -> None:
        self._account()
        if (r := self._resource[k]) < 0:
            self.latent.remove(entry)
        else:
            self.running[r] = None
        self._make_ready(self._finish(tile, k))
        self._request_grant()

    def _account(self) -> None:
        """Charge the time since the last event to the causes for which idle resources waited."""
        elapsed, self._accounted = self.now - self._accounted, self.now
        if not elapsed:
            return
        for r, busy in enumerate(self.running):
            if busy is None:
                why = cause(self, r)
                self.stalls[r][why] = self.stalls[r].get(why, 0) + elapsed


def _relative(deps: tuple[Dep, ...], program: Program) -> list[tuple[int, int, tuple[int, ...]]]:
    """Each dependency as (task, launched distance, distance vector or empty)."""
    found = []
    for dep in deps:
        distance = dict(dep.carried)
        shift = tuple(distance.get(loop.name, 0) for loop in program.loops) if distance else ()
        found.append((program.position[dep.task], dep.launched, shift))
    return found
