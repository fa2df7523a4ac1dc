"""Ragged experts: mappings whose loops end where a routing says, against a walk over experts, chunks and rows."""

import math
from dataclasses import replace

import numpy as np
import pytest

from arch.read import load as load_machine
from einsum.bind import bind
from einsum.library import load as load_cascade
from einsum.occupancy import Occupancy
from einsum.parse import parse
from einsum.problems import InputError
from mapper.check import check
from mapper.chunks import chunked, one_by_one, one_expert
from mapper.cost import cost
from mapper.library import make
from mapper.nest import nest
from mapper.search.answer import search
from mapper.yaml import loads
from sim.run import simulate

TEXT = """cascade ragged
tensor X[e,c,d]: bf16
tensor W[e,d,f]: bf16
tensor N[e]: int32
tensor Y[e,c,f]: bf16
Y[e,c,f] | c < N[e] = X[e,c,d] * W[e,d,f]
"""
MAPPING = """\
stepfall: mapping/1
name: chunks
cascade: ragged
machine: fusemax
groups:
  - name: Y
    body:
      - {for: e, hold: [{tensor: N, in: buffer}]}
      - {for: c, tile: OUTER, extent: guard, hold: [{tensor: W, in: buffer}, {tensor: X, in: buffer}]}
      - {for: c, tile: INNER, extent: guard, hold: [{tensor: Y, in: buffer}]}
      - pipe: [{compute: Y, on: pe_2d, loops: [{for: d}, {for: c, over: array_2d.col}, {for: f, over: array_2d.row}]}]
        open: 2
        ahead: 2
"""
FUSEMAX, TPU, H100 = load_machine("fusemax"), load_machine("tpu-v4i"), load_machine("h100")
CASCADE = parse(TEXT)
D, F = 24, 32


def ragged(counts, outer, inner, most=0):
    counts = np.array(counts)
    sizes = {"E": len(counts), "C": most or max(1, int(counts.max())), "D": D, "F": F}
    workload = bind(CASCADE, sizes, given={"N": counts})
    mapping = loads(MAPPING.replace("OUTER", str(outer)).replace("INNER", str(inner)))
    check(mapping, workload, FUSEMAX)
    return mapping, workload


