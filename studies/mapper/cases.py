"""The workloads of the study, as text, as the mapper compared with has them (its examples/workloads/gpt3_6.7B.yaml).

Softmax is one operation a point, a layer has no activation, norms or residuals, and the copy that its layers begin
with, its tenth Einsum, is left out, since it computes nothing.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from einsum.bind import bind
from einsum.cascade import Workload
from einsum.parse import parse

GEMM = """
cascade gemm
tensor A[m,k]
tensor B[k,n]
tensor C[m,n]
C[m,n] = A[m,k] * B[k,n]
"""
ATTENTION = """
cascade attention
tensor Q[h,p,e]
tensor K[h,m,e]
tensor V[h,m,f]
QK[h,p,m] = Q[h,p,e] * K[h,m,e]
A[h,p,m] = exp(QK[h,p,m])
AV[h,p,f] = A[h,p,m] * V[h,m,f]
"""
LAYER = """
cascade layer
tensor X[p,d]
tensor WQ[d,h,e]
tensor WK[d,h,e]
tensor WV[d,h,f]
tensor WO[h,f,d]
tensor WU[d,i]
tensor WD[i,d]
size M = P
Q[h,p,e] = X[p,d] * WQ[d,h,e]
K[h,m,e] = X[m,d] * WK[d,h,e]
V[h,m,f] = X[m,d] * WV[d,h,f]
QK[h,p,m] = Q[h,p,e] * K[h,m,e]
A[h,p,m] = exp(QK[h,p,m])
AV[h,p,f] = A[h,p,m] * V[h,m,f]
O[p,d] = AV[h,p,f] * WO[h,f,d]
U[p,i] = O[p,d] * WU[d,i]
Y[p,d] = U[p,i] * WD[i,d]
"""
HEADS = {"H": 32, "E": 128, "F": 128}  # of GPT-3 6.7B
WHOLE = 16  # Einsums that may share loops


@dataclass(frozen=True)
class Case:
    """A workload of the mapper compared with, on its machine."""

    name: str
    text: str
    sizes: dict[str, int]
    dtype: str = "bf16"
    together: int = WHOLE  # Einsums that may share loops
    quick: bool = True

    def workload(self) -> Workload:
        return workload(self.text, self.sizes, self.dtype)


LAYER_SIZES = HEADS | {"P": 2048, "D": 4096, "I": 16384}
CASES = (
    Case("gemm-4096", GEMM, {"M": 4096, "N": 4096, "K": 4096}, "int8"),
    Case("attention-2048", ATTENTION, HEADS | {"P": 2048, "M": 2048}, quick=False),
    Case("attention-1024", ATTENTION, HEADS | {"P": 1024, "M": 1024}),
    Case("decode-4096", ATTENTION, HEADS | {"P": 1, "M": 4096}),
    Case("layer-unfused", LAYER, LAYER_SIZES, together=1, quick=False),
    Case("layer-fused", LAYER, LAYER_SIZES, quick=False),
)


def workload(text: str, sizes: dict[str, int], dtype: str) -> Workload:
    """A cascade's text bound to sizes, every tensor of one type."""
    cascade = parse(text)
    return bind(cascade, sizes, {tensor.name: dtype for tensor in cascade.tensors})


def chain(products: int, equal: bool) -> Workload:
    """Matrix products in a row, 2048 rows each, of sides 1024, or each of another side."""
    side = lambda i: 1024 if equal else 1024 + 128 * i
    lines = ["cascade chain", "tensor X0[p,a0]"]
    lines += [f"tensor W{i}[a{i - 1},a{i}]" for i in range(1, products + 1)]
    lines += [f"X{i}[p,a{i}] = X{i - 1}[p,a{i - 1}] * W{i}[a{i - 1},a{i}]" for i in range(1, products + 1)]
    return workload("\n".join(lines), {"P": 2048} | {f"A{i}": side(i) for i in range(products + 1)}, "bf16")


@dataclass(frozen=True)
class Published:
    """A row of the mapper compared with; None: not stated."""

    case: str
    objective: str
    wall_s: float | None
    evaluated: int
    energy_j: float
    latency_s: float


@cache
def published() -> tuple[Published, ...]:
    """The rows of the reference file; its first line states the source."""
    text = files("studies").joinpath("reference/mapper/accelforge.csv").read_text(encoding="utf-8")
    return tuple(
        Published(
            row["case"],
            row["objective"],
            float(row["wall_s"]) if row["wall_s"] else None,
            int(row["evaluated"]),
            float(row["energy_j"]),
            float(row["latency_s"]),
        )
        for row in csv.DictReader(text.splitlines()[1:])
    )
