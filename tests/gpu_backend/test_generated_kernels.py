"""Generated kernels in the interpreter: values equal the oracle, counts equal the closed form, mutants are caught."""

import math
from dataclasses import replace

import numpy as np
import pytest
from flash import MACHINE, build, mutant

from gpu_backend.check import TOLERANCE, oracle_case, relative_error
from gpu_backend.compare import differences, seen
from gpu_backend.count import count
from gpu_backend.emit import emit
from gpu_backend.interpret import run
from gpu_backend.limits import plans
from mapper.cost import cost

CASES = [  # cascade, element type, sizes, (BM, BN)
    ("attention-1pass", "bf16", {"P": 256, "M": 256}, (64, 64)),
    ("attention-1pass", "fp16", {"P": 128, "M": 192}, (64, 64)),
    ("attention-1pass", "fp32", {"P": 64, "M": 200}, (64, 64)),
    ("attention-1pass", "bf16", {"P": 100, "M": 130, "B": 2}, (64, 32)),
    ("attention-1pass", "tf32", {"P": 64, "M": 64, "F": 32}, (32, 64)),
    ("attention-1pass-causal", "bf16", {"P": 256, "M": 256}, (64, 64)),
    ("attention-1pass-causal", "fp16", {"P": 200, "M": 200}, (64, 64)),
    ("attention-1pass-causal", "fp32", {"P": 192, "M": 192}, (64, 32)),
    ("attention-1pass-causal", "bf16", {"P": 256, "M": 100}, (32, 64)),
    ("attention-1pass-causal", "bf16", {"P": 70, "M": 256}, (64, 64)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join([c[0], c[1], *(f"{k}{v}" for k, v in c[2].items())]))
def test_values_equal_the_oracle_and_counts_the_closed_form(case):
    workload, mapping = build(*case)
    (kernel,) = emit(workload, mapping)
    inputs, exact = oracle_case(workload, seed=1)
    outputs, counted = count((kernel,), inputs)
    assert relative_error(outputs["AV"], exact["AV"]) <= TOLERANCE[case[1]]
    assert differences(cost(mapping, workload, MACHINE), counted, plans(workload, mapping), "hbm") == ()
    assert seen(counted) == attention_by_hand(workload, case[3], causal=case[0].endswith("causal"))
    assert counted.value("programs") == kernel.grid[0]


def attention_by_hand(workload, blocks, causal):
    """FlashAttention-2's counts, written down from the algorithm and not from the mapping."""
    s = workload.sizes
    bm, bn = blocks
    element = workload.bits("Q") // 8
    tiles, keys = 0, 0
    for first in range(0, s["P"], bm):
        last = min(first + bm, s["P"]) - 1
        reached = math.ceil(min(s["M"], last + 1 if causal else s["M"]) / bn)
        tiles += reached
        keys += min(reached * bn, s["M"])
    batch = s["B"] * s["H"]
    tiles, keys, programs = tiles * batch, keys * batch, math.ceil(s["P"] / bm) * batch
    found = {("bytes", "", t, "read"): keys * s[r] * element for t, r in (("K", "E"), ("V", "F"))}
    found["bytes", "", "Q", "read"] = batch * s["P"] * s["E"] * element
    found["bytes", "", "AV", "write"] = batch * s["P"] * s["F"] * element
    for einsum, name, points in (
        ("BQK", "mac", bm * bn * s["E"]), ("BQK", "mul", bm * bn), ("SLNV", "mac", bm * bn * s["F"]), ("RM", "max", bm),
        ("SLN", "add", bm * bn), ("SLN", "exp", bm * bn), ("PRM", "add", bm), ("PRM", "exp", bm), ("SPD", "mul", bm),
        ("RD", "add", bm), ("SPNV", "mul", bm * s["F"]), ("RNV", "add", bm * s["F"]),
    ):  # fmt: skip
        found["operations", einsum, "", name] = tiles * points
    found["operations", "AV", "", "div"] = programs * bm * s["F"]
    found |= {("combines", t, "", ""): tiles * bm * (bn - 1) for t in ("LM", "SLD")}
    return found


def test_distinct_bytes_are_the_tensors_themselves_and_a_causal_kernel_leaves_out_keys_past_the_last_query():
    workload, mapping = build("attention-1pass", "bf16", {"P": 128, "M": 192}, (64, 64))
    _, counted = count(emit(workload, mapping), oracle_case(workload, 0)[0])
    for tensor in ("Q", "K", "V", "AV"):
        assert counted.value("bytes", tensor=tensor, boundary="distinct") == workload.elements(tensor) * 2
    workload, mapping = build("attention-1pass-causal", "bf16", {"P": 70, "M": 256}, (64, 64))
    _, counted = count(emit(workload, mapping), oracle_case(workload, 0)[0])
    assert counted.value("bytes", tensor="K", boundary="distinct") == 2 * 128 * 64 * 2  # H, two tiles of keys, E, bytes


MUTANTS = {  # what is wrong with it: (source, replacement, counts that differ)
    "no causal skip": (
        "tl.minimum(M1, (p_tile * 64 + 127) // 64)", "M1", {"bytes K read", "bytes V read", "operations BQK mac"},
    ),
    "K loaded twice": ("m = m1 * M0 + m0", "m = m1 * M0 + m0; BK = {BK}", {"bytes K read"}),
    "Q loaded twice": ("e = tl.arange(0, E)", "e = tl.arange(0, E); Q = {Q}", {"bytes Q read"}),
    "an extra divide": ("AV = RNV / RD[:, None]", "AV = RNV / RD[:, None] / 1.0", {"operations AV div"}),
    "an extra maximum": ("RM_next = tl.maximum(RM, LM)", "RM_next = tl.maximum(tl.maximum(RM, LM), LM)",
                         {"operations RM max"}),
    "SLN computed twice": ("SLN = tl.exp2(BQK - RM_next[:, None])",
                           "SLN = tl.exp2(BQK - RM_next[:, None]); SLN = tl.exp2(BQK - RM_next[:, None])",
                           {"operations SLN exp", "operations SLN add"}),
    "a division in every iteration": ("SPD = RD * PRM", "SPD = RD * PRM / 1.0", {"operations SPD div"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_that_passes_values_fails_counts(name):
    workload, mapping = build("attention-1pass-causal", "bf16", {"P": 192, "M": 192}, (64, 64))
    (kernel,) = emit(workload, mapping)
    loads = {t: kernel.source.split(f"    {t} = ")[1].splitlines()[0] for t in ("BK", "Q")}
    old, new, wrong = MUTANTS[name]
    inputs, exact = oracle_case(workload, seed=2)
    outputs, counted = count(mutant(kernel, old, new.format(**loads)), inputs)
    assert relative_error(outputs["AV"], exact["AV"]) <= TOLERANCE["bf16"]
    found = differences(cost(mapping, workload, MACHINE), counted, plans(workload, mapping), "hbm")
    assert wrong <= {line.split(":")[0] for line in found}


@pytest.mark.parametrize(
    ("old", "new", "sizes"),
    [
        ("m[None, :] <= p[:, None]", "m[None, :] <= p[:, None] + 1", {"P": 128, "M": 128}),
        ("(m[None, :] < M) & ", "", {"P": 64, "M": 20}),
        ("RD = SLD + SPD", "RD = SLD + RD", {"P": 128, "M": 128}),
        ("tl.trans(BK)) * 1.4426950408889634", "tl.trans(BK)) * 1.0", {"P": 64, "M": 64}),
    ],
)
def test_a_mutant_with_wrong_values_fails_values(old, new, sizes):
    workload, mapping = build("attention-1pass-causal", "bf16", sizes, (64, 64))
    inputs, exact = oracle_case(workload, seed=3)
    found = run(mutant(*emit(workload, mapping), old, new), inputs)
    assert relative_error(found["AV"], exact["AV"]) > 2 * TOLERANCE["bf16"]


def test_a_load_outside_its_tensor_is_caught():
    workload, mapping = build("attention-1pass", "bf16", {"P": 64, "M": 100}, (64, 64))
    address = "m[:, None] * E + e[None, :]"
    broken = mutant(*emit(workload, mapping), f"{address}, mask=m[:, None] < M, other=0.0", address)
    with pytest.raises(Exception, match="a read at BK leaves every tensor"):
        count(broken, oracle_case(workload, 0)[0])


def test_running_without_the_counter_gives_the_same_values():
    workload, mapping = build("attention-1pass-causal", "bf16", {"P": 100, "M": 100}, (64, 64))
    (kernel,) = emit(workload, mapping)
    inputs, _ = oracle_case(workload, 4)
    assert np.array_equal(run((kernel,), inputs)["AV"], count((kernel,), inputs)[0]["AV"])


def test_a_causal_kernel_without_the_guarded_extent_computes_every_tile_to_the_same_values():
    workload, mapping = build("attention-1pass-causal", "fp16", {"P": 128, "M": 128}, (64, 64))
    grid = mapping.groups[0].body[0]
    open_grid = replace(grid, body=(replace(grid.body[0], extent=None),))
    unskipped = replace(mapping, groups=(replace(mapping.groups[0], body=(open_grid,)),))
    inputs, exact = oracle_case(workload, 5)
    outputs, counted = count(emit(workload, unskipped), inputs)
    assert relative_error(outputs["AV"], exact["AV"]) <= TOLERANCE["fp16"]
    assert differences(cost(unskipped, workload, MACHINE), counted, plans(workload, unskipped), "hbm") == ()
    issued = counted.value("operations", einsum="BQK", detail="mac", boundary="issued")
    assert issued == 2 * 4 * 64**3  # 2 heads, 2 x 2 tiles
