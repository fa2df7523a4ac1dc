"""Random legal mappings: the bound holds, folding changes nothing, and bytes are conserved."""

import math
from collections import Counter
from itertools import groupby
from operator import itemgetter

import pytest

from einsum.library import load
from mapper.check import check
from mapper.cost import cost
from mapper.random_mapping import random_case
from sim.fold import run_full
from sim.lower import lower
from sim.run import simulate

CASCADES = load("attention-1pass"), load("attention-1pass-causal")
BATCHES = [range(first, first + 15) for first in range(0, 120, 15)]


@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"from {seeds[0]}")
def test_bound_folding_and_counted_bytes(seeds):
    for seed in seeds:
        mapping, workload, machine = random_case(seed, *CASCADES)
        check(mapping, workload, machine)
        closed = cost(mapping, workload, machine)
        folded = simulate(mapping, workload, machine)
        assert folded.rows == simulate(mapping, workload, machine, fold=False).rows, seed
        assert closed.latency_s <= folded.latency_s * (1 + 1e-12), seed
        assert folded.value("tiles") == closed.value("tiles")
        for place in (m.name for m in machine.memories):
            for detail in ("read", "write"):
                ours = Counter({r.tensor: r.value for r in folded.select("bytes", place=place, detail=detail)})
                bound = Counter({r.tensor: r.value for r in closed.select("bytes", place=place, detail=detail)})
                assert ours == bound, (seed, place, detail)


@pytest.mark.parametrize("seeds", BATCHES[:3], ids=lambda seeds: f"from {seeds[0]}")
def test_bytes_in_are_bytes_out_and_held(seeds):
    """What the outside sees: each output leaves once, each query enters once, keys once for each group of queries.
    Inside: a buffer is never over-full, and is empty at the end."""
    for seed in seeds:
        mapping, workload, machine = random_case(seed, *CASCADES)
        result = simulate(mapping, workload, machine)
        size = {tensor: workload.elements(tensor) * workload.bits(tensor) // 8 for tensor in ("AV", "K", "Q")}
        assert result.total("bytes", tensor="AV", place="dram", detail="write") == size["AV"]
        assert result.total("bytes", tensor="Q", place="dram", detail="read") == size["Q"]
        outer = next(r for g in mapping.groups for r in _loops(g.body) if r.ranks == ("p",))
        if "causal" not in mapping.cascade:
            passes = math.ceil(workload.extent("p") / outer.tile[0])
            assert result.total("bytes", tensor="K", place="dram", detail="read") == size["K"] * passes
        (program,) = lower(mapping, workload, machine)
        run = run_full(program, trace_tiles=10**9)
        held = {slot.name: 0 for slot in program.slots}
        changes = [(s.start, +1, program[s.task].acquires) for s in run.spans]
        changes += [(s.end, -1, program[s.task].releases) for s in run.spans]
        for time, together in groupby(sorted(changes), key=itemgetter(0)):
            for _, sign, slots in together:
                for slot in slots:
                    held[slot] += sign
            assert all(0 <= held[slot.name] <= slot.count for slot in program.slots), (seed, time, held)
        assert not any(held.values())


def _loops(body):
    for node in body:
        if hasattr(node, "ranks"):
            yield node
            yield from _loops(node.body)
