"""The study of sparse attention: its numbers by hand, its tags, its mapped case, and its files."""

import json
import math
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest

import stepfall
from arch.read import load as load_machine
from einsum.analysis import analyse
from mapper.check import check
from studies import study as studies
from studies.sparse import claims, kept, mapped, pruning, schedules, study
from studies.sparse.claims import Claim

SILENT = lambda message: None
OURS = dict(pair for source in study.SOURCES for pair in source())


def claim(published, kind, neutral=1.0):
    return Claim("paper", "quantity", "config", published, "x", neutral, kind, "nowhere")


@pytest.mark.parametrize(("published", "kind", "neutral", "ours", "tag"), [
    ("3.10", "printed", 1.0, 3.1049, "exact"), ("3.10", "printed", 1.0, 3.106, "by order"),
    ("3.1", "printed", 1.0, 3.149, "exact"), ("2657", "printed", 0.0, 2657.4, "exact"),
    ("1.28", "figure", 1.0, 1.28 * 1.049, "exact"), ("1.28", "figure", 1.0, 1.28 * 1.051, "by order"),
    ("2.6", "headline", 1.0, 2.6, "by order"), ("2.6", "headline", 1.0, 5.3, "by sign"),
    ("2.6", "headline", 1.0, 0.9, "contradicts"), ("0.35", "printed", 1.0, 1.0, "contradicts"),
    ("45", "headline", 0.0, 10.0, "by sign"), ("1.6", "headline", 1.0, None, "out of reach"),
])  # fmt: skip
def test_tags(published, kind, neutral, ours, tag):
    assert claim(published, kind, neutral).tag(ours) == tag


def test_every_claim_has_a_number_of_ours_or_a_reason():
    known = {c.key: c for c in claims.claims()}
    assert set(OURS) <= set(known) and len(known) == len(claims.claims())
    rows = claims.table(OURS, study.REASONS).rows
    assert all((row[4] is None) == bool(row[-1]) for row in rows)
    assert {(c.paper, c.quantity) for c in known.values() if c.key not in OURS} == set(study.REASONS)
    with pytest.raises(KeyError):
        claims.table({}, study.REASONS)


def test_nothing_contradicts_and_what_is_computed_is_exact():
    tags = {c.key: c.tag(OURS.get(c.key)) for c in claims.claims()}
    assert "contradicts" not in tags.values()
    twice = ("MANAR", "cost against dense attention", "4096 tokens, 128 concepts")
    assert all(tags[c.key] == "exact" for c in claims.claims() if c.kind == "computed" and c.key != twice)
    assert OURS[twice] == 2 * 128 / 4096
    assert sum(row[1] for row in claims.tally(OURS).rows) == list(tags.values()).count("exact") == 14


@pytest.mark.parametrize("schedule", pruning.SCHEDULES, ids=lambda s: s.name)
def test_spatten_by_its_formula(schedule):
    """Reductions from the means over layers, of tokens and of tokens times heads; rounding to tokens is below 0.5 %."""
    layers, full = len(schedule.tokens), schedule.full_heads
    keys = sum(schedule.tokens) / layers
    of_heads = sum(k * h / full for k, h in zip(schedule.tokens, schedule.heads, strict=True)) / layers
    per_key = schedule.high + schedule.again * schedule.low + schedule.values * (schedule.high + schedule.low)
    expected = {
        "keys and values read": 2 / (keys * (1 + schedule.values)),
        "multiply-accumulates": 2 / (keys * (1 + schedule.again + schedule.values))
        if schedule.low
        else 2 / (keys * (1 + schedule.values)),
        "DRAM bits against fp32": 2 * 32 / (of_heads * per_key),
        "DRAM bits against 12 bits": 2 * 12 / (of_heads * per_key),
    }
    for quantity, value in expected.items():
        assert OURS["SpAtten", quantity, schedule.name] == pytest.approx(value, rel=5e-3)


def test_heads_pruned_late_save_less_than_alone():
    medium = pruning.SCHEDULES[1]
    all_heads = pruning.spatten_step(medium, (16,) * 24).bits / pruning.spatten_step(medium, medium.heads).bits
    assert round(all_heads, 3) == 1.049
    assert round(24 * 16 / sum(medium.heads), 3) == 1.085


def test_quick_select_compares_as_often_as_it_does():
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(400):
        values, k, comparisons = rng.permutation(256), 16, 0
        while len(values) > 1:
            pivot = values[rng.integers(len(values))]
            comparisons += len(values) - 1
            below = values[values < pivot]
            if k == len(below) + 1:
                break
            values, k = (below, k) if k <= len(below) else (values[values > pivot], k - len(below) - 1)
        counts.append(comparisons)
    assert np.mean(counts) == pytest.approx(pruning.quick_select(256, 16), rel=0.05)
    assert pruning.quick_select(2, 1) == pytest.approx(1) and pruning.quick_select(1, 1) == pytest.approx(0)


def test_keyformer_by_hand():
    """Half a MiB a token and sequence; 4 sequences; the cache grows from n to 2n, or keeps n/2 and the newest."""
    weights, token = 2 * 6.65669e9, 4 * 2**19
    for prompt in (1024, 2048, 4096):
        whole = 2 * token * (1.5 * prompt + 0.5)
        half = token * (prompt / 2 + 1 + prompt / 2)
        scores = 4 * 32 * 32 * 4 * (2 * (prompt / 2 + 1) + prompt / 2)
        speedup = (weights + whole) / (weights + half + scores)
        config = f"{prompt}+{prompt}"
        assert OURS["Keyformer", "speedup at half the cache", config] == pytest.approx(speedup, rel=1e-5)
        assert OURS["Keyformer", "score overhead against the whole cache", str(prompt)] == pytest.approx(scores / whole)


