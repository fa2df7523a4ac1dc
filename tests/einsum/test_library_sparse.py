"""Sparse attention of the library against plain loops in float64, and where nothing is left out against dense."""

import numpy as np
import pytest

from einsum.analysis import analyse
from einsum.bind import bind
from einsum.library import load
from einsum.oracle import random_inputs, run, run_with_masks
from einsum.passes import passes

SMALL = {"B": 2, "H": 3, "P": 4, "M": 11, "E": 5, "F": 4, "M0": 4, "N": 2}
CLOSE = dict(rtol=1e-11, atol=1e-12)


def bound(name, **sizes):
    cascade = load(name)
    return bind(cascade, {size: sizes[size] for size in cascade.free_sizes})


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def largest(values, count):
    """Places of the largest values, in ascending order; of equal ones the first."""
    return sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])


def dense(q, k, v):
    """Attention of every query by itself; the leading axes are batch and head."""
    found = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, h, p in np.ndindex(*q.shape[:3]):
        found[b, h, p] = softmax(k[b, h] @ q[b, h, p]) @ v[b, h]
    return found


def block_topk(q, k, v, size, kept):
    found = np.zeros((*q.shape[:3], v.shape[-1]))
    starts = range(0, k.shape[2], size)
    for b, h, p in np.ndindex(*q.shape[:3]):
        scores = [q[b, h, p] @ k[b, h, at : at + size].mean(0) for at in starts]
        rows = [m for block in largest(scores, kept) for m in range(k.shape[2])[block * size : (block + 1) * size]]
        found[b, h, p] = softmax(k[b, h, rows] @ q[b, h, p]) @ v[b, h, rows]
    return found


@pytest.mark.parametrize("sizes", [{}, {"N": 1}, {"M0": 1, "N": 7}, {"M": 3, "N": 1}, {"M": 12, "N": 3}], ids=str)
def test_block_topk(sizes):
    sizes = SMALL | sizes
    workload = bound("sparse-block-topk", **sizes)
    x = random_inputs(workload, seed=1)
    result = run_with_masks(workload, x)
    expected = block_topk(x["Q"], x["K"], x["V"], sizes["M0"], sizes["N"])
    np.testing.assert_allclose(result["AV"].value, expected, **CLOSE)
    assert result["AV"].exists.all() and (result["TB"].exists.sum(-1) == sizes["N"]).all()


def test_all_blocks_are_dense_attention():
    workload = bound("sparse-block-topk", **SMALL | {"N": 3})
    x = random_inputs(workload, seed=2)
    np.testing.assert_allclose(run(workload, x)["AV"], dense(x["Q"], x["K"], x["V"]), **CLOSE)


@pytest.mark.parametrize("kept", [1, 2, 3, 5])
def test_block_topk_decoding_reads_the_means_it_is_given(kept):
    """With the true means it is the prefill's function of one query; room for more blocks than there are changes
    nothing."""
    workload = bound("sparse-block-topk-decode", **SMALL | {"N": kept})
    x = random_inputs(workload, seed=3)
    x["KM"] = np.stack([x["K"][:, :, at : at + 4].mean(2) for at in (0, 4, 8)], 2)
    expected = block_topk(x["Q"][:, :, None], x["K"], x["V"], 4, kept)[:, :, 0]
    np.testing.assert_allclose(run(workload, x)["AV"], expected, **CLOSE)
    x["KM"] = -x["KM"]
    assert (kept < 3) != np.allclose(run(workload, x)["AV"], expected)


SPATTEN = {"L": 4, "H": 4, "P": 3, "M": 9, "E": 5, "F": 4}
KEEP, HEADS = np.array([9, 7, 7, 4]), np.array([4, 4, 3, 2])


def spatten(x, keep, heads, values, tau):
    """(AV of each layer, 0 where a head is pruned; tokens and heads kept in each layer; rows that needed low bits)."""
    layers, n_heads, queries = x["Q"].shape[:3]
    tokens, alive = list(range(x["KH"].shape[2])), list(range(n_heads))
    importance, of_heads = dict.fromkeys(tokens, 0.0), dict.fromkeys(alive, 0.0)
    found, kept, again = np.zeros((*x["Q"].shape[:3], x["V"].shape[-1])), [], 0
    for layer in range(layers):
        tokens = [tokens[i] for i in largest([importance[t] for t in tokens], keep[layer])]
        alive = [alive[i] for i in largest([of_heads[h] for h in alive], heads[layer])]
        kept.append((tokens, alive))
        for h in alive:
            for p in range(queries):
                scores = x["KH"][layer, h, tokens] @ x["Q"][layer, h, p]
                if softmax(scores).max() < tau:
                    scores = scores + x["KL"][layer, h, tokens] @ x["Q"][layer, h, p]
                    again += 1
                weights = softmax(scores)
                for t, weight in zip(tokens, weights, strict=True):
                    importance[t] += weight
                chosen = largest(weights, values[layer])
                found[layer, h, p] = sum(weights[i] * x["V"][layer, h, tokens[i]] for i in chosen)
            of_heads[h] += np.abs(found[layer, h]).sum()
    return found, kept, again


