"""Backward cascades against PyTorch's autograd in float64, at real head sizes; runs where PyTorch is installed."""

from __future__ import annotations

import numpy as np
import pytest

from einsum.bind import bind
from einsum.library import load
from einsum.oracle import random_inputs, run

torch = pytest.importorskip("torch")
CLOSE = {"rtol": 1e-10, "atol": 1e-11}


def leaves(inputs, names):
    """The inputs as tensors that collect gradients."""
    return [torch.tensor(inputs[name], dtype=torch.float64, requires_grad=True) for name in names]


@pytest.mark.parametrize("name", ["backward-attention", "backward-attention-recompute"])
@pytest.mark.parametrize("causal", [False, True])
def test_attention(name: str, causal: bool):
    suffix = "-causal" if causal else ""
    forward = bind(load(f"attention-3pass{suffix}-lse"), {"B": 2, "H": 3, "P": 40, "M": 40, "E": 64, "F": 64})
    inputs = random_inputs(forward, seed=3)
    inputs["Q"] = inputs["Q"] / 8  # the factor 1/sqrt(E) belongs to Q
    q, k, v = leaves(inputs, "QKV")
    result = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=1.0)
    upstream = np.random.default_rng(3).standard_normal(tuple(result.shape))
    result.backward(torch.tensor(upstream))
    kept = run(forward, inputs)
    np.testing.assert_allclose(kept["AV"], result.detach().numpy(), **CLOSE)
    cascade = load(f"{name}{suffix}")
    backward = bind(
        cascade, {s: n for s, n in (forward.sizes | {"PS": 16, "MS": 16}).items() if s in cascade.free_sizes}
    )
    ours = run(backward, inputs | {"AV": kept["AV"], "LSE": kept["LSE"], "DAV": upstream})
    for tensor, theirs in zip(("DQ", "DK", "DV"), (q, k, v), strict=True):
        np.testing.assert_allclose(ours[tensor], theirs.grad.numpy(), **CLOSE)


def test_cross_entropy():
    sizes = {"T": 64, "V": 300}
    forward, backward = (bind(load(name), sizes) for name in ("cross-entropy", "backward-cross-entropy"))
    inputs = random_inputs(forward, seed=5)
    (logits,) = leaves(inputs, "L")
    upstream = np.random.default_rng(5).standard_normal(64)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(inputs["LABEL"]).long(), reduction="none")
    loss.backward(torch.tensor(upstream))
    kept = run(forward, inputs)
    np.testing.assert_allclose(kept["LOSS"], loss.detach().numpy(), **CLOSE)
    ours = run(backward, inputs | {"LSE": kept["LSE"], "DLOSS": upstream})
    np.testing.assert_allclose(ours["DL"], logits.grad.numpy(), **CLOSE)


def test_layer_norm():
    blocks, rows, d = 4, 16, 128
    forward = bind(load("layer-norm-stats"), {"T": blocks * rows, "D": d})
    backward = bind(load("backward-layer-norm"), {"B": blocks, "T": rows, "D": d})
    inputs = random_inputs(forward, seed=6)
    x, gain, bias = leaves(inputs, "XGB")
    upstream = np.random.default_rng(6).standard_normal((blocks * rows, d))
    torch.nn.functional.layer_norm(x, (d,), gain, bias, eps=1e-5).backward(torch.tensor(upstream))
    kept = run(forward, inputs)
    apart = lambda a: a.reshape(blocks, rows, *a.shape[1:])
    taken = {"X": apart(inputs["X"]), "G": inputs["G"], "DY": apart(upstream)}
    ours = run(backward, taken | {name: apart(kept[name]) for name in ("MU", "R")})
    for tensor, theirs in (("DX", x), ("DG", gain), ("DB", bias)):
        np.testing.assert_allclose(ours[tensor].reshape(theirs.shape), theirs.grad.numpy(), **CLOSE)
