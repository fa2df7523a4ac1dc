"""`stepfall gpu emit | plan | record` and `stepfall crosscheck`, in this process."""

import json
from importlib.util import find_spec

import pytest

from studies import crosscheck
from studies.cli import main

SMALL = "B=1,H=2,P=128,M=128,E=32,F=32"
EMIT = ["gpu", "emit", "--cascade", "attention-3pass-recompute", "--mapping", "gpu-passes", "--size", SMALL]
NEEDS_TRITON = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def test_emit_prints_the_kernel_and_needs_no_triton(capsys):
    assert main([*EMIT, "--machine", "h100"]) == 0
    text = capsys.readouterr().out
    assert "def attention_3pass_recompute(" in text and text.count("for m_tile in") == 3


def test_emit_writes_content_addressed_files(tmp_path, capsys):
    assert main([*EMIT, "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    assert capsys.readouterr().out.strip() == str(file) and file.name.startswith("attention_3pass_recompute_")


def test_emit_says_why_there_is_no_kernel(capsys):
    assert main(["gpu", "emit", "--cascade", "softmax", "--mapping", "gpu-gemm", "--size", "T=64,N=64"]) == 2
    assert "error" in capsys.readouterr().err
    for mapping in ("flash-attention", "gpu-decode", "gpu-unfused", "gpu-passes", "gpu-gemm"):
        assert main(["gpu", "emit", "--cascade", "rms-norm", "--mapping", mapping, "--size", "T=64,D=64"]) == 2
        assert f"{mapping} maps" in capsys.readouterr().err
    assert main(["gpu", "emit", "--cascade", "rms-norm", "--mapping", "gpu-rows", "--size", "T=64"]) == 2
    assert "D: missing size" in capsys.readouterr().err
    assert main([*EMIT[:-1], SMALL.replace("E=32", "E=8")]) == 2
    assert "at least 16 coordinates (got e: 8)" in capsys.readouterr().err


@NEEDS_TRITON
def test_plan_and_record(tmp_path, capsys):
    folder = tmp_path / "job"
    assert main(["gpu", "plan", str(folder), "--only", "gemm_M1024_N1024_K1024_64x64"]) == 0
    assert "1 points in" in capsys.readouterr().out
    job = json.loads((folder / "job.json").read_text())
    assert [p["name"] for p in job["points"]] == ["gemm_M1024_N1024_K1024_64x64"] and (folder / "run.py").exists()
    assert main(["gpu", "record", str(folder)]) == 2
    assert "no records" in capsys.readouterr().err
    assert main(["gpu", "plan", str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err


@NEEDS_TRITON
def test_crosscheck_has_equal_counts_and_simulated_times_above_their_bounds():
    names = (
        "attention-1pass",
        "attention-3pass",
        "flash-attention",
        "attention-2pass",
        "softmax",
        "paged-decode",
        "moe-ragged",
    )
    lines = tuple(crosscheck.lines(names))
    by_verdict = {line.verdict for line in lines}
    assert by_verdict == {crosscheck.EQUAL, crosscheck.BOUND, crosscheck.DIFFERS, crosscheck.ALONE}
    methods = {method for line in lines for method in line.values}
    assert methods == {"closed form", "counted", "compiled", "simulated"}  # nothing has been measured
    # a vector of 64 numbers is loaded by 128 threads, twice as many bytes as the mapping says
    # and the page of a key by each of the threads that share its row
    differing = [line.quantity for line in lines if line.verdict == crosscheck.DIFFERS]
    assert differing == ["bytes an iteration pass3", "bytes an iteration paged parts"]
    assert {line.quantity for line in lines if line.verdict == crosscheck.ALONE} == {"latency"}
    for line in lines:  # every method has a number, or a reason
        assert {*line.values, *line.reasons} == {*crosscheck.METHODS} and not {*line.values} & {*line.reasons}
        assert {*line.reasons.values()} <= {*crosscheck.REASONS}
    simulated = {line.cascade for line in lines if "simulated" in line.values}
    assert simulated == {"attention-1pass", "attention-3pass", "moe-ragged"}


@NEEDS_TRITON
def test_crosscheck_prints_reasons_and_refuses_unknown_names(capsys):
    assert main(["crosscheck", "softmax"]) == 0
    text = capsys.readouterr().out
    assert "GPU grid: groups spread over the SMs are not simulated" in text and "no record" in text
    assert main(["crosscheck", "paged-decode", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["mapping"] for row in rows} == {"paged-decode by hand"}
    assert rows[0]["verdict"] == "equal" and rows[0]["reasons"]["simulated"] == "by hand"
    assert main(["crosscheck", "fused-mo"]) == 2
    assert "did you mean fused-moe?" in capsys.readouterr().err


@NEEDS_TRITON
def test_check_knows_kernels_written_by_hand(capsys):
    assert main(["gpu", "check"]) == 0
    assert {"flash-attention", "fused-moe", "paged-decode"} <= {*capsys.readouterr().out.split()}
    assert main(["gpu", "check", "paged-decode", "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["passed"] and judged["differences"] == [] and judged["results"][0]["method"] == "closed form"
    assert main(["gpu", "check", "paged-decod"]) == 2
    assert "did you mean paged-decode?" in capsys.readouterr().err


def test_verdicts():
    def verdict(quantity, notes=(), **values):
        named = {"closed form" if method == "closed" else method: value for method, value in values.items()}
        return crosscheck.Line("c", "m", "x", {}, quantity, "B", named, notes).verdict

    assert verdict("bytes", closed=2.0) == crosscheck.ALONE
    assert verdict("bytes", closed=2.0, counted=2.0) == crosscheck.EQUAL
    assert verdict("bytes", closed=2.0, counted=3.0) == crosscheck.WRONG
    assert verdict("bytes", ("K is 1 more, V 1 less",), closed=2.0, counted=2.0) == crosscheck.WRONG
    assert verdict("macs", closed=2.0, compiled=3.0) == crosscheck.DIFFERS
    assert verdict("latency", closed=2.0, simulated=2.5) == crosscheck.BOUND
    assert verdict("latency", closed=2.0, simulated=1.5, measured=3.0) == crosscheck.WRONG
