"""(max,+) evaluation of static programs against the engine, which steps through events one by one."""

from dataclasses import replace

import pytest
from fusemax_program import fusemax

from sim import fold, maxplus
from sim.maxplus import evaluate
from sim.program import Dep, Loop, Program, Resource, Slot, Task, Variant, When
from sim.random_program import random_program
from sim.static import NotStatic, States


def ticks_on(evaluation: maxplus.Evaluation) -> int:
    """The work on the critical path, in ticks."""
    total = 0
    for (kind, name, variant), n in evaluation.critical.items():
        if kind == "task":
            task = evaluation.program[name]
            total += n * (task.variants[variant - 1].ticks if variant else task.ticks)
    return total


@pytest.mark.parametrize("block", range(10))
def test_400_random_programs_agree_tick_for_tick(block):
    """Nested, causal, banded and ragged nests; what is refused is refused for its slots alone, and that is rare."""
    refused = 0
    for seed in range(40 * block, 40 * block + 40):
        program = random_program(seed, most=(5, 6, 20), static=True)
        try:
            found = evaluate(program)
        except NotStatic as error:
            refused += 1
            assert "slot" in str(error) and program.slots
            continue
        run = fold.run(program)
        assert (found.makespan, found.tiles) == (run.makespan, run.tiles), program.name
        assert ticks_on(found) == found.makespan, program.name
    assert refused <= 2


@pytest.mark.parametrize("m1", [4, 16, 64, 256, 1024, 4096])  # 1K to 1M tokens
def test_fusemax_agrees_tick_for_tick(m1):
    program = fusemax(heads=768, p2=max(1, m1 // 128), m1=m1, p1=min(m1, 128))
    found, run = evaluate(program), fold.run(program)
    assert (found.makespan, found.tiles) == (run.makespan, run.tiles)
    assert ticks_on(found) == found.makespan


def test_a_million_tokens_take_few_operators():
    assert len(evaluate(fusemax(heads=768, p2=32, m1=4096, p1=128)).items) < 1000


def test_slack_that_settles_slowly_is_a_power():
    """Loads outrun products by one tick in 10,000: the state in time comes back after 80,000 tiles, that without time
    at once."""
    tasks = (Task("load", "port", 10_000), Task("compute", "unit", 10_001, (Dep("load"),)))
    resources = tuple(Resource(t.resource, ((t.name, 0),)) for t in tasks)
    found = evaluate(Program("balanced", (Loop("i", 200_000),), tasks, resources, 8, 1.0))
    assert found.makespan == 10_000 + 200_000 * 10_001
    assert len(found.items) < 40


def test_an_order_waits_for_the_launch_that_shows_what_to_pass_over():
    """`late` of a tile comes after `rare` of the next. That this does not exist is known once the next is launched."""
    tasks = (
        Task("rare", "x", 1, when=(When("i", 0),)),
        Task("late", "x", 5),
        Task("tail", None, 20, (Dep("late"),)),
    )
    order = Resource("x", (("rare", 0), ("late", 1)))
    program = Program("passes", (Loop("i", 50),), tasks, (order,), 2, 1.0)
    found = evaluate(program)
    assert found.makespan == fold.run(program).makespan == 1231
    assert ticks_on(found) == found.makespan


def test_greedy_resources_and_shared_slots_are_refused():
    with pytest.raises(NotStatic, match=r"resources.pe_2d: a resource without a static order"):
        evaluate(fusemax(m1=4, p1=1, static=False))
    tasks = (
        Task("a", "r", 1, acquires=("s",)),
        Task("b", "r", 1, acquires=("s",)),
        Task("c", "r", 1, (Dep("a"), Dep("b")), releases=("s", "s")),
    )
    unit = Resource("r", (("a", 0), ("b", 0), ("c", 0)))
    shared = Program("shared", (Loop("i", 4),), tasks, (unit,), 2, 1.0, (Slot("s", 2),))
    with pytest.raises(NotStatic, match="a slot that several tasks take or give back"):
        evaluate(shared)


def out_of_order(late: int, early: int) -> Program:
    """The tiles of even j give back after `late` ticks, those of odd j after `early`."""
    take = Task("take", "r", 1, acquires=("s",))
    hold = Task("hold", None, early, (Dep("take"),), variants=(Variant((When("j", 0),), late),))
    give = Task("give", None, 0, (Dep("hold"),), releases=("s",))
    loops = (Loop("i", 20), Loop("j", 2))
    return Program("odd", loops, (take, hold, give), (Resource("r", (("take", 0),)),), 4, 1.0, (Slot("s", 2),))


def test_slots_given_back_out_of_order_are_refused_and_would_be_wrong(monkeypatch):
    assert evaluate(out_of_order(5, 5)).makespan == fold.run(out_of_order(5, 5)).makespan
    program = out_of_order(50, 5)
    with pytest.raises(NotStatic, match="out of the order of the tiles"):
        evaluate(program)
    monkeypatch.setattr(States, "verify", lambda _: None)
    assert evaluate(program).makespan > fold.run(program).makespan


def test_more_ticks_than_64_bits_hold_are_an_error():
    task = Task("t", "r", 2**40)
    program = Program("long", (Loop("i", 2**22),), (task,), (Resource("r", (("t", 0),)),), 2, 1.0)
    with pytest.raises(OverflowError, match="ticks"):
        evaluate(program)
    assert evaluate(replace(program, loops=(Loop("i", 2**21),))).makespan == 2**61


def assert_between_differences(program: Program) -> None:
    """The derivative lies between the differences of two simulations, a tick less and a tick more."""
    found = evaluate(program)
    for k, task in enumerate(program.tasks):
        change = found.derivative.get((task.name, 0), 0)
        spans = []
        for by in (-1, 1):
            tasks = (*program.tasks[:k], replace(task, ticks=task.ticks + by), *program.tasks[k + 1 :])
            spans.append(by * (fold.run(replace(program, tasks=tasks)).makespan - found.makespan))
        assert spans[0] <= change <= spans[1], task.name


def test_derivative_of_fusemax_lies_between_finite_differences():
    for m1, p1, e in ((40, 1, 64), (12, 5, 64), (12, 5, 128)):
        assert_between_differences(fusemax(m1=m1, p1=p1, e=e))


def test_derivatives_of_random_programs_lie_between_finite_differences():
    for seed in range(30):
        program = random_program(seed, most=(2, 3, 9), static=True)
        if not program.slots:
            longer = tuple(replace(t, ticks=1000 * t.ticks + 1, variants=()) for t in program.tasks)
            assert_between_differences(replace(program, tasks=longer))
