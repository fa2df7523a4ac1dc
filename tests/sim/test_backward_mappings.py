"""Backward passes on spatial machines at random sizes: simulated against the closed form, and counts by hand."""

import random

import pytest
from agreement import agree

from arch.read import load as load_machine, loads as load_text
from arch.show import dump
from einsum.library import load as load_cascade
from einsum.problems import InputError
from mapper.cost import cost
from mapper.library import make

FUSEMAX = load_machine("fusemax")


def small_buffer(size):
    """FuseMax's machine with a smaller buffer."""
    text, old = dump(FUSEMAX), "capacity: 16 MiB"
    assert text.count(old) == 1
    return load_text(text.replace(old, f"capacity: {size}"))


@pytest.mark.parametrize("seed", range(8))
def test_attention(seed):
    """Also with a buffer that holds only some of the queries, and with a mask, whose tiles all run."""
    draw = random.Random(f"backward {seed}")
    sizes = {"B": draw.randint(1, 2), "H": draw.randint(1, 2), "E": draw.choice([8, 64]), "F": draw.choice([16, 64])}
    sizes |= {"M": draw.choice([100, 512, 700]), "P": draw.choice([256, 600, 1024])}
    machine = small_buffer("1 MiB") if seed % 2 else FUSEMAX
    cascade = load_cascade("backward-attention-causal" if seed > 5 else "backward-attention")
    agree(*make("fusemax-backward", cascade, machine, sizes), machine)


@pytest.mark.parametrize("seed", range(8))
def test_attention_in_two_loops(seed):
    draw = random.Random(f"recompute {seed}")
    mask = ("", "-causal", "-causal-end", "-window")[seed % 4]
    sizes = {"B": draw.randint(1, 2), "H": draw.randint(1, 2), "E": draw.choice([8, 64]), "F": draw.choice([16, 64])}
    sizes |= {"M": draw.choice([100, 512, 700]), "P": draw.choice([256, 600, 1024])}
    sizes |= {"W": draw.choice([20, 300])} if mask == "-window" else {}
    cascade = load_cascade(f"backward-attention-recompute{mask}")
    agree(*make("fusemax-backward-recompute", cascade, FUSEMAX, sizes), FUSEMAX)


def test_two_loops_leave_out_the_tiles_that_the_mask_leaves_empty():
    """Of 4 x 4 tiles 10 hold a point. Each side computes scores: 7 products instead of 5, of 10 tiles instead of 16."""
    sizes = {"B": 1, "H": 2, "E": 64, "F": 64, "M": 1024, "P": 1024}
    cascade = load_cascade("backward-attention-recompute-causal")
    mapping, workload = make("fusemax-backward-recompute", cascade, FUSEMAX, sizes)
    result = cost(mapping, workload, FUSEMAX)
    for product in ("QK", "DV", "DA", "DK", "QK2", "DA2", "DQ"):
        assert result.value("operations", einsum=product, detail="mac", boundary="issued") == 2 * 10 * 256 * 256 * 64
    for tensor, tiles in (("K", 4 + 10), ("V", 4 + 10), ("Q", 10 + 4), ("DAV", 4 + 10 + 4)):
        assert dram(result, tensor, "read") == 2 * tiles * 256 * 64 * 2
    for tensor in ("DQ", "DK", "DV"):
        assert dram(result, tensor, "write") == 2 * 1024 * 64 * 2
    once, workload = make("fusemax-backward", load_cascade("backward-attention-causal"), FUSEMAX, sizes)
    assert result.latency_s < cost(once, workload, FUSEMAX).latency_s


ROWS = (
    ("backward-layer-norm", "fusemax-rows", "fusemax"), ("backward-layer-norm", "fusemax-rows", "flat"),
    ("softmax", "fusemax-rows", "flat"), ("softmax", "tpu-rows", "tpu-v4i"), ("cross-entropy", "tpu-rows", "tpu-v4i"),
    ("backward-cross-entropy", "tpu-rows", "tpu-v4i"),
)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("cascade_name", "name", "machine_name"), ROWS)
def test_rows(cascade_name, name, machine_name, seed):
    draw = random.Random(f"{cascade_name} {name} {seed}")
    cascade, machine = load_cascade(cascade_name), load_machine(machine_name)
    sizes = {size: draw.choice([5, 300, 700]) for size in cascade.free_sizes} | {"B": 3}
    mapping, workload = make(name, cascade, machine, {size: sizes[size] for size in cascade.free_sizes})
    agree(mapping, workload, machine)


