"""The interpreter's repairs, file handling, and the two modes side by side in one process."""

import numpy as np
import pytest
import triton
from hypothesis import given, strategies as st

from gpu_backend import interpret, source
from gpu_backend.kernel import Argument, Kernel

SOURCE = '''"""Element-wise arithmetic in bf16."""

import triton
import triton.language as tl


@triton.jit
def arithmetic(X_ptr, Y_ptr, Z_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    X = tl.load(X_ptr + n)
    Y = tl.load(Y_ptr + n)
    tl.store(Z_ptr + n, {expression})
'''
LANES = 16


def kernel(expression: str) -> Kernel:
    tensors = tuple(Argument(n, "bf16", (LANES,), n == "Z") for n in "XYZ")
    return Kernel("arithmetic", SOURCE.replace("{expression}", expression), tensors, (("N", LANES),), (1,), ())


def nearest_bf16(x: float) -> float:
    """Round to nearest even among bf16's neighbours, found by search."""
    bits = int(np.float32(x).view(np.uint32)) >> 16
    near = [interpret.widen(np.array([b & 0xFFFF], np.uint16))[0] for b in (bits - 1, bits, bits + 1, bits + 2)]
    even = [(abs(float(v) - float(np.float32(x))), i & 1 ^ (bits - 1) & 1, float(v)) for i, v in enumerate(near)]
    return min(e for e in even if np.isfinite(e[2]))[2]


@given(st.floats(width=32, min_value=2**-100, max_value=2**100))
def test_narrow_rounds_to_nearest_even(x):
    assert interpret.widen(interpret.narrow(np.array([x])))[0] == nearest_bf16(x)


def test_narrow_keeps_infinities_and_nan():
    special = interpret.widen(interpret.narrow(np.array([np.inf, -np.inf, np.nan, 0.0, -0.0])))
    assert special[0] == np.inf and special[1] == -np.inf and np.isnan(special[2]) and not special[3:].any()


@pytest.mark.parametrize(
    ("expression", "function"),
    [
        ("X + Y", np.add),
        ("X - Y", np.subtract),
        ("X * Y", np.multiply),
        ("X / Y", np.divide),
        ("tl.maximum(X, Y)", np.maximum),
        ("tl.where(X < Y, X, Y)", np.minimum),
        ("-X", lambda x, y: -x),
    ],
)
def test_bf16_arithmetic_is_fp32_rounded_once(expression, function):
    rng = np.random.default_rng(0)
    x, y = (interpret.widen(interpret.narrow(rng.standard_normal(LANES))) for _ in range(2))
    found = interpret.run((kernel(expression),), {"X": x, "Y": y})["Z"]
    assert np.array_equal(found, interpret.widen(interpret.narrow(function(x, y))))


@pytest.mark.parametrize(("reduction", "function"), [("tl.max", np.max), ("tl.sum", np.sum)])
def test_a_reduction_over_bf16_is_in_fp32(reduction, function):
    x = interpret.widen(interpret.narrow(np.random.default_rng(1).standard_normal(LANES)))
    found = interpret.run((kernel(f"tl.broadcast_to({reduction}(X, 0), [N])"),), {"X": x, "Y": x})["Z"]
    assert np.array_equal(found, np.full(LANES, interpret.widen(interpret.narrow(function(x)))))


def test_a_product_of_bf16_blocks_is_exact_in_fp32():
    x = interpret.widen(interpret.narrow(np.random.default_rng(2).standard_normal(LANES)))
    y = interpret.widen(interpret.narrow(np.random.default_rng(3).standard_normal(LANES)))
    outer = "tl.sum(tl.dot(X[:, None] + tl.zeros([N, N], tl.bfloat16), Y[None, :] + tl.zeros([N, N], tl.bfloat16)), 1)"
    found = interpret.run((kernel(outer),), {"X": x, "Y": y})["Z"]
    exact = LANES * x.astype(np.float64) * y.astype(np.float64).sum()
    assert np.allclose(found, exact, rtol=2**-8, atol=1e-5)


def test_triton_is_as_it_was_after_a_launch():
    def state():
        from triton.runtime import interpreter
        from triton.runtime.jit import JITFunction

        language, builder = triton.language, type(interpreter.interpreter_builder)
        return JITFunction.__call__, interpreter.ReduceOps, builder, language.max, language.load

    before = state()
    interpret.run((kernel("X + Y"),), {"X": np.ones(LANES), "Y": np.ones(LANES)})
    with pytest.raises(Exception, match="no_such"):
        interpret.run((kernel("tl.no_such(X)"),), {"X": np.ones(LANES), "Y": np.ones(LANES)})
    assert state() == before


def test_a_kernel_is_loaded_from_the_file_that_its_counts_are_looked_up_by(tmp_path):
    made = kernel("X + Y")
    for folder in (tmp_path / "one", tmp_path / "other"):
        file = source.path(made, folder)
        assert source.load(made, folder).fn.__code__.co_filename == str(file)
