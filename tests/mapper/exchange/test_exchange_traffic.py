"""Imported mappings cost what the other tool's rules say, counted here by walking their own loop nests."""

import numpy as np
import pytest
from exchange_files import imported, plain, split_in, text_of, walked

from arch.read import load
from einsum.bind import bind
from mapper.check import check
from mapper.cost import cost
from mapper.exchange.formats import written
from mapper.mapping import leaves

TENSORS = {"A": "mk", "B": "kn", "C": "mn"}


def costed(made, machine=None, sizes=None):
    workload = bind(made.cascade, sizes or {})
    check(made.mapping, workload, machine or made.machine)
    return cost(made.mapping, workload, machine or made.machine)


def moved(result, place, tensor, detail):
    return result.total("bytes", place=place, tensor=tensor, detail=detail)


def test_timeloop_gemm_by_hand():
    """Tiles of 16 x 8 results stay in the buffer while k is walked, so A passes N/8 times and B M/16 times."""
    m, n, k, word = 64, 32, 128, 2
    ours = costed(imported("timeloop/gemm.yaml"))
    assert moved(ours, "DRAM", "A", "read") == m * k * (n / 8) * word
    assert moved(ours, "DRAM", "B", "read") == k * n * (m / 16) * word
    assert moved(ours, "DRAM", "C", "write") == m * n * word
    assert ours.total("bytes", place="DRAM") == (m * k * n / 8 + k * n * m / 16 + m * n) * word
    assert ours.latency_s == pytest.approx(m * n * k / 32 / 1e9)  # every multiplier works in every cycle


def test_accelforge_gemm_by_hand():
    """Sixteen rows of A and C at a time, and all of B for each sixteen."""
    m, n, k = 64, 32, 128
    ours = costed(imported("accelforge/gemm.yaml"))
    assert ours.total("bytes", place="MainMemory") == m * k * 1 + k * n * (m / 16) * 1 + m * n * 4
    assert ours.total("footprint", place="Buffer") == 16 * k + 16 * n * 4 + 32 * n


def test_accelforge_fused_products_keep_their_intermediate():
    """Weights once, X in and Y out once; T never leaves the buffer; then Y in again and Z out."""
    made, word = imported("accelforge/fused.yaml"), 2
    ours = costed(made)
    m, i, j, k, n = 64, 16, 32, 8, 4
    fused = i * j + j * k + m * i + m * k
    assert ours.total("bytes", place="MainMemory") == (fused + k * n + m * k + m * n) * word
    assert [group.name for group in made.mapping.groups] == ["T+Y", "Z"]


def test_an_intermediate_that_is_backed_outside_goes_there_and_back():
    data = plain("accelforge/fused.yaml")
    data["mapping"]["nodes"][0]["tensors"].append("T")
    inside = costed(imported("accelforge/fused.yaml")).total("bytes", place="MainMemory")
    assert costed(imported("accelforge/fused.yaml", text_of(data))).total("bytes", place="MainMemory") == (
        inside + 64 * 32 * 2
    )


def test_teaal_gemm_by_hand():
    m, n, k, word = 256, 128, 64, 4
    ours = costed(imported("teaal/gemm.yaml"), load("systolic-128"), {"M": m, "N": n, "K": k})
    expected = m * k * (n / 32) + k * n * (m / 64) + m * n
    assert ours.total("bytes", place="dram") == expected * word


CONVOLUTION = """
problem:
  shape:
    name: conv
    dimensions: [C, K, R, P]
    data_spaces:
    - {{name: Weights, projection: [[[C]], [[K]], [[R]]]}}
    - {{name: Inputs, projection: [[[C]], [[R], [P]]]}}
    - {{name: Outputs, projection: [[[K]], [[P]]], read_write: True}}
  instance: {{C: {channels}, K: 32, R: 3, P: 16}}
architecture:
  nodes:
  - !Container {{name: system, attributes: {{global_cycle_seconds: 1e-9, datawidth: 8}}}}
  - !Component {{name: MainMemory, class: DRAM, attributes: {{width: 256}}}}
  - !Container {{name: PE, spatial: {{meshX: 16}}}}
  - !Component {{name: GlobalBuffer, class: SRAM, attributes: {{depth: 32768, width: 64}}}}
  - !Component {{name: RegisterFile, class: regfile, attributes: {{depth: 64, width: 8}}}}
  - !Component {{name: MACC, class: intmac}}
mapping:
{mapping}
"""


