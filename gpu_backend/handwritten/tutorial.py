"""The attention kernel of Triton's public tutorial as a rival: its tuning list for an attention workload."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from einsum.cascade import Workload
from gpu_backend.handwritten.text import arguments, kernel
from gpu_backend.kernel import Argument, Kernel

NAME = "triton tutorial"
FILE = "tutorial_kernels.py"
LARGEST = 128 * 128  # elements of a block of scores; of smaller ones eight warps get too little


def candidates(workload: Workload, causal: bool) -> Iterator[Kernel]:
    """Launches with every tile, depth and number of warps of the tutorial's list for Hopper, with loads by pointer and
    by tensor descriptor; the fastest counts. Q, K and V have the same ranks b, h, sequence, width."""
    heads, tokens, width = (workload.sizes[name] for name in ("H", "P", "E"))
    heads *= workload.sizes["B"]
    tensors = arguments(workload) | {"LSE": Argument("LSE", "fp32", (heads, tokens), False)}
    options = product((False, True), (64, 128), (32, 64, 128), (2, 3, 4), (4, 8))
    for descriptors, rows, keys, stages, warps in options:
        if (warps == 8 and rows * keys < LARGEST) or rows > tokens or keys > tokens or (causal and keys > rows):
            continue
        constants = {"N": tokens, "ROWS": heads * tokens, "D": width, "BLOCK_M": rows, "BLOCK_N": keys}
        constants |= {"CAUSAL": int(causal), "DESCRIPTORS": int(descriptors)}
        grid = (tokens // rows, heads)
        yield kernel(FILE, tensors, "tutorial_attention", ("AV", "LSE"), constants, grid, warps, stages)
