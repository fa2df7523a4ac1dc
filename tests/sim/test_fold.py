"""Folding by state recurrence equals the full run in every number that a run has."""

from dataclasses import replace

import pytest
from fusemax_program import fusemax
from hypothesis import given, settings, strategies as st

from sim import fold
from sim.outcome import Deadlock, Run
from sim.program import Affine, Dep, Extreme, Loop, Program, Resource, Slot, Table, Task, When
from sim.random_program import random_program


def same(folded: Run, full: Run) -> bool:
    return replace(folded, simulated=full.simulated) == full


@settings(max_examples=500)
@given(st.integers(0, 2**32))
def test_500_random_programs_folded_equal_their_full_runs(seed):
    program = random_program(seed, most=(5, 6, 20))
    assert same(fold.run(program), fold.run_full(program))


def test_random_programs_have_every_feature():
    """The 500 above would prove little if the generator left something out."""
    programs = [random_program(seed) for seed in range(200)]
    tasks = [t for p in programs for t in p.tasks]
    assert {type(p.loops[2].stop).__name__ for p in programs} == {"int", "Affine", "Extreme", "Table"}
    assert any(not isinstance(p.loops[2].start, int) for p in programs)
    assert {r.order is None for p in programs for r in p.resources} == {True, False}
    assert any(stage for p in programs for r in p.resources for _, stage in r.order or ())
    assert {p.window for p in programs} == {1, 2, 3, 4, 5}
    assert any(t.ticks == 0 and t.resource for t in tasks)
    assert any(t.resource is None for t in tasks)
    assert any(t.variants for t in tasks)
    assert any(d.launched for t in tasks for d in t.deps)
    assert any(len(d.carried) > 1 for t in tasks for d in t.deps)
    assert {w.at for t in tasks for w in t.when} >= {"first", "last", "not first", "not last", 0, 1, 2}
    assert any(t.acquires and not t.when for t in tasks)
    assert any(t.acquires and t.when == (When("j", "first"),) for t in tasks)


def test_most_large_programs_simulate_at_most_a_quarter_of_their_tiles():
    runs = [fold.run(random_program(seed)) for seed in range(400)]
    large = [run for run in runs if run.tiles >= 400]
    few = [run for run in large if 4 * run.simulated <= run.tiles]
    assert len(large) >= 60
    assert len(few) >= 0.9 * len(large)


def test_every_tick_of_a_resource_is_busy_or_has_a_cause():
    for seed in range(60):
        run = fold.run(random_program(seed))
        for resource in run.program.resources:
            assert run.busy(resource.name) + sum(run.stalls[resource.name].values()) == run.makespan


def test_an_outer_loop_with_a_tail_inside_is_skipped_up_to_it():
    """As where an array's width does not divide a length: 523 blocks of 7 tiles, the last one of 6."""
    tail = Loop("p", Extreme("min", (7, Affine(523 * 7 - 1, (("b", -7),)))))
    program = replace(fusemax(m1=1, p1=1), loops=(Loop("bh", 4), Loop("b", 523), Loop("m1", 50), tail))
    folded = fold.run(program)
    assert folded.tiles == 4 * (523 * 7 - 1) * 50
    assert folded.simulated < 1000
    short = replace(
        program,
        loops=(
            Loop("bh", 2),
            Loop("b", 12),
            Loop("m1", 9),
            replace(tail, stop=Extreme("min", (7, Affine(83, (("b", -7),))))),
        ),
    )
    assert same(fold.run(short), fold.run_full(short))


def test_causal_loop_is_not_skipped_but_its_inner_loops_are():
    program = random_program(3, most=(1, 9, 1), kind="causal")
    wide = replace(program, loops=(*program.loops[:2], Loop("k", 2000)))
    assert fold.run(wide).simulated < 0.05 * fold.run(wide).tiles
    assert same(fold.run(program), fold.run_full(program))


RUNS = (4,) * 12 + (2,) * 5 + (4,) * 9 + (0, 0, 7) + (3,) * 11  # iterations of k for each j


