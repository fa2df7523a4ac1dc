"""Equal groups are solved once, and the same question has the same answer, to the letter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from search_cases import workload

from arch import read
from einsum import library
from einsum.bind import bind
from mapper.search.answer import search
from mapper.search.solve import Space
from mapper.yaml import dump_mapping

ALIKE = (
    "tensor A{i}[m{i},k{i}]: bf16\ntensor B{i}[k{i},n{i}]: bf16\nC{i}[m{i},n{i}] = A{i}[m{i},k{i}] * B{i}[k{i},n{i}]\n"
)
SCRIPT = """
from arch import read
from einsum import library
from einsum.bind import bind
from mapper.search.answer import search
from mapper.yaml import dump_mapping
found = search(bind(library.load("softmax"), {"T": 16, "N": 32}), read.load("fusemax"), "energy").found
print(dump_mapping(found[0].mapping))
"""


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_sixteen_equal_matmuls_cost_as_one(objective: str):
    many = "".join(line for part in ("tensor A", "tensor B", "C") for i in range(16) for line in lines(part, i))
    sizes = {f"{rank}{i}": 32 for i in range(16) for rank in "MNK"}
    place = read.load("tpu-v4i")
    all_ = search(workload(many, **sizes), place, objective)
    one = search(workload(ALIKE.format(i=0), M0=32, N0=32, K0=32), place, objective)
    assert (all_.certificate.effort.costed, all_.certificate.effort.bounded) == (
        one.certificate.effort.costed,
        one.certificate.effort.bounded,
    )
    assert one.certificate.effort.costed > 0
    assert all_.found[0].latency_s == pytest.approx(16 * one.found[0].latency_s, rel=1e-9, abs=0)


def lines(part: str, i: int) -> list[str]:
    return [f"{line}\n" for line in ALIKE.format(i=i).splitlines() if line.startswith(part)]


def test_other_extents_types_and_sizes_are_other_groups():
    place = read.load("tpu-v4i")
    lone = lambda text, **sizes: search(workload(text, **sizes), place).found[0]
    small, large = ALIKE.format(i=0), ALIKE.format(i=1).replace("bf16", "fp32")
    text = "".join(
        line for part in ("tensor", "C") for t in (small, large) for line in t.splitlines(True) if line.startswith(part)
    )
    both = search(workload(text, M0=32, N0=32, K0=32, M1=32, N1=64, K1=32), place, space=Space(together=1)).found[0]
    parts = lone(small, M0=32, N0=32, K0=32), lone(large, M1=32, N1=64, K1=32)
    assert both.latency_s == pytest.approx(sum(p.latency_s for p in parts), rel=1e-9, abs=0)
    assert both.energy_j == pytest.approx(sum(p.energy_j for p in parts), rel=1e-9, abs=0)


def test_order_of_sizes_does_not_matter_and_answers_repeat():
    cascade, place, sizes = library.load("softmax"), read.load("fusemax"), {"T": 16, "N": 32}
    shuffled = dict(sorted(sizes.items(), reverse=True))
    asked = [sizes, sizes, shuffled]
    answers = [search(bind(cascade, given), place, "energy") for given in asked]
    assert len({tuple(dump_mapping(f.mapping) for f in a.found) for a in answers}) == 1
    assert len({(a.certificate.effort.costed, a.certificate.effort.bounded) for a in answers}) == 1


def test_hash_seeds_do_not_matter():
    made = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert made[0] == made[1]
    assert "mapping/1" in made[0]
