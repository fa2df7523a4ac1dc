"""Measured kernels from CSV: any table in the columns of `studies/reference/gpu`, as one frozen structure of arrays."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from einsum.problems import InputError, Problem, read_text, suggest
from studies.gpu.schema import DTYPES, SCHEMAS, SHAPES, Schema, kind_of

REFERENCE = Path(__file__).parents[1] / "reference" / "gpu"
TABLES = (  # those of the reference folder that hold kernels
    "aic_gemm_subset.csv", "aic_context_attention_subset.csv", "aic_encoder_attention_noncausal.csv",
    "aic_generation_attention_subset.csv", "aic_mla.csv", "aic_moe_subset.csv", "fa2_fwd_bwd_a100_h100.csv",
    "fa3_fwd_fp16_h100.csv", "fa4_fwd_measured_b200_gb300.csv", "llmcompass_matmul_a100_mi210.csv",
    "llmcompass_softmax_layernorm_gelu.csv", "energaizer_nvml_energy_a10_a100_h100.csv",
)  # fmt: skip
LABELS = ("kind", "gpu", "dtype", "kv_dtype", "framework", "source", "variant")
SIZES = tuple(dict.fromkeys(size for shape in SHAPES.values() for size in shape))
MAY_BE_ZERO = ("causal",)
GPUS = {  # spelling in a table -> machine, where it is not the spelling without its form factor
    "a100": "a100-80", "a100_sxm": "a100-80", "a100-80gb-sxm4": "a100-80", "h100-80gb-sxm5": "h100",
}  # fmt: skip
ENERGY_SETS = {"a10": "a10", "a100": "a100-40-pcie", "dvfs": "a100-40-pcie", "h100": "h100"}  # EnergAIzer's header
BOOLEANS = {"true": 1.0, "false": 0.0}
Text = NDArray[np.str_]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """Measured kernels, one per index of every array.

    `labels` are those of `LABELS`, empty where a table does not say; `shape` has every name in `SIZES`, zero where a
    kind of kernel has no such size; `seconds` were measured; `place` is `file:line`.
    """

    labels: Mapping[str, Text]
    shape: Mapping[str, Array]
    seconds: Array
    place: Text

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, name: str) -> Text:
        return self.labels[name]

    def where(self, mask: NDArray[np.bool_] | NDArray[np.intp]) -> Points:
        """The points of a mask or of indices."""
        return Points(
            {name: values[mask] for name, values in self.labels.items()},
            {name: values[mask] for name, values in self.shape.items()},
            self.seconds[mask],
            self.place[mask],
        )

    def keys(self) -> list[str]:
        """What identifies each point: everything but its time and its place."""
        columns = [self.labels[name] for name in LABELS]
        columns += [np.char.mod("%g", self.shape[name]) for name in SIZES]
        return ["|".join(row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def fitted(self) -> NDArray[np.bool_]:
        """The half that constants are fitted on: those whose key has an even SHA-256. Order does not matter."""
        return np.array([hashlib.sha256(key.encode()).digest()[0] % 2 == 0 for key in self.keys()], bool)


def join(parts: Iterable[Points]) -> Points:
    """All points of `parts`, in their order."""
    every = tuple(parts)
    return Points(
        {name: np.concatenate([p.labels[name] for p in every]) for name in LABELS},
        {name: np.concatenate([p.shape[name] for p in every]) for name in SIZES},
        np.concatenate([p.seconds for p in every]),
        np.concatenate([p.place for p in every]),
    )


def reference() -> Points:
    """Every row that ships with the project."""
    return join(read(REFERENCE / name) for name in TABLES)


def read(path: Path) -> Points:
    """The rows of one table. InputError names every bad row as `file:line: column`, or an unknown header."""
    lines = [(n, line) for n, line in enumerate(read_text(path).splitlines(), 1) if line and not line.startswith("#")]
    if not lines:
        raise InputError(Problem("has no header", str(path)))
    header = next(csv.reader([lines[0][1]]))
    schema = _schema(header, str(path), lines[0][0])
    at = {name: header.index(column) for name, column in schema.columns.items()}
    at["seconds"] = header.index(schema.seconds_of)
    problems: list[Problem] = []
    rows: list[dict[str, str | float]] = []
    for number, cells in zip((n for n, _ in lines[1:]), csv.reader(line for _, line in lines[1:]), strict=True):
        if len(cells) != len(header):
            what = f"has not as many fields as the header, which has {len(header)}"
            problems.append(Problem(what, str(path), number, got=str(len(cells))))
            continue
        texts = {name: cells[index].strip() for name, index in at.items()}
        if texts["seconds"]:  # an empty time was not measured (out of memory)
            rows.append(_row(schema, texts, path, number, problems))
    if problems:
        raise InputError(problems)
    return _points(rows, path)


def _schema(header: list[str], file: str, line: int) -> Schema:
    for schema in SCHEMAS:
        if set(schema.needs) <= set(header):
            if missing := [column for column in schema.read if column not in header]:
                raise InputError(
                    Problem("missing column", file, line, path=c, hint=suggest(c, header)) for c in missing
                )
            return schema
    known = "; ".join(f"{schema.kind}: {', '.join(schema.needs)}" for schema in SCHEMAS)
    raise InputError(Problem(f"no known table has these columns; known are {known}", file, line, got=",".join(header)))


def _row(
    schema: Schema, texts: Mapping[str, str], path: Path, line: int, problems: list[Problem]
) -> dict[str, str | float]:
    """One row under our names; what is wrong with it goes to `problems`."""
    row: dict[str, str | float] = dict(schema.fixed) | {"line": float(line)}
    for name, text in texts.items():
        if name in LABELS:
            row[name] = text
            continue
        value = BOOLEANS.get(text.lower(), schema.absent.get(name) if text == "" else None)
        try:
            value = float(text) if value is None else value
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and (value > 0 or (value == 0 and (name in MAY_BE_ZERO or schema.kind == "mla")))):
            column = schema.columns.get(name, schema.seconds_of)
            problems.append(Problem("is not a positive number", str(path), line, path=column, got=text))
        row[name] = value
    for name in ("dtype", "kv_dtype"):
        if (text := str(row.get(name, ""))) and text.lower() not in DTYPES:
            hint = suggest(text, DTYPES)
            problems.append(Problem("unknown element type", str(path), line, path=name, got=text, hint=hint))
        row[name] = DTYPES.get(text.lower(), "")
    scale, seconds = schema.scale, float(row["seconds"])
    row["seconds"] = float(row["m"]) * float(row["n"]) / (seconds * scale) if schema.rate else seconds * scale
    kind = row["kind"] = kind_of(schema, str(row.get("source", "")), str(row.get("variant", "")))
    if kind == "mla-prefill":
        row["keys"] = row["queries"]
    elif kind in ("decode", "mla-decode"):  # tables give the keys before the new token
        row |= {"queries": 1.0, "keys": float(row["keys"]) + 1}
    row["gpu"] = ENERGY_SETS[str(row["gpu"])] if kind == "energy" else machine_name(str(row["gpu"]))
    return row


def machine_name(gpu: str) -> str:
    """The machine of a GPU as tables spell it: `h100_sxm` is `h100`."""
    lower = gpu.lower()
    return GPUS.get(lower, lower.removesuffix("_sxm").replace("_", "-"))


def _points(rows: list[dict[str, str | float]], path: Path) -> Points:
    labels = {name: np.array([str(row.get(name, "")) for row in rows], np.str_) for name in LABELS}
    shape = {name: np.array([row.get(name, 0.0) for row in rows], float) for name in SIZES}
    seconds = np.array([row["seconds"] for row in rows], float)
    return Points(labels, shape, seconds, np.array([f"{path.name}:{int(float(row['line']))}" for row in rows], np.str_))
