"""Mixtures of experts of the library, against loops over tokens and experts in float64."""

from itertools import product
from math import erf

import numpy as np
import pytest

from einsum.analysis import analyse
from einsum.bind import bind
from einsum.compose import joined
from einsum.library import library, load
from einsum.occupancy import Routing, capacity
from einsum.oracle import random_inputs, run, run_with_masks
from einsum.parse import parse
from einsum.problems import InputError
from einsum.show import show

SIZES = {"T": 7, "E": 6, "K": 2, "D": 4, "I": 5, "V": 3, "J": 3, "KJ": 2, "P": 2, "CAP": 2, "C": 7, "N": 3}
KT = np.array([1, 3, 2, 6, 1, 2, 4])
SCALE = np.array(2.5)


def case(name, seed, **sizes):
    workload = bind(load(name), {n: {**SIZES, **sizes}[n] for n in load(name).free_sizes})
    inputs = random_inputs(workload, seed)
    return workload, inputs | {n: v for n, v in {"KT": KT, "SCALE": SCALE}.items() if n in inputs}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def best(values, count):
    """Indices of the largest, in descending order."""
    return sorted(range(len(values)), key=lambda i: -values[i])[:count]


def chosen_weights(gate, variants, logits, bias, count):
    """expert -> weight of one token."""
    scores = {"softmax-topk": np.exp(logits) / np.exp(logits).sum(), "sigmoid-topk": sigmoid(logits)}.get(gate, logits)
    ranked = scores + bias if gate == "sigmoid-topk" else scores
    allowed = range(len(logits))
    if "groups" in variants:
        size = len(logits) // SIZES["J"]
        members = [list(range(j * size, j * size + size)) for j in range(SIZES["J"])]
        top = 2 if gate == "sigmoid-topk" else 1  # DeepSeek-V3 adds up two, DeepSeek-V2 takes the greatest
        worth = [sum(sorted(ranked[m])[-top:]) for m in members]
        allowed = [e for j in best(worth, SIZES["KJ"]) for e in members[j]]
    taken = [allowed[i] for i in best([ranked[e] for e in allowed], count)]
    weights = {e: scores[e] for e in taken}
    if gate == "topk-softmax":
        weights = {e: np.exp(w) for e, w in weights.items()}
    if gate == "topk-sigmoid":
        weights = {e: sigmoid(w) for e, w in weights.items()}
    if gate in ("topk-softmax", "sigmoid-topk") or "renorm" in variants:
        weights = {e: w / sum(weights.values()) for e, w in weights.items()}
    return {e: w * (SCALE if "scaled" in variants else 1) for e, w in weights.items()}


GATES = ("softmax-topk", "topk-softmax", "sigmoid-topk", "topk-sigmoid")
KINDS = (
    (),
    ("groups",),
    ("renorm",),
    ("scaled",),
    ("dynamic",),
    ("groups", "renorm", "scaled"),
    ("renorm", "dynamic"),
    ("groups", "dynamic"),
)
GATE_CASES = [
    (gate, kinds) for gate, kinds in product(GATES, KINDS)
    if "renorm" not in kinds or gate in ("softmax-topk", "topk-sigmoid")
]  # fmt: skip


@pytest.mark.parametrize(("gate", "variants"), GATE_CASES)
def test_gates(gate, variants):
    workload, x = case("-".join(("gate", gate, *variants)), 1)
    found = run_with_masks(workload, x)["W"]
    for t in range(SIZES["T"]):
        count = KT[t] if "dynamic" in variants else SIZES["K"]
        wanted = chosen_weights(gate, variants, x["L"][t], x.get("BIAS", 0), count)
        assert list(np.flatnonzero(found.exists[t])) == sorted(wanted)
        np.testing.assert_allclose(found.value[t, sorted(wanted)], [wanted[e] for e in sorted(wanted)], rtol=1e-12)


