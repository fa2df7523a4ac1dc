"""Simulate a mapping: lower it, run its programs, and state what happened as a `Result`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from arch.machine import Machine
from einsum.cascade import Workload
from mapper.cost import energy_rows, ratios
from mapper.mapping import Mapping
from mapper.result import Result, Row
from mapper.work import GroupWork, group_works
from sim import fold as folding
from sim.engine import Run
from sim.lower import lower
from sim.program import TICKS_PER_CYCLE, Task
from sim.trace import write_trace


def simulate(mapping: Mapping, workload: Workload, machine: Machine, fold: bool = True, trace: str | Path | None = None,
             trace_tiles: int = 256) -> Result:
    """The simulated `Result` of a checked mapping; groups run one after another.

    With `trace` the first `trace_tiles` tiles of each group are written there for ui.perfetto.dev. Raises InputError
    for what is not simulated yet and `sim.engine.Deadlock` when the schedule cannot proceed.
    """
    programs = lower(mapping, workload, machine)
    run = folding.run if fold else folding.run_full
    runs = [run(p, trace_tiles if trace else 0) for p in programs]
    if trace:
        write_trace(trace, runs, mapping, workload, machine)
    groups = group_works(mapping, workload, machine)
    latency = sum(r.seconds for r in runs)
    rows = [row for group, r in zip(groups, runs, strict=True) for row in _rows(group, r, machine)]
    rows.append(Row("latency", latency))
    rows += energy_rows(rows, groups, machine, latency)
    rows += ratios(rows, latency)
    config = {"cascade": mapping.cascade, "machine": machine.name, "mapping": mapping.name, "sizes": dict(workload.sizes)}
    one = sum(r.simulated for r in runs), sum(r.tiles for r in runs)
    return Result("simulated", config, tuple(rows), notes=(f"{one[0]} of {one[1]} tiles run one by one",))
