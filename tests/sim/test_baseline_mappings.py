"""FLAT, unfused attention, +Cascade and linear layers at random sizes: simulated against the closed form."""

import random

import pytest
from agreement import agree

from arch.read import load as load_machine
from einsum.library import load as load_cascade
from mapper.baselines import FlatChoice, flat
from mapper.library import bound, make


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
