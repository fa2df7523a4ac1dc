"""Nothing that a shipped machine can do is called infeasible: a large product, and attention of three lengths."""

from __future__ import annotations

import pytest

from arch import read
from einsum import library
from einsum.bind import bind
from mapper.search.answer import search
from mapper.search.solve import Space

SAME_TREES = ("b200", "gb300", "h200", "l40s", "rtx-4090", "t4", "tpu-v5p", "tpu-v6e", "v100")  # as h100's or tpu-v5e's
LARGE = ("mi300x", "mi325x")  # a memory more than the other GPUs: minutes
MACHINES = [name for name in read.presets() if name not in (*SAME_TREES, *LARGE)]


@pytest.mark.parametrize("machine", MACHINES)
def test_large_product(machine: str):
    work, place = bind(library.load("gemm"), dict.fromkeys("MNK", 4096), {"*": "bf16"}), read.load(machine)
    answer = search(work, place, "energy")
    units = [u for u in place.units if "mac" in u.ops]
    peak = max(place.instances(u.name) * u.lanes * u.clock_hz / u.ops["mac"].cycles for u in units)
    assert answer.found[0].latency_s >= 4096**3 / peak * (1 - 1e-9)
    assert answer.certificate.gap == 0


@pytest.mark.parametrize("length", [128, 4096, 65536])
@pytest.mark.parametrize("machine", MACHINES)
def test_each_einsum_of_attention(machine: str, length: int):
    """Each Einsum alone fits, so some cut of attention does."""
    sizes = {"B": 1, "H": 8, "E": 64, "F": 64, "M": length, "P": length}
    work = bind(library.load("attention-3pass"), sizes, {"*": "bf16"})
    answer = search(work, read.load(machine), "energy", Space(together=1))
    assert len(answer.found[0].mapping.groups) == 6
    assert answer.certificate.gap == 0
