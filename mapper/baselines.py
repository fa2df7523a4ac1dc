"""Mappings of the baselines of FuseMax (MICRO 2024): FLAT, unfused attention, and the linear layers around attention.

All on a machine with a two-dimensional array (`array_2d`: col, row) and a line of lanes (`array_1d`: lane).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

from arch.machine import Machine
from einsum.cascade import Cascade
from mapper.fusemax import Sizes, columns_of, largest_divisor, sizes_of
from mapper.mapping import Compute, Group, Hold, Loop, Mapping, Pipe

WORD = 2  # bytes
OPEN = 4  # fused tiles of FLAT in flight: QK in the first, softmax two behind, AV three
SOFTMAX = ("GM", "SN", "SD", "A")


@dataclass(frozen=True)
class FlatChoice:
    """What FLAT decides for a layer: rows of P in flight, what stays on chip and how much of it, loop orders."""

    rows: int  # of P, in one fused tile; all of them is FLAT's granularity `head`
    resident: tuple[str, ...] = ("QK", "A")  # tensors kept in the buffer
    part: float = 1.0  # of the resident tensors that fits; the rest is spilled
    stationary: tuple[str, str] = ("output", "output")  # of QK and of AV: output | weight; of AV also input


def flat_choice(machine: Machine, sizes: Sizes) -> FlatChoice:
    """Scores on chip, in as many rows as fit the buffer beside staging for the operands, and spilled if none do."""
    e, f, m, p = sizes_of(sizes, "E F M P")
    columns, words = columns_of(machine), (machine.memory("buffer").capacity_bytes or math.inf) / WORD
    staging = 4 * columns * (e + f)
    tiles = math.ceil(p / columns)
    rows = columns * largest_divisor(tiles, int(min(tiles, (words - staging) / (columns * m))))
    return FlatChoice(rows, part=min(1.0, words / (rows * m + staging)))


def flat(cascade: Cascade, machine: Machine, sizes: Sizes, choice: FlatChoice | None = None) -> Mapping:
    """FLAT (ASPLOS 2023): tiles of rows of the 3-pass cascade, the scores of a tile on chip if the choice says so."""
    chosen = choice or flat_choice(machine, sizes)
    fused = "QK" in chosen.resident
    deep = 2 if fused else OPEN
    kept = [Hold(t, "buffer", deep=deep, part=chosen.part) for t in ("Q", "K", "V", "AV") if t in chosen.resident]
    if fused:
        scores = [
            Hold("QK", "buffer", part=chosen.part),
            Hold("SN", "buffer", part=chosen.part, inplace="QK"),
            Hold("A", "buffer", part=chosen.part, inplace="SN"),
        ]
    else:  # scores go out to the root and come back a row at a time
        root = machine.root.name
        row = Hold("QK", "buffer", deep=deep, along="p", users=("GM", "SN"))
        scores = [Hold("QK", root, deep=OPEN), Hold("A", root, deep=OPEN), row, Hold("SN", "buffer", along="p")]
    first, last = (_product(n, s, columns_of(machine)) for n, s in zip(("QK", "AV"), chosen.stationary, strict=True))
    leaves = (first, *_softmax(machine, stage=2), replace(last, stage=3))
    holds, pipe = (*kept, *scores, *_row_holds(deep)), Pipe(leaves, open=OPEN, ahead=4)
    tile = Loop(("p",), (chosen.rows,), holds=holds, body=(pipe,))
    body = Loop(("b",), (1,), body=(Loop(("h",), (1,), body=(tile,)),))
    return Mapping("flat", cascade.name, machine.name, (Group("attention", (body,)),), dtypes=(("*", "bf16"),))


def _row_holds(deep: int = 2) -> tuple[Hold, ...]:
    """Maximum and denominator of a row in the buffer, the exponentials in registers while they are summed."""
    return (
        Hold("GM", "buffer", deep=deep),
        Hold("SD", "buffer", deep=deep),
        Hold("SN", "regs_1d", along="m", users=("SN", "SD")),
    )


def _softmax(machine: Machine, stage: int = 0) -> tuple[Compute, ...]:
    """A row at a time, its keys over the lanes; the subtraction feeds the exponential unit."""
    lanes = machine.axes("pe_1d")[-1][1].size
    row = (Loop(("p",), (1,)), Loop(("m",), (lanes,)), Loop(("m",), (1,), over="array_1d.lane"))
    unit = lambda name: "pe_1d+exp_1d" if name == "SN" else "pe_1d"
    return tuple(Compute(name, unit(name), stage=stage, loops=row) for name in SOFTMAX)


def _product(name: str, stationary: str, columns: int) -> Compute:
    """QK or AV on the 2D array: the order of the loops, the ranks over its columns and its rows."""
    order, column, row = {
        ("QK", "output"): ("pme", "p", "m"),
        ("QK", "weight"): ("mep", "m", "e"),
        ("AV", "output"): ("pfm", "f", "p"),
        ("AV", "weight"): ("mfp", "f", "m"),
        ("AV", "input"): ("mpf", "p", "m"),
    }[name, stationary]
    temporal = tuple(Loop((r,), (columns if r in (column, row) else 1,)) for r in order)
    spatial = (Loop((column,), (1,), over="array_2d.col"), Loop((row,), (1,), over="array_2d.row"))
    return Compute(name, "pe_2d", loops=temporal + spatial)


def unfused(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """The 3-pass cascade in three groups, one after another, with the scores in the root memory between them.

    The choices are those of Timeloop's mapper in the FuseMax artifact: Q, K (V, AV) stay in the buffer where they
    fit, else P is split in E/8 tiles and the keys in as many; A bypasses the buffer.
    """
    e, m, p = sizes_of(sizes, "E M P")
    columns, words = columns_of(machine), (machine.memory("buffer").capacity_bytes or math.inf) / WORD
    split = 1 if e * (m + p) <= words else math.ceil(e / 8)
    rows, keys = (columns * math.ceil(extent / split / columns) for extent in (p, m))
    deep = 2 if 2 * e * (rows + keys) <= words else 1

    def group(name: str, leaves: tuple[Compute, ...], *outer: Loop, after: tuple[str, ...] = ()) -> Group:
        node: Loop | Pipe = Pipe(leaves, open=3, ahead=4)
        for loop in reversed((Loop(("b",), (1,)), Loop(("h",), (1,)), *outer)):
            node = replace(loop, body=(node,))
        return Group(name, (node,), after)

    keep = partial(Hold, memory="buffer")
    row = (keep("QK", deep=2), keep("SN", deep=2), *_row_holds())
    tiles = lambda query, key: (
        Loop(("p",), (rows,), holds=(keep(query, deep=deep),)),
        Loop(("m",), (keys,), holds=(keep(key, deep=deep),)),
    )
    squares = (Loop(("p",), (columns,)), Loop(("m",), (columns,)))
    first, last = _product("QK", "output", columns), _product("AV", "input", columns)
    inner = lambda leaf: (replace(leaf, loops=leaf.loops[2:]),)
    groups = (
        group("QK", inner(first), *tiles("Q", "K"), *squares),
        group("softmax", _softmax(machine), Loop(("p",), (1,), holds=row), after=("QK",)),
        group("AV", inner(last), *tiles("AV", "V"), *reversed(squares), after=("softmax",)),
    )
    return Mapping("unfused", cascade.name, machine.name, groups, dtypes=(("*", "bf16"),))


def linear(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """Matrix products one after another: the first operand is read once, the second once a tile of rows."""
    groups: list[Group] = []
    for einsum in cascade.einsums:
        after = (groups[-1].name,) if groups else ()
        groups.append(Group(einsum.name, (_gemm(cascade, einsum.name, machine, sizes),), after))
    return Mapping("linear", cascade.name, machine.name, tuple(groups), dtypes=(("*", "bf16"),))


def gemm_tiles(m: int, n: int, k: int, columns: int, words: float) -> tuple[int, int]:
    """(Mt, Nt), multiples of the array's width that divide M and N, of the least traffic under K(Mt+Nt) <= words.

    Ties go to the larger Mt, then to the smaller Nt.
    """
    rows = [a for a in range(columns, min(m, int(words // k)) + 1, columns) if m % a == 0]
    cols = [b for b in range(columns, n + 1, columns) if n % b == 0]
    traffic = lambda a, b: m * k + k * n * (m // a if b < n else 1) + m * n
    fits = [(traffic(a, b), -a, b) for a in rows for b in cols if k * (a + b) <= words]
    _, a, b = min(fits)
    return -a, b


def _gemm(cascade: Cascade, name: str, machine: Machine, sizes: Sizes) -> Loop:
    """One product Z[m,n] = A[m,k] * B[n,k] in tiles of Mt x Nt, each walked in squares of the array."""
    einsum = cascade[name]
    (m, n), (k,) = einsum.output_ranks, einsum.reduced
    columns, words = columns_of(machine), (machine.memory("buffer").capacity_bytes or math.inf) / WORD
    extent = dict(zip((m, n, k), sizes_of(sizes, " ".join(r.upper() for r in (m, n, k))), strict=True))
    mt, nt = gemm_tiles(extent[m], extent[n], extent[k], columns, words)
    left, right = (access.tensor for access in einsum.reads)
    spatial = (Loop((m,), (1,), over="array_2d.col"), Loop((n,), (1,), over="array_2d.row"))
    pipe = Pipe((Compute(name, "pe_2d", loops=(Loop((k,), (1,)), *spatial)),), open=2, ahead=2)
    squares = Loop((m,), (columns,), body=(Loop((n,), (columns,), body=(pipe,)),))
    a, b = (Hold(left, "buffer"),), (Hold(right, "buffer"),)
    if nt == extent[n]:  # the second operand fits: outermost, so that it stays
        return Loop((n,), (nt,), holds=b, body=(Loop((m,), (mt,), holds=a, body=(squares,)),))
    return Loop((m,), (mt,), holds=a, body=(Loop((n,), (nt,), holds=b, body=(squares,)),))
