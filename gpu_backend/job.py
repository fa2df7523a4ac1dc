"""Job folders: everything that a GPU machine needs to measure kernels, without this project there.

A folder holds the files of `gpu_backend/standalone`, the kernels' sources, `job.json`, and small inputs with the
oracle's results. What its `run.py` writes to `records/` is taken in by `gpu_backend.record`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping as Dict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arch.machine import Machine
from einsum.cascade import Cascade, Workload
from einsum.problems import InputError, Problem
from gpu_backend import source
from gpu_backend.check import SPREAD, TOLERANCE, oracle_case, retyped
from gpu_backend.emit import emit
from gpu_backend.handwritten import tutorial
from gpu_backend.kernel import Kernel
from gpu_backend.routine import Routine
from mapper.check import check as check_mapping
from mapper.cost import cost
from mapper.library import bound
from mapper.mapping import Mapping

SCHEMA = "stepfall-job/1"
STANDALONE = Path(__file__).with_name("standalone")
REFERENCES = {  # cascade -> what `reference.py` computes of it, besides plain attention
    "attention-flashdecode-gqa": "attention",
    "attention-1pass-gqa-paged-lengths": "paged attention",
    "mla-decode": "latent attention",
    "gemm": "product",
    "fused-moe": "experts",
}


@dataclass(frozen=True)
class Point:
    """A routine to be measured, and the same at small sizes, where its values are checked first; made when written."""

    name: str
    machine: Machine
    timed: Callable[[], Routine]
    small: Callable[[], Routine]
    energy: bool = False
    ncu: bool = False


def generated(
    cascade: Cascade, mapping: Mapping, machine: Machine, sizes: Dict[str, int], tile: str, dtype: str = "bf16"
) -> Routine:
    """The kernels of a mapping, with another element type in place of bf16.

    InputError for a mapping that is illegal or that no kernel can be generated for.
    """
    workload, mapping = retyped(bound(mapping, cascade, sizes), mapping, dtype)
    check_mapping(mapping, workload, machine)
    closed = cost(mapping, workload, machine)
    return Routine(workload, mapping.name, tile, emit(workload, mapping, machine), closed)


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
            for file in STANDALONE.glob("*.py"):
                shutil.copyfile(file, made / file.name)
            written = [_point(point, made) for point in points]
            text = json.dumps({"schema": SCHEMA, "points": written}, indent=1, allow_nan=False)
            (made / "job.json").write_text(text + "\n", encoding="utf-8")
            made.replace(folder)
    except OSError as error:
        raise InputError(Problem(f"cannot write: {error.strerror}", got=str(folder))) from error
    return len(written)


def _point(point: Point, folder: Path) -> dict[str, object]:
    timed, small = point.timed(), point.small()
    workload, baseline = timed.workload, _baseline(timed.workload.cascade)
    return {
        "name": point.name,
        "config": {
            "cascade": workload.cascade.name,
            "mapping": timed.mapping,
            "tile": timed.tile,
            "machine": point.machine.name,
            "dtype": workload.dtypes[workload.cascade.outputs[0]],
            "sizes": dict(workload.sizes),
        },
        "check": {**_launches(small.kernels, small.workload, folder), **_checked(small, folder)},
        "timed": {
            **_launches(timed.kernels, workload, folder, timed.given),
            "given": _stored(timed.given, folder) if timed.given else None,
            "expected": _expected(timed, point.machine),
        },
        "reference": baseline or REFERENCES.get(workload.cascade.name),
        "baseline": baseline,
        "rival": _rival(workload, baseline, folder),
        "energy": point.energy,
        "ncu": point.ncu,
    }


def _baseline(cascade: Cascade) -> str | None:
    """What torch computes of its own for the same tensors: attention with a head of keys for each of queries."""
    plain = set(cascade.inputs) == {"Q", "K", "V"} and cascade.tensor["K"].ranks == ("b", "h", "m", "e")
    if plain and not any(einsum.guards for einsum in cascade.einsums):
        return "attention"
    return "causal attention" if plain and cascade.name.endswith("-causal") else None


def _rival(workload: Workload, baseline: str | None, folder: Path) -> dict[str, object] | None:
    """The launches among which the rival's fastest is looked for, where it computes the same."""
    kernels = tuple(tutorial.candidates(workload, baseline == "causal attention")) if baseline else ()
    if not kernels:
        return None
    return {"name": tutorial.NAME, **_launches(kernels, workload, folder)}


