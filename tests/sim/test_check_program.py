"""A wrong program is refused with every problem named; one that stands still says who waits for what."""

from dataclasses import replace

import pytest
from fusemax_program import fusemax

from einsum.problems import InputError
from sim.check import check
from sim.fold import run, run_full
from sim.outcome import Deadlock, Overflow
from sim.program import Affine, Dep, Extreme, Loop, Program, Resource, Slot, Table, Task, Variant, When
from sim.random_program import random_program
from sim.show import show

GOOD = Program(
    "good",
    (Loop("i", 3), Loop("j", Extreme("min", (4, Affine(1, (("i", 2),), 1))), Affine(0, (("i", 1),), 2))),
    (
        Task("load", "port", 4, acquires=("buffer",)),
        Task(
            "work",
            "unit",
            7,
            (Dep("load"), Dep("work", carried=(("i", 1), ("j", -1)))),
            (When("j", "not first"),),
            (Variant((When("i", "last"), When("j", 2)), 3),),
        ),
        Task("done", None, 0, (Dep("work"), Dep("done", launched=2)), releases=("buffer",)),
    ),
    (Resource("port"), Resource("unit", (("work", 1),))),
    3,
    1e9,
    (Slot("buffer", 2),),
)


def problems(program: Program) -> str:
    with pytest.raises(InputError) as error:
        check(program)
    return str(error.value)


def test_random_programs_and_fusemax_are_well_formed():
    check(GOOD)
    check(fusemax(m1=4, p1=4))
    for seed in range(200):
        check(random_program(seed))


def test_show_prints_every_part():
    assert (
        show(GOOD)
        == """\
program good: window 3, 1e+09 ticks per second
for i in [0, 3)
  for j in [(i + 0) // 2, min(4, 2*i + 1))
    load on port: 4; takes buffer
    work on unit: 7, 3 if i last and j == 2 if j not first; after load, work[i-1,j+1]
    done on -: 0; after work, done[launched-2]; gives buffer
resource port: oldest tile first
resource unit: order work[-1]
slot buffer: 2"""
    )


def _replaced(program: Program, k: int, **fields) -> Program:
    tasks = [replace(t, **fields) if i == k else t for i, t in enumerate(program.tasks)]
    return replace(program, tasks=tuple(tasks))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (_replaced(GOOD, 1, name="load"), "defined twice (got load)"),
        (_replaced(GOOD, 0, resource="prot"), "tasks.load: unknown resource (got prot); did you mean port?"),
        (_replaced(GOOD, 0, deps=(Dep("wrk"),)), "tasks.load: unknown task (got wrk); did you mean work?"),
        (_replaced(GOOD, 0, when=(When("k", "last"),)), "tasks.load: unknown loop (got k)"),
        (_replaced(GOOD, 0, when=(When("i", "frist"),)), "unknown condition (got frist); did you mean first?"),
        (_replaced(GOOD, 0, acquires=("buffr",)), "unknown slot (got buffr); did you mean buffer?"),
        (_replaced(GOOD, 0, ticks=-1), "a duration must not be negative (got -1)"),
        (_replaced(GOOD, 0, deps=(Dep("work", carried=(("i", -1),)),)), "must point to an earlier tile"),
        (replace(GOOD, window=0), "window: the window must hold at least one tile (got 0)"),
        (replace(GOOD, slots=(Slot("buffer", 0),)), "a slot needs a count of at least one (got 0)"),
        (
            replace(GOOD, loops=(Loop("i", 3), Loop("j", Table("i", (1, 2))))),
            "too short (got 2 values for 3 iterations)",
        ),
        (replace(GOOD, loops=(Loop("i", Affine(0, (("j", 1),))), Loop("j", 3))), "outer loops only (got j)"),
        (
            replace(GOOD, resources=(Resource("port"), Resource("unit", (("load", 0),)))),
            "name each task of its resource",
        ),
        (_replaced(GOOD, 2, releases=()), "slots.buffer: no task gives back this slot"),
    ],
)
def test_what_is_wrong_is_named(program, message):
    assert message in problems(program)


def test_all_problems_at_once():
    wrong = _replaced(_replaced(GOOD, 0, resource="prot"), 1, deps=(Dep("wrk"),))
    assert len(problems(wrong).splitlines()) == 2


def test_a_static_order_that_runs_behind_needs_a_window():
    ahead = Resource("pe_2d", (("BQK", 0), ("LM", 0), ("SLN", 1), ("SLD", 1), ("SLNV", 1)))
    alone = fusemax(m1=4, p1=1, window=1)
    alone = replace(alone, resources=(ahead, alone.resources[1]))
    assert "wait for each other in a circle" in problems(alone)
    with pytest.raises(Deadlock, match=r"deadlock at tick .*: SLN of tile \(0, 0, 0, 0\) waits for its turn on pe_2d"):
        run_full(alone)
    check(replace(alone, window=2))
    assert run_full(replace(alone, window=2)).counts["AV"] == (1,)


def test_a_circle_in_a_tile_stands_still():
    circle = _replaced(replace(GOOD, loops=(Loop("i", 3), Loop("j", 2))), 0, deps=(Dep("done"),))
    always = _replaced(circle, 1, when=())
    text = problems(always)
    assert all(name in text for name in ("load", "work", "done", "circle"))
    with pytest.raises(Deadlock, match=r"load of tile \(0, 0\) waits for dependency done"):
        run(always)


def test_an_order_against_the_dependencies_stands_still():
    tasks = (Task("a", "unit", 1), Task("b", "unit", 1, (Dep("a"),)))
    program = Program("order", (Loop("i", 4),), tasks, (Resource("unit", (("b", 0), ("a", 0))),), 2, 1.0)
    assert "circle" in problems(program)
    with pytest.raises(Deadlock, match="b of tile"):
        run(program)
    late = replace(program, resources=(Resource("unit", (("b", 1), ("a", 0))),))
    check(late)
    assert run(late).makespan == 8


def test_slots_that_never_return_stand_still():
    tasks = (Task("a", "unit", 1, acquires=("s",)), Task("b", "unit", 1, (Dep("a"),), (When("i", 9),), releases=("s",)))
    program = Program("slots", (Loop("i", 4),), tasks, (Resource("unit"),), 2, 1.0, (Slot("s", 2),))
    with pytest.raises(Deadlock, match=r"deadlock at tick 2: a of tile \(2,\) waits for slot s"):
        run(program)


def test_a_slot_given_back_too_often_is_an_error():
    tasks = (Task("a", "unit", 1, acquires=("s",), when=(When("i", "first"),)), Task("b", "unit", 1, releases=("s",)))
    program = Program("slots", (Loop("i", 4),), tasks, (Resource("unit"),), 2, 1.0, (Slot("s", 2),))
    with pytest.raises(Overflow, match="b of tile"):
        run(program)


def test_a_nest_without_tiles_takes_no_time():
    assert run(replace(GOOD, loops=(Loop("i", 3), Loop("j", 0)))).makespan == 0
    assert run(Program("point", (), (Task("a", None, 5),), (), 1, 1.0)).makespan == 5
