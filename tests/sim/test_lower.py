"""Lowered mappings: small cases by hand, the published designs, and what is refused."""

import csv
from dataclasses import replace
from importlib.resources import files

import pytest
from fusemax_program import fusemax

from arch.machine import Array, Axis, Machine, Memory, OpCost, Unit
from arch.read import load as load_machine
from einsum.bind import bind
from einsum.library import load as load_cascade
from einsum.parse import parse
from einsum.problems import InputError
from mapper.cost import cost
from mapper.library import make
from mapper.mapping import Compute, Group, Hold, Loop, Mapping, Order, Pipe, Seq
from sim.fold import run, run_full
from sim.lower import lower
from sim.program import TICKS_PER_CYCLE
from sim.run import simulate
from sim.show import show

HEADS = {"BERT": {"B": 64, "H": 12, "E": 64, "F": 64}, "XLM": {"B": 64, "H": 16, "E": 128, "F": 128}}
LENGTH = {"1K": 2**10, "4K": 2**12, "16K": 2**14, "64K": 2**16, "256K": 2**18, "1M": 2**20}
TOLERANCE = {"1K": 1e-3, "4K": 1e-4, "16K": 1e-5}  # from 64K on: 1e-6


def published(design: str) -> list[dict[str, str]]:
    text = files("studies").joinpath("reference", "fusemax", f"{design}.csv").read_text()
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def design(name: str, model: str, length: str):
    machine, n = load_machine("fusemax"), LENGTH[length]
    mapping, workload = make(name, load_cascade("attention-1pass"), machine, {**HEADS[model], "M": n, "P": n})
    return mapping, workload, machine


DESIGNS = [("fusemax-binding", "attn-binding"), ("fusemax-architecture", "attn-arch")]


@pytest.mark.parametrize(("name", "source"), DESIGNS)
def test_simulated_designs_equal_the_published_rows(name, source):
    rows = published(source)
    assert len(rows) == 12
    for row in rows:
        result = simulate(*design(name, row["model"], row["seq_len"]))
        tolerance = TOLERANCE.get(row["seq_len"], 1e-6)
        assert result.latency_s == pytest.approx(float(row["latency"]), rel=tolerance)
        assert result.value("utilization", place="pe_2d") == pytest.approx(float(row["util_2d"]), rel=tolerance)
        assert result.value("utilization", place="pe_1d") == pytest.approx(float(row["util_1d"]), rel=tolerance)


def test_counts_of_a_folded_design_equal_the_closed_form():
    case = design("fusemax-binding", "BERT", "1M")
    ours, closed = simulate(*case), cost(*case)
    assert ours.notes == ("894 of 12884901888 tiles run one by one",)
    for quantity in ("bytes", "operations", "tiles"):
        wanted = {r.key: 0.0 for r in closed.rows if r.quantity == quantity and r.boundary != "useful"}
        for r in closed.rows:
            if r.key in wanted:
                wanted[r.key] += r.value
        assert {r.key: r.value for r in ours.rows if r.quantity == quantity} == wanted
    assert ours.total("busy") == pytest.approx(closed.total("busy"), rel=1e-7)  # transfers round up to ticks
    assert ours.energy_j == pytest.approx(closed.energy_j, rel=1e-12)
    for place in ("pe_1d", "pe_2d", "dram"):
        assert ours.total("busy", place=place) + ours.total("stall", place=place) == pytest.approx(ours.latency_s)


def test_static_order_and_phases_a_tile_with_one_tile_of_queries():
    """With P1 = 1 nothing hides the state's latency: 138 cycles a tile in order, 458 in phases, 200 oldest first.
    Keys and values are used once and take 143.4 cycles from DRAM: a faster one shows the schedules."""
    preset = load_machine("fusemax")
    machine = replace(preset, root=replace(preset.root, read_bytes_per_s=2 * preset.root.read_bytes_per_s))
    sizes = {"B": 1, "H": 1, "E": 64, "F": 64, "P": 256, "M": 256 * 400}
    for name, cycles in (("fusemax-binding", 138), ("fusemax-architecture", 458), ("fusemax-greedy", 200)):
        mapping, workload = make(name, load_cascade("attention-1pass"), machine, sizes)
        (program,) = lower(mapping, workload, machine)
        assert run(program).makespan / 400 / TICKS_PER_CYCLE == pytest.approx(cycles, rel=0.01)
    slow = lower(*make("fusemax-binding", load_cascade("attention-1pass"), preset, sizes), preset)[0]
    assert run(slow).makespan / 400 / TICKS_PER_CYCLE == pytest.approx(143.4, rel=0.01)


