"""What does the routing of tokens do? Latency, traffic and load of mixtures of experts beside the even split."""

from __future__ import annotations

from functools import partial

from arch.read import load as load_machine
from mapper.result import provenance
from studies.moe import active, array, counted, figures, layers
from studies.study import Figure, Progress, Study, Table

NOTES = (
    "Even: experts in turn, the estimate that leaves routing out. Uniform, Zipf: distinct experts drawn without "
    "replacement, seed 0; the order of popularity is random.",
    "Latency on the GPU is a bound: the padded matrix work at peak, or every byte once at the memory's bandwidth.",
    "The published skews of power laws (8.0, 13.7) scale counts; ours gives each token distinct experts, which caps an "
    "expert at E/K times the mean, so they come out lower.",
    "On the array experts run one after another, each in chunks of rows; a chunk is mapped best with proof, the whole "
    "has none.",
)


def run(progress: Progress) -> Study:
    """Draw the routings, cost and simulate, count, compare."""
    progress("layers on GPUs")
    every = layers.layers()
    progress("activated experts")
    found = active.activated(layers.MODELS)
    on_array = array.points(progress)
    kernel = counted.counted_table(progress)
    notes = NOTES if kernel else (*NOTES, "triton is not installed: the kernel was not counted")
    tables: tuple[Table, ...] = (
        layers.gpu_table(every), layers.device_table(every), array.array_table(on_array), active.active_table(found),
        *([kernel] if kernel else []),
    )  # fmt: skip
    drawn = (
        Figure("over-even", partial(figures.over_even, every), (9.0, 6.0)),
        Figure("active", partial(figures.activation, found), (9.0, 4.0)),
    )
    inputs = (load_machine(layers.MACHINE), load_machine(array.MACHINE), every, array.TOKENS, active.SEEDS)
    return Study("moe", tables, drawn, tuple(active.skews()), provenance(*inputs), notes)
