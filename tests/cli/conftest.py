"""A scratch folder with good input files to spoil, and a way to run the command line there."""

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

import stepfall

GOOD = {
    "good.cascade": ("cascade", "attention-1pass"),
    "good_machine.yaml": ("machine", "fusemax", "--yaml"),
    "good_mapping.yaml": ("mapping", "fusemax-binding", "--size", "B=1,H=1,E=64,F=64,M=1024,P=1024", "--yaml"),
}


@dataclass(frozen=True)
class Answer:
    """What a command line left behind."""

    code: int
    out: str
    err: str


def run(*argv: str) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = stepfall.main(list(argv))
    return Answer(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def good_files() -> dict[str, str]:
    """What `stepfall show` prints, by file name."""
    answers = {name: run("show", *argv) for name, argv in GOOD.items()}
    assert all(answer.code == 0 for answer in answers.values()), answers
    return {name: answer.out for name, answer in answers.items()}


@pytest.fixture
def stepfall_in(good_files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """`stepfall_in(*ARGV)` runs a command line in a folder that holds the good files."""
    for name, text in good_files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return run
