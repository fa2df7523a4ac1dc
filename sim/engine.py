"""The reference engine: a program of tiles as events on SimPy, in integer time.

Rules 6.2 to 6.6: within a tick all ends of tasks come first, then tiles are launched, then tasks are granted, oldest
tile first, then in program order; a zero-length task ends in the tick that grants it, which opens another round.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import simpy

from sim.nest import Cursor, Shape, Shapes
from sim.program import Program

WAITING, READY, RUNNING, DONE, ABSENT = range(5)
GRANT = 2  # SimPy priority after URGENT 0 and NORMAL 1: grants follow every end of the same tick

Cause = tuple[str, str]  # (dependency, producer) | (slot, name) | (order, task) | (window, "") | (drained, "")


class Deadlock(RuntimeError):
    """Tiles are left but nothing can ever happen again; the message names who waits for what."""


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


class Tile:
    """A launched tile: the state of each task, how many ends each waits for, and who waits for its ends."""

    __slots__ = ("cached", "index", "left", "need", "number", "shape", "state", "waiters")

    def __init__(self, number: int, index: tuple[int, ...], shape: Shape) -> None:
        self.number, self.index, self.shape = number, index, shape
        self.state = bytearray(ABSENT if v < 0 else WAITING for v in shape.variant)
        self.need = [0] * len(self.state)
        self.waiters: list[list[tuple[Tile, int]]] = [[] for _ in self.state]
        self.left = len(self.state) - self.state.count(ABSENT)
        self.cached: tuple[bytes, ...] | None = None


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
        self._resource = [-1 if t.resource is None else names[t.resource] for t in program.tasks]
        self.acquires = [[slots[s] for s in t.acquires] for t in program.tasks]
        self._releases = [[slots[s] for s in t.releases] for t in program.tasks]
        self._deps = [_relative(t.deps, program) for t in program.tasks]
        self._orders = [r.order and [(program.position[t], s) for t, s in r.order] for r in program.resources]
        self._unordered = [k for k, r in enumerate(self._resource) if r < 0 or not self._orders[r]]
        self.turns = [[0, 0] for _ in program.resources]  # step and place in the order
        self.free = [s.count for s in program.slots]
        self.running: list[tuple[int, int, int] | None] = [None] * len(names)  # number, task, end in env time
        self.latent: list[tuple[int, int, int]] = []  # pure latencies that run
        self._ready: list[list[int]] = [[] for _ in program.tasks]  # heaps of tile numbers, without a static order
        self._ready_count = [0] * len(program.tasks)
        self._pending: list[list[tuple[int, int]]] = [[] for _ in names]  # heaps of (number, task) not started
        self._grant_due = False
        self.counts = [[0] * (1 + len(t.variants)) for t in program.tasks]
        self.stalls: list[dict[Cause, int]] = [{} for _ in names]
        self.spans: list[Span] = []

    def run(self) -> Run:
        """Simulate to the end. Raises Deadlock."""
        self._request_grant()
        self.env.run()
        if self.open or not self.cursor.done:
            raise Deadlock(self._explain())
        program = self.program
        return Run(
            program,
            self.env.now + self.offset,
            self.launched + self.skipped,
            self.launched,
            {t.name: tuple(n) for t, n in zip(program.tasks, self.counts, strict=True)},
            {r.name: s for r, s in zip(program.resources, self.stalls, strict=True)},
            tuple(self.spans),
        )

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
                heapq.heappush(self._pending[r], (tile.number, k))
            for producer, a in self._unmet(tile, k):
                producer.waiters[a].append((tile, k))
                tile.need[k] += 1
            if not tile.need[k]:
                ready.append((tile, k))
        self._make_ready(ready)
        self.cursor.advance()

    def _unmet(self, tile: Tile, k: int) -> list[tuple[Tile, int]]:
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
        """Queue tasks that wait for no other. What takes no time, resource or slot ends at once, which may ready more."""
        while ready:
            tile, k = ready.pop()
            r = self._resource[k]
            if r < 0 and not tile.shape.ticks[k] and not self.acquires[k]:
                self._record(tile, k, 0)
                ready += self._finish(tile, k)
                continue
            tile.state[k], tile.cached = READY, None
            self._ready_count[k] += 1
            if r < 0 or not self._orders[r]:
                heapq.heappush(self._ready[k], tile.number)

    def _finish(self, tile: Tile, k: int) -> list[tuple[Tile, int]]:
        """Mark a task as ended and give its slots back; what waited for nothing else."""
        for s in self._releases[k]:
            self.free[s] += 1
        tile.state[k], tile.cached = DONE, None
        tile.left -= 1
        if not tile.left:
            del self.open[tile.number], self.by_index[tile.index]
        ready = []
        for waiter, j in tile.waiters[k]:
            waiter.need[j] -= 1
            if not waiter.need[j]:
                ready.append((waiter, j))
        return ready

    def _record(self, tile: Tile, k: int, ticks: int) -> None:
        """Count one run of a task, from now on; trace it if its tile is among the first."""
        self.counts[k][tile.shape.variant[k]] += 1
        if tile.number < self._trace_tiles:
            task, start = self.program.tasks[k], self.env.now + self.offset
            self.spans.append(Span(task.resource, task.name, tile.index, start, start + ticks))

    def _best(self) -> tuple[int, int] | None:
        """(tile number, task) to grant next: the least of those that are ready and find resource and slots free."""
        best = None
        for k in self._unordered:
            queue, r = self._ready[k], self._resource[k]
            if queue and (r < 0 or self.running[r] is None) and self._slots_free(k):
                if best is None or (queue[0], k) < best:
                    best = queue[0], k
        for r, order in enumerate(self._orders):
            if order and self.running[r] is None and (turn := self.turn(r)) is not None:
                number, k = turn
                tile = self.open.get(number)
                if tile and tile.state[k] == READY and self._slots_free(k) and (best is None or turn < best):
                    best = turn
        return best

    def _slots_free(self, k: int) -> bool:
        return all(self.free[s] for s in self.acquires[k])

    def turn(self, r: int) -> tuple[int, int] | None:
        """The (tile number, task) that resource r's static order comes to next; None when nothing is left.
        The tile may still have to be launched."""
        order, at = self._orders[r], self.turns[r]
        behind = max(stage for _, stage in order)
        while not (self.cursor.done and at[0] - behind >= self.launched):
            k, stage = order[at[1]]
            number = at[0] - stage
            tile = self.open.get(number)
            if tile is not None and tile.state[k] < RUNNING or number >= self.launched and not self.cursor.done:
                return number, k
            at[1] += 1
            if at[1] == len(order):
                at[:] = at[0] + 1, 0
        return None

    def _start(self, number: int, k: int) -> None:
        tile, r = self.open[number], self._resource[k]
        if r < 0 or not self._orders[r]:
            heapq.heappop(self._ready[k])
        for s in self.acquires[k]:
            self.free[s] -= 1
        tile.state[k], tile.cached = RUNNING, None
        self._ready_count[k] -= 1
        ticks = tile.shape.ticks[k]
        entry = number, k, self.env.now + ticks
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
        elapsed, self._accounted = self.env.now - self._accounted, self.env.now
        if not elapsed:
            return
        for r, busy in enumerate(self.running):
            if busy is None:
                cause = self._cause(r)
                self.stalls[r][cause] = self.stalls[r].get(cause, 0) + elapsed

    def _cause(self, r: int) -> Cause:
        """Why resource r is idle: by rule 6.9, what the task that it should run next waits for."""
        instance = self.turn(r) if self._orders[r] else self._oldest(r)
        if instance is None:
            return ("drained" if self.cursor.done else "window"), ""
        number, k = instance
        if number not in self.open:
            return "window", ""
        if self._orders[r] and self._other_could_run(r):
            return "order", self.program.tasks[k].name
        return self._blocker(self.open[number], k)

    def _blocker(self, tile: Tile, k: int) -> Cause:
        unmet = self._unmet(tile, k)
        if unmet:
            return "dependency", self.program.tasks[unmet[0][1]].name
        taken = (s for s in self.acquires[k] if not self.free[s])
        return "slot", next((self.program.slots[s].name for s in taken), "")

    def _oldest(self, r: int) -> tuple[int, int] | None:
        """The oldest task of an open tile that resource r has not started."""
        queue = self._pending[r]
        while queue:
            tile = self.open.get(queue[0][0])
            if tile is not None and tile.state[queue[0][1]] < RUNNING:
                return queue[0]
            heapq.heappop(queue)
        return None

    def _other_could_run(self, r: int) -> bool:
        """Whether another task of the statically ordered resource r is ready and finds its slots free."""
        return any(self._ready_count[k] and self._slots_free(k) for k, _ in self._orders[r])

    def _explain(self) -> str:
        """Who waits for what, at most six of them."""
        lines = []
        for tile in self.open.values():
            for k, state in enumerate(tile.state):
                if state < RUNNING:
                    kind, name = self._blocker(tile, k)
                    why = f"{kind} {name}" if name else f"its turn on {self.program.tasks[k].resource}"
                    lines.append(f"{self.program.tasks[k].name} of tile {tile.index} waits for {why}")
        more = f"; and {len(lines) - 6} more" if len(lines) > 6 else ""
        now = self.env.now + self.offset
        return f"{self.program.name}: deadlock at tick {now}: " + "; ".join(lines[:6]) + more


def _relative(deps: tuple, program: Program) -> list[tuple[int, int, tuple[int, ...]]]:
    """Each dependency as (task, launched distance, distance vector or empty)."""
    found = []
    for dep in deps:
        distance = dict(dep.carried)
        shift = tuple(distance.get(loop.name, 0) for loop in program.loops) if distance else ()
        found.append((program.position[dep.task], dep.launched, shift))
    return found
