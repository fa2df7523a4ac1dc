"""Rows that are not to be used, each filter with its reason: none is dropped silently."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.gpu.figures import Figures
from studies.gpu.data import Points
from studies.gpu.predict import gpu
from studies.gpu.work import useful

BOOST = 1.1  # highest clock over that of the datasheet's peak


class Dropped(NamedTuple):
    """A filter and how many rows it took."""

    name: str
    why: str
    rows: int


def usable(points: Points, machine: Figures | None = None) -> tuple[Points, tuple[Dropped, ...]]:
    """The rows to use and what was dropped. `machine` stands for every GPU that is not a machine of ours."""
    kind, framework = points["kind"], points["framework"]
    names = np.unique(points["gpu"]).tolist()
    known = [name for name in names if machine is not None or gpu(name) is not None]
    filters: list[tuple[str, str, NDArray[np.bool_]]] = [
        ("other kernels", "of papers' comparisons (PyTorch, xformers, cuDNN, ...): not ours to predict", kind == ""),
        (
            "uninitialised weights",
            "vLLM's bf16 GEMM rows multiply memory that was never written, and run 5-20 % faster than data does",
            (kind == "gemm") & (framework == "VLLM"),
        ),
        ("no machine", "the GPU is none of ours; --machine gives one", ~np.isin(points["gpu"], known)),
        ("above the peak", "faster than the tensor units' peak at the highest clock: corrupt", _above(points, machine)),
    ]
    keep = np.ones(len(points), bool)
    dropped: list[Dropped] = []
    for name, why, mask in filters:
        dropped.append(Dropped(name, why, int((mask & keep).sum())))
        keep &= ~mask
    return points.where(keep), tuple(dropped)


def _above(points: Points, machine: Figures | None) -> NDArray[np.bool_]:
    work = useful(points)
    above = np.zeros(len(points), bool)
    for name in np.unique(points["gpu"]).tolist():
        if f := gpu(name) or machine:
            mine = (points["gpu"] == name) & ~np.isin(points["kind"], ("energy", "rowwise"))
            above |= mine & (work.flop / points.seconds > BOOST * f.flop_per_s * work.rate)
    return above
