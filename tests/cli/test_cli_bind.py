"""`stepfall bind`: what it prints, the mapping it writes, and one located message for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

INPUTS = ("--cascade", "attention-1pass", "--machine", "fusemax", "--size", "B=1,H=1,E=64,F=64,M=65536,P=65536")
BIND = ("bind", *INPUTS, "--mapping", "fusemax-greedy")


def test_text_shows_units_interval_and_simulation(stepfall_in):
    answer = stepfall_in(*BIND, "--keep-units")
    assert (answer.code, answer.err) == (0, "")
    rows = {line.split()[0]: line.split() for line in answer.out.splitlines() if line.startswith("pe_")}
    assert rows["pe_2d"][1:3] == ["137", "137"] and rows["pe_1d"][1:3] == ["138.25", "138.25"]
    assert {name.split("-")[0] for name in rows["pe_2d"][3:]} == {"BQK", "LM", "SLN", "SLD", "SLNV"}
    assert "optimal, 138.25 cycles a tile, at least 138.25, gap 0.00%" in answer.out
    assert "s before" in answer.out and "-30.9" in answer.out


def test_the_mapping_that_it_writes_runs_as_it_says(stepfall_in, tmp_path: Path):
    answer = stepfall_in(*BIND, "--json", "--out", "made/bound.yaml")
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)
    assert (tmp_path / "made" / "bound.yaml").read_text() == found["mapping"]
    (pipe,) = found["pipes"]
    assert (pipe["group"], pipe["status"], pipe["gap"]) == ("attention", "optimal", 0)
    assert pipe["interval_cycles"] == pytest.approx(138) == pipe["bound_cycles"]
    assert [unit["unit"] for unit in pipe["units"]] == ["pe_2d", "pe_1d"]
    assert max(unit["after_cycles"] for unit in pipe["units"]) == pytest.approx(138)
    run = json.loads(stepfall_in("run", *INPUTS, "--mapping", "made/bound.yaml", "--json").out)
    closed, simulated = (
        next(row["value"] for row in result["rows"] if row["quantity"] == "latency") for result in run["results"]
    )
    assert simulated == found["simulated_s"][1] < found["simulated_s"][0]
    assert closed == pytest.approx(138 * 65536 * 65536 / 256 / 256 / 940e6)


def test_a_limit_prints_the_gap(stepfall_in):
    answer = stepfall_in(*BIND, "--seconds", "0")
    assert answer.code == 0
    assert "attention: feasible, 138.25 cycles a tile, at least" in answer.out and "gap 0.00%" not in answer.out


MISTAKES = {
    "too fast": (
        ("--within", "137"),
        "groups.attention: no binding and order takes 137 cycles a tile (got unit pe_2d: 1",
    ),
    "not a number": (("--within", "0"), "--within"),
    "mapping": (("--mapping", "fusemax-gredy"), "(got fusemax-gredy); did you mean fusemax-greedy?"),
    "option": (("--withn", "3"), "unknown option (got --withn); did you mean --within?"),
    "size": (("--size", "N=2"), "unknown size (got N)"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_exit_with_2_and_leave_nothing(mistake: tuple[tuple[str, ...], str], stepfall_in, tmp_path: Path):
    argv, says = mistake
    before = sorted(tmp_path.iterdir())
    answer = stepfall_in(*BIND, *argv, "--out", "made/bound.yaml")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and says in answer.err and "Traceback" not in answer.err
    assert sorted(tmp_path.iterdir()) == before


def test_without_a_pipe_it_says_so(stepfall_in):
    places = ("--machine", "h100", "--mapping", "flash-attention", "--size", "B=1,H=1,E=64,F=64,M=1024,P=1024,M0=64")
    answer = stepfall_in("bind", "--cascade", "attention-1pass", *places)
    assert (answer.code, answer.out) == (2, "")
    assert "flash-attention: no group has a pipe, and only there do tiles overlap" in answer.err
