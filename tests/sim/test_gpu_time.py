"""The execution model of GPU kernels against loops over CTAs, limits and bounds."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from arch.read import load
from sim.gpu.attention import Heads, attention, causal_blocks, splits
from sim.gpu.constants import BOUNDS, PEAK, Constants
from sim.gpu.figures import Figures, figures
from sim.gpu.gemm import gemm, mappings
from sim.gpu.kernels import Kernels
from sim.gpu.moe import TILES, Experts, moe, rows_of
from sim.gpu.time import best, busiest_cycles, step_cycles, times

TYPICAL = Constants(*(start for _, _, start in BOUNDS.values()))


@pytest.fixture(scope="module")
def h100() -> Figures:
    return figures(load("h100"))


def kernel(**changes: float) -> Kernels:
    """One made-up kernel: 300 CTAs of 10 steps."""
    values = {f.name: 0.0 for f in fields(Kernels)} | dict(
        ctas=300, per_sm=1, steps=3000, longest=10, last=10, flop=2.0**20, rate=1
    )
    return Kernels(**{name: np.array([[value]]) for name, value in (values | changes).items()})


def heads(h: dict[str, float]) -> Heads:
    values = dict(batch=1, queries=1, keys=1, heads=8, kv_heads=8, dim=128, causal=0, width=2, kv_width=2, rate=1)
    values |= dict(packs=1, combines=0, prepares=0, stores=0) | h
    return Heads(**{name: np.array([float(value)]) for name, value in values.items()})


def test_figures_of_the_h100_are_its_datasheet(h100):
    assert h100.flop_per_s == pytest.approx(989.4e12, rel=1e-3)
    assert (h100.sms, h100.exp_per_clock, h100.smem_bytes_per_clock) == (132, 16, 128)


@pytest.mark.parametrize("ctas", [1, 131, 132, 133, 264, 300, 1000])
def test_equal_ctas_take_as_long_as_handing_them_out_one_by_one(h100, ctas):
    k = kernel(ctas=ctas, steps=10 * ctas)
    c = replace(PEAK, fill_cycles=500.0)
    free = np.zeros(h100.sms)
    for _ in range(ctas):
        free[free.argmin()] += 10 * float(step_cycles(k, h100, c)[0, 0]) + 500
    assert busiest_cycles(k, h100, c)[0, 0] == pytest.approx(free.max())


def test_unequal_ctas_are_near_longest_first_handing_out(h100):
    lengths = np.repeat(np.arange(1.0, 65.0), 32)
    free = np.zeros(h100.sms)
    for length in lengths[::-1]:
        free[free.argmin()] += length
    k = kernel(ctas=len(lengths), steps=lengths.sum(), longest=64, last=lengths.mean(), flop=4096)
    step = float(step_cycles(k, h100, PEAK)[0, 0])
    assert busiest_cycles(k, h100, PEAK)[0, 0] / step == pytest.approx(free.max(), rel=0.05)


def test_causal_blocks_are_those_of_a_walk_over_tiles_and_keys():
    rng = np.random.default_rng(1)
    for _ in range(50):
        queries, packed, rows, block = (int(rng.integers(1, high)) for high in (700, 9, 200, 200))
        keys = queries + int(rng.integers(0, 300))
        count = 0
        for first in range(0, queries * packed, rows):
            last = min(first + rows, queries * packed) - 1
            sees = last // packed + keys - queries  # the last key of the tile's last query
            count += sees // block + 1
        columns = (np.array([float(x)]) for x in (queries, keys, packed, rows, block))
        assert causal_blocks(*columns)[0] == count


def test_gemm_covers_the_product_and_reads_its_operands(h100):
    m, n, k = (np.array([x]) for x in (1000.0, 3000.0, 5000.0))
    kernels = gemm(m, n, k, np.array([2.0]), np.array([1.0]), h100)
    assert kernels.ctas.shape == (len(mappings()), 1)
    assert (kernels.steps * kernels.flop >= 2 * m * n * k).all()
    assert (kernels.hbm_bytes >= 2 * (m * k + k * n + m * n)).all()
    at = mappings().index((128, 256, 2))
    assert kernels.ctas[at, 0] == 8 * 12 * 2
    assert kernels.longest[at, 0] == np.ceil(np.ceil(5000 / 64) / 2)


def test_splits_fill_the_sms_with_the_fewest_parts():
    found = splits(np.array([4.0, 200.0, 4.0]), np.array([200.0, 200.0, 3.0]), 132)
    fill = [4 * s / 132 / np.ceil(4 * s / 132) for s in range(1, 129)]
    assert found[0] == 1 + next(i for i, x in enumerate(fill) if x >= 0.85 * max(fill))
    assert found[1:].tolist() == [1, 1]  # SMs are full, or there is little to split


def test_attention_counts_what_a_loop_over_heads_and_tiles_does(h100):
    k = attention(heads(dict(batch=2, queries=1000, keys=1000, causal=1, kv_heads=2)), h100)
    assert k.ctas[0, 0] == 2 * 2 * np.ceil(1000 * 4 / 128)  # four query heads share a tile's rows
    useful = 4 * 2 * 8 * 128 * 1000 * 1001 / 2
    assert useful <= k.steps[0, 0] * k.flop[0, 0] <= 1.3 * useful
    assert k.hbm_bytes[0, 0] == 2 * 2 * 2 * 128 * (1000 * 2 + 1000 * 8)


@pytest.mark.parametrize("constants", [PEAK, TYPICAL])
def test_nothing_is_faster_than_the_roofline(h100, constants):
    rng = np.random.default_rng(2)
    m, n, k = (np.exp2(rng.integers(0, 15, 200)).astype(float) for _ in range(3))
    seconds, _ = best(gemm(m, n, k, np.full(200, 2.0), np.ones(200), h100), h100, constants)
    fraction = max(constants.tensor_fraction, 1.0)
    roofline = np.maximum(
        2 * m * n * k / h100.flop_per_s / fraction, 2 * (m * k + k * n + m * n) / h100.hbm_bytes_per_s
    )
    assert (seconds >= roofline * (1 - 1e-12)).all()


def test_more_of_anything_is_never_slower(h100):
    k = kernel(exps=1e5, smem_bytes=1e5, l2_bytes=1e9, hbm_bytes=1e9, store_bytes=1e6, combine_bytes=1e6)
    before = times(k, h100, TYPICAL).seconds[0, 0]
    for name in (
        "clock_hz",
        "flop_per_clock",
        "exp_per_clock",
        "smem_bytes_per_clock",
        "l2_bytes_per_s",
        "hbm_bytes_per_s",
    ):
        after = times(k, replace(h100, **{name: 2 * getattr(h100, name)}), TYPICAL).seconds[0, 0]
        assert after <= before, name


def test_without_limits_elsewhere_a_full_wave_runs_at_the_tensor_peak(h100):
    endless = replace(h100, hbm_bytes_per_s=1e30, l2_bytes_per_s=1e30, smem_bytes_per_clock=1e30, exp_per_clock=1e30)
    k = kernel(ctas=132, steps=1320, exps=1e5, hbm_bytes=1e9, l2_bytes=1e9, smem_bytes=1e6)
    assert times(k, endless, PEAK).seconds[0, 0] == pytest.approx(1320 * 2**20 / h100.flop_per_s)


def test_with_endless_compute_only_bytes_count(h100):
    endless = replace(h100, flop_per_clock=1e30, smem_bytes_per_clock=1e30)
    k = kernel(hbm_bytes=1e9)
    assert times(k, endless, PEAK).seconds[0, 0] == pytest.approx(1e9 / h100.hbm_bytes_per_s)


def experts(**changes: float) -> Experts:
    values = dict(tokens=64, hidden=1024, inter=512, topk=2, experts=8, tp=1, ep=1, skew=0, gates=2, width=2, rate=1)
    return Experts(**{name: np.array([float(value)]) for name, value in (values | changes).items()})


@pytest.mark.parametrize("skew", [0.0, 1.2])
@pytest.mark.parametrize("tokens", [1, 3, 64, 1000])
def test_every_token_goes_to_its_experts(tokens, skew):
    (rows,) = rows_of(experts(tokens=tokens, skew=skew))
    if skew == 0 or tokens == 1:
        assert rows.sum() == tokens * 2
    assert len(rows) <= 8
    assert rows.max() <= tokens  # no expert sees a token twice
    (local,) = rows_of(experts(tokens=tokens, skew=skew, ep=4))
    assert len(local) <= 2


def test_experts_pad_rows_to_tiles_and_read_only_weights_in_use(h100):
    first, second = moe(experts(tokens=3), h100)
    at = TILES.index((16, 64))
    assert first.ctas[at, 0] == 6 * 2 * 512 / 64  # six experts of one row each
    assert second.ctas[at, 0] == 6 * 1024 / 64
    assert first.hbm_bytes[at, 0] == 6 * 1024 * 1024 * 2 + 6 * (1024 + 1024) * 2
    assert (second.more_kernels > 0).all()
    assert (first.more_kernels == 0).all()
