"""Which Einsums share loops: every cut of the cascade into groups that can, joined so that the sum is least.

A path leads through sets of Einsums that are done. Its steps are groups; a step's cost is a quick lower bound until
the step lies on the best path, and is then solved. When the best path's steps are all solved, no other can be better.
SEMANTICS 8.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush

import moocore
import numpy as np

from arch.machine import Machine
from einsum.cascade import Workload
from einsum.ops import is_view
from einsum.problems import InputError, Problem
from mapper.search.build import Choice
from mapper.search.explain import explain
from mapper.search.group import Group, Illegal, final
from mapper.search.price import ENERGY, Prices, Shapes
from mapper.search.single import CLOSE, resources
from mapper.search.solve import Solver
from mapper.tile import storage

Done = frozenset[str]


@dataclass(frozen=True)
class Cost:
    """Latency in seconds and energy in joules of a group, or lower bounds of them."""

    latency: float
    energy: float
    choice: Choice | None = None  # None: a bound


class Cuts:
    """The cuts of a workload into groups, on a machine."""

    def __init__(self, workload: Workload, machine: Machine, solver: Solver) -> None:
        self.workload, self.machine, self.solver = workload, machine, solver
        self.names = tuple(e.name for e in workload.cascade.einsums if not is_view(e))
        self.costs: dict[Done, Cost | None] = {}
        self.why: dict[Done, str] = {}  # groups that cannot share loops

    @cached_property
    def needs(self) -> dict[str, set[str]]:
        """Einsum -> the Einsums whose results it reads, earlier states of its own aside."""
        cascade = self.workload.cascade
        found = {n: {storage(cascade, a.tensor) for a in cascade[n].reads} & set(self.names) for n in self.names}
        order = {n: i for i, n in enumerate(self.names)}
        return {n: {p for p in ps if order[p] < order[n]} for n, ps in found.items()}

    @cached_property
    def bound_together(self) -> list[Done]:
        """Sets of Einsums that must share loops: those that a running state ties, each at least alone."""
        cascade, sets = self.workload.cascade, {n: {n} for n in self.names}
        for name in self.names:
            state = cascade[name].iterative
            for reader in self.names if state else ():
                running = [a for a in cascade[reader].reads if a.tensor == name and not final(a, state, cascade)]
                if running and sets[reader] is not sets[name]:
                    merged = sets[reader] | sets[name]
                    for n in merged:
                        sets[n] = merged
        return list(dict.fromkeys(frozenset(s) for s in sets.values()))

    def steps(self, done: Done) -> Iterator[Done]:
        """Groups that can come next: connected, all they need is done or among them."""
        atoms = [a for a in self.bound_together if not a <= done]
        ready = lambda group: all(self.needs[n] <= done | group for n in group)
        seen: set[Done] = set()
        todo = list(atoms)
        while todo:
            group = todo.pop()
            if group in seen or len(group) > self.solver.space.together:
                continue
            seen.add(group)
            if ready(group):
                yield group
            todo += [group | a for a in atoms if not a <= group and self._touch(group, a)]

    def _touch(self, group: Done, atom: Done) -> bool:
        """Whether an Einsum of one reads a result of the other."""
        return any(self.needs[a] & group for a in atom) or any(self.needs[g] & atom for g in group)

    def group(self, names: Done) -> Group:
        return Group(self.workload, self.machine, tuple(n for n in self.names if n in names))

    def bound(self, names: Done) -> Cost | None:
        """A quick lower bound; None if the group cannot share loops."""
        if names not in self.costs:
            group = self.group(names)
            try:
                group.check()
                self.costs[names] = _quick(group)
            except Illegal as reason:
                self.why[names] = str(reason)
                self.costs[names] = None
        return self.costs[names]

    def solve(self, names: Done, minimise: str) -> None:
        """Put the group's best choice in the place of its bound; none if nothing fits."""
        choice = self.solver.best(self.group(names), minimise)
        self.costs[names] = Cost(choice.latency, choice.energy, choice) if choice else None

    def best(self, minimise: str, told: Callable[[str], None]) -> list[Choice]:
        """The groups of the cut whose sum is least; InputError if some Einsum fits nowhere."""
        scale = 0.0
        while True:
            path = self._path(minimise, scale)
            if path is None:
                raise InputError(self.problems())
            steps = [(names, self.costs[names] or Cost(math.inf, math.inf)) for names in path]
            scale = sum(getattr(cost, minimise) for _, cost in steps)
            solved = [cost.choice for _, cost in steps if cost.choice]
            if len(solved) == len(steps):
                return solved
            bounds = [(names, cost) for names, cost in steps if cost.choice is None]
            names, _ = max(bounds, key=lambda step: getattr(step[1], minimise))
            told(f"{', '.join(n for n in self.names if n in names)}")
            self.solve(names, minimise)

    def _path(self, minimise: str, scale: float) -> list[Done] | None:
        """The path of least sum, what is minimised before the other; equal within a billionth of `scale`."""
        every = frozenset(self.names)
        grain = scale * 1e-10 or 1e-300
        place: dict[Done, tuple[float, float]] = {frozenset(): (0.0, 0.0)}
        back: dict[Done, tuple[Done, Done]] = {}
        queue: list[tuple[float, float, int, Done]] = [(0.0, 0.0, 0, frozenset())]
        count = 0
        closed: set[Done] = set()
        while queue:
            *_, done = heappop(queue)
            if done in closed:
                continue
            closed.add(done)
            if done == every:
                path = []
                while done:
                    done, group = back[done]
                    path.append(group)
                return path[::-1]
            for group in self._steps_of(done):
                cost = self.bound(group)
                if cost is None:
                    continue
                first, second = (cost.latency, cost.energy) if minimise == "latency" else (cost.energy, cost.latency)
                total = (place[done][0] + first, place[done][1] + second)
                rank = (round(total[0] / grain), total[1])
                known = place.get(done | group)
                if known is None or rank < (round(known[0] / grain), known[1]):
                    place[done | group], back[done | group] = total, (done, group)
                    count += 1
                    heappush(queue, (*rank, count, done | group))
        return None

    def _steps_of(self, done: Done) -> tuple[Done, ...]:
        if done not in self._steps:
            self._steps[done] = tuple(self.steps(done))
        return self._steps[done]

    @cached_property
    def _steps(self) -> dict[Done, tuple[Done, ...]]:
        return {}

    def front(self, told: Callable[[str], None]) -> list[list[Choice]]:
        """Cuts that no other beats in both latency and energy, fastest first."""
        sums: dict[Done, list[tuple[float, float, tuple[Choice, ...]]]] = {frozenset(): [(0.0, 0.0, ())]}
        fronts: dict[Done, list[Choice]] = {}
        for done in sorted(self._reached(), key=len):
            for group in self._steps_of(done):
                if self.bound(group) is None:
                    continue
                if group not in fronts:
                    told(", ".join(n for n in self.names if n in group))
                    fronts[group] = list(self.solver.front(self.group(group)))
                made = [
                    (latency + c.latency, energy + c.energy, (*path, c))
                    for latency, energy, path in sums.get(done, [])
                    for c in fronts[group]
                ]
                sums[done | group] = _nondominated([*sums.get(done | group, []), *made])
        found = sums.get(frozenset(self.names))
        if not found:
            raise InputError(self.problems())
        return [list(path) for *_, path in sorted(found, key=lambda x: x[:2])]

    def _reached(self) -> list[Done]:
        """Sets of Einsums that can be done after some steps."""
        found, todo = {frozenset()}, [frozenset()]
        while todo:
            done = todo.pop()
            for group in self._steps_of(done):
                if self.bound(group) is not None and done | group not in found:
                    found.add(done | group)
                    todo.append(done | group)
        return list(found)

    def problems(self) -> list[Problem]:
        """Why there is no mapping: for each set of Einsums that must share loops and cannot be mapped alone."""
        found: list[Problem] = []
        for atom in self.bound_together:
            if self.bound(atom) is None and atom in self.why:
                found.append(Problem("cannot be mapped", path=", ".join(sorted(atom)), got=self.why[atom]))
            elif self.solver.best(self.group(atom), "energy") is None:
                found += explain(self.group(atom), self.solver.space)
        return found or [Problem("no cut into groups fits", path=self.workload.cascade.name)]


