"""`stepfall gpu`: kernels checked against values, counts and the compiler."""

from __future__ import annotations

import json

from einsum.problems import InputError, Problem


def check(name: str, as_json: bool) -> int:
    """Print the verdicts on a kernel; 1 if any failed."""
    try:
        from gpu_backend.check import check as check_kernel
    except ModuleNotFoundError as error:
        what = f"{error.name} is not installed: pip install 'stepfall[gpu]'"
        raise InputError(Problem(what, path="stepfall gpu check")) from error
    report = check_kernel(name)
    print(json.dumps(report.as_dict(), indent=1) if as_json else report)
    return 0 if report.passed else 1
