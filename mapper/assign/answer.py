"""`assign`: the unit and the order of each Einsum in a pipe that let tiles follow each other most closely.

A mixed-integer program. Time is counted in intervals, the time from one tile to the next: a leaf starts `start`
intervals after the first leaf of its tile, `stage` whole ones and an offset in [0, 1]. What is maximised is tiles per
time, so that durations are linear in it and distances in tiles are constants. SEMANTICS 8.9.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping as Dict
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from itertools import pairwise

import numpy as np
from scipy.optimize import linprog

from arch.machine import Machine
from einsum.cascade import Workload
from einsum.problems import InputError, Problem
from mapper.assign.facts import Facts, facts, with_leaves, with_pipe
from mapper.assign.model import Model
from mapper.assign.solver import GAP, Solved, Violation, solve
from mapper.check import check
from mapper.mapping import Compute, Mapping, Order, Pipe, leaves
from mapper.modulo import static_orders


@dataclass(frozen=True)
class Plan:
    """A decision about a pipe: candidate and stage of each leaf, and the sequence of leaves in one step."""

    chosen: Dict[str, int]
    stages: Dict[str, int]
    sequence: tuple[str, ...]


@dataclass(frozen=True)
class AssignedPipe:
    """A group's pipe, bound and ordered. `solved.value` is its interval: seconds from one tile to the next."""

    group: str
    solved: Solved
    before: Dict[str, float]  # unit -> seconds that it is busy in a tile, as given
    after: Dict[str, float]
    order: Order | None  # None where no order fulfils the constraints


@dataclass(frozen=True)
class Assigned:
    """The mapping with its pipes bound and ordered, None if that of some group is infeasible."""

    mapping: Mapping | None
    pipes: tuple[AssignedPipe, ...]


def assign(
    mapping: Mapping,
    workload: Workload,
    machine: Machine,
    within: float = math.inf,
    rebind: bool = True,
    seconds: float = math.inf,
) -> Assigned:
    """Bind and order the leaves of every pipe for the least interval between tiles.

    The mapping must be legal, but may exceed capacities. With `within`, more seconds from tile to tile are infeasible;
    without `rebind` leaves stay on their units. After `seconds` for a pipe the best so far is returned with its gap.
    InputError if no group has a pipe.
    """
    pipes: list[AssignedPipe] = []
    made: Mapping | None = mapping
    for group in mapping.groups:
        pipe = next(leaf.parent for leaf in leaves(mapping) if leaf.group == group.name)
        if not isinstance(pipe, Pipe):
            continue
        problem = facts(mapping, workload, machine, group, rebind)
        plan, solved = _solved(problem, pipe, within, seconds)
        pipes.append(_bound(problem, plan, solved))
        if made and plan:
            made = with_pipe(made, group.name, lambda pipe, f=problem, p=plan: _ordered(pipe, f, p))
        else:
            made = None
    if not pipes:
        what = "no group has a pipe, and only there do tiles overlap"
        raise InputError(Problem(what, path=mapping.name))
    if made:
        made = replace(made, name=f"{mapping.name}-bound")
        check(made, workload, machine)
    return Assigned(made, tuple(pipes))


def _solved(problem: Facts, given: Pipe, within: float, seconds: float) -> tuple[Plan | None, Solved]:
    """The best plan, and how good it is; without a plan, why there is none."""
    start = time.perf_counter()
    first = _first(problem, given)
    model = Model(problem)
    if first:
        model.at_most(first[1])
    answer = solve(model.pyomo, seconds)
    best, bound = first, max(model.least, model.scale / -answer.bound if -math.inf < answer.bound < 0 else 0.0)
    if math.isfinite(answer.value):
        chosen, stages, offsets = model.decisions()
        plan = Plan(chosen, stages, _sequence(problem, stages, offsets))
        best = min(filter(None, (first, (plan, interval_s(problem, plan)))), key=lambda found: found[1])
    if answer.status == "infeasible":
        bound = first[1] if first else math.inf  # nothing is faster than the first plan
    value = best[1] if best else math.inf
    bound = min(bound, value)
    spent = lambda: time.perf_counter() - start
    if bound > within * (1 + GAP) or math.isinf(bound):
        return None, Solved("infeasible", math.inf, bound, spent(), explained(problem, within, seconds))
    if best is None or math.isinf(value) or value > within * (1 + GAP):
        return None, Solved("unknown", math.inf, bound, spent())
    status = "optimal" if answer.status == "optimal" or bound >= value * (1 - GAP) else "feasible"
    return best[0], Solved(status, value, bound, spent())


def _first(problem: Facts, given: Pipe) -> tuple[Plan, float] | None:
    """The best for the given binding of its own order and those that `mapper.modulo` finds, if the holds fit."""
    chosen = dict.fromkeys(problem.leaves, 0)
    if any(held > problem.capacity.get(memory, math.inf) for memory, held in held_bytes(problem, chosen).items()):
        return None
    plans = [Plan(chosen, *found) for found in _as_given(given)]
    for stages, _ in static_orders(problem.group):
        if max(stages.values()) < problem.pipe.open:
            sequence = _sequence(problem, stages, {n: float(stages[n]) for n in problem.leaves})
            plans.append(Plan(chosen, stages, sequence))
    late = lambda plan: any(plan.stages[w.before] - w.steps > plan.stages[w.after] for w in problem.waits)
    timed = [(plan, s) for plan in plans if not late(plan) and math.isfinite(s := interval_s(problem, plan))]
    return min(timed, key=lambda found: found[1], default=None)


