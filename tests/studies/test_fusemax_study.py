"""The whole FuseMax study once: simulated against closed form, errors, files and figures."""

import csv
import json
import xml.etree.ElementTree as ET

import pytest

from einsum.problems import InputError
from studies import study as studies
from studies.fusemax import study as fusemax
from studies.fusemax.designs import DESIGNS, LENGTHS, MODELS
from studies.fusemax.published import columns, published

FIGURES = ("fig6a", "fig6b", "fig7", "fig8", "fig9", "fig10", "fig11", "fig12")
FILES = (*(f"attn-{design.file}" for design in DESIGNS), "end2end-flat", "end2end-proposal", "pareto")


def rows(path):
    with path.open(encoding="utf-8") as lines:
        return list(csv.reader(lines))


def check_simulated(out):
    """Simulated latency of every design: within 1e-3 of the closed form at 1K tokens, 1e-5 from 64K, never below."""
    for design in DESIGNS:
        closed, simulated = (rows(out / folder / f"attn-{design.file}.csv")[1:] for folder in (".", "simulated"))
        for a, b in zip(closed, simulated, strict=True):
            gap = float(b[3]) / float(a[3]) - 1
            bound = {"1K": 1e-3, "4K": 2e-3, "16K": 1e-4}.get(a[1], 1e-5)
            assert -1e-12 <= gap <= bound, (design.name, a[:2], gap)
            assert float(a[2]) == float(b[2]) or abs(float(b[2]) / float(a[2]) - 1) < 1e-12


def check_files(out):
    """Every file of the artifact, in its columns, with all 24 rows, by both methods."""
    for folder in (out, out / "simulated"):
        for file in FILES:
            header, *body = rows(folder / f"{file}.csv")
            assert tuple(header) == columns(file)
            assert len(body) == 24
            if file != "pareto":
                assert [tuple(r[:2]) for r in body] == [(m, n) for m in MODELS for n in LENGTHS]


def check_errors(out):
    """The table of errors, by the closed form: 1e-6, energies 1e-5; the Pareto rows by both."""
    for file, column, count, closed, *_ in rows(out / "errors.csv")[1:]:
        assert float(closed) <= (1e-5 if column == "energy" else 1e-6), (file, column)
        assert int(count) == len(published(file)) == 12


def check_figures(out):
    for name in FIGURES:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ET.parse(out / f"{name}.svg").getroot().tag.endswith("svg")


def test_whole_study(tmp_path):
    told = []
    answer = studies.run("fusemax", told.append)
    assert len(told) > 190
    out = tmp_path / "out" / "fusemax"
    files = studies.write(answer, out)
    assert sorted(files) == sorted(path for path in out.rglob("*") if path.is_file())
    check_simulated(out)
    check_files(out)
    check_errors(out)
    check_figures(out)
    assert set(json.loads((out / "provenance.json").read_text())["sha256"]) >= {"fig12.svg", "simulated/pareto.csv"}
    passes = {r[1]: int(r[0]) for r in rows(out / "table-1.csv")[1:]}
    assert passes == {"attention-3pass": 3, "attention-2pass": 2, "attention-1pass": 1}
    assert answer.notes == fusemax.NOTES


def test_unknown_accounting_is_reported_before_anything_is_solved():
    told = []
    with pytest.raises(InputError, match=r"unknown accounting \(got corected\); did you mean corrected\?"):
        studies.run("fusemax", told.append, accounting="corected")
    with pytest.raises(InputError, match=r"accountin: study fusemax has no such option; did you mean accounting\?"):
        studies.run("fusemax", told.append, accountin="own")
    assert told == []
