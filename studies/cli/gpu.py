"""`stepfall gpu`: kernels checked against values, counts and the compiler."""

from __future__ import annotations

import json
from dataclasses import asdict

from mapper.result import provenance
from studies import report

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
