"""Layers of models, run by the oracle at toy sizes, against the layer's definition written in plain numpy."""

from dataclasses import replace
from math import erf

import numpy as np
import pytest

from einsum.analysis import analyse
from einsum.bind import bind
from einsum.oracle import random_inputs, run
from einsum.parse import parse
from einsum.problems import InputError
from einsum.show import show
from studies.layers import layer
from studies.models import Experts, Latent, model, models, rows

SMALL = {"hidden": 8, "heads": 4, "kv_heads": 4, "head_dim": 4, "ffn": 12}
LATENT = Latent(queries=5, keys=6, nope=3, rope=4, value=2)
TOY = {
    "MHA": replace(model("GPT-3-175B"), **SMALL),
    "GQA": replace(model("Llama-3.1-405B"), **SMALL | {"kv_heads": 2}),
    "MQA": replace(model("Llama-3.1-405B"), **SMALL | {"kv_heads": 1}),
    "norms of queries and keys": replace(model("Qwen3-8B"), **SMALL | {"kv_heads": 2}),
    "window": replace(model("Llama-3.1-405B"), **SMALL | {"kv_heads": 2}, window=3),
    "encoder": replace(model("BERT"), **SMALL),
    "relative": replace(model("TrXL"), **SMALL),
    "MLA": replace(model("DeepSeek-V3"), **SMALL, latent=LATENT),
    "MLA, queries not compressed": replace(model("DeepSeek-V2-Lite"), **SMALL, latent=replace(LATENT, queries=0)),
    "encoder in front of a decoder": replace(model("T5"), **SMALL),
    "experts": replace(model("Mixtral-8x7B"), **SMALL | {"kv_heads": 2},
                       experts=Experts(4, 2, 5, score="softmax_topk_renorm")),
    "experts in groups": replace(model("DeepSeek-V3"), **SMALL, latent=LATENT,
                                 experts=Experts(6, 2, 5, 3, "sigmoid+bias", 0, 1, 3, 2, 2.5)),
    "experts of chosen logits": replace(model("GPT-OSS-20B"), **SMALL | {"kv_heads": 2}, window=0,
                                        experts=Experts(4, 3, 5, score="topk_then_softmax")),
    "one expert of chosen logits": replace(model("Llama-4-Scout"), **SMALL | {"kv_heads": 2},
                                           experts=Experts(4, 1, 5, 7, "sigmoid")),
}  # fmt: skip
TILES = {"M0": 2, "M2": 2, "T0": 2, "S": 5, "J": 2, "NP": 6}
KINDS = [  # a layer of each kind that a model has
    (name, next(i for i in range(model(name).layers) if model(name).is_dense(i) == dense))
    for name in models()
    for dense in (True, False)
    if dense in map(model(name).is_dense, range(model(name).layers))
]


def tables(count, width, first=0):
    """Cosines and sines of rotary positions; the sines of the first half turn the other way."""
    angles = (first + np.arange(count))[:, None] * 100.0 ** (-np.arange(width // 2) / (width // 2))
    return np.tile(np.cos(angles), 2), np.concatenate([-np.sin(angles), np.sin(angles)], 1)


def inputs_of(workload, seed, first=0):
    inputs = random_inputs(workload, seed, scale=0.5)
    if "COS" in inputs:
        inputs["COS"], inputs["SIN"] = tables(*inputs["COS"].shape, first)
    return inputs


def bound(m, mode, batch, length, **options):
    cascade, sizes = layer(m, mode, batch, length, **options)
    return bind(cascade, sizes | {name: TILES[name] for name in cascade.free_sizes if name not in sizes})


def rotated(x):
    """Rotary embedding of rows at positions 0, 1, ... as a product of complex numbers."""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None] * 100.0 ** (-np.arange(half) / half)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], 1)


def normalised(kind, x, gain, shift=None):
    if kind == "rms":
        return np.array([row / np.sqrt(np.mean(row**2) + 1e-6) for row in x]) * gain
    return np.array([(row - row.mean()) / np.sqrt(row.var() + 1e-5) for row in x]) * gain + shift


def softmax(scores, seen):
    weights = np.where(seen, np.exp(scores - scores[seen].max()), 0)
    return weights / weights.sum()


def attended(q, k, v, seen, bias):
    return np.array([softmax(q[p] @ k.T + bias[p], seen[p]) @ v for p in range(len(q))])


