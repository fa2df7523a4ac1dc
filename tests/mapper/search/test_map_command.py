"""`stepfall map`: text, JSON, files that `stepfall run` takes, and one located message for each mistake."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import stepfall

GEMM = ("map", "--cascade", "gemm", "--machine", "tpu-v4i", "--size", "M=64,N=96,K=32")


def run(*argv: object) -> tuple[int, str, str]:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = stepfall.main(list(map(str, argv)))
    return code, out.getvalue(), err.getvalue()


def test_text_shows_the_mapping_and_the_proof():
    code, out, err = run(*GEMM)
    assert (code, err) == (0, "")
    assert out.startswith("mapping found: gemm on tpu-v4i")
    assert "least latency" in out and "space: " in out and "gap 0.00%" in out
    assert "the whole space was costed or bounded out" in out


def test_a_front_is_proven_as_a_front():
    code, out, _ = run(*GEMM, "--objective", "pareto")
    assert code == 0 and "latency against energy" in out
    assert "proof: no mapping of the space is both faster and of less energy than one of these" in out
    front = json.loads(run(*GEMM, "--objective", "pareto", "--json")[1])
    products = [found["latency_s"] * found["energy_j"] for found in front["found"]]
    assert len(products) > 1 and front["certificate"]["bound"] == pytest.approx(min(products), rel=1e-9)


@pytest.mark.parametrize("objective", ["latency", "energy", "edp", "pareto"])
def test_json_has_mappings_that_run_as_they_say(objective: str, tmp_path: Path):
    code, out, err = run(*GEMM, "--objective", objective, "--json", "--out", tmp_path / "made")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    proof = answer["certificate"]
    assert proof["objective"] == objective and proof["gap"] == 0 and proof["exhausted"]
    files = sorted((tmp_path / "made").iterdir())
    assert len(files) == len(answer["found"]) >= 1
    assert sorted(f["mapping"] for f in answer["found"]) == sorted(path.read_text() for path in files)
    for found, name in zip(answer["found"], ("found", *(f"found-{i}" for i in range(1, len(files)))), strict=True):
        path = tmp_path / "made" / f"{name}.yaml"
        code, out, err = run("run", *GEMM[1:5], *GEMM[5:], "--mapping", path, "--json")
        assert (code, err) == (0, "")
        rows = json.loads(out)["results"][0]["rows"]
        total = lambda quantity, rows=rows: sum(row["value"] for row in rows if row["quantity"] == quantity)
        assert total("latency") == found["latency_s"]
        assert total("energy") == pytest.approx(found["energy_j"], rel=1e-12, abs=0)


def test_types_tilings_and_buffers_are_taken():
    value = lambda *more: json.loads(run(*GEMM, "--objective", "energy", "--json", *more)[1])["certificate"]["value"]
    assert value("--dtype", "fp32") > value()
    assert value("--tiling", "ragged") <= value()
    assert value("--buffers", "2") >= value()


MISTAKES = {
    "cascade": (("--cascade", "gem"), "(got gem); did you mean gemm?"),
    "machine": (("--machine", "tpu-v4"), "(got tpu-v4); did you mean tpu-v4i?"),
    "objective": (("--objective", "latncy"), "unknown objective (got latncy); did you mean latency?"),
    "tiling": (("--tiling", "divisor"), "unknown tiling (got divisor); did you mean divisors?"),
    "size": (("--size", "L=2"), "unknown size (got L)"),
    "type": (("--dtype", "bf17"), "bf17"),
    "buffers": (("--buffers", "0"), "--buffers"),
    "option": (("--objektive", "energy"), "unknown option (got --objektive); did you mean --objective?"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_exit_with_2_and_leave_nothing(mistake: tuple[tuple[str, ...], str], tmp_path: Path):
    argv, says = mistake
    code, out, err = run(*GEMM, *argv, "--out", tmp_path / "made")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and says in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_mapped_exits_with_2(tmp_path: Path):
    argv = ("map", "--cascade", "gate-topk-softmax", "--machine", "tpu-v4i", "--size", "T=8,E=16,K=2")
    code, out, err = run(*argv, "--out", tmp_path / "made")
    assert (code, out) == (2, "")
    assert "A: " in err and "depends on data" in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sizes", ["M=99999999999999999999,N=4,K=4", "M=1000000000000,N=1000000000000,K=1000000000000"])
def test_what_cannot_be_counted_is_said(sizes: str):
    code, out, err = run("map", "--cascade", "gemm", "--machine", "tpu-v4i", "--size", sizes)
    assert (code, out) == (2, "")
    assert "size M is larger than 2^40" in err or "too many iterations to count" in err


def test_missing_sizes_are_named():
    code, out, err = run("map", "--cascade", "gemm", "--machine", "tpu-v4i")
    assert (code, out) == (2, "")
    assert all(f"missing size {name}" in err for name in "KMN")
