"""Architectures of other tools as machines: every number by hand, and machines written for them."""

import pytest
from exchange_files import imported

from arch.machine import Array, Axis
from arch.read import load, loads
from arch.show import dump
from mapper.exchange.formats import read, written


def test_timeloop_numbers_by_hand():
    """Words of 16 bit at 1 GHz; the width of a memory is an access; energies from the ERT in pJ."""
    machine = imported("timeloop/gemm.yaml").machine
    dram, buffer, registers = machine.memories
    assert (machine.clock_hz, machine.technology_m) == (1e9, 45e-9)
    assert (dram.capacity_bytes, dram.read_bytes_per_s, dram.shared_port) == (None, 8 * 2e9, True)
    assert (buffer.capacity_bytes, buffer.access_bytes) == (2048 * 8, 8)
    assert (buffer.read_bytes_per_s, buffer.write_bytes_per_s) == (32 * 2e9, 16 * 2e9)
    assert (buffer.read_energy_j, buffer.write_energy_j) == (20.5e-12, 25e-12)
    assert registers.capacity_bytes == 32 and machine.instances("registers") == 32
    (unit,) = machine.units
    assert unit.ops["mac"].energy_j == 0.75e-12 and machine.instances("MAC") == 32


def test_accelforge_numbers_by_hand():
    """Seconds for an action of one bit; a cycle is the slowest compute component's action; leaks add up."""
    machine = imported("accelforge/gemm.yaml").machine
    main, buffer, register = machine.memories
    assert machine.clock_hz == 1e9
    assert machine.static_power_w == pytest.approx(0.5 + 32 * 0.001)
    assert (main.read_bytes_per_s, main.shared_port, main.read_energy_j, main.access_bytes) == (
        64e9,
        True,
        7e-12,
        1 / 8,
    )
    assert (buffer.capacity_bytes, buffer.read_bytes_per_s, buffer.shared_port) == (65536, None, False)
    assert (register.holds, register.bypass, register.access_bytes) == (("weight",), False, 1)
    assert machine.unit("Vector").lanes == 16 and machine.path("Vector")[-2] is buffer
    assert machine.axis("Array.row") == Axis("row", 8, True, False)
    assert machine.axis("Array.col") == Axis("col", 4, True, True)
    assert machine.area_m2() == pytest.approx(1e-7 + 32 * (1e-11 + 9e-11))


def test_zigzag_numbers_by_hand():
    """Bits, and cycles of 1 ns; memories are listed from the multipliers outwards."""
    machine = imported("zigzag/small.yaml").machine
    assert [node.name for node in machine.nodes()] == ["dram", "array_D1", "rf_o", "array_D2", "rf_w", "multiplier"]
    dram, sums, weights = machine.memories
    assert (dram.read_bytes_per_s, dram.shared_port, dram.latency_s, dram.read_energy_j) == (8e9, True, 4e-9, 700e-12)
    assert (sums.read_bytes_per_s, sums.write_bytes_per_s, sums.holds) == (4e9, 4e9, ("output",))
    assert (weights.capacity_bytes, weights.write_energy_j, weights.holds) == (128, 0.1e-12, ("weight",))
    assert machine.instances("rf_o") == 32 and machine.instances("multiplier") == 512
    assert machine.unit("multiplier").ops["mac"].energy_j == 0.04e-12


@pytest.mark.parametrize(
    "name", ["timeloop/gemm.yaml", "accelforge/gemm.yaml", "accelforge/fused.yaml", "zigzag/small.yaml"]
)
def test_an_imported_machine_is_a_machine_file(name):
    machine = imported(name).machine
    assert loads(dump(machine)) == machine
    assert all(source.startswith(name) for _, source in machine.sources)


@pytest.mark.parametrize("name", ["timeloop/gemm.yaml", "accelforge/gemm.yaml", "accelforge/fused.yaml"])
def test_an_imported_machine_comes_back_equal(name):
    machine, form = imported(name).machine, name.partition("/")[0]
    text, lost = written(form, None, machine)
    assert read({"again": text}, name="example").machine == machine and not lost


@pytest.mark.parametrize("name", ["tpu-v4i", "systolic-128", "eyeriss", "fusemax"])
def test_our_presets_come_back_from_accelforge_but_for_what_is_said(name):
    machine = load(name)
    text, lost = written("accelforge", None, machine)
    again = read({"again": text}, name=name).machine
    assert [n.name for n in again.nodes() if n.name not in [m.name for m in machine.nodes()]] == []
    for ours, theirs in zip(sorted(machine.memories, key=str), sorted(again.memories, key=str), strict=True):
        for key in (
            "name",
            "capacity_bytes",
            "read_bytes_per_s",
            "write_bytes_per_s",
            "shared_port",
            "holds",
            "bypass",
        ):
            expected = getattr(ours, key)
            assert getattr(theirs, key) == (pytest.approx(expected, rel=1e-15) if type(expected) is float else expected)
        assert theirs.read_energy_j == ours.read_energy_j and theirs.access_bytes == ours.access_bytes
    arrays = lambda m: {n.name: n.axes for n in m.nodes() if isinstance(n, Array)}
    assert arrays(again) == arrays(machine)
    said = {p.path for p in lost}
    for unit in machine.units:
        assert again.unit(unit.name).lanes == unit.lanes or unit.name in said
        assert set(unit.ops) <= set(again.unit(unit.name).ops) or unit.name in said


def test_what_timeloop_has_no_place_for_is_said():
    _, lost = written("timeloop", None, load("fusemax"))
    said = {(p.path, p.what) for p in lost}
    assert ("pe_1d", "Timeloop has one compute unit and the levels around it") in said
    assert ("pe_2d", "drain has no place there") in said
    assert ("array_2d.col", "the axis is called meshX there") in said


def test_timeloop_containers_nest_and_hand_their_attributes_down():
    text = """
architecture:
  nodes:
  - !Container
    name: system
    attributes: {global_cycle_seconds: 2e-9, datawidth: 8}
  - !Component
    name: DRAM
    class: DRAM
    attributes: {width: 64, read_bandwidth: 4, write_bandwidth: 2}
  - !Container
    name: column
    spatial: {meshX: 14}
  - !Container
    name: PE
    spatial: {meshY: 12}
    attributes: {datawidth: 16}
  - !Parallel
    nodes:
    - !Component
      name: inputs
      class: smartbuffer_RF
      attributes: {memory_depth: 12, memory_width: 16, read_bandwidth: 2}
    - !Component
      name: sums
      class: smartbuffer_RF
      attributes: {depth: 16, block_size: 2}
  - !Component
    name: mac
    class: intmac
    spatial: {meshX: 2}
"""
    made = read({"a.yaml": text})
    machine, places = made.machine, {p.line: p.what for p in made.lost}
    assert [n.name for n in machine.path("mac")] == ["DRAM", "column", "PE", "inputs", "sums", "mac_array", "mac"]
    assert machine.instances("mac") == 14 * 12 * 2 and machine.clock_hz == 5e8
    assert (machine.root.read_bytes_per_s, machine.root.write_bytes_per_s) == (4 * 5e8, 2 * 5e8)
    inputs, sums = machine.memory("inputs"), machine.memory("sums")
    assert (inputs.capacity_bytes, inputs.read_bytes_per_s) == (12 * 2, 2 * 2 * 5e8)
    assert (sums.access_bytes, sums.capacity_bytes) == (4, 16 * 4)
    assert places[18] == "!Parallel levels stand one inside the other here"
    assert any("no ERT is given" in what for what in places.values())
