"""`stepfall crosscheck`: every way to get a number, side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec

from mapper.result import provenance
from studies import crosscheck as study, report

OK, FAILED = 0, 1
COLUMNS = ("cascade", "mapping", "machine", "quantity", "unit", *study.METHODS, "difference", "verdict")


def crosscheck(names: tuple[str, ...], as_json: bool) -> int:
    """Print a row for each quantity of each mapped cascade, or of those named; 1 if any verdict is wrong."""
    lines = tuple(study.lines(names))
    stamp = provenance([line.as_dict() for line in lines])
    code = FAILED if any(line.verdict == study.WRONG for line in lines) else OK
    if as_json:
        rows = {"rows": [line.as_dict() for line in lines], "provenance": asdict(stamp)}
        print(json.dumps(rows, indent=1, allow_nan=False))
        return code
    report.print_table("cross-check", COLUMNS, (_row(line) for line in lines))
    for reason in dict.fromkeys(reason for line in lines for reason in line.reasons.values()):
        print(f"{reason}: {study.REASONS[reason]}")
    for line in lines:
        if line.verdict == study.WRONG:
            print(f"{line.cascade}, {line.mapping}, {line.quantity}: {'; '.join(line.notes) or 'differs'}")
    if find_spec("triton") is None:
        print("triton is not installed, so no kernel was counted or compiled: pip install 'stepfall[gpu]'")
    if not any("measured" in line.values for line in lines):
        print("nothing has been measured: gpu_backend/records is empty (`stepfall gpu plan`, then `gpu record`)")
    print(report.footer(stamp))
    return code


def _row(line: study.Line) -> tuple[report.Cell, ...]:
    values = tuple(line.values.get(method, line.reasons.get(method)) for method in study.METHODS)
    return line.cascade, line.mapping, line.machine, line.quantity, line.unit, *values, line.difference, line.verdict
