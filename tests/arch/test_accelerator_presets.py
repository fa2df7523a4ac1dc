"""Published accelerators: peaks, bandwidths and capacities against what their papers say, and what they can execute."""

import pytest

from arch.check import operation_classes
from arch.read import load
from arch.show import show
from einsum.library import load as load_cascade
from einsum.ops import operation_classes as classes_of

GEMM = {  # name -> (unit of the products, its multiply-accumulates a second, capacity on chip, bytes a second off chip)
    "edge-flat": ("pe_2d", 32 * 32 * 940e6, 512 * 2**10, 50e9),
    "eyeriss": ("pe", 33.6e9, 108 * 2**10, 8 * 90e6),
    "nvdla": ("mac", 2048e9, 512 * 2**10, 20e9),
    "simba": ("mac", 16 * 8 * 8 * 1.8e9, 64 * 2**10, 100e9),
    "systolic-128": ("pe", 128 * 128 * 1e9, 8 * 2**20, 76.8e9),
    "tpu-v4i": ("mac", 4 * 128 * 128 * 1.05e9, 128 * 2**20, 614e9),
}
ON_CHIP = {"edge-flat": "buffer", "eyeriss": "buffer", "nvdla": "conv_buffer", "systolic-128": "scratchpad"}


def macs_per_s(machine, unit):
    found = machine.unit(unit)
    return found.lanes * machine.instances(unit) * found.clock_hz / found.ops["mac"].cycles


@pytest.mark.parametrize("name", GEMM)
def test_peak_capacity_and_bandwidth(name):
    unit, peak, on_chip, off_chip = GEMM[name]
    machine = load(name)
    assert macs_per_s(machine, unit) == pytest.approx(peak, rel=1e-12)
    assert machine.memory(ON_CHIP.get(name, "global_buffer")).capacity_bytes == on_chip
    assert machine.root.read_bytes_per_s == off_chip
    assert machine.area_m2() == 0


@pytest.mark.parametrize("cascade", ["gemm", "softmax", "attention-1pass", "attention-3pass"])
@pytest.mark.parametrize("name", GEMM)
def test_every_einsum_has_a_unit_that_executes_it(name, cascade):
    units = [{*unit.ops, *unit.expands} for unit in load(name).units]
    for einsum in load_cascade(cascade).einsums:
        assert any(set(classes_of(einsum)) <= able for able in units), einsum.name


def test_tpu_v4i_is_the_published_machine():
    m = load("tpu-v4i")
    assert 2 * macs_per_s(m, "mac") == pytest.approx(137e12, rel=0.005)  # Google's bf16 peak: 137 or 138 TFLOP/s
    assert 4096**3 / macs_per_s(m, "mac") == pytest.approx(9.986e-4, rel=1e-4)  # AccelForge's own latency
    picojoules = {
        "dram": (7.03, 7.03, 614e9, 614e9),
        "global_buffer": (1.88, 2.36, 2048e9, 1024e9),
        "local_buffer": (0.249, 0.293, None, None),
        "weight_reg": (0, 0, None, None),
    }
    for name, (read, write, reads, writes) in picojoules.items():
        memory = m.memory(name)
        per_bit = 8 * memory.access_bytes * 1e-12
        assert (memory.read_energy_j, memory.write_energy_j) == pytest.approx((read * per_bit, write * per_bit))
        assert (memory.read_bytes_per_s, memory.write_bytes_per_s) == (reads, writes)
    assert (m.memory("local_buffer").capacity_bytes, m.instances("local_buffer")) == (4 * 2**20, 4)
    assert m.unit("mac").ops["mac"].energy_j == 0.084e-12
    scalar = m.unit("scalar")
    assert (scalar.lanes, {cost.energy_j for cost in scalar.ops.values()}) == (128, {0.0})
    assert set(scalar.ops) == set(operation_classes()) - {"mac"}
    assert [(axis.name, axis.size, axis.multicast, axis.reduce) for _, axis in m.axes("mac")] == [
        ("core", 4, False, False),
        ("col", 128, True, False),
        ("row", 128, False, True),
    ]


