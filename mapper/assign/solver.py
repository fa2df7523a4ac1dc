"""Pyomo models on HiGHS: one way to solve them, and one type for how that ended."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import pyomo.environ
from pyomo.contrib.solver.common.factory import SolverFactory
from pyomo.contrib.solver.common.results import SolutionStatus, TerminationCondition

pyo: Any = pyomo.environ  # its annotations know neither a model's own names nor sums of indexed variables
STATUSES = ("optimal", "feasible", "infeasible", "unknown")
GAP = 1e-6  # relative gap below which a solution counts as optimal
EXACT = 1e-9  # by how much a row may be violated


@dataclass(frozen=True)
class Violation:
    """A constraint that cannot hold: its family (unit, bandwidth, memory, open tiles, buffers, precedence; choice and
    agreement), where it stands, and how much is missing there."""

    family: str
    where: str
    missing: float
    unit: str  # of `missing`: cycles, bytes, tiles, buffers, tuples

    def __str__(self) -> str:
        return f"{self.family} {self.where}: {self.missing:.10g} {self.unit} missing"


@dataclass(frozen=True)
class Solved:
    """How solving ended. `value` and `bound` are of what is minimised; nothing is below `bound`."""

    status: str  # of STATUSES
    value: float
    bound: float
    seconds: float
    violated: tuple[Violation, ...] = ()  # why it is infeasible

    @property
    def gap(self) -> float:
        """By how much another solution could be better, relative to the value."""
        if not math.isfinite(self.value):
            return math.inf
        return max(0.0, (self.value - self.bound) / self.value) if self.value else 0.0


def solve(model: Any, seconds: float = math.inf) -> Solved:
    """Solve a model with one objective within some seconds; if there is a solution, the variables have its values."""
    start = time.perf_counter()
    result: Any = SolverFactory("highs").solve(
        model,
        load_solutions=False,
        raise_exception_on_nonoptimal_result=False,
        time_limit=seconds if math.isfinite(seconds) else None,
        rel_gap=GAP / 10,
        abs_gap=GAP / 10,  # objectives are of the order of one
        threads=1,  # so that runs repeat
        solver_options={"mip_feasibility_tolerance": EXACT, "primal_feasibility_tolerance": EXACT},
    )
    spent = time.perf_counter() - start
    value, bound = result.incumbent_objective, result.objective_bound
    known = lambda x, other: other if x is None else float(x)
    if result.solution_status in (SolutionStatus.optimal, SolutionStatus.feasible):
        result.solution_loader.load_vars()
        done = result.termination_condition == TerminationCondition.convergenceCriteriaSatisfied
        return Solved("optimal" if done else "feasible", known(value, math.inf), known(bound, -math.inf), spent)
    refuted = (TerminationCondition.provenInfeasible, TerminationCondition.infeasibleOrUnbounded)
    status = "infeasible" if result.termination_condition in refuted else "unknown"
    return Solved(status, math.inf, known(bound, -math.inf), spent)
