"""What cannot be mapped says why: the tensor, the memory, the missing bytes, and a change that is enough and needed."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from search_cases import workload

from arch import read
from arch.machine import Array, Axis, Machine, Memory, OpCost, Unit
from einsum import library
from einsum.bind import bind
from einsum.cascade import Workload
from einsum.ops import is_view
from einsum.problems import InputError
from mapper.search.answer import search
from mapper.search.group import Group
from mapper.search.places import orders, places
from mapper.search.solve import Space

OPS = {name: OpCost(1, 1e-12) for name in ("mac", "mul", "add", "max", "exp")}
STATE = "tensor X[p,j]: fp32\nP[p,j] = R[p,j] * X[p,j]\nR[p,j+1] = P[p,j] + X[p,j] init 0\n"
SUM = "tensor X[p,j]: fp32\nR[p,j+1] = R[p,j] + X[p,j] init 0\n"
LONE = SUM.replace("p,", "") + "tensor D[p]: fp32\nC[p] = R[J] * D[p]\n"
GEMM = "tensor A[m,k]: bf16\ntensor B[k,n]: bf16\nC[m,n] = A[m,k] * B[k,n]\n"


def machine(
    buffer: float, registers: float = 1 << 20, bypass: bool = True, axes: int = 0, keeps: bool = True
) -> Machine:
    """A root, a buffer, and registers that hold what passes between Einsums only if they are said to keep it."""
    regs = Memory("regs", (Unit("pe", 1e9, OPS),), registers, access_bytes=2, holds=None if keeps else ("weight",))
    grid = Array("grid", (Axis("x", axes),), (regs,)) if axes else regs
    return Machine("small", 1e9, Memory("dram", (Memory("buffer", (grid,), buffer, bypass=bypass),), access_bytes=2))


CASES = {
    "state that must be held": (workload(STATE, P=6, J=3), machine(5, keeps=False), "buffer"),
    "memory without a bypass": (workload(GEMM, M=4, N=4, K=4), machine(7, bypass=False), "buffer"),
    "memory without a bypass, spread": (workload(GEMM, M=4, N=6, K=4), machine(5, bypass=False, axes=2), "buffer"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("objective", ["latency", "energy", "pareto"])
def test_the_smallest_change_fits_and_a_byte_less_does_not(case: tuple[Workload, Machine, str], objective: str):
    bound, place, memory = case
    with pytest.raises(InputError) as error:
        search(bound, place, objective)
    (problem,) = error.value.problems
    found = re.fullmatch(
        r"(\w+) does not fit (\w+): (\d+) bytes are missing, as (\d+) have to be held at once", problem.what
    )
    assert found, problem
    tensor, where, missing, needed = found[1], found[2], int(found[3]), int(found[4])
    has = place.memory(memory).capacity_bytes or 0
    assert (where, has + missing) == (memory, needed)
    assert tensor in bound.cascade.tensor
    assert problem.hint == f"{memory} with a capacity of {needed} B"
    assert search(bound, resized(place, memory, needed), objective).found
    with pytest.raises(InputError, match="does not fit"):
        search(bound, resized(place, memory, needed - 1), objective)


def test_registers_too_small_for_what_passes_between_einsums():
    """The buffer has room for the state; the product beside it fits the registers with one byte more, or the buffer."""
    bound, place = workload(STATE, P=6, J=3), machine(4, registers=3)
    with pytest.raises(InputError) as error:
        search(bound, place)
    says = sorted(p.what for p in error.value.problems)
    assert says[0].startswith("P does not fit regs: 1 bytes are missing, as 4 have to be held at once")
    assert re.match(r"[PR] does not fit buffer: 4 bytes are missing, as 8 have to be held at once", says[1])
    for memory, enough in (("regs", 4), ("buffer", 8)):
        assert search(bound, resized(place, memory, enough)).found
        with pytest.raises(InputError):
            search(bound, resized(place, memory, enough - 1))


def resized(place: Machine, memory: str, size: float) -> Machine:
    """The machine with another capacity of one of its memories."""

    def change(node):
        inside = tuple(map(change, getattr(node, "children", ())))
        node = replace(node, children=inside) if inside else node
        return replace(node, capacity_bytes=size) if node.name == memory else node

    return replace(place, root=change(place.root))


GATHER = "tensor T[v,e]: bf16\ntensor I[n]: int32\nY[n,e] = T[I[n],e] * T[I[n],e]\n"
CONVOLUTION = "tensor X[h]: bf16\ntensor W[r]: bf16\nY[p] = X[p+r] * W[r]\n"
DIAGONAL = "tensor X[i,j]: bf16\nY[i] = X[i,1*i] * X[i,1*i]\n"
LENGTHS = "tensor X[b,m]: bf16\ntensor L[b]: int32\nY[b] | m < L[b] = X[b,m] * X[b,m]\n"
REFUSED = {
    "gather": (workload(GATHER, V=4, E=2, N=3), "Y", "at places that data decides"),
    "overlapping tiles": (workload(CONVOLUTION, H=8, R=3, P=6), "Y", "overlap or leave gaps"),
    "diagonal": (workload(DIAGONAL, I=4, J=4), "Y", "stands in two indices"),
    "lengths": (workload(LENGTHS, B=2, M=4), "Y", "depends on data"),
    "top-k": (bind(library.load("gate-topk-softmax"), {"T": 4, "E": 8, "K": 2}), "A", "depends on data"),
    "state along its only rank": (workload(LONE, J=3, P=2), "R", "carried along j"),
    "no unit": (bind(library.load("rms-norm"), dict.fromkeys(library.load("rms-norm").free_sizes, 4)), "", "no unit"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("objective", ["latency", "energy", "edp", "pareto"])
def test_what_the_search_does_not_cover_is_said(case: tuple[Workload, str, str], objective: str):
    bound, einsum, why = case
    with pytest.raises(InputError) as error:
        search(bound, machine(1 << 20), objective)
    assert any(einsum in p.path and why in f"{p}" for p in error.value.problems), error.value


def test_a_state_needs_a_memory_between_the_root_and_its_unit():
    place = Machine("bare", 1e9, Memory("dram", (Unit("pe", 1e9, OPS),), access_bytes=2))
    with pytest.raises(InputError, match="R: cannot be mapped: no memory above all of them may hold R"):
        search(workload(f"{SUM}C[p] = R[p,J] * R[p,J]\n", P=6, J=3), place)


def test_steps_of_one_coordinate_are_no_choice_of_their_own():
    bound = bind(library.load("attention-1pass"), dict.fromkeys(library.load("attention-1pass").free_sizes, 1))
    group = Group(bound, read.load("fusemax"), tuple(e.name for e in bound.cascade.einsums if not is_view(e)))
    chains = [c for chosen in orders(group) for use in group.uses.values() for c in places(group, use, chosen)]
    assert chains and not any(hold.along for chain in chains for hold in chain)


def test_unknown_words_get_a_suggestion():
    bound, place = CASES["memory without a bypass"][:2]
    with pytest.raises(InputError, match=r"unknown objective \(got latncy\); did you mean latency\?"):
        search(bound, place, "latncy")
    with pytest.raises(InputError, match=r"unknown tiling \(got raged\); did you mean ragged\?"):
        search(bound, place, space=Space(tiling="raged"))


def test_what_is_read_in_its_group_is_held_there_even_if_it_leaves_it_too():
    """T goes out to E and is read by C, which shares its loops: no order of the loops leaves it unheld (4.10)."""
    bound = workload("tensor A[m,k]: bf16\nT[m,k] = exp(A[m,k])\nC[m] = T[m,k]\nE[k] = T[m,k]\n", M=8, K=8)
    group = Group(bound, machine(1 << 20), ("T", "C"))
    chains = [chain for chosen in orders(group) for chain in places(group, group.uses["T"], chosen)]
    assert group.uses["T"].kind == "output" and chains and all(chains)
    assert search(bound, machine(1 << 20)).found
