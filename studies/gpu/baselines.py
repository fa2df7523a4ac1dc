"""What a model must beat: the datasheet's roofline, and the same with three constants fitted to each table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from sim.gpu.figures import Figures
from studies.gpu.data import Array
from studies.gpu.work import Work

LEAST = 8  # rows that three constants are fitted on
STARTS = ((0.8, 0.85, 5e-6), (0.4, 0.9, 2e-5), (0.15, 0.5, 2e-5))
LOWEST = 1e-9  # seconds: nothing is faster, so logarithms stay finite


def roofline(work: Work, f: Figures) -> Array:
    """Seconds at the datasheet's peaks."""
    return np.maximum(np.maximum(work.flop / (f.flop_per_s * work.rate), work.bytes / f.hbm_bytes_per_s), LOWEST)


@dataclass(frozen=True, slots=True)
class ThreeConstants:
    """Fractions of both peaks, and seconds on top."""

    flop_fraction: float
    byte_fraction: float
    seconds: float

    def predict(self, work: Work, f: Figures) -> Array:
        return np.maximum(
            work.flop / (f.flop_per_s * work.rate * self.flop_fraction),
            work.bytes / (f.hbm_bytes_per_s * self.byte_fraction),
        ) + max(self.seconds, LOWEST)


def fit_three(work: Work, f: Figures, seconds: Array, use: NDArray[np.bool_]) -> ThreeConstants | None:
    """The constants of the least absolute error in logarithm over the rows in `use`; None for fewer than `LEAST`."""
    if use.sum() < LEAST:
        return None
    some = Work(*(column[use] for column in work))
    target = np.log(seconds[use])

    def residual(x: Array) -> Array:
        return np.log(ThreeConstants(x[0], x[1], x[2] * 1e-6).predict(some, f)) - target

    best = min(
        (
            least_squares(
                residual, (a, b, c * 1e6), bounds=((1e-4, 1e-4, 0), (1, 1, 1e4)), loss="soft_l1", f_scale=0.02
            )
            for a, b, c in STARTS
        ),
        key=lambda found: found.cost,
    )
    return ThreeConstants(float(best.x[0]), float(best.x[1]), float(best.x[2]) * 1e-6)
