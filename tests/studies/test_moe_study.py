"""The study of routings: its numbers by other ways, what skew does, and its files."""

import math
from dataclasses import replace

import numpy as np
import pytest

from einsum.occupancy import Routing, parse
from studies import study as studies
from studies.moe import active, array, counted, layers, study
from studies.report import relative

SILENT = lambda message: None
SMALL = layers.layers(("Qwen3-235B-A22B",), (16, 256))


def by_routing(every, tokens):
    return {x.routing: x for x in every if x.tokens == tokens}


def test_padding_and_traffic_follow_from_the_loads():
    """Blocks of rows, and the weights of each, from the counts alone; the kernel's closed form has them expert by
    expert."""
    for layer in SMALL:
        counts, rows = layer.drawn.counts, layer.rows
        blocks = sum(math.ceil(n / rows) for n in counts)
        assert layer.padding == pytest.approx(blocks * rows / counts.sum())
        weights = 3 * 4096 * 1536 * 2
        moved = sum(layer.kernel.total("bytes", tensor=w, boundary="issued") for w in ("W1", "W3", "W2"))
        assert moved == blocks * weights
        once = sum(layer.kernel.total("bytes", tensor=w, boundary="distinct") for w in ("W1", "W3", "W2"))
        assert once == layer.drawn.active * weights


def test_the_bound_of_one_device_is_the_kernels_but_for_what_a_device_alone_reads():
    """The kernel also reads choices and weights, and X once and not a row for each choice: below 1 % here."""
    for layer in SMALL:
        ours = layers.bound_s(layer.drawn.counts, 4096, 1536, layer.rows, layers._machine())
        assert relative(ours, layer.kernel.latency_s) == pytest.approx(0, abs=0.01)


def test_skew_changes_latency_traffic_and_load():
    """Few tokens: popular experts are shared, fewer are active, and less is read than an even split would; more tokens:
    blocks are filled badly, and the busiest device is busier."""
    few, many = by_routing(SMALL, 16), by_routing(SMALL, 256)
    assert few["even"].drawn.active == 128 > few["uniform"].drawn.active > few["zipf:0.6"].drawn.active
    for boundary in ("issued", "distinct"):
        assert few["zipf:0.6"].bytes_moved(boundary) < 0.6 * few["even"].bytes_moved(boundary)
    assert few["zipf:0.6"].kernel.latency_s < 0.6 * few["even"].kernel.latency_s
    loads = [many[r].drawn.max_over_mean for r in layers.ROUTINGS]
    assert loads == sorted(loads) and loads[0] == 1 and loads[-1] > 6
    assert many["zipf:0.6"].bytes_moved("issued") > 1.05 * many["even"].bytes_moved("issued")
    assert many["zipf:0.6"].padding > many["even"].padding
    mixtral = by_routing(layers.layers(("Mixtral-8x22B",), (4096,)), 4096)
    slowest = {r: mixtral[r].devices_s().max() for r in layers.ROUTINGS}
    assert slowest["zipf:0.6"] > slowest["zipf:0.3"] > slowest["uniform"] > slowest["even"]
    assert slowest["zipf:0.6"] == pytest.approx(1.875 * slowest["even"])  # 15 blocks of rows against 8


def test_devices_have_neighbouring_experts():
    (layer,) = layers.layers(("Mixtral-8x22B",), (256,))[2:3]
    found, _ = layer.shape
    for time, count in zip(layer.devices_s(), layer.drawn.counts, strict=True):
        assert time == layers.bound_s(np.array([count]), found.hidden, 16384, layer.rows, layers._machine())


def test_formula_and_draws_of_activated_experts():
    rows = active.activated(("DeepSeek-V3",), (4, 32))
    for row in rows:
        assert row.formula == pytest.approx(256 * (1 - (1 - 8 / 256) ** row.tokens))
        assert row.sampled["uniform"] == pytest.approx(row.formula, rel=0.02)
        assert row.sampled["zipf:0.6"] < row.sampled["zipf:0.3"] < row.sampled["uniform"]


def test_published_skews():
    """The published ones are of one draw each, printed to two or three digits: within three deviations of ours. Power
    laws are no more than E/K allows, and the published ones were not."""
    found = {(c.quantity, c.config.partition(",")[0]): c for c in active.skews()}
    assert len(found) == 9
    for (quantity, routing), row in found.items():
        if routing.startswith("power"):
            assert row.ours < min(row.published, 16)
        else:
            drawn = [parse(f"{routing}:{seed}").draw(*active.CHECK) for seed in range(10)]
            spread = np.std([r.gini if quantity == "gini" else r.max_over_mean for r in drawn])
            digit = 0.0005 if quantity == "gini" else 0.05
            assert row.ours == pytest.approx(row.published, abs=3 * spread + digit), (quantity, routing)


def test_the_array_simulates_what_was_costed(monkeypatch):
    """Of several chunks the one of the least simulated time, at a toy size."""
    base = layers.model("OLMoE-1B-7B")
    toy = replace(base, hidden=128, experts=replace(base.experts, count=8, chosen=2, width=64))
    monkeypatch.setattr(array, "model", lambda name: toy)
    for routing in ("even", "zipf:0.6"):
        found = array.mapped(96, routing)
        assert found.simulated.latency_s >= found.closed.latency_s * (1 - 1e-9)
        assert found.traffic == pytest.approx(found.closed.total("bytes", place="dram"), rel=1e-12)
        macs = found.simulated.total("operations", detail="mac", boundary="issued")
        assert macs == 96 * 2 * 3 * 128 * 64 and isinstance(found.drawn, Routing)


def test_counts_of_the_kernel_equal_its_closed_form():
    table = counted.counted_table(SILENT, seeds=(1,))
    assert [row[0] for row in table.rows] == [f"{kind}:1" for kind in counted.KINDS]
    assert [row for row in table.rows if row[2] <= 90 or row[3]] == []


def test_the_study_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "layers", lambda: SMALL)
    monkeypatch.setattr(array, "TOKENS", ())
    monkeypatch.setattr(array, "points", lambda progress: ())
    monkeypatch.setattr(active, "BATCHES", (4,))
    monkeypatch.setattr(counted, "counted_table", lambda progress: None)
    made = study.run(SILENT)
    assert "triton is not installed" in made.notes[-1]
    files = {f.name for f in studies.write(made, tmp_path / "moe")}
    assert {"gpu.csv", "devices.csv", "active.csv", "over-even.png", "active.svg", "summary.json"} <= files
    assert "moe" in studies.names()
