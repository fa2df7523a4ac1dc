"""Every attention of the library with every variant against loops over rows in float64; SEMANTICS 1.10."""

from itertools import product

import numpy as np
import pytest

from einsum.bind import bind
from einsum.library import library, load
from einsum.oracle import random_inputs, run_with_masks
from einsum.parse import parse
from einsum.problems import InputError
from einsum.show import show
from einsum.variants import VARIANTS, split

STEMS = tuple(name.removesuffix("-lse") for name in library() if name.endswith("-lse"))
COMBINED = (
    "gqa-paged-lengths", "gqa-causal-end-softcap", "mqa-window-alibi", "gqa-window-lengths-blocks-softcap-alibi-topk",
    "gqa-causal-bias", "mqa-causal-end-lengths-relative", "mla-causal-end", "mla-paged-lengths-topk",
    "mla-absorbed-paged-lengths", "mla-absorbed-causal-end-blocks",
)  # fmt: skip
SMALL = {"B": 2, "H": 4, "G": 2, "P": 5, "M": 10, "E": 4, "F": 3, "M0": 4, "M2": 2, "N": 3, "NP": 6, "C": 5, "S": 4,
         "J": 3, "L": 8, "W": 3, "PS": 2, "MS": 3, "KEEP": 3}  # fmt: skip
SHAPES = ({}, {"P": 11, "M": 6, "M0": 5, "S": 3, "J": 2}, {"P": 1, "M": 9, "M0": 1, "M2": 3, "KEEP": 20, "W": 40})


def workload_of(cascade, shape=None):
    sizes = SMALL | {"R": 2} | (shape or {})
    return bind(cascade, {name: sizes[name] for name in cascade.free_sizes})


def inputs_of(workload, seed):
    """On a coarse grid, so that sums are exact and equal scores are equal in every order; lengths with a 0."""
    inputs = random_inputs(workload, seed)
    found = {name: np.round(x * 2) / 2 if x.dtype == float else x for name, x in inputs.items()}
    if "LEN" in found:
        found["LEN"] = np.array([0, workload.sizes["M"] - 2])
    if "MASK" in found:
        found["MASK"] = found["MASK"] & (np.arange(len(found["MASK"])) != 1)[:, None]
    if "CAP" in found:
        found["CAP"] = np.array(1.5)
    return found


def expected(variants, sizes, inputs):
    """(values, existence) of AV with all query heads in one axis: (b, h, p, f)."""
    x = {name: keys(name.removesuffix("P"), value, sizes, inputs) for name, value in inputs.items()}
    q, k, v = x.get("Q"), x.get("K", x.get("KP")), x.get("V", x.get("VP"))
    if "mla" in variants:
        latent, rotary = x.get("L", x.get("LP")), x.get("KR", x.get("KRP"))
        q = np.concatenate([x["QN"], x["QR"]], -1)
        content = np.stack([latent @ w for w in x["WUK"]], 1)
        k = np.concatenate([content, np.broadcast_to(rotary[:, None], (*content.shape[:3], rotary.shape[-1]))], -1)
        v = np.stack([latent @ w for w in x["WUV"]], 1)
    elif "mla-absorbed" in variants:
        c = sizes["C"]
        q = np.concatenate([x["QN"], x["QR"]], -1)
        content = np.stack([k[..., :c] @ w for w in x["WUK"]], 1)
        k, v = (
            np.concatenate([content, np.stack([k[..., c:]] * sizes["H"], 1)], -1),
            np.stack([k[..., :c] @ w for w in x["WUV"]], 1),
        )
    elif "gqa" in variants:
        q = q.reshape(len(q), -1, *q.shape[3:])
        k, v = (np.repeat(t, sizes["R"], axis=1) for t in (k, v))
    elif "mqa" in variants:
        k, v = (np.repeat(t[:, None], sizes["H"], axis=1) for t in (k, v))
    values = np.zeros((*q.shape[:3], v.shape[-1]))
    exists = np.zeros(values.shape, bool)
    for b, h, p in np.ndindex(*q.shape[:3]):
        seen = [m for m in range(sizes["M"]) if sees(variants, sizes, inputs, b, p, m)]
        scores = {m: score(variants, sizes, inputs, q[b, h, p] @ k[b, h, m], (b, h, p, m)) for m in seen}
        if "topk" in variants:
            seen = sorted(seen, key=lambda m: (-scores[m], m))[: sizes["KEEP"]]
        if seen:
            weights = np.exp(np.array([scores[m] for m in seen]) - max(scores[m] for m in seen))
            values[b, h, p] = sum(w * v[b, h, m] for w, m in zip(weights / weights.sum(), seen, strict=True))
            exists[b, h, p] = True
    return values, exists


