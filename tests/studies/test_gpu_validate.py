"""Baselines, calibration, intervals and the validation itself."""

from __future__ import annotations

import json
import time
from dataclasses import astuple, replace

import numpy as np
import pytest

from sim.gpu.constants import BOUNDS
from stepfall import main
from studies.gpu.baselines import ThreeConstants, fit_three, roofline
from studies.gpu.calibrate import calibrate, fitted_rows
from studies.gpu.data import Points, reference
from studies.gpu.interval import intervals
from studies.gpu.predict import CALIBRATED, calibration, gpu, load_calibration, modelled, predict
from studies.gpu.validate import errors
from studies.gpu.work import Work, useful


@pytest.fixture(scope="module")
def points() -> Points:
    return reference()


def known(name: str):
    f = gpu(name)
    assert f is not None
    return f


def test_three_constants_are_recovered_from_what_they_made():
    rng = np.random.default_rng(0)
    work = Work(np.exp(rng.uniform(20, 32, 400)), np.exp(rng.uniform(12, 24, 400)), np.ones(400))
    truth = ThreeConstants(0.7, 0.6, 9e-6)
    seconds = truth.predict(work, known("h100"))
    found = fit_three(work, known("h100"), seconds, np.arange(400) % 2 == 0)
    assert found is not None
    assert astuple(found) == pytest.approx(astuple(truth), rel=1e-3)
    assert fit_three(work, known("h100"), seconds, np.arange(400) < 7) is None


def test_the_roofline_is_the_worse_of_two_peaks():
    f = known("h100")
    work = Work(np.array([f.flop_per_s, 0.0]), np.array([0.0, f.hbm_bytes_per_s]), np.ones(2))
    assert roofline(work, f).tolist() == [1.0, 1.0]


def test_work_is_that_of_the_shapes(points):
    work = useful(points)
    gemm = np.flatnonzero(points["kind"] == "gemm")[0]
    s = {name: values[gemm] for name, values in points.shape.items()}
    assert work.flop[gemm] == 2 * s["m"] * s["n"] * s["k"]
    prefill = np.flatnonzero(points["kind"] == "prefill")[0]
    s = {name: values[prefill] for name, values in points.shape.items()}
    assert work.flop[prefill] == 4 * s["batch"] * s["heads"] * s["dim"] * s["queries"] * (s["queries"] + 1) / 2


def test_constants_are_recovered_from_times_that_the_model_made(points):
    """The A100's rows with the model's own times: the fit must come back to an error of nothing."""
    f = known("a100-80")
    rows = points.where(fitted_rows(points, f.name))
    made = replace(rows, seconds=predict(rows, f, calibration(f)))
    fit = calibrate(made, f)
    assert np.abs(fit.residuals).mean() < 0.01
    assert len(BOUNDS) <= 8


def test_shipped_constants_are_within_their_bounds(points):
    for path in CALIBRATED.glob("*.yaml"):
        c = load_calibration(path)
        for value, (low, high, _) in zip(c.constants.values(), BOUNDS.values(), strict=True):
            assert low - 1e-9 <= value <= high + 1e-9
        assert c.rows == fitted_rows(points, c.gpu).sum()


def test_errors_are_relative_and_in_per_cent():
    found = errors(np.array([1.1, 0.8]), np.array([1.0, 1.0]))
    assert found is not None
    assert astuple(found) == pytest.approx((2, 15.0, 15.0, 19.0, -5.0))
    assert errors(np.array([np.nan]), np.array([1.0])) is None


def test_intervals_cover_what_they_say_and_widen_outside(points):
    f = known("h100")
    mine = points.where((points["gpu"] == "h100") & (points["kind"] == "gemm") & (points["dtype"] == "bf16"))
    fitted = mine.where(fitted_rows(mine, "h100"))
    c = calibration(f)
    residuals = np.log(predict(fitted, f, c) / fitted.seconds)
    rest = mine.where(~mine.fitted() & (mine.seconds > 8e-6))
    estimate = predict(rest, f, c)
    found = intervals(rest, estimate, fitted, residuals)
    covered = ((found.low <= rest.seconds) & (rest.seconds <= found.high)).mean()
    assert 0.65 < covered < 0.95
    assert found.inside.mean() > 0.9
    far = replace(rest, shape={name: 1e4 * values for name, values in rest.shape.items()})
    away = intervals(far, estimate, fitted, residuals)
    assert not away.inside.any()
    assert np.log(away.high / away.low).mean() > 2 * np.log(found.high / found.low).mean()
    for label in ("framework", "dtype", "kv_dtype"):
        other = replace(rest, labels=rest.labels | {label: np.full(len(rest), "another")})
        assert not intervals(other, estimate, fitted, residuals).inside.any()


def test_ten_thousand_estimates_take_less_than_a_minute(points):
    f = known("h100")
    mine = points.where((points["gpu"] == "h100") & modelled(points))
    assert len(mine) > 5000
    start = time.perf_counter()
    assert np.isfinite(predict(mine, f, calibration(f))).all()
    assert (time.perf_counter() - start) / len(mine) < 60 / 10_000


def test_validate_prints_every_class_in_less_than_a_minute(tmp_path, capsys):
    start = time.perf_counter()
    assert main(["validate", "--json", "--out", str(tmp_path / "out")]) == 0
    assert time.perf_counter() - start < 60
    tables = {table["name"]: table for table in json.loads(capsys.readouterr().out)["tables"]}
    kinds = {row[0] for row in tables["errors-not-fitted"]["rows"]}
    assert {"gemm", "prefill", "decode", "mla-decode", "moe", "rowwise", "fa2", "fa3", "energy"} <= kinds
    assert (tmp_path / "out" / "scatter-h100.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "rows.csv").exists()


def test_data_of_a_gpu_that_was_never_seen(tmp_path, capsys):
    data = tmp_path / "new.csv"
    data.write_text("system,framework,version,gemm_dtype,m,n,k,latency_ms\nnew_sxm,F,1,bfloat16,4096,4096,4096,0.2\n")
    assert main(["validate", "--data", str(data), "--machine", "h200", "--out", str(tmp_path / "out"), "--json"]) == 0
    tables = {table["name"]: table for table in json.loads(capsys.readouterr().out)["tables"]}
    (row,) = tables["errors-not-fitted"]["rows"]
    assert row[:2] == ["gemm", "new"]
    assert row[12] == 0  # per cent inside: a GPU and a framework without measurements
    assert main(["validate", "--data", str(tmp_path / "none.csv"), "--out", str(tmp_path / "out")]) == 2


def test_calibrate_writes_constants_and_residuals(tmp_path, capsys):
    assert main(["calibrate", "--machine", "a100-80", "--out", str(tmp_path / "fit")]) == 0
    c = load_calibration(tmp_path / "fit" / "a100-80.yaml")
    shipped = load_calibration(CALIBRATED / "a100-80.yaml")
    assert c.constants.values() == pytest.approx(shipped.constants.values(), rel=0.05, abs=0.02)
    text = (tmp_path / "fit" / "a100-80-residuals.yaml").read_text()
    assert text.count("aic_gemm_subset.csv:") > 100
    assert main(["calibrate", "--machine", "fusemax", "--out", str(tmp_path / "fit")]) == 2
