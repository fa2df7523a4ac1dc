"""Machines as one more axis: each column of a sweep is the cost of its mapping on its machine, and the best tiles."""

from __future__ import annotations

import math

import numpy as np
import pytest

from arch import read
from arch.machine import Machine
from arch.scale import parameters, scaled
from einsum import library
from einsum.bind import bind
from einsum.cascade import Workload
from einsum.problems import InputError
from mapper.check import check
from mapper.cost import cost
from mapper.search.answer import search
from mapper.search.group import Group
from mapper.search.metrics import Metrics, mesh
from mapper.search.solve import columns
from mapper.search.sweep import SHAPES, _vector, sweep

MACHINES = 12


def cases() -> dict[str, tuple[Workload, Machine]]:
    gemm = bind(library.load("gemm"), {"M": 512, "N": 768, "K": 1024}, {"*": "int8"})
    attention = bind(
        library.load("attention-1pass"), {"B": 1, "H": 4, "E": 64, "F": 64, "M": 1024, "P": 1024, "M0": 256}
    )
    softmax = bind(library.load("softmax"), {"T": 256, "N": 1024})
    return {
        "gemm on tpu-v4i": (gemm, read.load("tpu-v4i")),
        "gemm on h100, with static power": (gemm, read.load("h100")),
        "attention on fusemax": (attention, read.load("fusemax")),
        "softmax on edge-flat": (softmax, read.load("edge-flat")),
    }


def draws(machine: Machine) -> dict[str, np.ndarray]:
    """Every parameter between half and twice, some memories much smaller."""
    rng = np.random.default_rng(7)
    factors = {name: 2 ** rng.uniform(-1, 1, MACHINES) for name in parameters(machine)}
    for name in factors:
        if name.endswith("capacity"):
            factors[name] *= np.where(rng.random(MACHINES) < 0.15, 2.0**-6, 1.0)
    return factors


@pytest.mark.parametrize("objective", ["latency", "energy"])
@pytest.mark.parametrize("name", cases())
def test_each_machine_gets_the_cost_of_its_mapping_and_no_tiles_are_better(name: str, objective: str):
    workload, machine = cases()[name]
    factors = draws(machine)
    found = sweep(workload, machine, factors, objective)
    fits = 0
    for i in range(MACHINES):
        other = scaled(machine, {p: float(values[i]) for p, values in factors.items()})
        best = [least(choice, other, objective) for choice in found.choices]
        value = found.latency_s[i] if objective == "latency" else found.energy_j[i]
        assert value == pytest.approx(sum(best), rel=1e-9)
        if math.isfinite(value):
            fits += 1
            mapping = found.mapping(i)
            check(mapping, workload, other)
            result = cost(mapping, workload, other)
            assert (found.latency_s[i], found.energy_j[i]) == pytest.approx(
                (result.latency_s, result.energy_j), rel=1e-9
            )
    assert fits > MACHINES / 4


def least(choice, machine: Machine, objective: str) -> float:
    """The least of the group over all its shapes of tiles, on one machine."""
    group = Group(choice.group.workload, machine, choice.group.names)
    chains = columns(group, "divisors", SHAPES)
    at = mesh([np.arange(len(chain)) for chain in chains])
    own = [np.array([choice.tiles[rank]]) for rank in group.walked]
    tiles = [np.concatenate([mine, chain[i]]) for mine, chain, i in zip(own, chains, at, strict=True)]
    vector, allowed = _vector(choice, group, tiles, 1)
    metrics = Metrics.of(group)
    many = len(tiles[0]) if tiles else 1
    table = np.array([np.broadcast_to(np.asarray(vector.get(m, 0.0), float), many) for m in metrics.names])
    allowed = allowed & (table[metrics.busy :] <= metrics.rooms[:, None]).all(axis=0)
    latency, energy = metrics.whole(table)
    return float(np.where(allowed, latency if objective == "latency" else energy, math.inf).min())


@pytest.mark.parametrize("name", ["gemm on tpu-v4i", "attention on fusemax"])
def test_the_machine_itself_gets_the_answer_of_the_search_and_no_other_one_beats_its_own(name: str):
    workload, machine = cases()[name]
    factors = {p: np.concatenate([[1.0], values[:3]]) for p, values in draws(machine).items()}
    found = sweep(workload, machine, factors)
    for i in range(4):
        answer = search(workload, scaled(machine, {p: float(values[i]) for p, values in factors.items()}))
        own = answer.found[0].latency_s
        assert found.latency_s[i] == pytest.approx(own, rel=1e-9) if i == 0 else found.latency_s[i] >= own * (1 - 1e-9)


def test_mistakes_are_named():
    workload, machine = cases()["gemm on tpu-v4i"]
    with pytest.raises(InputError, match=r"no such parameter .*did you mean dram bandwidth"):
        sweep(workload, machine, {"dram bandwith": np.ones(2)})
    with pytest.raises(InputError, match="unknown objective"):
        sweep(workload, machine, {}, "speed")
