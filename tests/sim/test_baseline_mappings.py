"""FLAT, unfused attention, +Cascade and linear layers at random sizes: simulated against the closed form."""

import random
from collections import defaultdict

import pytest

from arch.read import load as load_machine
from einsum.library import load as load_cascade
from mapper.baselines import FlatChoice, flat
from mapper.check import check
from mapper.cost import cost
from mapper.library import bound, make
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


@pytest.mark.parametrize("seed", range(12))
def test_flat(seed):
    draw = random.Random(f"flat {seed}")
    sizes = {
        "B": draw.randint(1, 3),
        "H": draw.randint(1, 2),
        "E": draw.choice([8, 64, 300]),
        "F": draw.choice([16, 64]),
    }
    sizes |= {"M": draw.choice([100, 512, 700]), "P": draw.choice([256, 600, 1024])}
    scores = draw.choice([(), ("QK", "A")])
    resident = scores + tuple(t for t in ("Q", "K", "V", "AV") if draw.random() < 0.5)
    stationary = (draw.choice(["output", "weight"]), draw.choice(["output", "weight", "input"]))
    choice = FlatChoice(draw.choice([256, 512]), resident, draw.choice([1.0, 0.75]), stationary)
    cascade, machine = load_cascade("attention-3pass"), load_machine("flat")
    mapping = flat(cascade, machine, sizes, choice if seed else None)
    agree(mapping, bound(mapping, cascade, sizes), machine)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["unfused", "fusemax-cascade"])
def test_attention(name, seed):
    draw = random.Random(f"{name} {seed}")
    sizes = {"B": draw.randint(1, 2), "H": draw.randint(1, 2), "E": draw.choice([8, 64]), "F": draw.choice([16, 64])}
    sizes |= {"M": draw.choice([100, 512, 700]), "P": draw.choice([256, 600])}
    cascade = load_cascade("attention-3pass" if name == "unfused" else "attention-1pass")
    machine = load_machine("flat")
    agree(*make(name, cascade, machine, sizes), machine)


@pytest.mark.parametrize("seed", range(4))
def test_linear(seed):
    draw = random.Random(f"linear {seed}")
    wide = lambda: 256 * draw.randint(1, 8)
    sizes = {"T": 256 * draw.randint(1, 64), "D": wide(), "I": wide(), "S": 8 * wide()}
    machine = load_machine(draw.choice(["flat", "fusemax"]))
    agree(*make("linear", load_cascade("transformer-linear"), machine, sizes), machine)
