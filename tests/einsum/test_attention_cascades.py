"""Every attention cascade of the library equals softmax(QK^T)V; SEMANTICS 1.3 to 1.5."""

import re
from dataclasses import replace

import numpy as np
import pytest

from einsum.bind import bind
from einsum.cascade import Cascade, Workload
from einsum.library import library, load
from einsum.oracle import random_inputs, run, run_with_masks
from einsum.parse import parse
from einsum.show import show, show_expr

STEMS = [n.removesuffix("-causal") for n in library() if n.endswith("-causal") and not n.startswith("backward")]
NAMES = [stem + suffix for stem in STEMS for suffix in ("", "-causal")]
STABLE = [name for name in NAMES if "naive" not in name]
SIZES = {"B": 2, "H": 2, "P": 7, "M": 10, "E": 4, "F": 3, "M0": 4, "M2": 2}  # ragged: 4 does not divide 10


def softmax_attention(q, k, v, allowed=None):
    """Independent reference in float64: (b,h,p,f); rows without any allowed key are 0."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    logits = np.matmul(q, k.swapaxes(-1, -2))
    allowed = np.broadcast_to(np.ones((), bool) if allowed is None else allowed, logits.shape)
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for b, h, p in np.ndindex(*q.shape[:-1]):
        keys = np.flatnonzero(allowed[b, h, p])
        if keys.size:
            row = logits[b, h, p, keys]
            weights = np.exp(row - row.max())
            out[b, h, p] = weights @ v[b, h, keys] / weights.sum()
    return out


def bound(cascade: Cascade, **sizes: int) -> Workload:
    given = SIZES | sizes
    return bind(cascade, {name: given[name] for name in cascade.free_sizes})


def with_guard(name: str, guard: str, declare: str = "") -> Cascade:
    """The library cascade with a guard on its scores; KEY stands for the key's coordinate."""
    cascade = load(name)
    key = show_expr(cascade["BK"].expr.indices[2], "") if "BK" in cascade else "m"
    lines = show(replace(cascade, doc="")).splitlines()
    for i, line in enumerate(lines):
        if re.match(r"B?QK\d*\[", line):  # scores, computed again by some
            left, right = line.split(" = ")
            lines[i] = f"{left} | {guard.replace('KEY', key)} = {right}"
    return parse("\n".join([lines[0], declare, *lines[1:]]))


def check(workload: Workload, inputs, allowed=None, tolerance=1e-12, dtype=np.float64):
    ours = run(workload, inputs, dtype)["AV"]
    reference = softmax_attention(inputs["Q"], inputs["K"], inputs["V"], allowed)
    assert ours.dtype == dtype
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sizes", [{}, {"M": 12}, {"M": 3}, {"P": 1, "M": 1}, {"M0": 1}, {"P": 12, "M": 9, "E": 1}])
@pytest.mark.parametrize("name", NAMES)
def test_equals_softmax_attention(name, sizes):
    workload = bound(load(name), **sizes)
    p, m = np.arange(workload.extent("p"))[:, None], np.arange(workload.sizes["M"])
    check(workload, random_inputs(workload, seed=1), m <= p if "causal" in name else None)


@pytest.mark.parametrize("name", [n for n in NAMES if "causal" not in n])
def test_rows_without_any_key_are_zero(name):
    """Causal aligned at the end with more queries than keys: the first P - M queries see nothing."""
    workload = bound(with_guard(name, "KEY + P <= p + M"), P=11, M=6)
    p, m = np.arange(11)[:, None], np.arange(6)
    allowed = m + 11 <= p + 6
    assert not allowed[:5].any() and allowed[5:].any(axis=1).all()
    inputs = random_inputs(workload, seed=2)
    check(workload, inputs, allowed)
    exists = run_with_masks(workload, inputs)["AV"].exists
    np.testing.assert_array_equal(exists, np.broadcast_to(allowed.any(axis=1)[:, None], exists.shape))


@pytest.mark.parametrize("name", [n for n in NAMES if "causal" not in n])
def test_first_tiles_masked_and_later_ones_not(name):
    """A window that has left the first tiles behind, and one row in the middle with all tiles masked."""
    mask = np.zeros((2, 7, 10), bool)
    mask[:, 2:, 5:9] = True
    mask[0, 4] = False
    mask[1, 5] = np.arange(10) == 9
    workload = bound(with_guard(name, "MASK[b,p,KEY]", "tensor MASK[b,p,m]: bool"))
    check(workload, random_inputs(workload, seed=3) | {"MASK": mask}, mask[:, None])


@pytest.mark.parametrize("name", [n for n in NAMES if "causal" not in n])
def test_lengths_and_sliding_window(name):
    lengths = np.array([0, 7])
    cascade = with_guard(name, "KEY < LEN[b] and KEY > p - W", "tensor LEN[b]: int32")
    workload = bound(cascade, W=3)
    p, m = np.arange(7)[:, None], np.arange(10)
    allowed = (m < lengths[:, None, None]) & (m > p - 3)
    check(workload, random_inputs(workload, seed=4) | {"LEN": lengths}, allowed[:, None])


