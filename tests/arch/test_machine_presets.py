"""The shipped machines: their numbers, a source for each, and what is known of the whole."""

import math

import pytest

from arch.check import check
from arch.document import read
from arch.machine import Memory, Unit
from arch.read import PRESETS, load, loads, presets
from arch.show import dump, show
from arch.variant import expand

ACCELERATORS = ("edge-flat", "eyeriss", "flat", "fusemax", "nvdla", "simba", "systolic-128", "tpu-v4i")
GPUS = ("a100-80", "b200", "gb300", "h100", "h200", "l40s", "mi300x", "mi325x", "rtx-4090", "t4", "v100")
TPUS = ("tpu-v5e", "tpu-v5p", "tpu-v6e")


def test_names():
    assert presets() == tuple(sorted((*ACCELERATORS, *GPUS, *TPUS)))


def numbers(data):
    """Every number and quantity in plain YAML data, in order."""
    if isinstance(data, dict):
        words = ("source", "confidence", "doc", "stepfall", "changes")
        return [n for key, value in data.items() if key not in words for n in numbers(value)]
    if isinstance(data, list):
        return [n for item in data for n in numbers(item)]
    quantity = isinstance(data, str) and data[0].isdigit()
    return [data] if quantity or (isinstance(data, int | float) and not isinstance(data, bool)) else []


@pytest.mark.parametrize("name", presets())
def test_every_number_has_a_source(name):
    sources = load(name).sources
    file = read((PRESETS / f"{name}.yaml").read_text(), name)
    expand(file, lambda other: ((PRESETS / f"{other}.yaml").read_text(), other))
    written = numbers(file.data)
    assert len(sources) == len(dict(sources)) == len(written) > 20
    assert [path for path, source in sources if not source] == []


@pytest.mark.parametrize("name", presets())
def test_is_well_formed_and_reads_back_equal(name):
    machine = load(name)
    check(machine)
    again = loads(dump(machine))
    assert again == machine
    assert (dict(again.sources), again.doc) == (dict(machine.sources), machine.doc)
    assert dict(again.confidence) == dict(machine.confidence)


def test_fusemax_numbers():
    m = load("fusemax")
    assert (m.clock_hz, m.technology_m) == (940e6, 45e-9)
    dram, buffer = m.memory("dram"), m.memory("buffer")
    assert (dram.capacity_bytes, dram.read_bytes_per_s, dram.shared_port) == (None, 400 * 2**30, True)
    assert (dram.access_bytes, dram.read_energy_j, dram.write_energy_j) == (8, 249.6e-12, 249.6e-12)
    assert (buffer.capacity_bytes, buffer.access_bytes, buffer.area_m2) == (16 * 2**20, 512, 84201374.5241e-12)
    assert (buffer.read_energy_j, buffer.write_energy_j) == (12512.7607e-12, 15751.4606e-12)
    for name, depth in (("regs_2d", 12), ("regs_1d", 32)):
        address = 0.00407492 * math.ceil(math.log2(depth))
        regs = m.memory(name)
        assert (regs.capacity_bytes, regs.access_bytes) == (2 * depth, 2)
        assert regs.read_energy_j == pytest.approx((2.17408 + address) * 1e-12, rel=1e-12)
        assert regs.write_energy_j == pytest.approx((1.88608 + address) * 1e-12, rel=1e-12)
    two, one = m.unit("pe_2d"), m.unit("pe_1d")
    picojoules = {"mac": 17.1645, "mul": 17.1645, "add": 8.3395, "max": 0.028036, "div": 36.251153}
    assert {k: (c.cycles, c.energy_j) for k, c in one.ops.items()} == {
        k: (1, float(f"{e}e-12")) for k, e in picojoules.items()
    }
    assert two.ops == {k: c for k, c in one.ops.items() if k != "div"}
    assert two.expands == one.expands == {"exp": {"mac": 6}}
    assert (two.lanes, one.lanes, two.drain_s, one.drain_s) == (1, 1, 256 / 940e6, 0)
    assert [(a, x.name, x.size, x.multicast, x.reduce) for a, x in m.axes("pe_2d")] == [
        ("array_2d", "col", 256, True, False),
        ("array_2d", "row", 256, True, True),
    ]
    assert m.instances("pe_1d") == 256


def test_fusemax_area_adds_up_to_the_published_total():
    m = load("fusemax")
    total = sum(n.area_m2 * m.instances(n.name) for n in m.nodes() if isinstance(n, Memory | Unit))
    assert total == pytest.approx(1302.95e-6, abs=0.005e-6)


def test_h100_rates_add_up_to_the_datasheet():
    m = load("h100")
    rate = {u.name: u.lanes * m.instances(u.name) for u in m.units}
    assert 2 * rate["tensor"] * m.clock_hz == pytest.approx(989.4e12, rel=1e-4)
    assert 2 * rate["fma"] * m.clock_hz / m.unit("fma").ops["mac"].cycles == pytest.approx(66.9e12, rel=0.08)
    assert rate["mufu"] == 16 * 132
    assert (m.memory("hbm").capacity_bytes, m.memory("hbm").read_bytes_per_s) == (80e9, 3352e9)
    assert (m.memory("l2").capacity_bytes, m.memory("smem").capacity_bytes) == (50 * 2**20, 228 * 2**10)
    assert m.memory("registers").capacity_bytes * 4 == 256 * 2**10
    assert (m.memory("smem").read_bytes_per_s, m.instances("smem")) == (128 * 1830e6, 132)
    assert m.power_cap_w == 700


def test_shown_tree():
    assert (
        show(load("fusemax"))
        == """\
machine fusemax: 940 MHz, 45 nm
memory dram: unlimited capacity, 400 GiB/s shared, 249.6 pJ a read, 249.6 pJ a write of 8 B
└─ memory buffer: 16 MiB, 12.5128 nJ a read, 15.7515 nJ a write of 512 B
   ├─ array array_2d: col 256 x row 256
   │  └─ memory regs_2d: 24 B, 2.19038 pJ a read, 1.90238 pJ a write of 2 B
   │     └─ unit pe_2d (65536 of them): 1 lane, mac 17.1645 pJ, mul 17.1645 pJ, add 8.3395 pJ, max 28.036 fJ, \
exp = 6 mac, drains in 272.34 ns
   └─ array array_1d: lane 256
      └─ memory regs_1d: 64 B, 2.19445 pJ a read, 1.90645 pJ a write of 2 B
         └─ unit pe_1d (256 of them): 1 lane, mac 17.1645 pJ, mul 17.1645 pJ, add 8.3395 pJ, max 28.036 fJ, \
div 36.2512 pJ, exp = 6 mac
"""
    )
    assert "  buffer.capacity: FuseMax artifact" in show(load("fusemax"), sources=True)
