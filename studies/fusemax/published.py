"""The published numbers of the FuseMax artifact, and the data of other tools that the study takes as given."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files


@cache
def _rows(name: str) -> tuple[dict[str, str], ...]:
    """Rows of a reference file; its first line states the source."""
    text = files("studies").joinpath(f"reference/fusemax/{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()[1:]))


@cache
def published(name: str) -> dict[tuple[str, ...], dict[str, float]]:
    """(model, length), or (model, PE dimension) of the Pareto study -> column -> value, of an artifact's file."""
    keys = ("model", "PE_dim") if name == "pareto" else ("model", "seq_len")
    skip = {*keys, "accel"}
    return {tuple(r[k] for k in keys): {c: float(v) for c, v in r.items() if c not in skip} for r in _rows(name)}


def columns(name: str) -> tuple[str, ...]:
    """Columns of the artifact's file."""
    return tuple(_rows(name)[0])


def layer(model: str, length: str) -> dict[str, str]:
    """Sizes of a layer and FLAT's choices for it, as the artifact's validation file has them."""
    key = ("cloud", model, length)
    return next(r for r in _rows("flat_mapping") if (r["platform"], r["models"], r["seq_len"]) == key)


def buffer_area_m2(columns: int, capacity_bytes: int) -> float:
    """Area of a buffer with rows of 2 * columns bytes. KeyError where no source states it: nothing is interpolated."""
    known = {(int(r["PE_dim"]), int(r["bytes"])): float(r["mm2"]) for r in _rows("buffer_area")}
    return known[columns, capacity_bytes] * 1e-6