@pytest.mark.parametrize(
    "inner",
    [
        Loop("k", Table("j", RUNS)),
        Loop("k", Extreme("min", (5, Affine(37 * 5 + 3, (("j", -5),))))),  # a tail in the last of j
        Loop("k", Extreme("min", (6, Affine(1, (("j", 1),)))), Extreme("max", (0, Affine(-33, (("j", 1),))))),
        Loop("k", Affine(1, (("j", 1),), 16)),
    ],
    ids=["runs", "tail", "trapezium", "steps"],
)
def test_iterations_with_equal_inner_bounds_are_skipped_exactly(inner):
    few = 0
    for seed in range(60):
        program = random_program(seed, kind="ragged")
        program = replace(program, loops=(Loop("i", 2), Loop("j", 38), inner))
        folded = fold.run(program)
        assert same(folded, fold.run_full(program)), program.name
        few += 2 * folded.simulated < folded.tiles
    assert few > 10


def test_drifting_buffers_fold_until_they_run_out():
    """A fill that outruns its reader takes slots that only the last iteration gives back: their level never repeats,
    but it decides nothing before it reaches zero."""
    fill = Task("fill", "port", 2, when=(When("m", "first"),), acquires=("buffer",))
    read = Task("read", "unit", 5, (Dep("fill"), Dep("read", carried=(("m", 1),))))
    free = Task("free", None, 0, (Dep("read"),), (When("m", "last"),), releases=("buffer",))
    for buffers in (400, 401, 450, 800):
        program = Program(
            "drift",
            (Loop("i", 5), Loop("m", 3), Loop("p", 400)),
            (fill, read, free),
            (Resource("port"), Resource("unit")),
            3,
            1.0,
            (Slot("buffer", buffers),),
        )
        folded = fold.run(program)
        assert same(folded, fold.run_full(program))
        assert folded.simulated < folded.tiles / 4


def stands_still(program: Program, run) -> str:
    with pytest.raises(Deadlock) as error:
        run(program)
    return str(error.value)


def test_a_buffer_that_runs_out_runs_out_at_the_same_tick():
    """Nothing gives the slots back in time: the folded run must stop where the full one does."""
    fill = Task("fill", "port", 2, acquires=("buffer",))
    free = Task("free", None, 0, (Dep("fill"),), (When("p", "last"),), releases=("buffer",))
    program = Program("out", (Loop("p", 400),), (fill, free), (Resource("port"),), 3, 1.0, (Slot("buffer", 150),))
    assert stands_still(program, fold.run) == stands_still(program, fold.run_full)
    assert "deadlock at tick 300: fill of tile (150,)" in stands_still(program, fold.run)


def test_a_buffer_that_runs_out_within_a_period_does_so_at_the_same_tick():
    """Each j takes 50 slots and then gives 49 back: levels repeat but for a drift, and dip far below it."""
    take = Task("take", "port", 2, when=(When("s", 0),), acquires=("buffer",))
    give = Task("give", "unit", 3, when=(When("s", 1), When("k", "not first")), releases=("buffer",))
    for buffers in range(120, 124):
        program = Program(
            "dip",
            (Loop("j", 200), Loop("s", 2), Loop("k", 50)),
            (take, give),
            (Resource("port"), Resource("unit")),
            3,
            1.0,
            (Slot("buffer", buffers),),
        )
        assert stands_still(program, fold.run) == stands_still(program, fold.run_full)


def test_a_period_longer_than_the_memory_of_states_stays_exact():
    program = replace(random_program(11, most=(2, 2, 9)), loops=(Loop("i", 2), Loop("j", 2), Loop("k", 60)))
    memory, fold.MEMORY = fold.MEMORY, 2
    try:
        assert same(fold.run(program), fold.run_full(program))
    finally:
        fold.MEMORY = memory


def test_fusemax_at_a_million_tokens():
    run = fold.run(fusemax(heads=768, p2=32, m1=4096, p1=128))
    assert abs(run.seconds / 1891.8274331234043 - 1) < 1e-9  # FuseMax artifact, attn-binding.csv, BERT 1M
    assert run.tiles == 768 * 32 * 4096 * 128
    assert run.simulated < 1000
    assert run.counts["BQK"] == (run.tiles,)
    assert run.counts["AV"] == (run.tiles // 4096,)
