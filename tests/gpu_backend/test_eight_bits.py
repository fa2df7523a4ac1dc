"""8-bit element types: every code against an oracle, kernels in the interpreter, and their matrix instructions."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from flash import MACHINE, build, mutant
from hypothesis import given, strategies as st
from test_descriptors import verify

from einsum.library import load as load_cascade
from einsum.problems import InputError
from gpu_backend import interpret
from gpu_backend.check import TOLERANCE, case, oracle_case, relative_error, retyped
from gpu_backend.count import count
from gpu_backend.emit import emit
from gpu_backend.kernel import Argument, Kernel
from gpu_backend.rounding import narrow, widen
from gpu_backend.static import compiled, profile
from mapper.library import bound
from mapper.library_gpu import gemm, rows
from studies.cli import main

EVERY = np.arange(256).astype(np.uint8)
HALF = np.float16


def as_halves(dtype: str) -> np.ndarray:
    """What the 256 codes mean, through fp16: e5m2 is its upper byte; e4m3 has an exponent that is 8 less and one bit
    narrower, and neither infinities nor NaNs but one."""
    if dtype == "e5m2":
        return (EVERY.astype(np.uint16) << 8).view(HALF).astype(np.float64)
    shifted = (EVERY.astype(np.uint16) & 0x7F) << 7 | (EVERY.astype(np.uint16) & 0x80) << 8
    values = shifted.view(HALF).astype(np.float64) * 2**8
    values[(EVERY & 0x7F) == 0x7F] = np.nan
    return values


@pytest.mark.parametrize("dtype", ["e4m3", "e5m2"])
def test_all_codes_mean_what_the_format_says(dtype):
    found = widen(EVERY, dtype)
    assert found.dtype == np.float32 and np.array_equal(found, as_halves(dtype), equal_nan=True)
    assert np.array_equal(np.signbit(found[:255]), np.signbit(as_halves(dtype)[:255]))  # -0 too
    there = ~np.isnan(found) & np.isfinite(found)
    assert np.array_equal(narrow(found, dtype)[there], EVERY[there])


@pytest.mark.parametrize(("dtype", "largest", "least"), [("e4m3", 448.0, 2.0**-9), ("e5m2", 57344.0, 2.0**-16)])
def test_the_ends_of_the_formats(dtype, largest, least):
    values = np.array([1e9, -1e9, np.inf, -np.inf, least, least / 2, least * 0.51, -0.0, largest])
    found = widen(narrow(values, dtype), dtype)
    assert found.tolist() == [largest, -largest, largest, -largest, least, 0.0, least, 0.0, largest]
    assert np.isnan(widen(narrow(np.array([np.nan, -np.nan]), dtype), dtype)).all()


@pytest.mark.parametrize("dtype", ["e4m3", "e5m2"])
@given(st.floats(width=32, min_value=-(2.0**17), max_value=2.0**17))
def test_rounding_is_to_the_nearest_code_and_of_two_to_the_even_one(dtype, x):
    table = as_halves(dtype)
    codes = [c for c in range(256) if np.isfinite(table[c]) and (c < 128) == (not np.signbit(x))]
    distance = {c: abs(table[c] - x) for c in codes}
    near = [c for c in codes if distance[c] == min(distance.values())]
    assert narrow(np.array([x]), dtype)[0] == min(near, key=lambda c: c & 1)


@pytest.mark.parametrize("dtype", ["e4m3", "e5m2"])
def test_halfway_between_neighbours_the_even_code_wins(dtype):
    table = as_halves(dtype)[:128]
    finite = table[np.isfinite(table)]
    middles = (finite[1:] + finite[:-1]) / 2
    expected = [c if c % 2 == 0 else c + 1 for c in range(len(finite) - 1)]
    assert narrow(middles, dtype).tolist() == expected


SOURCE = '''"""A cast there and back."""

import triton
import triton.language as tl


@triton.jit
def there_and_back(X_ptr, Y_ptr, Z_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(Y_ptr + n, tl.load(X_ptr + n).to(Y_ptr.dtype.element_ty))
    tl.store(Z_ptr + n, tl.load(Y_ptr + n).to(tl.float32))
'''


@pytest.mark.parametrize("dtype", ["e4m3", "e5m2"])
def test_a_kernel_reads_every_code_and_writes_it_back(dtype):
    codes = EVERY[np.isfinite(as_halves(dtype))]
    values = np.resize(as_halves(dtype)[codes], 256)
    kinds = {"X": "fp32", "Y": dtype, "Z": "fp32"}
    tensors = tuple(Argument(name, kind, (256,), name != "X") for name, kind in kinds.items())
    found = interpret.run((Kernel("there_and_back", SOURCE, tensors, (("N", 256),), (1,), ()),), {"X": values})
    assert np.array_equal(found["Y"], values) and np.array_equal(found["Z"], values)


CASES = {
    "gemm": {"M": 100, "N": 130, "K": 150},
    "flash-attention-causal": {"P": 100, "M": 130, "E": 64, "F": 64},
    "flash-attention-gqa": None,
    "attention-unfused": None,  # scores and probabilities in memory
    "swiglu": None,
    "softmax": None,
    "rms-norm": None,
    "layer-norm": None,
}


@pytest.mark.parametrize("dtype", ["e4m3", "e5m2"])
@pytest.mark.parametrize("name", CASES)
def test_values_equal_the_oracle_and_counts_the_closed_form(name, dtype):
    workload, mapping, machine = case(name, CASES[name], dtype)
    verify(workload, mapping, machine)


def test_bytes_are_those_of_one_byte_an_element():
    workload, mapping, _ = case("gemm", {"M": 128, "N": 128, "K": 128}, "e4m3")
    _, counted = count(emit(workload, mapping), oracle_case(workload, 0)[0])
    assert counted.value("bytes", tensor="C", boundary="issued") == 128 * 128
    assert counted.value("bytes", tensor="A", boundary="issued") == 2 * 128 * 128


@pytest.mark.parametrize("dtype", ["e4m3", "e5m2"])
def test_infinity_does_not_go_into_8_bits_so_a_maximum_gets_its_identity_after_the_load(dtype):
    workload, mapping = softmax(dtype)
    (kernel,) = emit(workload, mapping)
    mask = "(t[:, None] < T) & (n[None, :] < N)"
    assert f"mask={mask}, other=0.0)" in kernel.source
    assert f'X = tl.where({mask}, X.to(tl.float32), float("-inf"))' in kernel.source
    (plain,) = emit(*softmax("bf16"))
    assert f'mask={mask}, other=float("-inf"))' in plain.source
    inputs, exact = oracle_case(workload, 0)
    low = {"X": np.full_like(inputs["X"], as_halves(dtype)[0x7E if dtype == "e4m3" else 0x7B] * -1)}  # the lowest
    outputs, _ = count((kernel,), low)
    assert relative_error(outputs["Y"], np.full_like(exact["Y"], 0.01)) <= TOLERANCE[dtype]


def test_infinite_intermediates_do_not_go_to_memory_in_8_bits():
    workload, mapping, _ = case("attention-unfused-causal")
    narrow = replace(workload, dtypes=workload.dtypes | {"QK": "e4m3"})
    emit(workload, mapping)
    with pytest.raises(InputError, match=r"which an 8-bit type cannot hold \(got e4m3\)"):
        emit(narrow, mapping)


def softmax(dtype):
    cascade, sizes = load_cascade("softmax"), {"T": 40, "N": 100}
    mapping = rows(cascade, MACHINE, sizes)
    return retyped(bound(mapping, cascade, sizes), mapping, dtype)


@pytest.mark.parametrize("dtype", ["e4m3", "e5m2"])
def test_a_hopper_gpu_multiplies_8_bit_factors_with_wgmma(dtype):
    workload, mapping, _ = case("gemm", {"M": 256, "N": 256, "K": 16384}, dtype)
    (kernel,) = emit(workload, mapping)
    result = profile(kernel)
    assert result.value("operations", place="main loop", detail="mac") == kernel.iteration_macs == 64**3
    assert result.value("instructions", place="main loop", detail="HGMMA") == 2  # 64x64x32 each
    assert result.notes == () and f"f32.{dtype}.{dtype}" in compiled(kernel).asm["ptx"]


def test_a_product_over_a_tile_loop_is_taken_over_into_fp32_once_an_iteration():
    workload, mapping, _ = case("gemm", {"M": 256, "N": 256, "K": 16384}, "e4m3")
    (kernel,) = emit(workload, mapping)
    assert "C = tl.dot(A, B, C, max_num_imprecise_acc=K_TILE)" in kernel.source
    (imprecise,) = mutant(kernel, ", max_num_imprecise_acc=K_TILE", "")
    adds = [profile(x).total("instructions", place="main loop", detail="FADD") for x in (kernel, imprecise)]
    assert adds == [64 * 64 / 128, 0]  # one for each result that a thread holds


@pytest.mark.parametrize("target", ["sm_80", "sm_100a", "gfx942"])
def test_8_bit_types_compile_for_other_targets(target):
    workload, mapping, _ = case("gemm", {"M": 256, "N": 256, "K": 4096}, "e5m2")
    assert profile(*emit(workload, mapping), target).value("registers") > 0


def test_a_short_sum_of_8_bit_products_and_a_type_without_a_format_are_refused():
    cascade, sizes = load_cascade("gemm"), {"M": 64, "N": 64, "K": 64}
    mapping = partial(gemm, block_k=16)(cascade, MACHINE, sizes)
    workload = bound(mapping, cascade, sizes)
    emit(workload, mapping)
    with pytest.raises(InputError, match=r"a matrix product of e4m3 adds up at least 32 coordinates \(got k: 16\)"):
        emit(*retyped(workload, mapping, "e4m3"))
    with pytest.raises(InputError, match=r"element types are .*e4m3, e5m2, int32 \(got fp8\)"):
        emit(*retyped(workload, mapping, "fp8"))


def test_narrow_elements_are_widened_before_arithmetic():
    workload, mapping, _ = case("rms-norm", None, "bf16")
    (kernel,) = emit(workload, mapping)
    assert "X.to(tl.float32) * X.to(tl.float32)" in kernel.source
    workload, mapping = build("attention-1pass", "e4m3", {"P": 64, "M": 64})
    assert ".to(tl.float32)" not in emit(workload, mapping)[0].source


def test_the_command_line_takes_an_element_type(capsys):
    sizes = ["--cascade", "gemm", "--mapping", "gpu-gemm-persistent-tma", "--size", "M=64,N=64,K=64"]
    assert main(["gpu", "emit", *sizes, "--dtype", "e4m3"]) == 0
    assert "Types in memory: A e4m3, B e4m3, C e4m3; fp32 in registers." in capsys.readouterr().out
    assert main(["gpu", "emit", *sizes, "--dtype", "e4m4"]) == 2
    assert "unknown type (got e4m4); did you mean e4m3?" in capsys.readouterr().err
    assert main(["gpu", "check", "softmax", "--dtype", "e5m2"]) == 0
    assert "allowed 2.5e-01" in capsys.readouterr().out
