"""Files are whole or absent; tables and differences read well."""

import io
import math
from pathlib import Path

import pytest

from einsum.problems import InputError
from studies import report


def test_directory_appears_whole_and_keeps_other_files(tmp_path: Path):
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    (out / "other.txt").write_text("kept")
    (out / "a.txt").write_text("old")
    with report.whole_directory(out) as folder:
        (folder / "a.txt").write_text("new")
        assert (out / "a.txt").read_text() == "old"
    assert {p.name: p.read_text() for p in out.iterdir()} == {"a.txt": "new", "other.txt": "kept"}


def test_failure_leaves_directory_and_file_as_they_were(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(RuntimeError), report.whole_directory(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), report.whole_file(tmp_path / "file") as path:
        path.write_text("half")
        raise RuntimeError
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file": "old"}


def test_place_that_cannot_be_written_is_an_input_error(tmp_path: Path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="cannot write"), report.whole_directory(tmp_path / "file" / "out"):
        pass
    with pytest.raises(InputError, match="cannot write"), report.whole_directory(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match="cannot write"), report.whole_file(tmp_path) as path:
        path.write_text("")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file": "kept"}


def test_json_refuses_what_json_does_not_have(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write_json(tmp_path / "x.json", [math.nan])
    assert not (tmp_path / "x.json").exists()


def test_relative_difference():
    assert report.relative(3.0, 2.0) == 0.5
    assert report.relative(0.0, 0.0) == 0.0
    assert report.relative(1.0, 0.0) is None


def test_table_is_aligned_and_prints_brackets_as_they_are():
    stream = io.StringIO()
    report.print_table("Title", ("name", "value"), [("K[b,m]", 1.23456789), ("x", None), ("[bold]y", 12)], stream)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert lines == ["Title", "name       value", "K[b,m]   1.23457", "x              -", "[bold]y       12"]
