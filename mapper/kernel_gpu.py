"""A kernel's group in a mapping to a GPU: loops, leaves, holds and moves from its Einsums, its grid and its tile loop.

Units, warps and holds follow from the cascade. An Einsum that lacks the loop's rank stands after the loop if it reads
what the loop made, else before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping as Dict
from dataclasses import dataclass

from arch.machine import Machine
from einsum.cascade import Access, Cascade, Einsum, Expr, Name, factors, rank_variables
from einsum.ops import is_view, operation_classes
from mapper.mapping import GUARD, Compute, Group, Hold, Loop, Mapping, Move, Seq
from mapper.tile import varying_ranks

Sizes = Dict[str, int]
SLOW = ("exp", "exp2", "log", "sqrt", "div", "sigmoid", "silu")  # operation classes of the MUFU
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
    fill: str = "dynamic"  # how tiles are dealt out to the SMs; cyclic and sorted: to one thread block each
    group: int = 1  # tiles of the last rank but one that are walked for each tile of the last one, for the L2 cache
    tma: bool = False  # the copy engine moves blocks between device memory and the chip
    ragged: bool = False  # the grid leaves out tiles behind a length
    whole: tuple[tuple[str, int], ...] = ()  # ranks in one piece that warps may share, and their extents

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
        groups.append(_group(cascade, kernel, (groups[-1].name,) if groups else (), machine.root.name))
    given = {t.name for t in cascade.tensors if t.dtype != "fp32"}
    operands = {a.tensor for e in cascade.einsums if is_product(e) for a in factors(e.expr) if isinstance(a, Access)}
    computed = (e.name for e in cascade.einsums if not is_view(e) and e.name not in given | operands)
    types = tuple((t, "fp32") for t in computed)
    narrow = tuple((t, "bf16") for t in operands if t in cascade and t not in given and not is_view(cascade[t]))
    return Mapping(name, cascade.name, machine.name, tuple(groups), tuple(sizes.items()), types + tuple(sorted(narrow)))


def is_product(einsum: Einsum) -> bool:
    """A matrix product, work of the tensor units: each of two factors has a rank that the other one lacks."""
    tensors = [f for f in factors(einsum.expr) if isinstance(f, Access)]
    if "mac" not in operation_classes(einsum) or len(tensors) != 2:
        return False
    left, right = (set(rank_variables(access)) for access in tensors)
    return bool(left - right) and bool(right - left)


def _group(cascade: Cascade, kernel: Kernel, after: tuple[str, ...], root: str) -> Group:
    sides = _sides(cascade, kernel)
    leaves: tuple[Compute | Move, ...] = tuple(_leaf(cascade[name], sides[name], kernel) for name in kernel.einsums)
    outer, inner = _holds(cascade, kernel, sides)
    if kernel.tma:
        leaves = (*_fetched(cascade, kernel, outer, inner, root), *leaves, *_stored(cascade, kernel, root))
    body: tuple[Loop | Seq, ...] = (Seq(leaves),)
    if kernel.loop:
        rank, tile = kernel.loop
        body = (Loop((rank,), (tile,), extent=GUARD if kernel.guarded else None, holds=inner, body=body),)
    ranks, tiles = tuple(kernel.grid), tuple(kernel.grid.values())
    if kernel.group > 1:
        *_, rows, _ = ranks
        tiles = (*tiles[:-2], kernel.group * tiles[-2], tiles[-1], tiles[-2])
        ranks = (*ranks, rows)
    extent = GUARD if kernel.ragged else None
    grid = Loop(ranks, tiles, over="sm.sm", fill=kernel.fill, extent=extent, holds=outer, body=body)
    return Group(kernel.name, (grid,), after)


def _fetched(
    cascade: Cascade, kernel: Kernel, outer: tuple[Hold, ...], inner: tuple[Hold, ...], root: str
) -> Iterator[Move]:
    """Moves of the blocks that the group reads."""
    first = ((kernel.loop[0], "first"),) if kernel.loop else ()
    blocks = {a.tensor for a in _read(cascade, kernel) if a.indices and _is_block(kernel, a.indices[-1])}
    for at, holds in ((first, outer), ((), inner)):
        for hold in holds:
            if hold.tensor in blocks and not hold.kept:
                yield Move(hold.tensor, root, hold.memory, at=at)


def _stored(cascade: Cascade, kernel: Kernel, root: str) -> Iterator[Move]:
    """Moves of the blocks that the group leaves in memory."""
    for name in kernel.einsums:
        others = [e for e in cascade.einsums if e.name not in kernel.einsums]
        leaves = name in cascade.outputs or any(a.tensor == name for e in others for a in e.reads)
        if leaves and _is_block(kernel, cascade[name].output.indices[-1]):
            last = kernel.loop is not None and kernel.loop[0] not in varying_ranks(cascade, name)
            yield Move(name, "registers", root, at=((kernel.loop[0], "last"),) if kernel.loop and last else ())


def _is_block(kernel: Kernel, index: Expr) -> bool:
    """Whether the index walks a block, not one coordinate of a rank at a time."""
    walked = {rank for rank, tile in (*kernel.grid.items(), *([kernel.loop] if kernel.loop else [])) if tile == 1}
    return bool(set(rank_variables(index)) - walked)


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
    unit = "tensor" if is_product(einsum) else "+".join(("fma",) * fast + ("mufu",) * bool(slow))
    blocks = {**dict(kernel.whole), **kernel.grid, **(dict([kernel.loop]) if kernel.loop else {})}
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
    """Whether it reads other than whole tiles along its ranks: an index is computed, or comes from a tensor."""
    return any(not isinstance(index, Name) for index in access.indices)


def _users(cascade: Cascade, kernel: Kernel, block: Access) -> tuple[str, ...]:
    """The Einsums that read a tensor in blocks, if others pick elements of it: those go to memory on their own."""
    reads = {n: [a for a in cascade[n].reads if a.tensor == block.tensor] for n in kernel.einsums}
    picking = any(_picks(a) for accesses in reads.values() for a in accesses)
    return tuple(n for n, accesses in reads.items() if block in accesses) if picking else ()


def _behind(cascade: Cascade, tensor: str) -> tuple[str, ...]:
    """Rank variables of the storage that a view reads."""
    view = cascade[tensor] if tensor in cascade and is_view(cascade[tensor]) else None
    return rank_variables(view.expr) if view else ()
