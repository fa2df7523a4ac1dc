"""Mappings to a GPU: thread blocks over tiles of the outputs, a tile loop inside, operands staged through `smem`.

Each generator says which ranks the thread blocks split, which rank the tile loop walks, and which Einsums stand in
which group; `mapper.kernel_gpu` makes the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping as Dict
from functools import partial

from arch.machine import Machine
from einsum.cascade import Access, Cascade, rank_variables, walk
from einsum.ops import is_view
from einsum.problems import InputError, Problem
from mapper.experts import fused_moe
from mapper.fusemax import sizes_of
from mapper.kernel_gpu import Kernel, Sizes, is_product, mapped, power_of_two
from mapper.mapping import Mapping

LINE = 128  # columns of a block of what is computed element by element


def _names(cascade: Cascade) -> tuple[str, ...]:
    """The computed Einsums."""
    return tuple(e.name for e in cascade.einsums if not is_view(e))


def _needs(mapping: str, what: str, given: object) -> None:
    """InputError unless the cascade is of the kind that a mapping is for."""
    if not given:
        raise InputError(Problem(f"{mapping} maps {what}", path="mapping"))


def bounded_by_guards(cascade: Cascade, rank: str) -> bool:
    """Whether a guard without data bounds the rank."""
    for guard in (g for e in cascade.einsums for g in e.guards):
        nodes = (*walk(guard.left), *walk(guard.right))
        if rank in (*rank_variables(guard.left), *rank_variables(guard.right)):
            return not any(isinstance(node, Access) for node in nodes)
    return False


def _heads(cascade: Cascade, output: str, rows: Dict[str, int]) -> dict[str, int]:
    """A grid over the ranks of an output: `rows` in tiles, the last rank whole, every other one at a time."""
    ranks = cascade.tensor[output].ranks
    return {r: rows.get(r, 1) for r in ranks if r in rows or r != ranks[-1]}


def flash_attention(
    cascade: Cascade,
    machine: Machine,
    sizes: Sizes,
    block_m: int = 64,
    block_n: int = 64,
    stages: int = 2,
    fill: str = "dynamic",
    tma: bool = False,
) -> Mapping:
    """FlashAttention-2 for any 1-pass attention: a block of queries of one head for each tile of the grid."""
    _needs("flash-attention", "1-pass attention over tiles m1 of the keys", "m1" in cascade.ranks and "RM" in cascade)
    block_m = min(block_m, power_of_two(sizes["P"])) if "P" in sizes else 16
    output = cascade.outputs[0]
    rows = "p" if "p" in cascade.ranks else "h"  # decoding one query, its heads are the rows of the products
    kernel = Kernel(
        "attention",
        _names(cascade),
        _heads(cascade, output, {rows: block_m}),
        ("m1", 1),
        stages,
        guarded=bounded_by_guards(cascade, "m1"),
        fill=fill,
        tma=tma,
    )
    return mapped(_named("flash-attention", kernel), cascade, machine, (kernel,), {"M0": block_n})


def _named(base: str, kernel: Kernel) -> str:
    """A mapping's name with what sets its grid and its transfers apart."""
    apart = {"persistent": kernel.fill in ("cyclic", "sorted"), "grouped": kernel.group > 1, "tma": kernel.tma}
    return "-".join([base, *(word for word, is_so in apart.items() if is_so)])


def decode(
    cascade: Cascade, machine: Machine, sizes: Sizes, block_m: int = 16, block_n: int = 64, splits: int = 4
) -> Mapping:
    """Flash-Decoding: thread blocks for parts of the keys, then a kernel that combines the parts."""
    _needs("gpu-decode", "attention in parts m2 of the keys", "m2" in cascade.ranks and "GM" in cascade)
    names = _names(cascade)
    cut = names.index("GM")
    grid = _heads(cascade, "AV", {"p": block_m})
    split = {r: t for r, t in grid.items() if r != "p"} | {"m2": 1, "p": block_m}
    parts = Kernel("parts", names[:cut], split, ("m1", 1), guarded=bounded_by_guards(cascade, "m1"))
    combine = Kernel("combine", names[cut:], grid)
    return mapped("gpu-decode", cascade, machine, (parts, combine), {"M0": block_n, "M2": splits})


