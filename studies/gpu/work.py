"""What a kernel must do at least: useful operations and compulsory bytes, from its shape alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.gpu.figures import TENSOR_RATE
from studies.gpu.data import Array, Points
from studies.gpu.schema import WIDTH


class Work(NamedTuple):
    """Useful floating-point operations (two each multiply-accumulate), bytes each moved once, and the tensor units'
    throughput over that for 16-bit floats."""

    flop: Array
    bytes: Array
    rate: Array


def widths(points: Points) -> tuple[Array, Array]:
    """Bytes of an element in products, and of a K or V element in memory."""
    width = np.array([WIDTH[d] for d in points["dtype"].tolist()])
    kv = np.array([WIDTH.get(d, 0.0) for d in points["kv_dtype"].tolist()])
    return width, np.where(kv > 0, kv, width)


def useful(points: Points) -> Work:
    """The work of kernels of any kind; energy rows, which are whole models, have none."""
    s, kind = points.shape, points["kind"]
    width, kv_width = widths(points)
    rate = np.array([TENSOR_RATE[d] for d in points["dtype"].tolist()])
    q, k = s["queries"], s["keys"]
    pairs = np.where(s["causal"] > 0, q * (k - q) + q * (q + 1) / 2, q * k)
    heads = s["batch"] * s["heads"]
    per_token = s["batch"] * s["kv_heads"] * s["dim"]
    routed = s["tokens"] * s["topk"] / np.maximum(s["tp"] * s["ep"], 1)
    touched = np.minimum(s["experts"] / np.maximum(s["ep"], 1), routed * np.maximum(s["tp"], 1))
    expert = 3 * s["hidden"] * s["inter"] / np.maximum(s["tp"], 1)
    latent = 576.0 + 512.0  # DeepSeek's MLA decodes on 512 latent elements and 64 with positions
    flop = {
        "gemm": 2 * s["m"] * s["n"] * s["k"],
        "moe": 6 * routed * s["hidden"] * s["inter"],
        "mla-decode": 2 * heads * pairs * latent,
        "mla-prefill": 2 * heads * pairs * (192 + 128),
        "rowwise": 0 * s["m"],
        "energy": 0 * s["m"],
    }
    moved = {
        "gemm": (s["m"] * s["k"] + s["k"] * s["n"]) * width + 2 * s["m"] * s["n"],
        "moe": touched * expert * width + 4 * s["tokens"] * s["hidden"],
        "mla-decode": s["batch"] * k * 576 * kv_width + 2 * heads * q * latent,
        "mla-prefill": 2 * heads * q * (192 + 192 + 128 + 128),
        "rowwise": 4 * s["m"] * s["n"],
        "energy": 0 * s["m"],
    }
    kinds = list(flop)
    where = [kind == name for name in kinds]
    attention_flop = 4 * heads * pairs * s["dim"]
    attention_bytes = 2 * per_token * k * kv_width + 2 * 2 * heads * q * s["dim"]
    return Work(
        np.select(where, [flop[name] for name in kinds], attention_flop),
        np.select(where, [moved[name] for name in kinds], attention_bytes),
        rate,
    )
