"""Rows on vector units: softmax, norms, losses and their backward passes, one Einsum after another on a tile of rows.

The rows are those of the largest result: of ranks (t, d), or (b, t, d) where they come in blocks b. What is summed over
the rows of a block is held while they pass by; what is summed over blocks comes from a second group, by columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping as Dict

from arch.machine import Machine
from einsum.cascade import Cascade, Einsum
from einsum.ops import is_view, operation_classes
from einsum.problems import InputError, Problem
from mapper.fusemax import Sizes, sizes_of
from mapper.mapping import Compute, Group, Hold, Loop, Mapping, Pipe

DEEP = 2  # tiles of rows in memory
MOST = 8  # rows that a core takes at once
Leaf = Callable[[Einsum], Compute]


def fusemax_rows(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """A row a lane of the one-dimensional array; a sum over rows has a column a lane."""
    *blocks, row, column = _ranks("fusemax-rows", cascade)
    lanes, alone = machine.axes("pe_1d")[-1][1].size, machine.unit("pe_1d")

    def leaf(einsum: Einsum) -> Compute:
        spread = row if row in einsum.output_ranks else column
        along = tuple(Loop((rank,), (1,)) for rank in einsum.ranks if rank != spread)
        lane = (Loop((spread,), (lanes,)), Loop((spread,), (1,), over="array_1d.lane"))
        helped = "exp" in operation_classes(einsum) and "exp" not in (*alone.ops, *alone.expands)
        return Compute(einsum.name, "pe_1d+exp_1d" if helped else "pe_1d", loops=(*along, *lane))

    tiles = dict.fromkeys(blocks, 1) | {row: min(lanes, _fitting(cascade, machine, "buffer", sizes)), column: lanes}
    return _mapping("fusemax-rows", cascade, machine, "buffer", tiles, leaf)


def tpu_rows(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """Rows, or blocks of rows, dealt out to the cores, each with a local buffer and a unit of many lanes."""
    first, *inner, column = _ranks("tpu-rows", cascade)
    over, lanes = "cores.core", machine.unit("scalar").lanes
    cores, rows = machine.axis(over).size, min(MOST, _fitting(cascade, machine, "local_buffer", sizes))
    each = {first: 1 if inner else rows, column: lanes}

    def leaf(einsum: Einsum) -> Compute:
        spread = first if first in einsum.output_ranks else column
        return Compute(einsum.name, "scalar", loops=(Loop((spread,), (each[spread],), over=over),))

    tiles = dict.fromkeys(inner, rows) | {rank: cores * tile for rank, tile in each.items()}
    return _mapping("tpu-rows", cascade, machine, "local_buffer", tiles, leaf)


def _ranks(mapping: str, cascade: Cascade) -> tuple[str, ...]:
    """The rows' ranks: (t, d) or (b, t, d)."""
    found = max((e.output_ranks for e in cascade.einsums), key=len)
    if not 2 <= len(found) <= 3 or set(found) != set(cascade.ranks):
        what = f"{mapping} maps rows t of columns d, or rows in blocks b"
        raise InputError(Problem(what, path="mapping", got=cascade.name))
    return found


def _fitting(cascade: Cascade, machine: Machine, memory: str, sizes: Sizes) -> int:
    """Rows of every tensor that has rows, in fp32 at most, of which the memory has room for the tiles in flight; a row
    more for what has none."""
    (columns,) = sizes_of(sizes, _ranks("rows", cascade)[-1].upper())
    wide = max(len(t.ranks) for t in cascade.tensors)
    tensors = sum(len(t.ranks) == wide for t in cascade.tensors) + 1
    return max(1, int((machine.memory(memory).capacity_bytes or math.inf) / (4 * DEEP * tensors * columns)))


def _mapping(name: str, cascade: Cascade, machine: Machine, memory: str, tiles: Dict[str, int], leaf: Leaf) -> Mapping:
    """Rows in loops over all ranks but the columns, then what is summed over the first of these."""
    *around, column = _ranks(name, cascade)
    computed = [e for e in cascade.einsums if not is_view(e)]
    each, sums = ([e for e in computed if (around[0] in e.output_ranks) is has] for has in (True, False))
    walked = {rank: tiles[rank] for rank in around}
    groups = [Group("rows", (_loops(cascade, each, walked, memory, leaf),))]
    if sums:
        groups.append(Group("sums", (_loops(cascade, sums, {column: tiles[column]}, memory, leaf),), ("rows",)))
    return Mapping(name, cascade.name, machine.name, tuple(groups))


def _loops(cascade: Cascade, einsums: list[Einsum], walked: Dict[str, int], memory: str, leaf: Leaf) -> Loop:
    """Tensors are held for a tile of the innermost loop; what does not vary along it, in the loop around it."""
    *around, inmost = walked
    names = dict.fromkeys(t for e in einsums for t in (*(a.tensor for a in e.reads), e.name))
    lasting = [t for t in names if len(walked) > 1 and inmost not in cascade.tensor[t].ranks]
    holds = tuple(Hold(t, memory, deep=DEEP) for t in names if t not in lasting)
    pipe = Pipe(tuple(map(leaf, einsums)), open=DEEP, ahead=DEEP)
    body = Loop((inmost,), (walked[inmost],), holds=holds, body=(pipe,))
    for rank in around:
        body = Loop((rank,), (walked[rank],), holds=tuple(Hold(t, memory) for t in lasting), body=(body,))
    return body
