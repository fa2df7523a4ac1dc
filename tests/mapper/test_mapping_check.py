"""Bad mappings: each mistake is refused with its line and what was probably meant, all of a round at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from arch.read import load as load_machine
from einsum.library import load as load_cascade
from einsum.problems import InputError
from mapper.check import check
from mapper.library import bound, make
from mapper.mapping import GUARD, Compute, Hold, Loop
from mapper.random_mapping import random_case
from mapper.sites import of_type, sites
from mapper.yaml import dump_mapping, loads

GOLDEN = Path(__file__).parent / "golden" / "mapping_problems.txt"
SIZES = {"B": 1, "H": 2, "M": 512, "P": 512, "E": 4, "F": 4}
CASCADE = load_cascade("attention-1pass")
FUSEMAX = load_machine("fusemax")
BINDING = dump_mapping(make("fusemax-binding", CASCADE, FUSEMAX, SIZES)[0])
ARCHITECTURE = dump_mapping(make("fusemax-architecture", CASCADE, FUSEMAX, SIZES)[0])
H100 = load_machine("h100")
FLASH = dump_mapping(make("flash-attention", CASCADE, H100, SIZES)[0])


def message(text, *swaps, machine=FUSEMAX):
    """What `check` says after replacing the first occurrence of each (old, new) in the mapping's text."""
    for old, new in swaps:
        assert old in text, old
        text = text.replace(old, new, 1)
    with pytest.raises(InputError) as error:
        mapping = loads(text, "f.yaml")
        workload = bound(mapping, CASCADE, SIZES)
        check(mapping, workload, machine)
    for problem in error.value.problems:
        assert str(problem).count("\n") < 5
    return str(error.value)


def test_the_unchanged_mappings_are_legal():
    for text, machine in ((BINDING, FUSEMAX), (ARCHITECTURE, FUSEMAX), (FLASH, H100)):
        mapping = loads(text)
        check(mapping, bound(mapping, CASCADE, SIZES), machine)


@pytest.mark.parametrize("seed", range(20))
def test_random_legal_mappings_pass(seed):
    mapping, workload, machine = random_case(seed, CASCADE, load_cascade("attention-1pass-causal"))
    check(mapping, workload, machine)