def _expected(routine: Routine, machine: Machine) -> dict[str, float | None]:
    """The closed form: issued bytes at the root memory, the bytes that any kernel moves (of inputs and outputs, less
    what the given indices leave out), operations, the bound on the latency."""
    workload, closed, root = routine.workload, routine.closed, machine.root.name
    outer = (*workload.cascade.inputs, *workload.cascade.outputs)
    used = {t: closed.total("bytes", tensor=t, boundary="distinct") for t in outer}
    whole = {t: workload.elements(t) * workload.bits(t) / 8 for t in outer}
    return {
        "issued_bytes": closed.total("bytes", place=root, boundary="issued"),
        "compulsory_bytes": sum((used if routine.given else whole).values()),
        "macs": closed.total("operations", detail="mac", boundary="issued"),
        "useful_macs": closed.total("operations", detail="mac", boundary="useful"),
        "latency_s": closed.latency_s,
        "energy_j": closed.energy_j if closed.select("energy") else None,
    }


def _checked(routine: Routine, folder: Path) -> dict[str, object]:
    """A file with inputs and the oracle's results, shared by points that compute the same."""
    workload, outputs = routine.workload, routine.workload.cascade.outputs
    sizes = "_".join(f"{name}{size}" for name, size in sorted(workload.sizes.items()))
    data = folder / "data" / f"{workload.cascade.name}_{sizes}_{workload.dtypes[outputs[0]]}.npz"
    if not data.exists():
        inputs, exact = oracle_case(workload, 0, routine.given)
        arrays: dict[str, Any] = {name: array.astype(np.float32) for name, array in inputs.items()}
        arrays |= {name: exact[name] for name in outputs}
        np.savez_compressed(data, **arrays)
    types = {a.dtype for kernel in routine.kernels for a in kernel.arguments}
    tolerance = max(TOLERANCE[t] for t in types if t in TOLERANCE)
    return {"data": str(data.relative_to(folder)), "outputs": list(outputs), "tolerance": tolerance}


def _stored(given: Dict[str, np.ndarray], folder: Path) -> str:
    """A file with the inputs that decide what is computed, named by its content."""
    digest = hashlib.sha256(b"".join(array.tobytes() for array in given.values())).hexdigest()[:16]
    data = folder / "data" / f"given_{digest}.npz"
    arrays: dict[str, Any] = dict(given)
    np.savez_compressed(data, **arrays)
    return str(data.relative_to(folder))


def _launches(
    kernels: tuple[Kernel, ...], workload: Workload, folder: Path, given: Dict[str, np.ndarray] | None = None
) -> dict[str, object]:
    """Launches in order, and every tensor that they touch; index tensors that are drawn for a run are `given`."""
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
    if given is not None and (missing := _drawn_indices(tensors, given)):
        raise InputError(Problem("an index tensor has to be given", path=name) for name in missing)
    return {"kernels": launches, "tensors": tensors}


def _drawn_indices(tensors: Dict[str, Dict[str, object]], given: Dict[str, np.ndarray]) -> list[str]:
    return [n for n, s in tensors.items() if s["role"] == "input" and s["dtype"] == "int32" and n not in given]


def _tensors(kernel: Kernel, workload: Workload) -> Iterator[tuple[str, dict[str, object]]]:
    for argument in kernel.arguments:
        role = "stored" if argument.output or argument.name in workload.cascade else "input"
        spec: dict[str, object] = {"shape": list(argument.shape), "dtype": argument.dtype, "role": role}
        if role == "input":
            spec["spread"] = SPREAD
        yield argument.name, spec
