"""Measured kernels from CSV: readers, their mistakes, filters, and the split in halves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from einsum.problems import InputError
from studies.gpu.data import Points, join, machine_name, read, reference
from studies.gpu.filters import usable

GEMM = "system,framework,version,gemm_dtype,m,n,k,latency_ms\n"
ROW = "h100_sxm,TRTLLM,1,bfloat16,{m},1024,2048,{ms}\n"


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_is_read_under_our_names_in_seconds(tmp_path):
    points = read(table(tmp_path, "# source: here\n" + GEMM + ROW.format(m=64, ms="0.5")))
    assert (points["kind"][0], points["gpu"][0], points["dtype"][0], points["framework"][0]) == (
        "gemm", "h100", "bf16", "TRTLLM",
    )  # fmt: skip
    assert [points.shape[size][0] for size in "mnk"] == [64, 1024, 2048]
    assert points.seconds[0] == 0.5e-3
    assert points.place[0] == "rows.csv:3"


def test_every_bad_row_is_named_with_its_line_and_column(tmp_path):
    text = GEMM + ROW.format(m="x", ms="1") + ROW.format(m=1, ms="-1") + "a,b\n" + ROW.format(m=1, ms="1")
    with pytest.raises(InputError) as caught:
        read(table(tmp_path, text.replace("bfloat16,1,1024,2048,1\n", "bfloat15,1,1024,2048,1\n")))
    found = [(problem.line, problem.path) for problem in caught.value.problems]
    assert found == [(2, "m"), (3, "latency_ms"), (4, ""), (5, "dtype")]
    assert "did you mean bfloat16?" in str(caught.value)


def test_unknown_headers_and_missing_columns_are_named(tmp_path):
    with pytest.raises(InputError, match="no known table has these columns"):
        read(table(tmp_path, "a,b\n1,2\n"))
    with pytest.raises(InputError, match=r"rows\.csv:1: framework: missing column"):
        read(table(tmp_path, GEMM.replace("framework", "frame")))
    with pytest.raises(InputError, match="has no header"):
        read(table(tmp_path, "# nothing\n"))


def test_rates_become_seconds_and_an_empty_size_is_one(tmp_path):
    points = read(table(tmp_path, "gpu,op,M,N,gelements_per_s\nA100,gelu,4096,,2\nA100,softmax,8,16,4\n"))
    assert points.seconds.tolist() == [4096 / 2e9, 128 / 4e9]
    assert points["gpu"].tolist() == ["a100-80", "a100-80"]


def test_decode_sees_one_key_more_than_the_cache_holds(tmp_path):
    header = "system,framework,version,kernel_source,attn_dtype,kv_cache_dtype,batch_size,step,num_heads,"
    path = table(
        tmp_path, header + "num_key_value_heads,head_dim,latency_ms\n" + "h100_sxm,V,1,s,bf16,fp8,2,127,8,4,64,1\n"
    )
    points = read(path)
    assert (points["kind"][0], points.shape["keys"][0], points.shape["queries"][0]) == ("decode", 128, 1)


def test_machines_are_known_under_the_spellings_of_tables():
    assert [machine_name(gpu) for gpu in ("h200_sxm", "A100-80GB-SXM4", "H100-80GB-SXM5", "B200")] == [
        "h200", "a100-80", "h100", "b200",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def points() -> Points:
    return reference()


def test_the_halves_depend_on_the_row_and_not_on_its_place(points):
    order = np.random.default_rng(0).permutation(len(points))
    assert (points.where(order).fitted() == points.fitted()[order]).all()
    assert 0.48 < points.fitted().mean() < 0.52
    half: dict[str, bool] = {}
    for key, fitted in zip(points.keys(), points.fitted().tolist(), strict=True):  # measured twice: in one half
        assert half.setdefault(key, fitted) == fitted


def test_filters_take_what_they_say_and_count_it(tmp_path, points):
    rows = (
        ROW.format(m=8192, ms="0.001") + ROW.format(m=8192, ms="1") + ROW.format(m=64, ms="1").replace("TRTLLM", "VLLM")
    )
    bad = read(table(tmp_path, GEMM + rows + ROW.format(m=1, ms=1).replace("h100_sxm", "mystery")))
    kept, dropped = usable(bad)
    assert len(kept) == 1
    assert {d.name: d.rows for d in dropped if d.rows} == {
        "uninitialised weights": 1, "no machine": 1, "above the peak": 1,
    }  # fmt: skip
    everything, dropped = usable(points)
    assert len(everything) + sum(d.rows for d in dropped) == len(points)


def test_joined_points_keep_their_order(points):
    some = points.where(np.arange(5)), points.where(np.arange(5, 9))
    assert join(some).place.tolist() == points.place[:9].tolist()
