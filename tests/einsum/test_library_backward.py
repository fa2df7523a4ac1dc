"""Backward cascades against derivatives of the forward cascades, and against the textbook's formulas, in float64.

The derivative is taken through the oracle's own run of the forward cascade, one input at a time: with a step i*h the
imaginary part of the result is h times the derivative, without the cancellation of a difference (complex step).
"""

from itertools import product

import numpy as np
import pytest

from einsum.bind import bind
from einsum.compose import joined
from einsum.library import load
from einsum.oracle import random_inputs, run, run_with_masks
from einsum.parse import parse
from einsum.problems import InputError
from einsum.show import show
from einsum.variants import BACKWARD, VARIANTS

STEP = 1e-100
BACKWARDS = ("backward-attention", "backward-attention-recompute")
HEADS, MASKS = BACKWARD[:2], BACKWARD[2:]
SIZES = {"B": 2, "H": 2, "G": 2, "R": 2, "P": 4, "M": 5, "E": 3, "F": 2, "M0": 2, "W": 2, "PS": 2, "MS": 2}
SHAPES = ({}, {"P": 6, "M": 3}, {"P": 2, "M": 4, "W": 9})


def bound(name, sizes):
    cascade = load(name)
    return bind(cascade, {size: sizes[size] for size in cascade.free_sizes})


def gradients(workload, inputs, output, upstream, wanted):
    """d(sum of output * upstream) by each element of the wanted inputs."""
    found = {}
    for name in wanted:
        found[name] = np.zeros(inputs[name].shape)
        for at in np.ndindex(*inputs[name].shape):
            shifted = {k: x.astype(complex) if x.dtype == float else x for k, x in inputs.items()}
            shifted[name][at] += 1j * STEP
            result = run_with_masks(workload, shifted, np.complex128)[output]
            found[name][at] = (np.where(result.exists, result.value, 0) * upstream).sum().imag / STEP
    return found


def attention(variants, sizes, seed):
    """(forward workload, its inputs, gradient of its result, what the backward cascade takes)."""
    forward = bound(f"attention-3pass{variants}-lse", sizes)
    inputs = random_inputs(forward, seed)
    if "LEN" in inputs:
        inputs["LEN"] = np.array([1, forward.sizes["M"]])
    if "MASK" in inputs:
        inputs["MASK"][..., 0] = True
    result = run(forward, inputs)
    upstream = np.random.default_rng(seed).standard_normal(result["AV"].shape)
    return forward, inputs, upstream, inputs | {"AV": result["AV"], "LSE": result["LSE"], "DAV": upstream}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "mask"), tuple(product(BACKWARDS, ("", *BACKWARD, "window-lengths", "gqa-causal"))))
