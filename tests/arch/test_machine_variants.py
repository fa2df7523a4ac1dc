"""A machine that is like another: what it takes over, what it changes, and what it may not."""

from dataclasses import replace

import pytest

from arch.read import load, loads
from arch.show import show
from einsum.problems import InputError

HEAD = "stepfall: machine/1\nname: mine\n"


def message(text, file="m.yaml"):
    with pytest.raises(InputError) as error:
        loads(text, file)
    return str(error.value)


def test_alike_in_all():
    assert replace(loads(HEAD + "like: h100\n"), name="h100") == load("h100")
    assert loads(HEAD + "like: h100\n").doc == ""


def test_changes_stand_at_their_paths():
    changes = "changes: {hbm.capacity: {value: 96 GB, source: a book, confidence: low}, sm.axes.sm.size: 114, "
    changes += "tensor.ops.mac.dtypes: {}, hbm.memory: ram, l2.capacity: {value: 1 MiB}}\n"
    text = HEAD + "like: h100\nclock: 2 GHz\nlinks: []\n" + changes
    m, h = loads(text, "m.yaml"), load("h100")
    assert (m.clock_hz, m.links, m.root.name, m.root.capacity_bytes, m.instances("smem")) == (2e9, (), "ram", 96e9, 114)
    assert m.unit("tensor").ops["mac"].by_dtype == ()
    assert m.memory("l2").read_bytes_per_s == h.memory("l2").read_bytes_per_s / h.clock_hz * 2e9
    sources, confidence = dict(m.sources), dict(m.confidence)
    assert (sources["ram.capacity"], confidence["ram.capacity"]) == ("a book", "low")
    assert sources["sm.axes.sm.size"] == sources["l2.capacity"] == sources["clock"] == "stated in m.yaml"
    assert "sm.axes.sm.size" not in confidence
    assert sources["ram.bandwidth"] == dict(h.sources)["hbm.bandwidth"]
    assert "  ram.capacity: a book (low confidence)\n" in show(m, sources=True)


def test_null_takes_a_number_away():
    m = loads(HEAD + "like: h100\nstatic_power: null\nchanges: {hbm.read_energy: null}\n")
    assert (m.static_power_w, m.root.read_energy_j) == (0, 0)
    assert "hbm.read_energy" not in dict(m.sources)


def test_a_chain_and_a_file(tmp_path):
    (tmp_path / "half.yaml").write_text(HEAD + "like: rtx-4090\nchanges: {sm.axes.sm.size: 64}\n")
    m = loads(HEAD + f"like: {tmp_path / 'half.yaml'}\nchanges: {{gddr.capacity: 12 GB}}\n")
    assert (m.instances("smem"), m.root.capacity_bytes, m.unit("tensor").lanes) == (64, 12e9, 64)


def test_problems_stand_at_the_lines_of_the_file():
    text = HEAD + "like: h100\nchanges:\n  hbm.capacity: 96\n  l3.capacity: 1 MiB\n  sm.axes.ms.size: 2\n  hbm: 3\n"
    assert message(text) == (
        "m.yaml:5: root.capacity: needs a unit, such as `16 MiB`\n"
        "m.yaml:6: changes.l3.capacity: h100 has no such place (got l3.capacity); did you mean l2?\n"
        "m.yaml:7: changes.sm.axes.ms.size: h100 has no such place (got sm.axes.ms.size)\n"
        "m.yaml:8: changes.hbm: h100 has no such place (got hbm)"
    )
    misspelt = message(HEAD + "like: h100\nchanges: {hbm.capacty: 96 GB}\n")
    assert misspelt == "m.yaml:4: root.capacty: unknown key (got capacty); did you mean capacity?"
    assert "unknown machine" in message(HEAD + "like: h10\n") and "h100" in message(HEAD + "like: h10\n")
    assert message(HEAD) == "m.yaml:1: missing key `clock`\nm.yaml:1: missing key `root`"


def test_machines_like_each_other(tmp_path):
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(HEAD + f"like: {b}\n")
    b.write_text(HEAD + f"like: {a}\n")
    assert "machines that are like each other" in message(a.read_text(), str(a))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("hbm.capacity: {value: 96 GB, confidence: sure}", "expected one of high, medium, low as `confidence`"),
        ("tensor.ops.mac.dtypes: {fp9: 1}", "unknown element type (got fp9); did you mean fp8?"),
        ("tensor.ops.mac.dtypes: {fp8: 0}", "expected a positive number (got 0)"),
        ("sm.residency.warps: 0", "expected a positive whole number"),
        ("hbm.sustained_bandwidth: 3 GB", "measures size, expected bandwidth"),
    ],
)
def test_problems_of_what_a_gpu_needs(change, what):
    assert what in message(HEAD + f"like: h100\nchanges:\n  {change}\n")
