"""An oracle for the simulator that shares no code with it: enumeration, list scheduling and longest paths of its own.

`Instances` lists every task instance of a program by plain recursion over the nest. `service_order` is a naive
simulator: it steps from tick to tick, rescans everything and keeps only who was served in which order. `makespan`
builds the event graph in networkx, one node an instance with its duration, and takes the longest path; of the naive
simulator it uses orders alone, never times, and for programs of static orders without slots it uses nothing at all.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import networkx as nx

from sim.program import Affine, Extreme, Program, Table


class Instances:
    """Tiles in launch order, and for each instance (tile, task position) its duration and what it waits for."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.names = [t.name for t in program.tasks]
        self.tiles: list[dict[str, int]] = []
        self.bounds: list[dict[str, tuple[int, int]]] = []
        self._walk(0, {}, {})
        number = {tuple(tile.values()): n for n, tile in enumerate(self.tiles)}
        self.ticks: dict[tuple[int, int], int] = {}
        self.after: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for n in range(len(self.tiles)):
            for k, task in enumerate(program.tasks):
                if all(self._true(n, w) for w in task.when):
                    fits = [v.ticks for v in task.variants if all(self._true(n, w) for w in v.when)]
                    self.ticks[n, k] = (fits or [task.ticks])[0]
        for n, k in self.ticks:
            producers = []
            for dep in program.tasks[k].deps:
                shift = dict(dep.carried)
                there = tuple(i - shift.get(name, 0) for name, i in self.tiles[n].items())
                m = n - dep.launched if dep.launched else number.get(there)
                a = self.names.index(dep.task)
                if m is not None and (m, a) in self.ticks:
                    producers.append((m, a))
            self.after[n, k] = producers

    def _walk(self, depth: int, at: dict[str, int], around: dict[str, tuple[int, int]]) -> None:
        if depth == len(self.program.loops):
            self.tiles.append(at)
            self.bounds.append(around)
            return
        loop = self.program.loops[depth]
        low, high = self._value(loop.start, at), self._value(loop.stop, at)
        for i in range(low, high):
            self._walk(depth + 1, {**at, loop.name: i}, {**around, loop.name: (low, high)})

    def _value(self, bound, at: dict[str, int]) -> int:
        if isinstance(bound, Affine):
            return (bound.constant + sum(c * at[name] for name, c in bound.terms)) // bound.divisor
        if isinstance(bound, Extreme):
            values = [self._value(b, at) for b in bound.bounds]
            return min(values) if bound.op == "min" else max(values)
        return bound.values[at[bound.loop]] if isinstance(bound, Table) else bound

    def _true(self, n: int, when) -> bool:
        i, (low, high) = self.tiles[n][when.loop], self.bounds[n][when.loop]
        named = {"first": i == low, "last": i == high - 1, "not first": i != low, "not last": i != high - 1}
        return named[when.at] if isinstance(when.at, str) else i == when.at


def static_orders(inst: Instances) -> dict[str, list[tuple[int, int]]]:
    """For each statically ordered resource the instances in order of service, by the rule of steps and stages."""
    orders = {}
    for resource in inst.program.resources:
        if resource.order:
            steps = range(len(inst.tiles) + max(stage for _, stage in resource.order))
            every = [(s - stage, inst.names.index(name)) for s in steps for name, stage in resource.order]
            orders[resource.name] = [i for i in every if i in inst.ticks]
    return orders


