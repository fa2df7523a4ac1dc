"""Fit a GPU's constants and launch offsets on the fitted half of its measured 16-bit kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize_scalar

from einsum.problems import InputError, Problem, suggest
from sim.gpu.constants import BOUNDS, Constants
from sim.gpu.figures import Figures
from studies.gpu.data import Array, Points
from studies.gpu.predict import FITTED, Calibration, describe, labels, modelled, predict, run

SHORTEST = 8e-6  # seconds: below, a row says only what a launch costs
SIXTEEN_BIT = ("bf16", "fp16")
STEP = 2e-3  # relative, of the numeric derivatives: tiles make the time a step function of nothing smaller
KNEE = 0.05  # of the loss, in logarithm: beyond it a row counts linearly
MICRO = 1e-6
LONGEST_LAUNCH = 40.0  # microseconds


@dataclass(frozen=True)
class Fit:
    """A calibration, the rows it is from, and their residuals log(estimate / measured)."""

    calibration: Calibration
    points: Points
    residuals: Array


def fitted_rows(points: Points, gpu: str) -> NDArray[np.bool_]:
    """Rows that constants are fitted on: modelled, 16-bit, of this GPU, longer than `SHORTEST`, in the fitted half."""
    mine = (points["gpu"] == gpu) & np.isin(points["dtype"], SIXTEEN_BIT)
    mine &= np.isin(points["kv_dtype"], ("", *SIXTEEN_BIT))
    return mine & modelled(points) & (points.seconds > SHORTEST) & points.fitted()


def calibrate(points: Points, f: Figures) -> Fit:
    """Constants and offsets on the kinds in `FITTED`; of other kinds offsets alone, given the constants."""
    rows = points.where(fitted_rows(points, f.name))
    if not len(rows):
        known = sorted(set(points["gpu"].tolist()))
        raise InputError(Problem("no measured kernel of this GPU", got=f.name, hint=suggest(f.name, known)))
    shared = np.isin(rows["kind"], FITTED)
    constants, offsets = _fit(rows.where(shared), f)
    label = np.array(labels(rows))
    for name in sorted(set(label[~shared].tolist()) - set(offsets)):
        mine = rows.where(~shared & (label == name))
        bare = predict(mine, f, Calibration(f.name, constants, {name: 0.0}, 0))
        offsets[name] = _offset(bare, mine.seconds)
    calibration = Calibration(f.name, constants, offsets, len(rows))
    return Fit(calibration, rows, np.log(predict(rows, f, calibration) / rows.seconds))


def _offset(bare: Array, seconds: Array) -> float:
    """The launch offset of least mean absolute log error."""
    found = minimize_scalar(
        lambda us: float(np.abs(np.log((bare + us * MICRO) / seconds)).mean()),
        bounds=(0, LONGEST_LAUNCH),
        method="bounded",
    )
    return float(found.x) * MICRO  # type: ignore[attr-defined]


def _fit(rows: Points, f: Figures) -> tuple[Constants, dict[str, float]]:
    """Robust least squares of log error. Each kind of kernel of each framework weighs the same."""
    names = sorted(set(labels(rows)))
    label = np.array([names.index(name) for name in labels(rows)])
    groups = [np.flatnonzero((rows["kind"] == kind) & (label == at)) for kind in FITTED for at in range(len(names))]
    groups = [group for group in groups if len(group)]
    described = [describe(rows.where(group), f) for group in groups]
    weights = np.concatenate([np.full(len(group), np.sqrt(1.0 / len(group))) for group in groups])
    order = np.concatenate(groups)
    low, high, start = np.array([*BOUNDS.values()]).T
    scale = np.maximum(start, 1e-3)

    def loss(x: Array) -> Array:  # soft: |error| beyond the knee, weighed once the robust form is taken
        constants = Constants(*(x[: len(BOUNDS)] * scale).tolist())
        seconds = np.concatenate([run(kernels, f, constants) for kernels in described])
        error = np.log((seconds + x[len(BOUNDS) + label[order]] * MICRO) / rows.seconds[order]) / KNEE
        return weights * np.sqrt(2 * (np.sqrt(1 + error**2) - 1))

    bounds = (
        np.concatenate([low / scale, np.zeros(len(names))]),
        np.concatenate([high / scale, np.full(len(names), LONGEST_LAUNCH)]),
    )
    firsts = (
        np.concatenate([at / scale, np.full(len(names), 4.0)]) for at in (start, (start + low) / 2, (start + high) / 2)
    )
    tried = [least_squares(loss, first, bounds=bounds, diff_step=STEP) for first in firsts]  # the loss is not convex
    found = min(tried, key=lambda fit: fit.cost).x
    constants = Constants(*(found[: len(BOUNDS)] * scale).tolist())
    return constants, {name: float(us) * MICRO for name, us in zip(names, found[len(BOUNDS) :], strict=True)}


def document(fit: Fit) -> dict[str, object]:
    """Rows and residuals, as YAML has them."""
    keys = zip(fit.points.place.tolist(), fit.points.seconds.tolist(), fit.residuals.tolist(), strict=True)
    rows = [f"{place} {1e6 * seconds:.6g} us {residual:+.4f}" for place, seconds, residual in keys]
    return fit.calibration.document() | {"columns": "place measured log(estimate/measured)", "residuals": rows}
