"""`stepfall validate`: our closed form beside the roofline, three fitted constants and the noise of measuring.

docs/SEMANTICS.md section 9 says what is fitted, on which rows, and what is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mapper.result import provenance
from sim.gpu.figures import Figures
from studies.gpu import figures as drawings
from studies.gpu.baselines import fit_three, roofline
from studies.gpu.calibrate import fitted_rows
from studies.gpu.data import Array, Points, read, reference
from studies.gpu.filters import Dropped, usable
from studies.gpu.interval import Intervals, intervals
from studies.gpu.predict import KNOWN, calibration, gpu, predict
from studies.gpu.work import Work, useful
from studies.report import Cell
from studies.study import Study, Table

LONG = {"gemm": 50e-6, "prefill": 50e-6, "encoder": 50e-6, "decode": 20e-6}  # seconds: below, launches rule
MODELS = ("ours", "roofline", "three constants")
NOT_YET = "none yet"
# Mean difference of two measurements of the same kernel, in per cent: compiled from the tables' own overlaps (several
# versions measured the same shapes) with the collection of these rows; the greater figure is across harnesses.
NOISE = {
    "gemm": "2.7-4.2", "decode": "4.4", "prefill": "3.6-9", "encoder": "3.6-9", "moe": "7.8-58",
}  # fmt: skip


@dataclass(frozen=True)
class Estimates:
    """Rows with every model's seconds (NaN: it has none), which half each row is in, and our intervals."""

    points: Points
    ours: Array
    roofline: Array
    three: Array
    fitted: NDArray[np.bool_]
    bounds: Intervals

    def seconds(self, model: str) -> Array:
        return {"ours": self.ours, "roofline": self.roofline, "three constants": self.three}[model]


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of one model over some rows, in per cent."""

    n: int
    mean: float
    median: float
    p90: float
    bias: float


def errors(estimate: Array, measured: Array) -> Errors | None:
    """None where the model has no estimate."""
    if not len(measured) or not np.isfinite(estimate).all():
        return None
    error = 100 * (estimate / measured - 1)
    size = np.abs(error)
    return Errors(
        len(error), float(size.mean()), float(np.median(size)), float(np.quantile(size, 0.9)), float(error.mean())
    )


def estimate(points: Points, machine: Figures | None, base: Points) -> Estimates:
    """Every model on every row. Baselines and intervals are fitted on the fitted half of `base`; `machine` stands for
    GPUs that are not machines of ours."""
    work, base_work, base_fitted = useful(points), useful(base), base.fitted()
    fitted = np.isin(points.keys(), base.where(base_fitted).keys())
    shape = len(points)
    ours, top, three = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    low, high, inside = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, bool)
    for name in np.unique(points["gpu"]).tolist():
        f = gpu(name) or machine
        assert f is not None  # `usable` has dropped the others
        mine = np.flatnonzero(points["gpu"] == name)
        some, c = points.where(mine), calibration(f)
        ours[mine] = predict(some, f, c)
        top[mine] = np.where(work.bytes[mine] > 0, roofline(Work(*(w[mine] for w in work)), f), np.nan)
        for group, same in _groups(some, base):
            own = Work(*(w[same] for w in base_work))
            if own.bytes.any() and (fit := fit_three(own, f, base.seconds[same], base_fitted[same])):
                three[mine[group]] = fit.predict(Work(*(w[mine[group]] for w in work)), f)
        known = base.where(fitted_rows(base, f.name))
        residuals = np.log(predict(known, f, c) / known.seconds) if len(known) else np.empty(0)
        found = intervals(some, ours[mine], known, residuals)
        low[mine], high[mine], inside[mine] = found.low, found.high, found.inside
    return Estimates(points, ours, top, three, fitted, Intervals(low, high, inside))


def _groups(points: Points, base: Points) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows that one set of three constants serves, one table of one framework, and those of `base` it is fitted on."""

    def key(p: Points) -> NDArray[np.str_]:
        parts = (p["gpu"], p["kind"], p["framework"], p["source"], p["dtype"], p["kv_dtype"])
        return np.array(["|".join(row) for row in zip(*(part.tolist() for part in parts), strict=True)])

    ours, theirs = key(points), key(base)
    for value in np.unique(ours).tolist():
        yield np.flatnonzero(ours == value), np.flatnonzero(theirs == value)


def validate(data: Path | None = None, machine: Figures | None = None, only: str | None = None) -> Study:
    """All tables. `data` replaces the project's rows as what is predicted; constants stay those of the project."""
    own, dropped = usable(reference())
    rows = own
    if data is not None:
        rows, dropped = usable(read(data), machine)
    if only is not None:
        rows = rows.where(rows["gpu"] == only)
    found = estimate(rows, machine, own)
    return Study(
        "validate",
        (*_tables(found), _filters(dropped), _calibrations(rows, machine), _rows(found)),
        drawings.scatter(found),
        (),
        provenance(rows.keys(), rows.seconds.tolist()),
        NOTES,
    )


