"""Mappings of the literature, generated for a workload's sizes and a machine's capacities.

Each generator takes the cascade, the machine and the sizes, and returns the mapping; `make` also binds the workload.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping as Dict
from dataclasses import replace

from arch.machine import Machine
from einsum.bind import bind
from einsum.cascade import Cascade, Workload
from einsum.problems import InputError, Problem, suggest
from mapper.mapping import GUARD, Compute, Group, Hold, Loop, Mapping, Order, Phase, Phases, Pipe, Schedule, Seq

Sizes = Dict[str, int]
Generator = Callable[[Cascade, Machine, Sizes], Mapping]

ON_2D = ("BQK", "LM", "SLN", "SLD", "SLNV")  # the Einsums on the two-dimensional array
TILE = ("BQK", "LM", "RM", "SLN", "SLD", "PRM", "SPD", "SLNV", "SPNV", "RD", "RNV", "AV")  # program order


def names() -> tuple[str, ...]:
    """The mappings that `make` knows."""
    return tuple(sorted(_GENERATORS))


def make(name: str, cascade: Cascade, machine: Machine, sizes: Sizes) -> tuple[Mapping, Workload]:
    """The mapping `name` for the sizes, and the workload that it maps; InputError for an unknown name."""
    if name not in _GENERATORS:
        raise InputError(Problem("unknown mapping", got=name, hint=suggest(name, names())))
    mapping = _GENERATORS[name](cascade, machine, sizes)
    return mapping, bound(mapping, cascade, sizes)


def bound(mapping: Mapping, cascade: Cascade, sizes: Sizes) -> Workload:
    """The workload of a mapping: its partition sizes and storage types applied."""
    fixed = dict(mapping.sizes)
    clash = [s for s in sizes if s in fixed and fixed[s] != sizes[s]]
    if clash:
        raise InputError(Problem(f"the mapping fixes this size to {fixed[s]}", path=s, got=str(sizes[s])) for s in clash)
    return bind(cascade, {**sizes, **fixed}, dict(mapping.dtypes))


def _sizes(sizes: Sizes, wanted: str) -> list[int]:
    missing = [s for s in wanted.split() if s not in sizes]
    if missing:
        raise InputError(Problem("missing size", path=s) for s in missing)
    return [sizes[s] for s in wanted.split()]


def fusemax_p1(e: int, f: int, p: int, columns: int, buffer_bytes: float) -> int:
    """Tiles of P kept in the buffer: the largest divisor of P/columns that fits beside one tile of BK and BV.

    The buffer holds Q, RNV (a row a coordinate of E and F), RM and RD for each of them, in 16-bit words.
    Source: FuseMax (MICRO 2024), artifact's rule for P1.
    """
    tiles, row = math.ceil(p / columns), 2 * columns
    fit = int((buffer_bytes - row * (e + f)) // (row * (e + f + 2)))
    return max(d for d in range(1, tiles + 1) if tiles % d == 0 and d <= max(1, fit))


def _fusemax_tile(stages: bool) -> tuple[Compute, ...]:
    """The leaves of a tile. With `stages` all but BQK and LM run one tile behind (+Binding), else RD and AV do."""
    behind = set(TILE) - {"BQK", "LM"} if stages else {"RD", "AV"}
    private = {"BQK": "e", "SLNV": "f", "SPNV": "f", "RNV": "f", "AV": "f"}
    leaves = []
    for name in TILE:
        temporal = (Loop((private[name],), (1,)),) if name in private else ()
        if name in ON_2D:
            spatial = (Loop(("p",), (1,), over="array_2d.col"), Loop(("m0",), (1,), over="array_2d.row"))
        else:
            spatial = (Loop(("p",), (1,), over="array_1d.lane"),)
        at = (("m1", "last"),) if name == "AV" else ()
        unit = "pe_2d" if name in ON_2D else "pe_1d"
        leaves.append(Compute(name, unit, stage=int(name in behind), at=at, loops=temporal + spatial))
    return tuple(leaves)


def _fusemax(name: str, schedule: Schedule, stages: bool, cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    e, f, p = _sizes(sizes, "E F P")
    columns = next(a.size for _, a in machine.axes("pe_2d") if a.name == "col")
    buffer = machine.memory("buffer").capacity_bytes or math.inf
    p1 = fusemax_p1(e, f, p, columns, buffer)
    kept = 2 * columns * p1
    prefetch = 2 if kept * (2 * e + f + 2) + 4 * columns * (e + f) <= buffer else 1
    along = {"SLNV": "f", "SPNV": "f"}
    local = tuple(Hold(t, "regs_2d" if t in ("BQK", "SLN") else "regs_1d", deep=2, along=along.get(t))
                  for t in ("BQK", "SLN", "LM", "RM", "SLD", "PRM", "SPD", "SLNV", "SPNV"))
    pipe = Pipe(_fusemax_tile(stages), open=2, ahead=4, schedule=schedule)
    tile = Loop(("p",), (columns,), holds=local, body=(pipe,))
    keys = Loop(("m1",), (1,), holds=(Hold("BK", "buffer", deep=2), Hold("BV", "buffer", deep=2)), body=(tile,))
    queries = Loop(("p",), (columns * p1,), body=(keys,), holds=(
        Hold("Q", "buffer", deep=prefetch), Hold("RM", "buffer"), Hold("RD", "buffer"), Hold("RNV", "buffer")))
    body = Loop(("b",), (1,), body=(Loop(("h",), (1,), body=(queries,)),))
    return Mapping(name, cascade.name, machine.name, (Group("attention", (body,)),),
                   sizes=(("M0", columns),), dtypes=(("*", "bf16"),))


def _binding(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """FuseMax +Binding: a static order in which BQK and LM of the next tile follow SLNV of this one."""
    order = Order((("pe_2d", ("SLN", "SLD", "SLNV", "BQK", "LM")),
                   ("pe_1d", ("RM", "PRM", "SPD", "SPNV", "RD", "RNV", "AV"))))
    return _fusemax("fusemax-binding", order, True, cascade, machine, sizes)


def _oldest_first(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """FuseMax's tile under oldest-first arbitration, to compare +Binding's static order with."""
    return _fusemax("fusemax-greedy", Pipe(()).schedule, False, cascade, machine, sizes)


def _architecture(cascade: Cascade, machine: Machine, sizes: Sizes) -> Mapping:
    """FuseMax +Architecture: phases ended by barriers; RD and AV of the previous tile share BQK's phase."""
    phases = Phases((Phase(("BQK", "LM", "RD", "AV"), drain="pe_2d"), Phase(("RM",)),
                     Phase(("SLN", "SLD", "PRM", "SPD")), Phase(("SLNV", "SPNV", "RNV"))))
    return _fusemax("fusemax-architecture", phases, False, cascade, machine, sizes)


