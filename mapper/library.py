"""Mappings of the literature, generated for a workload's sizes and a machine's capacities.

Each generator takes the cascade, the machine and the sizes, and returns the mapping; `make` also binds the workload.
"""

from __future__ import annotations

from collections.abc import Callable

from arch.machine import Machine
from einsum.bind import bind
from einsum.cascade import Cascade, Workload
from einsum.problems import InputError, Problem, suggest
from mapper import backward, baselines, fusemax, library_gpu, rows
from mapper.fusemax import Sizes
from mapper.mapping import Mapping

SPATIAL = ("buffer", "pe_2d", "pe_1d")  # nodes that the mappings of spatial accelerators place data and work on
TPU = ("cores", "local_buffer", "scalar")
GPU = ("sm", "smem", "subcore", "registers", "tensor", "fma", "mufu")
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
    needed = GPU if name in library_gpu.GENERATORS else TPU if name == "tpu-rows" else SPATIAL
    missing = [n for n in needed if n not in nodes]
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


_GENERATORS: dict[str, Generator] = {
    "fusemax-binding": fusemax.binding,
    "fusemax-architecture": fusemax.architecture,
    "fusemax-cascade": fusemax.cascade_only,
    "fusemax-greedy": fusemax.oldest_first,
    "fusemax-backward": backward.fusemax_backward,
    "fusemax-backward-recompute": backward.fusemax_backward_recompute,
    "fusemax-rows": rows.fusemax_rows,
    "tpu-rows": rows.tpu_rows,
    "flat": baselines.flat,
    "unfused": baselines.unfused,
    "linear": baselines.linear,
    **library_gpu.GENERATORS,
}