@pytest.mark.parametrize("name", [n for n in NAMES if "1pass" in n or n == "attention-3pass"])
def test_paged_keys(name):
    """K and V gathered through a page table equal attention over the pages put together."""
    text = show(load(name))
    lines = [line for line in text.splitlines() if not line.startswith(("tensor K", "tensor V"))]
    lines.insert(3, "tensor KP[n,h,s,e]: bf16\ntensor VP[n,h,s,f]: bf16\ntensor PT[b,j]: int32")
    first = next(i for i, line in enumerate(lines) if line.startswith(("BK", "QK")))
    gathered = ["K[b,h,m,e] = KP[PT[b,m//S],h,m%S,e]", "V[b,h,m,f] = VP[PT[b,m//S],h,m%S,f]"]
    cascade = parse("\n".join(lines[:first] + gathered + lines[first:]))
    workload = bound(cascade, N=9, S=4, J=3)
    inputs = random_inputs(workload, seed=5)
    pages = inputs["PT"]
    k, v = (inputs[pool][pages].swapaxes(1, 2).reshape(2, 2, 12, -1)[:, :, :10] for pool in ("KP", "VP"))
    p, m = np.arange(7)[:, None], np.arange(10)
    ours = run(workload, inputs)["AV"]
    reference = softmax_attention(inputs["Q"], k, v, m <= p if "causal" in name else None)
    np.testing.assert_allclose(ours, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", STABLE)
def test_stable_cascades_survive_large_logits_in_float32(name):
    workload = bound(load(name), M=37, M0=8)
    inputs = _large(workload)
    p, m = np.arange(7)[:, None], np.arange(37)
    check(workload, inputs, m <= p if "causal" in name else None, tolerance=2e-6, dtype=np.float32)


@pytest.mark.parametrize("name", [n for n in NAMES if "naive" in n])
def test_naive_overflows_at_large_logits(name):
    workload = bound(load(name), M=37)
    assert not np.isfinite(run(workload, _large(workload), np.float32)["AV"]).all()


def _large(workload: Workload) -> dict[str, np.ndarray]:
    """Logits around 1000 times larger than usual, on a coarse grid so that QK is exact in float32."""
    inputs = {name: np.round(x * 8) / 8 for name, x in random_inputs(workload, seed=6).items()}
    inputs["Q"] = inputs["Q"] * 1000
    logits = np.matmul(inputs["Q"], inputs["K"].swapaxes(-1, -2))
    assert np.abs(logits).max() > 1000 and (logits == logits.astype(np.float32)).all()
    return inputs


def test_oracle_refuses_wrong_inputs():
    workload = bound(load("attention-3pass"))
    inputs = random_inputs(workload, seed=7)
    bad = {"Q": inputs["Q"], "Kk": inputs["K"], "V": inputs["V"][:1]}
    with pytest.raises(ValueError, match="missing tensor K") as caught:
        run(workload, bad)
    assert str(caught.value) == (
        "inputs of attention-3pass: unknown tensor (got Kk); did you mean K?\n"
        "inputs of attention-3pass: missing tensor K\n"
        "inputs of attention-3pass: V must have shape (2, 2, 10, 3) (got (1, 2, 10, 3))"
    )


def test_an_initial_value_that_is_no_identity_exists():
    """SEMANTICS 1.5: only the identity of the update is the empty state."""
    text = "tensor X[i,p]\nS[i+1,p] | p > 0 = S[i,p] {op} X[i,p] init {init}"
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    results = {}
    for op, init in (("+", "0"), ("+", "10"), ("*", "1"), ("*", "0")):
        workload = bind(parse(text.format(op=op, init=init)), {"I": 2, "P": 2})
        results[op, init] = run_with_masks(workload, {"X": x})["S"]
    for (op, init), points in results.items():
        assert points.exists[0].all() == ((op, init) != ("+", "0"))
        assert not points.exists[1:, 0].any() and points.exists[1:, 1].all()
    last = {key: points.value[:, 1].tolist() for key, points in results.items()}
    assert last == {("+", "0"): [0, 2, 6], ("+", "10"): [10, 12, 16], ("*", "1"): [1, 2, 8], ("*", "0"): [0, 0, 0]}


def test_replacing_a_guard_changes_the_answer():
    """The causal comparison above can fail: the same cascade without its guard disagrees."""
    causal = load("attention-1pass-causal")
    plain = replace(causal, einsums=tuple(replace(e, guards=()) for e in causal.einsums))
    inputs = random_inputs(bound(causal), seed=8)
    assert not np.allclose(run(bound(causal), inputs)["AV"], run(bound(plain), inputs)["AV"])
