"""Our closed form over measured rows: a descriptor for each, the GPU's constants, and a launch offset by framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arch.read import load, presets
from sim.gpu.attention import Heads, attention
from sim.gpu.constants import BOUNDS, Constants
from sim.gpu.figures import Figures, figures
from sim.gpu.gemm import gemm
from sim.gpu.kernels import Kernels
from sim.gpu.moe import Experts, moe
from sim.gpu.time import best
from studies.gpu.data import Array, Points
from studies.gpu.schema import ATTENTION, SHAPES
from studies.gpu.work import useful, widths

FITTED = ("gemm", "prefill", "encoder", "decode", "fa3")  # kinds that constants are fitted on
MODELLED = (*FITTED, "moe")
KNOWN = ("fa3",)  # kinds whose tiles are published (fa_tile_configs.csv); of the others the mapping is guessed
STORES = "SGLang"  # its attention layer writes K and V into the cache inside the timed call of a prefill
COMBINES = "VLLM"  # its decode runs in a CUDA graph, which fixes the number of splits: their combination always runs
VARLEN = ("SGLang", "VLLM")  # they call FlashAttention 3 (its sm80 build on an A100) on tokens of varying lengths
SKEWED = "power_law_"  # then the power of the experts' shares
CALIBRATED = Path(__file__).parent / "calibrated"


def modelled(points: Points) -> NDArray[np.bool_]:
    """Rows that have a descriptor."""
    return np.isin(points["kind"], MODELLED)


def describe(points: Points, f: Figures) -> tuple[Kernels, ...]:
    """Descriptors of rows of one kind on one GPU, a kernel after another; arrays of (mapping, row)."""
    s, width_kv, rate = points.shape, widths(points), useful(points).rate
    if points["kind"][0] == "gemm":
        return (gemm(s["m"], s["n"], s["k"], width_kv[0], rate, f),)
    if points["kind"][0] == "moe":
        skew = np.array(
            [float(name.removeprefix(SKEWED)) if SKEWED in name else 0.0 for name in points["variant"].tolist()]
        )
        gates = np.where(np.char.find(points["source"], "nongated") >= 0, 1.0, 2.0)
        return moe(
            Experts(**{name: s[name] for name in SHAPES["moe"]}, skew=skew, gates=gates, width=width_kv[0], rate=rate),
            f,
        )
    stores = ((points["kind"] == "prefill") & (points["framework"] == STORES)).astype(float)
    combines = ((points["kind"] == "decode") & (points["framework"] == COMBINES)).astype(float)
    prepares = np.where((points["kind"] == "decode") & (points["framework"] == STORES), 1.0, 0.0)
    packs = np.isin(points["framework"], VARLEN).astype(float)
    width, kv_width = width_kv
    sizes = {name: s[name] for name in ATTENTION}
    facts = {"packs": packs, "combines": combines, "prepares": prepares, "stores": stores}
    return (attention(Heads(**sizes, width=width, kv_width=kv_width, rate=rate, **facts), f),)


def run(kernels: tuple[Kernels, ...], f: Figures, c: Constants) -> Array:
    """Seconds of kernels one after another, each under its fastest mapping."""
    return np.sum([best(k, f, c)[0] for k in kernels], axis=0)


@cache
def gpu(name: str) -> Figures | None:
    """The figures of a machine that ships with the project, or None."""
    return figures(load(name)) if name in presets() else None


@dataclass(frozen=True)
class Calibration:
    """Constants of one GPU, and seconds that each `framework/source` adds to a kernel."""

    gpu: str
    constants: Constants
    offsets: Mapping[str, float]
    rows: int  # fitted on

    def offset(self, label: str) -> float:
        """Of a framework's kernel; the median of all for one that was never seen."""
        return self.offsets.get(label, float(np.median(list(self.offsets.values()))))

    def document(self) -> dict[str, object]:
        """As YAML has it."""
        return {
            "gpu": self.gpu,
            "rows": self.rows,
            "constants": {name: float(f"{value:.5g}") for name, value in asdict(self.constants).items()},
            "launch_offset_us": {name: float(f"{1e6 * value:.4g}") for name, value in sorted(self.offsets.items())},
        }


def load_calibration(path: Path) -> Calibration:
    """A file that `stepfall calibrate` wrote."""
    from ruamel.yaml import YAML

    data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    constants = Constants(**{name: float(data["constants"][name]) for name in BOUNDS})
    offsets = {name: float(value) * 1e-6 for name, value in data["launch_offset_us"].items()}
    return Calibration(str(data["gpu"]), constants, offsets, int(data["rows"]))


@cache
def calibration(f: Figures) -> Calibration:
    """That of the GPU, or of the calibrated GPU whose tensor units are most alike: an extrapolation to another GPU."""
    own = CALIBRATED / f"{f.name}.yaml"
    if own.exists():
        return load_calibration(own)
    every = {path.stem: path for path in sorted(CALIBRATED.glob("*.yaml"))}
    distance = {
        name: abs(np.log(f.flop_per_clock / shipped.flop_per_clock)) for name in every if (shipped := gpu(name))
    }
    return load_calibration(every[min(distance, key=lambda name: distance[name])])


def labels(points: Points) -> list[str]:
    """`framework/source` of each row, whose launches cost alike."""
    return [f"{a}/{b}" for a, b in zip(points["framework"].tolist(), points["source"].tolist(), strict=True)]


def predict(points: Points, f: Figures, c: Calibration) -> Array:
    """Seconds of rows on one GPU; NaN where a row has no descriptor."""
    seconds = np.full(len(points), np.nan)
    has = modelled(points)
    for kind in np.unique(points["kind"][has]).tolist():
        mine = np.flatnonzero(has & (points["kind"] == kind))
        some = points.where(mine)
        offsets = np.array([c.offset(label) for label in labels(some)])
        seconds[mine] = run(describe(some, f), f, c.constants) + offsets
    return seconds
