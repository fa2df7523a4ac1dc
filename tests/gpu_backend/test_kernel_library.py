"""Every kernel of the library, generated from cascade and mapping: values equal the oracle, counts the closed form."""

from dataclasses import replace

import numpy as np
import pytest
from flash import MACHINE

from gpu_backend.check import TOLERANCE, case, given, oracle_case, relative_error
from gpu_backend.compare import USEFUL, differences, expected
from gpu_backend.count import count
from gpu_backend.emit import emit
from gpu_backend.kernels import KERNELS
from gpu_backend.limits import plans
from gpu_backend.static import compiled
from mapper.check import check as check_mapping
from mapper.cost import cost

CASES = [(name, dtype) for name in KERNELS for dtype in ("bf16", "fp16")]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=lambda x: x)
def test_values_equal_the_oracle_and_counts_the_closed_form(name, dtype):
    workload, mapping, machine = case(name, None, dtype)
    check_mapping(mapping, workload, machine)
    inputs, exact = oracle_case(workload, 7, given(name))
    outputs, counted = count(emit(workload, mapping, machine), inputs)
    for output in workload.cascade.outputs:
        assert relative_error(outputs[output], exact[output]) <= TOLERANCE[dtype]
    closed = cost(mapping, replace(workload, given=given(name)), machine)
    assert differences(closed, counted, plans(workload, mapping, machine), "hbm") == ()
    for result in (closed, counted):
        for row in result.select("operations", boundary="useful"):
            key = {"einsum": row.einsum, "place": row.place, "detail": row.detail, "boundary": "issued"}
            assert row.value <= result.value("operations", **key)
    data = "lengths" in name or KERNELS[name][0].startswith(("grouped", "gate", "cross"))  # which points exist is
    assert data != any(key[0] == USEFUL for key in expected(closed, plans(workload, mapping, machine), "hbm"))


def test_there_are_many():
    made = {(*KERNELS[name][:2], *KERNELS[name][2].items(), dtype) for name, dtype in CASES}
    assert len(made) == len(CASES) >= 120


@pytest.mark.parametrize("name", KERNELS)
def test_compiles_for_a_hopper_gpu(name):
    for kernel in emit(*case(name)):
        assert ".target sm_90a" in compiled(kernel).asm["ptx"]


@pytest.mark.parametrize("keys", [65, 100, 300, 449, 512])
def test_parts_and_tiles_of_no_key_move_nothing_in_the_closed_form_either(keys):
    """Of 4 parts of 128 keys, in tiles of 64, the last ones hold none of 300."""
    workload, mapping, _ = case("flash-decode", {"M": keys})
    inputs, _ = oracle_case(workload, seed=7)
    _, counted = count(emit(workload, mapping), inputs)
    closed = cost(mapping, workload, MACHINE)
    assert differences(closed, counted, plans(workload, mapping), "hbm") == ()
    assert closed.total("bytes", tensor="K", place="hbm", boundary="issued") == keys * 32 * 2 * 2


