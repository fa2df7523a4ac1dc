"""Seeded random mappings of 1-pass attention on small two-array machines, for property tests.

Every case is legal: loops in an order that keeps the state's rank inside the queries' outer loop, ragged sizes,
causal or not, any schedule, buffer depths and prefetch distances.
"""

from __future__ import annotations

import random
from dataclasses import replace

from arch.machine import Array, Axis, Machine, Memory, OpCost, Unit
from einsum.cascade import Cascade, Workload
from mapper.fusemax import ON_2D, TILE
from mapper.library import bound
from mapper.mapping import GUARD, Compute, Greedy, Group, Hold, Loop, Mapping, Order, Phase, Phases, Pipe, Schedule


def random_case(seed: int, plain: Cascade, causal: Cascade) -> tuple[Mapping, Workload, Machine]:
    """A mapping, its workload and a machine; the cascades are 1-pass attention without and with its guard."""
    draw = random.Random(seed)
    columns, guarded = draw.choice([2, 4]), draw.random() < 0.4
    machine = _machine(draw, columns)
    cascade = causal if guarded else plain
    sizes = {"B": draw.randint(1, 2), "H": draw.randint(1, 3), "E": draw.randint(1, 6), "F": draw.randint(1, 6)}
    sizes |= {"P": draw.randint(1, 28), "M": draw.randint(1, 28)}
    mapping = _mapping(draw, cascade, machine, columns, guarded)
    return mapping, bound(mapping, cascade, sizes), machine


def _machine(draw: random.Random, columns: int) -> Machine:
    cost = lambda: OpCost(draw.choice([1, 1, 2, 3]), draw.random() * 1e-12)
    ops = lambda: {name: cost() for name in ("mac", "mul", "add", "max", "div")}
    expands = {"exp": {"mac": draw.randint(1, 6)}}
    pe = lambda name: Unit(name, 1e9, ops(), expands=expands, drain_s=draw.choice([0, 4e-9]))
    registers = lambda name, unit: Memory(name, (unit,), access_bytes=2, read_energy_j=1e-12, write_energy_j=2e-12)
    square = (Axis("col", columns), Axis("row", columns, reduce=True))
    grid = Array("array_2d", square, (registers("regs_2d", pe("pe_2d")),))
    line = Array("array_1d", (Axis("lane", columns),), (registers("regs_1d", pe("pe_1d")),))
    buffer = Memory("buffer", (grid, line), access_bytes=8, read_energy_j=3e-12, write_energy_j=4e-12)
    speed = draw.choice([1e9, 4e9, 64e9])
    root = Memory(
        "dram",
        (buffer,),
        read_bytes_per_s=speed,
        write_bytes_per_s=speed / 2,
        shared_port=draw.random() < 0.7,
        access_bytes=8,
        read_energy_j=9e-12,
        write_energy_j=9e-12,
    )
    return Machine(f"small-{columns}x{columns}", 1e9, root)


def _mapping(draw: random.Random, cascade: Cascade, machine: Machine, columns: int, guarded: bool) -> Mapping:
    schedule = _schedule(draw)
    behind = {Order: set(TILE) - {"BQK", "LM"}, Phases: {"RD", "AV"}}.get(type(schedule), set())
    leaves = tuple(_leaf(name, int(name in behind)) for name in TILE)
    pipe = Pipe(leaves, open=draw.randint(2 if behind else 1, 4), ahead=draw.randint(0, 4), schedule=schedule)
    deep = lambda: draw.randint(1, 3)
    local = tuple(
        Hold(t, "regs_2d" if t in ("BQK", "SLN") else "regs_1d", deep=max(2, deep()))
        for t in ("BQK", "SLN", "LM", "RM", "SLD", "PRM", "SPD", "SLNV", "SPNV")
    )
    extent = GUARD if guarded else None
    tile = Loop(("p",), (columns,), holds=local, body=(pipe,))
    keys = Loop(
        ("m1",), (1,), extent=extent, holds=(Hold("BK", "buffer", deep()), Hold("BV", "buffer", deep())), body=(tile,)
    )
    queries = Loop(
        ("p",),
        (columns * draw.randint(1, 4),),
        body=(keys,),
        holds=(
            Hold("Q", "buffer", deep()),
            Hold("RM", "buffer", deep()),
            Hold("RD", "buffer", deep()),
            Hold("RNV", "buffer", deep()),
        ),
    )
    outer = [Loop(("b",), (1,)), Loop(("h",), (1,))]
    draw.shuffle(outer)
    body = replace(outer[0], body=(replace(outer[1], body=(queries,)),))
    name = f"random-{type(schedule).__name__.lower()}"
    return Mapping(name, cascade.name, machine.name, (Group("attention", (body,)),), sizes=(("M0", columns),))


def _leaf(name: str, stage: int) -> Compute:
    private = {"BQK": "e", "SLNV": "f", "SPNV": "f", "RNV": "f", "AV": "f"}
    loops = (Loop((private[name],), (1,)),) if name in private else ()
    on_2d = name in ON_2D
    loops += (Loop(("p",), (1,), over="array_2d.col" if on_2d else "array_1d.lane"),)
    loops += (Loop(("m0",), (1,), over="array_2d.row"),) if on_2d else ()
    at = (("m1", "last"),) if name == "AV" else ()
    return Compute(name, "pe_2d" if on_2d else "pe_1d", stage=stage, at=at, loops=loops)


def _schedule(draw: random.Random) -> Schedule:
    kind = draw.choice(["greedy", "order", "phases"])
    if kind == "greedy":
        return Greedy()
    if kind == "order":
        return Order(
            (
                ("pe_2d", ("SLN", "SLD", "SLNV", "BQK", "LM")),
                ("pe_1d", tuple(name for name in TILE if name not in ON_2D)),
            )
        )
    drain = draw.choice(["pe_2d", None])
    return Phases(
        (
            Phase(("BQK", "LM", "RD", "AV"), drain),
            Phase(("RM",)),
            Phase(("SLN", "SLD", "PRM", "SPD")),
            Phase(("SLNV", "SPNV", "RNV")),
        )
    )
