"""Causes, longest paths and circuits of a run: against two more simulations of each task, matrices, and by hand."""

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from fusemax_program import fusemax

from sim import fold, maxplus
from sim.causes import causes
from sim.critical import Step, circuits, spent
from sim.outcome import NotSimulated
from sim.program import Dep, Loop, Program, Resource, Slot, Task, When
from sim.random_program import random_program
from sim.semiring import multiply
from sim.static import NotStatic

SCALE = 10**7  # durations are multiples of it, so that a tick more or less changes no order but that of equals


def each_task(program: Program) -> list[tuple[int, int]]:
    return spent(causes(program), [{k} for k in range(len(program.tasks))])


@pytest.mark.parametrize("block", range(8))
def test_320_random_programs_have_chains_of_causes_as_long_as_their_makespans(block):
    """In periods that repeat too: nested, causal, banded and ragged nests, greedy and static, with slots or without."""
    for seed in range(40 * block, 40 * block + 40):
        program = random_program(seed, most=(5, 6, 20))
        found, makespan = causes(program), fold.run(program).makespan
        assert found.makespan == makespan
        every, none = spent(found, [range(len(program.tasks)), ()])
        assert (every, none) == ((makespan, makespan), (0, 0)), program.name
        for circuit in circuits(found):
            assert sum(step.ticks for step in circuit.steps) == circuit.ticks, program.name
            assert circuit.ticks <= circuit.spent <= makespan, program.name


def with_ticks(program: Program, k: int, by: int) -> int:
    """The makespan when each run of task k takes some ticks longer."""
    task = program.tasks[k]
    longer = replace(task, ticks=task.ticks + by)
    return fold.run(replace(program, tasks=(*program.tasks[:k], longer, *program.tasks[k + 1 :]))).makespan


def scaled(program: Program, noise: random.Random | None) -> Program:
    """With long durations; with noise no two sums of them are equal."""
    ticks = lambda t: t.ticks and SCALE * t.ticks + (noise.randrange(10**4) if noise else 0)
    return replace(program, tasks=tuple(replace(t, ticks=ticks(t), variants=()) for t in program.tasks))


@pytest.mark.parametrize("static", [True, False])
def test_least_and_most_are_the_differences_for_a_tick_less_and_a_tick_more(static):
    """Exactly, on both sides, where several paths are longest too. In a program that serves the oldest first these may
    change the order between equals, hence noise there."""
    seen = Counter()
    for seed in range(40):
        program = random_program(seed, most=(3, 4, 12), static=static)
        program = scaled(program, None if static else random.Random(seed))
        makespan = fold.run(program).makespan
        for k, (least, most) in enumerate(each_task(program)):
            if ticks := program.tasks[k].ticks:
                assert least == (makespan - with_ticks(program, k, -1)) * ticks, (seed, k)
                assert most == (with_ticks(program, k, 1) - makespan) * ticks, (seed, k)
                seen[least == most, most > 0] += 1
    assert seen[True, True] > 50
    assert not static or seen[False, True] > 5


def test_matrices_of_static_programs_agree():
    """The derivative of the product of matrices is that of one longest path: between the least and the most."""
    tried = 0
    for seed in range(60):
        program = random_program(seed, most=(5, 6, 20), static=True)
        program = replace(program, tasks=tuple(replace(t, variants=()) for t in program.tasks))
        try:
            derivative = maxplus.evaluate(program).derivative
        except NotStatic:
            continue
        tried += 1
        for task, (least, most) in zip(program.tasks, each_task(program), strict=True):
            assert least <= derivative.get((task.name, 0), 0) * task.ticks <= most, (seed, task.name)
    assert tried > 50


def eigenvalue(matrix: np.ndarray) -> Fraction:
    """The greatest mean weight of a circuit, from the diagonals of the powers."""
    best, power = Fraction(0), matrix
    for n in range(1, len(matrix) + 1):
        best = max(best, Fraction(int(power.diagonal().max()), n))
        power = multiply(matrix, power)
    return best


def test_circuits_have_the_eigenvalues_of_the_matrices():
    """Of a loop that repeats: ticks of the circuit for its tiles are the (max,+) eigenvalue of the matrix of a tile."""
    tried = 0
    for seed in range(150):
        program = random_program(seed, static=True)
        program = replace(program, loops=(Loop("i", 1), Loop("j", 1), Loop("k", 200)))
        try:
            items = maxplus.evaluate(program).items
        except NotStatic:
            continue
        repeated = [item for item in items if item.times > 1]
        if len(repeated) == 1 and (pace := eigenvalue(repeated[0].op.square(0)) / repeated[0].op.tiles):
            circuit = circuits(causes(program))[0]
            assert Fraction(circuit.ticks, circuit.tiles) == pace, program.name
            tried += 1
    assert tried > 80


def read_ahead(buffers: int, tiles: int = 1000) -> Program:
    """A fill of 2 ticks for each read of 5; the buffer is free after the read."""
    fill = Task("fill", "port", 2, acquires=("buffer",))
    read = Task("read", "unit", 5, (Dep("fill"),), releases=("buffer",))
    slots = (Slot("buffer", buffers),)
    return Program("ahead", (Loop("i", tiles),), (fill, read), (Resource("port"), Resource("unit")), 4, 1.0, slots)


def test_one_buffer_makes_a_circuit_of_fill_and_read_and_two_leave_the_read():
    (one,) = circuits(causes(read_ahead(1)))
    assert one.steps == (Step("fill", "port", 2, "slot buffer"), Step("read", "unit", 5, "data"))
    assert (one.ticks, one.tiles) == (7, 1)
    (two,) = circuits(causes(read_ahead(2)))
    assert two.steps == (Step("read", "unit", 5, "unit order"),)
    assert (two.ticks, two.tiles) == (5, 1)
    assert each_task(read_ahead(2)) == [(2, 2), (5000, 5000)]