def spatten_inputs(workload, keep, heads, values, tau):
    return random_inputs(workload, seed=4) | {"KEEP": keep, "HEADS": heads, "VALUES": values, "TAU": np.array(tau)}


@pytest.mark.parametrize("tau", [0.0, 0.5, 2.0])
def test_spatten(tau):
    workload, values = bound("sparse-spatten", **SPATTEN), np.array([9, 3, 2, 1])
    x = spatten_inputs(workload, KEEP, HEADS, values, tau)
    expected, kept, again = spatten(x, KEEP, HEADS, values, tau)
    result = run_with_masks(workload, x)
    np.testing.assert_allclose(result["AV"].value, expected, **CLOSE)
    for layer, (tokens, heads) in enumerate(kept):
        assert np.flatnonzero(result["TM"].exists[layer]).tolist() == tokens
        assert np.flatnonzero(result["HM"].exists[layer]).tolist() == heads
    rows = 3 * HEADS.sum()
    assert {0.0: again == 0, 0.5: 0 < again < rows, 2.0: again == rows}[tau]


def test_spatten_that_prunes_nothing_is_dense():
    """All tokens, heads and values, and the low bits of every key: attention of each layer over KH + KL."""
    workload = bound("sparse-spatten", **SPATTEN)
    x = spatten_inputs(workload, np.full(4, 9), np.full(4, 4), np.full(4, 9), 2.0)
    np.testing.assert_allclose(run(workload, x)["AV"], dense(x["Q"], x["KH"] + x["KL"], x["V"]), **CLOSE)


def test_layers_of_spatten_are_the_whole_of_it():
    """What a layer lists, gathers and hands on, layer after layer, is what the masks of the whole leave over."""
    values, tau = np.array([9, 3, 2, 1]), 0.5
    whole = spatten_inputs(bound("sparse-spatten", **SPATTEN), KEEP, HEADS, values, tau)
    expected, kept, _ = spatten(whole, KEEP, HEADS, values, tau)
    tokens, heads = np.arange(9), np.arange(4)
    state = {"ST": np.ones(9), "SH": np.ones(4)}
    for layer in range(4):
        sizes = {"M": len(tokens), "H": len(heads), "N": KEEP[layer], "G": HEADS[layer], "C": values[layer]}
        workload = bound("sparse-spatten-layer", **SPATTEN | {name: int(n) for name, n in sizes.items()})
        rows = {name: whole[name][layer][np.ix_(heads, tokens)] for name in ("KH", "KL", "V")}
        result = run(workload, rows | state | {"Q": whole["Q"][layer][heads], "TAU": np.array(tau)})
        tokens, heads = tokens[result["AT"].astype(int)], heads[result["AH"].astype(int)]
        assert (tokens.tolist(), heads.tolist()) == kept[layer]
        np.testing.assert_allclose(result["AV"], expected[layer][heads], **CLOSE)
        state = {"ST": result["STN"], "SH": result["SHN"]}


KEYFORMER = {"B": 2, "H": 3, "M": 10, "E": 5, "F": 4, "N": 6, "W": 2}


@pytest.mark.parametrize("sizes", [{}, {"N": 2}, {"W": 1, "N": 9}, {"N": 10}, {"M": 1, "N": 1, "W": 1}], ids=str)
def test_keyformer(sizes):
    """N = W leaves the window alone, N = M everything."""
    sizes = KEYFORMER | sizes
    m, n, w = sizes["M"], sizes["N"], sizes["W"]
    workload = bound("sparse-keyformer", **sizes)
    x = random_inputs(workload, seed=5) | {"TEMP": np.array(1.7)}
    result = run(workload, x)
    np.testing.assert_allclose(result["AV"], dense(x["Q"][:, :, None], x["K"], x["V"])[:, :, 0], **CLOSE)
    for b, h in np.ndindex(2, 3):
        total = x["S"][b, h] + softmax((x["K"][b, h] @ x["Q"][b, h] + x["Z"][b, h]) / 1.7)
        rows = [*largest(total[: m - w], n - w), *range(m - w, m)]
        assert result["AT"][b, h].tolist() == rows
        np.testing.assert_allclose(result["SN"][b, h], total[rows], **CLOSE)
        np.testing.assert_array_equal(result["KN"][b, h], x["K"][b, h, rows])
        np.testing.assert_array_equal(result["VN"][b, h], x["V"][b, h, rows])


