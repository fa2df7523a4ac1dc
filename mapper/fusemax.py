"""Mappings of FuseMax (MICRO 2024): +Cascade, +Architecture, +Binding. Source of the rules: the paper and its artifact.

Tiles of `columns` queries by `columns` keys, P1 tiles of queries in the buffer while the keys pass by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict

from arch.machine import Machine
from einsum.cascade import Cascade
from einsum.problems import InputError, Problem
from mapper.mapping import Compute, Greedy, Group, Hold, Loop, Mapping, Order, Phase, Phases, Pipe, Schedule

Sizes = Dict[str, int]

ON_2D = ("BQK", "LM", "SLN", "SLD", "SLNV")  # the Einsums on the two-dimensional array
PRODUCTS = ("BQK", "SLNV")  # those of +Cascade
TILE = ("BQK", "LM", "RM", "SLN", "SLD", "PRM", "SPD", "SLNV", "SPNV", "RD", "RNV", "AV")  # program order


def sizes_of(sizes: Sizes, wanted: str) -> list[int]:
    """The sizes named in `wanted`, in order; InputError with every missing one."""
    missing = [s for s in wanted.split() if s not in sizes]
    if missing:
        raise InputError(Problem("missing size", path=s) for s in missing)
    return [sizes[s] for s in wanted.split()]


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that is not above the limit; 1 if there is none."""
    return max(d for d in range(1, min(n, max(1, limit)) + 1) if n % d == 0)


def fusemax_p1(e: int, f: int, p: int, columns: int, buffer_bytes: float, scores: int = 0) -> int:
    """Tiles of P kept in the buffer: the largest divisor of P/columns that fits beside one tile of BK and BV.

    The buffer holds Q, RNV (a row a coordinate of E and F), RM and RD for each of them, and `scores` further rows, in
    16-bit words. Source: FuseMax (MICRO 2024), artifact's rule for P1.
    """
    row = 2 * columns
    fit = (buffer_bytes - row * (e + f)) / (row * (e + f + 2 + scores))
    tiles = math.ceil(p / columns)
    return largest_divisor(tiles, int(min(fit, tiles)))


def columns_of(machine: Machine) -> int:
    """Width of the two-dimensional array."""
    return next(axis.size for _, axis in machine.axes("pe_2d") if axis.name == "col")


def _leaf(name: str, products: tuple[str, ...], machine: Machine, stage: int) -> Compute:
    """One Einsum of a tile: on the 2D array p over columns and m0 over rows, else p over lanes and m0 in turn."""
    private = {"BQK": "e", "SLNV": "f", "SPNV": "f", "RNV": "f", "AV": "f"}
    loops = (Loop((private[name],), (1,)),) if name in private else ()
    unit = "pe_2d" if name in products else "pe_1d"
    if name in products:
        loops += (Loop(("p",), (1,), over="array_2d.col"), Loop(("m0",), (1,), over="array_2d.row"))
    else:
        loops += (Loop(("m0",), (1,)),) if name in ON_2D else ()
        loops += (Loop(("p",), (1,), over="array_1d.lane"),)
        alone = machine.unit("pe_1d")
        if name in ("SLN", "PRM") and "exp" not in alone.ops and "exp" not in alone.expands:
            unit = "pe_1d+exp_1d"
    return Compute(name, unit, stage=stage, at=(("m1", "last"),) if name == "AV" else (), loops=loops)


def _mapping(
    name: str, pipe: Pipe, local: tuple[Hold, ...], p1: int, cascade: Cascade, machine: Machine, sizes: Sizes
) -> Mapping:
    """The loops around a tile and what the buffer keeps in them."""
    e, f = sizes_of(sizes, "E F")
    columns, buffer = columns_of(machine), machine.memory("buffer").capacity_bytes or math.inf
    kept = 2 * columns * p1
    once = 2 * columns * (e + f)  # one tile of BK and BV
    staged = 2 if kept * (e + f + 2) + 2 * once <= buffer else 1
    prefetch = 2 if kept * (2 * e + f + 2) + staged * once <= buffer else 1
    tile = Loop(("p",), (columns,), holds=local, body=(pipe,))
    keys = Loop(("m1",), (1,), holds=(Hold("BK", "buffer", staged), Hold("BV", "buffer", staged)), body=(tile,))
    queries = Loop(
        ("p",),
        (columns * p1,),
        body=(keys,),
        holds=(Hold("Q", "buffer", deep=prefetch), Hold("RM", "buffer"), Hold("RD", "buffer"), Hold("RNV", "buffer")),
    )
    body = Loop(("b",), (1,), body=(Loop(("h",), (1,), body=(queries,)),))
    return Mapping(
        name,
        cascade.name,
        machine.name,
        (Group("attention", (body,)),),
        sizes=(("M0", columns),),
        dtypes=(("*", "bf16"),),
    )


