"""Nothing that a shipped machine can do is called infeasible: a large product, and attention of three lengths."""

from __future__ import annotations

import pytest

from arch import read
from einsum import library
from einsum.bind import bind
from mapper.search.answer import search
from mapper.search.solve import Space

LENGTHS = {"fusemax": (128, 4096, 65536), "eyeriss": (128, 4096, 65536)}  # others take seconds for each longer one
PRODUCTS = ("tpu-v4i", "fusemax", "h100", "eyeriss", "nvdla", "edge-flat", "flat", "systolic-128")
ATTENTION = ("tpu-v4i", "fusemax", "eyeriss", "nvdla", "edge-flat", "flat", "systolic-128")


@pytest.mark.parametrize("machine", PRODUCTS)
def test_large_product(machine: str):
    work, place = bind(library.load("gemm"), dict.fromkeys("MNK", 4096), {"*": "bf16"}), read.load(machine)
    answer = search(work, place, "energy")
    units = [u for u in place.units if "mac" in u.ops]
    peak = max(place.instances(u.name) * u.lanes * u.clock_hz / u.ops["mac"].cycles for u in units)
    assert answer.found[0].latency_s >= 4096**3 / peak * (1 - 1e-9)
    assert answer.certificate.gap == 0


@pytest.mark.parametrize(("machine", "length"), [(m, n) for m in ATTENTION for n in LENGTHS.get(m, (128,))])
def test_each_einsum_of_attention(machine: str, length: int):
    """Each Einsum alone fits, so some cut of attention does."""
    sizes = {"B": 1, "H": 8, "E": 64, "F": 64, "M": length, "P": length}
    work = bind(library.load("attention-3pass"), sizes, {"*": "bf16"})
    answer = search(work, read.load(machine), "energy", Space(together=1))
    assert len(answer.found[0].mapping.groups) == 6
    assert answer.certificate.gap == 0
