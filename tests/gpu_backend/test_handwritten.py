"""Kernels written by hand: values equal oracles, counts equal the closed form, mutants are caught, all compile."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from flash import MACHINE

from einsum.bind import bind
from einsum.library import load as load_cascade
from einsum.occupancy import Occupancy, Routing
from einsum.problems import InputError
from gpu_backend.check import TOLERANCE, oracle_case, relative_error
from gpu_backend.count import count
from gpu_backend.handwritten import tutorial
from gpu_backend.handwritten.ledger import differences
from gpu_backend.handwritten.library import ROUTINES, check
from gpu_backend.handwritten.moe import Tiles, fused_moe
from gpu_backend.handwritten.paged import cache, paged_decode
from gpu_backend.interpret import run
from gpu_backend.static import TARGETS, profile
from mapper.check import check as check_mapping
from mapper.cost import cost
from mapper.experts import fused_moe as mapped_moe
from mapper.library import bound


def alike(tokens, experts, count):
    """Every token chooses the same of `count` experts; all others are empty."""
    return Routing(np.tile(np.array(experts, np.int32), (tokens, 1)), count)


def routing(tokens, experts, chosen, seed, skew=0.3):
    return Occupancy("zipf", skew, seed).draw(tokens, experts, chosen)


ROUTINGS = {  # name -> (T, E, F, tiles, element type, routing [t,k])
    "uniform": (40, 8, 64, Tiles(16, 32, 32), "bf16", routing(40, 8, 2, 0, skew=0)),
    "as drawn": (40, 8, 64, Tiles(16, 32, 32), "fp16", routing(40, 8, 2, 1)),
    "skewed": (40, 8, 64, Tiles(16, 32, 32), "fp32", routing(40, 8, 2, 2, skew=2)),
    "very skewed": (64, 16, 32, Tiles(32, 32, 32, group=2), "bf16", routing(64, 16, 2, 3, skew=6)),
    "one for all": (33, 4, 64, Tiles(16, 64, 32), "bf16", alike(33, [2], 4)),
    "two for all": (32, 4, 64, Tiles(16, 32, 64), "bf16", alike(32, [3, 0], 4)),
    "more experts than pairs": (5, 24, 32, Tiles(16, 32, 32), "bf16", routing(5, 24, 2, 4)),
    "one token": (1, 8, 32, Tiles(16, 32, 32), "bf16", routing(1, 8, 8, 5)),
    "odd number of experts": (50, 7, 32, Tiles(16, 32, 32, group=3), "bf16", routing(50, 7, 3, 6)),
    "more pairs than a tile": (300, 6, 32, Tiles(64, 32, 32), "bf16", routing(300, 6, 4, 7, skew=1)),
    "all of them": (20, 4, 32, Tiles(16, 32, 32), "bf16", routing(20, 4, 4, 8)),
}


def experts(name):
    tokens, count_, width, tiles, dtype, chosen = ROUTINGS[name]
    sizes = {"T": tokens, "D": 64, "E": count_, "F": width, "K": chosen.choices}
    return fused_moe(sizes, chosen, MACHINE, tiles, dtype)


def experts_in_numpy(x):
    """Token by token and choice by choice, in float64."""
    result = np.zeros(x["X"].shape)
    for t, chosen in enumerate(x["IDS"].astype(int)):
        for k, e in enumerate(chosen):
            gate, up = x["X"][t] @ x["W1"][e], x["X"][t] @ x["W3"][e]
            result[t] += x["G"][t, k] * ((gate / (1 + np.exp(-gate)) * up) @ x["W2"][e])
    return result


@pytest.mark.parametrize("name", ROUTINGS)
def test_experts_equal_the_oracles_and_the_closed_form(name):
    routine = experts(name)
    inputs, exact = oracle_case(routine.workload, 1, routine.given)
    assert np.allclose(exact["O"], experts_in_numpy(inputs), rtol=1e-12, atol=1e-12)
    outputs, counted = count(routine.kernels, inputs)
    assert relative_error(outputs["O"], exact["O"]) <= TOLERANCE[ROUTINGS[name][4]]
    assert differences(routine.closed, counted) == ()


@pytest.mark.parametrize("seed", range(10))
def test_ten_random_routings_equal_the_closed_form(seed):
    """Sizes, tiles and distributions drawn at random, Zipf 0.6 among them."""
    rng = np.random.default_rng(seed)
    kind, skew = [("zipf", 0.6), ("uniform", 0.0), ("power", 1.2), ("zipf", 0.3), ("even", 0.0)][seed % 5]
    tokens, count_ = int(rng.integers(1, 70)), int(rng.integers(4, 20))
    sizes = {"T": tokens, "D": 64, "E": count_, "F": 32, "K": int(rng.integers(1, 5))}
    chosen = Occupancy(kind, skew, seed).draw(tokens, count_, sizes["K"])
    routine = fused_moe(sizes, chosen, MACHINE, Tiles(int(rng.choice([16, 32])), 32, 32))
    inputs, exact = oracle_case(routine.workload, seed, routine.given)
    outputs, counted = count(routine.kernels, inputs)
    assert relative_error(outputs["O"], exact["O"]) <= TOLERANCE["bf16"]
    assert differences(routine.closed, counted) == ()
    useful = routine.closed.total("operations", detail="mac", boundary="useful")
    assert useful == 3 * tokens * sizes["K"] * 64 * 32


@pytest.mark.parametrize("kind", [("zipf", 0.6), ("uniform", 0.0), ("even", 0.0)], ids=str)
def test_the_mapping_of_ragged_experts_does_what_these_kernels_do(kind):
    """Bytes at device memory, and issued and useful operations, under the same routing; X is read for both products
    at once, and W1 holds the weights of both."""
    chosen = Occupancy(*kind).draw(300, 7, 3)
    tiles, sizes = Tiles(32, 64, 64), {"T": 300, "K": 3, "E": 7, "D": 256}
    ours = fused_moe({**sizes, "F": 192}, chosen, MACHINE, tiles).closed
    mapping = mapped_moe(load_cascade("moe-grouped"), MACHINE, {**sizes, "I": 192}, 32, 64, 64)
    workload = bound(mapping, load_cascade("moe-grouped"), {**sizes, "I": 192})
    workload = replace(workload, given=chosen.given(workload.cascade))
    check_mapping(mapping, workload, MACHINE)
    result = cost(mapping, workload, MACHINE)
    moved = lambda r, tensor, detail: r.total("bytes", tensor=tensor, place="hbm", detail=detail, boundary="issued")
    reads = (("X", "X"), ("W1", "W1 W3"), ("W2", "W2"), ("H", "H"), ("YE", "Y"))
    writes = (("H", "H"), ("YE", "Y"), ("Y", "O"))
    for tensor, same, detail in (*((*x, "read") for x in reads), *((*x, "write") for x in writes)):
        assert moved(result, tensor, detail) == sum(moved(ours, name, detail) for name in same.split()) > 0
    for einsum, same in (("U", ("U", "UG")), ("YE", ("Y",))):
        for boundary in ("issued", "useful"):
            done = sum(ours.value("operations", einsum=e, detail="mac", boundary=boundary) for e in same)
            assert result.total("operations", einsum=einsum, boundary=boundary) == done > 0


def test_padding_to_whole_blocks_is_what_the_routing_says():
    routine = experts("two for all")  # two experts with 32 tokens each, in blocks of 16: nothing is padded
    macs = lambda boundary: routine.closed.total("operations", detail="mac", boundary=boundary)
    assert macs("issued") == macs("useful") == 3 * 64 * 64 * 64
    padded = experts("one for all").closed  # 33 tokens in three blocks
    assert padded.total("operations", detail="mac", boundary="issued") == 3 * 48 * 64 * 64
    assert padded.total("operations", detail="mac", boundary="useful") == 3 * 33 * 64 * 64
    read = lambda tensor, boundary: padded.value("bytes", tensor=tensor, detail="read", boundary=boundary)
    assert read("W1", "distinct") == 64 * 64 * 2 and read("W1", "issued") == 3 * 64 * 64 * 2
    assert padded.value("lanes", tensor="Y", detail="write", boundary="issued") == 48 * 64


def test_sorting_lists_the_pairs_of_each_expert_in_order_and_pads_them_to_blocks():
    routine = experts("skewed")
    found = run(routine.kernels, oracle_case(routine.workload, 0, routine.given)[0])
    place = 0
    for e in range(8):
        pairs = np.flatnonzero(routine.given["IDS"].ravel() == e)
        blocks = -(-len(pairs) // 16)
        assert found["N"][e] == len(pairs)
        assert (found["SORTED"][16 * place :][: len(pairs)] == pairs).all()
        assert (found["SORTED"][16 * place + len(pairs) : 16 * (place + blocks)] == 80).all()
        assert (found["OWNER"][place : place + blocks] == e).all()
        place += blocks
    assert (found["OWNER"][place:] == 8).all()


CACHES = {  # name -> (sizes, tile of keys, splits, element type, lengths, pages [b,j])
    "ragged": ({"B": 3, "G": 2, "R": 4, "S": 16}, 32, 4, "bf16", (200, 1, 77), None),
    "heads that are no power of two": ({"B": 3, "G": 1, "R": 3, "S": 48}, 64, 2, "fp16", (200, 64, 65), None),
    "a tile of several pages": ({"B": 2, "G": 2, "R": 8, "S": 8}, 32, 8, "fp32", (199, 31), None),
    "one part": ({"B": 2, "G": 2, "R": 1, "S": 64}, 16, 1, "bf16", (200, 16), None),
    "shared and repeated pages": ({"B": 2, "G": 1, "R": 20, "S": 16}, 64, 2, "bf16", (64, 200), [[3, 1] * 6 + [2]] * 2),
}


def decoding(name):
    sizes, keys, splits, dtype, lengths, pages = CACHES[name]
    drawn = cache(sizes["B"], 200, sizes["S"], seed=0)[1]
    table = drawn if pages is None else np.array(pages, np.int32)
    sizes = {**sizes, "E": 32, "F": 64, "M": 200, "J": table.shape[1], "NP": drawn.size}
    return paged_decode(sizes, np.array(lengths, np.int32), table, MACHINE, keys, splits, dtype)


@pytest.mark.parametrize("name", CACHES)
def test_paged_decoding_equals_the_oracle_and_the_closed_form(name):
    routine = decoding(name)
    inputs, exact = oracle_case(routine.workload, 1, routine.given)
    outputs, counted = count(routine.kernels, inputs)
    assert relative_error(outputs["AV"], exact["AV"]) <= TOLERANCE[CACHES[name][3]]
    assert differences(routine.closed, counted) == ()


def changed(routine, function, old, new):
    """The routine with one place of one kernel changed."""
    mutants = []
    for kernel in routine.kernels:
        if kernel.name == function:
            assert old in kernel.source, old
            kernel = replace(kernel, source=kernel.source.replace(old, new))
        mutants.append(kernel)
    return replace(routine, kernels=tuple(mutants))


W3 = "W3 = tl.load(W3_ptr + e * (D * F) + d[:, None] * F + f[None, :])"
KP = "KP = tl.load(KP_ptr + row[:, None] * E + e[None, :], mask=there[:, None], other=0.0)"
BLOCKS = "blocks = (N + (ROWS - 1)) // ROWS"
SLOW = {  # what is wrong with it: (routine, kernel, source, replacement, a count that differs)
    "W1 loaded twice": ("two for all", "moe_up", W3, f"{W3}; {W3.replace('W3', 'W1')}", "bytes W1 hbm read issued"),
    "an extra divide": ("two for all", "moe_down", "Y = Y * G[:, None]", "Y = Y * G[:, None] / 1.0",
                        "operations Y div issued"),
    "a block too many": ("two for all", "moe_sort", BLOCKS, "blocks = (N + ROWS) // ROWS * (N > 0).to(tl.int32)",
                         "operations U mac issued"),
    "K loaded twice": ("ragged", "paged_parts", KP, f"{KP}; {KP}", "bytes KP hbm read issued"),
    "K without its mask": ("ragged", "paged_parts", KP, KP.replace(", mask=there[:, None], other=0.0", ""),
                           "bytes KP hbm read issued"),
    "a division in every part": ("ragged", "paged_parts", "SLN = tl.exp2(QK - RM_next[:, None])",
                                 "SLN = tl.exp2(QK - RM_next[:, None]) / 1.0", "operations SLN div issued"),
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_a_mutant_with_right_values_has_wrong_counts(name):
    base, function, old, new, wrong = SLOW[name]
    routine = changed(experts(base) if base in ROUTINGS else decoding(base), function, old, new)
    inputs, exact = oracle_case(routine.workload, 2, routine.given)
    outputs, counted = count(routine.kernels, inputs)
    (output,) = routine.workload.cascade.outputs
    assert relative_error(outputs[output], exact[output]) <= TOLERANCE["bf16"]
    assert wrong in {line.split(":")[0] for line in differences(routine.closed, counted)}


WRONG = {
    "padded with pair 0": ("uniform", "moe_sort", "tl.full([ROWS], PAIRS, tl.int32)", "tl.full([ROWS], 0, tl.int32)"),
    "another token": ("uniform", "moe_up", "t = pair // K", "t = pair % K"),
    "the gate's sign": ("uniform", "moe_up", "U * -1.44", "U * 1.44"),
    "a choice left out": ("uniform", "moe_combine", "tl.range(0, K)", "tl.range(0, K - 1)"),
    "another head": ("ragged", "paged_parts", "(page * G + g) * S", "page * G * S"),
    "a tile left out": ("ragged", "paged_parts", "each = tl.cdiv(tiles, SPLITS)", "each = tiles // SPLITS"),
    "keys behind the end": ("ragged", "paged_parts", "QK = tl.where(there[None, :], QK, float(\"-inf\"))", "QK = QK"),
    "parts of equal weight": ("ragged", "paged_combine", "CM = tl.exp2(RM - GM)", "CM = tl.exp2(RM - RM)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mutant_with_wrong_values_is_caught(name):
    base, function, old, new = WRONG[name]
    routine = changed(experts(base) if base in ROUTINGS else decoding(base), function, old, new)
    inputs, exact = oracle_case(routine.workload, 2, routine.given)
    (output,) = routine.workload.cascade.outputs
    assert relative_error(run(routine.kernels, inputs)[output], exact[output]) > 2 * TOLERANCE["bf16"]


@functools.cache
def large():
    """Routines whose loops are too long to be unrolled."""
    sizes = {"T": 64, "D": 4096, "E": 8, "F": 14336, "K": 2}
    moe = fused_moe(sizes, routing(64, 8, 2, 0), MACHINE, Tiles(64, 64, 64, stages=2))
    lengths, pages = cache(requests=4, keys=8192, page=16, seed=0)
    sizes = {"B": 4, "G": 8, "R": 4, "E": 128, "F": 128, "M": 8192, "S": 16, "J": 512, "NP": 2048}
    return (*moe.kernels, *paged_decode(sizes, lengths, pages, MACHINE).kernels)


@pytest.mark.parametrize("target", TARGETS)
def test_all_compile_and_an_iteration_does_what_the_tiles_say(target):
    for kernel in large():
        result = profile(kernel, target)
        assert result.total("spills") == 0 and 0 < result.value("registers") < 255
        assert result.value("occupancy") > 0, "fits the shared memory"
        macs = result.value("operations", place="main loop", detail="mac")
        if kernel.iteration_macs and target == "gfx942" and kernel.name == "paged_parts":
            assert macs > kernel.iteration_macs  # four waves share 16 rows, and repeat products
        elif kernel.iteration_macs:
            assert result.value("bytes", place="main loop", detail="read") >= kernel.iteration_bytes
            assert macs == kernel.iteration_macs or (macs == 0 and target == "sm_100a")  # there the shape is data
    if target == "sm_90a":
        assert profile(large()[2], target).value("instructions", place="main loop", detail="HGMMA") > 0


@pytest.mark.parametrize("name", ROUTINES)
def test_each_named_routine_passes_its_check(name):
    verdict = check(ROUTINES[name](MACHINE, "bf16"))
    assert verdict.passed and verdict.compared > 90
    assert "counts    ok: all" in str(verdict)


def test_what_the_kernels_do_not_take_is_refused():
    sizes = {"T": 4, "D": 64, "E": 4, "F": 96, "K": 2}
    with pytest.raises(InputError, match=r"F: has to be a multiple of the tile 64 \(got 96\)"):
        fused_moe(sizes, routing(4, 4, 2, 0), MACHINE, Tiles(16, 64, 32))
    for wrong in (alike(4, [1], 4), alike(4, [1, 4], 5), alike(3, [0, 1], 4)):
        with pytest.raises(InputError, match="IDS: the routing is of other sizes T, K, E"):
            fused_moe(sizes, wrong, MACHINE, Tiles(16, 32, 32))
    for name in ROUTINES:
        with pytest.raises(InputError, match=r"written by hand take bf16, .* \(got tf32\)"):
            ROUTINES[name](MACHINE, "tf32")
    sizes = {"B": 1, "G": 1, "R": 1, "E": 32, "F": 24, "M": 64, "S": 16, "J": 4, "NP": 4}
    with pytest.raises(InputError) as caught:
        paged_decode(sizes, np.array([65]), np.array([[0, 1, 2, 4]]), MACHINE)
    assert [p.path for p in caught.value.problems] == ["F", "LEN", "PT"]


@pytest.mark.parametrize("name", ["attention-1pass", "attention-1pass-causal"])
def test_the_rival_computes_attention_by_pointers_and_by_descriptors(name):
    workload = bind(load_cascade(name), {"B": 1, "H": 2, "P": 256, "M": 256, "E": 64, "F": 64, "M0": 64})
    inputs, exact = oracle_case(workload, 0)
    kernels = tuple(tutorial.candidates(workload, causal=name.endswith("causal")))
    tiles = {(dict(k.constants)["BLOCK_M"], dict(k.constants)["BLOCK_N"]) for k in kernels}
    assert len(kernels) == (36 if name.endswith("causal") else 42) and (128, 128) in tiles
    for kernel in (kernels[0], kernels[-1]):
        assert relative_error(run((kernel,), inputs)["AV"], exact["AV"]) <= TOLERANCE["bf16"]
    result = profile(kernels[-1])
    assert result.total("spills") == 0 and result.value("instructions", place="main loop", detail="HGMMA") > 0
