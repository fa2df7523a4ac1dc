"""Attention as kernels: FlashAttention's tiles, causal blocks, packed query heads, split keys with a combination."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.gpu.figures import Figures
from sim.gpu.kernels import Array, Kernels

MOST_SPLITS = 128
BUSY = 0.8  # share of the SMs that CTAs must fill for keys not to be split
ENOUGH = 0.85  # of the best filling of the last wave: the fewest splits that reach it are taken
FEW_BLOCKS = 4  # not worth a split
# (head dim up to, query rows, keys when all are seen, keys when causal): Dao-AILab/flash-attention 0251105a,
# hopper/tile_size.h, as in studies/reference/gpu/fa_tile_configs.csv; split keys take another tile on
# sm80, and one query a single warp group on sm90 where it holds the rows of all heads.
SM80 = ((64, 128, 112, 112), (128, 128, 64, 64), (256, 128, 64, 64))
SM80_SPLIT = ((64, 128, 80, 80), (128, 128, 112, 112), (256, 128, 48, 48))
SM90 = ((64, 192, 192, 128), (96, 192, 144, 144), (128, 128, 176, 128), (192, 128, 112, 112), (256, 128, 80, 80))
SM90_FP8 = ((64, 192, 160, 160), (128, 128, 224, 224), (256, 128, 128, 128))
SM90_DIMS = (64, 96, 128, 192, 256, 512, 576)
ONE_GROUP = 64  # rows of a warp group


@dataclass(frozen=True)
class Heads:
    """Attention problems as arrays; counts, widths in bytes of an element, `rate` of the tensor units."""

    batch: Array
    queries: Array
    keys: Array
    heads: Array
    kv_heads: Array
    dim: Array
    causal: Array
    width: Array  # of Q, K and V in the products
    kv_width: Array  # of K and V in memory
    rate: Array
    packs: Array  # 1 where query heads of a group share tiles (FlashAttention 3 on tokens of varying lengths)
    combines: Array  # 1 where keys pass through the kernel that combines splits even if there is only one
    prepares: Array  # kernels before it that schedule the splits, or write the new key
    stores: Array  # 1 where the call also writes K and V to their cache


def tiles(h: Heads, f: Figures, split: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Query rows and keys of a tile, where keys are `split` or not, and the padded head dim."""
    asynchronous = f.flop_per_clock >= 4096
    tables = ((SM90, h.width >= 2), (SM90_FP8, h.width < 2)) if asynchronous else ((SM80, ~split), (SM80_SPLIT, split))
    rows, keys = np.zeros_like(h.dim), np.zeros_like(h.dim)
    for table, mine in tables:
        at = np.minimum(np.searchsorted([row[0] for row in table], h.dim), len(table) - 1)
        chosen = np.array(table, float)[at]
        rows = np.where(mine, chosen[:, 1], rows)
        keys = np.where(mine, np.where(h.causal > 0, chosen[:, 3], chosen[:, 2]), keys)
    if asynchronous:
        fits = (h.queries == 1) & (h.heads / h.kv_heads <= ONE_GROUP)
        rows = np.where(fits, ONE_GROUP, rows)
    dims = np.array(SM90_DIMS, float) if asynchronous else np.arange(32.0, 577, 32)
    return rows, keys, dims[np.minimum(np.searchsorted(dims, h.dim), len(dims) - 1)]


def splits(ctas: Array, blocks: Array, sms: int) -> Array:
    """Into how many parts FlashAttention splits the keys of few CTAs (its `num_splits_heuristic`)."""
    count = np.arange(1.0, MOST_SPLITS + 1)[:, None]
    waves = ctas * count / sms
    legal = count <= np.minimum(blocks, sms)
    filling = np.where(legal, waves / np.ceil(waves), 0.0)
    first = 1.0 + np.argmax(filling >= ENOUGH * filling.max(axis=0), axis=0)
    return np.where((ctas >= BUSY * sms) | (blocks <= FEW_BLOCKS), 1.0, first)


def attention(h: Heads, f: Figures) -> Kernels:
    """One mapping each; arrays of (1, kernel). Keys are split for a single query, query heads share rows of a tile."""
    asynchronous = f.flop_per_clock >= 4096
    one = (h.queries == 1) & (h.causal == 0)
    rows, keys, dim = tiles(h, f, one)
    packed = np.where(h.packs > 0, h.heads / h.kv_heads, 1.0)  # query heads whose rows are in one tile
    jobs = h.batch * h.heads / packed
    down = np.ceil(h.queries * packed / rows)  # the same with or without a split
    split = np.where(one, splits(jobs * down, np.ceil(h.keys / keys), f.sms), 1.0)
    _, keys, _ = tiles(h, f, split > 1)
    blocks = np.ceil(h.keys / keys)
    longest = np.ceil(blocks / split)
    total = np.where(h.causal > 0, causal_blocks(h.queries, h.keys, packed, rows, keys), down * longest * split)
    resident = np.clip(np.floor(f.smem_bytes / ((rows + 2 * keys) * dim * h.width)), 1, 1 if asynchronous else 2)
    kv = 2 * h.batch * h.keys * h.kv_heads * h.dim * h.kv_width
    ends = 2 * h.batch * h.queries * h.heads * h.dim * 2
    combines = np.where((split > 1) | (h.combines > 0), 1.0, 0.0)
    zero = np.zeros_like(jobs)
    return Kernels(
        ctas=jobs * down * split, per_sm=resident,
        drained=1.0 * h.packs, steps=jobs * total, longest=longest,
        last=total / (down * split) if asynchronous else longest,  # sm90 starts the long tiles of a head first
        flop=4 * rows * keys * dim, rate=h.rate, exps=rows * keys, smem_bytes=zero,
        l2_bytes=jobs * total * 2 * keys * dim * h.kv_width, hbm_bytes=kv + ends,
        store_bytes=2 * kv * h.stores,
        combine_bytes=combines * 2 * 4 * split * h.batch * h.queries * h.heads * h.dim,
        more_kernels=combines + h.stores + h.prepares,
    ).lifted()  # fmt: skip


def causal_blocks(queries: Array, keys: Array, packed: Array, rows: Array, block: Array) -> Array:
    """Blocks of keys that the tiles of one head's queries see, the last query seeing all: a sum over its tiles.

    Tile i ends with query ceil((i + 1) rows / packed). Equal problems are computed once.
    """
    problems = np.stack(np.broadcast_arrays(queries, keys, packed, rows, block)).astype(float)
    unique, which = np.unique(problems, axis=1, return_inverse=True)
    counts = np.empty(unique.shape[1])
    for index, (q, k, p, r, b) in enumerate(unique.T):
        ends = np.minimum(np.ceil(np.arange(1, np.ceil(q * p / r) + 1) * r / p), q)
        counts[index] = np.ceil((ends + k - q) / b).sum()
    return counts[which.ravel()]
