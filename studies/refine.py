"""The best mapping under overlap: simulate mappings in the order of their closed form, a lower bound of their time.

What the closed form cannot tell apart, buffers, open tiles and the order of service, is decided by simulation. Once no
mapping that is left has a bound below the best simulated time, that one is optimal. SEMANTICS 8.8.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product

from arch import scale
from arch.machine import Machine
from einsum.cascade import Workload
from mapper import mapping as types
from mapper.check import check
from mapper.modulo import Stages, static_orders
from mapper.search.answer import DEFAULT, Answer, Certificate, Found, described, proven
from mapper.search.build import Choice, mapping_of
from mapper.search.effort import CLOSE
from mapper.search.every import every
from mapper.search.fuse import GRAIN, Cost, Cuts, Done, slack, total
from mapper.search.group import Group
from mapper.search.solve import Solver, Space
from mapper.work import GroupWork, group_works
from sim import fold
from sim.lower import lower
from sim.outcome import Deadlock, Standstill
from sim.run import simulate

STEP = 1e-3  # by how much the first interval of latencies reaches above the least; each further one is twice as wide
Told = Callable[[str], None]


@dataclass(frozen=True)
class Variants:
    """How each mapping is tried: buffers of each hold, two as far as they fit (innermost holds first); tiles open;
    transfers ahead; oldest first, and in static orders (`mapper.modulo`) if several Einsums share loops."""

    buffers: tuple[int, ...] = (2, 1)
    open: tuple[int, ...] = (2, 4)
    ahead: tuple[int, ...] = (4, 1)
    schedules: tuple[str, ...] = ("static order", "oldest first")

    def __str__(self) -> str:
        either = lambda values: " or ".join(map(str, values))
        return (
            f"{either(self.buffers)} buffers for each hold as far as they fit, {either(self.open)} tiles open, "
            f"{either(self.ahead)} ahead, {either(self.schedules)}"
        )

    def bodies(self, choice: Choice) -> Iterator[tuple[types.Node, ...]]:
        """The bodies of the choice's group in each variant, equal ones once."""
        plain = mapping_of("trial", [choice], 1)
        work = group_works(plain, choice.group.workload, choice.group.machine)[0]
        roomy = _roomy(work, choice.group.machine)
        schedules: list[tuple[Stages, types.Schedule]] = []
        if "static order" in self.schedules and len(choice.group.names) > 1:
            schedules += static_orders(work)
        if "oldest first" in self.schedules or not schedules:
            schedules.append(({}, types.Greedy()))
        made: dict[tuple[types.Node, ...], None] = {}
        for deep, (stages, schedule), open_, ahead in product(self.buffers, schedules, self.open, self.ahead):
            pipe, doubled = types.Pipe((), open_, ahead, schedule), roomy if deep == 2 else frozenset()
            made[tuple(varied(node, doubled, pipe, stages) for node in plain.groups[0].body)] = None
        yield from made


def _roomy(work: GroupWork, machine: Machine) -> frozenset[types.Hold]:
    """Holds whose second buffers fit, innermost first."""
    sizes: dict[types.Hold, float] = defaultdict(float)
    used: dict[str, float] = defaultdict(float)
    for hold, _, size in work.footprints:
        sizes[hold] += size
        used[hold.memory] += size
    found = []
    for loop in reversed(work.nest.loops):
        for hold in loop.source.holds:
            capacity = machine.memory(hold.memory).capacity_bytes
            if capacity is None or used[hold.memory] + sizes[hold] <= capacity:
                used[hold.memory] += sizes[hold]
                found.append(hold)
    return frozenset(found)


def varied(node: types.Node, doubled: frozenset[types.Hold], pipe: types.Pipe, stages: Stages) -> types.Node:
    """The node with two buffers for some holds, the pipe's settings, and the leaves' stages."""
    match node:
        case types.Loop():
            holds = tuple(replace(h, deep=2) if h in doubled else h for h in node.holds)
            return replace(node, holds=holds, body=tuple(varied(n, doubled, pipe, stages) for n in node.body))
        case types.Pipe():
            return replace(pipe, body=tuple(varied(n, doubled, pipe, stages) for n in node.body))
        case types.Compute():
            return replace(node, stage=stages.get(node.einsum, 0))
        case _:
            return node


VARIANTS = Variants()


