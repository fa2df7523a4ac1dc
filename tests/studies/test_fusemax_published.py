"""The FuseMax study's closed form against every row of the artifact's files, and the paper's means."""

import math
from dataclasses import replace

import pytest

from mapper.cost import cost
from mapper.work import group_works
from studies.fusemax import linear
from studies.fusemax.accounting import ACCOUNTINGS, energy_j, exponential_left_out, omitted_rank
from studies.fusemax.artifact import Answers, values
from studies.fusemax.designs import DESIGNS, LENGTHS, MODELS, Point, case_of, load_machine, sizes
from studies.fusemax.headlines import Totals, mean
from studies.fusemax.overflow import overflow
from studies.fusemax.pareto import WIDTHS, registers_m2
from studies.fusemax.published import buffer_area_m2, layer, published

BY_FILE = {design.file: design for design in DESIGNS}


def closed(file, model, length):
    """A point whose simulated half is left as the closed form."""
    case = case_of(BY_FILE[file], sizes(model, length), layer(model, length))
    result = cost(case.mapping, case.workload, case.machine)
    return Point(BY_FILE[file], model, length, case, (result, result))


def closed_layer(machine, model, length):
    case = linear.case_of(machine, model, length)
    result = cost(case.mapping, case.workload, case.machine)
    return linear.Layer(machine, model, length, case, (result, result))


def compare(row, expected):
    ours = values(row, "closed form", "as-published")
    for column, value in expected.items():
        assert ours[column] == pytest.approx(value, rel=1e-5 if column == "energy" else 1e-6), column


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("file", BY_FILE)
def test_every_published_row_of_attention(file, length):
    for (model, n), expected in published(f"attn-{file}").items():
        if n == length:
            compare(closed(file, model, length), expected)


@pytest.mark.parametrize("machine", linear.FILES)
def test_every_published_row_end_to_end(machine):
    for (model, length), expected in published(linear.FILES[machine]).items():
        compare(closed_layer(machine, model, length), expected)


@pytest.fixture(scope="module")
def totals():
    layers = [(model, length) for model in MODELS for length in LENGTHS]
    points = tuple(closed(file, *which) for file in ("unfused", "flat", "binding") for which in layers)
    around = tuple(closed_layer(machine, *which) for machine in linear.FILES for which in layers)
    return Totals(Answers(points, around, ()))


def test_means_to_the_digits_stated(totals):
    """Means over 24 layers, half of them predictions; source of the digits: the artifact's files."""
    speed = lambda kernel, over: mean(totals.speedup(kernel, over, "closed form"))
    ratio = lambda kernel, over, accounting: mean(totals.ratio(kernel, over, accounting))
    assert [round(speed("attention", "FLAT"), 4), round(speed("attention", "Unfused"), 3)] == [6.7226, 10.052]
    assert [round(speed("end to end", "FLAT"), 4), round(speed("end to end", "Unfused"), 3)] == [5.3017, 7.602]
    published_ratios = [ratio(k, o, "as-published") for k in ("attention", "end to end") for o in ("FLAT", "Unfused")]
    assert [round(x, 4) for x in published_ratios] == [0.7875, 0.7674, 0.8335, 0.8210]
    corrected = [ratio("attention", over, "corrected") for over in ("FLAT", "Unfused")]
    assert [round(x, 3) for x in corrected] == [0.878, 0.847]
    geometric = math.exp(mean([math.log(x) for x in totals.speedup("attention", "FLAT", "closed form")]))
    assert round(geometric, 2) == 6.46


def test_energy_that_shrinks_with_the_chip_leaves_the_dram(totals):
    """With nothing charged on chip the ratio is that of the bytes moved."""
    bytes_moved = lambda file: closed(file, "BERT", "1K").values("closed form")["traffic"]
    only_dram = totals.ratio("attention", "FLAT", "own", logic=0, buffer=0)[0]
    assert only_dram == pytest.approx(bytes_moved("binding") / bytes_moved("flat"), rel=1e-12)


def test_overflow_begins_where_the_products_pass_64_bits():
    machine = load_machine("fusemax")

    def extra(length):
        case = closed("binding", "BERT", length).case
        groups = group_works(case.mapping, case.workload, case.machine)
        return sum(joules for group in groups for _, joules in overflow(group, machine, "binding"))

    assert extra("16K") == 0
    assert extra("256K") / closed("binding", "BERT", "256K").results[0].energy_j > 1e-3


def test_quirks_belong_to_their_designs():
    point = closed("binding", "BERT", "1K")
    assert exponential_left_out(point.results[0], point.case.machine, "binding") == []
    cascade = closed("cascade", "BERT", "1K")
    left_out = exponential_left_out(cascade.results[0], cascade.case.machine, "cascade")
    exps = cascade.results[0].total("operations", detail="exp", boundary="issued")
    assert sum(joules for _, joules in left_out) == pytest.approx(-exps * 94.6475e-12, rel=1e-12)
    flat = closed("flat", "BERT", "1K")
    groups = group_works(flat.case.mapping, flat.case.workload, flat.case.machine)
    assert list(omitted_rank(groups, flat.case.machine, "flat", "corrected")) == []


def test_accountings_differ_only_in_energy_on_chip():
    point = closed("flat", "BERT", "1K")
    parts = [energy_j(point.case, point.results[0], accounting, "flat") for accounting in ACCOUNTINGS]
    assert len({round(p["dram"] * 1e12) for p in parts}) == 1
    assert parts[0]["registers"] < 1e-3 * parts[1]["registers"]


def test_areas():
    """Whole machines to the digits of the artifact, and register files: flat up to 64 entries, then in proportion."""
    areas = {name: load_machine(name).area_m2() * 1e6 for name in ("fusemax", "flat")}
    assert {name: round(mm2, 2) for name, mm2 in areas.items()} == {"fusemax": 1302.95, "flat": 1391.82}
    assert registers_m2(32) == pytest.approx(16849.2142e-12, rel=1e-12)
    assert registers_m2(128) > 1.99 * registers_m2(64)
    with pytest.raises(KeyError):
        buffer_area_m2(256, 12345)


def test_area_follows_the_tree():
    machine = load_machine("fusemax")
    buffer = machine.memory("buffer")
    larger = replace(machine, root=replace(machine.root, children=(replace(buffer, area_m2=2 * buffer.area_m2),)))
    assert larger.area_m2() - machine.area_m2() == pytest.approx(buffer.area_m2, rel=1e-9)
    assert machine.area_m2("pe_2d") == pytest.approx(65536 * machine.unit("pe_2d").area_m2, rel=1e-12)
    assert len(WIDTHS) == 6