def _nondominated(rows: list) -> list:
    keep = moocore.is_nondominated(np.array([row[:2] for row in rows]))
    return [row for row, good in zip(rows, keep, strict=True) if good]


def _quick(group: Group) -> Cost:
    """What the group needs at least: its operations on the best units, each tensor of the root memory moved once."""
    tiles = {r: [group.workload.extent(r)] for r in group.walked}
    prices = Prices(group, Shapes(tiles, {r: [1] for r in group.walked}), 1)
    names = resources(group)
    busy = np.zeros(len(names))
    energy = 0.0
    spread = np.zeros((len(group.einsums), len(names)))
    for i, e in enumerate(group.einsums):
        each = [_ideal(prices, e, o) for o in group.options[e.name]]
        energy += min(v[ENERGY] for v in each)
        spread[i] = np.min([[v.get(n, 0.0) for n in names] for v in each], axis=0)
    busy = spread.sum(axis=0)
    root = group.machine.root
    for use in group.uses.values():
        if use.kind != "inner":
            size = prices.size(use.tensor)
            detail, bandwidth = ("write", root.write_bytes_per_s) if use.written else ("read", root.read_bytes_per_s)
            each = root.write_energy_j if use.written else root.read_energy_j
            energy += size * each / root.access_bytes
            bandwidth = root.read_bytes_per_s if root.shared_port else bandwidth
            if bandwidth:
                port = f"busy {root.name}" if root.shared_port else f"busy {root.name} {detail}"
                busy[names.index(port)] += size / bandwidth
    return Cost(float(busy.max(initial=0.0)) * (1 - CLOSE), energy * (1 - CLOSE))


def _ideal(prices: Prices, e, option) -> dict[str, float]:
    """An Einsum's vector if every instance had work all the time."""
    vector = {m: float(v) for m, v in prices.compute(e, option).items()}
    for unit in option.unit.split("+"):
        u, n = prices.machine.unit(unit), prices.machine.instances(unit)
        per = vector[f"busy {unit}"] / max(1e-300, float(prices._cycles(e, option, u.lanes)))
        vector[f"busy {unit}"] = per * math.prod(prices.workload.extent(r) for r in e.ranks) / n / u.lanes
    return vector
