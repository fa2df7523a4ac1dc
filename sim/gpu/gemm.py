"""Matrix products as kernels: tiles, split reductions, L2 reuse by raster order."""

from __future__ import annotations

import numpy as np

from sim.gpu.figures import Figures
from sim.gpu.kernels import Array, Kernels

# Tiles of CUTLASS and cuBLAS kernels: rows of the output by columns; the reduction in chunks of `DEPTH` bytes.
TILES = (
    (256, 128), (128, 256), (192, 128), (128, 192), (128, 128), (256, 64), (64, 256), (128, 64), (64, 128), (64, 64),
    (64, 32), (64, 16),
)  # fmt: skip
SPLITS = (1, 2, 3, 4, 6, 8, 16)
DEPTH = 128  # bytes of the reduction in a step
WARPGROUP_ROWS = 64  # an operand in shared memory is read once for each group of rows (wgmma), or warp tile (mma)


def mappings() -> tuple[tuple[int, int, int], ...]:
    """(rows, columns, split) of every mapping that `gemm` returns, in its order."""
    return tuple((*tile, split) for tile in TILES for split in SPLITS)


def gemm(m: Array, n: Array, k: Array, width: Array, rate: Array, f: Figures) -> Kernels:
    """Every mapping of m x k by k x n products of elements `width` bytes wide; arrays of (mapping, kernel)."""
    rows, columns, split = np.array(mappings(), float).T[:, :, None]
    depth = DEPTH / width
    steps = np.ceil(np.ceil(k / depth) / split)
    down, across = np.ceil(m / rows), np.ceil(n / columns)
    ctas = down * across * split
    asynchronous = f.flop_per_clock >= 4096  # wgmma: the other operand is read by whole warpgroups, loads are multicast
    warp_columns = columns if asynchronous else np.minimum(columns, WARPGROUP_ROWS)
    reads = np.ceil(rows / WARPGROUP_ROWS) * np.ceil(columns / warp_columns) * (WARPGROUP_ROWS + warp_columns)
    stage = (rows + columns) * DEPTH
    by_registers = f.register_bytes / (2 * 4 * rows * columns)  # accumulators take half of the registers
    per_sm = np.clip(np.floor(np.minimum(f.smem_bytes / (4 * stage), by_registers)), 1, 4)
    fetched = _fetched(ctas, per_sm * f.sms, down, across, rows, columns) * steps * DEPTH
    operands = (m + n) * k * width
    once = np.where(operands <= f.l2_bytes, operands, np.maximum(fetched, operands))
    partial = np.where(split > 1, 2 * 4 * split * m * n, 0.0)
    zero = np.zeros_like(ctas)
    return Kernels(
        ctas=ctas, per_sm=per_sm, drained=zero,
       steps=ctas * steps, longest=steps, last=steps,
        flop=2 * rows * columns * depth, rate=rate, exps=zero, smem_bytes=reads * DEPTH,
        l2_bytes=ctas * steps * stage / (2 if asynchronous else 1), hbm_bytes=once + 2 * m * n,
        store_bytes=zero, combine_bytes=partial,
        more_kernels=np.where(partial > 0, 1.0, 0.0),
    )  # fmt: skip


def _fetched(ctas: Array, slots: Array, down: Array, across: Array, rows: Array, columns: Array) -> Array:
    """Rows and columns that come from HBM when each wave of CTAs is as square as can be and shares its operands."""
    wave = np.minimum(ctas, slots)
    high = np.clip(np.sqrt(wave * columns / rows), 1, down)
    wide = np.minimum(np.ceil(wave / high), across)
    high = np.minimum(np.ceil(wave / wide), down)
    return np.ceil(ctas / wave) * (high * rows + wide * columns)