K_MASK = "e[None, :], mask=m[:, None] < M"
MUTANTS = {  # what is wrong with it: (kernel, sizes, source, replacement, counts that differ)
    "no skip of keys before the window": (
        "flash-attention-window", {"P": 192, "M": 192, "W": 20}, "tl.range(tl.maximum(", "tl.range(0 * tl.maximum(",
        {"bytes K read", "operations BQK mac"},
    ),
    "one tile of k too many": ("gemm", None, "K_TILES):", "K_TILES + 1):", {"operations C mac"}),
    "a mask that reads into the next head": (
        "attention-3pass-causal", {"P": 128, "M": 100}, K_MASK, f"{K_MASK} + (H - 1 - h) * 8", {"bytes K read"},
    ),
    "a sum that is taken twice": (
        "softmax", None, "SD = tl.sum(SN, 1)", "SD = tl.sum(SN, 1); SD = tl.sum(SN, 1)", {"combines SD"},
    ),
    "the last query again in place of what lies past the end": (
        "flash-attention-cross", None, "p = p_tile * P_TILE + tl.arange(0, P_TILE)",
        "p = tl.minimum(p_tile * P_TILE + tl.arange(0, P_TILE), P - 1)", {"bytes Q read", "bytes AV write"},
    ),
    "a first choice that is dropped": (
        "gate-softmax-topk", None, "A_at = tl.argmax(A_left, 1)",
        "A_at = tl.argmax(A_left, 1); A_at = tl.argmax(A_left, 1)", {"combines A"},
    ),
    "a product of rows of no group": (
        "grouped-gemm-ragged", None, "(d[None, :] < D) & (t[:, None] < COUNT), other", "(d[None, :] < D), other",
        {"bytes X read"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_that_passes_values_fails_counts(name):
    chosen, sizes, old, new, wrong = MUTANTS[name]
    workload, mapping, machine = case(chosen, sizes)
    (kernel,) = emit(workload, mapping)
    assert old in kernel.source
    broken = replace(kernel, source=kernel.source.replace(old, new))
    assert wrong <= what_differs((broken,), workload, mapping, machine, given(chosen))


def test_a_kernel_launched_twice_passes_values_and_fails_counts():
    workload, mapping, machine = case("attention-unfused")
    scores, softmax, product = emit(workload, mapping)
    found = what_differs((scores, softmax, softmax, product), workload, mapping, machine)
    assert {"bytes QK read", "bytes A write", "operations SN exp"} <= found


def what_differs(kernels, workload, mapping, machine, lengths=None):
    """The counted quantities that differ from the closed form, after the values are found right."""
    inputs, exact = oracle_case(workload, 7, lengths)
    outputs, counted = count(kernels, inputs)
    for output in workload.cascade.outputs:
        assert relative_error(outputs[output], exact[output]) <= TOLERANCE["bf16"]
    closed = cost(mapping, replace(workload, given=lengths or {}), machine)
    found = differences(closed, counted, plans(workload, mapping), "hbm")
    return {line.split(":")[0] for line in found}


def test_sectors_are_the_closed_forms_accesses_where_rows_fill_them_and_padded_lanes_are_told_apart():
    workload, mapping, machine = case("flash-attention-causal", {"P": 100, "M": 100})
    inputs, _ = oracle_case(workload, seed=7)
    _, counted = count(emit(workload, mapping), inputs)
    closed = cost(mapping, workload, machine)
    for tensor, direction in (("Q", "read"), ("K", "read"), ("V", "read"), ("AV", "write")):
        key = {"tensor": tensor, "place": "hbm", "detail": direction}
        assert counted.value("accesses", **key) == closed.total("accesses", **key)
        lanes = counted.value("lanes", **key, boundary="useful")
        assert lanes * 2 == counted.value("bytes", **key, boundary="issued")
        blocks = 2 if tensor in ("Q", "AV") else 3  # of 64 rows, for each of 2 heads; tile 2 of the keys is cut off
        assert counted.value("lanes", **key, boundary="issued") == 2 * blocks * 64 * 64 > lanes


def test_a_row_that_fills_no_sector_touches_more_sectors_than_its_bytes():
    workload, mapping, _ = case("gemm", {"N": 70})  # rows of 140 bytes
    inputs, _ = oracle_case(workload, seed=7)
    _, counted = count(emit(workload, mapping), inputs)
    touched = counted.value("accesses", tensor="C", place="hbm", detail="write")
    assert 32 * touched > counted.value("bytes", tensor="C", place="hbm", detail="write", boundary="issued")


def test_ragged_groups_touch_and_store_only_their_own_rows():
    workload, mapping, machine = case("grouped-gemm")
    ragged = {"START": np.array([0, 70, 100]), "COUNT": np.array([64, 3, 20])}
    inputs, exact = oracle_case(workload, 7, ragged)
    outputs, counted = count(emit(workload, mapping), inputs)
    assert relative_error(outputs["Y"], exact["Y"]) <= TOLERANCE["bf16"]  # and nothing is stored where no point is
    rows = 64 + 3 + 20
    for tensor, row in (("X", 96), ("Y", 64)):
        (moved,) = counted.select("bytes", tensor=tensor, boundary="issued")
        assert moved.value == rows * row * 2
    made = plans(workload, mapping)
    assert differences(cost(mapping, replace(workload, given=ragged), machine), counted, made, "hbm") == ()
    whole = differences(cost(mapping, workload, machine), counted, made, "hbm")  # without them lengths are whole ranks
    assert [line.split(":")[0] for line in whole] == ["bytes X read", "bytes Y write"]


def test_of_equal_values_a_gate_chooses_the_first():
    workload, mapping, _ = case("gate-softmax-topk")
    levels = np.random.default_rng(3).integers(0, 4, (40, 64)).astype(float)  # 64 experts share four values
    inputs, exact = oracle_case(workload, 7, {"L": levels})
    outputs, counted = count(emit(workload, mapping), inputs)
    assert relative_error(outputs["W"], exact["W"]) <= TOLERANCE["bf16"]  # the chosen places, and no others
    assert counted.value("bytes", tensor="W", boundary="issued") == 40 * 8 * 2
    assert counted.value("combines", einsum="A", boundary="issued") == 48 * 63 * 8  # three blocks of 16 rows


def test_a_value_where_no_point_exists_is_wrong():
    exact = np.array([1.0, np.nan])
    assert relative_error(np.array([1.0, np.nan]), exact) == 0
    assert relative_error(np.array([1.0, 0.0]), exact) == float("inf")
    assert relative_error(np.array([np.nan, np.nan]), exact) == float("inf")