def keys(name, value, sizes, inputs):
    """What is kept for each key, out of its pages if there are any; keys beyond the table are never seen."""
    if name not in ("K", "V", "L", "KR") or "PT" not in inputs:
        return value
    of_request = [[value[inputs["PT"][b, m // sizes["S"]]] for m in range(sizes["M"])] for b in range(sizes["B"])]
    at = [[page[..., m % sizes["S"], :] for m, page in enumerate(row)] for row in of_request]
    return np.moveaxis(np.array(at), 1, -2)


def sees(variants, sizes, inputs, b, p, m):
    return all((
        "causal" not in variants or m <= p,
        "causal-end" not in variants or m <= p + sizes["M"] - sizes["P"],
        "window" not in variants or p - sizes["W"] < m <= p,
        "lengths" not in variants or m < inputs["LEN"][b],
        "blocks" not in variants or inputs["MASK"][p // sizes["PS"], m // sizes["MS"]],
    ))  # fmt: skip


def score(variants, sizes, inputs, value, at):
    b, head, p, m = at
    if "softcap" in variants:
        value = inputs["CAP"] * np.tanh(value / inputs["CAP"])
    if "alibi" in variants:
        value = value - inputs["SLOPE"].flat[head] * (p - m)
    if "bias" in variants:
        value = value + inputs["BIAS"].reshape(-1, *inputs["BIAS"].shape[-2:])[head, p, m]
    distance = p + sizes["M"] - sizes["P"] - m
    if "relative" in variants and 0 <= distance < sizes["L"]:
        query = inputs["QV"].reshape(sizes["B"], -1, *inputs["QV"].shape[-2:])[b, head, p]
        value = value + query @ inputs["KD"].reshape(-1, *inputs["KD"].shape[-2:])[head, distance]
    return value


@pytest.mark.parametrize(("stem", "variants"), tuple(product(STEMS, ("", *VARIANTS, *COMBINED))))
def test_equals_attention_row_by_row(stem, variants):
    """Prefill with a ragged tile, more queries than keys, and decode."""
    name = f"{stem}-{variants}".removesuffix("-")
    found = split(name, STEMS)
    assert found and found[0] == stem
    for shape in SHAPES:
        workload = workload_of(load(name), shape)
        inputs = inputs_of(workload, seed=1)
        values, exists = expected(found[1], workload.sizes, inputs)
        result = run_with_masks(workload, inputs)["AV"]
        np.testing.assert_array_equal(result.exists.reshape(exists.shape), exists)
        np.testing.assert_allclose(result.value.reshape(values.shape), values, rtol=1e-11, atol=1e-11)
        assert exists.any()
        longer = shape.get("P") == 11
        masked = {"lengths": True, "blocks": shape.get("P") != 1, "causal-end": longer, "window": longer}
        assert exists.all() != any(masked.get(v, False) for v in found[1])


@pytest.mark.parametrize("name", COMBINED)
def test_combined_variants_round_trip(name):
    cascade = load(f"attention-2pass-{name}")
    assert parse(show(cascade)) == cascade
    assert parse(show(cascade)).doc == cascade.doc
    assert len(cascade.doc.splitlines()) > name.count("-") - 1


def test_the_two_ways_to_compute_latent_attention_agree():
    """Expanded keys and values, or queries taken into the latent space: the same function of the same cache."""
    naive, absorbed = (workload_of(load(f"attention-1pass-{name}")) for name in ("mla", "mla-absorbed"))
    inputs = random_inputs(naive, seed=2)
    cache = np.concatenate([inputs.pop("L"), inputs.pop("KR")], -1)
    one = run_with_masks(naive, random_inputs(naive, seed=2))["AV"].value
    other = run_with_masks(absorbed, inputs | {"K": cache})["AV"].value
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_cross_attention_is_the_plain_cascade():
    """P queries of one sequence and M keys of another: nothing ties the two."""
    workload = workload_of(load("attention-3pass"), {"P": 3, "M": 7})
    inputs = inputs_of(workload, seed=3)
    values, _ = expected((), workload.sizes, inputs)
    np.testing.assert_allclose(run_with_masks(workload, inputs)["AV"].value, values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [
    "attention-1pass-causal-gqa", "attention-1pass-gqa-mqa", "attention-1pass-causal-window", "gemm-causal",
    "attention-1pass-causal-causal", "attention-1pass-", "attention-1pass-mla-gqa",
])  # fmt: skip
def test_names_out_of_order_or_exclusive_are_refused(name):
    with pytest.raises(InputError, match="no such cascade"):
        load(name)


def test_names_split_at_the_longest_variant():
    assert split("attention-3pass-deferred-mla-absorbed-causal-end", STEMS) == (
        "attention-3pass-deferred", ("mla-absorbed", "causal-end"),
    )  # fmt: skip
    assert split("attention-3pass-mla-causal", STEMS) == ("attention-3pass", ("mla", "causal"))
    assert split("attention-4pass", STEMS) is None


def test_query_head_h_reads_key_head_h_over_r():
    """The heads are the ranks g and r, h = g*R + r: a query head of group 1 does not see the keys of group 0."""
    workload = workload_of(load("attention-3pass-gqa"))
    inputs = inputs_of(workload, seed=4)
    before = run_with_masks(workload, inputs)["AV"].value
    inputs["K"] = inputs["K"] + (np.arange(2) == 0)[None, :, None, None] * inputs["K"][:, ::-1]
    after = run_with_masks(workload, inputs)["AV"].value
    assert not np.allclose(before[:, 0], after[:, 0]) and np.array_equal(before[:, 1], after[:, 1])
