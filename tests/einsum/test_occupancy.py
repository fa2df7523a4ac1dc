"""Routings against loops over tokens and choices; distributions against the published checks of their generator."""

import numpy as np
import pytest

from einsum.library import load
from einsum.occupancy import Occupancy, Routing, expected_active, parse, read
from einsum.problems import InputError

BY_HAND = Routing(np.array([[0, 3], [3, 1], [3, 0], [2, 3]]), 5)


def test_a_routing_by_hand():
    assert BY_HAND.counts.tolist() == [2, 1, 1, 4, 0]
    assert (BY_HAND.tokens, BY_HAND.choices, BY_HAND.active) == (4, 2, 4)
    assert BY_HAND.max_over_mean == 4 / (8 / 5)
    pairs = [abs(a - b) for a in BY_HAND.counts for b in BY_HAND.counts]
    assert BY_HAND.gini == pytest.approx(sum(pairs) / (2 * 25 * 8 / 5))


def test_tensors_lead_from_every_choice_to_its_place_and_back():
    routing = parse("zipf:0.6:3").draw(50, 12, 3)
    x = routing.tensors
    for t, k in np.ndindex(50, 3):
        e = x["IDS"][t, k]
        assert x["TOKEN"][x["START"][e] + x["PLACE"][t, k]] == t
        assert x["PLACE"][t, k] == sum(e in row for row in x["IDS"][:t]) < x["COUNT"][e]
    assert sorted(x["TOKEN"]) == sorted(list(range(50)) * 3)


def test_loads_and_rows_sent_by_devices():
    routing = parse("zipf:0.6").draw(24, 12, 3)
    homes, devices = [t * 4 // 24 for t in range(24)], [[e // 3 for e in row] for row in routing.chosen.tolist()]
    assert routing.loads(4).tolist() == [sum(row.count(p) for row in devices) for p in range(4)]
    assert routing.part(2, 4).tolist() == routing.counts[6:9].tolist()
    sent = [[sum(p in row for h, row in zip(homes, devices, strict=True) if h == q != p) for p in range(4)]
            for q in range(4)]  # fmt: skip
    assert routing.sent(4).tolist() == sent and sum(map(sum, sent)) > 0


@pytest.mark.parametrize(("text", "peak", "gini"), [("uniform", 1.16, 0.034), ("zipf:0.3", 2.9, 0.162),
                                                    ("zipf:0.6", 6.8, 0.342), ("zipf:1.0", None, 0.573)])  # fmt: skip
def test_skew_is_that_of_the_published_check(text, peak, gini):
    """E = 128, K = 8, T = 4096, distinct experts drawn without replacement; over ten seeds."""
    drawn = [parse(f"{text}:{seed}").draw(4096, 128, 8) for seed in range(10)]
    assert np.mean([r.gini for r in drawn]) == pytest.approx(gini, abs=0.004)
    if peak:
        found = [r.max_over_mean for r in drawn]
        assert min(found) * 0.99 <= peak <= max(found) * 1.01


def test_draws_with_replacement_would_be_more_skewed():
    """That the check means distinct experts: independent draws of Zipf 0.6 give 8.3 and not 6.8."""
    weights = np.arange(1, 129.0) ** -0.6
    counts = np.random.default_rng(0).multinomial(4096 * 8, weights / weights.sum())
    assert counts.max() / counts.mean() > 7.8


def test_popular_experts_are_not_neighbours():
    loads = np.mean([parse(f"zipf:0.6:{seed}").draw(512, 64, 4).loads(8) for seed in range(20)], axis=0)
    assert loads.max() / loads.mean() < 1.5


@pytest.mark.parametrize(("experts", "chosen"), [(8, 2), (128, 8), (60, 4), (16, 1)])
def test_active_experts_are_those_of_the_formula(experts, chosen):
    """N(t) = E(1-(1-K/E)^t), within five standard errors of 200 routings."""
    for tokens in (1, 2, 5, 11, 40):
        found = [Occupancy("uniform", seed=seed).draw(tokens, experts, chosen).active for seed in range(200)]
        error = np.std(found) / np.sqrt(200)
        assert np.mean(found) == pytest.approx(expected_active(experts, chosen, tokens), abs=5 * error + 1e-3)


def test_even():
    routing = parse("even").draw(30, 8, 3)
    assert set(routing.counts) == {11, 12} and parse("even").draw(1, 8, 3).active == 3
    assert parse("even").draw(4096, 128, 8).max_over_mean == 1
    for tokens, experts, chosen in ((16, 256, 8), (30, 60, 4), (16, 8, 2), (5, 7, 7)):
        assert parse("even").draw(tokens, experts, chosen).active == min(experts, tokens * chosen)
    apart = parse("even").draw(16, 128, 8)  # a token's experts lie on all of eight devices
    assert all(len(set(row // 16)) == 8 for row in apart.chosen)


def test_power_law_weights():
    """A few experts have nearly everything: exponent 1 spreads the logarithm of weights evenly from 1 to 0.8 T."""
    weights = Occupancy("power", 1.0)._log_weights(1000, 4000)
    assert 0 <= weights.min() < 0.02 and np.log(800) - 0.02 < weights.max() <= np.log(800)
    assert np.mean(weights) == pytest.approx(np.log(800) / 2, rel=0.03)
    steep = np.exp(Occupancy("power", 2.0)._log_weights(1000, 4000))
    assert np.mean(steep > 10) == pytest.approx((1 / 10 - 1 / 800) / (1 - 1 / 800), rel=0.1)


def test_seeds():
    one, same, other = (parse(text).draw(20, 8, 2).chosen for text in ("zipf:0.3:1", "zipf:0.3:1", "zipf:0.3:2"))
    assert (one == same).all() and (one != other).any()
    for text in ("even", "uniform:3", "zipf:0.3", "zipf:0.6:7", "power:1.2:1"):
        assert str(parse(text)) == text


def test_files(tmp_path):
    np.save(tmp_path / "r.npy", BY_HAND.chosen)
    assert read(str(tmp_path / "r.npy"), 4, 5, 2).counts.tolist() == [2, 1, 1, 4, 0]
    for sizes, what in (((4, 5, 3), r"must have shape \(T, K\) = \(4, 3\) \(got \(4, 2\)\)"),
                        ((4, 3, 2), "distinct experts, 0 to 2")):  # fmt: skip
        with pytest.raises(InputError, match=what):
            read(str(tmp_path / "r.npy"), *sizes)
    with pytest.raises(InputError, match=r"no.npy: cannot read an array"):
        read(str(tmp_path / "no.npy"), 4, 5, 2)


WRONG = {"zipff:0.3": "did you mean zipf", "zipf": "zipf needs an exponent", "zipf:0.3:x": "a routing is even",
         "zipf:0..3": "not a number", "uniform:0.5": "a routing is even", "even:1:2": "a routing is even"}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_mistakes(text):
    with pytest.raises(InputError, match=WRONG[text]):
        parse(text)


def test_routings_that_are_none():
    for wrong in ([[0, 0]], [[0, 5]], [[-1, 0]], [[0.0, 1.0]], [0, 1], np.zeros((0, 2), int)):
        with pytest.raises(InputError, match="distinct experts, 0 to 4"):
            Routing(np.array(wrong), 5)
    with pytest.raises(InputError, match="cannot choose 3 distinct experts"):
        parse("uniform").draw(4, 2, 3)
    with pytest.raises(InputError, match="gemm has no input that a routing decides"):
        BY_HAND.given(load("gemm"))
