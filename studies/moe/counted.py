"""The fused kernel counted in the interpreter, beside its closed form, for ten routings."""

from __future__ import annotations

from importlib.util import find_spec

from arch.read import load as load_machine
from einsum.occupancy import parse
from studies.moe.layers import MACHINE
from studies.study import Progress, Table

KINDS = ("uniform", "zipf:0.3", "zipf:0.6", "zipf:1", "power:1.2")
SIZES = {"T": 48, "D": 64, "E": 12, "F": 64, "K": 3}


def counted_table(progress: Progress, seeds: tuple[int, ...] = (1, 2)) -> Table | None:
    """None without Triton, which the interpreter is."""
    if not find_spec("triton"):
        return None
    from gpu_backend.check import oracle_case
    from gpu_backend.count import count
    from gpu_backend.handwritten.ledger import differences, numbers
    from gpu_backend.handwritten.moe import Tiles, fused_moe

    rows = []
    for text in (f"{kind}:{seed}" for kind in KINDS for seed in seeds):
        progress(f"counting the kernel, {text}")
        drawn = parse(text).draw(SIZES["T"], SIZES["E"], SIZES["K"])
        routine = fused_moe(SIZES, drawn, load_machine(MACHINE), Tiles(16, 32, 32))
        _, found = count(routine.kernels, oracle_case(routine.workload, 0, routine.given)[0])
        wrong, compared = differences(routine.closed, found), {*numbers(routine.closed), *numbers(found)}
        bytes_ = found.total("bytes", boundary="issued")
        rows.append((text, drawn.max_over_mean, len(compared), len(wrong), bytes_))
    columns = ("routing", "max/mean load", "quantities compared", "different", "bytes issued")
    return Table("counted", "fused kernel counted in the interpreter, against its closed form", columns, tuple(rows))
