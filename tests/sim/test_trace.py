"""The trace holds what ran, opens as JSON, and says where it was cut."""

import json
from itertools import pairwise

from fusemax_program import fusemax

from arch.read import load as load_machine
from einsum.library import load as load_cascade
from mapper.library import make
from sim.fold import run, run_full
from sim.random_program import random_program
from sim.run import simulate
from sim.trace import trace_events


def test_spans_of_a_full_run_account_for_every_busy_tick():
    for seed in range(40):
        full = run_full(random_program(seed, most=(2, 3, 6)), trace_tiles=10**9)
        assert max((s.end for s in full.spans), default=0) == full.makespan
        for resource in full.program.resources:
            mine = sorted((s.start, s.end) for s in full.spans if s.resource == resource.name)
            assert sum(end - start for start, end in mine) == full.busy(resource.name)
            assert all(a[1] <= b[0] for a, b in pairwise(mine))


def test_the_first_tiles_of_a_folded_run_are_those_of_the_full_run():
    for program in (fusemax(m1=40, p1=6, heads=2), fusemax(m1=300, p1=1), fusemax(m1=2, p1=300, window=6)):
        folded, full = run(program, trace_tiles=50), run_full(program, trace_tiles=50)
        assert folded.spans == full.spans
        assert folded.makespan == full.makespan
        assert 50 <= folded.simulated < full.tiles


def test_events_name_tracks_tiles_and_microseconds():
    program = fusemax(m1=2, p1=1)
    events = trace_events(run(program, trace_tiles=2))
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert list(tracks.values()) == ["pe_2d", "pe_1d", "latency"]
    slices = [e for e in events if e["ph"] == "X"]
    assert len(slices) == 2 * 11 + 1
    first = slices[0]
    assert (first["name"], tracks[first["tid"]], first["ts"]) == ("BQK", "pe_2d", 0)
    assert abs(first["dur"] - 64 / 940) < 1e-12  # 64 cycles at 940 MHz
    assert first["args"] == {"bh": 0, "p2": 0, "m1": 0, "p1": 0}


def test_a_mapping_is_traced_to_a_file(tmp_path):
    machine = load_machine("fusemax")
    sizes = {"B": 1, "H": 1, "E": 64, "F": 64, "P": 65536, "M": 65536}
    mapping, workload = make("fusemax-binding", load_cascade("attention-1pass"), machine, sizes)
    path = tmp_path / "trace.json"
    traced = simulate(mapping, workload, machine, trace=path, trace_tiles=20)
    assert traced.latency_s == simulate(mapping, workload, machine).latency_s
    content = json.loads(path.read_text())
    assert content["otherData"]["cut"] == {"fusemax-binding/attention": "first 20 of 65536 tiles"}
    assert len(content["otherData"]["inputs_sha256"]) == 64
    tracks = {e["args"]["name"] for e in content["traceEvents"] if e["name"] == "thread_name"}
    assert tracks == {"pe_2d", "pe_1d", "dram", "latency"}
    levels = [e["args"]["taken"] for e in content["traceEvents"] if e["name"] == "slots: open tiles"]
    assert max(levels) == 2
    assert min(levels) >= 0