def _as_given(pipe: Pipe) -> Iterator[tuple[dict[str, int], tuple[str, ...]]]:
    """The stages and the sequence of a pipe that has a static order."""
    if isinstance(pipe.schedule, Order):
        waits: TopologicalSorter[str] = TopologicalSorter()
        for _, names in pipe.schedule.units:
            for i, name in enumerate(names):
                waits.add(name, *names[:i])
        yield {n.einsum: n.stage for n in pipe.body if isinstance(n, Compute)}, tuple(waits.static_order())


def held_bytes(problem: Facts, chosen: Dict[str, int]) -> dict[str, float]:
    """Bytes that the holds occupy in each memory."""
    held: dict[str, float] = {}
    for stored in problem.stored:
        first = next((u for u in stored.users if stored.below[u, chosen[u]]), stored.users[0])
        held[stored.memory] = held.get(stored.memory, 0.0) + stored.nbytes[first, chosen[first]]
    return held


def _sequence(problem: Facts, stages: Dict[str, int], offsets: Dict[str, float]) -> tuple[str, ...]:
    """Leaves by their offset in a step, those that wait for each other in it in that order (SEMANTICS 4.11)."""
    waits: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(problem.leaves, ()))
    for wait in problem.waits:
        if wait.before != wait.after and stages[wait.before] - wait.steps == stages[wait.after]:
            waits.add(wait.after, wait.before)
    waits.prepare()
    sequence: list[str] = []
    ready: list[str] = []
    while waits.is_active():
        ready += waits.get_ready()
        ready.sort(key=lambda n: (offsets[n], problem.leaves.index(n)))
        waits.done(ready[0])
        sequence.append(ready.pop(0))
    return tuple(sequence)


def interval_s(problem: Facts, plan: Plan) -> float:
    """The least interval of a plan: the greatest ratio of time to tiles over all circles of its waits, or what the
    busiest port needs; infinite if the plan never proceeds. Found as a linear program over the starts."""
    rows = [*_edges(problem, plan)]
    busy = _busy(problem, plan.chosen)
    scale = max(busy.values(), default=0.0)
    if not scale:
        return 0.0
    at = {name: i + 1 for i, name in enumerate(problem.leaves)}
    matrix, limit = np.zeros((len(rows), len(at) + 1)), np.zeros(len(rows))
    for i, (before, after, took, tiles) in enumerate(rows):  # start[after] + tiles * interval >= start[before] + took
        matrix[i, 0] -= tiles
        matrix[i, at[before]] += 1
        matrix[i, at[after]] -= 1
        limit[i] = -took / scale
    goal = np.eye(1, len(at) + 1)[0]
    answer = linprog(goal, matrix, limit, bounds=[(1, None), *[(None, None)] * len(at)], method="highs")
    return float(answer.x[0]) * scale if answer.status == 0 else math.inf


def _edges(problem: Facts, plan: Plan) -> Iterator[tuple[str, str, float, int]]:
    """(before, after, seconds, tiles): `after` of a tile starts so much after `before` of the tile so many earlier."""
    chosen = {name: problem.candidates[name][plan.chosen[name]] for name in problem.leaves}
    length = {name: candidate.length for name, candidate in chosen.items()}
    for wait in problem.waits:
        if wait.tiles is not None:
            passed = chosen[wait.before].write + chosen[wait.after].reads.get(wait.before, 0.0)
            took = length[wait.before] + wait.moved + (passed if wait.reads else 0.0)
            yield wait.before, wait.after, took, wait.tiles
    for before in problem.leaves:
        for after in problem.leaves:
            yield before, after, length[before], problem.pipe.open
    for life in problem.lives:
        yield from ((b, a, length[b] + life.moved, life.deep) for b in life.users for a in life.users)
    for unit in problem.units:
        mine = [name for name in plan.sequence if unit in chosen[name].units]
        for before, after in pairwise([*mine, *mine[:1]]):
            again = int(after == mine[0])
            yield before, after, chosen[before].units[unit], plan.stages[before] - plan.stages[after] + again


def _busy(problem: Facts, chosen: Dict[str, int], ports: bool = True) -> dict[str, float]:
    """Seconds that each unit and each limited port is busy in a tile."""
    busy = dict(problem.ports) if ports else {}
    for name, k in chosen.items():
        candidate = problem.candidates[name][k]
        for place, took in (*candidate.units.items(), *(candidate.ports.items() if ports else ())):
            busy[place] = busy.get(place, 0.0) + took
    return busy


def _bound(problem: Facts, plan: Plan | None, solved: Solved) -> AssignedPipe:
    given = dict.fromkeys(problem.leaves, 0)
    before, name = _busy(problem, given, ports=False), problem.group.group.name
    if plan is None:
        return AssignedPipe(name, solved, before, {}, None)
    return AssignedPipe(name, solved, before, _busy(problem, plan.chosen, ports=False), _order(problem, plan))


def _order(problem: Facts, plan: Plan) -> Order:
    units = {name: problem.candidates[name][k].units for name, k in plan.chosen.items()}
    used = dict.fromkeys(unit for found in units.values() for unit in found)
    return Order(tuple((unit, tuple(n for n in plan.sequence if unit in units[n])) for unit in used))


def _ordered(pipe: Pipe, problem: Facts, plan: Plan) -> Pipe:
    """The pipe with the plan's units, stages and order."""
    node = lambda name: problem.candidates[name][plan.chosen[name]].node
    nodes: dict[str, Compute] = {name: replace(node(name), stage=plan.stages[name]) for name in problem.leaves}
    return replace(with_leaves(pipe, nodes, problem.leaves), schedule=_order(problem, plan))


def explained(problem: Facts, within: float, seconds: float = math.inf) -> tuple[Violation, ...]:
    """The constraints that cannot hold, by how much: an elastic model, in which each may be violated at a price, solved
    for the least sum; empty if `seconds` do not suffice."""
    model = Model(problem, elastic=True, within=within)
    solve(model.pyomo, seconds)
    return tuple(model.violations())