def rows(cascade: Cascade, machine: Machine, sizes: Sizes, block: int = 16) -> Mapping:
    """Whole rows on chip: a block of the output's rows for each thread block, everything else in one piece.

    Ranks that are no power of two are covered by the next one. A rank that nothing reduces is cut into blocks.
    """
    output = cascade.outputs[0]
    ranks = cascade.tensor[output].ranks
    *outer, lead = ranks[:-1] or ranks
    grid = dict.fromkeys(outer, 1) | {lead: block}
    whole = tuple(r for r in cascade.ranks if r not in grid)
    extents = dict(zip(whole, sizes_of(sizes, " ".join(r.upper() for r in whole)), strict=True))
    gathered = {r for e in cascade.einsums for r in (*e.reduced, *(e.topk.ranks if e.topk else ()))}
    covered = {r: power_of_two(n) for r, n in extents.items()}
    cut = {r: n if r in gathered else min(n, LINE) for r, n in covered.items()}
    ragged = {r: n for r, n in cut.items() if n != extents[r]}
    return mapped("gpu-rows", cascade, machine, (Kernel("rows", _names(cascade), grid | ragged),), {})


def row_blocks(cascade: Cascade, machine: Machine, sizes: Sizes, block: int = 16) -> Mapping:
    """Rows in blocks b: a thread block walks the rows of its block, whole, and keeps what it sums over them.

    What is summed over the blocks comes from a second kernel, whose thread blocks split the columns.
    """
    _needs("gpu-row-blocks", "rows t of columns d in blocks b", {"b", "t", "d"} == set(cascade.ranks))
    blocks, columns = sizes_of(sizes, "B D")
    names = _names(cascade)
    sums = tuple(n for n in names if "b" in cascade[n].reduced)
    wide = power_of_two(columns)
    ragged = {"d": wide} if wide > columns else {}
    each = tuple(n for n in names if n not in sums)
    kernels = (
        Kernel("rows", each, {"b": 1, **ragged}, ("t", block), whole=(("d", columns),)),
        Kernel("sums", sums, {"d": min(wide, LINE)}, ("b", min(power_of_two(blocks), block))),
    )
    return mapped("gpu-row-blocks", cascade, machine, kernels, {})


def unfused(cascade: Cascade, machine: Machine, sizes: Sizes, block_m: int = 64, block_n: int = 64) -> Mapping:
    """Softmax attention in three kernels with the scores in memory between them, as frameworks run it eagerly."""
    _needs("gpu-unfused", "attention with scores QK and probabilities A", {"QK", "A", "AV"} <= set(_names(cascade)))
    (keys,) = sizes_of(sizes, "M")
    names = _names(cascade)
    heads = {r: 1 for r in cascade.tensor["AV"].ranks if r not in ("p", "f")}
    softmax, last = names[1 : names.index("A") + 1], names[names.index("A") + 1 :]
    kernels = (
        Kernel("QK", names[:1], heads | {"p": block_m, "m": block_n}),
        Kernel("softmax", softmax, heads | {"p": 16, "m": power_of_two(keys)}),
        Kernel("AV", last, heads | {"p": block_m}, ("m", block_n)),
    )
    return mapped("gpu-unfused", cascade, machine, kernels, {})


def passes(cascade: Cascade, machine: Machine, sizes: Sizes, block_m: int = 64, block_n: int = 64) -> Mapping:
    """Several passes over the keys, one tile loop after another: each ends where a reduction over all keys does.

    One thread block makes all passes over `m` and keeps the reductions' results in registers. Passes over tiles `m1`
    are kernels of their own, as what they keep of each tile passes through memory.
    """
    _needs("gpu-passes", "attention over keys m", "AV" in cascade and {"m", "m1"} & set(cascade.ranks))
    tiled = "m1" in cascade.ranks
    rank, tile = ("m1", 1) if tiled else ("m", block_n)
    sections = _passes(cascade, rank)
    grid, guarded = _heads(cascade, "AV", {"p": block_m}), bounded_by_guards(cascade, rank)
    kernels = tuple(
        Kernel(
            f"pass{i + 1}",
            section,
            grid,
            (rank, tile),
            kept=() if tiled else _kept(cascade, sections, i),
            guarded=guarded,
        )
        for i, section in enumerate(sections)
    )
    return mapped("gpu-passes", cascade, machine, kernels, {"M0": block_n} if tiled else {})


def _kept(cascade: Cascade, sections: tuple[tuple[str, ...], ...], i: int) -> tuple[str, ...]:
    """What section i takes over from earlier ones, for itself or those after it, and what it leaves for them."""
    reads = lambda section: [a.tensor for n in section for a in cascade[n].reads]
    before = {n for section in sections[:i] for n in section}
    later = [t for section in sections[i + 1 :] for t in reads(section)]
    taken = [t for section in sections[i:] for t in reads(section) if t in before]
    return tuple(dict.fromkeys((*(["Q"] if i else []), *taken, *(n for n in sections[i] if n in later))))