@dataclass
class Limit:
    """When to stop: simulations of each group, and a point in time."""

    simulations: int
    until: float  # of `time.perf_counter`


FIRST = Limit(1, 0.0)


@dataclass
class Refining:
    """A group under refinement: its fastest mapping so far, and `bound`, below which no mapping of it comes."""

    first: Choice  # of least closed-form latency
    space: Space
    variants: Variants
    choice: Choice = field(init=False)
    body: tuple[types.Node, ...] = ()
    seconds: float = math.inf
    bound: float = field(init=False)
    simulated: int = 0

    def __post_init__(self) -> None:
        self.choice, self.bound = self.first, self.first.latency
        self._tried: set[tuple[types.Node, ...]] = set()

    @property
    def group(self) -> Group:
        return self.first.group

    def run(self, limit: Limit, told: Told) -> None:
        """Simulate until nothing can be faster or the limit is reached; the first mapping in any case."""
        for choice in self._candidates():
            for body in self.variants.bodies(choice):
                if choice.latency >= self.seconds * (1 - CLOSE):
                    break  # its bound, so that no variant of it is faster
                if self.body and (self.simulated >= limit.simulations or time.perf_counter() >= limit.until):
                    return
                if body in self._tried:
                    continue
                self._tried.add(body)
                self._simulate(choice, body)
                gap = 1 - min(1, self.bound / self.seconds)
                told(f"{', '.join(self.group.names)}: {self.simulated} simulated, {self.seconds:.6g} s, gap {gap:.2%}")
        self.bound = self.seconds

    def _candidates(self) -> Iterator[Choice]:
        """The best for two buffers and for one, then every mapping by intervals of its closed-form latency."""
        doubled = (
            Solver(replace(self.space, buffers=2)).best(self.group, "latency") if 2 in self.variants.buffers else None
        )
        yield from filter(None, (doubled, self.first))
        space = Solver(replace(self.space, buffers=1)).space_of(self.group)
        above, wide = -math.inf, 0.0
        while above < self.seconds:
            limit = min(self.seconds, self.first.latency * (1 + CLOSE + wide))
            yield from every(space, above, limit)
            self.bound = above = limit
            wide = 2 * wide or STEP

    def _simulate(self, choice: Choice, body: tuple[types.Node, ...]) -> None:
        plain = mapping_of("trial", [choice], 1)
        mapping = replace(plain, groups=(replace(plain.groups[0], body=body),))
        self.simulated += 1
        try:
            seconds = fold.run(lower(mapping, self.group.workload, self.group.machine)[0]).seconds
        except (Deadlock, Standstill):  # an order that begins the next tile needs a buffer for it
            return
        if seconds < self.seconds:
            self.choice, self.body, self.seconds = choice, body, seconds


@dataclass(frozen=True)
class Refined(Answer):
    """The mapping fastest in simulation, with its simulated result. No mapping of the space is faster than the proof's
    bound in any of the variants that `certificate.space` names."""

    simulated: int  # runs, each of one group in one variant


@dataclass
class Joined:
    """The groups of a cut, each refined on its own: they run one after another, so that their times add up."""

    cuts: Cuts
    space: Space
    variants: Variants
    limit: Limit
    told: Told
    best: list[Choice]  # the cut that is fastest so far
    bound: float  # no cut is faster
    groups: dict[Done, Refining] = field(default_factory=dict)

    def seconds(self, path: Iterable[Choice]) -> float:
        return sum(self.groups[frozenset(c.group.names)].seconds for c in path)

    def refine(self, choice: Choice, limit: Limit) -> Refining:
        """Refine a group; what its bound has become is its cost from then on."""
        names = frozenset(choice.group.names)
        one = self.groups.setdefault(names, Refining(choice, self.space, self.variants))
        one.run(limit, self.told)
        self.cuts.costs[names] = Cost(one.bound, choice.energy, choice)
        return one

    def improve(self) -> None:
        """Refine the cut found in closed form, then the cut of the least bounds until none is below the best time."""
        for choice in self.best:
            self.refine(choice, self.limit)
        value = self.seconds(self.best)
        while (path := self.cuts._path("latency", value)) and time.perf_counter() < self.limit.until:
            steps = {names: self.cuts.costs[names] or Cost(math.inf, math.inf) for names in path}
            self.bound = total(steps.values()).latency
            if self.bound >= value * (1 - GRAIN):
                return
            unsolved = [names for names in path if steps[names].choice is None]
            fresh = [names for names in path if names not in self.groups]
            names = max(unsolved or fresh or path, key=lambda n: steps[n].latency)
            if unsolved:
                self.told(", ".join(sorted(names)))
                room = steps[names].latency + slack(value, self.bound)
                self.cuts.solve(names, "latency", Cost(room, math.inf))
            elif fresh:
                self.refine(_solved(steps[names]), self.limit)
            else:  # what is left of the gaps is the limit's
                self.best = min(self.best, [_solved(cost) for cost in steps.values()], key=self.seconds)
                return