def test_phases_wait_for_the_array_to_drain():
    machine = load_machine("fusemax")
    sizes = {"B": 1, "H": 1, "E": 64, "F": 64, "P": 256, "M": 256 * 3}
    mapping, workload = make("fusemax-architecture", load_cascade("attention-1pass"), machine, sizes)
    (program,) = lower(mapping, workload, machine)
    found = {(s.task, s.tile[3]): s for s in run_full(program, trace_tiles=3).spans}  # tile: b, h, p, m1, p'
    for m1 in (0, 1, 2):
        assert found["RM", m1].start - found["LM", m1].end == 256 * TICKS_PER_CYCLE
        assert found["SLN", m1].start == found["PRM", m1].start == found["RM", m1].end
        assert found["SPNV", m1].start == found["SLNV", m1].start == max(found["SLD", m1].end, found["SPD", m1].end)
    assert found["RD", 0].start == found["BQK", 1].start == found["RNV", 0].end
    assert ("AV", 1) not in found
    assert found["AV", 2].start == found["RD", 2].end


# One Einsum behind one memory port: everything can be counted on fingers.
SCALE = parse("cascade scale\ntensor X[i,e]\ntensor W[e]\nY[i,e] = X[i,e] * W[e]\n")


def machine(read_bytes_per_s: float = 4e9, latency_s: float = 0.0) -> Machine:
    """One lane at 1 GHz behind a buffer; a 4-byte word arrives each cycle. Writes cost nothing."""
    unit = Unit("lane", 1e9, {"mul": OpCost(3, 1e-12), "mac": OpCost(3, 1e-12)})
    array = Array("line", (Axis("x", 1),), (Memory("regs", (unit,)),))
    dram = Memory(
        "dram", (Memory("buffer", (array,)),), read_bytes_per_s=read_bytes_per_s, shared_port=False, latency_s=latency_s
    )
    return Machine("one-lane", 1e9, dram)


def scaled(deep: int, parent=Pipe, n: int = 10, e: int = 5, **fields):
    leaf = Compute("Y", "lane", loops=(Loop(("e",), (1,)),))
    holds = (Hold("X", "buffer", deep=deep), Hold("W", "buffer"))
    rows = Loop(("i",), (1,), holds=holds[:1], body=(parent((leaf,), **fields),))
    whole = Loop(("i",), (n,), holds=holds[1:], body=(rows,))
    mapping = Mapping("scale", "scale", "one-lane", (Group("all", (whole,)),))
    return mapping, bind(SCALE, {"I": n, "E": e})


def cycles(case, on: Machine) -> float:
    (program,) = lower(*case, on)
    folded, full = run(program), run_full(program)
    assert folded.makespan == full.makespan
    return full.makespan / TICKS_PER_CYCLE


def test_one_buffer_serialises_and_two_overlap():
    fill, work, n = 5, 15, 10
    assert cycles(scaled(1, open=1, ahead=3), machine()) == fill + n * (fill + work)  # W first, then X after X
    assert cycles(scaled(2, open=1, ahead=3), machine()) == 2 * fill + n * work
    assert cycles(scaled(1, Seq), machine()) == fill + n * (fill + work)
    assert cycles(scaled(2, Seq), machine()) == 2 * fill + n * work


def test_prefetch_goes_as_far_as_tiles_are_launched():
    assert cycles(scaled(4, open=1, ahead=0), machine()) == 5 + 10 * (5 + 15)
    assert cycles(scaled(4, open=1, ahead=1), machine()) == 2 * 5 + 10 * 15


def test_a_slow_port_bounds_the_time():
    """1 byte a cycle: W and each X take 20 cycles; the last product follows the last X."""
    assert cycles(scaled(2, open=1, ahead=3), machine(1e9)) == 20 + 10 * 20 + 15


