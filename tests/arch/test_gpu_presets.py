"""GPUs and TPUs: what their trees add up to, against the peaks, capacities and limits that the makers publish."""

import pytest

from arch.machine import Array
from arch.occupancy import residency, resident_programs
from arch.read import load
from einsum import library
from einsum.bind import bind
from mapper.search.answer import search

PEAKS = {  # name -> 16-bit dense and fp32 TFLOP/s, GB/s and GB of memory, W
    "v100": (125, 15.7, 900, 32, 300),
    "t4": (65, 8.1, 320, 16, 70),
    "a100-80": (312, 19.5, 2039, 80, 400),
    "h100": (989.4, 61.8, 3352, 80, 700),  # fp32: 66.9 at the boost clock of 1980 MHz
    "h200": (989.4, 61.8, 4800, 141, 700),
    "b200": (2250, 70.1, 7700, 180, 1000),  # fp32: 80 in the datasheet, at no clock that it names
    "gb300": (2500, 78.1, 8000, 288, 1400),
    "l40s": (366.5, 91.6, 864, 48, 350),  # 16-bit: half of the 733 in fp8; the datasheet's 362.05 are at 2490 MHz
    "rtx-4090": (165.2, 82.6, 1008, 24, 450),
    "mi300x": (1307.4, 163.4, 5300, 192, 750),
    "mi325x": (1307.4, 163.4, 6000, 256, 1000),
}
TPUS = {  # name -> bf16 TFLOP/s, int8 TOP/s, GB/s, GiB, GB/s to the neighbours both ways
    "tpu-v5e": (197, 394, 819, 16, 400),
    "tpu-v5p": (459, 918, 2765, 95, 1200),
    "tpu-v6e": (918, 1836, 1640, 32, 800),
}
BY_DTYPE = {  # TFLOP/s or TOP/s, dense
    "t4": {"int8": 130},
    "a100-80": {"tf32": 156, "int8": 624},
    "h100": {"tf32": 494.7, "fp8": 1978.9, "int8": 1978.9},
    "h200": {"tf32": 494.7, "fp8": 1978.9, "int8": 1978.9},
    "b200": {"tf32": 1125, "fp8": 4500, "int8": 4500},
    "gb300": {"tf32": 1250, "fp8": 5000, "int8": 156},
    "l40s": {"tf32": 183, "fp8": 733, "int8": 733},
    "rtx-4090": {"tf32": 82.6, "fp8": 330.3, "int8": 660.6},
    "mi300x": {"tf32": 653.7, "fp8": 2614.9, "int8": 2614.9},
    "mi325x": {"tf32": 653.7, "fp8": 2614.9, "int8": 2614.9},
}
SMS = {  # SMs, KiB of shared memory and of registers in each, programs and warps resident in each, exp2 per clock
    "v100": (80, 96, 256, 32, 64, 16),
    "t4": (40, 64, 256, 16, 32, 16),
    "a100-80": (108, 164, 256, 32, 64, 16),
    "h100": (132, 228, 256, 32, 64, 16),
    "h200": (132, 228, 256, 32, 64, 16),
    "b200": (148, 228, 256, 32, 64, 16),
    "gb300": (148, 228, 256, 32, 64, 32),
    "l40s": (142, 100, 256, 24, 48, 16),
    "rtx-4090": (128, 100, 256, 24, 48, 16),
    "mi300x": (304, 64, 512, 32, 32, 16),
    "mi325x": (304, 64, 512, 32, 32, 16),
}
L2 = {"v100": 6, "t4": 4, "a100-80": 40, "h100": 50, "h200": 50, "b200": 126.5, "gb300": 126, "l40s": 96}
L2 |= {"rtx-4090": 72, "mi300x": 32, "mi325x": 32}  # MiB
LINKS = {"v100": 300, "a100-80": 600, "h100": 900, "h200": 900, "b200": 1800, "gb300": 1800, "mi300x": 896}  # both ways
ROUNDING = 0.006  # of the published figures, some of two digits: 8.1 for 8.14 TFLOP/s


def flops(machine, unit, dtype="fp16"):
    u = machine.unit(unit)
    return 2 * u.lanes * machine.instances(unit) * u.clock_hz / u.ops["mac"].cycles_of(dtype)


@pytest.mark.parametrize("name", PEAKS)
def test_peaks_memory_and_power(name):
    m = load(name)
    half, single, bandwidth, capacity, watts = PEAKS[name]
    assert flops(m, "tensor") == pytest.approx(half * 1e12, rel=ROUNDING)
    assert flops(m, "fma") == pytest.approx(single * 1e12, rel=ROUNDING)
    assert (m.root.read_bytes_per_s, m.root.capacity_bytes, m.power_cap_w) == (bandwidth * 1e9, capacity * 1e9, watts)
    assert m.memory("l2").capacity_bytes == L2[name] * 2**20
    for memory in m.memories:
        assert (memory.sustained_bytes_per_s or 0) < 1.05 * (memory.read_bytes_per_s or 1)


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name in BY_DTYPE for dtype in BY_DTYPE[name]])
def test_peaks_of_other_element_types(name, dtype):
    assert flops(load(name), "tensor", dtype) == pytest.approx(BY_DTYPE[name][dtype] * 1e12, rel=ROUNDING)


