"""What points compute, written plainly and part by part, at the sizes at which they are timed.

Part of a job folder. `gpu` brings the arrays' library: torch on a GPU in fp32, numpy in a dry run in fp64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

ROWS = 2048  # of scores at a time
Parts = Iterator[tuple[Any, Any]]  # what was found, and what it should be


def error(gpu, kind: str, tensors: dict) -> float:
    """Largest error over the largest value; infinite if anything found is not a number."""
    worst = largest = 0.0
    for found, exact in REFERENCES[kind](gpu, {name: gpu.plain(tensor) for name, tensor in tensors.items()}):
        if not bool(gpu.math.isfinite(gpu.wide(found)).all()):
            return float("inf")
        worst = max(worst, float(abs(gpu.wide(found) - exact).max()))
        largest = max(largest, float(abs(exact).max()))
    return worst / largest


def _weighted(gpu, scores, values):
    """The values by the softmax of each row of scores."""
    weights = gpu.math.exp(scores - gpu.math.amax(scores, -1)[:, None])
    return weights @ values / weights.sum(-1)[:, None]


def _attention(gpu, x: dict, causal: bool = False) -> Parts:
    """Q[b,h,...,p,e] with a head of keys K[b,h,m,e] for each b and h."""
    for lead in np.ndindex(*x["K"].shape[:2]):
        tokens, keys, values = x["Q"].shape[-2], gpu.wide(x["K"][lead]), gpu.wide(x["V"][lead])
        queries, found = (x[name][lead].reshape(-1, x[name].shape[-1]) for name in ("Q", "AV"))
        for start in range(0, len(queries), ROWS):
            rows = slice(start, start + ROWS)
            scores = gpu.wide(queries[rows]) @ keys.T
            if causal:
                p = (start + gpu.arange(len(scores))) % tokens
                scores = gpu.math.where(gpu.arange(len(keys))[None, :] <= p[:, None], scores, float("-inf"))
            yield found[rows], _weighted(gpu, scores, values)


def _causal(gpu, x: dict) -> Parts:
    return _attention(gpu, x, causal=True)


def _latent(gpu, x: dict) -> Parts:
    """Queries of latent and rotary parts against the cache of both; values are the latent vectors."""
    for b in range(len(x["L"])):
        latent = gpu.wide(x["L"][b])
        scores = gpu.wide(x["QL"][b]) @ latent.T + gpu.wide(x["QR"][b]) @ gpu.wide(x["KR"][b]).T
        yield x["AL"][b], _weighted(gpu, scores, latent)


def _paged(gpu, x: dict) -> Parts:
    """One query, R heads for each head of keys; keys and values behind a page table."""
    pages, lengths = (gpu.whole(x[name]) for name in ("PT", "LEN"))
    size = x["KP"].shape[2]
    for b, length in enumerate(lengths):
        m = np.arange(length)
        page, slot = gpu.index(pages[b, m // size]), gpu.index(m % size)
        keys, values = (gpu.wide(x[name][page, :, slot]) for name in ("KP", "VP"))
        for g in range(keys.shape[1]):
            yield x["AV"][b, g, :, 0], _weighted(gpu, gpu.wide(x["Q"][b, g, :, 0]) @ keys[:, g].T, values[:, g])


def _product(gpu, x: dict) -> Parts:
    right = gpu.wide(x["B"])
    for start in range(0, len(x["A"]), ROWS):
        yield x["C"][start : start + ROWS], gpu.wide(x["A"][start : start + ROWS]) @ right


def _experts(gpu, x: dict) -> Parts:
    """Expert by expert, on the tokens that chose it."""
    chosen, total = gpu.whole(x["IDS"]), gpu.wide(x["X"]) * 0
    for e in np.unique(chosen):
        t, k = map(gpu.index, np.nonzero(chosen == e))
        tokens = gpu.wide(x["X"][t])
        gate, up = tokens @ gpu.wide(x["W1"][e]), tokens @ gpu.wide(x["W3"][e])
        result = (gate / (1 + gpu.math.exp(-gate)) * up) @ gpu.wide(x["W2"][e])
        total[t] = total[t] + gpu.wide(x["G"][t, k])[:, None] * result  # an expert's tokens are distinct
    yield x["O"], total


REFERENCES: dict[str, Callable[[Any, dict], Parts]] = {
    "attention": _attention,
    "causal attention": _causal,
    "latent attention": _latent,
    "paged attention": _paged,
    "product": _product,
    "experts": _experts,
}