def test_the_choice_commutes_with_softmax_and_the_weights_agree_once_renormalised():
    workload, x = case("gate-softmax-topk-renorm", 2)
    other, _ = case("gate-topk-softmax", 2)
    plain, _ = case("gate-softmax-topk", 2)
    renormalised, late, raw = (run_with_masks(w, x)["W"] for w in (workload, other, plain))
    np.testing.assert_array_equal(raw.exists, late.exists)
    np.testing.assert_allclose(renormalised.value, late.value, rtol=1e-12)
    assert (raw.value.sum(axis=1) < 0.99).any()


def expert(x, w, e, width=None):
    """One expert's SwiGLU of a row."""
    w1, w3, w2 = w["W1"][e][:, :width], w["W3"][e][:, :width], w["W2"][e][:width]
    gate = x @ w1
    return (gate * sigmoid(gate) * (x @ w3)) @ w2


def mixture(chosen, x, cap=None, widths=None):
    """(rows, whether a token has any): `chosen[t]` is expert -> weight; an expert takes its first `cap` tokens."""
    rows, there, taken = np.zeros(x["X"].shape), np.zeros(len(chosen), bool), {}
    for t, weights in enumerate(chosen):
        for e, weight in weights.items():
            taken[e] = taken.get(e, 0) + 1
            width = None if widths is None else widths[e]
            if (cap is None or taken[e] <= cap) and width != 0:
                rows[t] += weight * expert(x["X"][t], x, e, width)
                there[t] = True
    return rows, there


CHOICE = "tensor M[t,e]: bool\ntensor R[t,e]\nA[t,e] | M[t,e] = 1 + 0 * R[t,e]\nW[t,e] | M[t,e] = R[t,e]"


def behind(name, seed, **sizes):
    """Experts with a choice of two or three a token, some tokens choosing the same one: (workload, inputs, chosen)."""
    rng = np.random.default_rng(seed)
    chosen = [{int(e): float(rng.random()) for e in rng.permutation(6)[:2]} for _ in range(7)]
    for weights in chosen[:4]:
        weights.setdefault(1, 0.5)
    both = joined(name, (parse(CHOICE), load(name)))
    workload = bind(both, {n: {**SIZES, **sizes}[n] for n in both.free_sizes})
    x = random_inputs(workload, seed)
    mask, weights = np.zeros((7, 6), bool), np.zeros((7, 6))
    for t, taken in enumerate(chosen):
        for e, weight in taken.items():
            mask[t, e], weights[t, e] = True, weight
    return workload, x | {"M": mask, "R": weights}, chosen


def whole(x):
    """Weights of experts by device as weights of experts."""
    join = lambda w: w.reshape(-1, *w.shape[2:]) if w.ndim == 4 else w
    return x | {n: join(x[n]) for n in ("W1", "W3", "W2")}


@pytest.mark.parametrize("parallel", ["", "-parallel"])
@pytest.mark.parametrize("kind", ["", "-capacity", "-shared", "-capacity-shared"])
def test_experts(kind, parallel):
    workload, x, chosen = behind(f"moe-experts{kind}{parallel}", 3)
    x_whole = whole(x)
    rows, there = mixture(chosen, x_whole, SIZES["CAP"] if "capacity" in kind else None)
    assert not there.all() or "capacity" not in kind
    if "shared" in kind:
        gate = x["X"] @ x["WS1"]
        rows, there = rows + (gate * sigmoid(gate) * (x["X"] @ x["WS3"])) @ x["WS2"], there | True
    result = run_with_masks(workload, x)["Y"]
    np.testing.assert_array_equal(result.exists.any(axis=1), there)
    np.testing.assert_allclose(result.value, rows, rtol=1e-12, atol=1e-12)


