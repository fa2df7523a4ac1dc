"""`stepfall run` and `stepfall map` with a routing: lengths of ragged experts on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from einsum.occupancy import parse

GPU = ("run", "--cascade", "moe-grouped", "--machine", "h100", "--mapping", "gpu-moe")
SIZES = {"T": 64, "K": 2, "E": 8, "D": 64, "I": 64}
TPU = ("--cascade", "moe-ragged", "--machine", "tpu-v4i", "--size")


def sizes(**other: int) -> str:
    return ",".join(f"{name}={size}" for name, size in {**SIZES, **other}.items())


def value(answer, **key):
    """Sum of the rows of the closed form with these fields."""
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)["results"][0]["rows"]
    return sum(r["value"] for r in rows if all(r.get(field) == wanted for field, wanted in key.items()))


def test_a_distribution_and_the_same_routing_from_a_file(stepfall_in, tmp_path: Path):
    drawn = parse("zipf:0.6:3").draw(64, 8, 2)
    np.save(tmp_path / "chosen.npy", drawn.chosen)
    key = {"quantity": "operations", "einsum": "U", "detail": "mac"}
    answers = [stepfall_in(*GPU, "--size", sizes(), "--routing", r, "--json") for r in ("zipf:0.6:3", "chosen.npy")]
    for answer in answers:
        assert value(answer, **key, boundary="useful") == 128 * 64 * 128
        assert value(answer, **key, boundary="issued") == sum(-(-n // 32) * 32 for n in drawn.counts) * 64 * 128
    other = stepfall_in(*GPU, "--size", sizes(), "--routing", "even", "--json")
    assert value(other, **key, boundary="issued") == 8 * 32 * 64 * 128
    stamps = [json.loads(a.out)["results"][0]["provenance"] for a in (*answers, other)]
    digests = [next(v for v in stamp.values() if isinstance(v, str) and len(v) == 64) for stamp in stamps]
    assert digests[0] == digests[1] != digests[2]


def test_without_a_routing_every_expert_has_all_tokens(stepfall_in):
    key = {"quantity": "operations", "einsum": "U", "detail": "mac", "boundary": "issued"}
    assert value(stepfall_in(*GPU, "--size", sizes(), "--json"), **key) == 8 * 64 * 64 * 128


def test_a_found_mapping_runs_with_its_routing(stepfall_in, tmp_path: Path):
    found = stepfall_in("map", *TPU, sizes(), "--routing", "zipf:0.6", "--out", "found")
    assert found.code == 0, found.err
    assert "for c by " in found.out and "while the guard holds" in found.out
    assert "as one expert of so many rows; the whole has no proof" in found.out
    (file,) = (tmp_path / "found").iterdir()
    asked = ("--size", sizes(), "--routing", "zipf:0.6", "--json")
    named = ("--cascade", "moe-ragged", "--machine", "tpu-v4i", "--mapping", f"found/{file.name}")
    answer = stepfall_in("run", *named, *asked)
    assert value(answer, quantity="operations", detail="mac", boundary="issued") == 3 * 128 * 64 * 64
    listed = json.loads(stepfall_in("map", *TPU, *asked[1:]).out)
    best = min(listed["found"], key=lambda row: row["latency_s"])
    assert listed["best"] == best["mapping"].split("name: ", 1)[1].split("\n", 1)[0] == file.stem
    assert value(answer, quantity="latency") == best["latency_s"]


MISTAKES = {
    "no such distribution": ((*GPU, "--size", sizes(), "--routing", "zpf:0.3"), "did you mean zipf"),
    "a missing size": ((*GPU, "--size", "T=64,E=8,D=64,I=64", "--routing", "even"), "a routing needs the size K"),
    "no such file": ((*GPU, "--size", sizes(), "--routing", "no.npy"), "no.npy: cannot read an array"),
    "nothing to route": (("run", "--cascade", "attention-1pass", "--machine", "fusemax", "--mapping", "fusemax-binding",
                          "--size", "T=64,K=2,E=64", "--routing", "even"), "has no input that a routing decides"),
    "too many choices": ((*GPU, "--size", sizes(K=9), "--routing", "even"), "cannot choose 9 distinct experts"),
    "a front": (("map", *TPU, sizes(), "--routing", "even", "--objective", "pareto"), "latency, energy or edp alone"),
    "experts that gather": (("map", "--cascade", "moe-grouped", "--machine", "tpu-v4i", "--size", sizes(), "--routing",
                             "even"), "moe-grouped: ragged experts are Einsums that all have one guard by a length"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_exit_with_2(name, stepfall_in):
    argv, what = MISTAKES[name]
    answer = stepfall_in(*argv)
    assert answer.code == 2 and what in answer.err and "Traceback" not in answer.err, answer
