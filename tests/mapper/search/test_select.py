"""The search against a mixed-integer program that selects among tuples of factors, one for each Einsum.

Every mapping of a group is costed by the closed form, and its rows are dealt out to the Einsums that cause them. A
tuple must cost the same in whatever mapping it stands. Which tuples go together, and fit, is then up to the program.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import replace

import pytest
from search_brute_force import choices, cuts, filled, groups, obeys, ordered, size
from search_cases import SEVERAL, SINGLE, partial, tiny, tiny_machine

from arch.machine import Array, Machine, Memory, Node
from einsum.cascade import Workload
from einsum.problems import InputError
from mapper.assign.select import Factors, select
from mapper.check import check
from mapper.cost import cost
from mapper.mapping import Compute, Mapping, leaves
from mapper.result import Result
from mapper.search.answer import search
from mapper.search.build import Choice, mapping_of
from mapper.search.group import Group, Illegal

LIMIT = {SINGLE: 150, SEVERAL: 300}  # combinations of decisions of a problem


def problem(seed: int, kinds: tuple[str, ...]) -> tuple[Workload, Machine]:
    """A random problem small enough to enumerate; with one unit, so that no Einsum's costs depend on another's unit."""
    rng = random.Random(f"select {seed} {kinds[0]}")
    while True:
        workload, machine = tiny(rng, rng.choice(kinds)), tiny_machine(rng)
        combinations = sum(_size(workload, machine, names) for names in groups(workload, 16))
        if len(machine.units) == 1 and 20 <= combinations <= LIMIT[kinds]:
            return workload, machine


def _size(workload: Workload, machine: Machine, names: tuple[str, ...]) -> int:
    group = Group(workload, machine, names)
    try:
        group.check()
    except Illegal:
        return 0
    return size(group)


def boundless(part: Node) -> Node:
    if isinstance(part, Memory | Array):
        part = replace(part, children=tuple(map(boundless, part.children)))
    return replace(part, capacity_bytes=None) if isinstance(part, Memory) else part


def tuples(group: Group) -> list[Factors]:
    """Every tuple of each Einsum that stands in a legal mapping of the group, capacities aside."""
    machine = replace(group.machine, root=boundless(group.machine.root))
    found: dict[tuple, Factors] = {}
    for choice in choices(group):
        mapping = mapping_of("one", [choice], 1)
        if not obeys(mapping, group) or not filled(choice):
            continue
        try:
            with partial():
                check(mapping, group.workload, machine)
        except InputError:
            continue
        result = cost(mapping, group.workload, machine)
        for name in group.names:
            made = factors(name, choice, mapping, result)
            key = (name, choice.options[name], repr(sorted(made.agrees.items())))
            before = found.setdefault(key, made)
            assert before.energy_j == pytest.approx(made.energy_j, rel=1e-9, abs=0)
            assert before.busy_s == pytest.approx(made.busy_s, rel=1e-9, abs=0)
            assert before.held == pytest.approx(made.held, rel=1e-9, abs=0)
    return list(found.values())


def factors(name: str, choice: Choice, mapping: Mapping, result: Result) -> Factors:
    """One Einsum's part of a mapping's costs: what it does itself, and what holds do that it is the first to use."""
    group = choice.group
    uses = {t: use for t, use in group.uses.items() if name in use.users}
    first = {use.storage for use in uses.values() if use.users[0] == name}
    mine = lambda row: row.einsum == name or (not row.einsum and row.tensor in first)
    busy: dict[str, float] = defaultdict(float)
    held: dict[str, float] = defaultdict(float)
    for row in filter(mine, result.rows):
        if row.quantity == "busy":
            port = row.detail and not group.machine.memory(row.place).shared_port
            busy[f"{row.place} {row.detail}" if port else row.place] += row.value
        elif row.quantity == "footprint":
            held[row.place] += row.value
    energy = sum(row.value for row in filter(mine, result.rows) if row.quantity == "energy")
    shape = (tuple(sorted(choice.tiles.items())), _loops(mapping))
    agrees = {t: (shape, choice.holds[t], _spread(name, choice, mapping, t)) for t in uses}
    return Factors((name,), energy, dict(busy), dict(held), agrees)


def _loops(mapping: Mapping) -> tuple:
    return tuple((loop.ranks, loop.tile) for loop in next(iter(leaves(mapping))).loops)


def _spread(name: str, choice: Choice, mapping: Mapping, tensor: str) -> tuple:
    """How the Einsum deals out over the axes above each memory that holds a tensor."""
    node = next(x.node for x in leaves(mapping) if isinstance(x.node, Compute) and x.node.einsum == name)
    above = [{f"{a}.{x.name}" for a, x in choice.group.machine.axes(h.memory)} for h in choice.holds[tensor]]
    return tuple(tuple((x.over, x.ranks, x.tile) for x in node.loops if x.over in axes) for axes in above)


def best(workload: Workload, machine: Machine, objective: str) -> float:
    """The least sum over all cuts into groups, each selected by itself; infinite if nothing fits."""
    capacity = {m.name: m.capacity_bytes for m in machine.memories if m.capacity_bytes is not None}
    value: dict[tuple[str, ...], float] = {}
    for names in groups(workload, 16):
        group = Group(workload, machine, names)
        try:
            group.check()
        except Illegal:
            continue
        answer = select(tuples(group), capacity, objective, machine.static_power_w)
        assert answer.solved.status in ("optimal", "infeasible")
        if answer.solved.status == "infeasible":
            assert {v.family for v in answer.solved.violated} <= {"memory"}
        value[names] = answer.solved.value
    every = tuple(e.name for e in workload.cascade.einsums)
    sums = [sum(value[n] for n in cut) for cut in cuts(every, tuple(value)) if ordered(workload, cut)]
    return min(sums, default=math.inf)


@pytest.mark.parametrize("kinds", [SINGLE, SEVERAL], ids=["one Einsum", "two and three"])
@pytest.mark.parametrize("seed", range(8))
def test_search_finds_what_the_program_selects(seed: int, kinds: tuple[str, ...]):
    workload, machine = problem(seed, kinds)
    for objective in ("energy", "latency"):
        least = best(workload, machine, objective)
        if math.isinf(least):
            with pytest.raises(InputError):
                search(workload, machine, objective)
        else:
            assert search(workload, machine, objective).certificate.value == pytest.approx(least, rel=1e-6, abs=0)