def test_schedule_of_rettention():
    steps = schedules.full_steps()
    assert sum(steps) == 15 + 7 and all(steps[:15]) and [i for i in range(15, 50) if steps[i]] == list(range(19, 50, 5))
    n, wide = schedules.VIDEO["P"], schedules.window()
    pairs = lambda w: n * (2 * w - 1) - w * (w - 1)
    assert pairs(wide) <= 0.031 * n * n < pairs(wide + 1)
    shares = schedules.run_shares()
    assert set(shares) == {1.0, pairs(wide) / n**2} and list(accumulate(shares))[14] == 15
    assert schedules.attention_share() == pytest.approx(2 * n / (2 * n + 12 * 3072), rel=1e-12)
    assert 0.92 * schedules.attention_share() == pytest.approx(0.45, abs=0.005)


def test_visor_by_hand():
    """28 layers 1024 wide with 16 heads of 128, 8 of keys and 3072 inner features; 729 tokens before 64 of text. Norms
    are sums of squares, of rows and of each head's queries and keys; a token sees those up to itself."""
    linear = 1024 * 128 * (2 * 16 + 2 * 8) + 3 * 1024 * 3072
    norms = 2 * 1024 + (16 + 8) * 128
    pairs = lambda n: n * (n + 1) // 2
    added = 729 * (linear + norms) + 2 * 16 * 128 * (pairs(793) - pairs(64))
    cross = 16 * 128 * (2 * 64 * 1024 + 2 * 729 * 1024 + 2 * 64 * 729)
    for layers in (3, 7):
        assert schedules.visor_share(layers) == pytest.approx((layers * added + 4 * cross) / (28 * added), rel=1e-12)


@pytest.mark.parametrize("case", kept.CASES, ids=lambda case: case.cascade)
def test_cost_falls_with_what_is_kept(case):
    costs = [kept.cost_of(case, share) for share in kept.SHARES]
    assert all(a.macs > b.macs and a.live >= b.live for a, b in pairwise(costs))
    assert all(0 <= kept.choosing(case, share) < 1 for share in kept.SHARES)
    assert (kept.choosing(case, 4) > 0) == bool(case.chosen)


def test_cost_at_a_quarter_by_hand():
    at = {case.cascade: kept.cost_of(case, 4) for case in kept.CASES}
    assert at["sparse-block-topk-decode"].macs == 1 / 4 + 1 / 64 / 2
    assert at["sparse-manar"].macs == 2 / 4
    assert at["sparse-zipvl"].macs == (1 / 4) ** 2 + 64 / 4096 / 2
    assert at["sparse-spatten-layer"].macs == (2 / 4 + 1 / 4) / 2
    dense = 2 * (2 * 32 * 128 * 4096 + 2 * 32 * 128)
    blocks = 2 * (32 * 128 * (2 * 1024 + 64) + 2 * 32 * 128)
    assert at["sparse-block-topk-decode"].nbytes == blocks / dense


def test_block_topk_on_a_machine():
    """Bytes of the chosen blocks, of means, queries and results, and of the list, which passes through memory."""
    for count in (4, 16):
        closed, simulated = mapped.by_hand(count)
        heads, element = 64, 2
        elements = 2 * count * 64 * 128 + 64 * 128 + 2 * 128 + 128
        assert mapped.moved(closed) == heads * (elements * element + 4 * count)
        assert mapped.moved(simulated) == mapped.moved(closed)
        assert 1 <= simulated.latency_s / closed.latency_s < 1.01
        assert closed.latency_s == pytest.approx(mapped.moved(closed) / 614e9, rel=1e-2)


def test_mapping_by_hand_is_legal_and_runs_from_its_file(capsys):
    mapping, machine = mapped.block_topk(), load_machine(mapped.MACHINE)
    check(mapping, mapped.workload_of(mapping.cascade, N=8, **mapped.DECODE), machine)
    path = Path(mapped.__file__).with_name("block-topk.yaml")
    names = ("--cascade", mapping.cascade, "--machine", mapping.machine, "--mapping", str(path))
    sizes = ("--size", "B=8,H=8,M=4096,E=128,F=128,M0=64,N=8", "--json")
    assert stepfall.main(["run", *names, *sizes]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    latency = [row["value"] for result in results for row in result["rows"] if row["quantity"] == "latency"]
    assert latency == [result.latency_s for result in mapped.by_hand(8)]


def test_concepts_on_a_machine():
    """The search's answer for MANAR moves no less than its inputs and outputs, and is faster than dense attention."""
    workload = mapped.workload_of("sparse-manar", **mapped.TOKENS)
    closed, simulated = mapped.solved(workload)
    assert mapped.moved(closed) >= analyse(workload).compulsory_bytes
    dense, _ = mapped.solved(mapped.workload_of("attention-3pass", **mapped.TOKENS))
    assert closed.latency_s <= simulated.latency_s < dense.latency_s / 8


def test_study_writes_its_files(tmp_path, monkeypatch):
    """The mapped cases have tests of their own above; here they are left out."""
    table = studies.Table("mapped", "", ("cascade",), (("none",),))
    monkeypatch.setattr(mapped, "table", lambda progress: table)
    answer = studies.run("sparse", SILENT)
    files = {str(path.relative_to(tmp_path)) for path in studies.write(answer, tmp_path)}
    assert {"claims.csv", "tally.csv", "kept.csv", "kept.svg", "claims.png", "run.png", "summary.json"} <= files
    assert len(answer.summary) == len(OURS)
    assert all(math.isfinite(row.ours) and row.source.startswith("reference/sparse/") for row in answer.summary)
