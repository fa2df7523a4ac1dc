"""Renaming, other ranks and joining: the values stay, names move, and what cannot be joined is refused."""

import numpy as np
import pytest

from einsum.bind import bind
from einsum.check import check
from einsum.compose import joined, renamed
from einsum.library import load
from einsum.oracle import random_inputs, run
from einsum.parse import parse
from einsum.random_cascade import random_cascade
from einsum.show import show


def test_other_names_for_tensors_and_ranks():
    found = renamed(load("rms-norm"), {"X": "IN", "Y": "OUT", "SS": "SUM"}, {"t": ("b", "p"), "d": ("e",)})
    assert show(found).splitlines()[1:] == [
        "cascade rms-norm", "tensor IN[b,p,e]: bf16", "tensor G[e]: bf16", "tensor OUT[b,p,e]: bf16", "",
        "SUM[b,p] = IN[b,p,e] * IN[b,p,e]", "R[b,p] = 1 / sqrt(SUM[b,p] / E + 1e-06)",
        "OUT[b,p,e] = IN[b,p,e] * R[b,p] * G[e]",
    ]  # fmt: skip


def test_ranks_can_change_places():
    """Each name is replaced once, also inside indices, guards, counts of a topk and sizes."""
    text = """
tensor X[i,j]
tensor LEN[i]: int32
size J1 = ceil(J / 2)
Y[i,j1] | j1 < LEN[i] = X[i,2*j1] + J
T[i,j1] | i < 3 = topk[j1](Y[i,j1], LEN[i])
Z[i+1,j1] = Z[i,j1] + T[i,j1] * i init 0
"""
    other = """
tensor X[j,i]
tensor LEN[j]: int32
size I1 = ceil(I / 2)
Y[j,i1] | i1 < LEN[j] = X[j,2*i1] + I
T[j,i1] | j < 3 = topk[i1](Y[j,i1], LEN[j])
Z[j+1,i1] = Z[j,i1] + T[j,i1] * j init 0
"""
    swap = {"i": ("j",), "j": ("i",), "j1": ("i1",)}
    assert renamed(parse(text), ranks=swap) == parse(other)
    back = {"i": ("j",), "j": ("i",), "i1": ("j1",)}
    assert renamed(parse(other), ranks=back) == parse(text)


def test_renamed_random_cascades_keep_their_values():
    sizes = {"I": 3, "J": 2, "K": 4, "W": 2, "T0": 2}
    letters = {"i": ("k",), "j": ("i",), "k": ("j",)}
    moved = sizes | {"K": sizes["I"], "I": sizes["J"], "J": sizes["K"]}
    for seed in range(60):
        cascade = random_cascade(seed)
        tensors = {t.name: f"N{t.name}" for t in cascade.tensors}
        other = renamed(cascade, tensors, letters)
        assert check(other) == []
        workload = bind(cascade, {name: sizes[name] for name in cascade.free_sizes})
        inputs = random_inputs(workload, seed)
        expected = run(workload, inputs)
        workload = bind(other, {name: moved[name] for name in other.free_sizes})
        found = run(workload, {tensors[name]: value for name, value in inputs.items()})
        for name, value in expected.items():
            np.testing.assert_array_equal(found[tensors[name]], value, err_msg=f"{seed} {name}")


def test_a_rank_that_becomes_two_cannot_stand_in_an_expression():
    with pytest.raises(ValueError, match="rank i stands inside an expression"):
        renamed(parse("tensor X[i]\nY[i] = X[i] * i"), ranks={"i": ("a", "b")})
    with pytest.raises(ValueError, match="size I is used, and its rank becomes 2 ranks"):
        renamed(parse("tensor X[i]\nY[i] = X[i] * I"), ranks={"i": ("a", "b")})


def test_joined_cascades_read_each_other_by_name():
    first = renamed(load("gemm"), {"C": "H"})
    second = renamed(load("gemm"), {"A": "H", "B": "B2"}, {"k": ("n",), "n": ("l",)})
    both = joined("two", (first, second), "Two products.")
    assert parse(show(both)) == both and check(both) == []
    assert (both.inputs, both.outputs, both.doc) == (("A", "B", "B2"), ("C",), "Two products.")
    workload = bind(both, {"M": 2, "K": 3, "N": 4, "L": 5})
    x = random_inputs(workload, 1)
    np.testing.assert_allclose(run(workload, x)["C"], x["A"] @ x["B"] @ x["B2"], rtol=1e-12)


def test_what_cannot_be_joined():
    gemm, tiled = load("gemm"), load("attention-1pass")
    with pytest.raises(ValueError, match=r"written twice: \['C'\]"):
        joined("twice", (gemm, gemm))
    other = renamed(
        load("attention-flashdecode"), {t.name: f"{t.name}2" for t in load("attention-flashdecode").tensors}
    )
    with pytest.raises(ValueError, match="size M1 is defined in two ways"):
        joined("sizes", (tiled, other))
