"""The commands do what their help says."""

import csv
import json
from pathlib import Path

import pytest

import stepfall
from studies import study as studies
from studies.cli import run as run_command, show as show_command
from studies.study import Comparison, Figure, Study, Table

SIZES = {"B": 1, "H": 2, "E": 64, "F": 64, "M": 1024, "P": 1024}
SIZE = ",".join(f"{name}={value}" for name, value in SIZES.items())
RUN = ("run", "--cascade", "attention-1pass", "--machine", "fusemax", "--mapping", "fusemax-binding", "--size", SIZE)


def expected_latencies() -> tuple[float, float]:
    """Closed form and simulated, by the functions of the facade."""
    cascade, machine = stepfall.load_cascade("attention-1pass"), stepfall.load_machine("fusemax")
    mapping, workload = stepfall.make_mapping("fusemax-binding", cascade, machine, SIZES)
    results = stepfall.cost(mapping, workload, machine), stepfall.simulate(mapping, workload, machine)
    return results[0].latency_s, results[1].latency_s


def test_run_prints_both_results_side_by_side(stepfall_in):
    answer = stepfall_in(*RUN)
    assert (answer.code, answer.err) == (0, "")
    closed, simulated = expected_latencies()
    latency = next(line.split() for line in answer.out.splitlines() if line.startswith("latency"))
    assert latency[1:4] == ["s", f"{closed:.6g}", f"{simulated:.6g}"]
    assert latency[4] == f"{simulated / closed - 1:.6g}"
    assert {"utilization", "stall", "energy", "bytes"} <= {line.split(" ")[0] for line in answer.out.splitlines()}
    assert answer.out.splitlines()[-1].startswith("stepfall ") and "sha256" in answer.out.splitlines()[-1]


def test_run_as_json_prints_json_alone_with_provenance(stepfall_in):
    answer = stepfall_in(*RUN, "--json")
    results = json.loads(answer.out)["results"]
    assert [r["method"] for r in results] == ["closed form", "simulated"]
    latencies = tuple(next(row["value"] for row in r["rows"] if row["quantity"] == "latency") for r in results)
    assert latencies == expected_latencies()
    assert all(len(r["provenance"]["inputs_sha256"]) == 64 for r in results)
    assert results[0]["provenance"] == results[1]["provenance"]


def test_run_from_files_equals_run_by_names(stepfall_in, tmp_path: Path):
    by_name = json.loads(stepfall_in(*RUN, "--json").out)
    shown = stepfall_in("show", "mapping", "fusemax-binding", "--size", SIZE, "--yaml").out
    (tmp_path / "mine.yaml").write_text(shown)
    files = ("--cascade", "good.cascade", "--machine", "good_machine.yaml", "--mapping", "mine.yaml")
    by_file = json.loads(stepfall_in("run", *files, "--size", SIZE, "--json").out)
    assert [r["rows"] for r in by_file["results"]] == [r["rows"] for r in by_name["results"]]


def test_what_is_not_simulated_yet_is_costed_and_says_so(stepfall_in, tmp_path: Path):
    places = ("--machine", "h100", "--mapping", "flash-attention")
    on_gpu = ("run", "--cascade", "attention-1pass", *places, "--size", SIZE)
    answer = stepfall_in(*on_gpu)
    assert (answer.code, answer.err) == (0, "")
    assert "closed form only: " in answer.out
    assert [r["method"] for r in json.loads(stepfall_in(*on_gpu, "--json").out)["results"]] == ["closed form"]
    traced = stepfall_in(*on_gpu, "--trace", "trace.json")
    assert (traced.code, traced.out) == (2, "")
    assert "not simulated yet" in traced.err
    assert not (tmp_path / "trace.json").exists()


def test_trace_is_written_whole(stepfall_in, tmp_path: Path):
    answer = stepfall_in(*RUN, "--trace", "trace.json")
    assert answer.code == 0, answer.err
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert any(event["ph"] == "X" and event["name"] == "BQK" for event in trace["traceEvents"])
    assert len(trace["otherData"]["inputs_sha256"]) == 64
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.cascade", "good_machine.yaml", "good_mapping.yaml",
                                                          "trace.json"]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "names"), [("cascade", "cascades"), ("machine", "machines"), ("mapping", "mappings")], ids=str
)
def test_show_lists_and_shows_everything_that_ships(kind: str, names: str, stepfall_in):
    listed = stepfall_in("show", kind).out.split()
    assert listed == list(getattr(stepfall, names)())
    for name in listed:
        answer = stepfall_in("show", kind, name)
        assert (answer.code, answer.err) == (0, "")
        assert f"{kind} {name}" in answer.out


def test_studies_and_kernels_are_listed(stepfall_in):
    assert stepfall_in("study").out.split() == ["fusemax", "mapper", "moe", "sparse"]
    assert "flash-attention" in stepfall_in("gpu", "check").out.split()


def test_every_mapping_has_its_usual_inputs():
    assert sorted(show_command.USUAL) == list(stepfall.mappings())


def test_show_cascade_prints_text_that_parses_back(stepfall_in):
    shown = stepfall_in("show", "cascade", "attention-2pass").out
    assert stepfall.parse(shown) == stepfall.load_cascade("attention-2pass")