ZIPVL = {"B": 2, "H": 3, "M": 9, "R": 2, "E": 4, "F": 5}


def zipvl(x, tau, room):
    """(output, tokens kept), 0 for the tokens left out."""
    found, kept = np.zeros((*x["V"].shape[:3], x["V"].shape[-1])), []
    for b in range(len(found)):
        score = sum(softmax(k @ q) for k, probes in zip(x["K"][b], x["QP"][b], strict=True) for q in probes)
        order = sorted(range(len(score)), key=lambda m: (-score[m], m))
        count = next(n for n in range(len(order) + 1) if score[order[:n]].sum() >= tau * score.sum() - 1e-9)
        rows = sorted(order[:count])[:room]
        for h, p in np.ndindex(found.shape[1], len(rows)):
            found[b, h, rows[p]] = softmax(x["K"][b, h, rows] @ x["Q"][b, h, rows[p]]) @ x["V"][b, h, rows]
        kept.append(rows)
    return found, kept


@pytest.mark.parametrize(("tau", "room"), [(0.0, 9), (0.2, 9), (0.7, 9), (0.95, 9), (0.95, 4)])
def test_zipvl(tau, room):
    workload = bound("sparse-zipvl", **ZIPVL | {"N": room})
    x = random_inputs(workload, seed=6) | {"TAU": np.array(tau)}
    expected, kept = zipvl(x, tau, room)
    result = run_with_masks(workload, x)
    np.testing.assert_allclose(result["O"].value, expected, **CLOSE)
    for b, rows in enumerate(kept):
        listed = result["AT"].exists[b]
        assert result["AT"].value[b][listed].tolist() == rows
        assert result["O"].exists[b, :, rows].all() and result["O"].exists[b].sum() == 3 * 5 * len(rows)
    sizes = sorted(len(rows) for rows in kept)
    assert {0.0: sizes == [0, 0], 0.2: sizes[0] >= 1, 0.7: sizes[-1] < 9, 0.95: sizes[-1] >= min(room, 5)}[tau]


def test_zipvl_of_all_attention_is_dense():
    workload = bound("sparse-zipvl", **ZIPVL | {"N": 9})
    x = random_inputs(workload, seed=7) | {"TAU": np.array(1.0)}
    np.testing.assert_allclose(run(workload, x)["O"], dense(x["Q"], x["K"], x["V"]), **CLOSE)


def test_zipvl_takes_the_earlier_of_equal_tokens():
    """Equal keys: every token has the same share, and half of them reach half of it."""
    workload = bound("sparse-zipvl", **ZIPVL | {"M": 8, "N": 8})
    x = random_inputs(workload, seed=8) | {"TAU": np.array(0.5)}
    x["K"] = np.repeat(x["K"][:, :, :1], 8, axis=2)
    assert [np.flatnonzero(row).tolist() for row in run_with_masks(workload, x)["T"].exists] == [[0, 1, 2, 3]] * 2


RETTENTION = {"B": 2, "H": 3, "P": 9, "M": 9, "E": 4, "F": 5}


@pytest.mark.parametrize("window", [1, 3, 9])
def test_rettention(window):
    """The full step is dense and the sparse one repeats it on the same inputs; on others it is rescaled as written."""
    full, sparse = (bound(name, **RETTENTION, W=window) for name in ("sparse-rettention-full", "sparse-rettention"))
    x = random_inputs(full, seed=9)
    before = run(full, x)
    expected = dense(x["Q"], x["K"], x["V"])
    np.testing.assert_allclose(before["AV"], expected, **CLOSE)
    kept = {name: before[name] for name in ("SHARE", "REST")}
    np.testing.assert_allclose(run(sparse, x | kept)["AV"], expected, **CLOSE)
    later = random_inputs(full, seed=10)
    result = run(sparse, later | kept)["AV"]
    for b, h, p in np.ndindex(2, 3, 9):
        near = [m for m in range(9) if abs(m - p) < window]
        weights = softmax(x["K"][b, h] @ x["Q"][b, h, p])
        far = [m for m in range(9) if m not in near]
        rest = weights[far] @ x["V"][b, h, far]
        own = softmax(later["K"][b, h, near] @ later["Q"][b, h, p]) @ later["V"][b, h, near]
        np.testing.assert_allclose(result[b, h, p], weights[near].sum() * own + rest, **CLOSE)
    assert (window == 9) == np.allclose(result, dense(later["Q"], later["K"], later["V"]))