def test_both_kinds_of_fp8_have_its_rate():
    mac = load("h100").unit("tensor").ops["mac"]
    assert [mac.cycles_of(dtype) for dtype in ("e4m3", "e5m2", "fp8", "bf16", "fp16")] == [0.5, 0.5, 0.5, 1, 1]


@pytest.mark.parametrize("name", SMS)
def test_an_sm(name):
    m, of = load(name), residency(load(name))
    sms, shared, registers, programs, warps, exponentials = SMS[name]
    assert m.instances("smem") == sms == m.axis("sm.sm").size
    assert (m.memory("smem").capacity_bytes, 4 * m.memory("registers").capacity_bytes) == (
        shared * 2**10,
        registers * 2**10,
    )
    assert (of.programs, of.warps) == (programs, warps)
    mufu = m.unit("mufu")
    assert 4 * mufu.lanes / mufu.ops["exp2"].cycles == exponentials
    assert of.tensor_memory_bytes == (256 * 2**10 if name in ("b200", "gb300") else 0)


@pytest.mark.parametrize("name", LINKS)
def test_links(name):
    (link,) = load(name).links
    assert 2 * link.bytes_per_s == LINKS[name] * 1e9


@pytest.mark.parametrize("name", TPUS)
def test_tpus(name):
    m = load(name)
    bf16, int8, bandwidth, capacity, links = TPUS[name]
    assert flops(m, "mac", "bf16") == pytest.approx(bf16 * 1e12, rel=ROUNDING)
    assert flops(m, "mac", "int8") == pytest.approx(int8 * 1e12, rel=ROUNDING)
    assert (m.root.read_bytes_per_s, m.root.capacity_bytes) == (bandwidth * 1e9, capacity * 2**30)
    assert 2 * m.links[0].bytes_per_s == links * 1e9


@pytest.mark.parametrize("name", [*PEAKS, *TPUS])
def test_every_number_has_a_confidence_and_no_source_of_another_machine(name):
    m = load(name)
    assert set(dict(m.confidence)) == set(dict(m.sources))
    assert [source for _, source in m.sources if "stated in" in source] == []
    others = {"a100-80": "H100", "v100": "H100", "t4": "V100 ", "l40s": "H100", "rtx-4090": "L40S", "b200": "H100 data"}
    others |= {"gb300": "B200 data", "mi325x": "MI300X data", "tpu-v5p": "v5e doc", "tpu-v6e": "v5e doc"}
    assert [source for _, source in m.sources if name in others and others[name] in source] == []


@pytest.mark.parametrize("name", ["l40s", "h200", "tpu-v6e"])
def test_a_product_is_mapped(name):
    workload, machine = bind(library.load("gemm"), dict.fromkeys("MNK", 4096), {"*": "bf16"}), load(name)
    (found,) = search(workload, machine, "latency").found
    peak = flops(machine, "tensor" if name in PEAKS else "mac")
    assert 2 * 4096**3 / peak <= found.latency_s < 6 * 2 * 4096**3 / peak


@pytest.mark.parametrize(
    ("name", "registers", "shared", "warps", "expected"),
    [
        ("h100", 32, 0, 4, 16),  # 64 warps
        ("h100", 168, 0, 12, 1),  # 2 warps of 5376 registers in the 16384 of each sub-core, 3 of them need 12
        ("h100", 255, 0, 12, 0),  # 2 warps of 8192 on each sub-core
        ("h100", 32, 113 * 1024, 4, 2),  # 114 KiB with the system's 1 KiB
        ("h100", 32, 114 * 1024, 4, 1),
        ("t4", 32, 0, 1, 16),  # programs
        ("v100", 32, 48 * 1024, 4, 2),  # nothing is reserved
        ("l40s", 40, 0, 8, 6),  # 48 warps
        ("mi300x", 256, 0, 4, 2),  # 2 of 64 * 256 registers in the 32768 of each SIMD
        ("mi300x", 64, 32 * 1024 + 1, 4, 1),
    ],
)
def test_resident_programs(name, registers, shared, warps, expected):
    assert resident_programs(load(name), registers, shared, warps) == expected


def test_what_is_no_gpu_has_no_residents():
    assert not [n for n in load("tpu-v5e").nodes() if isinstance(n, Array) and n.residency]
    with pytest.raises(LookupError, match="tpu-v5e"):
        residency(load("tpu-v5e"))
