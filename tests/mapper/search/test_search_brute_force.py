"""The search against every mapping of its space, on 200 small problems: optima, ties, and the whole front."""

from __future__ import annotations

import random

import pytest
from search_brute_force import fronts, groups, size
from search_cases import ONLINE, SEVERAL, SINGLE, tiny, tiny_machine

from arch.machine import Machine
from einsum.cascade import Workload
from einsum.problems import InputError
from mapper.search.answer import search
from mapper.search.group import Group, Illegal

LIMIT = {SINGLE: 200, SEVERAL: 400, ONLINE: 400}  # combinations of decisions of a problem, equal mappings included


def problem(seed: int, kinds: tuple[str, ...], levels: int | None = None) -> tuple[Workload, Machine]:
    """A random problem that is neither trivial nor too large to enumerate."""
    rng, most = random.Random(f"{seed} {kinds[0]} {levels or ''}"), LIMIT[kinds] * (10 if levels else 1)
    while True:
        workload, machine = tiny(rng, rng.choice(kinds)), tiny_machine(rng, levels)
        if 20 <= sum(size_of(Group(workload, machine, names)) for names in groups(workload, 16)) <= most:
            return workload, machine


def size_of(group: Group) -> int:
    try:
        group.check()
    except Illegal:
        return 0
    return size(group)


@pytest.mark.parametrize("seed", range(120))
def test_single_einsums(seed: int):
    agree(*problem(seed, SINGLE))


@pytest.mark.parametrize("seed", range(12))
def test_three_levels_of_memory(seed: int):
    agree(*problem(seed, SINGLE, levels=3))


@pytest.mark.parametrize("seed", range(60))
def test_groups_of_two_and_three_and_all_cuts(seed: int):
    agree(*problem(seed, SEVERAL))


@pytest.mark.parametrize("seed", range(20))
def test_running_states_of_attention_tiles(seed: int):
    agree(*problem(seed, ONLINE))


def agree(workload: Workload, machine: Machine) -> None:
    front, _ = fronts(workload, machine)
    if not front:
        for objective in ("latency", "energy", "pareto"):
            with pytest.raises(InputError):
                search(workload, machine, objective)
        return
    found = {o: [(f.latency_s, f.energy_j) for f in search(workload, machine, o).found] for o in ("latency", "energy")}
    assert found == {
        "latency": [pytest.approx(front[0], rel=1e-9, abs=0)],
        "energy": [pytest.approx(front[-1], rel=1e-9, abs=0)],
    }
    whole = [(f.latency_s, f.energy_j) for f in search(workload, machine, "pareto").found]
    assert whole == [pytest.approx(point, rel=1e-9, abs=0) for point in front]
