"""Mappings of the literature, generated for a workload's sizes and a machine's capacities.

Each generator takes the cascade, the machine and the sizes, and returns the mapping; `make` also binds the workload.
"""

from __future__ import annotations

from collections.abc import Callable

from arch.machine import Machine
from einsum.bind import bind
from einsum.cascade import Cascade, Workload
from einsum.problems import InputError, Problem, suggest
from mapper import baselines, fusemax, library_gpu
from mapper.fusemax import TILE, Sizes
from mapper.mapping import GUARD, Compute, Group, Hold, Loop, Mapping, Seq

SPATIAL = ("buffer", "pe_2d", "pe_1d")  # nodes that the mappings of spatial accelerators place data and work on
GPU = ("sm", "smem", "subcore", "registers", "tensor", "fma", "mufu")
ON_GPU = ("flash-attention", *library_gpu.GENERATORS)
Generator = Callable[[Cascade, Machine, Sizes], Mapping]


def names() -> tuple[str, ...]:
    """The mappings that `make` knows."""
    return tuple(sorted(_GENERATORS))


def make(name: str, cascade: Cascade, machine: Machine, sizes: Sizes) -> tuple[Mapping, Workload]:
    """The mapping `name` for the sizes, and the workload that it maps.

    InputError for an unknown name, a missing size, or a machine without the nodes that the mapping places things on.
    """
    if name not in _GENERATORS:
        raise InputError(Problem("unknown mapping", got=name, hint=suggest(name, names())))
    nodes = [node.name for node in machine.nodes()]
    missing = [n for n in (GPU if name in ON_GPU else SPATIAL) if n not in nodes]
    if missing:
        what = f"{name} needs a machine with {', '.join(missing)}"
        raise InputError(Problem(what, path="machine", got=machine.name))
    mapping = _GENERATORS[name](cascade, machine, sizes)
    return mapping, bound(mapping, cascade, sizes)


def bound(mapping: Mapping, cascade: Cascade, sizes: Sizes) -> Workload:
    """The workload of a mapping: its partition sizes and storage types applied."""
    fixed = dict(mapping.sizes)
    clash = [s for s in sizes if s in fixed and fixed[s] != sizes[s]]
    if clash:
        raise InputError(
            Problem(f"the mapping fixes this size to {fixed[s]}", path=s, got=str(sizes[s])) for s in clash
        )
    return bind(cascade, {**sizes, **fixed}, dict(mapping.dtypes))


def flash_attention(
    cascade: Cascade, machine: Machine, sizes: Sizes, block_m: int = 64, block_n: int = 64, stages: int = 2
) -> Mapping:
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
    return Mapping(
        "flash-attention",
        cascade.name,
        machine.name,
        (Group("attention", (grid,)),),
        sizes=(("M0", block_n),),
        dtypes=types,
    )


_GENERATORS: dict[str, Generator] = {
    "fusemax-binding": fusemax.binding,
    "fusemax-architecture": fusemax.architecture,
    "fusemax-cascade": fusemax.cascade_only,
    "fusemax-greedy": fusemax.oldest_first,
    "flash-attention": flash_attention,
    "flat": baselines.flat,
    "unfused": baselines.unfused,
    "linear": baselines.linear,
    **library_gpu.GENERATORS,
}