def test_attention_is_the_derivative_of_the_forward_cascade(name, mask, shape):
    """Square, more queries than keys (those that see none have no gradient), and a wide window."""
    variants = f"-{mask}".removesuffix("-")
    forward, inputs, upstream, taken = attention(variants, SIZES | shape, seed=1)
    ours = run_with_masks(bound(name + variants, SIZES | shape), taken)
    exact = gradients(forward, inputs, "AV", upstream, ("Q", "K", "V"))
    for tensor, derivative in exact.items():
        assert np.abs(derivative).max() > 0.1
        np.testing.assert_allclose(ours[f"D{tensor}"].value, derivative, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", BACKWARDS)
def test_attention_is_the_textbooks(name):
    """With the whole Jacobian of the softmax, diag(a) - a a^T, row by row."""
    _, inputs, upstream, taken = attention("", SIZES, seed=2)
    ours, (q, k, v) = run(bound(name, SIZES), taken), (inputs[t] for t in "QKV")
    scores = np.exp(np.einsum("bhpe,bhme->bhpm", q, k))
    a = scores / scores.sum(-1, keepdims=True)
    jacobian = np.einsum("bhpm,mn->bhpmn", a, np.eye(a.shape[-1])) - np.einsum("bhpm,bhpn->bhpmn", a, a)
    by_scores = np.einsum("bhpmn,bhpf,bhnf->bhpm", jacobian, upstream, v)
    np.testing.assert_allclose(ours["DV"], np.einsum("bhpm,bhpf->bhmf", a, upstream), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ours["DQ"], np.einsum("bhpm,bhme->bhpe", by_scores, k), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ours["DK"], np.einsum("bhpm,bhpe->bhme", by_scores, q), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [f"{name}-{mask}" for name in BACKWARDS for mask in MASKS])
def test_masked_points_do_not_exist(name):
    """A key that no query sees, and a query that sees no key, has no gradient, and no NaN."""
    sizes = SIZES | {"P": 6, "M": 9}
    _, _, _, taken = attention(name.removeprefix("backward-attention").removeprefix("-recompute"), sizes, seed=3)
    workload = bound(name, sizes)
    result = run_with_masks(workload, taken)
    for gradient in workload.cascade.outputs:
        assert np.isfinite(result[gradient].value).all()
        assert not result[gradient].value[~result[gradient].exists].any()
    everywhere = all(result[gradient].exists.all() for gradient in workload.cascade.outputs)
    assert everywhere == name.endswith(("causal-end", "blocks"))


@pytest.mark.parametrize("variants", ["", "-causal-end", "-lengths", "-softcap", "-gqa-alibi-topk", "-mla-absorbed"])
@pytest.mark.parametrize("stem", ["naive", "3pass", "3pass-deferred", "2pass", "1pass", "flashdecode"])
def test_every_forward_cascade_keeps_the_logarithm_of_the_same_sum(stem, variants):
    more = {"R": 1, "N": 2, "C": 4, "KEEP": 2, "M2": 2}
    workload = bound(f"attention-{stem}{variants}-lse", SIZES | more)
    inputs = random_inputs(workload, seed=4)
    result = run_with_masks(workload, inputs)
    (scores,) = (name for name in ("QK", "BQK") if name in result)
    ranks = workload.cascade.tensor[scores].ranks
    keys = tuple(i for i, rank in enumerate(ranks) if rank in ("m", "m0", "m1", "m2"))
    exponentials = np.where(result[scores].exists, np.exp(result[scores].value), 0).sum(keys)
    exists = result[scores].exists.any(keys)
    np.testing.assert_array_equal(result["LSE"].exists.reshape(exists.shape), exists)
    ours = result["LSE"].value.reshape(exists.shape)[exists]
    np.testing.assert_allclose(ours, np.log(exponentials[exists]), rtol=1e-12, atol=1e-13)


def test_cross_entropy():
    sizes = {"T": 5, "V": 7}
    forward, workload = bound("cross-entropy", sizes), bound("backward-cross-entropy", sizes)
    inputs = random_inputs(forward, seed=5)
    kept = run(forward, inputs)["LSE"]
    np.testing.assert_allclose(kept, np.log(np.exp(inputs["L"]).sum(1)), rtol=1e-12)
    upstream = np.random.default_rng(5).standard_normal(5)
    ours = run(workload, inputs | {"LSE": kept, "DLOSS": upstream})["DL"]
    exact = gradients(forward, inputs, "LOSS", upstream, ("L",))["L"]
    np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-14)
    softmax = np.exp(inputs["L"]) / np.exp(inputs["L"]).sum(1, keepdims=True)
    np.testing.assert_allclose(ours, (softmax - np.eye(7)[inputs["LABEL"]]) * upstream[:, None], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("blocks", [1, 3])
def test_layer_norm(blocks):
    """The blocks of rows are those of the forward cascade's rows in order."""
    rows, d = 6, 5
    forward = bound("layer-norm-stats", {"T": rows, "D": d})
    workload = bound("backward-layer-norm", {"B": blocks, "T": rows // blocks, "D": d})
    inputs = random_inputs(forward, seed=6)
    upstream = np.random.default_rng(6).standard_normal((rows, d))
    in_blocks = lambda x: x.reshape(blocks, rows // blocks, d)
    kept = {name: run(forward, inputs)[name].reshape(blocks, rows // blocks) for name in ("MU", "R")}
    taken = {"X": in_blocks(inputs["X"]), "G": inputs["G"], "DY": in_blocks(upstream)} | kept
    ours = run(workload, taken)
    exact = gradients(forward, inputs, "Y", upstream, ("X", "G", "B"))
    for tensor, derivative in exact.items():
        np.testing.assert_allclose(ours[f"D{tensor}"].reshape(derivative.shape), derivative, rtol=1e-11, atol=1e-13)
    x, g = inputs["X"], inputs["G"]
    deviation = np.sqrt(x.var(1, keepdims=True) + 1e-5)
    plain = bound("layer-norm", {"T": rows, "D": d})
    np.testing.assert_array_equal(run(forward, inputs)["Y"], run(plain, inputs)["Y"])
    normal, by_normal = (x - x.mean(1, keepdims=True)) / deviation, upstream * g
    less = by_normal.mean(1, keepdims=True) + normal * (by_normal * normal).mean(1, keepdims=True)
    np.testing.assert_allclose(ours["DX"].reshape(rows, d), (by_normal - less) / deviation, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(ours["DG"], (upstream * normal).sum(0), rtol=1e-11)
    np.testing.assert_allclose(ours["DB"], upstream.sum(0), rtol=1e-12)


@pytest.mark.parametrize("name", [*BACKWARDS, "backward-cross-entropy"])
def test_large_logits_survive_in_float32(name):
    """Scores of some hundreds, whose exponentials float32 does not hold."""
    if name == "backward-cross-entropy":
        forward = bound("cross-entropy", {"T": 5, "V": 7})
        taken = {"L": np.round(random_inputs(forward, 7)["L"] * 8) * 125, "LABEL": np.arange(5)}
        taken |= {"LSE": run(forward, taken)["LSE"], "DLOSS": np.ones(5)}
        workload = bound(name, {"T": 5, "V": 7})
        assert np.abs(taken["L"]).max() > 1000
    else:
        _, inputs, upstream, _ = attention("", SIZES, seed=7)
        forward = bound("attention-3pass-lse", SIZES)
        grid = {t: np.round(inputs[t] * 8) * (2 if t != "V" else 1) for t in "QKV"}
        result = run(forward, grid)
        taken = grid | {"AV": result["AV"], "LSE": result["LSE"], "DAV": upstream}
        workload = bound(name, SIZES)
        assert np.abs(result["LSE"]).max() > 300
    exact, ours = run(workload, taken), run(workload, taken, np.float32)
    for output in workload.cascade.outputs:
        np.testing.assert_allclose(ours[output], exact[output], rtol=1e-3, atol=1e-3 * np.abs(exact[output]).max())


def test_forward_and_backward_join_by_name():
    """A step of training is one cascade, in which nothing but the gradients is an output."""
    parts = load("attention-1pass-causal-lse"), load("backward-attention-causal")
    step = parse(show(joined("step", parts)))
    assert step.inputs == ("Q", "K", "V", "DAV") and step.outputs == ("DV", "DK", "DQ")
    _, inputs, upstream, taken = attention("-causal", SIZES, seed=8)
    ours = run(bind(step, {size: SIZES[size] for size in step.free_sizes}), inputs | {"DAV": upstream})
    apart = run(bound("backward-attention-causal", SIZES), taken)
    for gradient in step.outputs:
        np.testing.assert_allclose(ours[gradient], apart[gradient], rtol=1e-12, atol=1e-14)


def test_other_variants_do_not_apply_to_the_backward_cascades():
    for name in (f"{backward}-{variant}" for backward in BACKWARDS for variant in VARIANTS if variant not in BACKWARD):
        with pytest.raises(InputError, match="no such cascade"):
            load(name)
    for name in ("backward-attention-gqa-causal-lengths", "backward-attention-recompute-mqa-window-blocks"):
        assert parse(show(load(name))) == load(name)
