"""Pass counts of cascades from the literature (FuseMax, MICRO 2024) and of variants worked out by hand."""

import pytest

from einsum.library import load
from einsum.parse import parse
from einsum.passes import passes
from einsum.problems import InputError

PAIR = "tensor A[n,k]\ntensor B[n,k]\n"
DEFERRED_NAIVE = """
tensor Q[p,e]
tensor K[m,e]
tensor V[m,f]
QK[p,m] = Q[p,e] * K[m,e]
SN[p,m] = exp(QK[p,m])
SD[p] = SN[p,m]
SNV[p,f] = SN[p,m] * V[m,f]
AV[p,f] = SNV[p,f] / SD[p]
"""
SPLIT = """
tensor Q[p,e]
tensor K[m,e]
tensor V[m,f]
size M1 = ceil(M / M0)
BK[m1,m0,e] = K[m1*M0+m0,e]
BV[m1,m0,f] = V[m1*M0+m0,f]
BQK[m1,m0,p] = Q[p,e] * BK[m1,m0,e]
LM[m1,p] = max[m0] BQK[m1,m0,p]
SLN[m1,m0,p] = exp(BQK[m1,m0,p] - LM[m1,p])
SLD[m1,p] = SLN[m1,m0,p]
SLNV[m1,p,f] = SLN[m1,m0,p] * BV[m1,m0,f]
GM[p] = max[m1] LM[m1,p]
PLM[m1,p] = exp(LM[m1,p] - GM[p])
SD[p] = SLD[m1,p] * PLM[m1,p]
NV[p,f] = SLNV[m1,p,f] * PLM[m1,p]
AV[p,f] = NV[p,f] / SD[p]
"""
TEXTS = {
    "a second input is read once, late": ("k", 1, PAIR + "Y[n] = A[n,k]\nZ[n,k] = Y[n] * B[n,k]\n"),
    "the same input is read again": ("k", 2, PAIR + "Y[n] = A[n,k] * B[n,k]\nZ[n] = Y[n] * A[n,k]\n"),
    "the factor is deferred": ("k", 1, PAIR + "Y[n] = A[n,k] * B[n,k]\nX[n] = A[n,k]\nZ[n] = Y[n] * X[n]\n"),
    "the factor is carried along": (
        "i",
        1,
        """
tensor A[n,i]
tensor B[n,i]
RY[n,i+1] = RY[n,i] + A[n,i] * B[n,i] init 0
RZ[n,i+1] = RZ[n,i] * RY[n,i+1] / RY[n,i] + RY[n,i+1] * A[n,i] init 0
Z[n] = RZ[n,I]
""",
    ),
    "naive softmax, deferred division": ("m", 1, DEFERRED_NAIVE),
    "split keys, as Flash-Decoding": ("m1", 1, SPLIT),
}
LIBRARY = {
    "attention-naive": ("m", 2),
    "attention-3pass": ("m", 3),
    "attention-3pass-deferred": ("m", 2),
    "attention-2pass": ("m1", 2),
    "attention-1pass": ("m1", 1),
    "attention-1pass-causal": ("m1", 1),
}


@pytest.mark.parametrize("name", TEXTS)
def test_passes_by_hand(name):
    rank, expected, text = TEXTS[name]
    assert passes(parse(text), rank).count == expected


@pytest.mark.parametrize("name", LIBRARY)
def test_passes_of_the_library(name):
    rank, expected = LIBRARY[name]
    assert passes(load(name), rank).count == expected


def test_what_stays_alive_between_passes():
    three = passes(load("attention-3pass"), "m")
    assert three.live == {"QK": ("m",), "SN": ("m",)}
    assert three.inputs == {"K": 3, "V": 1}
    assert [three.levels[e] for e in ("QK", "GM", "SN", "SD", "A", "AV")] == [1, 1, 2, 2, 3, 3]
    two = passes(load("attention-2pass"), "m1")
    assert two.fiber == ("m1", "m0")
    assert two.live == {"LM": ("m1",), "SLN": ("m1", "m0"), "SLD": ("m1",), "PLM": ("m1",)}
    assert passes(load("attention-1pass"), "m1").live == {}


def test_unknown_rank():
    with pytest.raises(InputError, match="unknown rank"):
        passes(load("attention-3pass"), "n")
