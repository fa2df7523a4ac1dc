"""`stepfall run`: one mapping, costed in closed form and simulated, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from arch.machine import Machine
from einsum.cascade import Cascade, Workload
from einsum.problems import InputError, Problem
from mapper.mapping import Mapping
from mapper.result import QUANTITIES, Result, Row
from studies import report
from studies.cli import run_why
from studies.cli.inputs import load
from studies.report import Cell

COLUMNS = ("quantity", "place", "detail", "unit", "closed form", "simulated", "relative difference")
SHOWN = ("latency", "utilization", "stall", "bytes", "energy", "operations")  # in this order


def run(
    cascade: str,
    machine: str,
    mapping: str,
    sizes: dict[str, int],
    routing: str | None,
    trace: Path | None,
    why: bool,
    as_json: bool,
) -> None:
    """Print both results, or the closed form alone with the reason why; with `trace` write a trace, with `why` say what
    holds the simulated run up."""
    from sim.bottleneck import bottleneck

    if trace:
        report.check_place(trace.parent)
    computed, place, mapped, workload = load(cascade, machine, mapping, sizes, routing)
    closed, simulated = results(computed, place, mapped, workload, sizes, trace)
    both = (closed, simulated) if simulated else (closed,)
    held = bottleneck(mapped, workload, place) if why and simulated else None
    if as_json:
        more = {"bottleneck": asdict(held)} if held else {}
        print(json.dumps({"results": [result.as_dict() for result in both]} | more, indent=1, allow_nan=False))
        return
    title = ", ".join(f"{key} {value}" for key, value in closed.config.items() if key != "sizes")
    report.print_table(title, COLUMNS, comparison(closed, simulated))
    for note in dict.fromkeys(note for result in both for note in result.notes):
        print(note)
    if held:
        run_why.show(held)
    if trace:
        print(f"trace: {trace} (open it in ui.perfetto.dev)")
    if closed.provenance:
        print(report.footer(closed.provenance))


def results(
    cascade: Cascade, machine: Machine, mapping: Mapping, workload: Workload, sizes: dict[str, int], trace: Path | None
) -> tuple[Result, Result | None]:
    """The closed-form and the simulated result, stamped.

    None for what the simulator does not understand yet, with a note on the closed form, unless a trace is wanted.
    """
    from mapper.cost import cost
    from sim.outcome import Deadlock, NotSimulated
    from sim.run import simulate

    given = {name: value.tolist() for name, value in workload.given.items()}
    inputs = (cascade, machine, mapping, sizes, *([given] if given else []))
    closed = cost(mapping, workload, machine).with_provenance(*inputs)
    try:
        if trace:
            with report.whole_file(trace) as path:
                simulated = simulate(mapping, workload, machine, trace=path)
        else:
            simulated = simulate(mapping, workload, machine)
    except Deadlock as error:
        raise InputError(Problem(f"this schedule cannot proceed: {error}", path=mapping.name)) from error
    except NotSimulated as error:
        if trace:
            raise
        return replace(closed, notes=(*closed.notes, f"closed form only: {error}")), None
    return closed, simulated.with_provenance(*inputs)


def comparison(closed: Result, simulated: Result | None) -> Iterator[tuple[Cell, ...]]:
    """Rows of the table. Only equal definitions are compared; what one side does not have stays empty."""
    left, right = summed(closed), summed(simulated) if simulated else {}
    keys = tuple(dict.fromkeys([*left, *right]))
    places = tuple(dict.fromkeys(place for _, place, _ in keys))
    for key in sorted(keys, key=lambda k: (SHOWN.index(k[0]), places.index(k[1]))):
        quantity, place, detail = key
        a, b = left.get(key), right.get(key)
        difference = None if a is None or b is None else report.relative(b, a)
        yield quantity, place, detail, QUANTITIES[quantity], a, b, difference


def summed(result: Result) -> dict[tuple[str, str, str], float]:
    """(quantity, place, detail and boundary) -> sum over Einsums and tensors; energy also in total."""
    sums: dict[tuple[str, str, str], float] = {}
    for row in result.rows:
        if row.quantity in SHOWN and row.boundary != "useful":
            key = (row.quantity, row.place, _detail(row))
            sums[key] = sums.get(key, 0.0) + row.value
    return sums | {("energy", "total", ""): result.energy_j}


def _detail(row: Row) -> str:
    return ", ".join(part for part in (row.detail, row.boundary) if part)
