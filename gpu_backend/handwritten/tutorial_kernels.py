"""FlashAttention-2 forward, to be measured beside: the algorithm, tiles and tuning list of Triton's public tutorial
"Fused Attention", in this project's own words. Like it, it keeps the logarithm of the denominator for a backward pass.
"""

# Triton's language is no typed Python.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def tutorial_tiles(
    numerator, denominator, top, Q, K, V, K_ptr, V_ptr, row, first, last, p,
    D: tl.constexpr, BLOCK_N: tl.constexpr, DIAGONAL: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """The tiles of keys first..last; on the diagonal keys behind their query are left out."""
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, D)
    for start in tl.range(first, last, BLOCK_N):
        start = tl.multiple_of(start, BLOCK_N)
        if DESCRIPTORS:
            keys = K.load([row + start, 0])
        else:
            keys = tl.load(K_ptr + (row + start + n)[:, None].to(tl.int64) * D + d[None, :])
        scores = tl.dot(Q, tl.trans(keys)) * 1.4426950408889634
        if DIAGONAL:
            scores = tl.where(start + n[None, :] <= p[:, None], scores, float("-inf"))
        next_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - next_top[:, None])
        shrink = tl.exp2(top - next_top)
        numerator = numerator * shrink[:, None]
        if DESCRIPTORS:
            values = V.load([row + start, 0])
        else:
            values = tl.load(V_ptr + (row + start + n)[:, None].to(tl.int64) * D + d[None, :])
        numerator = tl.dot(weights.to(values.dtype), values, numerator)
        denominator = denominator * shrink + tl.sum(weights, 1)
        top = next_top
    return numerator, denominator, top


@triton.jit
def tutorial_attention(
    Q_ptr, K_ptr, V_ptr, AV_ptr, LSE_ptr,
    N, ROWS, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """AV of BLOCK_M queries of one head. ROWS is heads times N; N is a multiple of both tiles."""
    first = tl.program_id(0) * BLOCK_M
    row = tl.program_id(1) * N
    p = first + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    place = (row + p)[:, None].to(tl.int64) * D + d[None, :]
    if DESCRIPTORS:
        K = tl.make_tensor_descriptor(K_ptr, [ROWS, D], [D, 1], [BLOCK_N, D])
        V = tl.make_tensor_descriptor(V_ptr, [ROWS, D], [D, 1], [BLOCK_N, D])
    else:
        K = 0
        V = 0
    Q = tl.load(Q_ptr + place)
    numerator = tl.full([BLOCK_M, D], 0.0, tl.float32)
    denominator = tl.full([BLOCK_M], 1.0, tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    if CAUSAL:  # tiles before the diagonal need no mask
        numerator, denominator, top = tutorial_tiles(
            numerator, denominator, top, Q, K, V, K_ptr, V_ptr, row, 0, first, p, D, BLOCK_N, False, DESCRIPTORS
        )
        numerator, denominator, top = tutorial_tiles(
            numerator, denominator, top, Q, K, V, K_ptr, V_ptr, row, first, first + BLOCK_M, p, D, BLOCK_N, True,
            DESCRIPTORS,
        )  # fmt: skip
    else:
        numerator, denominator, top = tutorial_tiles(
            numerator, denominator, top, Q, K, V, K_ptr, V_ptr, row, 0, N, p, D, BLOCK_N, False, DESCRIPTORS
        )
    tl.store(LSE_ptr + row + p, top + tl.log2(denominator))
    AV = numerator / denominator[:, None]
    tl.store(AV_ptr + place, AV.to(AV_ptr.dtype.element_ty))