def _solved(cost: Cost) -> Choice:
    assert cost.choice is not None
    return cost.choice


def refine(
    workload: Workload,
    machine: Machine,
    space: Space = DEFAULT,
    variants: Variants = VARIANTS,
    simulations: int = 1000,
    seconds: float = math.inf,
    told: Told = lambda message: None,
) -> Refined:
    """The mapping of the space that is fastest in simulation, over all variants.

    At most so many `simulations` of each group, and no new one after so many `seconds`; Ctrl-C stops as these do, once
    the search has found a mapping. What is found then is the best so far with the gap that is left. `told` hears of the
    progress. InputError if some Einsum fits nowhere or a mapping is not simulated.
    """
    start, space = time.perf_counter(), replace(space, buffers=1)
    cuts = Cuts(workload, machine, Solver(space))
    path, least = cuts.best("latency", told)
    joined = Joined(cuts, space, variants, Limit(simulations, start + seconds), told, path, least.latency)
    try:
        if least == total(path):  # else the search was interrupted
            joined.improve()
    except KeyboardInterrupt:
        pass
    groups = [joined.groups.get(frozenset(c.group.names)) for c in joined.best]
    chosen = [g if g and g.body else joined.refine(c, FIRST) for g, c in zip(groups, joined.best, strict=True)]
    found = _joined(chosen, workload, machine)
    value, bound = found.latency_s, min(joined.bound, found.latency_s)
    words = f"{described(cuts, space)}; each simulated with {variants}"
    spent, done = time.perf_counter() - start, value - bound <= 1e-9 * value
    proof = Certificate("latency", value, bound, done, words, cuts.solver.effort, spent)
    return Refined((found,), proof, sum(g.simulated for g in joined.groups.values()))


def _joined(groups: list[Refining], workload: Workload, machine: Machine) -> Found:
    """The groups one after another, checked and simulated as a whole."""
    plain = mapping_of("refined", [g.choice for g in groups], 1)
    each = tuple(replace(group, body=g.body) for group, g in zip(plain.groups, groups, strict=True))
    mapping = replace(plain, groups=each)
    check(mapping, workload, machine)
    result = simulate(mapping, workload, machine)
    apart = sum(g.seconds for g in groups)
    if not math.isclose(result.latency_s, apart, rel_tol=1e-9):
        raise AssertionError(f"the groups take {apart} s one by one, {result.latency_s} s together")
    return Found(mapping, result)


@dataclass(frozen=True)
class Gain:
    """What a better machine gains after mapping anew: closed-form latencies in seconds."""

    parameter: str
    before_s: float
    after_s: float

    @property
    def gain(self) -> float:
        """Time saved, relative to the time before."""
        return 1 - self.after_s / self.before_s


def buys(
    workload: Workload,
    machine: Machine,
    parameters: Iterable[str] = (),
    factor: float = 1.1,
    space: Space = DEFAULT,
    told: Told = lambda message: None,
) -> tuple[Gain, ...]:
    """Which parameter buys most: each of them (all if none is given) `factor` times better, mapped anew by the search.

    Greatest gain first. InputError for a parameter that the machine has not. An interrupt ends it.
    """
    timed = ("throughput", "bandwidth", "capacity")
    chosen = tuple(parameters) or tuple(p for p in scale.parameters(machine) if p.endswith(timed))
    scale.check(machine, chosen)
    before = proven(workload, machine, "latency", space, told).found[0].latency_s
    gains = []
    for parameter in chosen:
        told(parameter)
        other = scale.scaled(machine, {parameter: factor})
        gains.append(Gain(parameter, before, proven(workload, other, "latency", space).found[0].latency_s))
    return tuple(sorted(gains, key=lambda g: -g.gain))
