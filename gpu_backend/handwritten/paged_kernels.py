"""Decoding one query with its keys and values in pages: parts of the keys side by side, then the parts combined.

The R query heads that share a head of keys are the rows of the products (FlashInfer's and vLLM's packing). A request's
tiles of M0 keys are dealt out evenly to SPLITS programs by its own length, so that a long request is not one program's.
"""

# Triton's language is no typed Python.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def paged_parts(
    Q_ptr, KP_ptr, VP_ptr, PT_ptr, LEN_ptr, RM_ptr, RD_ptr, RNV_ptr,
    E: tl.constexpr, F: tl.constexpr, G: tl.constexpr, J: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    M0: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Running maximum RM (of base-2 logits), denominator RD and numerator RNV of one part of a request's keys."""
    split = tl.program_id(0) % SPLITS
    bg = (tl.program_id(0) // SPLITS).to(tl.int64)
    b = bg // G
    g = bg % G
    r = tl.arange(0, ROWS)
    m0 = tl.arange(0, M0)
    e = tl.arange(0, E)
    f = tl.arange(0, F)
    Q = tl.load(Q_ptr + (bg * R + r[:, None]) * E + e[None, :], mask=r[:, None] < R, other=0.0)
    LEN = tl.load(LEN_ptr + b)
    tiles = tl.cdiv(LEN, M0)
    each = tl.cdiv(tiles, SPLITS)
    RM = tl.full([ROWS], float("-inf"), tl.float32)
    RD = tl.full([ROWS], 0.0, tl.float32)
    RNV = tl.full([ROWS, F], 0.0, tl.float32)
    for tile in tl.range(split * each, tl.minimum(split * each + each, tiles)):
        m = tile * M0 + m0
        there = m < LEN
        page = tl.load(PT_ptr + b * J + m // S, mask=there, other=0).to(tl.int64)
        row = (page * G + g) * S + m % S
        KP = tl.load(KP_ptr + row[:, None] * E + e[None, :], mask=there[:, None], other=0.0)
        VP = tl.load(VP_ptr + row[:, None] * F + f[None, :], mask=there[:, None], other=0.0)
        QK = tl.dot(Q, tl.trans(KP), input_precision="ieee") * 1.4426950408889634
        QK = tl.where(there[None, :], QK, float("-inf"))
        RM_next = tl.maximum(RM, tl.max(QK, 1))
        SLN = tl.exp2(QK - RM_next[:, None])
        PRM = tl.exp2(RM - RM_next)
        RD = RD * PRM + tl.sum(SLN, 1)
        RNV = RNV * PRM[:, None]
        RNV = tl.dot(SLN.to(VP.dtype), VP, RNV, input_precision="ieee")
        RM = RM_next
    part = (bg * R + r) * SPLITS + split
    tl.store(RM_ptr + part, RM, mask=r < R)
    tl.store(RD_ptr + part, RD, mask=r < R)
    tl.store(RNV_ptr + part[:, None] * F + f[None, :], RNV, mask=r[:, None] < R)


@triton.jit
def paged_combine(RM_ptr, RD_ptr, RNV_ptr, AV_ptr, F: tl.constexpr, SPLITS: tl.constexpr):
    """AV of one head: its parts, carried to the maximum of all of them. A part without keys has weight 0."""
    head = tl.program_id(0).to(tl.int64)
    part = head * SPLITS + tl.arange(0, SPLITS)
    f = tl.arange(0, F)
    RM = tl.load(RM_ptr + part)
    RD = tl.load(RD_ptr + part)
    RNV = tl.load(RNV_ptr + part[:, None] * F + f[None, :])
    GM = tl.max(RM, 0, keep_dims=True)
    CM = tl.exp2(RM - GM)
    SD = tl.sum(RD * CM, 0, keep_dims=True)
    AV = tl.sum(RNV * CM[:, None], 0) / SD
    tl.store(AV_ptr + head * F + f, AV.to(AV_ptr.dtype.element_ty))
