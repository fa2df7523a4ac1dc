"""A mixture of experts on a GPU: blocks of rows of each expert as a grid, as many as it needs (SEMANTICS 4.17)."""

from __future__ import annotations

from arch.machine import Machine
from einsum.cascade import Cascade
from einsum.problems import InputError, Problem
from mapper.fusemax import sizes_of
from mapper.kernel_gpu import Kernel, Sizes, mapped
from mapper.mapping import Mapping

ROWS = ((8, 16), (16, 32), (64, 64))  # up to so many tokens an expert on average: rows of a block (vLLM's for H100)
MOST_ROWS = 128


def block_rows(average: float) -> int:
    """Rows of a block for experts with so many tokens on average."""
    return next((block for most, block in ROWS if average <= most), MOST_ROWS)


def fused_moe(
    cascade: Cascade, machine: Machine, sizes: Sizes, rows: int = 0, columns: int = 64, depth: int = 64, stages: int = 3
) -> Mapping:
    """Three kernels, as of the fused mixture written by hand: rows gathered, gate and up products and the activation;
    the down product; the sum over a token's choices. `rows` 0: by the average number of tokens of an expert."""
    names = [e.name for e in cascade.einsums]
    if names != ["U", "H", "YE", "Y"]:
        raise InputError(Problem("gpu-moe maps moe-grouped", path="mapping"))
    tokens, choices, experts = sizes_of(sizes, "T K E")
    rows = rows or block_rows(tokens * choices / experts)
    kernels = (
        Kernel("up", ("U", "H"), {"e": 1, "c": rows, "i": columns}, ("d", depth), stages, ragged=True),
        Kernel("down", ("YE",), {"e": 1, "c": rows, "d": columns}, ("i", depth), stages, ragged=True),
        Kernel("combine", ("Y",), {"t": 4, "d": columns}),
    )
    return mapped("gpu-moe", cascade, machine, kernels, {})
