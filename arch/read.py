"""Machines from YAML: presets by name, files by path, the JSON schema for editors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from arch.machine import Machine
from einsum.problems import InputError, Problem, read_text, suggest

PRESETS = Path(__file__).parent / "presets"


def presets() -> tuple[str, ...]:
    """Names of the machines that ship with the project."""
    return tuple(sorted(p.stem for p in PRESETS.glob("*.yaml")))


def load(name_or_path: str | Path) -> Machine:
    """A preset by name, or a machine file (`*.yaml`) by path; InputError with every problem of the file."""
    return loads(*_find(str(name_or_path)))


def _find(text: str) -> tuple[str, str]:
    """(text, file) of a preset or a path."""
    if text in presets():
        path = PRESETS / f"{text}.yaml"
        return path.read_text(encoding="utf-8"), path.name
    path = Path(text)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return read_text(path), text
    what = f"unknown machine, neither a file nor one of {', '.join(presets())}"
    raise InputError(Problem(what, got=text, hint=suggest(text, presets())))


def loads(text: str, file: str = "<machine>") -> Machine:
    """A machine from YAML text; `file` names it in problems."""
    from arch import check, document, model, variant

    places = document.read(text, file)
    variant.expand(places, _find)
    data = document.validated(places, model.MachineModel)
    builder = model.Builder()
    machine = builder.machine(data)
    model.structure_problems(data, places)
    for problem in check.problems(machine):
        node = problem.path.partition(".")[0]
        at = places.problem(builder.places.get(problem.path, builder.places.get(node, ())), problem.what)
        places.problems.append(replace(problem, file=file, line=at.line, path=problem.path))
    if places.problems:
        raise InputError(places.problems)
    return machine


def schema() -> dict[str, Any]:
    """JSON schema of the machine YAML, for editors."""
    from arch.document import json_schema
    from arch.model import MachineModel

    return json_schema(MachineModel)