def flash_attention(cascade: Cascade, machine: Machine, sizes: Sizes, block_m: int = 64, block_n: int = 64,
                    stages: int = 2) -> Mapping:
    """FlashAttention-2 on a GPU: a block of queries for each thread block, keys and values staged through `smem`."""
    units = {"BQK": "tensor", "SLNV": "tensor", "SLN": "fma+mufu", "PRM": "fma+mufu", "AV": "mufu"}
    guarded = any(e.guards for e in cascade.einsums)
    at = {"AV": (("m1", "last"),)}
    rows = (Loop(("p",), (max(1, block_m // 4),), over="subcore.quad"),)  # a warp for each quarter of the queries
    leaves = tuple(Compute(t, units.get(t, "fma"), at=at.get(t, ()), loops=rows) for t in TILE)
    local = tuple(Hold(t, "registers") for t in TILE if t not in ("RM", "RD", "RNV", "AV"))
    staged = (Hold("BK", "smem", deep=stages), Hold("BV", "smem", deep=stages))
    keys = Loop(("m1",), (1,), extent=GUARD if guarded else None, holds=staged + local, body=(Seq(leaves),))
    state = (Hold("Q", "smem"), Hold("RM", "registers"), Hold("RD", "registers"), Hold("RNV", "registers"))
    grid = Loop(("b", "h", "p"), (1, 1, block_m), over="sm.sm", fill="dynamic", holds=state, body=(keys,))
    types = tuple((t, "fp32") for t in TILE if t not in ("SLN", "AV"))
    return Mapping("flash-attention", cascade.name, machine.name, (Group("attention", (grid,)),),
                   sizes=(("M0", block_n),), dtypes=types)


_GENERATORS: dict[str, Generator] = {
    "fusemax-binding": _binding,
    "fusemax-architecture": _architecture,
    "fusemax-greedy": _oldest_first,
    "flash-attention": flash_attention,
}
