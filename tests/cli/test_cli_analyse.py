"""`stepfall analyse` and `stepfall derive`."""

import json
from pathlib import Path

from einsum.library import load
from einsum.parse import parse
from einsum.show import show

SIZE = ("--size", "B=1,H=2,E=64,F=64,M=1024,P=1024")


def test_analyse_prints_operations_passes_and_the_graph(stepfall_in):
    answer = stepfall_in("analyse", "attention-3pass", *SIZE)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert "rank m: 3 passes (K 3, V 1)" in lines
    assert "  pass 2: SN, SD" in lines
    assert any(line.startswith("QK           m              between passes  M") for line in lines)
    assert lines[-1].startswith("6  AV <- A, V")


def test_analyse_with_a_machine_as_json(stepfall_in):
    answer = stepfall_in("analyse", "attention-1pass", *SIZE, "--size", "M0=128", "--machine", "h100", "--json")
    data = json.loads(answer.out)
    assert data["operations"]["mac"] == 2 * 2 * 1024 * 1024 * 64
    assert [p["passes"] for p in data["passes"] if p["rank"] == "m1"] == [1]
    assert data["verdict"]["roofline"]["bound"] in ("compute", "memory")
    assert {fit["memory"] for fit in data["verdict"]["fits"]} >= {"hbm", "l2", "smem"}


def test_analyse_draws_the_graph(stepfall_in, tmp_path: Path):
    assert stepfall_in("analyse", "good.cascade", *SIZE, "--size", "M0=128", "--svg", "graph.svg").code == 0
    assert (tmp_path / "graph.svg").read_text().startswith("<svg ")


def test_analyse_refuses_missing_sizes(stepfall_in):
    answer = stepfall_in("analyse", "softmax", "--size", "T=4")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "error: sizes of softmax: missing size N\n"


def test_derive_attention(stepfall_in):
    answer = stepfall_in("derive", "attention", "--passes", "1")
    assert (answer.code, answer.err) == (0, "")
    for line in ("1. defer AV (division distributes over sum): 2 passes",
                 "3. online m1 (exponentials rescale): 1 pass",
                 "This is the library's attention-1pass"):  # fmt: skip
        assert line in answer.out


def test_derived_text_reads_back(stepfall_in, tmp_path: Path):
    data = json.loads(stepfall_in("derive", "attention-3pass", "--json").out)
    assert data["library"] == "attention-1pass" and data["names"]["RGM"] == "RM"
    (tmp_path / "mine.cascade").write_text(data["result"])
    assert stepfall_in("derive", "mine.cascade", "--rank", "m1").code == 0
    assert parse(data["source"]) == load("attention-3pass")
    assert show(parse(data["result"])) == data["result"]


def test_derive_says_why_there_is_no_chain(stepfall_in):
    answer = stepfall_in("derive", "layer-norm")
    assert answer.code == 2
    assert answer.err.startswith(
        "error: layer-norm: no chain of 6 rewrites leads to 1 stable pass over d; fewest found: 2"
    )
    answer = stepfall_in("derive", "layer-norm", "--passes", "2", "--allow", "raw moment")
    assert answer.err == "error: --allow: no law that needs --allow (got raw moment); did you mean raw moments?\n"
    answer = stepfall_in("derive", "softmax", "--rank", "q")
    assert answer.err == "error: softmax: unknown rank (got q)\n"
