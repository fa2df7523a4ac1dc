"""Rules of the engine one by one, each in a program small enough to follow by hand (SEMANTICS section 6)."""

from sim.fold import run_full
from sim.program import Dep, Loop, Program, Resource, Slot, Task, Variant, When


def program(tasks, resources=None, n=2, window=2, slots=(), loops=None) -> Program:
    units = tuple(resources or (Resource("r"),))
    return Program("rules", loops or (Loop("i", n),), tuple(tasks), units, window, 1.0, slots)


def served(p: Program) -> list[tuple[str, int, int]]:
    """(task, tile, start) of all that takes time, in order of start."""
    spans = run_full(p, trace_tiles=10**6).spans
    return sorted(((s.task, s.tile[-1], s.start) for s in spans if s.end > s.start), key=lambda s: s[2])


def test_oldest_tile_first_then_program_order():
    """`late` of tile 0 is ready when `early` of tile 1 is: the older tile wins though it comes later in the text."""
    tasks = (Task("early", "r", 2), Task("late", "r", 3, (Dep("early"),)))
    assert served(program(tasks)) == [("early", 0, 0), ("late", 0, 2), ("early", 1, 5), ("late", 1, 7)]


def test_a_prefetch_is_as_urgent_as_the_tiles_before_its_own():
    """At tick 4 the port could bring the third tile or put the first away. Oldest first starves the third."""
    for lead, third, end in ((0, 12, 19), (2, 4, 18)):
        tasks = (Task("bring", "port", 2, lead=lead), Task("work", "unit", 1, (Dep("bring"),)),
                 Task("put", "port", 4, (Dep("work"),)))  # fmt: skip
        p = program(tasks, (Resource("port"), Resource("unit")), n=3, window=3)
        assert ("bring", 2, third) in served(p)
        assert run_full(p).makespan == end


def test_grants_come_after_all_ends_of_a_tick():
    """At tick 4 both feeders end; `b` of tile 0 must win over `a` of tile 1 whichever end is seen first."""
    tasks = (
        Task("fb", "x", 4, when=(When("i", 0),)),
        Task("fa", "y", 4, when=(When("i", 1),)),
        Task("a", "r", 1, (Dep("fa"),), (When("i", 1),)),
        Task("b", "r", 1, (Dep("fb"),), (When("i", 0),)),
    )
    swapped = (tasks[1], tasks[0], *tasks[2:])
    for order in (tasks, swapped):
        p = program(order, (Resource("x"), Resource("y"), Resource("r")))
        assert [s for s in served(p) if s[0] in "ab"] == [("b", 0, 4), ("a", 1, 5)]


def test_what_takes_no_time_or_resource_ends_at_once():
    """`b` of tile 0 becomes ready through two zero latencies in the very tick in which the unit falls free; `a` of
    tile 1 was ready before, and still comes second."""
    tasks = (
        Task("a", "r", 4),
        Task("z1", None, 0, (Dep("a"),)),
        Task("z2", None, 0, (Dep("z1"),)),
        Task("b", "r", 2, (Dep("z2"),)),
    )
    assert served(program(tasks)) == [("a", 0, 0), ("b", 0, 4), ("a", 1, 6), ("b", 1, 10)]


def test_a_zero_length_task_on_a_unit_takes_a_round():
    """`z` needs the unit: `a` of tile 1 is granted the unit in the round in which z of tile 0 runs elsewhere."""
    tasks = (Task("a", "r", 4), Task("z", "q", 0, (Dep("a"),)), Task("b", "r", 2, (Dep("z"),)))
    p = program(tasks, (Resource("r"), Resource("q")))
    assert served(p) == [("a", 0, 0), ("a", 1, 4), ("b", 0, 8), ("b", 1, 10)]


def test_tiles_launch_in_order_once_the_tile_a_window_before_has_ended():
    """Tile 1 is quick and tile 0 slow: tile 2 waits for tile 0, though tile 1 has ended."""
    tasks = (Task("w", "x", 9, when=(When("i", 0),)), Task("v", "y", 1, when=(When("i", "not first"),)))
    p = program(tasks, (Resource("x"), Resource("y")), n=3)
    assert served(p) == [("w", 0, 0), ("v", 1, 0), ("v", 2, 9)]


def test_static_order_runs_stages_behind_and_passes_over_what_does_not_exist():
    """Step s: b of tile s - 1, then a of tile s; tile 1 has no b."""
    tasks = (Task("a", "r", 2), Task("b", "r", 3, (Dep("a"),), (When("i", "not last"),)))
    p = program(tasks, (Resource("r", (("b", 1), ("a", 0))),))
    assert served(p) == [("a", 0, 0), ("b", 0, 2), ("a", 1, 5)]


def test_first_variant_that_fits_sets_duration_and_counters():
    variants = (Variant((When("i", "last"), When("i", 2)), 1, (("bytes", 5.0),)), Variant((When("i", "last"),), 2))
    run = run_full(program((Task("a", "r", 7, variants=variants, counters=(("bytes", 10.0),)),), n=3))
    assert (run.makespan, run.counts, run.counters("a")) == (15, {"a": (2, 1, 0)}, {"bytes": 25.0})
    run = run_full(program((Task("a", "r", 7, variants=variants, counters=(("bytes", 10.0),)),), n=2))
    assert (run.makespan, run.counts, run.counters("a")) == (9, {"a": (1, 0, 1)}, {"bytes": 10.0})


def test_dependencies_within_launched_and_carried():
    loops = (Loop("i", 2), Loop("j", 2))
    slow = Task("slow", "x", 10, when=(When("j", 0), When("i", 0)))
    for dep, start in (
        (Dep("slow"), [10, 0, 0, 0]),
        (Dep("slow", launched=3), [0, 0, 0, 10]),
        (Dep("slow", carried=(("i", 1),)), [0, 0, 10, 0]),
        (Dep("slow", carried=(("i", 1), ("j", 1))), [0, 0, 0, 10]),
    ):
        tasks = (slow, Task("use", None, 1, (dep,)))
        spans = run_full(program(tasks, (Resource("x"),), window=4, loops=loops), trace_tiles=4).spans
        assert [s.start for s in sorted(spans, key=lambda s: s.tile) if s.task == "use"] == start, dep


def test_stalls_by_cause():
    """The unit waits for its data, then for a buffer, then for its turn, then for a tile, and is at last drained."""
    load, work = Task("load", "port", 5), Task("work", "r", 2, (Dep("load"),))
    ports = (Resource("port"), Resource("r"))
    run = run_full(program((load, work), ports, n=3))
    assert run.stalls == {"port": {("drained", ""): 2}, "r": {("dependency", "load"): 11}}

    alone = run_full(program((load, work), ports, n=3, window=1))
    assert alone.stalls == {"port": {("window", ""): 4, ("drained", ""): 2}, "r": {("dependency", "load"): 15}}

    take = Task("load", "port", 1, acquires=("s",))
    give = Task("work", "r", 4, (Dep("load"),), releases=("s",))
    held = run_full(program((take, give), ports, n=3, slots=(Slot("s", 1),)))
    assert held.stalls == {"port": {("slot", "s"): 8, ("drained", ""): 4}, "r": {("dependency", "load"): 3}}

    first, second = Task("first", "r", 1, (Dep("load"),)), Task("second", "r", 1)
    turn = run_full(program((load, first, second), (ports[0], Resource("r", (("first", 0), ("second", 0)))), n=1))
    assert turn.stalls["r"] == {("order", "first"): 5}