class Naive:
    """Runs a program by rescanning everything at every tick at which something ends."""

    def __init__(self, inst: Instances) -> None:
        self.inst, self.program = inst, inst.program
        self.ended: set[tuple[int, int]] = set()
        self.running: dict[tuple[int, int], int] = {}
        self.queue = {name: list(order) for name, order in static_orders(inst).items()}
        self.served: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.slots = {s.name: s.count for s in self.program.slots}
        self.taken: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.given: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.left = [sum((n, k) in inst.ticks for k in range(len(inst.names))) for n in range(len(inst.tiles))]
        self.launched, self.now = 0, 0
        self.waiting: list[tuple[int, int]] = []

    def run(self) -> int:
        while True:
            self._settle()
            if not self.running:
                assert self.launched == len(self.inst.tiles) and not self.waiting, "the program stands still"
                return self.now
            self.now = min(self.running.values())
            for instance in sorted(i for i, end in self.running.items() if end == self.now):
                self._end(instance)

    def _settle(self) -> None:
        """Rounds of: what needs nothing ends, launches, grants; until a round changes nothing at this tick."""
        while True:
            self._instants()
            window = self.program.window
            while self.launched < len(self.left) and (self.launched < window or self._done(self.launched - window)):
                self.waiting += [
                    (self.launched, k) for k in range(len(self.inst.names)) if (self.launched, k) in self.inst.ticks
                ]
                self.launched += 1
                self._instants()
            for instance in sorted(self.waiting, key=self._rank):
                if self._ready(instance) and self._can_start(instance):
                    self._start(instance)
            ends = sorted(i for i, end in self.running.items() if end == self.now)
            if not ends:
                return
            for instance in ends:
                self._end(instance)

    def _rank(self, instance: tuple[int, int]) -> tuple[int, int]:
        return instance[0] - self.program.tasks[instance[1]].lead, instance[1]

    def _done(self, tile: int) -> bool:
        return all(not n for n in self.left[: tile + 1])

    def _instants(self) -> None:
        again = True
        while again:
            again = False
            for n, k in sorted(self.waiting):
                task = self.program.tasks[k]
                free = task.resource is None and not self.inst.ticks[n, k] and not task.acquires
                if free and self._ready((n, k)):
                    self.waiting.remove((n, k))
                    self._end((n, k))
                    again = True

    def _ready(self, instance: tuple[int, int]) -> bool:
        return all(producer in self.ended for producer in self.inst.after[instance])

    def _can_start(self, instance: tuple[int, int]) -> bool:
        task = self.program.tasks[instance[1]]
        if any(self.slots[s] == 0 for s in task.acquires):
            return False
        if task.resource is None:
            return True
        if any(self.program.tasks[k].resource == task.resource for _, k in self.running):
            return False
        return task.resource not in self.queue or self.queue[task.resource][0] == instance

    def _start(self, instance: tuple[int, int]) -> None:
        task = self.program.tasks[instance[1]]
        self.waiting.remove(instance)
        self.running[instance] = self.now + self.inst.ticks[instance]
        for slot in task.acquires:
            self.slots[slot] -= 1
            self.taken[slot].append(instance)
        if task.resource is not None:
            self.served[task.resource].append(instance)
            if task.resource in self.queue:
                self.queue[task.resource].pop(0)

    def _end(self, instance: tuple[int, int]) -> None:
        self.running.pop(instance, None)
        self.ended.add(instance)
        self.left[instance[0]] -= 1
        for slot in self.program.tasks[instance[1]].releases:
            self.slots[slot] += 1
            self.given[slot].append(instance)


def event_graph(inst: Instances) -> nx.DiGraph:
    """Nodes: starts and ends of instances, launches of tiles. Edges carry the ticks that must pass, and their kind."""
    program, graph = inst.program, nx.DiGraph()
    naive = Naive(inst) if program.slots or any(not r.order for r in program.resources) else None
    if naive:
        naive.run()
    served = {**(naive.served if naive else {}), **static_orders(inst)}
    for (n, k), ticks in inst.ticks.items():
        _edge(graph, ("launch", n), ("start", n, k), 0, "launch")
        _edge(graph, ("start", n, k), ("end", n, k), ticks, "work")
        if n + program.window < len(inst.tiles):
            _edge(graph, ("end", n, k), ("launch", n + program.window), 0, "window")
        for m, a in inst.after[n, k]:
            _edge(graph, ("end", m, a), ("start", n, k), 0, "dependency")
    for n in range(1, len(inst.tiles)):
        _edge(graph, ("launch", n - 1), ("launch", n), 0, "window")
    for order in served.values():
        for before, after in pairwise(order):
            _edge(graph, ("end", *before), ("start", *after), 0, "order")
    for slot in program.slots:
        takes, gives = naive.taken[slot.name], naive.given[slot.name]
        for give, take in zip(gives, takes[slot.count :], strict=False):
            _edge(graph, ("end", *give), ("start", *take), 0, "slot")
    return graph


def _edge(graph: nx.DiGraph, a: tuple, b: tuple, ticks: int, kind: str) -> None:
    kinds = graph[a][b]["kinds"] if graph.has_edge(a, b) else frozenset()
    graph.add_edge(a, b, ticks=ticks, kinds=kinds | {kind})


def makespan(program: Program) -> int:
    """Ticks from the first launch to the last end, by the longest path."""
    graph = event_graph(Instances(program))
    return nx.dag_longest_path_length(graph, weight="ticks") if graph else 0
