"""Useful lanes, followed through programs: by hand, through masks and memory, and where points are data."""

import math
from dataclasses import replace

import pytest
from flash import MACHINE

from gpu_backend.check import case, given, oracle_case
from gpu_backend.compare import USEFUL, differences
from gpu_backend.count import count
from gpu_backend.emit import emit
from gpu_backend.limits import plans
from mapper.cost import cost


def counted(name, sizes=None, change=lambda source: source):
    workload, mapping, _ = case(name, sizes)
    kernels = [replace(kernel, source=change(kernel.source)) for kernel in emit(workload, mapping)]
    inputs, _ = oracle_case(workload, 7, given(name))
    return workload, mapping, count(kernels, inputs)[1]


def useful(result, einsum, name):
    return result.total("operations", einsum=einsum, detail=name, boundary="useful")


def test_causal_attention_by_hand():
    """Keys at or before the query, and a row's state once for each tile of keys that it meets."""
    sizes = {"P": 100, "M": 100}
    _, _, found = counted("flash-attention-causal", sizes)
    pairs, steps = 2 * sum(p + 1 for p in range(100)), 2 * sum(1 + (p >= 64) for p in range(100))
    assert useful(found, "BQK", "mac") == useful(found, "SLNV", "mac") == pairs * 64
    assert useful(found, "BQK", "mul") == useful(found, "SLN", "exp") == useful(found, "SLN", "add") == pairs
    assert useful(found, "RM", "max") == useful(found, "RD", "add") == useful(found, "PRM", "exp") == steps
    assert useful(found, "SPNV", "mul") == steps * 64 and useful(found, "AV", "div") == 2 * 100 * 64
    assert found.value("combines", einsum="LM", boundary="useful") == pairs - steps
    assert found.total("operations", einsum="BQK", detail="mac", boundary="issued") == 2 * 3 * 64**3


def test_padded_rows_and_columns_of_a_product_are_not_useful():
    workload, _, found = counted("gemm")
    assert useful(found, "C", "mac") == math.prod(workload.sizes[r] for r in "MNK")
    assert found.value("operations", einsum="C", detail="mac", boundary="issued") == 128 * 192 * 192


def test_what_was_masked_is_not_useful_to_the_kernel_that_loads_it():
    """QK is stored whole, with -inf where no point is; the softmax of another kernel reads it back."""
    _, _, found = counted("attention-unfused-causal", {"P": 64, "M": 64})
    assert useful(found, "SN", "exp") == 2 * 64 * 65 / 2
    assert found.value("operations", einsum="SN", detail="exp", boundary="issued") == 2 * 64 * 64


def test_lengths_count_as_they_are_where_the_closed_form_has_a_bound():
    workload, mapping, found = counted("flash-attention-lengths")
    pairs = 2 * 128 * (50 + 128)
    assert useful(found, "SLN", "exp") == pairs and useful(found, "BQK", "mac") == pairs * 32
    closed = cost(mapping, workload, MACHINE)
    for row in found.select("operations", boundary="useful"):
        bound = closed.total("operations", einsum=row.einsum, detail=row.detail, boundary="useful")
        assert row.value <= bound or row.detail == "mul"  # the product with log2(e) is the kernel's own


WRONG = {  # a kernel whose lanes are useful in another number: (kernel, source, replacement, quantities)
    "a mask that keeps one key more": (
        "flash-attention-causal", "m[None, :] <= p[:, None]", "m[None, :] <= p[:, None] + 1", {"SLN exp", "BQK mac"},
    ),
    "a mask that is never true": (
        "flash-attention-causal", "m[None, :] <= p[:, None]", "m[None, :] <= p[:, None] - 512", {"SLN exp", "SLNV mac"},
    ),
    "a store that leaves rows out": ("softmax", "mask=(t[:, None] < T)", "mask=(t[:, None] < T - 1)", {"Y div"}),
    "a load that leaves columns out": ("gemm", "(k[None, :] < K)", "(k[None, :] < K - 1)", {"C mac"}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_lanes_that_are_masked_otherwise_differ(name):
    kernel, old, new, quantities = WRONG[name]
    sources = []
    workload, mapping, found = counted(kernel, None, lambda s: sources.append(s.count(old)) or s.replace(old, new))
    assert max(sources) > 0
    lines = differences(cost(mapping, workload, MACHINE), found, plans(workload, mapping), "hbm")
    assert {f"{USEFUL} {q}" for q in quantities} <= {line.split(":")[0] for line in lines}


def test_a_gate_needs_only_the_weights_that_it_stores():
    _, _, found = counted("gate-softmax-topk")
    assert useful(found, "W", "mul") == 40 * 8
    assert useful(found, "SN", "exp") == 40 * 64  # the choice is among all
