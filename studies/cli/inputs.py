"""What the command line names: sizes, and cascades, machines and mappings by name or file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping as Dict
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from einsum.problems import InputError, Problem, suggest

if TYPE_CHECKING:
    from arch.machine import Machine
    from einsum.cascade import Cascade, Workload
    from mapper.mapping import Mapping

T = TypeVar("T")
SIZE = re.compile(r"(?P<name>[A-Za-z]\w*)=(?P<value>[0-9][0-9_]*)")


def parse_sizes(values: tuple[str, ...]) -> dict[str, int]:
    """`("M=1024,P=64", "B=1")` -> sizes by name; InputError for each entry that is no size or names one twice."""
    sizes: dict[str, int] = {}
    problems = []
    for entry in (entry.strip() for value in values for entry in value.split(",")):
        match = SIZE.fullmatch(entry)
        if not match or int(match["value"]) < 1:
            problems.append(Problem("not a size, NAME=N with a positive whole number", path="--size", got=entry))
        elif match["name"] in sizes:
            problems.append(Problem(f"size {match['name']} given twice", path="--size", got=entry))
        else:
            sizes[match["name"]] = int(match["value"])
    if problems:
        raise InputError(problems)
    return sizes


def is_file(name: str) -> bool:
    """Whether a NAME|FILE argument means a file: it has a folder or a suffix."""
    return "/" in name or "." in name


def load(
    cascade_name: str, machine_name: str, mapping_name: str, sizes: Dict[str, int], routing: str | None = None
) -> tuple[Cascade, Machine, Mapping, Workload]:
    """The inputs of a run: the mapping checked, and the workload that it maps bound to the sizes and to what a routing
    decides.

    InputError with the problems of cascade, machine and mapping file, all at once.
    """
    from arch import read
    from einsum import library as cascades
    from einsum.occupancy import routed
    from mapper import library
    from mapper.check import check

    problems: list[Problem] = []
    cascade = _gather(problems, cascades.load, cascade_name)
    machine = _gather(problems, read.load, machine_name)
    given = _gather(problems, _mapping_file, mapping_name)
    if problems or cascade is None or machine is None:
        raise InputError(problems)
    known = {}
    if routing:
        sizes, known, _ = routed(cascade, sizes, routing)
    if given:
        mapping, workload = given, library.bound(given, cascade, sizes)
    else:
        mapping, workload = library.make(mapping_name, cascade, machine, sizes)
    workload = replace(workload, given=known)
    check(mapping, workload, machine)
    return cascade, machine, mapping, workload


def bound_inputs(
    cascade_name: str, machine_name: str, sizes: Dict[str, int], dtype: str | None, routing: str | None = None
) -> tuple[Workload, Machine]:
    """A cascade bound to sizes, of one element type if given, and to what a routing decides, and a machine; InputError
    with the problems of both."""
    from arch import read
    from einsum import library as cascades
    from einsum.bind import bind
    from einsum.occupancy import routed

    problems: list[Problem] = []
    cascade = _gather(problems, cascades.load, cascade_name)
    machine = _gather(problems, read.load, machine_name)
    if problems or cascade is None or machine is None:
        raise InputError(problems)
    types = {tensor.name: dtype for tensor in cascade.tensors} if dtype else {}
    known = {}
    if routing:
        sizes, known, _ = routed(cascade, sizes, routing)
    return bind(cascade, sizes, types, known), machine


def _mapping_file(name: str) -> Mapping | None:
    """The mapping in a file; None for the name of one that is generated."""
    from mapper import library
    from mapper.yaml import load_mapping

    if is_file(name):
        return load_mapping(name)
    if name not in library.names():
        raise InputError(Problem("no such mapping", got=name, hint=suggest(name, library.names())))
    return None


def _gather(problems: list[Problem], read: Callable[[str], T], name: str) -> T | None:
    """`read(name)`; if that has problems they are added to `problems` instead."""
    try:
        return read(name)
    except InputError as error:
        problems += error.problems
        return None
