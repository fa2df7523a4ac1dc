"""Which Einsums share loops: every cut of the cascade into groups that can, joined so that the sum is least.

A path leads through sets of Einsums that are done. Its steps are groups; a step's cost is a quick lower bound until
the step lies on the best path, and is then solved. When the best path's steps are all solved, no other can be better.
SEMANTICS 8.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush

import numpy as np

from arch.machine import Machine
from einsum.cascade import Workload
from einsum.ops import is_view, operation_classes
from einsum.problems import InputError, Problem
from mapper.nest import check_sizes
from mapper.search.build import Choice
from mapper.search.effort import CLOSE, Stopped
from mapper.search.explain import explain
from mapper.search.group import Group, Illegal, final
from mapper.search.metrics import Metrics
from mapper.search.price import ENERGY, Prices, Shapes
from mapper.search.solve import Solver, named, signature
from mapper.tile import storage

Done = frozenset[str]


@dataclass(frozen=True)
class Cost:
    """Latency in seconds and energy in joules of a group, or lower bounds of them."""

    latency: float
    energy: float
    choice: Choice | None = None  # None: a bound


COSTS = ("latency", "energy")
GRAIN = 1e-10  # relative difference below which sums over groups are equal


def total(costs: Iterable[Cost | Choice]) -> Cost:
    """The sum over groups."""
    every = list(costs)
    return Cost(sum(c.latency for c in every), sum(c.energy for c in every))


def close(a: float, b: float) -> bool:
    """Whether two sums are equal but for rounding."""
    return abs(a - b) <= GRAIN * max(abs(a), abs(b))


def slack(whole: float, bound: float) -> float:
    """What a group may cost beyond its bound for the sum to stay within `whole`."""
    return max(0.0, whole - bound) + GRAIN * whole


def better(a: Cost, b: Cost, minimise: str) -> bool:
    """Whether a sum is less than another: in what is minimised, or equal there and less in the other."""
    other = next(m for m in COSTS if m != minimise)
    if close(getattr(a, minimise), getattr(b, minimise)):
        return getattr(a, other) < getattr(b, other) * (1 - GRAIN)
    return getattr(a, minimise) < getattr(b, minimise)


class Cuts:
    """The cuts of a workload into groups, on a machine."""

    def __init__(self, workload: Workload, machine: Machine, solver: Solver) -> None:
        check_sizes(workload)
        self.workload, self.machine, self.solver = workload, machine, solver
        self.names = tuple(e.name for e in workload.cascade.einsums if not is_view(e))
        self.costs: dict[Done, Cost | None] = {}
        self.why: dict[Done, str] = {}  # groups that cannot share loops
        self._quick: dict[tuple, Cost] = {}  # bounds of groups, those that differ in names alone once

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

    @cached_property
    def _parts(self) -> list[Done]:
        """Sets of Einsums that have nothing to do with each other: their order costs nothing, so it is this one."""
        parts = list(self.bound_together)
        for name in self.names:
            near = [p for p in parts if name in p or self.needs[name] & p]
            parts = [p for p in parts if p not in near] + [frozenset().union(*near)]
        return sorted(parts, key=lambda p: min(map(self.names.index, p)))

    def steps(self, done: Done) -> Iterator[Done]:
        """Groups that can come next: connected, all they need is done or among them."""
        part = next((p for p in self._parts if not p <= done), frozenset())
        atoms = [a for a in self.bound_together if not a <= done and a <= part]
        ready = lambda group: all(self.needs[n] <= done | group for n in group)
        seen: set[Done] = set()
        todo = list(atoms)
        while todo:
            group = todo.pop()
            if group in seen or not self._small(group):
                continue
            seen.add(group)
            if ready(group):
                yield group
            todo += [group | a for a in atoms if not a <= group and self._touch(group, a)]

    def _small(self, group: Done) -> bool:
        """Whether so many may share loops; those that a state ties always may."""
        space, cascade = self.solver.space, self.workload.cascade
        products = sum("mac" in operation_classes(cascade[n]) for n in group)
        return group in self.bound_together or (len(group) <= space.together and products <= space.products)

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
                alike = signature(group, named(group))
                if alike not in self._quick:
                    self._quick[alike] = _quick(group)
                self.costs[names] = self._quick[alike]
            except Illegal as reason:
                self.why[names] = str(reason)
                self.costs[names] = None
        return self.costs[names]

    @property
    def floor(self) -> Cost:
        """A lower bound of any cut: every operation on its best units, what enters and leaves moved once."""
        return _quick(self.group(frozenset(self.names)))

    def solve(self, names: Done, minimise: str, room: Cost) -> None:
        """Put the group's best choice in the place of its bound; if none is within `room`, that is a better bound."""
        choice = self.solver.best(self.group(names), minimise, room.latency, room.energy)
        if choice:
            self.costs[names] = Cost(choice.latency, choice.energy, choice)
        elif math.isinf(room.latency) and math.isinf(room.energy):
            self.costs[names] = None
        else:
            bound = self.costs[names] or Cost(0.0, 0.0)
            raised = {m: getattr(room, m) if math.isfinite(getattr(room, m)) else getattr(bound, m) for m in COSTS}
            tied = math.isfinite(room.latency) and math.isfinite(room.energy)
            self.costs[names] = Cost(**(raised | ({minimise: getattr(bound, minimise)} if tied else {})))

    def best(self, minimise: str, told: Callable[[str], None]) -> tuple[list[Choice], Cost]:
        """(the groups of the cut whose sum is least, a lower bound of any cut's sum), equal unless the search was
        stopped; InputError if some Einsum fits nowhere."""
        solved = self._apart(minimise, told)
        bound = self.floor if solved else total([])
        try:
            while True:
                whole = total(solved) if solved else Cost(math.inf, math.inf)
                path = self._path(minimise, getattr(whole, minimise) if solved else 0.0)
                if path is None:
                    raise InputError(self.problems())
                steps = {names: self.costs[names] or Cost(math.inf, math.inf) for names in path}
                bound = total(steps.values())
                if solved and not better(bound, whole, minimise):
                    return solved, whole
                open_ = [names for names, cost in steps.items() if cost.choice is None]
                if not open_:
                    solved = [cost.choice for cost in steps.values() if cost.choice]
                    continue
                names = max(open_, key=lambda n: getattr(steps[n], minimise))
                told(", ".join(n for n in self.names if n in names))
                self.solve(names, minimise, self._room(steps[names], bound, whole, minimise))
        except (Stopped, KeyboardInterrupt):
            if not solved:
                raise
            return solved, bound

    def _apart(self, minimise: str, told: Callable[[str], None]) -> list[Choice]:
        """Every Einsum by itself, or with those that a state ties it to; empty if one of these has no mapping."""
        for atom in self.bound_together:
            if self.bound(atom) is None:
                return []
            told(", ".join(n for n in self.names if n in atom))
            self.solve(atom, minimise, Cost(math.inf, math.inf))
        costs = [self.costs[atom] for atom in self._in_order(self.bound_together)]
        return [cost.choice for cost in costs if cost and cost.choice] if all(costs) else []

    def _in_order(self, groups: list[Done]) -> list[Done]:
        """Groups in an order in which each finds what it needs done; empty if there is none."""
        done: Done = frozenset()
        found: list[Done] = []
        while len(found) < len(groups):
            ready = [g for g in groups if g not in found and all(self.needs[n] <= done | g for n in g)]
            if not ready:
                return []
            found.append(ready[0])
            done |= ready[0]
        return found

    def _room(self, step: Cost, bound: Cost, whole: Cost, minimise: str) -> Cost:
        """What a group of a path may cost if the path is to beat the best so far."""
        tied = close(getattr(bound, minimise), getattr(whole, minimise))
        limit = lambda m: getattr(step, m) + slack(getattr(whole, m), getattr(bound, m))
        latency, energy = (limit(m) if m == minimise or tied else math.inf for m in COSTS)
        return Cost(latency, energy)

    def _path(self, minimise: str, scale: float) -> list[Done] | None:
        """The path of least sum, what is minimised before the other; equal within a billionth of `scale`."""
        every = frozenset(self.names)
        grain = scale * GRAIN or 1e-300
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
                here = (place[done][0] + first, place[done][1] + second)
                rank = (round(here[0] / grain), here[1])
                known = place.get(done | group)
                if known is None or rank < (round(known[0] / grain), known[1]):
                    place[done | group], back[done | group] = here, (done, group)
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
                found.append(Problem(f"cannot be mapped: {self.why[atom]}", path=", ".join(sorted(atom))))
            elif self.solver.best(self.group(atom), "energy") is None:
                found += explain(self.group(atom), self.solver.space)
        return found or [Problem("no cut into groups fits", path=self.workload.cascade.name)]