def _fused(
    name: str, schedule: Schedule, behind: tuple[str, ...], cascade: Cascade, machine: Machine, sizes: Sizes
) -> Mapping:
    """FuseMax's own machine: all of a tile's softmax on the 2D array, scores in its registers."""
    e, f, p = sizes_of(sizes, "E F P")
    along = {"SLNV": "f", "SPNV": "f"}
    local = tuple(
        Hold(t, "regs_2d" if t in ("BQK", "SLN") else "regs_1d", deep=2, along=along.get(t))
        for t in ("BQK", "SLN", "LM", "RM", "SLD", "PRM", "SPD", "SLNV", "SPNV")
    )
    leaves = tuple(_leaf(t, ON_2D, machine, int(t in behind)) for t in TILE)
    p1 = fusemax_p1(e, f, p, columns_of(machine), machine.memory("buffer").capacity_bytes or math.inf)
    return _mapping(name, Pipe(leaves, open=2, ahead=4, schedule=schedule), local, p1, cascade, machine, sizes)


def binding(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """FuseMax +Binding: a static order in which BQK and LM of the next tile follow SLNV of this one."""
    order = Order(
        (("pe_2d", ("SLN", "SLD", "SLNV", "BQK", "LM")), ("pe_1d", ("RM", "PRM", "SPD", "SPNV", "RD", "RNV", "AV")))
    )
    return _fused("fusemax-binding", order, tuple(t for t in TILE if t not in ("BQK", "LM")), cascade, machine, sizes)


def oldest_first(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """FuseMax's tile under oldest-first arbitration, to compare +Binding's static order with."""
    return _fused("fusemax-greedy", Greedy(), ("RD", "AV"), cascade, machine, sizes)


def architecture(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """FuseMax +Architecture: phases ended by barriers; RD and AV of the previous tile share BQK's phase."""
    phases = Phases(
        (
            Phase(("BQK", "LM", "RD", "AV"), drain="pe_2d"),
            Phase(("RM",)),
            Phase(("SLN", "SLD", "PRM", "SPD")),
            Phase(("SLNV", "SPNV", "RNV")),
        )
    )
    return _fused("fusemax-architecture", phases, ("RD", "AV"), cascade, machine, sizes)


def cascade_only(cascade: Cascade, machine: Machine, sizes: Sizes, buffer_bytes: float | None = None) -> Mapping:
    """FuseMax +Cascade: the 1-pass cascade on a machine whose 2D array only multiplies; scores go through the buffer.

    The 1D lanes take the maximum of the scores, and the sum of the exponentials, as these pass through their
    registers. `buffer_bytes`: what P1 is sized with, if it is not the buffer's capacity.
    """
    e, f, p = sizes_of(sizes, "E F P")
    columns, capacity = columns_of(machine), machine.memory("buffer").capacity_bytes or math.inf
    p1 = fusemax_p1(e, f, p, columns, buffer_bytes or capacity, scores=2 * columns)
    along = {"SLNV": "f", "SPNV": "f"}
    passing = (("BQK", ("BQK", "LM")), ("SLN", ("SLN", "SLD")))
    local = (
        *(Hold(t, "buffer", deep=2) for t, _ in passing),
        *(Hold(t, "regs_1d", along="m0", users=users) for t, users in passing),
        *(Hold(t, "regs_1d", deep=2, along=along.get(t)) for t in ("LM", "RM", "SLD", "PRM", "SPD", "SLNV", "SPNV")),
    )
    leaves = tuple(_leaf(t, PRODUCTS, machine, 0) for t in TILE)
    return _mapping("fusemax-cascade", Pipe(leaves, open=2, ahead=4), local, p1, cascade, machine, sizes)
