"""Workloads of other tools as cascades, and cascades written for them."""

import pytest
from exchange_files import imported

from einsum.bind import bind
from einsum.library import load
from einsum.parse import parse
from einsum.problems import InputError
from einsum.show import show
from mapper.exchange.formats import read, written
from mapper.tile import elements, whole

CONVOLUTION = """
problem:
  version: 0.4
  shape:
    name: conv
    dimensions: [C, K, R, P]
    coefficients:
    - {name: stride, default: 1}
    data_spaces:
    - {name: Weights, projection: [[[C]], [[K]], [[R]]]}
    - {name: Inputs, projection: [[[C]], [[R], [P, stride]]]}
    - {name: Outputs, projection: [[[K]], [[P]]], read_write: True}
  instance: {C: 32, K: 8, R: 3, P: 16, stride: 2}
"""
CONCISE = """
workload:
  rank_sizes: {B: 1, M: 64, P: 64, H: 4, E: 32}
  bits_per_value: {All: 8}
  einsums:
  - QK(output)[b, m, p, h] = Q(input)[b, m, h, e] * K(weight)[b, M=p, h, e]
  - einsum: S[b, m, p, h] = exp(QK[b, m, p, h])
  - einsum: SC[b, m, p, h] = S[b, m, p, h]
    is_copy_operation: True
"""
VERBOSE = """
workload:
  rank_sizes: {B: 1, M: 64, P: 64, H: 4, E: 32}
  bits_per_value: {All: 8}
  einsums:
  - name: QK
    tensor_accesses:
    - {name: Q, projection: [b, m, h, e]}
    - {name: K, projection: {B: b, M: p, H: h, E: e}}
    - {name: QK, projection: [b, m, p, h], output: True}
"""


def test_a_strided_convolution_reads_a_window():
    made = read({"p.yaml": CONVOLUTION})
    assert show(made.cascade) == (
        "cascade conv\n"
        "tensor Weights[c,k,r]\n"
        "tensor Inputs[c,r_p2]\n"
        "size R_P2 = R - 1 + 2 * (P - 1) + 1\n"
        "size C = 32\nsize K = 8\nsize R = 3\nsize P = 16\n\n"
        "Outputs[k,p] = Weights[c,k,r] * Inputs[c,r+2*p]\n"
    )
    workload = bind(made.cascade, {})
    seen = {r + 2 * p for r in range(3) for p in range(16)}
    assert workload.elements("Inputs") == 32 * (max(seen) + 1)
    box = {rank: (0, workload.extent(rank)) for rank in (*made.cascade.ranks, "r_p2")}
    assert elements(workload, whole(made.cascade, "Inputs"), box) == 32 * len(seen)


def test_a_convolution_comes_back_equal():
    made = read({"p.yaml": CONVOLUTION})
    text, lost = written("timeloop", bind(made.cascade, {}))
    assert read({"p.yaml": text}).cascade == made.cascade and not lost


def test_concise_and_verbose_einsums_are_the_same():
    concise, verbose = read({"w": CONCISE}).cascade, read({"w": VERBOSE}).cascade
    assert concise["QK"] == verbose["QK"]
    assert show(concise).splitlines()[-3:] == [
        "QK[b,m,p,h] = Q[b,m,h,e] * K[b,p,h,e]",
        "S[b,m,p,h] = exp(QK[b,m,p,h])",
        "SC[b,m,p,h] = S[b,m,p,h]",
    ]


@pytest.mark.parametrize("form", ["timeloop", "accelforge", "teaal"])
def test_our_product_goes_out_and_comes_back(form):
    cascade, sizes = load("gemm"), {"M": 64, "N": 32, "K": 128}
    text, _ = written(form, bind(cascade, sizes))
    again = read({"w": text}, name="gemm").cascade
    assert again.einsums == cascade.einsums
    assert {t.name: t.ranks for t in again.tensors} == {t.name: t.ranks for t in cascade.tensors}
    if form != "teaal":
        assert {name: value.value for name, value in again.sizes} == sizes
    if form == "accelforge":
        assert again.tensors == cascade.tensors


def test_a_chain_comes_back_equal():
    made = imported("accelforge/fused.yaml")
    text, lost = written("accelforge", bind(made.cascade, {}))
    assert read({"w": text}, name="example").cascade == made.cascade and not lost


def test_what_the_operands_do_not_say_is_said():
    cascade = load("attention-3pass")
    sizes = dict.fromkeys("BHEFMP", 4)
    _, lost = written("accelforge", bind(cascade, sizes))
    assert [p.path for p in lost] == ["GM", "SN", "A"]
    for form, what in (("timeloop", "one Einsum that sums a product"), ("teaal", "sums of `+ - *` only: GM")):
        with pytest.raises(InputError, match=what.replace("+", r"\+").replace("*", r"\*")):
            written(form, bind(cascade, sizes))


def test_types_that_are_not_ours_and_einsums_without_operators_are_said():
    text = VERBOSE.replace("All: 8", "All: 24, P | Nobody: 8, ~Q: 8")
    text = text.replace("    - {name: K, projection: {B: b, M: p, H: h, E: e}}\n", "").replace(
        "[b, m, p, h], out", "[b, m, h, e], out"
    )
    assert [(p.line, p.what, p.got) for p in read({"w.yaml": text}).lost] == [
        (4, "set expressions other than names joined by | do not carry over", "~Q"),
        (4, "no tensor has this name, also in line 4", "P"),
        (6, "no element type of 24 bits: Q takes fp32", ""),
        (6, "no element type of 24 bits: QK takes fp32", ""),
        (6, "has one operand and no operator, so it is a copy here and computes nothing", ""),
    ]


def test_a_sum_and_a_square_are_no_copies():
    cascade = parse("tensor X[m,n]\nS[m] = X[m,n]\nQ[m,n] = X[m,n] * X[m,n]\nY[n] = Q[m,n] * S[m]\n")
    text, lost = written("accelforge", bind(cascade, {"M": 4, "N": 4}))
    made = read({"w": text})
    assert made.cascade["S"] == cascade["S"] and made.cascade["Y"] == cascade["Y"]
    assert [p.path for p in lost] == ["Q"] and [p.path for p in made.lost] == ["workload.einsums.Q"]


def test_teaal_expressions():
    text = "einsum:\n  declaration:\n    I: [X, Y]\n    F: [R, S]\n    O: [P, Q]\n  expressions:\n"
    made = read({"t": text + "  - O[p, q] = I[p + r, q + s] * F[r, s]\n"})
    assert "O[p,q] = I[p+r,q+s] * F[r,s]\n" in show(made.cascade)
    old = read({"t": text + "  - O[p, q] = sum(R, S).(I[p + r, q + s] * F[r, s])\n"})
    assert old.cascade.einsums == made.cascade.einsums
