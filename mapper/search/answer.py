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
from mapper.search.effort import Effort, Stopped
from mapper.search.fuse import COSTS, Cost, Cuts, total
from mapper.search.places import ORDERS
from mapper.search.solve import SHAPES, Solver, Space
from mapper.search.tiles import LIMIT, TILINGS

DEFAULT = Space()
OBJECTIVES = ("latency", "energy", "edp", "pareto")


@dataclass(frozen=True)
class Certificate:
    """How good an answer is: no mapping of the space has less than `bound` of the objective's closed form.

    Of a front that is the product of latency and energy.
    """

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
    seconds: float = math.inf,
) -> Answer:
    """The mapping of least `objective` (latency | energy | edp | pareto) in the space.

    Ties go to less energy, then less latency, then fewer bytes held. Latency is the closed form's, a lower bound of the
    simulated time. `told` hears which group is solved. After `seconds`, or when
    interrupted, the best so far is returned with its gap. InputError if the objective is unknown, some Einsum fits
    nowhere, or nothing has been found yet.
    """
    if objective not in OBJECTIVES:
        raise InputError(Problem("unknown objective", got=objective, hint=suggest(objective, OBJECTIVES)))
    if space.tiling not in TILINGS:
        raise InputError(Problem("unknown tiling", got=space.tiling, hint=suggest(space.tiling, TILINGS)))
    start = time.perf_counter()
    solver = Solver(space, Effort(stop=_until(start + seconds)))
    cuts = Cuts(workload, machine, solver)
    try:
        paths, bound = _paths(cuts, objective, told)
    except (Stopped, KeyboardInterrupt) as error:
        what = "stopped before any mapping of the whole was found"
        raise InputError(Problem(what, path=workload.cascade.name)) from error
    value, found = (
        min(_value(objective, path) for path in paths),
        tuple(_found(path, i, space) for i, path in enumerate(paths)),
    )
    least = value if bound is None else _whole(objective, bound)
    words, spent = described(cuts, space), time.perf_counter() - start
    return Answer(found, Certificate(objective, value, least, bound is None, words, solver.effort, spent))


def proven(
    workload: Workload,
    machine: Machine,
    objective: str = "latency",
    space: Space = DEFAULT,
    told: Callable[[str], None] = lambda message: None,
) -> Answer:
    """`search` for who takes the answer for the best there is: an interrupt is raised, and not the best so far."""
    answer = search(workload, machine, objective, space, told)
    if not answer.certificate.exhausted:
        raise KeyboardInterrupt
    return answer


def _paths(cuts: Cuts, objective: str, told: Callable[[str], None]) -> tuple[list[list[Choice]], Cost | None]:
    """(the best cuts, a bound of any cut if the search was stopped or a front was cut off)."""
    if objective in COSTS:
        path, bound = cuts.best(objective, told)
        return [path], None if bound == total(path) else bound
    paths = cuts.front(told)
    bound = Cost(total(paths[0]).latency, cuts.floor.energy) if cuts.solver.cut_off else None
    if objective == "edp":
        paths = [min(paths, key=lambda path: _value("edp", path))]
    return paths, bound


def _until(deadline: float) -> Callable[[], None]:
    def stop() -> None:
        if time.perf_counter() > deadline:
            raise Stopped

    return stop


def _value(objective: str, path: list[Choice]) -> float:
    return _whole(objective, total(path))


def _whole(objective: str, whole: Cost) -> float:
    """Latency, energy, or for `edp` and `pareto` their product."""
    return getattr(whole, objective) if objective in COSTS else whole.latency * whole.energy


def _found(path: list[Choice], number: int, space: Space) -> Found:
    """The mapping of a path of groups, checked and costed by the closed form itself."""
    first = path[0].group
    mapping = mapping_of(f"found-{number}" if number else "found", path, space.buffers)
    check(mapping, first.workload, first.machine)
    result = cost(mapping, first.workload, first.machine)
    whole = total(path)
    pairs = ((whole.latency, result.latency_s), (whole.energy, result.energy_j))
    if not all(math.isclose(ours, theirs, rel_tol=1e-9) for ours, theirs in pairs):
        raise AssertionError(f"the search and the closed form differ in latency or energy: {pairs}")
    return Found(replace(mapping, doc=""), result)


def described(cuts: Cuts, space: Space) -> str:
    """The space in words, as it is printed with every answer."""
    tiles = {"divisors": "tiles divide their rank", "ragged": f"ragged tiles too, at most {LIMIT} for a rank and level"}
    return (
        f"every cut into connected groups of at most {space.together} Einsums with {space.products} matrix products; "
        f"every order of loops at each memory (of several Einsums at most {ORDERS}, and {SHAPES} shapes); "
        f"{tiles[space.tiling]}; every unit, every rank over every axis; each tensor held or not in each memory, "
        f"inside the loops that vary it; {space.buffers} buffer{'s' if space.buffers > 1 else ''} for each hold "
        f"(SEMANTICS 8.1 to 8.3 have every rule)"
    )
