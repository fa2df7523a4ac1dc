"""FuseMax's tile under its schedules: the figures of the paper and of the schedules' own arithmetic."""

import pytest
from fusemax_program import CYCLE, fusemax

from sim import fold
from sim.program import TICKS_PER_CYCLE, Dep, Loop, Program, Resource, Task


def cycles_a_tile(window: int, static: bool, tiles: int = 512, **sizes: int) -> float:
    return fold.run(fusemax(m1=tiles, p1=1, window=window, static=static, **sizes)).makespan / tiles / CYCLE


def test_static_order_reaches_the_1d_arrays_bound_with_two_open_tiles():
    assert fold.run(fusemax(m1=1000, p1=1)).makespan == (138 * 1000 + 64 + 65) * CYCLE


def test_oldest_first_is_slower_and_never_gets_there():
    assert cycles_a_tile(2, static=False) == pytest.approx(200, rel=1e-3)
    assert cycles_a_tile(4, static=False) == pytest.approx(153, rel=1e-3)
    assert cycles_a_tile(8, static=False) == pytest.approx(140.08, rel=1e-3)
    assert cycles_a_tile(64, static=False) > 138.5


@pytest.mark.parametrize(("window", "cycles"), [(1, 203), (2, 200), (3, 138), (4, 138)])
def test_oldest_first_with_many_queries_needs_a_third_open_tile(window, cycles):
    """Tiles of other queries are independent, so that a third one fills the gaps; AV adds 64 cycles in 1024."""
    run = fold.run(fusemax(m1=1024, p1=128, window=window, static=False))
    assert run.makespan / run.tiles / CYCLE == pytest.approx(cycles + 64 / 1024, rel=1e-5)


def test_longest_path_of_one_tile():
    """QK, LM, RM, then PRM, SPNV, and RNV after SLNV, AV: alone in the machine, nothing overlaps it but SLN's side."""
    run = fold.run(fusemax(m1=1, p1=1, static=False, window=1))
    sln_side, prm_side = 7 + 1 + 64, 7 + 1 + 64
    rnv = 64 + 1 + 1 + max(sln_side, prm_side)
    assert run.makespan == (rnv + 1 + 64 + 64) * CYCLE


@pytest.mark.parametrize("bandwidth_ticks", [10_000, 10_001])
def test_balanced_load_and_compute(bandwidth_ticks):
    """Two units of nearly equal speed: the slower one is never idle after the first tile."""
    tasks = (Task("load", "port", 10_000), Task("compute", "unit", bandwidth_ticks, (Dep("load"),)))
    program = Program("balanced", (Loop("i", 5000),), tasks, (Resource("port"), Resource("unit")), 8, TICKS_PER_CYCLE)
    assert fold.run(program).makespan == 10_000 + 5000 * bandwidth_ticks
