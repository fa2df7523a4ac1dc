"""Transfers as leaves: each names one that the mapping implies, and changes neither bytes nor time (SEMANTICS 4.16)."""

from dataclasses import replace
from functools import partial

import pytest

from arch.read import load as load_machine
from einsum.library import load as load_cascade
from einsum.problems import InputError
from mapper.check import check
from mapper.cost import cost
from mapper.library import bound, make
from mapper.library_gpu import flash_attention, gemm
from mapper.mapping import Move, Pipe, Seq
from mapper.show import show
from mapper.sites import of_type, sites
from mapper.yaml import dump_mapping, loads
from sim.lower import lower
from sim.run import simulate

H100 = load_machine("h100")
SIZES = {"B": 1, "H": 2, "P": 200, "M": 200, "E": 64, "F": 64}


def flash(**options):
    cascade = load_cascade("attention-1pass-causal")
    mapping = flash_attention(cascade, H100, SIZES, **options)
    return mapping, bound(mapping, cascade, SIZES)


def with_leaves(mapping, *more):
    """The mapping with leaves added at the end of the innermost sequence or pipe of its first group."""

    def grown(node):
        if isinstance(node, Seq | Pipe):
            return replace(node, body=(*node.body, *more))
        return replace(node, body=tuple(map(grown, node.body)))

    first = mapping.groups[0]
    return replace(mapping, groups=(replace(first, body=tuple(map(grown, first.body))), *mapping.groups[1:]))


def test_moves_of_the_generators_name_the_transfers_that_their_holds_imply():
    mapping, workload = flash(tma=True)
    check(mapping, workload, H100)
    moves = {(m.tensor, m.source, m.target, m.at) for m in (site.node for site in of_type(sites(mapping), Move))}
    assert moves == {
        ("Q", "hbm", "smem", (("m1", "first"),)),
        ("BK", "hbm", "smem", ()),
        ("BV", "hbm", "smem", ()),
        ("AV", "registers", "hbm", (("m1", "last"),)),
    }
    assert "move Q from hbm to smem, at the first m1" in show(mapping)
    assert loads(dump_mapping(mapping), "f.yaml") == mapping


@pytest.mark.parametrize(
    ("name", "sizes"), [("gemm", {"M": 100, "N": 130, "K": 150}), ("swiglu", {"T": 70, "D": 96, "I": 128})]
)
def test_products_that_are_moved_are_legal(name, sizes):
    cascade = load_cascade(name)
    mapping = partial(gemm, tma=True)(cascade, H100, sizes)
    check(mapping, bound(mapping, cascade, sizes), H100)


def test_moves_change_no_row_of_the_closed_form():
    (plain, workload), (moved, _) = flash(), flash(tma=True)
    rows = lambda mapping: [(row.key, row.value) for row in cost(mapping, workload, H100).rows]
    assert rows(plain) == rows(moved)


def test_moves_change_no_tick_of_the_simulation():
    cascade, machine = load_cascade("attention-1pass"), load_machine("fusemax")
    sizes = {"B": 1, "H": 2, "M": 512, "P": 512, "E": 4, "F": 4}
    mapping, workload = make("fusemax-binding", cascade, machine, sizes)
    moved = with_leaves(mapping, Move("K", "dram", "buffer", at=(("p", "first"),)))
    check(moved, workload, machine)
    assert simulate(moved, workload, machine).latency_s == simulate(mapping, workload, machine).latency_s
    assert lower(moved, workload, machine) == lower(mapping, workload, machine)


@pytest.mark.parametrize(
    ("move", "reason"),
    [
        (Move("BK", "l2", "smem"), "the mapping implies no transfer of K from l2 to smem"),
        (Move("BK", "hbm", "registers"), "the mapping implies no transfer of K from hbm to registers"),
        (Move("Q", "hbm", "smem"), "Q from hbm to smem is moved `at: {m1: first}`"),
        (Move("BK", "hbm", "smem", at=(("m1", "last"),)), "K from hbm to smem is moved in every iteration"),
        (Move("KB", "hbm", "smem"), "unknown tensor (got KB)"),
        (Move("BK", "hmb", "smem"), "unknown memory (got hmb); did you mean hbm?"),
        (Move("BK", "hbm", "smen"), "unknown memory (got smen); did you mean smem?"),
        (Move("BK", "hbm", "smem", unit="fma"), "a transfer that a unit makes, or that runs stages behind, is not"),
        (Move("BK", "hbm", "smem", stage=1), "a transfer that a unit makes, or that runs stages behind, is not"),
    ],
)
def test_a_move_that_names_no_transfer_of_the_mapping_is_refused(move, reason):
    mapping, workload = flash()
    with pytest.raises(InputError) as error:
        check(with_leaves(mapping, move), workload, H100)
    assert reason in str(error.value)


def test_two_moves_of_one_transfer_are_refused():
    mapping, workload = flash()
    with pytest.raises(InputError, match="another move of the group moves K from hbm to smem"):
        check(with_leaves(mapping, Move("BK", "hbm", "smem"), Move("K", "hbm", "smem")), workload, H100)