def test_timeloops_own_counts_of_a_convolution_with_bypass():
    """Timeloop's published result of the ISPASS 2020 tutorial, exercise 03 (conv1d+oc-3level, bypass): scalar reads,
    fills and updates a level, in words of a byte."""
    mapping = """
- {target: GlobalBuffer, type: temporal, factors: "R=1,P=16,K=16", permutation: PRK}
- {target: GlobalBuffer, type: bypass, keep: [Weights, Inputs], bypass: [Outputs]}
- {target: RegisterFile, type: temporal, factors: "R=3,P=1,K=2", permutation: RPK}
- {target: RegisterFile, type: bypass, keep: [Outputs], bypass: [Weights, Inputs]}
"""
    made = imported("timeloop/conv.yaml", CONVOLUTION.format(channels=1, mapping=mapping))
    ours = costed(made)
    assert {t: moved(ours, "MainMemory", t, "read") for t in ("Weights", "Inputs")} == {"Weights": 96, "Inputs": 18}
    assert moved(ours, "MainMemory", "Outputs", "write") == 512
    assert {t: moved(ours, "GlobalBuffer", t, "write") for t in ("Weights", "Inputs")} == {"Weights": 96, "Inputs": 18}
    assert {t: moved(ours, "GlobalBuffer", t, "read") for t in ("Weights", "Inputs")} == {
        "Weights": 1536,
        "Inputs": 1536,
    }
    assert ours.total("footprint", place="RegisterFile") == 2


def test_timeloops_own_counts_of_a_convolution_on_sixteen_elements():
    """The same, exercise 04 (conv1d+oc-3levelspatial, kp): output channels over 16 elements, each with both buffers.
    Timeloop counts 1152 reads of inputs an element, as tiles overlap: that is said not to carry over. Partial sums come
    back 992 times an element, and results leave once."""
    mapping = """
- {target: inter_PE_spatial, type: spatial, factors: "R=1,P=1,K=16,C=1", permutation: PRKC}
- {target: GlobalBuffer, type: temporal, factors: "R=3,P=1,K=2,C=32", permutation: PRKC}
- {target: RegisterFile, type: temporal, factors: "R=1,P=16,K=1,C=1", permutation: RPKC}
"""
    made = imported("timeloop/conv.yaml", CONVOLUTION.format(channels=32, mapping=mapping))
    ours = costed(made)
    assert moved(ours, "MainMemory", "Weights", "read") == 3072
    assert moved(ours, "MainMemory", "Inputs", "read") == 576
    assert moved(ours, "MainMemory", "Outputs", "write") == 512
    assert moved(ours, "GlobalBuffer", "Weights", "write") == 16 * 192
    assert moved(ours, "GlobalBuffer", "Inputs", "write") == 16 * 576
    assert moved(ours, "GlobalBuffer", "Weights", "read") == 16 * 192
    assert moved(ours, "RegisterFile", "Weights", "write") == 16 * 192
    assert moved(ours, "GlobalBuffer", "Outputs", "write") == 16 * 1024
    assert moved(ours, "GlobalBuffer", "Outputs", "read") == 16 * 992 + 512
    held = {row.tensor: row.value for row in ours.select("footprint", place="GlobalBuffer")}
    assert held == {"Weights": 192, "Inputs": 576, "Outputs": 32}
    said = " ".join(p.what for p in made.lost)
    assert "tiles of Inputs overlap" in said


def timeloop(rng):
    """A random mapping of the example: factors, orders, and what the registers keep; and its nest, outermost first."""
    data = plain("timeloop/gemm.yaml")
    sizes = {"m": 16, "n": 8, "k": 12}
    data["architecture"]["nodes"][4]["attributes"]["depth"] = 4096  # everything fits
    data["problem"]["instance"] = {r.upper(): n for r, n in sizes.items()}
    factors = {r: split_in(rng, n, 4) for r, n in sizes.items()}
    for rank, axis in (("m", 4), ("n", 8)):  # a row of PEs for m, one for n, as far as they fit
        while factors[rank][2] > axis:
            factors[rank][2] //= 2
            factors[rank][1] *= 2
    factors["k"][1], factors["k"][2] = factors["k"][1] * factors["k"][2], 1
    orders = [[str(r) for r in rng.permutation(list("mnk"))] for _ in range(4)]
    keep = [t for t in TENSORS if rng.integers(2)]
    levels = zip(("DRAM", "buffer", "PE", "registers"), range(4), strict=True)
    data["mapping"] = [
        {
            "target": name,
            "type": "spatial" if name == "PE" else "temporal",
            "factors": ",".join(f"{r.upper()}={factors[r][i]}" for r in "mnk"),
            "permutation": "".join(orders[i][::-1]).upper() if name != "PE" else "MNK",
            **({"split": 1} if name == "PE" else {}),
        }
        for name, i in levels
    ]
    data["mapping"].append(
        {"target": "registers", "type": "bypass", "keep": keep, "bypass": [*set(TENSORS) - set(keep)]}
    )
    nest = [[(r, factors[r][i]) for r in orders[i]] for i in range(4)]
    return text_of(data), sizes, nest, keep