def test_rows_go_once_to_each_device_that_has_an_expert_of_theirs():
    workload, x, chosen = behind("moe-experts-parallel", 4, P=3)
    result = run_with_masks(workload, x)
    goes = np.array([[any(e // 2 == p for e in taken) for taken in chosen] for p in range(3)])
    np.testing.assert_array_equal(result["XP"].exists.all(axis=2), goes)
    np.testing.assert_array_equal(result["YP"].exists.all(axis=2), goes)
    assert goes.sum() < sum(map(len, chosen))


def test_experts_of_several_widths_and_none():
    """Duo-LLM: a large block, a small one, and skipping: no result at all where a token took only that."""
    workload, x, chosen = behind("moe-experts-widths", 5)
    widths = np.array([5, 2, 5, 3, 5, 4])
    widths[list(chosen[6])] = 0
    rows, there = mixture(chosen, x, widths=widths)
    result = run_with_masks(workload, x | {"WIDTH": widths})["Y"]
    assert not there.all()
    np.testing.assert_array_equal(result.exists.any(axis=1), there)
    np.testing.assert_allclose(result.value, rows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("places", [7, 2])
def test_dispatch_to_buffers_equals_experts_with_a_capacity(places):
    workload, x, chosen = behind("moe-dispatch", 6, C=places)
    result = run_with_masks(workload, x)
    rows, there = mixture(chosen, x, places)
    np.testing.assert_array_equal(result["Y"].exists.any(axis=1), there)
    np.testing.assert_allclose(result["Y"].value, rows, rtol=1e-12, atol=1e-12)
    counts = [sum(e in taken for taken in chosen) for e in range(6)]
    np.testing.assert_array_equal(result["PL"].value[-1], counts)
    for e in range(6):
        tokens = [t for t, taken in enumerate(chosen) if e in taken][:places]
        np.testing.assert_array_equal(result["TOKEN"].value[e][result["TOKEN"].exists[e]], tokens)


def test_grouped_products_equal_the_mixture():
    """All that sorting by expert needs comes from the routing; expert 3 has no token."""
    chosen = np.array([[0, 1], [1, 5], [5, 1], [2, 1], [1, 4], [4, 0], [1, 2]])
    workload, x = case("moe-grouped", 7)
    x |= Routing(chosen, 6).given(workload.cascade)
    weights = [dict(zip(map(int, e), g, strict=True)) for e, g in zip(chosen, x["GW"], strict=True)]
    rows, _ = mixture(weights, x | {"W1": x["W1"][:, 0], "W3": x["W1"][:, 1]})
    np.testing.assert_allclose(run(workload, x)["Y"], rows, rtol=1e-12, atol=1e-12)
    assert run_with_masks(workload, x)["YE"].exists[..., 0].sum(axis=1).tolist() == [2, 6, 2, 0, 2, 2]


@pytest.mark.parametrize("name", ["moe-softmax-topk-renorm", "moe-sigmoid-topk-groups-scaled-capacity-shared-parallel",
                                  "moe-topk-softmax-shared", "moe-topk-sigmoid-dynamic-widths"])  # fmt: skip
def test_whole_layers(name):
    """Router, gate and experts as one cascade."""
    workload, x = case(name, 8)
    widths = np.array([5, 2, 4, 1, 5, 3])
    x = x | ({"WIDTH": widths} if "WIDTH" in x else {})
    words = name.split("-")
    gate = "-".join(words[1:3])
    logits = x["X"] @ x["WR"]
    chosen = []
    for t in range(SIZES["T"]):
        count = KT[t] if "dynamic" in words else SIZES["K"]
        weights = chosen_weights(gate, words, logits[t], x.get("BIAS", 0), count)
        chosen.append(dict(sorted(weights.items())))
    cap = SIZES["CAP"] if "capacity" in words else None
    rows, _ = mixture(chosen, whole(x), cap, widths if "widths" in words else None)
    if "shared" in words:
        inner = x["X"] @ x["WS1"]
        rows = rows + (inner * sigmoid(inner) * (x["X"] @ x["WS3"])) @ x["WS2"]
    np.testing.assert_allclose(run(workload, x)["Y"], rows, rtol=1e-11, atol=1e-11)
    assert parse(show(workload.cascade)) == workload.cascade


def test_ragged_experts_equal_the_mixture():
    workload, x = case("moe-ragged", 10)
    x |= {"COUNT": np.array([3, 0, 7, 1, 2, 5])}
    result = run_with_masks(workload, x)["YE"]
    for e, c in np.ndindex(6, 7):
        assert result.exists[e, c].all() == result.exists[e, c].any() == (c < x["COUNT"][e])
        expected = expert(x["XE"][e, c], x, e) * (c < x["COUNT"][e])
        np.testing.assert_allclose(result.value[e, c], expected, rtol=1e-12, atol=1e-12)


def test_one_block_wide_and_deep():
    """VersatileFFN: slices as experts, and as many applications as the largest logit says."""
    workload, x = case("moe-versatile", 9, I=6)
    gelu = np.vectorize(lambda u: u * (1 + erf(u / 2**0.5)) / 2)
    expected = []
    for t, row in enumerate(x["X"]):
        taken = best(x["L"][t], 2)
        weights = np.exp([x["L"][t][j] for j in taken])
        wide = sum(
            w / weights.sum() * gelu(row @ x["W1"][:, j * 2 : j * 2 + 2]) @ x["W2"][j * 2 : j * 2 + 2]
            for j, w in zip(taken, weights, strict=True)
        )
        deep = row
        for _ in range(1 + int(np.argmax(x["LD"][t]))):
            deep = deep + gelu(deep @ x["W1"]) @ x["W2"]
        expected.append(x["MIX"][t] * deep + (1 - x["MIX"][t]) * wide)
    assert len(set(np.argmax(x["LD"], axis=1))) > 1
    np.testing.assert_allclose(run(workload, x)["Y"], expected, rtol=1e-12, atol=1e-12)


def points(workload, x, name):
    return int(run_with_masks(workload, x)[name].exists.sum())


def test_work_of_papers_by_the_points_that_exist():
    """Duo-LLM: a small block is 1/16 of a large one, and a skipped one nothing. DynaMoE: the sum of the counts.
    VersatileFFN: two of eight slices are a quarter of the block, and depth multiplies it."""
    workload, x, chosen = behind("moe-experts-widths", 11, I=16)
    widths = np.array([16, 1, 0, 16, 1, 0])
    assert points(workload, x | {"WIDTH": widths}, "U") == sum(widths[e] for taken in chosen for e in taken)
    workload, x = case("moe-softmax-topk-dynamic", 12)
    assert points(workload, x, "XE") == KT.sum() * SIZES["D"]
    workload, x = case("moe-versatile", 13, I=24, J=8, N=4)
    block = SIZES["T"] * 24
    assert points(workload, x, "U") * 4 == block
    assert points(workload, x, "UD") == sum(1 + np.argmax(x["LD"], axis=1)) * 24 > block


@pytest.mark.parametrize("name", ["moe-softmax-topk", "moe-topk-softmax-shared", "moe-sigmoid-topk-groups-scaled"])
def test_analysis_counts_the_chosen_experts_alone(name):
    """6*T*K*D*I flops of the experts, though which they are is data: a bound that every choice reaches."""
    workload, x = case(name, 14)
    t, k, d, i, e, v = (SIZES[n] for n in "TKDIEV")
    found = {work.name: work for work in analyse(workload).einsums}
    experts = {
        "U": t * k * d * i,
        "UG": t * k * d * i,
        "YE": t * k * i * d,
        "YR" if "shared" in name else "Y": t * k * d,
    }
    assert {n: found[n].operations["mac"] for n in experts} == experts
    assert found["H"].points == points(workload, x, "H") == t * k * i and found["H"].doubt
    if "shared" in name:
        assert (found["US"].points, found["US"].doubt) == (t * d * v, "")
    assert found["L"].points == t * d * e


def test_capacity():
    assert [capacity(1.25, 8, 4, 2), capacity(1, 7, 4, 2), capacity(1, 1, 64, 1)] == [5, 4, 1]


def test_names():
    names = [n for n in library() if n.startswith(("gate-", "moe-"))]
    assert len(names) == len(set(names)) == 31
    assert all(load(n).name == n for n in names)
    for wrong in ("gate-topk-softmax-renorm", "moe-sigmoid-topk-renorm", "moe-softmax-topk-shared-capacity",
                  "gate-softmax-topk-shared", "moe-experts-renorm", "moe-grouped-shared"):  # fmt: skip
        with pytest.raises(InputError, match="no such cascade"):
            load(wrong)
