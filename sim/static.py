"""Programs in which nothing is decided at run time, as products of (max,+) matrices. Rules 6.21 to 6.24.

`States` runs tiles without time: launching one more tile lets a known set of tasks follow, whose ends are maxima of
sums of earlier ones. That is a matrix from the ends that matter before the launch to those that matter after it, and
it depends on nothing but which tasks of the last `window` tiles exist and which have run: a finite `State`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from einsum.problems import InputError, Problem
from sim.nest import Shape
from sim.program import Program
from sim.semiring import NEVER, slack, tightened

Label = tuple[str, int, int]  # what a time is: (launch | end | tile | free | ready), of what, of which tile
Kind = tuple[Shape, tuple[int, ...]]  # of a tile: its tasks, and how many tiles back each carried dependency leads
LAUNCH: Label = ("launch", 0, 0)


class NotStatic(InputError):
    """The order of events of the program depends on its durations, or was not shown not to."""


@dataclass(frozen=True)
class State:
    """Before a launch; tiles count from the next one, which is 0.

    `tiles`: (number, kind, tasks done) of the last ones; `turns`: step and place of each static order; `slots`: of
    each, free ones that no wait is bound to, tiles that gave the others back, next tiles to take and to give.
    """

    tiles: tuple[tuple[int, Kind, int], ...]
    turns: tuple[tuple[int, int], ...]
    slots: tuple[tuple[int, tuple[int, ...], int, int], ...]
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Node:
    """An event: the latest of the events `after` (node, why it waits), and then `ticks` of (task, variant)."""

    row: np.ndarray
    after: tuple[tuple[Node, str], ...]
    ticks: int = 0
    work: tuple[str, int] | None = None


@dataclass(eq=False)
class Step:
    """The launch of one tile, as a matrix from `before` to `after`; `never_before` lists pairs of events (a, b) such
    that the order of service assumed is right if b is never before a."""

    before: tuple[Label, ...]
    after: tuple[Label, ...]
    nodes: list[Node]  # of `after`
    never_before: list[tuple[Node, Node]]
    tiles: int = 1
    matrix: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = np.array([node.row for node in self.nodes])


def path(step: Step, i: int, j: int) -> Counter[tuple[str, str, int]]:
    """What lies on a longest path from time j before the step to time i after it: (task, name, variant) for work,
    (why, name, 0) for each wait."""
    node, found = step.nodes[i], Counter()
    while node.after:
        if node.work:
            found["task", *node.work] += 1
        end = node.row[j] - node.ticks
        node, why = next((n, why) for n, why in node.after if n.row[j] == end)
        if why:
            kind, _, name = why.partition(" ")
            found[kind, name, 0] += 1
    return found


class States:
    """The states of a program and the steps between them. Raises NotStatic."""

    def __init__(self, program: Program) -> None:
        self.program = program
        _refuse(program)
        names, slots = {r.name: i for i, r in enumerate(program.resources)}, program.slots
        tasks = program.tasks
        self.resource = [-1 if t.resource is None else names[t.resource] for t in tasks]
        self.orders = [[(program.position[t], s) for t, s in r.order or ()] for r in program.resources]
        self.deps = [[(program.position[d.task], d.launched, bool(d.carried)) for d in t.deps] for t in tasks]
        self.carried = [(k, d) for k, t in enumerate(tasks) for d in t.deps if d.carried]
        self.takers = [next(k for k, t in enumerate(tasks) if s.name in t.acquires) for s in slots]
        self.givers = [next(k for k, t in enumerate(tasks) if s.name in t.releases) for s in slots]
        self.takes = [[i for i, s in enumerate(slots) if s.name in t.acquires] for t in tasks]
        self.reach = [0] * len(tasks)  # tiles after its own in which a task may be waited for
        for waits in self.deps:
            for a, launched, carried in waits:
                self.reach[a] = max(self.reach[a], program.window - 1 if carried else min(launched, program.window - 1))
        self._known: dict[tuple[State, Kind | None], tuple[Step, State]] = {}
        free = tuple((s.count, (), 0, 0) for s in slots)
        self.initial = State((), ((0, 0),) * len(self.orders), free, (LAUNCH,))

    def step(self, state: State, kind: Kind | None) -> tuple[Step, State]:
        """Launch a tile (None: say that there is no further one) and run what can."""
        if (state, kind) not in self._known:
            self._known[state, kind] = _Launch(self, state, kind).run()
        return self._known[state, kind]

    def verify(self) -> None:
        """Show that slots are taken and given back in tile order, whatever the times in which a state is reached."""
        bounds: dict[tuple[Label, ...], np.ndarray] = {self.initial.labels: np.zeros((1, 1), dtype=np.int64)}
        steps: dict[tuple[object, ...], Step] = {}
        for step, _ in self._known.values():
            steps.setdefault((step.before, step.after, step.matrix.tobytes(), len(step.never_before)), step)
        unique = list(steps.values())
        for n in range(64):
            changed = False
            for step in unique:
                if (known := bounds.get(step.before)) is None:
                    continue
                found = slack(tightened(step.matrix, known), step.matrix)
                old = bounds.get(step.after)
                new = found if old is None else np.minimum(old, found)
                if old is None or (new != old).any():
                    # widened, so that it ends: what shrinks again and again has no bound
                    bounds[step.after] = new if n < 3 or old is None else np.where(new < old, NEVER, new)
                    changed = True
            if not changed:
                break
        for step, _ in self._known.values():
            self._ordered(step, bounds[step.before])

    def _ordered(self, step: Step, known: np.ndarray) -> None:
        for a, b in step.never_before:
            early, late = np.array([a.row]), np.array([b.row])
            if slack(late, early).item() < 0 and slack(tightened(late, known), early).item() < 0:
                what = "a slot may be taken or given back out of the order of the tiles"
                raise NotStatic(Problem(what, self.program.name, path="slots"))


def _refuse(program: Program) -> None:
    """What is not static whatever the durations."""
    problems = []
    for resource in program.resources:
        if not resource.order and any(t.resource == resource.name for t in program.tasks):
            problems.append(Problem("a resource without a static order", path=f"resources.{resource.name}"))
    for slot in program.slots:
        takers = [t for t in program.tasks for s in t.acquires if s == slot.name]
        givers = [t for t in program.tasks for s in t.releases if s == slot.name]
        if len(takers) != 1 or len(givers) != 1:
            problems.append(Problem("a slot that several tasks take or give back", path=f"slots.{slot.name}"))
    if problems:
        raise NotStatic(Problem(p.what, program.name, path=p.path) for p in problems)


class _Launch:
    """One step from a state, under construction; tiles are counted from the launched one."""

    def __init__(self, states: States, state: State, kind: Kind | None) -> None:
        self.s, self.program, self.before, self.closing = states, states.program, state, kind is None
        rows = np.full((len(state.labels),) * 2, NEVER)
        np.fill_diagonal(rows, 0)
        self.times = {label: Node(row, ()) for label, row in zip(state.labels, rows, strict=True)}
        self.tiles = {n: (of, done) for n, of, done in state.tiles}
        self.turns = [list(turn) for turn in state.turns]
        self.slots = [[plain, list(given), take, give] for plain, given, take, give in state.slots]
        self.never_before: list[tuple[Node, Node]] = []
        if kind is not None:
            ends = self.times.get(("tile", 0, -self.program.window))
            self.times[LAUNCH] = self._event([(self.times[LAUNCH], ""), *([(ends, "window")] if ends else [])])
            self.tiles[0] = kind, sum(1 << k for k, v in enumerate(kind[0].variant) if v < 0)
            self.times["tile", 0, 0] = self.times["start", 0, 0] = self.times[LAUNCH]

    def run(self) -> tuple[Step, State]:
        self._refuse_standstill(n for n in self.tiles if n <= -self.program.window)
        while self._progress():
            self._slot_pointers()
        if self.closing:
            self._refuse_standstill(self.tiles)
        state = self._after()
        nodes = [self.times[label] for label in self.labels]
        return Step(self.before.labels, state.labels, nodes, self.never_before, int(not self.closing)), state

    def _progress(self) -> bool:
        served = [self._serve(r) for r in range(len(self.s.orders))]
        return self._latencies() or any(served)

    def _event(self, after: Sequence[tuple[Node, str]], ticks: int = 0, work: tuple[str, int] | None = None) -> Node:
        row = np.maximum.reduce([node.row for node, _ in after]) + ticks
        row[row < 0] = NEVER
        return Node(row, tuple(after), ticks, work)

    def _done(self, n: int, k: int) -> bool:
        return n not in self.tiles or bool(self.tiles[n][1] >> k & 1)

    def _waits(self, n: int, k: int) -> Iterable[tuple[int, int]]:
        """(tile, task) of each dependency that may still matter."""
        kind = self.tiles[n][0]
        back = iter([d for (j, _), d in zip(self.s.carried, kind[1], strict=True) if j == k])
        for a, launched, carried in self.s.deps[k]:
            distance = next(back) if carried else launched
            m = n - distance
            near = m in self.tiles and distance < self.program.window and (distance or not carried)
            if near and self.tiles[m][0][0].variant[a] >= 0:
                yield m, a

    def _try(self, n: int, k: int) -> bool:
        """Run task k of tile n if everything that it waits for has run."""
        waits = list(self._waits(n, k))
        takes = self.s.takes[k]
        if any(not self._done(*wait) for wait in waits):
            return False
        if any(self.slots[i][2] != n or not (self.slots[i][0] or self.slots[i][1]) for i in takes):
            return False
        r, ends = self.s.resource[k], [(self.times["end", a, m], "dependency") for m, a in waits]
        after = [(self.times["start", 0, n], ""), *ends]
        if r < 0 and takes:
            after = [(self._in_order(takes, n, self._event(after)), "")]
        elif r >= 0 and ("free", r, 0) in self.times:
            after.append((self.times["free", r, 0], f"order {self.program.resources[r].name}"))
        for i in takes:
            after += self._take(i)
        kind, done = self.tiles[n]
        variant = kind[0].variant[k]
        node = self._event(after, kind[0].ticks[k], (self.program.tasks[k].name, variant))
        self.tiles[n] = kind, done | 1 << k
        self.times["end", k, n] = node
        self.times["tile", 0, n] = self._event([(self.times["tile", 0, n], ""), (node, "")])
        if r >= 0:
            self.times["free", r, 0] = node
        return True

    def _in_order(self, takes: list[int], n: int, ready: Node) -> Node:
        """A pure latency takes slots when it is ready: the next tile's must not be ready before."""
        for i in takes:
            for label in [x for x in self.times if x[:2] == ("ready", i)]:
                self.never_before.append((self.times.pop(label), ready))
            self.times["ready", i, n] = ready
        return ready

    def _take(self, i: int) -> list[tuple[Node, str]]:
        slot = self.slots[i]
        if slot[0]:
            slot[0] -= 1
            return []
        return [(self.times["end", self.s.givers[i], slot[1].pop(0)], f"slot {self.program.slots[i].name}")]

    def _slot_pointers(self) -> None:
        """Slots are taken and given back in tile order: go on to the next tile that has still to."""
        for i, slot in enumerate(self.slots):
            last = 0 if self.closing else 1
            while slot[2] < last and self._done(slot[2], self.s.takers[i]):
                slot[2] += 1
            while slot[3] < last and self._done(slot[3], giver := self.s.givers[i]):
                n = slot[3]
                slot[3] += 1
                if n in self.tiles and self.tiles[n][0][0].variant[giver] >= 0:
                    self._give(i, giver, n)

    def _give(self, i: int, giver: int, n: int) -> None:
        if self.s.resource[giver] < 0:
            before = [x for x in self.times if x[:2] == ("given", i)]
            self.never_before += [(self.times.pop(x), self.times["end", giver, n]) for x in before]
            self.times["given", i, n] = self.times["end", giver, n]
        self.slots[i][1].append(n)

    def _serve(self, r: int) -> bool:
        """Let resource r serve its static order as far as it gets; whether it served anything."""
        order, turn, served = self.s.orders[r], self.turns[r], False
        behind = max((stage for _, stage in order), default=0)
        newest = -1 if self.closing else 0
        while order and turn[0] - behind <= newest:
            k, stage = order[turn[1]]
            n = turn[0] - stage
            if n > newest and not self.closing:
                break
            if n <= newest and not self._done(n, k):
                self._slot_pointers()
                if not self._try(n, k):
                    break
                served = True
            elif n == newest == 0 and behind > stage and self.tiles[0][0][0].variant[k] < 0:
                self._passed_over(r)
            turn[1] += 1
            if turn[1] == len(order):
                turn[:] = turn[0] + 1, 0
        return served

    def _passed_over(self, r: int) -> None:
        """What r serves next for an older tile waits for the launch that shows that the newest has not that task."""
        free = self.times.get(("free", r, 0), self.times[LAUNCH])
        self.times["free", r, 0] = self._event([(free, ""), (self.times[LAUNCH], "window")])

    def _latencies(self) -> bool:
        ran = False
        for n in list(self.tiles):
            for k, r in enumerate(self.s.resource):
                if r < 0 and not self._done(n, k):
                    self._slot_pointers()
                    ran = self._try(n, k) or ran
        return ran

    def _full(self, n: int) -> bool:
        return self.tiles[n][1] + 1 == 1 << len(self.program.tasks)

    def _refuse_standstill(self, tiles: Iterable[int]) -> None:
        if not all(map(self._full, tiles)):
            what = "nothing can go on when slots are served in the order of the tiles"
            raise NotStatic(Problem(what, self.program.name, path="schedule"))

    def _after(self) -> State:
        """What the next launch starts from: without what ended so long ago that the window has seen to it."""
        window, shift = self.program.window, 0 if self.closing else 1
        oldest = min([n for n in self.tiles if not self._full(n)], default=1)
        tiles = []
        for n, (kind, done) in self.tiles.items():
            if n > min(oldest, 2) - window - 1:
                tiles.append((n - shift, (kind[0], ()) if self._full(n) else kind, done))
        slots = []
        for plain, given, take, give in self.slots:
            kept = [n - shift for n in given if n > take - window]
            slots.append((plain + len(given) - len(kept), tuple(kept), take - shift, give - shift))
        turns = tuple((step - shift, place) for step, place in self.turns)
        awaited = {("end", a, m) for n in self.tiles for k in self._left(n) for m, a in self._waits(n, k)}
        for giver, (_, given, _, _) in zip(self.s.givers, slots, strict=True):
            awaited |= {("end", giver, n + shift) for n in given}
        self.labels = tuple(sorted(x for x in self.times if x in awaited or self._needed(x)))
        moved = tuple((what, of, n - shift * (what not in ("launch", "free"))) for what, of, n in self.labels)
        return State(tuple(tiles), turns, tuple(slots), moved)

    def _left(self, n: int) -> Iterable[int]:
        return (k for k in range(len(self.program.tasks)) if not self._done(n, k))

    def _needed(self, label: Label) -> bool:
        what, of, n = label
        window = self.program.window
        match what:
            case "end":
                return n > -self.s.reach[of]
            case "tile":
                return self.closing or n > -window
            case "start":
                return not self._full(n)
            case "ready":
                return n > self.slots[of][2] - window
            case "given":
                return n > self.slots[of][3] - window
            case _:
                return True
