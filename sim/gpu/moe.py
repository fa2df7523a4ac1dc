"""A fused mixture of experts as kernels: two grouped products over rows padded per expert, and what runs beside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.gpu.figures import Figures
from sim.gpu.kernels import Array, Kernels

TILES = tuple((rows, columns) for rows in (16, 32, 64, 128) for columns in (32, 64, 128, 256))
DEPTH = 128  # bytes of the reduction in a step
BESIDE = 4.0  # kernels beside: two that sort tokens by expert, the activation, the weighted sum


@dataclass(frozen=True)
class Experts:
    """Mixtures as arrays. `skew` is the power of the experts' shares (0: even); tp and ep shard weights and experts."""

    tokens: Array
    hidden: Array
    inter: Array
    topk: Array
    experts: Array
    tp: Array
    ep: Array
    skew: Array
    gates: Array  # products of the first kind: 2 with a gate (gate and up), 1 without
    width: Array
    rate: Array


def rows_of(x: Experts) -> list[Array]:
    """Rows of each local expert that has any, of the busiest device, largest first: tokens * topk dealt by shares."""
    found: list[Array] = []
    for tokens, topk, experts, ep, skew in zip(x.tokens, x.topk, x.experts, x.ep, x.skew, strict=True):
        share = np.arange(1.0, experts + 1) ** -skew
        local = share[:: int(ep)] if skew > 0 else share[: int(experts // ep)]
        rows = tokens * topk * local / share.sum()
        dealt = np.floor(np.cumsum(rows) + 0.5)
        rows = np.minimum(np.diff(dealt, prepend=0.0), tokens)
        found.append(rows[rows > 0] if (rows > 0).any() else np.ones(1))
    return found


def moe(x: Experts, f: Figures) -> tuple[Kernels, Kernels]:
    """Gate and up together, then down, under every tile: arrays of (mapping, kernel)."""
    rows = rows_of(x)
    heights = np.array(sorted({tile for tile, _ in TILES}), float)
    tiles = np.array([[np.ceil(r / height).sum() for r in rows] for height in heights])
    busy, total = (np.array([fold(r) for r in rows], float) for fold in (len, np.sum))
    inner = x.inter / x.tp
    first = _grouped(tiles, heights, busy, total, x.gates * inner, x.hidden, x, f)
    second = _grouped(tiles, heights, busy, total, x.hidden, inner, x, f)
    everyone = x.tokens * x.topk  # activation and sum walk the rows of all experts, local or not
    beside = ((x.gates + 1) * inner + x.hidden) * 2 * everyone + 2 * x.hidden * x.tokens
    zero = np.zeros_like(second.ctas)
    return first, Kernels(**second.__dict__ | {"store_bytes": beside + zero, "more_kernels": BESIDE + zero})


def _grouped(
    tiles: Array, heights: Array, busy: Array, total: Array, n: Array, k: Array, x: Experts, f: Figures
) -> Kernels:
    height, columns = np.array(TILES, float).T[:, :, None]
    down = tiles[np.searchsorted(heights, height[:, 0])]
    depth = DEPTH / x.width
    steps = np.ceil(k / depth)
    ctas = down * np.ceil(n / columns)
    stage = (height + columns) * DEPTH
    by_registers = f.register_bytes / (2 * 4 * height * columns)
    per_sm = np.clip(np.floor(np.minimum(f.smem_bytes / (4 * stage), by_registers)), 1, 4)
    reads = np.ceil(height / 64) * (np.minimum(height, 64) + columns)
    zero = np.zeros_like(ctas)
    return Kernels(
        ctas=ctas, per_sm=per_sm + zero, drained=zero, steps=ctas * steps, longest=steps + zero, last=steps + zero,
        flop=2 * height * columns * depth, rate=x.rate, exps=zero, smem_bytes=reads * DEPTH,
        l2_bytes=ctas * steps * stage, hbm_bytes=busy * n * k * x.width + total * (k * x.width + 2 * n) + zero,
        store_bytes=zero, combine_bytes=zero, more_kernels=zero,
    )  # fmt: skip