def fetches(loops, ranks):
    """How often a tile changes that the loops outside of it vary: Timeloop fetches nothing while it stays."""
    tiles, last = 0, None
    for index in walked(loops):
        tile = tuple(i for at, i in index.items() if loops[at][0] in ranks)
        tiles, last = tiles + (tile != last), tile
    return tiles


@pytest.mark.parametrize("seed", range(40))
def test_random_timeloop_mappings_equal_a_walk_of_their_nest(seed):
    text, _, (dram, buffer, pe, registers), keep = timeloop(np.random.default_rng(seed))
    made = imported("timeloop/gemm.yaml", text)
    spilled = [p for p in made.lost if "accumulates C" in p.what]
    if spilled:  # partial sums that leave the chip cannot be costed here, and that is said
        assert any(r == "k" and n > 1 for r, n in dram) or "C" in keep
        return
    ours = costed(made)
    extent = lambda levels, rank: int(np.prod([n for level in levels for r, n in level if r == rank]))
    for tensor, ranks in TENSORS.items():
        tile = int(np.prod([extent((buffer, pe, registers), r) for r in ranks])) * 2
        detail = "write" if tensor == "C" else "read"
        assert moved(ours, "DRAM", tensor, detail) == fetches(dram, ranks) * tile
        if tensor in keep and tensor != "C":
            share = int(np.prod([extent((pe, registers), r) for r in ranks])) * 2
            assert moved(ours, "buffer", tensor, "read") == fetches([*dram, *buffer], ranks) * share
            copies = int(np.prod([n for r, n in pe if r not in ranks]))
            assert moved(ours, "registers", tensor, "write") == fetches([*dram, *buffer], ranks) * share * copies


def accelforge(rng):
    """A random LoopTree of the example: factors, orders, where tensors are stored; and the loops above each of them."""
    data = plain("accelforge/gemm.yaml")
    sizes = {"m": 16, "n": 8, "k": 12}
    data["arch"]["nodes"][4]["size"] = "inf"
    data["workload"]["rank_sizes"] = {r.upper(): n for r, n in sizes.items()}
    factors = {r: split_in(rng, n, 3) for r, n in sizes.items()}
    spread = {"n": factors["n"][1], "k": 4 if factors["k"][1] % 4 == 0 else 1, "m": 1}
    left, nodes, nest = dict(sizes), data["mapping"]["nodes"][:1], []

    def loop(rank, n, **where):
        left[rank] //= n
        nest.append((rank, n, bool(where)))
        tag = "Spatial" if where else "Temporal"
        nodes.append({"!": tag, "rank_variable": rank, **where, "tile_shape": left[rank]})

    first, last = ([str(r) for r in rng.permutation(list("mnk"))] for _ in range(2))
    outputs = first.index("k")  # C is held around the loops over k, the others wherever it falls
    stores = {tensor: int(rng.integers(4)) for tensor in "AB"} | {"C": int(rng.integers(outputs + 1))}
    held = {}
    for depth in range(4):
        for tensor in (t for t in stores if stores[t] == depth):
            held[tensor] = (list(nest), dict(left))
            nodes.append({"!": "Storage", "tensors": [tensor], "component": "Buffer"})
        if depth < 3:
            loop(first[depth], factors[first[depth]][0])
    loop("n", spread["n"], name="row", component="Array")
    loop("k", spread["k"], name="col", component="Array")
    held["register"] = (list(nest), dict(left))
    nodes.append({"!": "Storage", "tensors": ["B"], "component": "Register"})
    for rank in last:
        loop(rank, left[rank])
    nodes.append({"!": "Compute", "einsum": "C", "component": "MAC"})
    data["mapping"]["nodes"] = nodes
    return text_of(data), held