CASES = {
    "misspelt key": [("ahead: 4", "ahed: 4")],
    "two schedules": [("  ahead: 4", "  phases: []")],
    "tile count": [("tile: 512", "tile: [512, 2]")],
    "unknown unit": [("compute: LM\n            on: pe_2d", "compute: LM\n            on: pe2d")],
    "unknown Einsum": [("compute: SLNV", "compute: SNLV")],
    "unknown memory": [("{tensor: RD, in: buffer}", "{tensor: RD, in: bufer}")],
    "unknown tensor": [("{tensor: RD, in: buffer}", "{tensor: RR, in: buffer}")],
    "unknown rank": [("{for: h}", "{for: hh}")],
    "unknown axis": [("over: array_2d.col", "over: array_2d.column")],
    "unknown leaf in order": [("[SLN, SLD,", "[SLN, SLDD,")],
    "Einsum twice": [("{compute: RD,", "{compute: RM,")],
    "view computed": [("{compute: RD, on: pe_1d,", "{compute: BK, on: pe_1d,")],
    "move": [("- {compute: RD,", "- {move: Q, from: dram, to: buffer}\n          - {compute: RD,")],
    "offset": [("- for: m1\n", "- for: m1\n        offset: p\n")],
    "combine": [("- for: m1\n", "- for: m1\n        combine: atomic\n")],
    "ragged extent": [("- for: m1\n", "- for: m1\n        extent: [1, 2]\n")],
    "shares": [("compute: SLNV\n", "compute: SLNV\n            shares: {pe_1d: 0.5}\n")],
    "spread": [("{tensor: RD, in: buffer}", "{tensor: RD, in: buffer, over: array_1d.lane, spread: sharded}")],
    "product over time": [("- {for: b}\n      - {for: h}", "- {for: [b, h]}")],
    "unit lacks class": [
        ("- compute: AV\n            on: pe_1d", "- compute: AV\n            on: pe_2d"),
        (
            "{for: f}, {for: p, over: array_1d.lane}]\n        open",
            "{for: f}, {for: p, over: array_2d.col}]\n        open",
        ),
        ("BQK, LM]", "BQK, LM, AV]"),
        (", RNV, AV]", ", RNV]"),
    ],
    "rank not mapped": [("[{for: e}, {for: p,", "[{for: p,")],
    "tile left over": [("[{for: e},", "[{for: e, tile: 2},")],
    "foreign private rank": [("[{for: e},", "[{for: f}, {for: e},")],
    "repeated without at": [("            at: {m1: last}\n", "")],
    "at on own rank": [
        ("compute: LM\n            on: pe_2d", "compute: LM\n            on: pe_2d\n            at: {m1: last}")
    ],
    "tile grows inward": [("tile: 256", "tile: 1024")],
    "tile does not divide": [("tile: 512", "tile: 384")],
    "axis of another array": [
        (
            "{compute: RM, on: pe_1d, stage: 1, loops: [{for: p, over: array_1d.lane}",
            "{compute: RM, on: pe_1d, stage: 1, loops: [{for: p, over: array_2d.col}",
        )
    ],
    "axis too small": [("- for: p\n        tile: 256", "- for: p\n        tile: 512")],
    "axis cannot reduce": [
        (
            "pe_2d\n            loops: [{for: p, over: array_2d.col}, {for: m0, over: array_2d.row}",
            "pe_2d\n            loops: [{for: m0, over: array_2d.col}, {for: p, over: array_2d.row}",
        )
    ],
    "axis taken twice": [
        (
            "{for: p, over: array_2d.col}, {for: m0, over: array_2d.row}]\n          - compute: LM",
            "{for: p, over: array_2d.row}, {for: m0, over: array_2d.row}]\n          - compute: LM",
        )
    ],
    "no guard": [("- for: m1\n", "- for: m1\n        extent: guard\n")],
    "fill of a temporal loop": [("- for: m1\n", "- for: m1\n        fill: dynamic\n")],
    "held by nobody": [
        ("{tensor: Q, in: buffer, deep: 2}", "{tensor: Q, in: buffer, deep: 2, users: [AV]}"),
    ],
    "held farther out": [("- for: m1\n        hold: [", "- for: m1\n        hold: [{tensor: PRM, in: regs_2d}, ")],
    "held twice": [("- for: m1\n        hold: [", "- for: m1\n        hold: [{tensor: Q, in: buffer}, ")],
    "nowhere to live": [("          - {tensor: LM, in: regs_1d, deep: 2}\n", "")],
    "state not held outside": [
        ("          - {tensor: RD, in: buffer}\n", ""),
        ("- for: m1\n        hold: [", "- for: m1\n        hold: [{tensor: RD, in: buffer}, "),
    ],
    "along": [("along: f}\n      - pipe", "along: e}\n      - pipe")],
    "wrong stage": [
        ("compute: BQK\n            on: pe_2d\n", "compute: BQK\n            on: pe_2d\n            stage: 1\n")
    ],
    "stage without open": [("open: 2", "open: 1")],
    "order leaves out": [(", BQK, LM]", ", BQK]")],
    "order names a stranger": [(", BQK, LM]", ", BQK, LM, RM]")],
    "order names twice": [(", BQK, LM]", ", BQK, LM, BQK]")],
    "order deadlocks": [("[SLN, SLD, SLNV, BQK, LM]", "[SLD, SLN, SLNV, BQK, LM]")],
    "after itself": [("  - name: attention\n", "  - name: attention\n    after: [attention]\n")],
    "part of the machine": [("  - name: attention\n", "  - name: attention\n    share: 0.5\n")],
    "buffer too small": [("{tensor: Q, in: buffer, deep: 2}", "{tensor: Q, in: buffer, deep: 4096}")],
}
PHASES = {
    "phases deadlock": [
        ("{leaves: [RM]}", "{leaves: [SLN, SLD, PRM, SPD]}"),
        ("{leaves: [SLN, SLD, PRM, SPD]}\n          - {leaves: [SLNV", "{leaves: [RM]}\n          - {leaves: [SLNV"),
    ],
    "phases leave out": [("{leaves: [RM]}", "{leaves: []}")],
    "unknown drain": [("drain: pe_2d", "drain: pe_3d")],
}
GPU = {
    "repeated over an axis": [
        ("for: [b, h, p]\n        tile: [1, 1, 64]", "for: [b, h, p, f]\n        tile: [1, 1, 64, 2]")
    ],
    "stage in a sequence": [("{compute: LM, on: fma,", "{compute: LM, on: fma, stage: 1,")],
    "state over an axis": [
        ("for: [b, h, p]\n        tile: [1, 1, 64]", "for: [b, h, p, m1]\n        tile: [1, 1, 64, 1]")
    ],
    "registers too small": [("sizes: {M0: 64}", "sizes: {M0: 4096}")],
}
BAD = {
    **{name: (BINDING, swaps, FUSEMAX) for name, swaps in CASES.items()},
    **{name: (ARCHITECTURE, swaps, FUSEMAX) for name, swaps in PHASES.items()},
    **{name: (FLASH, swaps, H100) for name, swaps in GPU.items()},
}


