"""Counts of iterations against enumeration, point by point."""

import itertools
import math
import random

import pytest

from einsum.bind import bind
from einsum.domain import existing_points
from einsum.parse import parse
from mapper.mapping import GUARD, Loop
from mapper.nest import nest, variants
from mapper.tile import elements, overflowing

CAUSAL = """
tensor Q[p,e]
tensor K[m,e]
QK[p,m] | {guard} = Q[p,e] * K[m,e]
GM[p] = max[m] QK[p,m]
SN[p,m] = exp(QK[p,m] - GM[p])
"""
GUARDS = {
    "m <= p": lambda p, m: m <= p,
    "m < p": lambda p, m: m < p,
    "m >= p": lambda p, m: m >= p,
    "m <= p + 5": lambda p, m: m <= p + 5,
    "m > p - 7": lambda p, m: m > p - 7,
    "2*m <= p": lambda p, m: 2 * m <= p,
}


def workload(guard, p, m):
    return bind(parse(CAUSAL.format(guard=guard)), {"P": p, "M": m, "E": 2})


@pytest.mark.parametrize("guard", GUARDS)
def test_guarded_loop_runs_the_tiles_that_hold_a_point(guard):
    draw = random.Random(f"nest {guard}")
    for _ in range(40):
        p, m = draw.randint(1, 40), draw.randint(1, 40)
        tp, tm = draw.choice([1, 2, 4, 8]), draw.choice([1, 3, 4, 8])
        order = draw.random() < 0.5
        loops = [Loop(("p",), (tp,)), Loop(("m",), (tm,))]
        loops[1] = Loop(*(("m",), (tm,)), extent=GUARD)
        if not order:
            loops = [Loop(("m",), (tm,)), Loop(("p",), (tp,), extent=GUARD)]
        tiles = {(i // tp, j // tm) for i, j in itertools.product(range(p), range(m)) if GUARDS[guard](i, j)}
        assert nest(loops, workload(guard, p, m)).count() == len(tiles), (p, m, tp, tm, order)


def test_two_level_ragged_tiles_cover_the_rank_once():
    draw = random.Random("ragged")
    for _ in range(60):
        p, m, inner = draw.randint(1, 60), draw.randint(1, 20), draw.choice([1, 2, 4])
        outer = inner * draw.choice([1, 2, 3])
        loops = [Loop(("p",), (outer,)), Loop(("m",), (3,)), Loop(("p",), (inner,))]
        made = nest(loops, workload("m <= p", p, m))
        assert made.count() == math.ceil(p / inner) * math.ceil(m / 3)
        covered = before = 0
        for when, box in variants(made, ("p",)):
            exact = made.count(when) - before
            covered, before = covered + exact * box["p"][1], before + exact
        assert covered == p * math.ceil(m / 3)
        assert made.count(((1, "first"),)) == math.ceil(p / inner)
        assert made.count(((1, "last"), (0, "first"))) == math.ceil(min(p, outer) / inner)


def beyond(sizes, m2, m1, m0):
    return (m2 * sizes["M1"] + m1) * sizes["M0"] + m0


def test_tiles_that_reach_beyond_the_storage_touch_what_is_there():
    """Of parts m2 of tiles m1 of keys, several may hold no key; each tile counts its own elements."""
    text = "tensor K[m]\nsize M1 = ceil(M / (M2 * M0))\nS[m2,m1,m0] = exp(K[(m2*M1+m1)*M0+m0])\n"
    cascade, draw, empty = parse(text), random.Random("beyond"), 0
    for _ in range(60):
        bound = bind(cascade, {"M": draw.randint(1, 90), "M2": draw.randint(1, 4), "M0": draw.choice([4, 6, 12])})
        tiles = {"m2": draw.choice([1, 2]), "m1": draw.choice([1, 2]), "m0": draw.choice([1, 2, 4, bound.extent("m0")])}
        made = nest([Loop((r,), (t,)) for r, t in tiles.items()], bound)
        (access,) = cascade["S"].reads
        kinds = variants(made, tuple(tiles), overflowing(bound, access))
        for index in itertools.product(*(range(loop.count) for loop in made.loops)):
            named = [{i, "last"} if i == made.loops[at].count - 1 else {i} for at, i in enumerate(index)]
            box = next(box for when, box in kinds if all(side in named[at] for at, side in when))
            at_tiles = zip(index, tiles.items(), strict=True)
            points = itertools.product(*(range(i * t, min(i * t + t, bound.extent(r))) for i, (r, t) in at_tiles))
            inside = {place for at in points if (place := beyond(bound.sizes, *at)) < bound.sizes["M"]}
            if tiles["m2"] == tiles["m1"] == 1:  # dense
                assert elements(bound, access, box) == len(inside)
            empty += not inside
    assert empty > 50


@pytest.mark.parametrize("guard", GUARDS)
def test_existing_points_equal_enumeration(guard):
    draw = random.Random(f"points {guard}")
    for _ in range(20):
        p, m = draw.randint(1, 25), draw.randint(1, 25)
        exist = sum(GUARDS[guard](i, j) for i, j in itertools.product(range(p), range(m)))
        counts = existing_points(workload(guard, p, m))
        assert (counts["QK"], counts["GM"], counts["SN"]) == (2 * exist, exist, exist)


def test_points_of_a_ragged_partition():
    text = "tensor K[m]\nsize M1 = ceil(M / M0)\nBK[m1,m0] = K[m1*M0+m0]\nS[m1,m0] | m1*M0+m0 <= 12 = exp(BK[m1,m0])\n"
    counts = existing_points(bind(parse(text), {"M": 10, "M0": 4}))
    assert counts == {"BK": 10, "S": 10}
    counts = existing_points(bind(parse(text), {"M": 18, "M0": 4}))
    assert counts == {"BK": 18, "S": 13}