@pytest.mark.parametrize("seed", range(40))
def test_random_looptrees_fetch_a_tile_for_every_iteration_above(seed):
    text, held = accelforge(np.random.default_rng(seed))
    made = imported("accelforge/gemm.yaml", text)
    ours = costed(made)
    for tensor, ranks in TENSORS.items():
        above, left = held[tensor]
        tile = int(np.prod([left[r] for r in ranks])) * (4 if tensor == "C" else 1)
        times = int(np.prod([n for _, n, _ in above]))
        assert moved(ours, "MainMemory", tensor, "write" if tensor == "C" else "read") == times * tile
    above, left = held["register"]
    times = int(np.prod([n for _, n, spatial in above if not spatial]))
    everywhere = left["k"] * left["n"] * int(np.prod([n for _, n, spatial in above if spatial]))
    assert moved(ours, "Register", "B", "write") == times * everywhere


def test_the_notation_of_timeloops_own_mapper_is_the_same_mapping():
    """Levels innermost first, `datatype` for bypass, factors without `=`, and a fanout as a level of its own."""
    data = plain("timeloop/gemm.yaml")
    one = {"type": "temporal", "factors": "M1 N1 K1", "permutation": "MNK"}
    data["mapping"] = [
        {"target": "registers", "type": "datatype", "keep": ["C"], "bypass": ["A", "B"]},
        {"target": "inter_PE_spatial", "type": "datatype", "keep": [], "bypass": ["A", "B", "C"]},
        {"target": "buffer", "type": "datatype", "keep": ["A", "B", "C"], "bypass": []},
        {"target": "registers", "type": "temporal", "factors": "M1 N1 K4", "permutation": "KMN"},
        {"target": "inter_PE_spatial", "type": "spatial", "factors": "M4 N8 K1", "permutation": "MNK", "split": 1},
        {"target": "inter_PE_spatial", **one},
        {"target": "buffer", "type": "temporal", "factors": "M4 N1 K0", "permutation": "KMN"},
        {"target": "DRAM", "type": "temporal", "factors": "M4 N4 K2", "permutation": "KMN"},
    ]
    made = imported("timeloop/gemm.yaml", text_of(data))
    assert made.mapping.groups == imported("timeloop/gemm.yaml").mapping.groups
    assert [p.what for p in made.lost] == [p.what for p in imported("timeloop/gemm.yaml").lost]


def test_a_fused_leaf_keeps_its_spatial_loops():
    """An array below the buffer of the fused example: the loops of one branch are the leaf's own, in their order."""
    data = plain("accelforge/fused.yaml")
    data["arch"]["nodes"].insert(2, {"!": "Container", "name": "Row", "spatial": [{"name": "x", "fanout": 8}]})
    branch = data["mapping"]["nodes"][1]["nodes"][0]["nodes"][3]["nodes"][0]["nodes"]
    branch[0] = {"!": "Spatial", "name": "x", "component": "Row", "rank_variable": "m", "tile_shape": 1}
    made = imported("accelforge/fused.yaml", text_of(data))
    assert made.lost == ()
    first, second = (leaf.node for leaf in leaves(made.mapping) if leaf.group == "T+Y")
    assert [(loop.ranks, loop.over) for loop in first.loops] == [(("m",), "Row.x"), (("j",), None), (("i",), None)]
    assert all(loop.over is None for loop in second.loops)
    ours = costed(made)
    busy = {name: ours.total("busy", einsum=name, place="MAC") for name in "TY"}
    assert busy["T"] == pytest.approx(64 * 16 * 32 / 8 * 1e-9) and busy["Y"] == pytest.approx(64 * 32 * 8 * 1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_random_mappings_come_back_equal(seed):
    rng = np.random.default_rng(seed)
    for form, text in (("timeloop", timeloop(rng)[0]), ("accelforge", accelforge(rng)[0])):
        made = imported(f"{form}/gemm.yaml", text)
        if any("cannot be costed" in p.what for p in made.lost):
            continue
        again, _ = written(form, bind(made.cascade, {}), made.machine, made.mapping)
        assert imported(f"{form}/gemm.yaml", again).mapping.groups == made.mapping.groups


def test_a_mapping_goes_from_one_tool_to_the_other():
    made = imported("timeloop/gemm.yaml")
    text, _ = written("accelforge", bind(made.cascade, {}), made.machine, made.mapping)
    there = imported("accelforge/gemm.yaml", text)
    assert there.mapping.groups == made.mapping.groups
    assert costed(there).energy_j == costed(made).energy_j
