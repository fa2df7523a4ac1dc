"""The closed form against published rows, hand counts, and counting by enumeration."""

import csv
import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from arch.read import load as load_machine
from einsum.bind import bind
from einsum.library import load as load_cascade
from mapper.cost import cost
from mapper.fusemax import fusemax_p1
from mapper.library import make
from mapper.tile import elements, whole

REFERENCE = Path(__file__).parents[2] / "studies/reference/fusemax"
MODELS = {"BERT": dict(B=64, H=12, E=64, F=64), "XLM": dict(B=64, H=16, E=128, F=128)}
ON_2D = {"QK": "BQK", "LM": "LM", "SLN": "SLN", "SLD": "SLD", "SLNV": "SLNV"}  # the artifact's column -> our Einsum


def published(name):
    with (REFERENCE / f"{name}.csv").open() as lines:
        next(lines)
        return list(csv.DictReader(lines))


def fusemax(design, model, length):
    tokens = 1024 * int(length[:-1]) if length.endswith("K") else 2**20
    machine = load_machine("fusemax")
    mapping, workload = make(
        design, load_cascade("attention-1pass"), machine, MODELS[model] | {"M": tokens, "P": tokens}
    )
    return cost(mapping, workload, machine)


@pytest.mark.parametrize("design", ["binding", "architecture"])
def test_every_published_row(design):
    for row in published({"binding": "attn-binding", "architecture": "attn-arch"}[design]):
        ours = fusemax(f"fusemax-{design}", row["model"], row["seq_len"])
        assert ours.latency_s == pytest.approx(float(row["latency"]), rel=1e-6)
        assert ours.total("bytes", place="dram") == pytest.approx(float(row["traffic"]), rel=1e-6)
        for place, column in (("pe_2d", "util_2d"), ("pe_1d", "util_1d")):
            assert ours.value("utilization", place=place) == pytest.approx(float(row[column]), rel=1e-6)
        for column, einsum in ON_2D.items():
            assert ours.value("share", einsum=einsum, place="pe_2d") == pytest.approx(float(row[column]), rel=1e-6)


def test_buffer_rows_of_a_tile_by_hand():
    """Rows of 256 words, for one tile of +Binding at 64K: what each Einsum reads and writes, counted on paper."""
    ours = fusemax("fusemax-binding", "BERT", "64K")
    tiles, m1, p1, e, f = ours.value("tiles"), 256, 128, 64, 64
    assert tiles == 64 * 12 * 256 * 256
    read = ours.total("accesses", place="buffer", detail="read") / tiles
    written = ours.total("accesses", place="buffer", detail="write") / tiles
    assert read == pytest.approx(2 * e + 2 * f + 2 + (f + 1) / m1, rel=1e-12)
    assert written == pytest.approx(2 + f + e / m1 + (e + f) / p1, rel=1e-12)


def test_every_reference_shape_fits_its_buffers():
    for model, length in itertools.product(MODELS, ("1K", "64K", "1M")):
        result = fusemax("fusemax-binding", model, length)
        for memory, capacity in (("buffer", 2**24), ("regs_2d", 24), ("regs_1d", 64)):
            assert 0 < result.total("footprint", place=memory) <= capacity


def test_tiles_of_p_in_the_buffer():
    """The published choices: 128 tiles for E = F = 64, 64 for 128, all four at 1K."""
    choose = lambda e, p: fusemax_p1(e, e, p, 256, 2**24)
    assert [choose(64, 1024), choose(64, 2**18), choose(128, 2**20)] == [4, 128, 64]


@pytest.mark.parametrize("sizes", [dict(P=96, M=96), dict(P=100, M=70), dict(P=33, M=128), dict(P=64, M=1)])
@pytest.mark.parametrize("causal", [False, True])
def test_flash_attention_counts_equal_enumeration(sizes, causal):
    """Thread blocks and their key tiles, walked one by one."""
    machine, block_m, block_n, d = load_machine("h100"), 64, 64, 16
    cascade = load_cascade("attention-1pass-causal" if causal else "attention-1pass")
    mapping, workload = make("flash-attention", cascade, machine, dict(B=2, H=3, E=d, F=d, **sizes))
    result = cost(mapping, workload, machine)
    pairs = keys = queries = 0
    for first in range(0, sizes["P"], block_m):
        rows = min(block_m, sizes["P"] - first)
        queries += rows * d
        for start in range(0, sizes["M"], block_n):
            if not causal or start <= first + rows - 1:
                pairs, keys = pairs + 1, keys + min(block_n, sizes["M"] - start) * d
    heads = 2 * 3
    assert result.value("tiles") == heads * pairs
    assert result.total("bytes", place="hbm", tensor="K") == heads * keys * 2
    assert result.total("bytes", place="hbm", tensor="V") == heads * keys * 2
    assert result.total("bytes", place="hbm", tensor="Q") == heads * queries * 2
    assert result.total("bytes", place="hbm", tensor="AV") == heads * queries * 2
    issued = lambda einsum, name: result.value("operations", einsum=einsum, detail=name, boundary="issued")
    assert issued("BQK", "mac") == heads * pairs * block_m * block_n * d
    assert issued("SLN", "exp") == heads * pairs * block_m * block_n
    assert issued("PRM", "exp") == heads * pairs * block_m
    assert result.value("combines", einsum="LM") == heads * pairs * block_m * (block_n - 1)
    exist = sum(not causal or m <= p for p in range(sizes["P"]) for m in range(sizes["M"]))
    assert result.value("operations", einsum="SLN", detail="exp", boundary="useful") == heads * exist


def test_elements_of_a_view_stop_at_the_end_of_its_storage():
    workload = bind(load_cascade("attention-1pass"), dict(B=1, H=1, E=2, F=2, P=4, M=10, M0=4))
    box = dict(b=(0, 1), h=(0, 1), m1=(8 // 4, 1), m0=(0, 4), e=(0, 2))
    assert elements(workload, whole(workload.cascade, "BK"), box) == 2 * 2
    assert elements(workload, whole(workload.cascade, "BK"), box | {"m1": (0, 3)}) == 10 * 2
    assert elements(workload, whole(workload.cascade, "RM"), dict(b=(0, 1), h=(0, 1), p=(0, 4), m1=(0, 3))) == 4


def test_energy_of_a_faster_memory_is_charged_by_its_accesses():
    """Doubling the row energy of the buffer adds exactly the rows' energy again."""
    machine = load_machine("fusemax")
    mapping, workload = make(
        "fusemax-binding", load_cascade("attention-1pass"), machine, MODELS["BERT"] | {"M": 4096, "P": 4096}
    )
    buffer = machine.memory("buffer")
    dearer = replace(buffer, read_energy_j=2 * buffer.read_energy_j)
    twice = replace(machine, root=replace(machine.root, children=(dearer,)))
    rows = cost(mapping, workload, machine).total("accesses", place="buffer", detail="read")
    added = cost(mapping, workload, twice).energy_j - cost(mapping, workload, machine).energy_j
    assert added == pytest.approx(rows * buffer.read_energy_j, rel=1e-9)
