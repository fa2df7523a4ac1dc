"""Simulate a mapping: lower it, run its programs, and state what happened as a `Result`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from arch.machine import Machine
from einsum.cascade import Workload
from mapper.cost import energy_rows, ratios
from mapper.mapping import Mapping
from mapper.result import Result, Row, provenance
from mapper.work import group_works
from sim import fold as folding
from sim.lower import lower
from sim.outcome import Run
from sim.trace import write_trace


def simulate(
    mapping: Mapping,
    workload: Workload,
    machine: Machine,
    fold: bool = True,
    trace: str | Path | None = None,
    trace_tiles: int = 256,
) -> Result:
    """The simulated `Result` of a checked mapping; its groups run one after another.

    With `trace` the first `trace_tiles` tiles of each group are written there for ui.perfetto.dev. Raises InputError
    for what is not simulated yet and `sim.outcome.Deadlock` when the schedule cannot proceed.
    """
    run = folding.run if fold else folding.run_full
    runs = [run(program, trace_tiles if trace else 0) for program in lower(mapping, workload, machine)]
    if trace:
        write_trace(trace, runs, provenance(mapping, workload, machine))
    latency = sum(r.seconds for r in runs)
    rows = [row for r in runs for row in _rows(r)]
    rows.append(Row("latency", latency))
    rows += energy_rows(rows, group_works(mapping, workload, machine), machine, latency)
    rows += ratios(rows, latency, machine)
    names = {"cascade": mapping.cascade, "machine": machine.name, "mapping": mapping.name}
    one, tiles = sum(r.simulated for r in runs), sum(r.tiles for r in runs)
    note = f"{one} of {tiles} tiles run one by one"
    return Result("simulated", {**names, "sizes": dict(workload.sizes)}, tuple(rows), notes=(note,))


def _rows(run: Run) -> Iterator[Row]:
    """Tiles, counters and stalls of one program. A counter's name is the key of its row."""
    yield Row("tiles", run.tiles, place=run.program.name.rsplit("/", 1)[-1])
    totals: dict[str, float] = defaultdict(float)
    for task in run.program.tasks:
        for name, amount in run.counters(task.name).items():
            totals[name] += amount
    for name, amount in totals.items():
        quantity, einsum, tensor, place, detail = name.split("|")
        if quantity == "busy":
            yield Row("busy", amount / run.program.ticks_per_second, einsum, tensor, place, detail)
        else:
            yield Row(quantity, amount, einsum, tensor, place, detail, "issued")
    for place, causes in run.stalls.items():
        for (kind, name), ticks in sorted(causes.items()):
            detail = f"{kind} {name}".strip()
            yield Row("stall", ticks / run.program.ticks_per_second, place=place, detail=detail)
