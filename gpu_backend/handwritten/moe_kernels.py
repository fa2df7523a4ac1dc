"""A mixture of experts in five launches: count, sort, two products grouped by expert, and the sum over choices.

A pair is a token and one of its K choices; pair i is choice i % K of token i // K. Pairs are sorted by expert, and each
expert's are padded to whole blocks of ROWS, so that a block has one expert. As in MegaBlocks (MLSys 2023) and vLLM.
"""

# Triton's language is no typed Python.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def moe_count(IDS_ptr, N_ptr, PAIRS: tl.constexpr, I_TILE: tl.constexpr):
    """N[e]: how many pairs chose expert e. Every program reads all choices, so that no atomic is needed."""
    e = tl.program_id(0)
    found = tl.full([I_TILE], 0, tl.int32)
    for start in tl.range(0, PAIRS, I_TILE):
        i = start + tl.arange(0, I_TILE)
        chosen = tl.load(IDS_ptr + i, mask=i < PAIRS, other=-1)
        found += (chosen == e).to(tl.int32)
    N = tl.sum(found)
    tl.store(N_ptr + e, N)


@triton.jit
def moe_sort(
    IDS_ptr, N_ptr, SORTED_ptr, OWNER_ptr,
    PAIRS: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr,
    I_TILE: tl.constexpr, E_TILE: tl.constexpr, BLOCKS_TILE: tl.constexpr,
):  # fmt: skip
    """SORTED: the pairs of expert e in their order, then PAIRS up to a whole block. OWNER[block]: e; E where unused."""
    e = tl.program_id(0)
    x = tl.arange(0, E_TILE)
    N = tl.load(N_ptr + x, mask=x < E, other=0)
    blocks = (N + (ROWS - 1)) // ROWS
    first = tl.sum(tl.where(x < e, blocks, 0))
    last = tl.sum(tl.where(x <= e, blocks, 0))

    block = tl.arange(0, BLOCKS_TILE)
    stop = tl.where(e == E - 1, BLOCKS, last)  # the last expert marks what is left
    tl.store(OWNER_ptr + block, tl.where(block < last, e, E), mask=(block >= first) & (block < stop))

    place = first * ROWS
    for start in tl.range(0, PAIRS, I_TILE):
        i = start + tl.arange(0, I_TILE)
        chosen = tl.load(IDS_ptr + i, mask=i < PAIRS, other=-1)
        here = chosen == e
        behind = tl.cumsum(here.to(tl.int32), 0)
        tl.store(SORTED_ptr + place + behind - 1, i, mask=here)
        place += tl.sum(here.to(tl.int32))
    padding = place + tl.arange(0, ROWS)
    tl.store(SORTED_ptr + padding, tl.full([ROWS], PAIRS, tl.int32), mask=padding < last * ROWS)