NOTES = (
    "Fitted: eight constants of a GPU and one launch offset a framework and kernel, on half of the 16-bit rows (by a "
    "hash of the row) that take over 8 us. Predicted: all else. SEMANTICS 9.",
    "Mapping 'none yet': not modelled yet; so is our simulation of any. '-' also where too few rows are there to fit.",
    "Mapping known: tiles published for these rows (fa_tile_configs.csv); guessed: the fastest tile and split of a "
    "list, or FlashAttention's tiles and heuristics where its release is not stated. Covered: in our 80 % interval.",
)


def _tables(found: Estimates) -> Iterator[Table]:
    """One table for each half: mean, median, 90th percentile and bias of our error, the means of the others'."""
    columns = (
        "kernel", "gpu", "type", "source", "mapping", "over us", "n", "ours %", "median", "p90", "bias",
        "covered %", "inside %", "roofline %", "3 const. %", "noise %",
    )  # fmt: skip
    for name, half in (("not fitted", ~found.fitted), ("fitted", found.fitted)):
        yield Table(f"errors-{name.replace(' ', '-')}", f"rows {name}", columns, tuple(_errors(found, half)))


def _errors(found: Estimates, half: NDArray[np.bool_]) -> Iterator[tuple[Cell, ...]]:
    p = found.points
    types = np.where(p["kv_dtype"] == "fp8", "fp8 K,V", p["dtype"])
    parts = (p["kind"], p["gpu"], types, p["source"])
    for kind, name, dtype, source in sorted(set(zip(*(part[half].tolist() for part in parts), strict=True))):
        group = half & (p["kind"] == kind) & (p["gpu"] == name) & (types == dtype) & (p["source"] == source)
        rows = group & (p.seconds > LONG.get(kind, 0.0))
        ours, top, three = (errors(found.seconds(model)[rows], p.seconds[rows]) for model in MODELS)
        mapping = NOT_YET if ours is None else "known" if kind in KNOWN else "guessed"
        cover = None if ours is None else _covered(found, rows)
        yield (
            kind, name, dtype, source, mapping, LONG.get(kind, 0.0) * 1e6, int(rows.sum()),
            *((None,) * 4 if ours is None else (_r(ours.mean), _r(ours.median), _r(ours.p90), _r(ours.bias))),
            cover, None if ours is None else _r(100 * float(found.bounds.inside[rows].mean())),
            None if top is None else _r(top.mean), None if three is None else _r(three.mean), NOISE.get(kind),
        )  # fmt: skip


def _covered(found: Estimates, rows: NDArray[np.bool_]) -> float:
    """Per cent of the rows whose measured time lies in our interval."""
    seconds = found.points.seconds[rows]
    return _r(100 * float(((found.bounds.low[rows] <= seconds) & (seconds <= found.bounds.high[rows])).mean()))


def _r(value: float) -> float:
    return round(value, 1)


def _filters(dropped: tuple[Dropped, ...]) -> Table:
    return Table("filters", "rows not used", ("filter", "rows", "why"), tuple((d.name, d.rows, d.why) for d in dropped))


def _calibrations(points: Points, machine: Figures | None) -> Table:
    """The constants behind each GPU's estimates; another GPU's name is an extrapolation."""
    rows: list[tuple[Cell, ...]] = []
    for name in np.unique(points["gpu"]).tolist():
        if f := gpu(name) or machine:
            c = calibration(f)
            rows += [(name, c.gpu, constant, value) for constant, value in c.document()["constants"].items()]  # type: ignore[attr-defined]
    return Table("constants", "constants", ("gpu", "fitted on", "constant", "value"), tuple(rows))


def _rows(found: Estimates) -> Table:
    """Every estimate with its interval; data only."""
    p, b = found.points, found.bounds
    columns = ("row", "kernel", "gpu", "half", "measured s", "ours s", "low s", "high s", "inside")

    def cell(value: float) -> Cell:
        return float(f"{value:.6g}") if np.isfinite(value) else None

    body = (
        (
            str(p.place[i]), str(p["kind"][i]), str(p["gpu"][i]), "fitted" if found.fitted[i] else "not fitted",
            *(cell(float(column[i])) for column in (p.seconds, found.ours, b.low, b.high)), int(b.inside[i]),
        )
        for i in range(len(p))
    )  # fmt: skip
    return Table("rows", "rows", columns, tuple(body), printed=False)