def said(name):
    text, swaps, machine = BAD[name]
    return message(text, *swaps, machine=machine)


@pytest.mark.parametrize("name", BAD)
def test_message(name):
    assert said(name) == dict(read_golden())[name]


def read_golden():
    for part in GOLDEN.read_text().split("## ")[1:]:
        name, _, text = part.partition("\n")
        yield name, text.rstrip("\n")


@pytest.mark.parametrize("seed", range(8))
def test_a_legal_mapping_without_any_one_leaf_or_intermediate_is_refused(seed):
    mapping, workload, machine = random_case(seed, CASCADE, load_cascade("attention-1pass-causal"))
    text = dump_mapping(mapping)
    leaves = [leaf.node.einsum for leaf in of_type(sites(mapping), Compute)]
    tensors = [h.tensor for loop in of_type(sites(mapping), Loop) for h in loop.node.holds if h.tensor in leaves]
    assert len(leaves) == 12 and len(set(tensors)) == 11
    for name in leaves:
        changed = without(mapping, lambda node, name=name: isinstance(node, Compute) and node.einsum == name)
        with pytest.raises(InputError, match=f"Einsum {name} is computed by no leaf"):
            check(changed, workload, machine)
    for name in tensors:
        changed = without(mapping, lambda node, name=name: isinstance(node, Hold) and node.tensor == name)
        with pytest.raises(InputError, match=f"{name}( has nowhere to live|: a loop around that one must hold it)"):
            check(changed, workload, machine)
    assert dump_mapping(mapping) == text


def without(mapping, drop):
    """The mapping less the leaves and holds that `drop` chooses."""

    def kept(node):
        changes = {}
        if isinstance(node, Loop):
            changes["holds"] = tuple(h for h in node.holds if not drop(h))
        if hasattr(node, "body"):
            changes["body"] = tuple(kept(inner) for inner in node.body if not drop(inner))
        return replace(node, **changes)

    return replace(mapping, groups=tuple(kept(group) for group in mapping.groups))


def test_without_a_file_the_path_alone_is_named():
    mapping, workload = make("fusemax-binding", CASCADE, FUSEMAX, SIZES)
    with pytest.raises(InputError) as error:
        check(replace(mapping, sizes=(("M0", 256), ("X", 1))), workload, FUSEMAX)
    assert str(error.value) == "sizes.X: unknown size (got X)"


def test_a_loop_bounded_by_a_reduction_around_it_is_refused():
    """Causal queries inside the keys: AV "at the last m1" would miss all tiles of queries but the last ones."""
    causal = load_cascade("attention-1pass-causal")
    mapping, workload = make("fusemax-binding", causal, FUSEMAX, SIZES | {"M": 4096, "P": 4096})

    def bounded(node, rank, tile):
        if not isinstance(node, Loop):
            return node
        extent = GUARD if (node.ranks, node.tile) == ((rank,), (tile,)) else node.extent
        return replace(node, extent=extent, body=tuple(bounded(inner, rank, tile) for inner in node.body))

    def changed(rank, tile):
        groups = (replace(g, body=tuple(bounded(n, rank, tile) for n in g.body)) for g in mapping.groups)
        return replace(mapping, groups=tuple(groups))

    check(changed("m1", 1), workload, FUSEMAX)
    with pytest.raises(InputError, match="bounded by the loop over m1 around it, which a reduction walks"):
        check(changed("p", 256), workload, FUSEMAX)


def rewrite_golden():
    """Run this file as a script after a message was changed on purpose, and review the difference."""
    GOLDEN.write_text("\n".join(f"## {name}\n{said(name)}\n" for name in BAD))


if __name__ == "__main__":
    rewrite_golden()