def test_a_run_in_which_nothing_repeats_is_one_longest_path():
    (path,) = circuits(causes(read_ahead(1, tiles=2)))
    first, then = Step("fill", "port", 2, ""), Step("fill", "port", 2, "slot buffer")
    read = Step("read", "unit", 5, "data")
    assert path.steps == (first, read, then, read)
    assert (path.ticks, path.tiles, path.spent) == (14, 2, 14)


def test_two_units_that_tie_are_each_on_some_longest_path_and_together_on_all():
    tasks = Task("a", "x", 6), Task("b", "y", 6, (Dep("a"),))
    tied = Program("tied", (Loop("i", 100),), tasks, (Resource("x"), Resource("y")), 8, 1.0)
    assert spent(causes(tied), [{0}, {1}, {0, 1}]) == [(6, 600), (6, 600), (606, 606)]


def test_a_state_that_is_carried_around_an_outer_loop_makes_a_circuit_through_data():
    """Each m waits for the one before at the same p; with one p nothing is done in between."""
    tasks = Task("a", "x", 3, (Dep("b", carried=(("m", 1),)),)), Task("b", "y", 4, (Dep("a"),))
    program = Program("state", (Loop("m", 500), Loop("p", 1)), tasks, (Resource("x"), Resource("y")), 8, 1.0)
    (circuit,) = circuits(causes(program))
    assert circuit.steps == (Step("a", "x", 3, "data"), Step("b", "y", 4, "data"))
    assert circuit.ticks == 7
    assert 3500 - 9 * 7 <= circuit.spent <= 3500  # the first window fills, and the last iteration is never skipped


def test_the_window_is_a_cause():
    tasks = Task("a", "x", 3), Task("b", None, 4, (Dep("a"),))
    (circuit,) = circuits(causes(Program("w", (Loop("i", 100),), tasks, (Resource("x"),), 1, 1.0)))
    assert circuit.steps == (Step("a", "x", 3, "window"), Step("b", None, 4, "data"))


def assert_slopes(program: Program) -> list[tuple[int, int]]:
    """Least and most of each task that takes time are the differences for a tick less and a tick more."""
    found, makespan = each_task(program), fold.run(program).makespan
    for k, (least, most) in enumerate(found):
        if ticks := program.tasks[k].ticks:
            assert least == (makespan - with_ticks(program, k, -1)) * ticks, program.tasks[k].name
            assert most == (with_ticks(program, k, 1) - makespan) * ticks, program.tasks[k].name
    return found


def test_what_ends_in_the_instant_of_a_launch_is_a_cause_beside_it():
    """The last tile is launched when b ends, just when the second a ends, which c waits for too."""
    tasks = (
        Task("a", "x", 10, when=(When("i", "not last"),)),
        Task("b", None, 20, when=(When("i", 0),)),
        Task("c", "y", 50, (Dep("a", launched=1),), (When("i", "last"),)),
    )
    program = Program("instant", (Loop("i", 3),), tasks, (Resource("x"), Resource("y")), 2, 1.0)
    assert assert_slopes(program) == [(0, 20), (0, 20), (50, 50)]


def test_a_static_order_waits_to_know_what_the_next_tile_has():
    """`late` of a tile comes after `rare` of the next: whether that exists is known once the next is launched, which
    the latency after the one before holds up."""
    rare = Task("rare", "x", 1, when=(When("i", 0),))
    late = Task("late", "x", 5)
    tail = Task("tail", None, 20, (Dep("late"),))
    order = Resource("x", (("rare", 0), ("late", 1)))
    program = Program("passes", (Loop("i", 50),), (rare, late, tail), (order,), 2, 1.0)
    circuit = circuits(causes(program))[0]
    assert circuit.steps == (Step("late", "x", 5, "window"), Step("tail", None, 20, "data"))
    assert (circuit.ticks, circuit.tiles) == (25, 1)
    assert_slopes(program)


@pytest.mark.parametrize("static", [True, False])
def test_fill_and_circuits_make_up_fusemax(static):
    """Twice the queries add as many circuits as they add tiles, and nothing else."""
    runs = [causes(fusemax(m1=1, p1=n, static=static)) for n in (500, 1000)]
    first, second = (circuits(run)[0] for run in runs)
    assert first.steps == second.steps
    assert (runs[1].makespan - runs[0].makespan) * first.tiles == 500 * first.ticks


def test_a_million_tokens_take_few_events():
    found = causes(fusemax(heads=768, p2=32, m1=4096, p1=128))
    assert found.makespan == fold.run(found.program).makespan
    assert len(found.events) < 20_000
    one_d = [k for k, task in enumerate(found.program.tasks) if task.resource == "pe_1d"]
    assert spent(found, [range(len(found.program.tasks))]) == [(found.makespan, found.makespan)]
    assert spent(found, [one_d])[0][1] > 0.999 * found.makespan


def test_a_run_of_too_many_ticks_or_events_is_refused(monkeypatch):
    task = Task("t", "r", 2**42)
    long = Program("long", (Loop("i", 2**20),), (task,), (Resource("r"),), 2, 1.0)
    with pytest.raises(NotSimulated, match=r"2\^62 ticks"):
        causes(long)
    monkeypatch.setattr("sim.causes.MOST_EVENTS", 10)
    with pytest.raises(NotSimulated, match="more than 10 events"):
        causes(read_ahead(2))
