"""Bad machine files: every problem of the file at once, each located, each with what was probably meant."""

import pytest

from arch.read import load, loads
from einsum.problems import InputError

HEAD = "stepfall: machine/1\nname: bad\nclock: 1 GHz\n"
UNIT = "unit: pe, ops: {mac: {cycles: 1, energy: 1 pJ}}"
MANY = """\
stepfall: machine/1
name: bad
clock: 940 Mhz
powercap: 700 W
root:
  memory: dram
  capacity: 16
  bandwith: 400 GiB/s
  access: {value: 64 bit, sauce: a book}
  access: 3 B
  read_energy: 16 MiB
  children:
    - array: a
      axes:
        - {name: col, size: 2.5}
        - {nam: row, size: -3, multicast: yes}
      children:
        - unit: pe
          ops: {mac: {cycles: 1, enrgy: 3 pJ}}
    - memry: buffer
    - unit: q
"""
EXPECTED = """\
m.yaml:3: clock: unknown unit, expected a quantity such as `940 MHz` (got 940 Mhz); did you mean `940 MHz`?
m.yaml:4: powercap: unknown key (got powercap); did you mean power_cap?
m.yaml:7: root.capacity: needs a unit, such as `16 MiB` (got 16)
m.yaml:8: root.bandwith: unknown key (got bandwith); did you mean bandwidth?
m.yaml:9: root.access: unknown key `sauce` beside a number; did you mean source?
m.yaml:10: access: key stands twice, first in line 9
m.yaml:11: root.read_energy: measures size, expected energy or energy per byte such as `17.1645 pJ` or `3.9 pJ/bit` \
(got 16 MiB)
m.yaml:15: root.children.a.axes.col.size: expected a positive whole number (got 2.5)
m.yaml:16: root.children.a.axes.row: missing key `name`
m.yaml:16: root.children.a.axes.row.size: expected a positive whole number (got -3)
m.yaml:16: root.children.a.axes.row.multicast: expected true or false (got yes)
m.yaml:16: root.children.a.axes.row.nam: unknown key (got nam); did you mean name?
m.yaml:19: root.children.a.children.pe.ops.mac.enrgy: unknown key (got enrgy); did you mean energy?
m.yaml:20: root.children.buffer: needs one of the keys memory, array, unit (got memry); did you mean memory?
m.yaml:21: root.children.q: missing key `ops`"""


def message(text):
    with pytest.raises(InputError) as error:
        loads(text, "m.yaml")
    for problem in error.value.problems:
        assert problem.file == "m.yaml" and problem.line > 0
        assert str(problem).count("\n") < 5
    return str(error.value)


def test_all_problems_at_once():
    assert message(MANY) == EXPECTED


def tree(memory="memory: d", unit=UNIT, more=""):
    return f"{HEAD}root:\n  {memory}\n  children:\n    - {{{unit}}}\n{more}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "m.yaml:1: the first key must be `stepfall: machine/1`"),
        ("- 1\n", "m.yaml:1: the first key must be `stepfall: machine/1`"),
        ("name: x\n", "m.yaml:1: the first key must be `stepfall: machine/1`"),
        (
            "stepfall: machine/2\n",
            "m.yaml:1: stepfall: written for a newer version of stepfall, this one reads machine/1 (got machine/2)",
        ),
        (
            "name: x\nstepfall: mapping/1\n",
            "m.yaml:2: stepfall: expected a machine file, `stepfall: machine/1` (got mapping/1)",
        ),
        (
            "stepfall: machine/1\na: b: c",
            "m.yaml:2: not valid YAML: mapping values are not allowed here\n  a: b: c\n      ^",
        ),
        ("a: [1", "m.yaml:1: not valid YAML: expected ',' or ']', but got '<stream end>'\n  a: [1\n       ^"),
        (
            tree(unit="unit: pe, ops: {mca: {cycles: 1}}"),
            "m.yaml:7: pe.ops.mca: unknown operation class (got mca); did you mean max?",
        ),
        (
            tree(unit="unit: pe, ops: {mac: {cycles: 1}}, expands: {exp: {add: 6}}"),
            "m.yaml:7: pe.expands.exp.add: expands into a class that pe does not execute (got add)",
        ),
        (
            tree(unit="unit: pe, ops: {mac: {cycles: 1}}, expands: {mac: {mac: 2}}"),
            "m.yaml:7: pe.ops.mac: expands a class that the unit executes itself (got mac)",
        ),
        (
            tree(unit="unit: d, ops: {mac: {cycles: 1}}"),
            "m.yaml:5: d: 2 nodes have this name, which must be unique in the tree",
        ),
        (
            tree(unit="unit: device, ops: {mac: {cycles: 1}}"),
            "m.yaml:7: device: this name is reserved for copies of the machine",
        ),
        (
            tree(unit="unit: pe, clock: 2 GHz, ops: {mac: {cycles: 1}}"),
            "m.yaml:7: pe.clock: faster than the machine's clock of 1e+09 Hz, which must be the fastest (got 2e+09 Hz)",
        ),
        (tree(memory="memory: d\n  capacity: 0 B"), "m.yaml:6: d.capacity: must be positive and finite (got 0)"),
        (
            tree(memory="memory: d\n  capacity: 4 B\n  access: 8 B"),
            "m.yaml:7: d.access: one access is larger than the capacity of 4 bytes (got 8 bytes)",
        ),
        (
            tree(memory="memory: d\n  bandwidth: 1 GB/s\n  read_bandwidth: 1 GB/s"),
            "m.yaml:7: root.read_bandwidth: a port of its own beside `bandwidth`, which both share: keep one or the "
            "other",
        ),
        (
            tree(unit=f"memory: b, holds: [input, wieght], children: [{{{UNIT}}}]"),
            "m.yaml:7: b.holds: unknown role of a tensor, expected one of input, weight, output (got wieght); did you "
            "mean weight?",
        ),
        (
            tree(unit=f"memory: b, holds: [], children: [{{{UNIT}}}]"),
            "m.yaml:7: b.holds: holds nothing: name a role, or leave the key out for all of them",
        ),
        (tree(memory="memory: d\n  holds: [input]"), "m.yaml:6: d.holds: the root holds every tensor"),
        (
            tree(unit=f"memory: b, bypass: never, children: [{{{UNIT}}}]"),
            "m.yaml:7: root.children.b.bypass: expected true or false (got never)",
        ),
        (
            tree(more="links:\n  - {link: nv, devices: 1, topology: rang, bandwidth: 1 GB/s}\n"),
            "m.yaml:9: nv.topology: unknown topology, expected one of full, mesh, ring, switch, torus (got rang); "
            "did you mean ring?\nm.yaml:9: nv.devices: a link needs at least two devices (got 1)",
        ),
        (f"{HEAD}root: &r {{memory: d, children: [*r]}}\n", "m.yaml:4: root.children[0]: an anchor contains itself"),
        (tree(memory="memory: !python/name:os d"), "m.yaml:5: root.memory: YAML tags are not used here"),
    ],
)
def test_one_problem(text, expected):
    assert message(text).startswith(expected)


def test_unknown_preset_and_missing_file(tmp_path):
    for name, expected in (
        ("fusmax", "unknown machine, neither a file nor one of"),
        (tmp_path / "no.yaml", f"{tmp_path}/no.yaml: "),
    ):
        with pytest.raises(InputError) as error:
            load(name)
        assert str(error.value).startswith(expected)
    with pytest.raises(InputError, match="did you mean fusemax"):
        load("fusmax")
