"""Selection among tuples of factors against every selection of small random problems; the search is checked with it in
tests/mapper/search."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest

from einsum.problems import InputError
from mapper.assign.select import Factors, select
from mapper.assign.solver import Violation

EINSUMS = ("A", "B", "C")


def case(seed: int) -> tuple[list[Factors], dict[str, float]]:
    """Tuples of three Einsums in a row, A and B sharing T, B and C sharing U; some cover two at once."""
    rng = random.Random(seed)
    found = []
    for covers in (("A",), ("B",), ("C",), ("A", "B")):
        shared = {("A",): "T", ("B",): "TU", ("C",): "U", ("A", "B"): "U"}[covers]
        for _ in range(rng.randint(1, 5)):
            busy = {r: rng.random() * 1e-3 for r in ("unit", "port") if rng.random() < 0.8}
            held = {m: rng.randint(0, 9) for m in ("near", "far") if rng.random() < 0.8}
            agrees = {t: rng.choice("xy") for t in shared}
            found.append(Factors(covers, rng.random() * 1e-9, busy, held, agrees))
    return found, {"near": rng.randint(5, 25), "far": rng.randint(5, 25)}


WATTS = {"energy": 0.0, "energy with static power": 1e-6, "latency": 0.0}


def every(factors: list[Factors], capacity: dict[str, float], goal: str) -> list[float]:
    """The value of each allowed selection."""
    values = []
    for chosen in product([False, True], repeat=len(factors)):
        some = [f for f, yes in zip(factors, chosen, strict=True) if yes]
        kinds = {(t, kind) for f in some for t, kind in f.agrees.items()}
        if sorted(e for f in some for e in f.covers) != list(EINSUMS) or len(kinds) != len({t for t, _ in kinds}):
            continue
        if any(sum(f.held.get(m, 0) for f in some) > size for m, size in capacity.items()):
            continue
        sums = [sum(f.busy_s.get(r, 0.0) for f in some) for r in ("unit", "port")]
        energy = sum(f.energy_j for f in some) + WATTS[goal] * max(sums)
        values.append(max(sums) if goal == "latency" else energy)
    return values


@pytest.mark.parametrize("goal", WATTS)
@pytest.mark.parametrize("seed", range(20))
def test_no_selection_is_better(seed: int, goal: str):
    factors, capacity = case(seed)
    values, answer = every(factors, capacity, goal), select(factors, capacity, goal.split()[0], WATTS[goal])
    if not values:
        assert (answer.solved.status, answer.chosen) == ("infeasible", ())
        assert answer.solved.violated and math.isinf(answer.solved.gap)
        return
    assert (answer.solved.status, answer.solved.value) == ("optimal", pytest.approx(min(values), rel=1e-6))
    assert answer.solved.gap <= 1e-6
    chosen = [factors[i] for i in answer.chosen]
    assert every(chosen, capacity, goal) == [pytest.approx(answer.solved.value)]


def test_missing_bytes_are_named():
    factors = [Factors(("A",), 1.0, {}, {"near": 30.0}), Factors(("A",), 2.0, {}, {"near": 20.0})]
    answer = select(factors, {"near": 12})
    assert answer.solved.violated == (Violation("memory", "near", pytest.approx(8), "bytes"),)


def test_what_neighbours_do_not_agree_on_is_named():
    factors = [Factors(("A",), 1.0, {}, agrees={"T": 1}), Factors(("B",), 1.0, {}, agrees={"T": 2})]
    (found,) = select(factors, {}).solved.violated
    assert (found.family, found.where) == ("agreement", "T")


def test_unknown_objective():
    with pytest.raises(InputError, match="did you mean energy"):
        select([], {}, "energie")


def test_a_limit_leaves_no_wrong_claim():
    factors, capacity = case(3)
    answer = select(factors, capacity, seconds=0.0)
    assert answer.solved.status in ("unknown", "feasible", "optimal")
    assert answer.solved.bound <= select(factors, capacity).solved.value * (1 + 1e-9)