def heads_of(m, x, w):
    """(queries, keys, values) of each query head, placed and scaled."""
    if m.latent:
        compressed = normalised("rms", x @ w["WDQ"], w["GNQ"]) if m.latent.queries else x
        content, rotary = normalised("rms", x @ w["WDKV"], w["GNL"]), rotated(x @ w["WKR"])
        for h in range(m.heads):
            q = np.concatenate([compressed @ w["WUQ"][:, h], rotated(compressed @ w["WQR"][:, h])], 1)
            yield (
                q / np.sqrt(m.latent.nope + m.latent.rope),
                np.concatenate([content @ w["WUK"][h], rotary], 1),
                (content @ w["WUV"][h]),
            )
        return
    share = m.heads // m.kv_heads
    wq = w["WQ"].reshape(m.hidden, m.heads, m.head_dim)
    wk, wv = (w[name].reshape(m.hidden, m.kv_heads, m.head_dim) for name in ("WK", "WV"))
    for h in range(m.heads):
        q, k, v = x @ wq[:, h], x @ wk[:, h // share], x @ wv[:, h // share]
        if m.qk_norm:
            q, k = normalised("rms", q, w["GNQ"]), normalised("rms", k, w["GNK"])
        if m.positions == "rope":
            q, k = rotated(q), rotated(k)
        if m.positions == "relative":
            q = q + w["UC"][h]
        yield (q if m.positions == "bias" else q / np.sqrt(m.head_dim)), k, v


def bias_of(m, x, w, h):
    count = len(x)
    if m.positions == "bias":
        return w["BIAS"][h]
    found = np.zeros((count, count))
    if m.positions == "relative":
        q = x @ w["WQ"][:, h] + w["UD"][h]
        for p, k in np.ndindex(count, count):
            found[p, k] = q[p] @ (w["DIST"][p - k] @ w["WD"][:, h]) / np.sqrt(m.head_dim) if k <= p else 0
    return found


def mixed(m, value, w):
    """Rows through the experts that each token chooses, and the shared ones."""
    e, result = m.experts, np.zeros(value.shape)
    swiglu = lambda row, w1, w3, w2: (row @ w1 / (1 + np.exp(-(row @ w1))) * (row @ w3)) @ w2
    for t, row in enumerate(value):
        logits = row @ w["WR"]
        scores = 1 / (1 + np.exp(-logits)) if e.score.startswith("sigmoid") else np.exp(logits) / np.exp(logits).sum()
        ranked = scores + w.get("FBIAS", 0)
        if e.best_groups < e.groups:
            members = np.arange(e.count).reshape(e.groups, -1)
            worth = [np.sort(ranked[of])[-2:].sum() for of in members]
            kept = members[np.argsort(worth)[-e.best_groups :]].ravel()
            ranked = np.where(np.isin(np.arange(e.count), kept), ranked, -np.inf)
        taken = np.argsort(-ranked)[: e.chosen]
        total = scores[taken].sum() if e.score != "sigmoid" else 1
        for x in taken:
            result[t] += w.get("FSCALE", 1) * scores[x] / total * swiglu(row, w["W1"][x], w["W3"][x], w["W2"][x])
        if e.shared:
            result[t] += swiglu(row, w["WS1"], w["WS3"], w["WS2"])
    return result


def reference(m, index, x, w):
    """Y of one request (tokens, hidden) in prefill."""
    at = np.arange(len(x))
    causal = m.causal and not (m.cross_layers and not m.has_cross(index))
    seen = at[None] <= at[:, None] if causal else np.ones((len(x), len(x)), bool)
    seen &= at[None] > at[:, None] - m.window if m.window else True
    norm = lambda value, tag: normalised(m.norm, value, w[f"GN{tag}"], w.get(f"BN{tag}"))
    flat = lambda name: w[name].reshape(m.heads, -1, m.hidden)
    attend = lambda value: sum(
        attended(q, k, v, seen, bias_of(m, value, w, h)) @ flat("WO")[h]
        for h, (q, k, v) in enumerate(heads_of(m, value, w))
    )
    act = {
        "silu": lambda u: u / (1 + np.exp(-u)),
        "gelu": np.vectorize(lambda u: u * (1 + erf(u / 2**0.5)) / 2),
        "relu": lambda u: u * (u > 0),
    }[m.activation]
    feed = lambda value: (act(value @ w["W1"]) * (value @ w["W3"] if m.gated else 1)) @ w["W2"]
    if not m.is_dense(index):
        feed = lambda value: mixed(m, value, w)
    if m.post_norm:
        middle = norm(x + attend(x), "1")
        return norm(middle + feed(middle), "2")
    middle = x + attend(norm(x, "1"))
    if m.has_cross(index):
        value, every = norm(middle, "3"), np.ones((len(x), len(w["ENC"])), bool)
        for h in range(m.heads):
            q, k, v = value @ w["WQ3"][:, h], w["ENC"] @ w["WK3"][:, h], w["ENC"] @ w["WV3"][:, h]
            middle = middle + attended(q, k, v, every, np.zeros(every.shape)) @ w["WO3"][h]
    return middle + feed(norm(middle, "2"))


@pytest.mark.parametrize("attention", ["attention-3pass", "attention-1pass", "attention-flashdecode"])
@pytest.mark.parametrize("name", TOY)
def test_prefill_equals_the_definition(name, attention):
    workload = bound(TOY[name], "prefill", 2, 5, attention=attention)
    inputs = inputs_of(workload, seed=1)
    ours = run(workload, inputs)["Y"]
    for b in range(2):
        np.testing.assert_allclose(ours[b], reference(TOY[name], 0, inputs["X"][b], inputs), rtol=1e-10, atol=1e-10)


def test_prefill_of_a_decoder_behind_an_encoder():
    m = TOY["encoder in front of a decoder"]
    workload = bound(m, "prefill", 2, 5, index=8, source=3, attention="attention-1pass")
    inputs = inputs_of(workload, seed=2)
    ours = run(workload, inputs)["Y"]
    for b in range(2):
        of_request = inputs | {"ENC": inputs["ENC"][b]}
        np.testing.assert_allclose(ours[b], reference(m, 8, inputs["X"][b], of_request), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["GQA", "encoder", "MLA"])
def test_prefill_of_requests_of_different_lengths(name):
    """Padding tokens are computed, but no token of a request sees them."""
    lengths = (2, 5)
    workload = bound(TOY[name], "prefill", 2, 5, variants=("lengths",), attention="attention-1pass")
    inputs = inputs_of(workload, seed=6) | {"LEN": np.array(lengths)}
    ours = run(workload, inputs)["Y"]
    for b, length in enumerate(lengths):
        expected = reference(TOY[name], 0, inputs["X"][b, :length], inputs)
        np.testing.assert_allclose(ours[b, :length], expected, rtol=1e-10, atol=1e-10)


def cache_of(m, results):
    """What decode finds as its cache, (b, ..., m, e), after a prefill with these results."""
    if m.latent:
        return {"K": np.concatenate([results["L"], results["KR"]], -1)}
    return {"K": results["K"], "V": results["V"]}


@pytest.mark.parametrize(
    ("name", "queries"), [(n, q) for n in TOY for q in (1, 2) if "encoder" not in n and (n, q) != ("window", 2)]
)
def test_decode_continues_prefill(name, queries):
    """The last tokens of a prefill, decoded on its cache, have the prefill's outputs and append what it holds."""
    m = TOY[name]
    whole = bound(m, "prefill", 2, 7)
    inputs = inputs_of(whole, seed=3)
    before = run(whole, inputs)
    step = bound(m, "decode", 2, 7, queries=queries)
    kept = step.sizes["M"]
    assert kept == (3 if name == "window" else 7)
    cache = {key: value[..., 7 - kept :, :] for key, value in cache_of(m, before).items()}
    given = inputs | cache | {"X": inputs["X"][:, -queries:]}
    if "COS" in given:
        given["COS"], given["SIN"] = tables(kept, given["COS"].shape[1], first=7 - kept)
    given = {key: given[key] for key in step.cascade.inputs}
    after = run(step, given)
    np.testing.assert_allclose(after["Y"], before["Y"][:, -queries:], rtol=1e-11, atol=1e-11)
    new = {"L": "LN", "KR": "RN"} if m.latent else {"K": "KN", "V": "VN"}
    for key, appended in new.items():
        np.testing.assert_allclose(after[appended], before[key][..., -queries:, :], rtol=1e-11, atol=1e-11)
        assert appended in step.cascade.outputs


@pytest.mark.parametrize("name", ["GQA", "MQA", "MLA"])
def test_paged_decode_of_requests_of_different_lengths(name):
    m = TOY[name]
    lengths, page = np.array([7, 4]), TILES["S"]
    step = bound(m, "decode", 2, 7, variants=("paged", "lengths"), attention="attention-flashdecode")
    given = inputs_of(step, seed=4)
    table = given["PT"] = np.array([[4, 1], [0, 5]])
    given["LEN"] = lengths
    expected = []
    for b, length in enumerate(lengths):
        alone = bound(m, "prefill", 1, int(length))
        inputs = inputs_of(alone, seed=5 + b) | {k: v for k, v in given.items() if k[0] in "WG"}
        results = run(alone, inputs)
        expected.append(results["Y"][0, -1:])
        given["X"][b] = inputs["X"][0, -1:]
        for key, value in cache_of(m, results).items():
            for at in range(length):
                given[f"{key}P"][table[b, at // page], ..., at % page, :] = value[0, ..., at, :]
    np.testing.assert_allclose(run(step, given)["Y"], np.array(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", ["prefill", "decode"])
@pytest.mark.parametrize(("name", "index"), KINDS)
def test_the_layer_holds_the_parameters_of_the_model(name, index, mode):
    """At full size: weights are the model's, the cache is the model's, the text reads back."""
    m = model(name)
    index = m.layers - 1 if m.cross_layers else index
    if mode == "decode" and not m.causal:
        return
    workload = bound(m, mode, 3, 64, index=index, source=20 * (m.cross_layers > 0))
    cascade = workload.cascade
    assert weights_of(workload) == m.layer_parameters(index)
    assert parse(show(cascade)) == cascade
    assert cascade.name == f"{name}-layer{index}-{mode}"
    if mode == "decode":
        cache = sum(workload.elements(t) for t in ("K", "V") if t in cascade.inputs)
        assert cache * m.layers == 3 * 64 * m.kv_elements


def weights_of(workload):
    return sum(workload.elements(t) for t in workload.cascade.inputs if t.startswith("W"))


@pytest.mark.parametrize(("name", "index"), [k for k in KINDS if k[0] not in ("T5", "TrXL")], ids=str)
def test_each_token_takes_one_mac_for_each_active_parameter(name, index):
    """Of experts only those that it chooses; T5 also works on its encoder's tokens, Transformer-XL on distances."""
    m = model(name)
    workload = bound(m, "prefill", 3, 64, index=index)
    work = {e.name: e for e in analyse(workload).einsums}
    weighs = lambda einsum: any(a.tensor.startswith("W") and a.tensor in workload.cascade.inputs for a in einsum.reads)
    macs = sum(work[e.name].operations["mac"] for e in workload.cascade.einsums if e.name in work and weighs(e))
    assert macs == 3 * 64 * m.layer_parameters(index, active=True)


@pytest.mark.parametrize("row", rows("model_configs"), ids=lambda row: row["model"])
def test_weights_of_all_layers_add_up_to_the_published_total(row):
    m = model(row["model"])
    kinds = {dense: weights_of(bound(m, "prefill", 1, 8, index=i)) for name, i in KINDS if name == m.name
             for dense in [m.is_dense(i)]}  # fmt: skip
    total = m.embedding + sum(kinds[m.is_dense(i)] for i in range(m.layers))
    assert f"{total / 1e9:.2f}".rstrip("0").rstrip(".") == row["calc_total_B"].rstrip("0").rstrip(".")


MISTAKES = {
    "mode": (("BERT", "prefil", 1, 8), {}, "mode is prefill or decode (got prefil); did you mean prefill?"),
    "no such layer": (("BERT", "prefill", 1, 8), {"index": 12}, "the model has layers 0 to 11 (got 12)"),
    "encoder's length": (("T5", "prefill", 1, 8), {"index": 6}, "layer 6 attends to an encoder: give its length"),
    "sizes": (("T5", "prefill", 0, 8), {}, "batch, length and queries are positive, queries at most"),
    "more queries than tokens": (("GPT-3-13B", "decode", 1, 8), {"queries": 9}, "queries at most length"),
    "variant": (("GPT-3-13B", "decode", 1, 8), {"variants": ("pagd",)}, "(got pagd); did you mean paged?"),
    "the model's own variant": (("GPT-3-13B", "decode", 1, 8), {"variants": ("causal",)}, "not a variant to choose"),
    "pages": (("GPT-3-13B", "prefill", 1, 8), {"variants": ("paged",)}, "pages hold a cache, which only decode reads"),
    "decode of an encoder": (("BERT", "decode", 1, 8), {}, "an encoder has no decode"),
    "ragged queries": (("Qwen3-8B", "decode", 1, 8), {"variants": ("lengths",), "queries": 2}, "one query each"),
    "queries of a window": (("GPT-OSS-20B", "decode", 1, 8), {"queries": 2}, "a layer with a window decodes one query"),
    "attention": (("BERT", "prefill", 1, 8), {"attention": "atention-3pass"}, "no such cascade"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    (of, *rest), options, expected = MISTAKES[name]
    with pytest.raises(InputError) as caught:
        layer(model(of), *rest, **options)
    assert expected in str(caught.value)