def dram(result, tensor, detail):
    return result.total("bytes", tensor=tensor, place="dram", detail=detail)


def test_attention_that_fits_moves_everything_once_and_keeps_the_array_busy():
    sizes = {"B": 1, "H": 3, "E": 64, "F": 32, "M": 1024, "P": 512}
    mapping, workload = make("fusemax-backward", load_cascade("backward-attention"), FUSEMAX, sizes)
    result = cost(mapping, workload, FUSEMAX)
    for tensor, elements, reads in (("Q", 512 * 64, 1), ("K", 1024 * 64, 1), ("V", 1024 * 32, 1), ("AV", 512 * 32, 1),
                                    ("DAV", 512 * 32, 2), ("LSE", 512, 1), ("DELTA", 512, 1)):  # fmt: skip
        assert dram(result, tensor, "read") == 3 * elements * 2 * reads
    for tensor, elements in (("DQ", 512 * 64), ("DK", 1024 * 64), ("DV", 1024 * 32), ("DELTA", 512)):
        assert dram(result, tensor, "write") == 3 * elements * 2
    assert dram(result, "DK", "read") == dram(result, "DQ", "read") == 0
    tiles, cycles = 3 * 2 * 4, 64 + 7 + 32 + 32 + 2 + 64 + 64  # QK, A as 6 macs and a sum, DV, DA, DQK, DK, DQ
    delta = 3 * 512 * 32 * 2 * 2 / (400 * 2**30)  # bound by its reads
    assert result.latency_s - delta == pytest.approx(tiles * cycles / 940e6, rel=0.02)


def test_sums_over_queries_come_back_for_each_block_of_queries_but_the_first():
    machine, sizes = small_buffer("1 MiB"), {"B": 1, "H": 1, "E": 64, "F": 64, "M": 512, "P": 1024}
    mapping, workload = make("fusemax-backward", load_cascade("backward-attention"), machine, sizes)
    (blocks,) = (loop.tile[0] for loop in mapping.groups[1].body[0].body[0].body if loop.ranks == ("p",))
    result, blocks = cost(mapping, workload, machine), 1024 // blocks
    assert blocks > 1
    for tensor in ("DK", "DV"):
        assert dram(result, tensor, "write") == blocks * 512 * 64 * 2
        assert dram(result, tensor, "read") == (blocks - 1) * 512 * 64 * 2
    for tensor, times in (("K", blocks), ("V", blocks), ("Q", 1), ("DQ", 1)):
        rows = 512 if tensor in "KV" else 1024
        assert dram(result, tensor, "write" if tensor == "DQ" else "read") == times * rows * 64 * 2


def test_layer_norm_moves_rows_once():
    sizes = {"B": 4, "T": 512, "D": 300}
    mapping, workload = make("fusemax-rows", load_cascade("backward-layer-norm"), FUSEMAX, sizes)
    result = cost(mapping, workload, FUSEMAX)
    for tensor, nbytes in (("X", 4 * 512 * 300 * 2), ("DY", 4 * 512 * 300 * 2), ("MU", 4 * 512 * 4), ("R", 4 * 512 * 4),
                           ("G", 4 * 300 * 2), ("PG", 4 * 300 * 4), ("PB", 4 * 300 * 4)):  # fmt: skip
        assert dram(result, tensor, "read") == nbytes
    for tensor, nbytes in (("DX", 4 * 512 * 300 * 2), ("PG", 4 * 300 * 4), ("DG", 300 * 2), ("DB", 300 * 2)):
        assert dram(result, tensor, "write") == nbytes


@pytest.mark.parametrize(("name", "cascade"), [
    ("fusemax-backward", "backward-attention-recompute"), ("fusemax-backward", "attention-1pass"),
    ("fusemax-backward-recompute", "backward-attention"), ("fusemax-rows", "attention-1pass"), ("tpu-rows", "gemm"),
    ("flash-attention-backward", "backward-attention"), ("gpu-row-blocks", "layer-norm"),
])  # fmt: skip
def test_what_a_mapping_is_not_for_is_said(name, cascade):
    loaded = load_cascade(cascade)
    machine = load_machine("h100" if name.startswith(("flash", "gpu")) else "tpu-v4i" if "tpu" in name else "fusemax")
    with pytest.raises(InputError, match=f"{name} maps"):
        make(name, loaded, machine, dict.fromkeys(loaded.free_sizes, 256))
