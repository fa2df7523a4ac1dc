"""Hand-written kernels that are checked by name, at sizes small enough to interpret in a moment."""

from __future__ import annotations

from arch.machine import Machine
from gpu_backend.check import TOLERANCE, Verdict, oracle_case, relative_error, require_triton
from gpu_backend.handwritten.ledger import differences, numbers
from gpu_backend.handwritten.moe import TRAINED, Tiles, fused_moe
from gpu_backend.handwritten.paged import cache, paged_decode
from gpu_backend.routine import Routine


def _fused_moe(machine: Machine, dtype: str, experts: int, chosen: int) -> Routine:
    sizes = {"T": 32, "D": 64, "E": experts, "F": 64, "K": chosen}
    return fused_moe(sizes, TRAINED.draw(32, experts, chosen), machine, Tiles(16, 32, 32), dtype)


def _paged_decode(machine: Machine, dtype: str) -> Routine:
    lengths, pages = cache(requests=3, keys=200, page=16, seed=0)
    sizes = {"B": 3, "G": 2, "R": 4, "E": 32, "F": 64, "M": 200, "S": 16, "J": pages.shape[1], "NP": pages.size}
    return paged_decode(sizes, lengths, pages, machine, keys=32, dtype=dtype)


ROUTINES = {
    "fused-moe": lambda machine, dtype: _fused_moe(machine, dtype, experts=8, chosen=2),
    "fused-moe-many": lambda machine, dtype: _fused_moe(machine, dtype, experts=20, chosen=4),
    "paged-decode": _paged_decode,
}


def check(routine: Routine, seed: int = 0) -> Verdict:
    """Values against the oracle, every count against the closed form, and what the compiler makes of each kernel."""
    require_triton()
    from gpu_backend.count import count
    from gpu_backend.static import profile

    inputs, exact = oracle_case(routine.workload, seed, routine.given)
    outputs, counted = count(routine.kernels, inputs)
    error = max(relative_error(outputs[name], exact[name]) for name in routine.workload.cascade.outputs)
    tolerance = max(TOLERANCE[a.dtype] for kernel in routine.kernels for a in kernel.arguments if a.dtype in TOLERANCE)
    found, compared = differences(routine.closed, counted), {*numbers(routine.closed), *numbers(counted)}
    compiled = tuple(profile(kernel) for kernel in routine.kernels)
    return Verdict(
        routine.mapping, routine.kernels, error, tolerance, counted, routine.closed, found, len(compared), compiled
    )