def test_who_may_hold_what():
    def rules(name):
        return {m.name: (m.holds, m.bypass) for m in load(name).memories if m.holds is not None or not m.bypass}

    assert rules("tpu-v4i") == {"local_buffer": (("input", "output"), False), "weight_reg": (("weight",), False)}
    assert rules("simba") == {
        "global_buffer": (("input", "output"), True),
        "input_buffer": (("input",), False),
        "weight_buffer": (("weight",), False),
        "sum_buffer": (("output",), False),
        "weight_reg": (("weight",), False),
    }
    assert rules("nvdla") == {
        "accumulator": (("input", "output"), True),
        "conv_buffer": (("input", "weight"), False),
        "weight_reg": (("weight",), False),
    }
    for name in ("edge-flat", "eyeriss", "flat", "fusemax", "h100", "systolic-128"):
        assert rules(name) == {}


def test_eyeriss_energies_are_the_ratios_of_the_paper():
    m = load("eyeriss")
    mac = m.unit("pe").ops["mac"].energy_j
    for name, ratio in {"dram": 200, "buffer": 6, "scratchpad": 1}.items():
        memory = m.memory(name)
        assert (memory.read_energy_j / mac, memory.write_energy_j / mac, memory.access_bytes) == (ratio, ratio, 2)
    assert (m.instances("pe"), m.memory("scratchpad").capacity_bytes) == (168, 448 + 24 + 48)


def test_nvdla_at_its_peak_draws_the_published_power():
    m = load("nvdla")
    assert macs_per_s(m, "mac") * m.unit("mac").ops["mac"].energy_j == pytest.approx(0.766, rel=1e-3)
    assert m.memory("accumulator").capacity_bytes == 128 * 32 * 34 / 8  # sums of 34 bit


def test_simba_package_is_the_published_one():
    m = load("simba")
    (link,) = m.links
    assert link.devices * 2 * macs_per_s(m, "mac") == pytest.approx(128e12, rel=0.04)  # measured just below the clock
    assert 2 / m.unit("mac").ops["mac"].energy_j == pytest.approx(6.1e12, rel=1e-3)  # operations a joule
    assert (link.topology, link.bytes_per_s, link.latency_s) == ("mesh", m.root.read_bytes_per_s, 20e-9)
    assert link.energy_j_per_byte == pytest.approx(1.75e-12 * 8)
    capacity = {n.name: n.capacity_bytes for n in m.memories}
    buffers = (capacity["input_buffer"], capacity["weight_buffer"], capacity["sum_buffer"])
    assert buffers == (8 * 2**10, 32 * 2**10, 3 * 2**10)


def test_edge_flat_differs_from_the_cloud_machine_in_size_only():
    edge, cloud = load("edge-flat"), load("flat")
    for name in ("regs_2d", "regs_1d"):
        for field in ("capacity_bytes", "access_bytes", "read_energy_j", "write_energy_j"):
            assert getattr(edge.memory(name), field) == getattr(cloud.memory(name), field)
    assert edge.unit("pe_2d").ops == cloud.unit("pe_2d").ops
    assert edge.unit("sfu").ops == cloud.unit("pe_1d").ops | cloud.unit("exp_1d").ops
    assert (edge.clock_hz, edge.instances("pe_2d"), edge.memory("buffer").read_bytes_per_s) == (940e6, 1024, 1e12)


def test_roles_are_shown():
    shown = show(load("tpu-v4i"))
    assert "memory local_buffer: 4 MiB, 1992 fJ a read, 2344 fJ a write of 1 B, holds input and output, never " in shown
    assert "memory weight_reg: 2 B, holds weight, never bypassed\n" in shown
    assert "memory global_buffer: 64 KiB, reads 204 GB/s, writes 204 GB/s, holds input and output\n" in show(
        load("simba")
    )
