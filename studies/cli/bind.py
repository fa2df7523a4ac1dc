"""`stepfall bind`: bind and order the leaves of a mapping's pipes, and say how good that is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum.problems import InputError, Problem
from studies import report
from studies.cli.inputs import load

if TYPE_CHECKING:
    from arch.machine import Machine
    from einsum.cascade import Workload
    from mapper.assign.answer import Assigned, AssignedPipe
    from mapper.mapping import Mapping

COLUMNS = ("unit", "busy before", "busy after", "order, with stages")


def bind(
    cascade: str,
    machine: str,
    mapping: str,
    sizes: dict[str, int],
    within: float | None,
    keep_units: bool,
    seconds: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print units' work, the interval with its bound, and the simulated latency; with `out` write the mapping."""
    from mapper.assign.answer import assign
    from mapper.yaml import dump_mapping

    if out:
        report.check_place(out.parent)
    _, place, given, workload = load(cascade, machine, mapping, sizes)
    limits = {"within": within / place.clock_hz} if within else {}
    limits |= {"seconds": seconds} if seconds is not None else {}
    answer = assign(given, workload, place, rebind=not keep_units, **limits)
    if answer.mapping is None:
        raise InputError(_problems(answer, place.clock_hz, within))
    latencies = tuple(_simulated(m, workload, place) for m in (given, answer.mapping))
    if out:
        with report.whole_file(out) as path:
            path.write_text(dump_mapping(answer.mapping))
    if as_json:
        found = {"pipes": [_as_dict(p, answer.mapping, place.clock_hz) for p in answer.pipes]}
        found |= {"simulated_s": latencies, "mapping": dump_mapping(answer.mapping)}
        print(json.dumps(found, indent=1, allow_nan=False))
        return
    for pipe in answer.pipes:
        _print(pipe, answer.mapping, place.clock_hz)
    before, after = latencies
    if before and after:
        print(f"simulated: {before:.6g} s before, {after:.6g} s after, {after / before - 1:+.2%}")
    else:
        print("not simulated: see `stepfall run`")
    if out:
        print(f"mapping in {out}; `stepfall run --mapping {out}`")


def _simulated(mapping: Mapping, workload: Workload, machine: Machine) -> float | None:
    """Seconds that the mapping takes; None if it is not simulated, or cannot proceed as given."""
    from sim.outcome import Deadlock, NotSimulated, Standstill
    from sim.run import simulate

    try:
        return simulate(mapping, workload, machine).latency_s
    except (Deadlock, NotSimulated, Standstill):
        return None


def _problems(answer: Assigned, clock_hz: float, within: float | None) -> Iterator[Problem]:
    """What stands in the way, for each pipe."""
    wanted = f"no binding and order takes {within:g} cycles a tile" if within else "no binding and order fits"
    for pipe in answer.pipes:
        path = f"groups.{pipe.group}"
        if pipe.solved.status == "unknown":
            yield Problem("no such binding and order was found in time", path=path)
        elif pipe.solved.status == "infeasible":
            yield from (Problem(wanted, path=path, got=str(v)) for v in pipe.solved.violated or ("unknown why",))


def _stages(mapping: Mapping, group: str) -> dict[str, int]:
    from mapper.mapping import Compute, leaves

    return {x.node.einsum: x.node.stage for x in leaves(mapping) if x.group == group and isinstance(x.node, Compute)}


def _units(pipe: AssignedPipe) -> Iterator[tuple[str, float, float, tuple[str, ...]]]:
    orders = dict(pipe.order.units) if pipe.order else {}
    for unit in dict.fromkeys((*pipe.before, *pipe.after)):
        yield unit, pipe.before.get(unit, 0.0), pipe.after.get(unit, 0.0), orders.get(unit, ())


def _print(pipe: AssignedPipe, mapping: Mapping, clock_hz: float) -> None:
    stages, solved = _stages(mapping, pipe.group), pipe.solved
    named = lambda names: " ".join(f"{n}-{stages[n]}" if stages[n] else n for n in names)
    rows = [(unit, b * clock_hz, a * clock_hz, named(names)) for unit, b, a, names in _units(pipe)]
    report.print_table(f"{pipe.group}: cycles of the machine's clock a tile", COLUMNS, rows)
    print(
        f"{pipe.group}: {solved.status}, {solved.value * clock_hz:.6g} cycles a tile, at least "
        f"{solved.bound * clock_hz:.6g}, gap {solved.gap:.2%}; {solved.seconds:.2f} s"
    )


def _as_dict(pipe: AssignedPipe, mapping: Mapping, clock_hz: float) -> dict[str, Any]:
    stages, solved = _stages(mapping, pipe.group), pipe.solved
    units = [
        {"unit": unit, "before_cycles": b * clock_hz, "after_cycles": a * clock_hz, "order": list(names)}
        for unit, b, a, names in _units(pipe)
    ]
    cycles = {"interval_cycles": solved.value * clock_hz, "bound_cycles": solved.bound * clock_hz, "gap": solved.gap}
    return {"group": pipe.group, "status": solved.status, **cycles, "seconds": solved.seconds, "stages": stages} | {
        "units": units
    }
