"""Every mistake of a user: one located message of at most five lines, exit code 2, no traceback, nothing written."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import stepfall

SIZE = ("--size", "B=1,H=1,E=64,F=64,M=1024,P=1024")
CASCADE, MACHINE, MAPPING = (
    ("--cascade", "good.cascade"),
    ("--machine", "good_machine.yaml"),
    ("--mapping", "good_mapping.yaml"),
)
ON_H100 = ("--machine", "h100", "--mapping", "fusemax-binding")
GOOD = ("run", *CASCADE, *MACHINE, *MAPPING, *SIZE)


@dataclass(frozen=True)
class Mistake:
    """A command line over files of which one is spoilt: the first `old` of `file` becomes `new`."""

    says: tuple[str, ...]  # parts of the message
    argv: tuple[str, ...] = GOOD
    file: str = ""
    old: str = ""
    new: str = ""


def cli(says: str, *argv: str) -> Mistake:
    return Mistake(tuple(says.split(" / ")), argv)


def spoilt(file: str, old: str, new: str, says: str) -> Mistake:
    return Mistake(tuple(says.split(" / ")), GOOD, file, old, new)


MISTAKES = {
    # the seven that other tools accept silently or bury
    "misspelt key": spoilt("good_machine.yaml", "capacity: 16 MiB", "capacty: 16 MiB", "good_machine.yaml:"
                           " / capacty / did you mean capacity?"),
    "unknown tensor": spoilt("good.cascade", "= Q[b,h,p,e] * BK", "= QQ[b,h,p,e] * BK", "good.cascade: / QQ / mean Q?"),
    "missing bracket": spoilt("good.cascade", "RM[b,h,m1,p], LM", "RM[b,h,m1,p, LM", "good.cascade: / ^"),
    "missing size": cli("missing size F", "run", *CASCADE, *MACHINE, *MAPPING, "--size", "B=1,H=1,E=64,M=1024,P=1024"),
    "buffer too small": spoilt("good_machine.yaml", "capacity: 16 MiB", "capacity: 64 KiB",
                                "good_mapping.yaml: / buffer has 64 KiB, the holds need"),
    "nonsense operators": spoilt("good.cascade", "exp(BQK[b,h,m1,m0,p] - RM[b,h,m1+1,p])",
                                 "exp(max(BQK[b,h,m1,m0,p])) / RM[b,h,m1+1,p] ^ nonsense", "good.cascade: / ^"),
    "swapped rank order": spoilt("good.cascade", "= K[b,h,m1*M0+m0,e]", "= K[b,m1*M0+m0,h,e]", "good.cascade: / K / ^"),
    # the command line
    "unknown command": cli("unknown command (got rum); did you mean run?", "rum"),
    "unknown thing to show": cli("show: unknown command (got machin); did you mean machine?", "show", "machin"),
    "unknown option": cli("unknown option (got --cascde); did you mean --cascade?", "run", "--cascde", "x"),
    "missing option": cli("stepfall run: missing --machine", "run", *CASCADE, *MAPPING, *SIZE),
    "option without a value": cli("--size", "run", *CASCADE, *MACHINE, *MAPPING, "--size"),
    "option without a name": cli("stepfall show mapping: missing NAME", "show", "mapping", "--yaml"),
    "mapping for another machine": cli("a machine with buffer, pe_2d", "run", *CASCADE, *ON_H100, *SIZE),
    "mapping for another cascade": cli("M0", "run", "--cascade", "attention-naive", *MACHINE, *MAPPING, *SIZE),
    "extra argument": cli("stepfall study / fusemax2", "study", "fusemax", "fusemax2"),
    "unknown study": cli("(got fusmax); did you mean fusemax?", "study", "fusmax"),
    "unknown kernel": cli("(got flash-atention); did you mean flash-attention?", "gpu", "check", "flash-atention"),
    # sizes
    "size that is no number": cli("--size / (got M=1k)", *GOOD, "--size", "M=1k"),
    "size of zero": cli("--size / (got M=0)", "show", "cascade", "good.cascade", "--size", "M=0"),
    "size given twice": cli("--size / size M given twice", *GOOD, "--size", "M=2048"),
    "unknown size": cli("unknown size (got N)", *GOOD, "--size", "N=4"),
    "size that the mapping fixes": cli("M0 / 256 / (got 128)", *GOOD, "--size", "M0=128"),
    # names and files
    "unknown cascade": cli("(got attention-1pas); did you mean attention-1pass?", "show", "cascade", "attention-1pas"),
    "unknown machine": cli("(got fusmax); did you mean fusemax?", "show", "machine", "fusmax"),
    "unknown mapping": cli("(got fusemax-bindin); did you mean fusemax-binding?", "show", "mapping", "fusemax-bindin"),
    "no such cascade file": cli("absent.cascade", "show", "cascade", "absent.cascade"),
    "no such machine file": cli("absent.yaml", "show", "machine", "absent.yaml"),
    "no such mapping file": cli("absent.yaml", "show", "mapping", "absent.yaml"),
    "folder for a file": cli("folder.cascade", "show", "cascade", "folder.cascade"),
    "bytes that are no text": cli("binary.cascade", "show", "cascade", "binary.cascade"),
    "empty file": cli("empty.cascade", "show", "cascade", "empty.cascade"),
    # contents
    "unit of the wrong kind": spoilt("good_machine.yaml", "clock: 940 MHz", "clock: 940 MiB", "good_machine.yaml:"
                                     " / clock / 940 MiB"),
    "number without a unit": spoilt("good_machine.yaml", "capacity: 16 MiB", "capacity: 16", "good_machine.yaml:"
                                     " / capacity"),
    "newer schema": spoilt("good_machine.yaml", "machine/1", "machine/9", "good_machine.yaml:1 / machine/9"),
    "node twice": spoilt("good_machine.yaml", "memory: regs_1d", "memory: regs_2d", "good_machine.yaml: / regs_2d"),
    "YAML that is none": spoilt("good_machine.yaml", "axes: [{", "axes: [[{", "good_machine.yaml:"),
    "unknown function": spoilt("good.cascade", "exp(RM", "expp(RM", "good.cascade: / expp / mean exp?"),
    "tensor written twice": spoilt("good.cascade", "LM[", "BK[b,h,m1,m0,e] = K[b,h,m1*M0+m0,e]\nLM[",
                                   "good.cascade: / BK"),
    "unknown Einsum in a mapping": spoilt("good_mapping.yaml", "BQK", "BQKK", "good_mapping.yaml: / BQKK / mean BQK?"),
    "unknown memory in a mapping": spoilt("good_mapping.yaml", "in: buffer", "in: bufer", "good_mapping.yaml:"
                                          " / bufer / mean buffer?"),
}  # fmt: skip


def test_files_are_good_before_they_are_spoilt(stepfall_in):
    assert stepfall_in(*GOOD).code == 0


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_located_in_one_short_message(mistake: Mistake, stepfall_in, tmp_path: Path):
    lay_out(mistake, tmp_path)
    before = contents(tmp_path)
    answer = stepfall_in(*mistake.argv)
    assert answer.code == 2
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.err.startswith("error: ") and answer.err.count("error: ") == 1
    assert len(answer.err.splitlines()) <= 5
    for part in mistake.says:
        assert part in answer.err
    if any(part.endswith((".cascade:", ".yaml:")) for part in mistake.says):
        assert re.match(r"error: \S+:\d+: ", answer.err), "a mistake in a file has a line"
    assert contents(tmp_path) == before


def test_mistakes_of_several_files_come_together(stepfall_in, tmp_path: Path):
    lay_out(MISTAKES["misspelt key"], tmp_path)
    lay_out(MISTAKES["unknown tensor"], tmp_path)
    answer = stepfall_in(*GOOD)
    assert answer.code == 2
    assert answer.err.count("error: ") == 2
    assert "good_machine.yaml:" in answer.err and "good.cascade:" in answer.err


@pytest.mark.parametrize("option", [("study", "fusemax", "--out"), (*GOOD, "--trace")], ids=["out", "trace"])
def test_place_that_cannot_be_written(option: tuple[str, ...], stepfall_in, tmp_path: Path):
    """A file stands where a folder is needed."""
    (tmp_path / "blocked").write_text("kept")
    before = contents(tmp_path)
    answer = stepfall_in(*option, "blocked/inside")
    assert answer.code == 2
    assert (
        answer.err.startswith("error: cannot write: blocked is not a directory") and len(answer.err.splitlines()) == 1
    )
    assert contents(tmp_path) == before


def test_process_exits_with_2_and_prints_no_traceback(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "stepfall", "show", "machine", "fusmax"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def lay_out(mistake: Mistake, folder: Path) -> None:
    (folder / "folder.cascade").mkdir(exist_ok=True)
    (folder / "binary.cascade").write_bytes(b"\xff\xfe\x00cascade")
    (folder / "empty.cascade").write_text("")
    if mistake.file:
        path = folder / mistake.file
        text = path.read_text()
        assert mistake.old in text, "the text to spoil has changed"
        path.write_text(text.replace(mistake.old, mistake.new, 1))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def test_too_large_for_the_memory_is_said(monkeypatch, capsys):
    def enormous(*given):
        raise MemoryError("Unable to allocate 74.5 GiB")

    monkeypatch.setattr("mapper.search.answer.search", enormous)
    code = stepfall.main(["map", "--cascade", "gemm", "--machine", "tpu-v4i", "--size", "M=4,N=4,K=4"])
    assert code == 2
    assert capsys.readouterr().err.startswith("error: sizes too large for this machine's memory: Unable to allocate")
