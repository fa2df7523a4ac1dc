"""A trace in Chrome's JSON format, which opens in ui.perfetto.dev: a track per resource, counters for slots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mapper.result import Provenance
from sim.outcome import Run, Span
from sim.program import Program

LATENCY_TRACK = "latency"  # pure latencies, which have no resource


def trace_events(run: Run, process: int = 1) -> list[dict[str, object]]:
    """The run's spans as events: slices named by task with their tile's indices; times in microseconds."""
    program, scale = run.program, 1e6 / run.program.ticks_per_second
    tracks = {r.name: i for i, r in enumerate(program.resources, start=1)} | {None: len(program.resources) + 1}
    events = [_named("process_name", process, 0, program.name)]
    events += [_named("thread_name", process, t, name or LATENCY_TRACK) for name, t in tracks.items()]
    loops = [loop.name for loop in program.loops]
    for span in run.spans:
        if span.end > span.start:
            slice_ = {"ph": "X", "ts": span.start * scale, "dur": (span.end - span.start) * scale}
            tile = dict(zip(loops, span.tile, strict=True))
            events.append({"name": span.task, "pid": process, "tid": tracks[span.resource], "args": tile, **slice_})
    for slot in program.slots:
        events += [
            {"name": f"slots: {slot.name}", "ph": "C", "pid": process, "ts": tick * scale, "args": {"taken": n}}
            for tick, n in _taken(program, run.spans, slot.name)
        ]
    return events


def write_trace(path: str | Path, runs: Sequence[Run], provenance: Provenance) -> None:
    """Write the traced tiles of the runs, one process each. The metadata says where the trace was cut."""
    events = [e for i, run in enumerate(runs, start=1) for e in trace_events(run, i)]
    cut = {run.program.name: f"first {len({s.tile for s in run.spans})} of {run.tiles} tiles" for run in runs}
    about = {"version": provenance.version, "inputs_sha256": provenance.inputs_sha256, "command": provenance.command}
    content = {"traceEvents": events, "displayTimeUnit": "ns", "otherData": about | {"cut": cut}}
    Path(path).write_text(json.dumps(content))


def _named(kind: str, process: int, track: int, name: str) -> dict[str, object]:
    return {"name": kind, "ph": "M", "pid": process, "tid": track, "args": {"name": name}}


def _taken(program: Program, spans: Sequence[Span], slot: str) -> list[tuple[int, int]]:
    """(tick, slots taken from then on), by the traced tasks."""
    change: dict[int, int] = {}
    for span in spans:
        task = program[span.task]
        for tick, step in ((span.start, int(slot in task.acquires)), (span.end, -int(slot in task.releases))):
            if step:
                change[tick] = change.get(tick, 0) + step
    taken, found = 0, []
    for tick in sorted(change):
        taken += change[tick]
        found.append((tick, taken))
    return found