MANAR = {"B": 2, "H": 3, "P": 6, "M": 6, "E": 4, "F": 5, "C": 3}


@pytest.mark.parametrize("concepts", [1, 3, 8])
def test_manar(concepts):
    workload = bound("sparse-manar", **MANAR | {"C": concepts})
    x = random_inputs(workload, seed=11)
    batch = lambda memory: np.stack([memory] * 2)
    values = dense(batch(x["QC"]), x["K"], x["V"])
    np.testing.assert_allclose(run(workload, x)["AV"], dense(x["Q"], batch(x["KC"]), values), **CLOSE)


def test_one_concept_is_the_same_for_all_tokens():
    workload = bound("sparse-manar", **MANAR | {"C": 1})
    result = run(workload, random_inputs(workload, seed=12))
    np.testing.assert_allclose(result["AV"], np.broadcast_to(result["VC"], result["AV"].shape), **CLOSE)


def test_visor():
    workload = bound("sparse-visor", B=2, H=3, P=4, M=7, D=6, E=4, F=5)
    x = random_inputs(workload, seed=13)
    project = lambda tokens, weights: np.stack([[rows @ w for w in weights] for rows in tokens])
    attended = dense(project(x["X"], x["WQ"]), project(x["Y"], x["WK"]), project(x["Y"], x["WV"]))
    expected = sum(attended[:, h] @ x["WO"][h] for h in range(3))
    np.testing.assert_allclose(run(workload, x)["O"], expected, **CLOSE)


def macs(name, **sizes):
    return analyse(bound(name, **sizes)).operations["mac"]


def reads(name, **sizes):
    return {use.name: use.elements for use in analyse(bound(name, **sizes)).tensors}


def test_what_is_kept_is_what_is_counted():
    """Scores and values of the kept alone, and of the cache the chosen blocks alone."""
    sizes = {"B": 2, "H": 8, "P": 1, "M": 4096, "E": 64, "F": 32, "M0": 64, "N": 5}
    assert macs("sparse-block-topk-decode", **sizes) == 16 * (64 * 64 + 5 * 64 * (64 + 32))
    cache = reads("sparse-block-topk-decode", **sizes)
    assert (cache["KM"], cache["K"], cache["V"]) == (16 * 64 * 64, 16 * 5 * 64 * 64, 16 * 5 * 64 * 32)
    kept = {"H": 12, "G": 10, "P": 1, "M": 500, "N": 200, "C": 40, "E": 64, "F": 32}
    used = reads("sparse-spatten-layer", **kept)
    assert (used["KH"], used["KL"], used["V"]) == (10 * 200 * 64, 10 * 200 * 64, 10 * 40 * 32)
    assert macs("sparse-spatten-layer", **kept) == 10 * (2 * 200 * 64 + 40 * 32)
    more, less = ({"B": 1, "H": 4, "M": 64, "R": 2, "E": 16, "F": 8, "N": n} for n in (32, 16))
    probing = 4 * 2 * 64 * 16
    assert macs("sparse-zipvl", **more) - probing == 4 * (macs("sparse-zipvl", **less) - probing) == 4 * 32**2 * 24


def test_listing_what_is_kept_costs_an_operation_for_each_that_is():
    """A guard that sets the place in the list equal to a count leaves one place to each that is (SEMANTICS 2.1)."""
    work = {e.name: e for e in analyse(bound("sparse-block-topk", **SMALL)).einsums}
    assert work["CB"].points == work["TB"].points == 2 * 3 * 4 * 3
    assert work["AT"].points == 2 * 3 * 4 * SMALL["N"]
    assert work["AT"].doubt


def test_a_choice_is_a_barrier():
    """What is read of it along the rank that it chooses along belongs to the next pass (SEMANTICS 1.8.2)."""
    levels = passes(load("sparse-spatten"), "m").levels
    assert levels["QKH"] == levels["TM"] + 1 and levels["AC"] == levels["VM"] + 1 and levels["VM"] == levels["A"]
    levels = passes(load("sparse-keyformer"), "m").levels
    assert levels["C"] == levels["T"] + 1 == levels["SA"] + 1
    levels = passes(load("sparse-zipvl"), "m").levels
    assert levels["T"] == levels["CB"] == levels["S"] + 1
