"""A scratch folder with good input files to spoil, and a way to run the command line there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import stepfall

SIZES = "B=1,H=1,E=64,F=64,M=1024,P=1024"


@dataclass(frozen=True)
class Answer:
    """What a command line left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def stepfall_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `stepfall ARGV` in a folder that holds good.cascade, good_machine.yaml and good_mapping.yaml."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> Answer:
        code = stepfall.main(list(argv))
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    for name, argv in GOOD.items():
        answer = run("show", *argv)
        assert answer.code == 0, answer.err
        (tmp_path / name).write_text(answer.out)
    return run


Run = Callable[..., Answer]
GOOD = {
    "good.cascade": ("cascade", "attention-1pass"),
    "good_machine.yaml": ("machine", "fusemax", "--yaml"),
    "good_mapping.yaml": ("mapping", "fusemax-binding", "--size", SIZES, "--yaml"),
}
