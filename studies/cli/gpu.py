"""`stepfall gpu`: kernels generated, checked without a GPU, and measured on one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from einsum.problems import InputError, Problem
from mapper.result import provenance
from studies import report
from studies.cli.inputs import load

OK, FAILED = 0, 1


def check(name: str | None, as_json: bool) -> int:
    """Print the verdict on a kernel, or the names of those that ship; 1 if its values or its counts are wrong."""
    from gpu_backend.check import KERNELS, check as check_kernel

    if name is None:
        print("\n".join(KERNELS))
        return OK
    verdict = check_kernel(name)
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


def emit(cascade: str, machine: str, mapping: str, sizes: dict[str, int], out: Path | None) -> None:
    """Print the kernels' sources, or write them to content-addressed files and print their names."""
    from gpu_backend import source
    from gpu_backend.emit import emit as generate

    _, _, placed, workload = load(cascade, machine, mapping, sizes)
    kernels = generate(workload, placed)
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