def test_show_cascade_with_sizes_gives_shapes_and_bytes(stepfall_in):
    shown = stepfall_in("show", "cascade", "attention-naive", "--size", "B=1,H=2,E=4,F=8,M=16,P=32").out
    row = next(line.split() for line in shown.splitlines() if line.startswith("K "))
    assert row == ["K", "1,", "2,", "16,", "4", "bf16", "256"]


def test_help_and_version(stepfall_in):
    assert stepfall_in("--version").out.startswith("stepfall ")
    assert stepfall_in() == stepfall_in("--help")
    for command in ((), ("run",), ("show",), ("show", "mapping"), ("study",), ("gpu",), ("gpu", "check")):
        answer = stepfall_in(*command, "--help")
        assert answer.code == 0
        assert answer.out.startswith("Usage: stepfall")


def test_run_says_why_it_takes_as_long(stepfall_in):
    plain, why = stepfall_in(*RUN), stepfall_in(*RUN, "--why")
    assert "bottleneck" not in plain.out
    assert "bottleneck of attention in " in why.out
    lines = [line.split() for line in why.out.splitlines()]
    circuit = next(n for n, words in enumerate(lines) if words[:2] == ["task", "times"])
    assert len(lines[circuit + 1 : next(n for n, words in enumerate(lines) if words[:2] == ["latency", "with"])]) <= 8
    assert any(words[:2] == ["pe_1d", "throughput"] and words[2].startswith("-") for words in lines)


def test_run_as_json_has_the_bottleneck_when_asked(stepfall_in):
    assert "bottleneck" not in json.loads(stepfall_in(*RUN, "--json").out)
    found = json.loads(stepfall_in(*RUN, "--why", "--json").out)
    bottleneck = found["bottleneck"]
    assert bottleneck["latency_s"] == pytest.approx(expected_latencies()[1], rel=1e-12)
    (pace,) = bottleneck["paces"]
    assert sum(step["ticks"] for step in pace["circuits"][0]["steps"]) == pace["circuits"][0]["ticks"]
    assert {"parameters", "least", "most"} == set(bottleneck["shares"][0])
    assert {"group", "slot", "count", "less", "more"} == set(bottleneck["depths"][0])


def test_a_kernel_mapping_has_no_bottleneck_but_says_that_it_is_not_simulated(stepfall_in):
    sizes = "B=1,H=2,E=64,F=64,M=256,P=256"
    names = ("--cascade", "attention-1pass", "--machine", "h100", "--mapping", "flash-attention", "--size", sizes)
    answer = stepfall_in("run", *names, "--why")
    assert answer.code == 0
    assert "closed form only" in answer.out and "bottleneck" not in answer.out


def test_interrupt_exits_with_130(stepfall_in, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(run_command, "results", interrupted)
    answer = stepfall_in(*RUN, "--trace", "trace.json")
    assert (answer.code, answer.out) == (130, "")
    assert sorted(tmp_path.iterdir()) == before


def small_study(progress) -> Study:
    progress("working")
    compared = Comparison("latency", "BERT 1K", 2.0, 2.5, "s", "table 1")
    table = Table("numbers", "Numbers", ("name", "value"), (("third", 1 / 3), ("none", None)))
    figure = Figure("line", lambda canvas: canvas.subplots().plot([1, 2], [3, 4]))
    stamp = stepfall.Provenance("0", "ab" * 32, "stepfall study small")
    return Study("small", (table,), (figure,), (compared,), stamp, ("A note.",))


@pytest.fixture
def study_in(stepfall_in, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(studies, "run", lambda name, progress: small_study(progress))
    return stepfall_in


def test_study_prints_its_table_and_says_where_figures_are(study_in):
    answer = study_in("study", "small", "--out", "made/out")
    assert answer.err == ""
    assert "0.333333" in answer.out and "A note." in answer.out
    assert "5 files in made/out; figures there: line.png" in answer.out


def test_study_writes_below_out_by_default(study_in, tmp_path: Path):
    assert "5 files in out/small" in study_in("study", "small").out
    assert (tmp_path / "out" / "small" / "summary.json").is_file()


def test_study_writes_tables_figures_summary_and_provenance(study_in, tmp_path: Path):
    assert study_in("study", "small", "--out", "made/out").code == 0
    out = tmp_path / "made" / "out"
    names = ["line.png", "line.svg", "numbers.csv", "provenance.json", "summary.json"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    with (out / "numbers.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["name", "value"], ["third", repr(1 / 3)], ["none", ""]]
    wanted = {"quantity": "latency", "config": "BERT 1K", "published": 2.0, "ours": 2.5, "unit": "s", "rel_error": 0.25,
              "source": "table 1"}  # fmt: skip
    assert json.loads((out / "summary.json").read_text()) == [wanted]
    stamp = json.loads((out / "provenance.json").read_text())
    assert sorted(stamp["sha256"]) == ["line.png", "line.svg", "numbers.csv", "summary.json"]


def test_study_writes_the_same_bytes_again(study_in, tmp_path: Path):
    for out in ("one", "two"):
        study_in("study", "small", "--out", out)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_study_as_json_prints_json_alone(study_in):
    answer = study_in("study", "small", "--json")
    found = json.loads(answer.out)
    assert found["summary"][0]["rel_error"] == 0.25
    assert found["provenance"]["inputs_sha256"] == "ab" * 32