def test_latency_of_a_memory_is_paid_once_when_hidden():
    assert cycles(scaled(2, open=1, ahead=3), machine(latency_s=7e-9)) == 2 * 5 + 7 + 10 * 15
    assert cycles(scaled(1, Seq), machine(latency_s=7e-9)) == 5 + 7 + 15 + 9 * (5 + 7 + 15) + 5


def test_a_leaf_reads_what_has_been_brought():
    """The buffer gives 4 bytes a cycle too: the first X is filled, then read, then used."""
    one = machine()
    buffer = replace(one.root.children[0], read_bytes_per_s=4e9, shared_port=False)
    behind = replace(one, root=replace(one.root, children=(buffer,)))
    assert cycles(scaled(2, open=2, ahead=3), behind) == 2 * 5 + 5 + 10 * 15


def test_two_leaves_read_one_tensor_through_a_limited_port():
    mapping, workload = walked()
    one = two_units()
    buffer = replace(one.root.children[0], read_bytes_per_s=40e9, shared_port=False)
    (program,) = lower(mapping, workload, replace(one, root=replace(one.root, children=(buffer,))))
    reads = [t for t in program.tasks if t.name.startswith("read X buffer>regs")]
    assert len(reads) == 2 and all(t.resource == "buffer read" for t in reads)


def test_ticks_round_up():
    """456.9 bytes a cycle: no transfer is faster than its bytes allow, nor slower by more than a tick."""
    (program,) = lower(*scaled(1, open=1, ahead=1), machine(456.9e9))
    ticks = program["fill X dram>buffer"].ticks
    assert 0 <= ticks - 20 / 456.9 * TICKS_PER_CYCLE < 1


WALK = parse("""cascade walk
tensor X[i,e]
T[i,e] = S[i,e] * X[i,e]
S[i+1,e] = T[i,e] + X[i,e]  init 0
Y[e] = S[I,e] * S[I,e]
""")


def walked(n: int = 12, e: int = 5):
    """T and S run on two units, and each T needs the S before."""
    leaves = [
        Compute(name, unit, loops=(Loop(("e",), (1,)),), at=at)
        for name, unit, at in (("T", "lane", ()), ("S", "adder", ()), ("Y", "lane", (("i", "last"),)))
    ]
    holds = (Hold("X", "buffer", deep=8), Hold("T", "regs", deep=4))
    loop = Loop(("i",), (1,), holds=holds, body=(Pipe(tuple(leaves), open=4, ahead=2),))
    whole = Loop(("e",), (e,), body=(loop,), holds=(Hold("S", "regs"),))
    return Mapping("walk", "walk", "two", (Group("all", (whole,)),)), bind(WALK, {"I": n, "E": e})


def two_units() -> Machine:
    lane = Unit("lane", 1e9, {"mul": OpCost(3, 1e-12), "mac": OpCost(3, 1e-12)})
    adder = Unit("adder", 1e9, {"add": OpCost(2, 1e-12)})
    array = Array("line", (Axis("x", 1),), (Memory("regs", (lane, adder)),))
    return Machine("two", 1e9, Memory("dram", (Memory("buffer", (array,)),), read_bytes_per_s=40e9, shared_port=False))


def test_a_state_is_passed_on_from_tile_to_tile():
    """However many tiles are open, T of a step waits for S of the step before: nothing overlaps but the loads."""
    load, step, last = 0.5, 5 * 3 + 5 * 2, 5 * 3
    assert cycles(walked(), two_units()) == load + 12 * step + last


@pytest.mark.parametrize("tile", [2, 3, 4, 6])
def test_a_state_is_passed_on_across_the_ends_of_inner_loops(tile):
    mapping, workload = walked()
    split = replace(mapping, groups=(replace(mapping.groups[0], body=(_split(mapping.groups[0].body[0], "i", tile),)),))
    assert cycles((split, workload), two_units()) == cycles((mapping, workload), two_units())


def test_fusemax_is_lowered_to_the_dependencies_of_its_cascade():
    """Among the leaves: exactly those of the program written by hand."""
    mapping, workload, on = design("fusemax-binding", "BERT", "1K")
    (program,) = lower(mapping, workload, on)
    by_hand = fusemax(m1=4, p1=4)
    for task in by_hand.tasks:
        ours = program[task.name]
        assert (ours.resource, ours.ticks, ours.when) == (task.resource, task.ticks, task.when)
        assert {d for d in ours.deps if d.task in by_hand.position} == set(task.deps), task.name
    assert program.resources[:2] == by_hand.resources