@triton.jit
def moe_up(
    X_ptr, W1_ptr, W3_ptr, SORTED_ptr, OWNER_ptr, H_ptr,
    D: tl.constexpr, E: tl.constexpr, F: tl.constexpr, K: tl.constexpr, PAIRS: tl.constexpr, BLOCKS: tl.constexpr,
    ROWS: tl.constexpr, F_TILE: tl.constexpr, D_TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """H[pair,f] = silu(U) * UG with U = X * W1 and UG = X * W3 of the pair's token and expert."""
    # programs in groups of GROUP blocks, one tile of f after another: a group's weights stay in the L2 cache
    F_TILES: tl.constexpr = F // F_TILE
    group = tl.program_id(0) // (GROUP * F_TILES)
    within = tl.program_id(0) % (GROUP * F_TILES)
    height = tl.minimum(BLOCKS - group * GROUP, GROUP)
    block = group * GROUP + within % height
    f = within // height * F_TILE + tl.arange(0, F_TILE)
    e = tl.load(OWNER_ptr + block).to(tl.int64)
    if e == E:
        return
    pair = tl.load(SORTED_ptr + block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    there = pair < PAIRS
    t = pair // K
    U = tl.full([ROWS, F_TILE], 0.0, tl.float32)
    UG = tl.full([ROWS, F_TILE], 0.0, tl.float32)
    for d_tile in tl.range(0, D // D_TILE):
        d = d_tile * D_TILE + tl.arange(0, D_TILE)
        X = tl.load(X_ptr + t[:, None] * D + d[None, :], mask=there[:, None], other=0.0)
        W1 = tl.load(W1_ptr + e * (D * F) + d[:, None] * F + f[None, :])
        W3 = tl.load(W3_ptr + e * (D * F) + d[:, None] * F + f[None, :])
        U = tl.dot(X, W1, U, input_precision="ieee")
        UG = tl.dot(X, W3, UG, input_precision="ieee")
    H = U / (1.0 + tl.exp2(U * -1.4426950408889634)) * UG
    tl.store(H_ptr + pair[:, None] * F + f[None, :], H.to(H_ptr.dtype.element_ty), mask=there[:, None])


@triton.jit
def moe_down(
    H_ptr, W2_ptr, G_ptr, SORTED_ptr, OWNER_ptr, Y_ptr,
    D: tl.constexpr, E: tl.constexpr, F: tl.constexpr, PAIRS: tl.constexpr, BLOCKS: tl.constexpr,
    ROWS: tl.constexpr, D_TILE: tl.constexpr, F_TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Y[pair,d] = G[pair] * H * W2, the weighted result of the pair's expert."""
    D_TILES: tl.constexpr = D // D_TILE
    group = tl.program_id(0) // (GROUP * D_TILES)
    within = tl.program_id(0) % (GROUP * D_TILES)
    height = tl.minimum(BLOCKS - group * GROUP, GROUP)
    block = group * GROUP + within % height
    d = within // height * D_TILE + tl.arange(0, D_TILE)
    e = tl.load(OWNER_ptr + block).to(tl.int64)
    if e == E:
        return
    pair = tl.load(SORTED_ptr + block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    there = pair < PAIRS
    Y = tl.full([ROWS, D_TILE], 0.0, tl.float32)
    for f_tile in tl.range(0, F // F_TILE):
        f = f_tile * F_TILE + tl.arange(0, F_TILE)
        H = tl.load(H_ptr + pair[:, None] * F + f[None, :], mask=there[:, None], other=0.0)
        W2 = tl.load(W2_ptr + e * (F * D) + f[:, None] * D + d[None, :])
        Y = tl.dot(H, W2, Y, input_precision="ieee")
    G = tl.load(G_ptr + pair, mask=there, other=0.0)
    Y = Y * G[:, None]
    tl.store(Y_ptr + pair[:, None] * D + d[None, :], Y.to(Y_ptr.dtype.element_ty), mask=there[:, None])


@triton.jit
def moe_combine(
    Y_ptr, O_ptr,
    D: tl.constexpr, K: tl.constexpr, T: tl.constexpr, T_TILE: tl.constexpr, D_TILE: tl.constexpr,
):  # fmt: skip
    """O[t,d]: the sum of a token's K weighted results."""
    D_TILES: tl.constexpr = D // D_TILE
    t = (tl.program_id(0) // D_TILES * T_TILE + tl.arange(0, T_TILE)).to(tl.int64)
    d = tl.program_id(0) % D_TILES * D_TILE + tl.arange(0, D_TILE)
    total = tl.full([T_TILE, D_TILE], 0.0, tl.float32)
    for k in tl.range(0, K):
        Y = tl.load(Y_ptr + (t[:, None] * K + k) * D + d[None, :], mask=t[:, None] < T, other=0.0)
        total += Y
    tl.store(O_ptr + t[:, None] * D + d[None, :], total.to(O_ptr.dtype.element_ty), mask=t[:, None] < T)
