"""The cascades of the library that are not softmax attention, against plain loops in float64."""

import numpy as np
import pytest

from einsum.bind import bind
from einsum.library import load
from einsum.oracle import random_inputs, run, run_with_masks
from einsum.parse import parse
from einsum.show import show

LINEAR = {"B": 2, "H": 2, "M": 10, "E": 3, "F": 4, "M0": 4}


def bound(cascade, **sizes):
    return bind(cascade, {name: sizes[name] for name in cascade.free_sizes})


def linear_attention(q, k, v, allowed):
    """(values, existence): every query by itself, against all keys up to it, weights phi(q) phi(k)."""
    phi = lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    values, exists = np.zeros(v.shape), np.zeros(v.shape, bool)
    for b, h, p in np.ndindex(*v.shape[:3]):
        weights = {m: phi(q[b, h, p]) @ phi(k[b, h, m]) for m in range(p + 1) if allowed[b, m]}
        if weights:
            values[b, h, p] = sum(w * v[b, h, m] for m, w in weights.items()) / sum(weights.values())
            exists[b, h, p] = True
    return values, exists


@pytest.mark.parametrize("sizes", [{}, {"M": 12}, {"M": 3}, {"M0": 1}, {"M": 1, "E": 1}], ids=str)
@pytest.mark.parametrize("name", ["linear-attention", "linear-attention-chunked"])
def test_linear_attention(name, sizes):
    workload = bound(load(name), **(LINEAR | sizes))
    inputs = random_inputs(workload, seed=1)
    allowed = np.ones((2, workload.sizes["M"]), bool)
    values, exists = linear_attention(inputs["Q"], inputs["K"], inputs["V"], allowed)
    result = run_with_masks(workload, inputs)["AV"]
    assert exists.all() and result.exists.all()
    np.testing.assert_allclose(result.value, values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["linear-attention", "linear-attention-chunked"])
def test_linear_attention_of_rows_without_keys(name):
    """Keys may be hidden: a query before the first visible key has no value, in any chunk."""
    text = show(load(name)).replace("PK[b,h,m,e] =", "PK[b,h,m,e] | MASK[b,m] =")
    cascade = parse(text.replace("tensor Q", "tensor MASK[b,m]: bool\ntensor Q"))
    workload = bound(cascade, **LINEAR)
    allowed = np.ones((2, 10), bool)
    allowed[0, :6] = allowed[1] = False
    inputs = random_inputs(workload, seed=2) | {"MASK": allowed}
    values, exists = linear_attention(inputs["Q"], inputs["K"], inputs["V"], allowed)
    result = run_with_masks(workload, inputs)["AV"]
    assert not exists[0, :, :6].any() and exists[0, :, 6:].all() and not exists[1].any()
    np.testing.assert_array_equal(result.exists, exists)
    np.testing.assert_allclose(result.value, values, rtol=1e-12, atol=1e-12)


def test_gemm():
    workload = bound(load("gemm"), M=3, N=4, K=5)
    x = random_inputs(workload, seed=3)
    expected = [[sum(x["A"][m, k] * x["B"][k, n] for k in range(5)) for n in range(4)] for m in range(3)]
    np.testing.assert_allclose(run(workload, x)["C"], expected, rtol=1e-12)


def test_grouped_gemm():
    """One expert without a token, one with all that T allows, in any order of their tokens in X."""
    workload = bound(load("grouped-gemm"), E=4, T=5, S=9, D=3, F=2)
    x = random_inputs(workload, seed=4) | {"COUNT": np.array([2, 0, 5, 1]), "START": np.array([7, 0, 2, 0])}
    result = run_with_masks(workload, x)["Y"]
    for e in range(4):
        count, start = x["COUNT"][e], x["START"][e]
        assert result.exists[e, :count].all() and not result.exists[e, count:].any()
        for t in range(count):
            np.testing.assert_allclose(result.value[e, t], x["X"][start + t] @ x["W"][e], rtol=1e-12)
    assert (result.value[~result.exists] == 0).all()


def rows(name, seed, **sizes):
    workload = bound(load(name), **sizes)
    inputs = random_inputs(workload, seed)
    return inputs, run(workload, inputs)


def test_softmax():
    x, result = rows("softmax", 5, T=4, N=6)
    for row, ours in zip(x["X"], result["Y"], strict=True):
        np.testing.assert_allclose(ours, [1 / sum(np.exp(other - one) for other in row) for one in row], rtol=1e-12)


def test_softmax_of_rows_without_points():
    """A masked row has no value, and no NaN."""
    text = show(load("softmax")).replace("GM[t] =", "XM[t,n] | n < LEN[t] = X[t,n]\nGM[t] =")
    text = (
        text.replace("= max[n] X", "= max[n] XM")
        .replace("exp(X", "exp(XM")
        .replace("tensor X", "tensor LEN[t]: int32\ntensor X")
    )
    workload = bound(parse(text), T=3, N=4)
    x = random_inputs(workload, seed=6) | {"LEN": np.array([0, 2, 4])}
    result = run_with_masks(workload, x)["Y"]
    np.testing.assert_array_equal(result.exists, np.arange(4) < x["LEN"][:, None])
    np.testing.assert_allclose(result.value.sum(axis=1), [0, 1, 1], rtol=1e-12)


def test_normalisations():
    x, result = rows("layer-norm", 7, T=4, D=6)
    for row, ours in zip(x["X"], result["Y"], strict=True):
        mean = sum(row) / 6
        variance = sum((value - mean) ** 2 for value in row) / 6
        np.testing.assert_allclose(ours, (row - mean) / np.sqrt(variance + 1e-5) * x["G"] + x["B"], rtol=1e-12)
    x, result = rows("rms-norm", 8, T=4, D=6)
    for row, ours in zip(x["X"], result["Y"], strict=True):
        np.testing.assert_allclose(ours, row / np.sqrt(sum(row**2) / 6 + 1e-6) * x["G"], rtol=1e-12)


def test_feed_forward_blocks():
    from math import erf

    x, result = rows("mlp", 9, T=3, D=4, I=5)
    inner = x["X"] @ x["W1"]
    gelu = np.vectorize(lambda u: u * (1 + erf(u / 2**0.5)) / 2)(inner)
    np.testing.assert_allclose(result["Y"], gelu @ x["W2"], rtol=1e-12)
    x, result = rows("swiglu", 10, T=3, D=4, I=5)
    inner = x["X"] @ x["W1"]
    gated = inner / (1 + np.exp(-inner)) * (x["X"] @ x["W3"])
    np.testing.assert_allclose(result["Y"], gated @ x["W2"], rtol=1e-12)


def test_cross_entropy():
    x, result = rows("cross-entropy", 11, T=5, V=7)
    for row, label, ours in zip(x["L"], x["LABEL"], result["LOSS"], strict=True):
        np.testing.assert_allclose(ours, -np.log(np.exp(row[label]) / sum(np.exp(row))), rtol=1e-12)


def test_cross_entropy_survives_large_logits_in_float32():
    workload = bound(load("cross-entropy"), T=5, V=7)
    x = {name: np.round(value * 8) * 125 for name, value in random_inputs(workload, seed=12).items()}
    x["LABEL"] = np.arange(5)
    ours = run(workload, x, np.float32)["LOSS"]
    reference = [np.logaddexp.reduce(row) - row[label] for row, label in zip(x["L"], x["LABEL"], strict=True)]
    assert np.abs(x["L"]).max() > 1000
    np.testing.assert_allclose(ours, reference, rtol=1e-6, atol=1e-6)
