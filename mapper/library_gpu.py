"""Mappings to a GPU: thread blocks over tiles of the outputs, a tile loop inside, operands staged through `smem`.

Each generator says which ranks the thread blocks split, which rank the tile loop walks, and which Einsums stand in
which group; units, warps and holds follow from the cascade. An Einsum that lacks the loop's rank stands after the loop
if it reads what the loop made, else before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping as Dict
from dataclasses import dataclass

from arch.machine import Machine
from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, rank_variables, walk
from einsum.ops import is_view, operation_classes
from einsum.problems import InputError, Problem
from mapper.fusemax import sizes_of
from mapper.mapping import GUARD, Compute, Group, Hold, Loop, Mapping, Seq

Sizes = Dict[str, int]
SLOW = ("exp", "exp2", "log", "sqrt", "div", "silu")  # operation classes of the MUFU
QUADS = 4  # sub-cores of an SM, each with its own warps
LARGE = 128  # rows of a block that eight warps share


@dataclass(frozen=True)
class Kernel:
    """One group: the Einsums of a thread block's program, what the grid splits, and the tile loop."""

    name: str
    einsums: tuple[str, ...]
    grid: Dict[str, int]  # rank -> tile, the last rank fastest
    loop: tuple[str, int] | None = None  # rank and tile
    stages: int = 2
    kept: tuple[str, ...] = ()  # handed over to, or taken over from, a neighbour
    guarded: bool = False  # the loop leaves out tiles that the guards leave empty

    @property
    def warps(self) -> int:
        """Among which a block is dealt out."""
        return QUADS * (2 if max(self.grid.values()) >= LARGE else 1)


def power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << (n - 1).bit_length()


def mapped(name: str, cascade: Cascade, machine: Machine, kernels: tuple[Kernel, ...], sizes: Sizes) -> Mapping:
    """The mapping of kernels to groups, one after another; what is computed is fp32 until it leaves for memory."""
    groups: list[Group] = []
    for kernel in kernels:
        groups.append(_group(cascade, kernel, (groups[-1].name,) if groups else ()))
    given = {t.name for t in cascade.tensors if t.dtype != "fp32"}
    operands = {a.tensor for e in cascade.einsums if _is_product(e) for a in _factors(e.expr) if isinstance(a, Access)}
    computed = (e.name for e in cascade.einsums if not is_view(e) and e.name not in given | operands)
    types = tuple((t, "fp32") for t in computed)
    narrow = tuple((t, "bf16") for t in operands if t in cascade and t not in given and not is_view(cascade[t]))
    return Mapping(name, cascade.name, machine.name, tuple(groups), tuple(sizes.items()), types + tuple(sorted(narrow)))


def _is_product(einsum: Einsum) -> bool:
    """A matrix product, work of the tensor units: each of two factors has a rank that the other one lacks."""
    factors = [f for f in _factors(einsum.expr) if isinstance(f, Access)]
    if "mac" not in operation_classes(einsum) or len(factors) != 2:
        return False
    left, right = (set(rank_variables(access)) for access in factors)
    return bool(left - right) and bool(right - left)


def _factors(expr: Expr) -> tuple[Expr, ...]:
    if isinstance(expr, Apply) and expr.op == "*":
        return tuple(factor for arg in expr.args for factor in _factors(arg))
    return (expr,)


def _group(cascade: Cascade, kernel: Kernel, after: tuple[str, ...]) -> Group:
    sides = _sides(cascade, kernel)
    leaves = tuple(_leaf(cascade[name], sides[name], kernel) for name in kernel.einsums)
    outer, inner = _holds(cascade, kernel, sides)
    body: tuple[Loop | Seq, ...] = (Seq(leaves),)
    if kernel.loop:
        rank, tile = kernel.loop
        body = (Loop((rank,), (tile,), extent=GUARD if kernel.guarded else None, holds=inner, body=body),)
    ranks, tiles = tuple(kernel.grid), tuple(kernel.grid.values())
    grid = Loop(ranks, tiles, over="sm.sm", fill="dynamic", holds=outer, body=body)
    return Group(kernel.name, (grid,), after)


