"""What every mapping that is simulated has to show, for the tests of this folder."""

from collections import defaultdict

import pytest

from mapper.check import check
from mapper.cost import cost
from mapper.yaml import dump_mapping, loads
from sim.fold import run, run_full
from sim.lower import lower
from sim.run import simulate


def moved(result):
    """Bytes by tensor, memory and direction."""
    found = defaultdict(float)
    for row in result.select("bytes"):
        found[row.einsum, row.tensor, row.place, row.detail] += row.value
    return dict(found)


def agree(mapping, workload, machine):
    """Legal, the same when read back, the same bytes and operations, and never faster than the bound."""
    check(mapping, workload, machine)
    assert loads(dump_mapping(mapping)) == mapping
    closed, simulated = cost(mapping, workload, machine), simulate(mapping, workload, machine)
    assert moved(simulated) == pytest.approx(moved(closed), rel=1e-12)
    assert simulated.energy_j == pytest.approx(closed.energy_j, rel=1e-12)
    assert simulated.latency_s >= closed.latency_s * (1 - 1e-9)
    for program in lower(mapping, workload, machine):
        assert run(program).makespan == run_full(program).makespan
