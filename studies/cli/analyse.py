"""`stepfall analyse`: what a cascade computes, moves and keeps, and what a machine makes of it."""

from __future__ import annotations

import json
from pathlib import Path

from studies import report


def analyse(cascade: str, sizes: dict[str, int], machine: str | None, svg: Path | None, as_json: bool) -> None:
    """Print the analysis, with a machine also the roofline and memory fit; with `svg` draw the graph."""
    from arch import read
    from einsum import library
    from einsum.analysis import analyse as analyse_workload
    from einsum.bind import bind
    from einsum.dag import dag_svg, dag_text
    from studies.analyse import judge

    if svg:
        report.check_place(svg.parent)
    found = library.load(cascade)
    target = read.load(machine) if machine else None
    workload = bind(found, sizes)
    analysis = analyse_workload(workload)
    verdict = judge(workload, analysis, target) if target else None
    if svg:
        with report.whole_file(svg) as path:
            path.write_text(dag_svg(found), encoding="utf-8")
    if as_json:
        machines = {"verdict": verdict.as_dict()} if verdict else {}
        print(json.dumps(analysis.as_dict() | machines, indent=1, allow_nan=False))
        return
    print(analysis)
    if verdict:
        print(verdict)
    print(dag_text(found), end="")