def _sides(cascade: Cascade, kernel: Kernel) -> dict[str, str]:
    """Einsum -> "" inside the tile loop, "first" before it, "last" after it."""
    sides: dict[str, str] = {}
    rank = kernel.loop[0] if kernel.loop else None
    for name in kernel.einsums:
        einsum = cascade[name]
        made = [a.tensor for a in einsum.reads if a.tensor in kernel.einsums]
        late = any(sides.get(t) == "last" or rank in cascade[t].ranks for t in made)
        sides[name] = "" if rank is None or rank in einsum.ranks else "last" if late else "first"
    return sides


def _leaf(einsum: Einsum, side: str, kernel: Kernel) -> Compute:
    at = ((kernel.loop[0], side),) if side and kernel.loop else ()
    classes = operation_classes(einsum)
    slow = [c for c in classes if c in SLOW]
    fast = len(slow) < len(classes) or "silu" in classes
    unit = "tensor" if _is_product(einsum) else "+".join(("fma",) * fast + ("mufu",) * bool(slow))
    blocks = {**kernel.grid, **(dict([kernel.loop]) if kernel.loop else {})}
    rows = next((r for r in einsum.ranks if blocks.get(r, 1) >= kernel.warps and r not in einsum.reduced), None)
    fill = "block" if kernel.warps == QUADS else "cyclic"
    loops = (Loop((rows,), (blocks[rows] // kernel.warps,), over="subcore.quad", fill=fill),) if rows else ()
    return Compute(einsum.name, unit or "fma", at=at, loops=loops)


def _holds(cascade: Cascade, kernel: Kernel, sides: Dict[str, str]) -> tuple[tuple[Hold, ...], tuple[Hold, ...]]:
    """(holds of the grid's loop, holds of the tile loop)."""
    rank = kernel.loop[0] if kernel.loop else None
    outer: dict[str, Hold] = {}
    inner: dict[str, Hold] = {}
    for access in _read(cascade, kernel):
        varies = rank in rank_variables(access) or rank in _behind(cascade, access.tensor)
        where, deep = (inner, kernel.stages) if varies else (outer, 1)
        kept = access.tensor in kernel.kept
        memory = "registers" if kept and access.tensor in cascade else "smem"
        where[access.tensor] = Hold(access.tensor, memory, deep=deep, kept=kept, users=_users(cascade, kernel, access))
    for name in kernel.einsums:
        einsum = cascade[name]
        used = any(a.tensor == name for n in kernel.einsums for a in cascade[n].reads)
        carried = rank is not None and rank in (*einsum.reduced, einsum.iterative)
        if used or carried or name in kernel.kept:
            where = outer if carried or sides[name] or rank is None else inner
            where[name] = Hold(name, "registers", kept=name in kernel.kept)
    return tuple(outer.values()), tuple(inner.values())


def _read(cascade: Cascade, kernel: Kernel) -> Iterator[Access]:
    """What the group reads from memory in blocks."""
    for name in kernel.einsums:
        for access in cascade[name].reads:
            if access.tensor not in kernel.einsums and not _picks(access):
                yield access


def _picks(access: Access) -> bool:
    """Whether an index from a tensor picks single elements."""
    return any(isinstance(node, Access) for index in access.indices for node in walk(index))


def _users(cascade: Cascade, kernel: Kernel, block: Access) -> tuple[str, ...]:
    """The Einsums that read a tensor in blocks, if others pick elements of it: those go to memory on their own."""
    reads = {n: [a for a in cascade[n].reads if a.tensor == block.tensor] for n in kernel.einsums}
    picking = any(_picks(a) for accesses in reads.values() for a in accesses)
    return tuple(n for n, accesses in reads.items() if block in accesses) if picking else ()


def _behind(cascade: Cascade, tensor: str) -> tuple[str, ...]:
    """Rank variables of the storage that a view reads."""
    view = cascade[tensor] if tensor in cascade and is_view(cascade[tensor]) else None
    return rank_variables(view.expr) if view else ()


def _names(cascade: Cascade) -> tuple[str, ...]:
    """The computed Einsums."""
    return tuple(e.name for e in cascade.einsums if not is_view(e))


def _needs(mapping: str, what: str, given: object) -> None:
    """InputError unless the cascade is of the kind that a mapping is for."""
    if not given:
        raise InputError(Problem(f"{mapping} maps {what}", path="mapping"))


def _guards(cascade: Cascade, rank: str) -> bool:
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
    cascade: Cascade, machine: Machine, sizes: Sizes, block_m: int = 64, block_n: int = 64, stages: int = 2
) -> Mapping:
    """FlashAttention-2 for any 1-pass attention: a block of queries of one head for each thread block."""
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
        guarded=_guards(cascade, "m1"),
    )
    return mapped("flash-attention", cascade, machine, (kernel,), {"M0": block_n})


def decode(
    cascade: Cascade, machine: Machine, sizes: Sizes, block_m: int = 16, block_n: int = 64, splits: int = 4
) -> Mapping:
    """Flash-Decoding: thread blocks for parts of the keys, then a kernel that combines the parts."""
    _needs("gpu-decode", "attention in parts m2 of the keys", "m2" in cascade.ranks and "GM" in cascade)
    names = _names(cascade)
    cut = names.index("GM")
    grid = _heads(cascade, "AV", {"p": block_m})
    split = {r: t for r, t in grid.items() if r != "p"} | {"m2": 1, "p": block_m}
    parts = Kernel("parts", names[:cut], split, ("m1", 1), guarded=_guards(cascade, "m1"))
    combine = Kernel("combine", names[cut:], grid)
    return mapped("gpu-decode", cascade, machine, (parts, combine), {"M0": block_n, "M2": splits})


def rows(cascade: Cascade, machine: Machine, sizes: Sizes, block: int = 16) -> Mapping:
    """Whole rows on chip: a block of the output's rows for each thread block, everything else in one piece.

    Ranks that are no power of two are covered by the next one.
    """
    output = cascade.outputs[0]
    ranks = cascade.tensor[output].ranks
    *outer, lead = ranks[:-1] or ranks
    grid = dict.fromkeys(outer, 1) | {lead: block}
    whole = tuple(r for r in cascade.ranks if r not in grid)
    extents = dict(zip(whole, sizes_of(sizes, " ".join(r.upper() for r in whole)), strict=True))
    ragged = {r: power_of_two(n) for r, n in extents.items() if n & (n - 1)}
    return mapped("gpu-rows", cascade, machine, (Kernel("rows", _names(cascade), grid | ragged),), {})


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
    grid, guarded = _heads(cascade, "AV", {"p": block_m}), _guards(cascade, rank)
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
) -> Mapping:
    """A kernel for each matrix product, and what is done to its result element by element in the same kernel."""
    runs = _products(cascade)
    fits = all(len(cascade[run[-1]].output_ranks) > 1 and _is_product(cascade[run[0]]) for run in runs)
    _needs("gpu-gemm", "matrix products and what follows them element by element", fits)
    kernels: list[Kernel] = []
    for names in runs:
        (*batch, m, n), (k,) = cascade[names[-1]].output_ranks, cascade[names[0]].reduced
        grid = dict.fromkeys(batch, 1) | {m: block_m, n: block_n}
        kernels.append(Kernel(names[-1], names, grid, (k, block_k), stages))
    return mapped("gpu-gemm", cascade, machine, tuple(kernels), {})


def _products(cascade: Cascade) -> list[tuple[str, ...]]:
    """Runs of Einsums: products of what is in memory, then what is made of them element by element."""
    runs: list[list[str]] = [[]]
    for name in _names(cascade):
        if runs[-1] and _is_product(cascade[name]) and {a.tensor for a in cascade[name].reads} & set(runs[-1]):
            runs.append([])
        runs[-1].append(name)
    return [tuple(run) for run in runs]


GENERATORS: dict[str, Callable[[Cascade, Machine, Sizes], Mapping]] = {
    "flash-attention": flash_attention,
    "gpu-decode": decode,
    "gpu-rows": rows,
    "gpu-unfused": unfused,
    "gpu-passes": passes,
    "gpu-gemm": gemm,
}
