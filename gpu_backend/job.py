"""Job folders: everything that a GPU machine needs to measure kernels, without this project there.

A folder holds `run.py` (`gpu_backend.standalone`), the kernels' sources, `job.json`, and small inputs with the
oracle's results. What `run.py` writes to `records/` is taken in by `gpu_backend.record`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping as Dict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from arch.machine import Machine
from einsum.bind import bind
from einsum.cascade import Cascade, Workload
from einsum.problems import InputError, Problem
from gpu_backend import source
from gpu_backend.check import SPREAD, TOLERANCE, oracle_case
from gpu_backend.emit import emit
from gpu_backend.kernel import Kernel
from mapper.check import check as check_mapping
from mapper.cost import cost
from mapper.library import bound
from mapper.mapping import Mapping

SCHEMA = "stepfall-job/1"
RUNNER = Path(__file__).with_name("standalone.py")


@dataclass(frozen=True)
class Point:
    """A mapped cascade to be measured, and small sizes at which its values are checked first."""

    name: str
    cascade: Cascade
    mapping: Mapping
    machine: Machine
    sizes: Dict[str, int]
    small: Dict[str, int]
    small_mapping: Mapping
    dtype: str = "bf16"
    energy: bool = False
    ncu: bool = False


def write(points: Iterable[Point], folder: Path) -> int:
    """Make a folder, whole or not at all; the number of points.

    InputError for a mapping that no kernel can be generated for, and for a folder that exists or cannot be made.
    """
    if folder.exists():
        raise InputError(Problem("exists already: name a new folder", got=str(folder)))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".stepfall-", dir=folder.parent) as scratch:
            made = Path(scratch) / folder.name
            (made / "data").mkdir(parents=True)
            shutil.copyfile(RUNNER, made / "run.py")
            written = [_point(point, made) for point in points]
            text = json.dumps({"schema": SCHEMA, "points": written}, indent=1, allow_nan=False)
            (made / "job.json").write_text(text + "\n", encoding="utf-8")
            made.replace(folder)
    except OSError as error:
        raise InputError(Problem(f"cannot write: {error.strerror}", got=str(folder))) from error
    return len(written)


def _point(point: Point, folder: Path) -> dict[str, object]:
    workload, mapping = _bound(point, point.mapping, point.sizes)
    check_mapping(mapping, workload, point.machine)
    cascade = point.cascade
    config = {"cascade": cascade.name, "mapping": mapping.name, "machine": point.machine.name, "dtype": point.dtype}
    return {
        "name": point.name,
        "config": {**config, "sizes": dict(workload.sizes)},
        "check": _check_part(point, folder),
        "timed": {
            **_kernels(emit(workload, mapping), workload, folder),
            "expected": _expected(workload, mapping, point),
        },
        "baseline": _baseline(cascade),
        "energy": point.energy,
        "ncu": point.ncu,
    }


def _baseline(cascade: Cascade) -> str | None:
    """What torch computes of its own for the same tensors: attention with a head of keys for each of queries."""
    plain = set(cascade.inputs) == {"Q", "K", "V"} and cascade.tensor["K"].ranks == ("b", "h", "m", "e")
    if plain and not any(einsum.guards for einsum in cascade.einsums):
        return "attention"
    return "causal attention" if plain and cascade.name.endswith("-causal") else None


def _bound(point: Point, mapping: Mapping, sizes: Dict[str, int]) -> tuple[Workload, Mapping]:
    """The workload with the point's element type in place of bf16."""
    workload = bound(mapping, point.cascade, sizes)
    narrow = [t for t, kind in workload.dtypes.items() if kind == "bf16"]
    types = dict(mapping.dtypes) | dict.fromkeys(narrow, point.dtype)
    mapping = replace(mapping, dtypes=tuple(types.items()))
    return bind(point.cascade, {**sizes, **dict(mapping.sizes)}, types), mapping


def _expected(workload: Workload, mapping: Mapping, point: Point) -> dict[str, float]:
    """The closed form: issued bytes at the root memory, operations, the bound on the latency, the footprint."""
    closed, root = cost(mapping, workload, point.machine), point.machine.root.name
    outer = (*point.cascade.inputs, *point.cascade.outputs)
    return {
        "issued_bytes": closed.total("bytes", place=root, boundary="issued"),
        "compulsory_bytes": sum(workload.elements(t) * workload.bits(t) / 8 for t in outer),
        "macs": closed.total("operations", detail="mac", boundary="issued"),
        "useful_macs": closed.total("operations", detail="mac", boundary="useful"),
        "latency_s": closed.latency_s,
        "energy_j": closed.energy_j,
    }


def _check_part(point: Point, folder: Path) -> dict[str, object]:
    """The kernels at small sizes, and a file with inputs and the oracle's results."""
    workload, mapping = _bound(point, point.small_mapping, point.small)
    sizes = "_".join(f"{name}{size}" for name, size in sorted(workload.sizes.items()))
    data, outputs = folder / "data" / f"{point.cascade.name}_{sizes}_{point.dtype}.npz", point.cascade.outputs
    if not data.exists():
        inputs, exact = oracle_case(workload, seed=0)
        arrays: dict[str, Any] = {name: array.astype(np.float32) for name, array in inputs.items()}
        arrays |= {name: exact[name] for name in outputs}
        np.savez_compressed(data, **arrays)
    kernels = emit(workload, mapping)
    types = {a.dtype for kernel in kernels for a in kernel.arguments}
    tolerance = max(TOLERANCE[t] for t in types if t in TOLERANCE)
    part = {"data": str(data.relative_to(folder)), "outputs": list(outputs), "tolerance": tolerance}
    return {**_kernels(kernels, workload, folder), **part}


def _kernels(kernels: tuple[Kernel, ...], workload: Workload, folder: Path) -> dict[str, object]:
    """Launches in order, and every tensor that they touch."""
    launches, tensors = [], {}
    for kernel in kernels:
        file = source.path(kernel, folder / "kernels")
        launches.append({
            "file": str(file.relative_to(folder)), "function": kernel.name, "grid": list(kernel.grid),
            "arguments": [a.name for a in kernel.arguments], "constants": dict(kernel.constants),
            "num_warps": kernel.num_warps, "num_stages": kernel.num_stages,
        })  # fmt: skip
        for name, spec in _tensors(kernel, workload):
            tensors.setdefault(name, spec)
            if spec["role"] == "stored":
                tensors[name] = spec
    return {"kernels": launches, "tensors": tensors}


def _tensors(kernel: Kernel, workload: Workload) -> Iterator[tuple[str, dict[str, object]]]:
    for argument in kernel.arguments:
        role = "stored" if argument.output or argument.name in workload.cascade else "input"
        spec: dict[str, object] = {"shape": list(argument.shape), "dtype": argument.dtype, "role": role}
        if argument.dtype == "int32":
            spec["below"] = _limit(workload, argument.name)
        elif role == "input":
            spec["spread"] = SPREAD
        yield argument.name, spec


def _limit(workload: Workload, name: str) -> int:
    """What values of an index tensor stay below: the extent of the rank that they index."""
    cascade = workload.cascade
    return min(
        workload.extent(rank)
        for einsum in cascade.einsums
        for access in einsum.reads
        for index, rank in zip(access.indices, cascade.tensor[access.tensor].ranks, strict=True)
        if getattr(index, "tensor", None) == name
    )
