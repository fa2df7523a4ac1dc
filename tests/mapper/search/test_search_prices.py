"""Prices of decisions against the closed form of the mapping that they amount to: busy times, energy, footprints."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from search_cases import Draw, allowed, partial, prices, random_draw, random_machine, workload

from arch import read
from arch.machine import Machine
from einsum import library
from einsum.bind import bind
from einsum.cascade import Workload
from einsum.ops import is_view
from einsum.problems import InputError
from mapper.check import check
from mapper.cost import cost
from mapper.mapping import Mapping
from mapper.search.build import mapping_of
from mapper.search.group import Group, Illegal
from mapper.search.price import ENERGY, Prices
from mapper.work import group_works

BATCHED = "tensor A[b,m,k]: bf16\ntensor W[b,k,n]: bf16\nC[b,m,n] = A[b,m,k] * W[b,k,n]\n"
SCALED = "tensor X[m,n]: bf16\ntensor S[m]: fp16\nY[m,n] = X[m,n] * S[m]\n"
SUMS = "tensor X[m,n]: bf16\nS[m] = X[m,n] * X[m,n]\nY[m,n] = X[m,n] / S[m]\n"
CHAIN = "tensor A[m,k]: bf16\ntensor W[k,n]: bf16\ntensor V[n,l]: bf16\nT[m,n] = A[m,k] * W[k,n]\n"
CHAIN += "O[m,l] = T[m,n] * V[n,l]\n"
CONV = "tensor X[c,h]: bf16\ntensor W[o,c,r]: bf16\nY[o,p] = X[c,p+r] * W[o,c,r]\n"
ATTENTION = {"B": 2, "H": 3, "E": 8, "F": 8}
TILED = ATTENTION | {"P": 48, "M": 60, "M0": 12}
WHOLE = ATTENTION | {"P": 30, "M": 36}
MACHINES = ("tpu-v4i", "fusemax", "h100", "eyeriss", "simba", "nvdla", "edge-flat", "systolic-128")


def shipped(name: str, **sizes: int):
    return bind(library.load(name), sizes, {"*": "bf16"})


WORKLOADS = {
    "gemm": shipped("gemm", M=24, N=60, K=36),
    "batched": workload(BATCHED, B=6, M=12, N=8, K=10),
    "scaled": workload(SCALED, M=24, N=36),
    "sums": workload(SUMS, M=16, N=24),
    "chain": workload(CHAIN, M=12, N=16, K=8, L=6),
    "convolution": workload(CONV, C=4, H=14, O=6, P=12, R=3),
    "attention-1pass": shipped("attention-1pass", **TILED),
    "attention-3pass": shipped("attention-3pass", **WHOLE),
    "mlp": shipped("mlp", T=12, D=8, I=20),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", WORKLOADS)
def test_prices_on_every_preset(name: str, machine: str):
    place, rng = read.load(machine), random.Random(f"{name} {machine}")
    for group in groups(WORKLOADS[name], place):
        compare(group, rng, tries=300, wanted=2)


@pytest.mark.parametrize("seed", range(60))
def test_prices_on_random_machines(seed: int):
    rng = random.Random(seed)
    place, name = random_machine(rng), rng.choice(sorted(WORKLOADS))
    for group in groups(WORKLOADS[name], place):
        compare(group, rng, tries=300, wanted=3)


def groups(bound: Workload, place: Machine) -> Iterator[Group]:
    """All Einsums as one group, and the first alone, where these can share loops there."""
    names = tuple(e.name for e in bound.cascade.einsums if not is_view(e))
    for chosen in dict.fromkeys((names, names[:1])):
        group = Group(bound, place, chosen)
        try:
            group.check()
        except Illegal:
            continue
        yield group


def compare(group: Group, rng: random.Random, tries: int, wanted: int) -> None:
    """Random decisions against the closed form until so many were allowed."""
    for _ in range(tries):
        draw = random_draw(rng, group, rng.choice(["divisors", "ragged"]))
        priced = prices(group, draw, buffers := rng.choice([1, 1, 2]))
        if not allowed(group, draw, priced):
            continue
        vector = total(group, draw, priced)
        mapping = mapping_of("drawn", [draw.choice(group)], buffers)
        assert closed_form(mapping, group) == pytest.approx(vector, rel=1e-9, abs=1e-30), draw
        over = [
            m.name for m in group.machine.memories if vector.get(f"held {m.name}", 0) > (m.capacity_bytes or math.inf)
        ]
        with partial():
            if over:
                with pytest.raises(InputError, match=rf"({'|'.join(over)}) has .*, the holds need"):
                    check(mapping, group.workload, group.machine)
            else:
                check(mapping, group.workload, group.machine)
        wanted -= 1
        if not wanted:
            return


def total(group: Group, draw: Draw, priced: Prices) -> dict[str, float]:
    """The sum of the prices of all decisions."""
    found: dict[str, float] = defaultdict(float)

    def add(vector: dict) -> None:
        for metric, value in vector.items():
            found[metric] += np.asarray(value, float).item()

    for e in group.einsums:
        add(priced.compute(e, draw.options[e.name]))
        for access in dict.fromkeys((*e.reads, e.output)):
            chain = draw.holds[access.tensor]
            source = chain[-1].memory if chain else group.machine.root.name
            add(priced.access(e, access, draw.options[e.name], source))
    for tensor, use in group.uses.items():
        outer = None if use.kind == "inner" else group.machine.root.name
        first = next(n for n in group.names if n in use.users)
        for hold in draw.holds[tensor]:
            add(priced.keep(use, hold, outer, draw.options[first]))
            outer = hold.memory
    return {metric: value for metric, value in found.items() if value}


def closed_form(mapping: Mapping, group: Group) -> dict[str, float]:
    """The same sums from the rows of the closed form, and from the footprints behind it."""
    result = cost(mapping, group.workload, group.machine)
    found: dict[str, float] = defaultdict(float)
    memories = {m.name: m for m in group.machine.memories}
    for row in result.rows:
        if row.quantity == "energy" and row.place != "static":
            found[ENERGY] += row.value
        elif row.quantity == "busy":
            port = row.place in memories and not memories[row.place].shared_port
            found[f"busy {row.place}{f' {row.detail}' if port else ''}"] += row.value
    (work,) = group_works(mapping, group.workload, group.machine)
    for hold, _, size in work.footprints:
        if memories[hold.memory].capacity_bytes is not None:
            found[f"held {hold.memory}"] += size
    busiest = max(value for metric, value in found.items() if metric.startswith("busy"))
    assert result.latency_s == pytest.approx(busiest, rel=1e-12)
    return {metric: value for metric, value in found.items() if value}