def _passes(cascade: Cascade, rank: str) -> tuple[tuple[str, ...], ...]:
    """The Einsums by the number of complete reductions over the rank that they wait for."""
    level: dict[str, int] = {}
    for name in _names(cascade):
        waits = [
            level[a.tensor] + (rank in cascade[a.tensor].reduced and rank in cascade[name].ranks)
            for a in cascade[name].reads
            if a.tensor in level
        ]
        level[name] = max(waits, default=0)
    fibres = _pulled(cascade, rank, level)
    return tuple(tuple(n for n in fibres if fibres[n] == i) for i in range(max(fibres.values()) + 1))


def _pulled(cascade: Cascade, rank: str, level: dict[str, int]) -> dict[str, int]:
    """What only a later pass reads at single keys is computed there, as nothing of it is kept."""
    found, fibre = dict(level), {rank, "m0"} & set(cascade.ranks)
    for name in reversed(list(level)):
        readers = [found[x] for x in level if any(a.tensor == name for a in cascade[x].reads)]
        if fibre <= set(cascade[name].output_ranks) and readers:
            found[name] = min(readers)
    return found


def gemm(
    cascade: Cascade,
    machine: Machine,
    sizes: Sizes,
    block_m: int = 64,
    block_n: int = 64,
    block_k: int = 64,
    stages: int = 3,
    fill: str = "dynamic",
    group: int = 1,
    tma: bool = False,
) -> Mapping:
    """A kernel for each matrix product, and what is done to its result element by element in the same kernel.

    With `group` > 1 the grid walks so many blocks of rows for each block of columns, whose data they share in L2.
    """
    runs = _products(cascade)
    fits = all(len(cascade[run[-1]].output_ranks) > 1 and is_product(cascade[run[0]]) for run in runs)
    _needs("gpu-gemm", "matrix products and what follows them element by element", fits)
    kernels: list[Kernel] = []
    for names in runs:
        (*batch, m, n), (k,) = cascade[names[-1]].output_ranks, cascade[names[0]].reduced
        grid = dict.fromkeys(batch, 1) | {m: block_m, n: block_n}
        kernels.append(Kernel(names[-1], names, grid, (k, block_k), stages, fill=fill, group=group, tma=tma))
    return mapped(_named("gpu-gemm", kernels[0]), cascade, machine, tuple(kernels), {})


def _products(cascade: Cascade) -> list[tuple[str, ...]]:
    """Runs of Einsums: products of what is in memory, then what is made of them element by element."""
    runs: list[list[str]] = [[]]
    for name in _names(cascade):
        if runs[-1] and is_product(cascade[name]) and {a.tensor for a in cascade[name].reads} & set(runs[-1]):
            runs.append([])
        runs[-1].append(name)
    return [tuple(run) for run in runs]


def backward_attention(
    cascade: Cascade, machine: Machine, sizes: Sizes, block_m: int = 64, block_n: int = 64
) -> Mapping:
    """FlashAttention-2's backward pass in three kernels: DELTA; DK and DV of a block of keys, over the queries; DQ of a
    block of queries, over the keys. Both compute the probabilities again. Where query heads share keys, each has DK and
    DV of its own, which a fourth kernel adds up."""
    names = _names(cascade)
    what = "the gradients of attention, with scores QK2 computed again for DQ"
    _needs("flash-attention-backward", what, {"DELTA", "DK", "DV", "QK2", "DQ"} <= set(names))
    cut, end = names.index("QK2"), names.index("DQ") + 1
    queries, heads = _heads(cascade, "DQ", {"p": block_m}), _heads(cascade, names[cut - 1], {"m": block_n})
    kernels = [
        Kernel("delta", names[:1], queries),
        Kernel("keys", names[1:cut], heads, ("p", block_m), guarded=bounded_by_guards(cascade, "p")),
        Kernel("queries", names[cut:end], queries, ("m", block_n), guarded=bounded_by_guards(cascade, "m")),
    ]
    if shared := names[end:]:
        (rank,) = cascade["DK"].reduced
        kernels.append(Kernel("heads", shared, _heads(cascade, "DK", {"m": block_n}), (rank, 1)))
    return mapped("flash-attention-backward", cascade, machine, tuple(kernels), {})


GENERATORS: dict[str, Callable[[Cascade, Machine, Sizes], Mapping]] = {
    "flash-attention": flash_attention,
    "flash-attention-persistent": partial(flash_attention, fill="sorted"),
    "flash-attention-tma": partial(flash_attention, tma=True),
    "flash-attention-backward": backward_attention,
    "gpu-decode": decode,
    "gpu-rows": rows,
    "gpu-row-blocks": row_blocks,
    "gpu-unfused": unfused,
    "gpu-passes": passes,
    "gpu-gemm": gemm,
    "gpu-moe": fused_moe,
    "gpu-gemm-grouped": partial(gemm, group=8),
    "gpu-gemm-persistent-tma": partial(gemm, fill="cyclic", tma=True),
}
