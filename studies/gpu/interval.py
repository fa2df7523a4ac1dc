"""How far an estimate may be off, and whether its point lies among those that were validated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from studies.gpu.data import Array, Points
from studies.gpu.schema import SHAPES

NEIGHBOURS = 24  # fitted rows whose residuals make an interval
LOW, HIGH = 0.1, 0.9  # quantiles: an 80 % interval
REACH = 0.99  # quantile of the fitted rows' distance to their neighbours: farther is outside
WIDEN = 1.0  # log error added at twice the reach, in units of the interval's own half width
UNSEEN_GPU = 0.3  # half width in logarithm for a GPU without calibration


@dataclass(frozen=True)
class Intervals:
    """Bounds in seconds of each row, and whether its point is inside what was fitted."""

    low: Array
    high: Array
    inside: NDArray[np.bool_]


def coordinates(points: Points) -> Array:
    """The place of rows of one kind in shape space: log2 of each size, so that 1 is a factor of two."""
    sizes = SHAPES[points["kind"][0]]
    return np.log2(np.maximum(np.stack([points.shape[size] for size in sizes], axis=1), 0.5))


def intervals(points: Points, estimate: Array, fitted: Points, residuals: Array) -> Intervals:
    """From the residuals log(estimate / measured) of the nearest fitted rows of the same kind, GPU and framework.

    Points outside are as wide as the widest quarter of the class, and more the farther they are.
    """
    low, high = np.full(len(points), np.nan), np.full(len(points), np.nan)
    inside = np.zeros(len(points), bool)
    has = np.isfinite(estimate)
    for kind in np.unique(points["kind"][has]).tolist():
        mine = np.flatnonzero(has & (points["kind"] == kind))
        same = np.flatnonzero(fitted["kind"] == kind)
        if len(same) < 2 * NEIGHBOURS:
            spread = float(np.quantile(np.abs(residuals), HIGH)) if len(residuals) else UNSEEN_GPU
            low[mine], high[mine] = estimate[mine] * np.exp(-spread), estimate[mine] * np.exp(spread)
            continue
        tree = KDTree(coordinates(fitted.where(same)))
        own, _ = tree.query(coordinates(fitted.where(same)), NEIGHBOURS)
        reach = float(np.quantile(own[:, -1], REACH))
        distance, near = tree.query(coordinates(points.where(mine)), NEIGHBOURS)
        around = residuals[same][near]
        bottom, top = np.quantile(around, LOW, axis=1), np.quantile(around, HIGH, axis=1)
        extra = np.maximum(distance[:, -1] / max(reach, 1e-9) - 1, 0) * WIDEN * (top - bottom) / 2
        low[mine] = estimate[mine] * np.exp(-(top + extra))
        high[mine] = estimate[mine] * np.exp(-(bottom - extra))
        inside[mine] = distance[:, -1] <= reach
        for label in ("framework", "dtype", "kv_dtype"):
            inside[mine] &= np.isin(points[label][mine], np.unique(fitted[label][same]))
    return Intervals(low, high, inside)