def _nondominated(rows: list) -> list:
    """Rows that no other beats in the first two columns by more than rounding, in ascending order of the first."""
    kept: list = []
    for row in sorted(rows, key=lambda row: row[:2]):
        if kept and row[1] >= kept[-1][1] * (1 - CLOSE):
            continue
        if kept and row[0] <= kept[-1][0] * (1 + CLOSE):
            kept.pop()
        kept.append(row)
    return kept


def _quick(group: Group) -> Cost:
    """What the group needs at least: its operations on the best units, each tensor of the root memory moved once."""
    tiles = {r: [group.workload.extent(r)] for r in group.walked}
    prices = Prices(group, Shapes(tiles, {r: [1] for r in group.walked}), 1)
    metrics = Metrics.of(group)
    names, energy = metrics.names[1 : metrics.busy], 0.0
    spread = np.zeros((len(group.einsums), len(names)))
    for i, e in enumerate(group.einsums):
        each = [_ideal(prices, e, o) for o in group.options[e.name]]
        energy += min(v[ENERGY] for v in each)
        spread[i] = np.min([[v.get(n, 0.0) for n in names] for v in each], axis=0)
    busy = spread.sum(axis=0)
    root = group.machine.root
    for use in group.uses.values():
        beside = any(prices.own(o) == root.name for user in use.users for o in group.options[user])
        if use.kind != "inner" and not beside:  # a unit right below the root has it at hand
            size = prices.size(use.tensor)
            detail, bandwidth = ("write", root.write_bytes_per_s) if use.written else ("read", root.read_bytes_per_s)
            each = root.write_energy_j if use.written else root.read_energy_j
            energy += size * each / root.access_bytes
            bandwidth = root.read_bytes_per_s if root.shared_port else bandwidth
            if bandwidth:
                port = f"busy {root.name}" if root.shared_port else f"busy {root.name} {detail}"
                busy[names.index(port)] += size / bandwidth
    latency = float(busy.max(initial=0.0))
    return Cost(latency * (1 - CLOSE), (energy + metrics.static_power_w * latency) * (1 - CLOSE))


def _ideal(prices: Prices, e, option) -> dict[str, float]:
    """An Einsum's vector if every instance had work all the time."""
    vector = {m: float(v) for m, v in prices.compute(e, option).items()}
    for unit in option.unit.split("+"):
        u, n = prices.machine.unit(unit), prices.machine.instances(unit)
        per = vector[f"busy {unit}"] / max(1e-300, float(prices._cycles(e, option, u.lanes)))
        vector[f"busy {unit}"] = per * math.prod(prices.workload.extent(r) for r in e.ranks) / n / u.lanes
    return vector
