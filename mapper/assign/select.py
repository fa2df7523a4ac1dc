"""`select`: one tuple of factors for each Einsum, as a mixed-integer program. SEMANTICS 8.9.

Whoever has enumerated and priced tuples (tiles, holds, units of an Einsum or of a group) gets the best selection that
agrees on what is shared and fits every memory. It knows nothing of how `mapper.search` bounds and joins: a check of it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping as Dict, Sequence
from dataclasses import dataclass, field
from typing import Any

from einsum.problems import InputError, Problem, suggest
from mapper.assign.solver import Solved, Violation, pyo, solve

OBJECTIVES = ("energy", "latency")


@dataclass(frozen=True)
class Factors:
    """A way to compute some Einsums, with its costs. `agrees`: tensor -> what is fixed of it, the same by all Einsums
    that share it. What several of them cause together counts in one of their tuples."""

    covers: tuple[str, ...]
    energy_j: float
    busy_s: Dict[str, float]  # resource -> seconds; the latency is the busiest resource's
    held: Dict[str, float] = field(default_factory=dict)  # memory -> bytes
    agrees: Dict[str, Hashable] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """The chosen ones' places in the sequence, none if nothing fulfils the constraints, and how good they are."""

    chosen: tuple[int, ...]
    solved: Solved


def select(
    factors: Sequence[Factors],
    capacity: Dict[str, float],
    objective: str = "energy",
    static_power_w: float = 0.0,
    seconds: float = math.inf,
) -> Selection:
    """The selection of least energy in joules, or latency in seconds, that covers every Einsum once.

    `capacity`: memory -> bytes; others hold anything. `static_power_w` over the latency is part of the energy. After
    `seconds` the best so far is returned with its gap. InputError if the objective is unknown.
    """
    if objective not in OBJECTIVES:
        raise InputError(Problem("unknown objective", got=objective, hint=suggest(objective, OBJECTIVES)))
    energies, per_second = ([f.energy_j for f in factors], static_power_w) if objective == "energy" else ([], 1.0)
    longest = max((s for f in factors for s in f.busy_s.values()), default=0.0)
    scale = max((*energies, per_second * longest), default=0.0) or 1.0
    model = _model(factors, capacity)
    for slack in model.slack.values():
        slack.fix(0)
    model.latency = pyo.Var(within=pyo.NonNegativeReals)  # in parts of the longest time
    for resource in dict.fromkeys(r for f in factors for r in f.busy_s) if longest else ():
        busy = sum(model.on[i] * (f.busy_s.get(resource, 0.0) / longest) for i, f in enumerate(factors))
        model.rules.add(model.latency >= busy)
    summed = sum(model.on[i] * (e / scale) for i, e in enumerate(energies))
    model.goal = pyo.Objective(expr=summed + per_second * longest / scale * model.latency)
    solved = solve(model, seconds)
    if solved.status == "infeasible":
        return Selection((), Solved("infeasible", math.inf, math.inf, solved.seconds, _explained(factors, capacity)))
    chosen = tuple(i for i in model.on if (model.on[i].value or 0.0) > 0.5)
    value = math.inf
    if math.isfinite(solved.value):
        value = sum(energies[i] for i in chosen if energies) + per_second * _latency([factors[i] for i in chosen])
    return Selection(chosen, Solved(solved.status, value, min(solved.bound * scale, value), solved.seconds))


def _latency(chosen: Sequence[Factors]) -> float:
    """Seconds of the busiest resource."""
    resources = dict.fromkeys(r for f in chosen for r in f.busy_s)
    return max((sum(f.busy_s.get(r, 0.0) for f in chosen) for r in resources), default=0.0)


def _model(factors: Sequence[Factors], capacity: Dict[str, float]) -> Any:
    """Choice, agreement and memories, each with a slack by (family, where)."""
    m = pyo.ConcreteModel()
    m.on = pyo.Var(range(len(factors)), within=pyo.Binary)
    m.kinds = pyo.VarList(within=pyo.Binary)
    m.rules = pyo.ConstraintList()
    einsums = tuple(dict.fromkeys(e for f in factors for e in f.covers))
    tensors = tuple(dict.fromkeys(t for f in factors for t in f.agrees))
    limited = tuple(name for name in capacity if any(f.held.get(name) for f in factors))
    keys = [*(("choice", e) for e in einsums), *(("agreement", t) for t in tensors), *(("memory", n) for n in limited)]
    m.slack = pyo.Var(keys, within=pyo.NonNegativeReals)
    for einsum in einsums:
        covers = sum(m.on[i] for i, f in enumerate(factors) if einsum in f.covers)
        m.rules.add(covers <= 1)
        m.rules.add(covers + m.slack["choice", einsum] >= 1)
    for tensor in tensors:
        _agree(m, factors, tensor)
    for name in limited:
        most = max(f.held.get(name, 0.0) for f in factors)
        held = sum(m.on[i] * (f.held[name] / most) for i, f in enumerate(factors) if f.held.get(name))
        m.rules.add(held <= capacity[name] / most * (1 + m.slack["memory", name]))
    return m


def _agree(m: Any, factors: Sequence[Factors], tensor: str) -> None:
    """One kind of what is fixed of a tensor; each Einsum's tuple is of that kind if it fixes it at all."""
    kinds = tuple(dict.fromkeys(f.agrees[tensor] for f in factors if tensor in f.agrees))
    chosen = [m.kinds.add() for _ in kinds]
    m.rules.add(sum(chosen) <= 1 + m.slack["agreement", tensor])
    for kind, is_it in zip(kinds, chosen, strict=True):
        of_it = [(i, f) for i, f in enumerate(factors) if tensor in f.agrees and f.agrees[tensor] == kind]
        for einsum in dict.fromkeys(e for _, f in of_it for e in f.covers):
            m.rules.add(sum(m.on[i] for i, f in of_it if einsum in f.covers) <= is_it)


def _explained(factors: Sequence[Factors], capacity: Dict[str, float]) -> tuple[Violation, ...]:
    """The least violations under which there is a selection: bytes missing before tensors that are not agreed on, and
    these before Einsums that nobody computes."""
    model = _model(factors, capacity)
    price = {"memory": 1.0, "agreement": 1e3, "choice": 1e6}
    model.goal = pyo.Objective(expr=sum(price[family] * model.slack[family, w] for family, w in model.slack))
    solve(model)
    found = {key: slack.value or 0.0 for key, slack in model.slack.items()}
    worth = lambda family, where: capacity[where] if family == "memory" else 1.0
    units = {"memory": "bytes", "agreement": "tuples", "choice": "tuples"}
    return tuple(Violation(f, w, n * worth(f, w), units[f]) for (f, w), n in found.items() if n > 1e-6)
