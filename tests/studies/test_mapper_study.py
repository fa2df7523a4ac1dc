"""The mapper's study: its numbers beside published ones on small cases, and its files."""

import pytest

from einsum.problems import InputError
from mapper.result import Result, Row
from studies import study as studies
from studies.mapper import attention, cases, effort, peers, study

SILENT = lambda message: None
QUICK = {case.name: case for case in cases.CASES}


def test_reference_names_cases_that_exist():
    assert len(cases.published()) == 7
    assert {row.case for row in cases.published()} == set(QUICK)


@pytest.mark.parametrize("name", ["gemm-4096", "decode-4096"])
def test_energy_is_that_of_the_other_mapper_or_less(name):
    energy, latency = peers.solve((QUICK[name],), SILENT)
    assert 0.98 <= energy.result.energy_j / energy.reference.energy_j <= 1.001
    assert latency.result.latency_s / latency.reference.latency_s <= 1.001
    assert energy.result.energy_j <= latency.result.energy_j <= latency.reference.energy_j * 1.001
    assert latency.result.latency_s <= energy.result.latency_s


def test_mappings_inferred_from_latency_have_the_published_energy_within_five_percent():
    rows = peers.inferred().rows
    assert len(rows) == 2
    for *_, count, least, most, nearest, error, _name in rows:
        assert count > 0 and least <= nearest <= most
        assert abs(error) < 0.05


def test_latency_of_sums_takes_the_busiest_of_each_einsum():
    cascade = cases.workload(cases.ATTENTION, {"H": 1, "P": 2, "M": 2, "E": 2, "F": 2}, "bf16").cascade
    rows = (
        Row("busy", 3.0, einsum="QK", place="mac"),
        Row("busy", 2.0, tensor="Q", place="dram", detail="read"),
        Row("busy", 2.0, tensor="K", place="dram", detail="read"),
        Row("busy", 1.0, tensor="QK", place="dram", detail="write"),
        Row("busy", 5.0, einsum="A", place="scalar"),
        Row("busy", 7.0, tensor="V", place="dram", detail="read"),
        Row("busy", 1.0, tensor="AV", place="dram", detail="write"),
    )
    assert peers.latency_of_sums(Result("closed form", {}, rows), cascade) == 4.0 + 5.0 + 7.0


def test_found_mappings_of_attention_are_no_worse_than_published_ones():
    (fused,) = attention.fused((("BERT", "1K"),), SILENT)
    assert max(fused.ratios) <= 1 + 1e-9
    (unfused,) = attention.unfused((("BERT", "256K"),), SILENT)
    assert max(unfused.ratios) < 1


def test_equal_products_are_solved_once(monkeypatch):
    monkeypatch.setattr(effort, "RUNS", 1)
    two, eight = ({row[1]: row for row in effort.by_einsums((n,), 1, SILENT).rows} for n in (2, 8))
    assert two["equal"][3:5] == eight["equal"][3:5]
    assert eight["different"][4] > two["different"][4]
    assert eight["equal"][5] == pytest.approx(4 * two["equal"][5])


def test_whole_study_on_small_cases(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(study, "CASES", (QUICK["gemm-4096"],))
    monkeypatch.setattr(attention, "QUICK", (("BERT", "256K"),))
    for name, value in {"RUNS": 1, "QUICK": (1, 2), "PAIRED": (1,), "POINTS": ("1K",)}.items():
        monkeypatch.setattr(effort, name, value)
    answer = studies.run("mapper", told.append)
    files = {path.name for path in studies.write(answer, tmp_path / "out")}
    assert {f"{table.name}.csv" for table in answer.tables} <= files
    assert {"accelforge.png", "effort.svg", "summary.json"} <= files
    errors = {(row.quantity, row.config): row.rel_error for row in answer.summary}
    assert errors["energy", "gemm-4096, least energy"] == pytest.approx(0, abs=0.02)
    assert any("gemm-4096" in message for message in told)


def test_unknown_scope_is_reported_before_anything_is_solved():
    told = []
    with pytest.raises(InputError, match=r"scope: unknown scope \(got quik\); did you mean quick\?"):
        studies.run("mapper", told.append, scope="quik")
    assert told == []
