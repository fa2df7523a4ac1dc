"""`stepfall map`: search the best mapping of a cascade on a machine, and say how good it is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from einsum.problems import InputError, Problem
from mapper.search.answer import Answer, Found
from mapper.search.solve import Space
from studies import report
from studies.cli.inputs import bound_inputs

COLUMNS = ("mapping", "groups", "latency s", "energy J", "EDP J s")


def map_(
    cascade: str,
    machine: str,
    sizes: dict[str, int],
    routing: str | None,
    dtype: str | None,
    objective: str,
    tiling: str,
    buffers: int,
    simulate: int | None,
    buys: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print the best mappings with the certificate; with `out` write them there as YAML."""
    from rich.console import Console

    from mapper.search.answer import search
    from studies import refine

    if simulate and objective != "latency":
        raise InputError(Problem("--simulate looks for the least latency", path="--objective", got=objective))
    if routing and (simulate or buys or objective == "pareto"):
        raise InputError(Problem("a routing is mapped for latency, energy or edp alone", path="--routing", got=routing))
    if out:
        report.check_place(out)
    if routing:
        _ragged(cascade, machine, sizes, routing, dtype, objective, Space(tiling, buffers), out, as_json)
        return
    workload, place = bound_inputs(cascade, machine, sizes, dtype)
    with Console(stderr=True).status("") as status:  # shown on a terminal only
        told = lambda text: status.update(f"solving {text}")
        space = Space(tiling, buffers)
        if simulate:
            answer = refine.refine(workload, place, space, simulations=simulate, told=status.update)
        else:
            answer = search(workload, place, objective, space, told)
    if out:
        _write(answer.found, out)
    if not as_json:
        _print(answer, cascade, machine, out)
    gains: tuple[refine.Gain, ...] = ()
    if buys:
        with Console(stderr=True).status("") as status:
            gains = refine.buys(workload, place, space=space, told=lambda text: status.update(f"solving {text}"))
    if as_json:
        print(json.dumps(_as_dict(answer) | {"buys": [asdict(g) for g in gains]}, indent=1, allow_nan=False))
    elif buys:
        rows = [(g.parameter, g.before_s, g.after_s, f"{g.gain:.2%}") for g in gains]
        report.print_table("10% more of one thing, mapped anew", ("parameter", "before s", "after s", "gain"), rows)


def _ragged(
    cascade: str,
    machine: str,
    sizes: dict[str, int],
    routing: str,
    dtype: str | None,
    objective: str,
    space: Space,
    out: Path | None,
    as_json: bool,
) -> None:
    """The same for ragged experts: the best chunk of rows."""
    from rich.console import Console

    from mapper.chunks import chunked
    from mapper.show import show

    workload, place = bound_inputs(cascade, machine, sizes, dtype, routing)
    with Console(stderr=True).status("") as status:
        found = chunked(workload, place, objective, space, lambda text: status.update(f"solving {text}"))
    value = {"latency": lambda f: f.latency_s, "energy": lambda f: f.energy_j}
    best = min(found.values(), key=value.get(objective, lambda f: f.latency_s * f.energy_j))
    if out:
        _write((best,), out)
    if as_json:
        rows = [{"rows": n, "mapping": _dumped(f), **_numbers(f)} for n, f in found.items()]
        print(json.dumps({"objective": objective, "best": best.mapping.name, "found": rows}, indent=1, allow_nan=False))
        return
    print(show(best.mapping))
    rows = [(n, f.latency_s, f.energy_j, f.latency_s * f.energy_j) for n, f in found.items()]
    columns = ("rows of a chunk", "latency s", "energy J", "EDP J s")
    report.print_table(f"{cascade} on {machine}, {routing}, least {objective}: {best.mapping.name}", columns, rows)
    print("each chunk is mapped best, with proof, as one expert of so many rows; the whole has no proof")
    if out:
        print(f"`stepfall run --mapping {out}/{best.mapping.name}.yaml --routing {routing}`")


def _print(answer: Answer, cascade: str, machine: str, out: Path | None) -> None:
    from mapper.show import show
    from studies.refine import Refined

    proof = answer.certificate
    rows = [
        (f.mapping.name, len(f.mapping.groups), f.latency_s, f.energy_j, f.latency_s * f.energy_j) for f in answer.found
    ]
    if len(answer.found) == 1:
        print(show(answer.found[0].mapping))
    front = proof.objective == "pareto"
    what = "latency against energy" if front else f"least {proof.objective}"
    report.print_table(f"{cascade} on {machine}, {what}", COLUMNS, rows)
    print(f"space: {proof.space}")
    first = answer.found[0]
    method = first.result.method.replace(" ", "-")
    whole = "the whole space was costed or bounded out" if proof.exhausted else "stopped early, or a front cut off"
    runs = f", simulations: {answer.simulated}" if isinstance(answer, Refined) else ""
    claim = f"{method} {proof.objective} at least {proof.bound:.6g}, found {proof.value:.6g}, gap {proof.gap:.2%}"
    if front and proof.exhausted:
        claim = "no mapping of the space is both faster and of less energy than one of these, in closed form"
    print(
        f"proof: {claim}; "
        f"{whole}: {proof.effort.space:.3g} points, {proof.effort.costed} costed in full{runs}; {proof.seconds:.2f} s"
    )
    if out:
        many = f"{len(answer.found)} mappings" if len(answer.found) > 1 else "mapping"
        print(f"{many} in {out}; `stepfall run --mapping {out}/{first.mapping.name}.yaml`")


def _as_dict(answer: Answer) -> dict[str, object]:
    effort = {name: n for name, n in asdict(answer.certificate.effort).items() if name != "stop"}
    proof: dict[str, Any] = asdict(answer.certificate) | {"gap": answer.certificate.gap, "effort": effort}
    found = [{"mapping": _dumped(f), **_numbers(f)} for f in answer.found]
    return {"certificate": proof, "found": found}


def _dumped(found: Found) -> str:
    from mapper.yaml import dump_mapping

    return dump_mapping(found.mapping)


def _numbers(found: Found) -> dict[str, float]:
    return {"latency_s": found.latency_s, "energy_j": found.energy_j}


def _write(every: tuple[Found, ...], out: Path) -> None:
    with report.whole_directory(out) as folder:
        for found in every:
            (folder / f"{found.mapping.name}.yaml").write_text(_dumped(found))
