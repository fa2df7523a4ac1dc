"""`stepfall import` and `stepfall export`: files or text, what is lost on the other stream, nothing half-written."""

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from exchange_files import DATA

import stepfall


def run(*argv):
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = stepfall.main(list(map(str, argv)))
    return code, out.getvalue(), err.getvalue()


def test_what_is_imported_runs(tmp_path):
    code, out, err = run("import", DATA / "timeloop/gemm.yaml", "--out", tmp_path / "made")
    files = [str(tmp_path / "made" / name) for name in ("gemm.cascade", "gemm-machine.yaml", "gemm-mapping.yaml")]
    assert (code, out.splitlines()) == (0, files)
    assert [line.startswith("not carried over: ") for line in err.splitlines()] == [True] * 3
    code, out, err = run("run", "--cascade", files[0], "--machine", files[1], "--mapping", files[2], "--json")
    assert code == 0, err
    rows = [row for row in json.loads(out)["results"][0]["rows"] if row["quantity"] == "bytes"]
    assert sum(r["value"] for r in rows if r["place"] == "DRAM") == 2 * (64 * 128 * 4 + 128 * 32 * 4 + 64 * 32)


def test_import_and_export_print_what_the_other_reads(tmp_path):
    code, out, _ = run("import", DATA / "accelforge/gemm.yaml", "--name", "mine", "--out", tmp_path)
    assert code == 0
    cascade, machine, mapping = out.split()
    given = ("--cascade", cascade, "--machine", machine, "--mapping", mapping)
    code, text, err = run("export", "--to", "accelforge", *given, "--out", tmp_path / "there.yaml")
    assert (code, text, err) == (0, f"{tmp_path / 'there.yaml'}\n", "")
    code, out, err = run("import", tmp_path / "there.yaml", "--name", "mine")
    assert (code, err) == (0, "")
    assert f"# mine.cascade\n{(tmp_path / 'mine.cascade').read_text()}" in out
    assert out.endswith(f"# mine-mapping.yaml\n{(tmp_path / 'mine-mapping.yaml').read_text()}\n")


def test_teaal_takes_our_machine_and_sizes():
    more = ("--machine", "systolic-128", "--size", "M=256,N=128,K=64,N0=32")
    code, out, err = run("import", DATA / "teaal/gemm.yaml", *more)
    assert code == 0 and "on: pe" in out and "machine/1" not in out
    assert "cannot be costed" not in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("import", "there.is.none"), "there.is.none: cannot read the file"),
        (
            ("import", DATA / "timeloop/gemm.yaml", "--from", "timelop"),
            "unknown format (got timelop); did you mean timeloop?",
        ),
        (
            ("export", "--to", "zigzag", "--machine", "h100"),
            "cannot be written, only accelforge, teaal, timeloop (got zigzag)",
        ),
        (("export", "--to", "timeloop"), "stepfall export: missing --cascade, --machine or all with --mapping"),
        (
            ("export", "--to", "timeloop", "--mapping", "flat"),
            "stepfall export: a mapping needs --cascade and --machine",
        ),
        (("export", "--to", "accelforge", "--cascade", "gemm"), "sizes of gemm: missing size K"),
    ],
)
def test_mistakes(argv, message):
    code, out, err = run(*argv)
    assert code == 2 and not out and f"error: {message}" in err


def test_nothing_is_written_when_something_is_wrong(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        (DATA / "timeloop/gemm.yaml")
        .read_text()
        .replace("target: registers\n  type: temporal", "target: x\n  type: temporal")
    )
    code, out, err = run("import", bad, "--out", tmp_path / "made")
    assert code == 2 and not out and f"{bad}:83: mapping.x.target: no such level" in err
    assert not (tmp_path / "made").exists()