def walk(counts, outer, inner):
    """(tiles, elements of W, X and Y that leave or enter dram) of the mapping, expert by expert."""
    tiles = weights = rows = 0
    for count in counts:
        for start in range(0, count, outer):
            chunk = range(start, min(start + outer, count))
            weights += D * F
            rows += len(chunk)
            tiles += len({c // inner for c in chunk})
    return tiles, weights, rows * D, rows * F


CASES = [([3, 0, 8, 5], 4, 2), ([1, 1, 1], 8, 8), ([16, 7, 9, 0, 0, 13], 8, 4), ([31, 2], 6, 3), ([0, 0, 5], 5, 5)]


@pytest.mark.parametrize(("counts", "outer", "inner"), CASES)
@pytest.mark.parametrize("most", [0, 40])
def test_what_moves_and_what_is_computed(counts, outer, inner, most):
    """However long the rank of rows is said to be: only the lengths count."""
    mapping, workload = ragged(counts, outer, inner, most)
    tiles, weights, inputs, outputs = walk(counts, outer, inner)
    for result in (cost(mapping, workload, FUSEMAX), simulate(mapping, workload, FUSEMAX, fold=False)):
        used = (("W", "read"), ("X", "read"), ("Y", "write"))
        moved = [result.total("bytes", tensor=tensor, place="dram", detail=way) / 2 for tensor, way in used]
        assert result.value("tiles") == tiles
        assert moved == [weights, inputs, outputs]
        assert result.total("operations", detail="mac", boundary="issued") == sum(counts) * D * F
    closed = cost(mapping, workload, FUSEMAX)
    assert closed.total("operations", detail="mac", boundary="useful") == sum(counts) * D * F
    assert closed.value("combines", boundary="issued") == sum(counts) * (D - 1) * F


@pytest.mark.parametrize("seed", range(12))
def test_iterations_are_counted_exactly_and_folding_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    inner = int(rng.integers(1, 5))
    counts, outer = rng.integers(0, 30, int(rng.integers(1, 9))), inner * int(rng.integers(1, 4))
    counts[0] = max(1, counts[0])
    mapping, workload = ragged(counts, outer, inner, most=int(rng.choice([0, 33])))
    assert nest((*walked(mapping),), workload).count() == walk(counts, outer, inner)[0]
    full, folded = (simulate(mapping, workload, FUSEMAX, fold=fold) for fold in (False, True))
    assert full.rows == folded.rows
    assert folded.latency_s >= cost(mapping, workload, FUSEMAX).latency_s * (1 - 1e-9)


def walked(mapping):
    node = mapping.groups[0].body[0]
    while hasattr(node, "ranks"):
        yield node
        node = node.body[0]


def test_full_lengths_are_the_dense_case():
    """Every expert with as many rows as the rank has: bytes and operations are those without any length."""
    mapping, workload = ragged([12, 12, 12], 4, 2)
    dense = cost(mapping, replace(workload, given={}), FUSEMAX)
    assert cost(mapping, workload, FUSEMAX).rows == dense.rows


def test_without_lengths_every_expert_has_all_rows():
    mapping, workload = ragged([3, 0, 8, 5], 4, 2, most=12)
    upper = cost(mapping, replace(workload, given={}), FUSEMAX)
    assert upper.total("operations", detail="mac", boundary="issued") == 4 * 12 * D * F
    assert upper.latency_s > cost(mapping, workload, FUSEMAX).latency_s


WRONG = {
    "experts inside": ("- {for: e, hold: [{tensor: N, in: buffer}]}\n      - {for: c, tile: 4, extent: guard, hold: "
                       "[{tensor: W, in: buffer}, {tensor: X, in: buffer}]}",
                       "- {for: c, tile: 4, extent: guard}\n      - {for: e, hold: [{tensor: N, in: buffer}]}"),
    "two experts at once": ("{for: e, hold: [{tensor: N, in: buffer}]}",
                            "{for: e, tile: 2, hold: [{tensor: N, in: buffer}]}"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_length_bounds_a_loop_inside_that_over_experts(name):
    old, new = WRONG[name]
    text = MAPPING.replace("OUTER", "4").replace("INNER", "2")
    assert old in text
    workload = bind(CASCADE, {"E": 4, "C": 8, "D": D, "F": F})
    with pytest.raises(InputError, match="by a length of each e, which one loop has to walk one by one"):
        check(loads(text.replace(old, new)), workload, FUSEMAX)


def test_no_loop_is_bounded_inside_one_that_a_reduction_walks():
    """A sum over experts by the group would end at another one for each row."""
    cascade = parse(TEXT + "Z[c,f] = Y[e,c,f]\n")
    text = MAPPING.replace("OUTER", "4").replace("INNER", "2").replace("pipe: [", "pipe: [{compute: Z, on: pe_1d}, ")
    workload = bind(cascade, {"E": 4, "C": 8, "D": D, "F": F})
    with pytest.raises(InputError, match="bounded by the loop over e around it, which a reduction walks"):
        check(loads(text), workload, FUSEMAX)


def experts(kind, tokens=96, count=8, machine=TPU):
    routing = Occupancy(*kind).draw(tokens, count, 2)
    sizes = {"E": count, "D": 128, "I": 256, "C": int(routing.counts.max())}
    return bind(load_cascade("moe-ragged"), sizes, given=routing.given(load_cascade("moe-ragged"))), routing


@pytest.mark.parametrize("kind", [("even", 0.0), ("uniform", 0.0, 1), ("zipf", 0.6, 2), ("zipf", 2.0, 3)], ids=str)
def test_found_chunks_compute_what_the_routing_asks_for(kind):
    workload, routing = experts(kind)
    found = chunked(workload, TPU)
    assert list(found) == [2**i for i in range(4, 4 + len(found))] and max(found) >= routing.counts.max()
    for rows, answer in found.items():
        run = simulate(answer.mapping, workload, TPU)
        chunks = int(sum(math.ceil(n / rows) for n in routing.counts))
        for result in (answer.result, run):
            macs = result.total("operations", detail="mac", boundary="issued")
            assert macs == 3 * routing.counts.sum() * 128 * 256
            read = {t: result.total("bytes", tensor=t, place="dram", detail="read") / 2 for t in ("W1", "W2")}
            assert all(elements >= routing.active * 128 * 256 for elements in read.values())
            assert all(elements <= chunks * rows * 128 * 256 for elements in read.values())
        assert run.total("bytes", place="dram") == pytest.approx(answer.result.total("bytes", place="dram"), rel=1e-12)
        assert run.latency_s >= answer.latency_s * (1 - 1e-9)


def test_one_full_chunk_an_expert_costs_as_much_as_the_experts_alone():
    """Equal experts of one chunk: the bytes of one, as often as there are experts, but for the lengths."""
    workload, routing = experts(("even", 0.0), tokens=64, count=4)
    assert set(routing.counts) == {32}
    alone = search(one_expert(workload, 32), TPU).found[0]
    whole = cost(one_by_one(alone.mapping, workload, TPU, 32), workload, TPU)
    for tensor in ("XE", "W1", "W3", "W2", "H", "YE"):
        for detail in ("read", "write"):
            one = alone.result.total("bytes", tensor=tensor, place="dram", detail=detail)
            assert whole.total("bytes", tensor=tensor, place="dram", detail=detail) == 4 * one
    assert whole.latency_s == pytest.approx(4 * alone.latency_s, rel=1e-3)


def test_skewed_routing_costs_more_than_an_even_split_on_a_gpu():
    cascade = load_cascade("moe-grouped")
    sizes = {"T": 512, "K": 4, "E": 32, "D": 256, "I": 128}
    mapping, workload = make("gpu-moe", cascade, H100, sizes)
    check(mapping, workload, H100)
    results = {}
    for kind in (("even", 0.0), ("zipf", 0.6)):
        known = Occupancy(*kind).draw(512, 32, 4).given(cascade)
        results[kind[0]] = cost(mapping, replace(workload, given=known), H100)
    macs = lambda kind, boundary: results[kind].total("operations", einsum="U", detail="mac", boundary=boundary)
    assert macs("even", "issued") == macs("even", "useful") == macs("zipf", "useful") == 2048 * 256 * 256
    assert macs("zipf", "issued") > macs("zipf", "useful")
    assert results["zipf"].latency_s > results["even"].latency_s


def test_refusals():
    gemm = bind(load_cascade("gemm"), {"M": 4, "N": 4, "K": 4})
    with pytest.raises(InputError, match="ragged experts are Einsums that all have one guard by a length"):
        chunked(gemm, TPU)
    workload, _ = experts(("even", 0.0))
    with pytest.raises(InputError, match="moe-ragged: the lengths COUNT are not given: name a routing"):
        chunked(replace(workload, given={}), TPU)
    with pytest.raises(InputError, match="gpu-moe maps moe-grouped"):
        make("gpu-moe", load_cascade("moe-ragged"), H100, {"T": 4, "K": 2, "E": 4, "D": 16, "I": 16})
    sizes = {"E": 4, "C": 8, "D": D, "F": F}
    for given, what in (({"N": np.zeros(5)}, r"N must have shape \(4,\) \(got \(5,\)\)"),
                        ({"M": np.zeros(4)}, r"no such input \(got M\)")):  # fmt: skip
        with pytest.raises(InputError, match=what):
            bind(CASCADE, sizes, given=given)