def test_the_lowered_program_in_full():
    (program,) = lower(*scaled(2, open=1, ahead=3), machine())
    assert (
        show(program)
        == """\
program scale/all: window 4, 1.04858e+15 ticks per second
for i in [0, 1)
  for i' in [0, 10)
    fill W dram>buffer on dram read: 5242880 if i' first; takes W in buffer
    have W in buffer on -: 0; after fill W dram>buffer, have W in buffer[i'-1]
    fill X dram>buffer on dram read: 5242880; takes X in buffer
    have X in buffer on -: 0; after fill X dram>buffer
    Y on lane: 15728640; after have X in buffer, have W in buffer, open tile
    used X in buffer on -: 0; after have X in buffer, Y
    free X in buffer on -: 0; after used X in buffer; gives X in buffer
    used W in buffer on -: 0; after have W in buffer, Y, used W in buffer[i'-1]
    free W in buffer on -: 0 if i' last; after used W in buffer; gives W in buffer
    open tile on -: 0; takes open tiles
    close tile on -: 0; after open tile, Y; gives open tiles
resource lane: oldest tile first
resource dram read: oldest tile first
slot W in buffer: 1
slot X in buffer: 2
slot open tiles: 1"""
    )


def _split(node, rank: str, tile: int):
    """The mapping with the loop over a rank split in two."""
    if isinstance(node, Loop):
        body = tuple(_split(n, rank, tile) for n in node.body)
        if node.ranks == (rank,) and body:
            return Loop((rank,), (tile,), body=(replace(node, body=body),))
        return replace(node, body=body)
    return node


@pytest.mark.parametrize("name", ["fusemax-binding", "fusemax-greedy", "fusemax-architecture"])
def test_splitting_the_loop_of_the_state_changes_nothing(name):
    """The state passes from the last inner iteration to the first of the next outer one."""
    machine_ = load_machine("fusemax")
    sizes = {"B": 1, "H": 2, "E": 64, "F": 64, "P": 1024, "M": 256 * 12}
    mapping, workload = make(name, load_cascade("attention-1pass"), machine_, sizes)
    group = mapping.groups[0]
    split = replace(mapping, groups=(replace(group, body=tuple(_split(n, "m1", 4) for n in group.body)),))
    assert [len(x.loops) for m in (mapping, split) for x in lower(m, workload, machine_)] == [5, 6]
    one, two = (run(lower(m, workload, machine_)[0]) for m in (mapping, split))
    assert one.makespan == two.makespan
    assert {r: one.busy(r) for r in one.stalls} == {r: two.busy(r) for r in two.stalls}


def test_spatial_loops_around_a_group_are_refused():
    gpu = load_machine("h100")
    sizes = {"B": 1, "H": 1, "E": 64, "F": 64, "P": 128, "M": 128}
    mapping, workload = make("flash-attention", load_cascade("attention-1pass"), gpu, sizes)
    with pytest.raises(InputError, match=r"spatial loop around a group is not simulated yet \(got sm.sm\)"):
        lower(mapping, workload, gpu)


def test_an_order_that_stands_still_is_refused():
    mapping, workload, on = design("fusemax-binding", "BERT", "1K")
    swapped = (("pe_2d", ("LM", "BQK", "SLN", "SLD", "SLNV")), mapping_order(mapping)[1])
    wrong = _with_schedule(mapping, Order(swapped))
    with pytest.raises(InputError, match="wait for each other in a circle"):
        lower(wrong, workload, on)


def _pipe(node):
    return node if isinstance(node, Pipe) else _pipe(node.body[0])


def mapping_order(mapping: Mapping):
    return _pipe(mapping.groups[0].body[0]).schedule.units


def _with_schedule(mapping: Mapping, schedule) -> Mapping:
    def rebuilt(node):
        if isinstance(node, Pipe):
            return replace(node, schedule=schedule)
        return replace(node, body=tuple(map(rebuilt, node.body)))

    group = mapping.groups[0]
    return replace(mapping, groups=(replace(group, body=tuple(map(rebuilt, group.body))),))
