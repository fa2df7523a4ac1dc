"""The backward pass of attention on FuseMax's machine: DQ adds up along a loop over keys, DK and DV along one over
queries, and nothing of the size P*M leaves the chip.

Products that sum over keys have them on the array's rows, where it reduces; those that sum over queries have these
there. With scores computed once, in a loop inside the other, one side takes probabilities and their gradients from the
buffer, as they lie the other way round, and masks save nothing (SEMANTICS 4.15). With scores computed again for DQ each
side has a loop of its own, from registers alone, which leaves out the tiles that a mask leaves empty.
"""

from __future__ import annotations

import math

from arch.machine import Machine
from einsum.cascade import Cascade
from einsum.problems import InputError, Problem
from mapper.fusemax import Sizes, columns_of, largest_divisor, sizes_of
from mapper.library_gpu import bounded_by_guards
from mapper.mapping import GUARD, Compute, Group, Hold, Loop, Mapping, Pipe

WORD = 2  # bytes
ALONG = {"QK": "e", "DA": "f", "DV": "f", "DK": "e", "DQ": "e"}  # what each product walks in time
KEYS = ("QK", "A", "DV", "DA", "DQK", "DK")  # program order
QUERIES = ("QK2", "A2", "DA2", "DQK2", "DQ")
TILE = (*KEYS, "DQ")


def fusemax_backward(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """Tiles of `columns` queries by `columns` keys, as many queries in the buffer as fit beside a tile of keys."""
    _needs("fusemax-backward", "its scores computed once", TILE, cascade)
    columns, rows, (m, p) = columns_of(machine), _rows(machine, sizes), sizes_of(sizes, "M P")
    root, kept = machine.root.name, tuple(Hold(t, "buffer") for t in ("Q", "DAV", "LSE", "DELTA", "DQ"))
    deep = min(2, math.ceil(m / columns))  # a sum that comes back waits for a buffer, and so until it has gone out
    keys = tuple(Hold(t, "buffer", deep=deep) for t in ("K", "V", "DK", "DV"))
    local = (
        *(Hold(t, "regs_2d", deep=2) for t in ("QK", "DA")),
        *(Hold(t, "buffer", deep=2) for t in ("A", "DQK")),
        Hold("A", "regs_2d", deep=2, users=("A", "DQK")),
        Hold("DQK", "regs_2d", deep=2, users=("DQK", "DQ")),
    )
    leaves = tuple(_leaf(name, turned=name in ("DV", "DK")) for name in TILE)
    tile = Loop(("p",), (columns,), holds=local, body=(Pipe(leaves, open=2, ahead=4),))
    body = Loop(("m",), (columns,), holds=keys, body=(tile,))
    if rows < p:  # sums over queries go out and come back for each block of them
        body, kept = Loop(("p",), (rows,), holds=kept, body=(body,)), tuple(Hold(t, root) for t in ("DK", "DV"))
    head = Loop(("h",), (1,), holds=kept, body=(body,))
    groups = (_delta(columns), Group("gradients", (Loop(("b",), (1,), body=(head,)),), ("delta",)))
    return Mapping("fusemax-backward", cascade.name, machine.name, groups, dtypes=(("*", "bf16"),))


def fusemax_backward_recompute(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """A tile of keys while the queries pass by, then a tile of queries while the keys do."""
    _needs("fusemax-backward-recompute", "its scores computed again for DQ", (*KEYS, *QUERIES), cascade)
    columns, of_keys, of_queries = columns_of(machine), ("K", "V"), ("Q", "DAV", "LSE", "DELTA")

    def side(leaves: tuple[str, ...], around: str, inside: str, kept: tuple[str, ...], passing: tuple[str, ...]):
        extent = GUARD if bounded_by_guards(cascade, inside) else None
        local = (t for t in leaves if t not in kept)
        holds = (*(Hold(t, "buffer", deep=2) for t in passing), *(Hold(t, "regs_2d", deep=2) for t in local))
        pipe = Pipe(tuple(_leaf(name, turned=around == "m") for name in leaves), open=2, ahead=4)
        body = Loop((inside,), (columns,), extent=extent, holds=holds, body=(pipe,))
        body = Loop((around,), (columns,), holds=tuple(Hold(t, "buffer", deep=2) for t in kept), body=(body,))
        return Loop(("b",), (1,), body=(Loop(("h",), (1,), body=(body,)),))

    groups = (
        _delta(columns),
        Group("keys", (side(KEYS, "m", "p", (*of_keys, "DK", "DV"), of_queries),), ("delta",)),
        Group("queries", (side(QUERIES, "p", "m", (*of_queries, "DQ"), of_keys),), ("keys",)),
    )
    return Mapping("fusemax-backward-recompute", cascade.name, machine.name, groups, dtypes=(("*", "bf16"),))


def _needs(mapping: str, how: str, names: tuple[str, ...], cascade: Cascade) -> None:
    """InputError unless these, and DELTA, are what the cascade computes."""
    if {e.name for e in cascade.einsums} != {"DELTA", *names}:
        what = f"{mapping} maps the gradients of attention, {how}"
        raise InputError(Problem(what, path="mapping", got=cascade.name))


def _rows(machine: Machine, sizes: Sizes) -> int:
    """Queries whose Q, DAV, DQ, LSE and DELTA fit the buffer: a divisor of its tiles of queries."""
    e, f, p = sizes_of(sizes, "E F P")
    columns, words = columns_of(machine), (machine.memory("buffer").capacity_bytes or math.inf) / WORD
    keys, scores = 2 * columns * 2 * (e + f), 2 * 2 * columns * columns  # two buffers of each
    tiles = math.ceil(p / columns)
    return columns * largest_divisor(tiles, int(min(tiles, (words - keys - scores) / (columns * (2 * e + f + 2)))))


def _leaf(name: str, turned: bool) -> Compute:
    """One Einsum of a tile on the 2D array, keys on its rows, or `turned`, queries."""
    column, row = ("m", "p") if turned else ("p", "m")
    along = tuple(Loop((ALONG[n],), (1,)) for n in (name.rstrip("2"),) if n in ALONG)
    spatial = (Loop((column,), (1,), over="array_2d.col"), Loop((row,), (1,), over="array_2d.row"))
    return Compute(name, "pe_2d", loops=along + spatial)


def _delta(columns: int) -> Group:
    """A query a lane."""
    leaf = Compute("DELTA", "pe_1d", loops=(Loop(("f",), (1,)), Loop(("p",), (1,), over="array_1d.lane")))
    operands = tuple(Hold(t, "buffer", deep=2) for t in ("AV", "DAV"))
    body = Loop(("p",), (columns,), holds=operands, body=(Pipe((leaf,), open=2, ahead=2),))
    for rank in ("h", "b"):
        body = Loop((rank,), (1,), body=(body,))
    return Group("delta", (body,))
