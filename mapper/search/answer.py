"""`search`: the best mapping of a workload on a machine, with a certificate. SEMANTICS section 8."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from arch.machine import Machine
from einsum.cascade import Workload
from einsum.problems import InputError, Problem, suggest
from mapper import mapping as types
from mapper.check import check
from mapper.cost import cost
from mapper.result import Result
from mapper.search.build import Choice, mapping_of
from mapper.search.fuse import Cuts
from mapper.search.single import Effort
from mapper.search.solve import Solver, Space
from mapper.search.tiles import LIMIT, TILINGS

DEFAULT = Space()
OBJECTIVES = ("latency", "energy", "edp", "pareto")


@dataclass(frozen=True)
class Certificate:
    """How good an answer is: no mapping of the space has less than `bound` of the objective's closed form."""

    objective: str
    value: float
    bound: float
    exhausted: bool  # every mapping of the space was costed or bounded out
    space: str  # what the space is, in words
    effort: Effort
    seconds: float

    @property
    def gap(self) -> float:
        """By how much a better mapping of the space could be better, relative to the value."""
        return (self.value - self.bound) / self.value if self.value else 0.0


@dataclass(frozen=True)
class Found:
    """A mapping with its closed-form result."""

    mapping: types.Mapping
    result: Result

    @property
    def latency_s(self) -> float:
        return self.result.latency_s

    @property
    def energy_j(self) -> float:
        return self.result.energy_j


@dataclass(frozen=True)
class Answer:
    """The best mappings, one unless the objective is `pareto`, and the proof."""

    found: tuple[Found, ...]
    certificate: Certificate


def search(
    workload: Workload,
    machine: Machine,
    objective: str = "latency",
    space: Space = DEFAULT,
    told: Callable[[str], None] = lambda message: None,
) -> Answer:
    """The mapping of least `objective` (latency | energy | edp | pareto) in the space.

    Ties go to less energy, then less latency, then fewer bytes held. Latency is the closed form's, a lower bound of the
    simulated time.

    `told` hears which group is solved. InputError if the objective is unknown or some Einsum fits nowhere.
    """
    if objective not in OBJECTIVES:
        raise InputError(Problem("unknown objective", got=objective, hint=suggest(objective, OBJECTIVES)))
    if space.tiling not in TILINGS:
        raise InputError(Problem("unknown tiling", got=space.tiling, hint=suggest(space.tiling, TILINGS)))
    start, solver = time.perf_counter(), Solver(space)
    cuts = Cuts(workload, machine, solver)
    paths = [cuts.best(objective, told)] if objective in ("latency", "energy") else cuts.front(told)
    if objective == "edp":
        paths = [min(paths, key=lambda p: sum(c.latency for c in p) * sum(c.energy for c in p))]
    found = tuple(_found(path, i, space) for i, path in enumerate(paths))
    value = _value(objective, found[0])
    made = time.perf_counter() - start
    proof = Certificate(objective, value, value, True, described(cuts, space), solver.effort, made)
    return Answer(found, proof)


def _value(objective: str, found: Found) -> float:
    values = {"latency": found.latency_s, "energy": found.energy_j}
    return values.get(objective, math.prod(values.values()))


def _found(path: list[Choice], number: int, space: Space) -> Found:
    """The mapping of a path of groups, checked and costed by the closed form itself."""
    first = path[0].group
    mapping = mapping_of(f"found-{number}" if number else "found", path, space.buffers)
    check(mapping, first.workload, first.machine)
    result = cost(mapping, first.workload, first.machine)
    latency = sum(c.latency for c in path)
    if not math.isclose(latency, result.latency_s, rel_tol=1e-9):
        raise AssertionError(f"the search costs {latency} s, the closed form {result.latency_s} s")
    return Found(replace(mapping, doc=""), result)


def described(cuts: Cuts, space: Space) -> str:
    """The space in words, as it is printed with every answer."""
    tiles = {"divisors": "tiles divide their rank", "ragged": f"ragged tiles too, at most {LIMIT} for a rank and level"}
    return (
        f"every cut into connected groups of at most {space.together} Einsums; every order of loops at each memory; "
        f"{tiles[space.tiling]}; every unit, every rank over every axis; each tensor held or not in each memory, "
        f"inside the loops that vary it; {space.buffers} buffer{'s' if space.buffers > 1 else ''} for each hold"
    )
