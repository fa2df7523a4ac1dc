"""`stepfall gpu`: kernels generated, checked without a GPU, and measured on one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from einsum.problems import InputError, Problem, suggest
from mapper.result import provenance
from studies import report
from studies.cli.inputs import load

if TYPE_CHECKING:
    from gpu_backend.check import Verdict

OK, FAILED = 0, 1
BF16 = "bf16"  # the type that another one takes the place of


def check(name: str | None, as_json: bool, dtype: str | None) -> int:
    """Print the verdict on a kernel, or the names of those that ship; 1 if its values or its counts are wrong."""
    if name is None:
        print("\n".join(_kernels()))
        return OK
    verdict = _verdict(name, dtype or BF16)
    stamp = provenance(verdict.kernels)
    if as_json:
        results = [result.as_dict() for result in (verdict.closed, verdict.counted, *verdict.compiled)]
        judged = {"kernel": name, "passed": verdict.passed, "error": verdict.error}
        judged |= {"tolerance": verdict.tolerance, "differences": list(verdict.differences)}
        print(json.dumps(judged | {"results": results, "provenance": asdict(stamp)}, indent=1, allow_nan=False))
    else:
        print(verdict)
        print(report.footer(stamp))
    return OK if verdict.passed else FAILED


def _kernels() -> tuple[str, ...]:
    """Generated ones, then those written by hand."""
    from gpu_backend.handwritten.library import ROUTINES
    from gpu_backend.kernels import KERNELS

    return (*KERNELS, *ROUTINES)


def _verdict(name: str, dtype: str) -> Verdict:
    from arch.read import load as load_machine
    from gpu_backend import check as generated
    from gpu_backend.handwritten import library

    if name not in _kernels():
        raise InputError(Problem("no such kernel", path="kernel", got=name, hint=suggest(name, _kernels())))
    if name in library.ROUTINES:
        return library.check(library.ROUTINES[name](load_machine(generated.MACHINE), dtype))
    return generated.check(name, dtype=dtype)


def emit(cascade: str, machine: str, mapping: str, sizes: dict[str, int], out: Path | None, dtype: str | None) -> None:
    """Print the kernels' sources, or write them to content-addressed files and print their names."""
    from gpu_backend import source
    from gpu_backend.check import retyped
    from gpu_backend.emit import emit as generate

    _, place, placed, workload = load(cascade, machine, mapping, sizes)
    kernels = generate(*retyped(workload, placed, dtype or BF16), place)
    if out is None:
        print("\n\n".join(kernel.source for kernel in kernels), end="")
        return
    report.check_place(out)
    for kernel in kernels:
        print(source.path(kernel, out))


def plan(folder: Path, only: str) -> None:
    """Write a job folder with the points of the campaign whose name contains `only`."""
    from arch.read import load as load_machine
    from gpu_backend import campaign, job
    from gpu_backend.check import require_triton

    require_triton()
    points = [point for point in campaign.points(load_machine("h100")) if only in point.name]
    if not points:
        raise InputError(Problem("no point has this in its name", path="--only", got=only))
    count = job.write(points, folder)
    print(f"{count} points in {folder}: copy it to a machine with a GPU, numpy, torch and triton,")
    print("run `python run.py` in it, and take its records in with `stepfall gpu record`")


def record(folder: Path) -> None:
    """Copy the folder's valid records to those of the project."""
    from gpu_backend.record import take_in

    for file in take_in(folder):
        print(file)
