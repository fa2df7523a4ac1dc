"""What a kernel's registers hold at points that do not exist, so that reductions skip them (SEMANTICS 7.4).

A block is computed whole, points outside a tensor or a guard included. A reduction may run over them if they hold its
identity. Loads fill with 0; from there on the value is followed through the cascade, and where it would not be the
identity of the reduction that comes, the tensor is masked when it is made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from einsum.cascade import Access, Apply, Einsum, Expr, Guard, Num, rank_variables
from einsum.ops import REDUCE_OPS
from einsum.problems import InputError, Problem
from gpu_backend.plan import Plan

FINITE = "finite"  # some number
Held = float | str | None  # a number, FINITE, or unknown


@dataclass(frozen=True, slots=True)
class Missing:
    """Conditions for a tensor's points to exist, what it holds elsewhere, and whether a mask has to put it there."""

    conditions: tuple[Guard, ...] = ()
    held: Held = FINITE
    masked: bool = False


def missing_points(plan: Plan) -> dict[str, Missing]:
    """For each loaded and each computed tensor; InputError where a reduction would see points that do not exist."""
    cascade = plan.workload.cascade
    reduced = {rank for einsum in cascade.einsums for rank in einsum.reduced}
    found: dict[str, Missing] = {}
    for load in plan.loads:
        conditions = tuple(c for c in plan.bounds(load.access) if reduced & set(condition_ranks(c)))
        found[load.name] = Missing(conditions, 0.0 if conditions else FINITE)
    for name in (*plan.before, *plan.inside, *plan.after):
        found[name] = _computed(plan, cascade[name], found)
    return found


def condition_ranks(condition: Guard) -> tuple[str, ...]:
    return rank_variables(Apply("+", (condition.left, condition.right)))


def _computed(plan: Plan, einsum: Einsum, found: Mapping[str, Missing]) -> Missing:
    operands = {a.tensor: found.get(a.tensor, Missing()) for a in einsum.reads}
    inherited = dict.fromkeys(c for m in operands.values() for c in m.conditions)
    conditions = tuple(dict.fromkeys((*inherited, *einsum.guards)))
    held = None if set(einsum.guards) - set(inherited) else _everywhere(einsum.expr, operands)
    crossed = [c for c in conditions if set(condition_ranks(c)) & set(einsum.reduced)]
    if einsum.reduced and crossed and held != REDUCE_OPS[einsum.reduce_op].identity:
        raise InputError(Problem("no kernel can be generated: a reduction over points that do not exist", path=einsum.name))
    left = tuple(c for c in conditions if c not in crossed)
    if not left:
        return Missing()
    wanted = _wanted(plan, einsum.name, left)
    return Missing(left, held) if wanted in (None, held) else Missing(left, wanted, masked=True)


def _wanted(plan: Plan, tensor: str, conditions: tuple[Guard, ...]) -> float | None:
    """The identity of the first reduction that crosses one of the conditions, unless it multiplies first."""
    for einsum in plan.workload.cascade.einsums:
        crosses = any(set(condition_ranks(c)) & set(einsum.reduced) for c in conditions)
        if crosses and isinstance(einsum.expr, Access) and einsum.expr.tensor == tensor:
            return REDUCE_OPS[einsum.reduce_op].identity
    return None


def _everywhere(expr: Expr, operands: Mapping[str, Missing]) -> Held:
    """The value wherever at least one operand's point does not exist; None unless it is the same in all such places."""
    partial = [name for name, m in operands.items() if m.conditions]
    results = set()
    for absent in itertools.product((False, True), repeat=len(partial)):
        if any(absent):
            gone = {name for name, is_absent in zip(partial, absent, strict=True) if is_absent}
            results.add(_value(expr, {name: m.held if name in gone else FINITE for name, m in operands.items()}))
    return results.pop() if len(results) == 1 else None


def _value(expr: Expr, held: Mapping[str, Held]) -> Held:
    match expr:
        case Access(tensor):
            return held[tensor]
        case Num(value):
            return value
        case Apply("exp", (arg,)):
            inside = _value(arg, held)
            return math.exp(inside) if isinstance(inside, float) and inside < 700 else FINITE if inside == FINITE else None
        case Apply(op, (left, right)):
            return _binary(op, _value(left, held), _value(right, held))
    return None


def _binary(op: str, left: Held, right: Held) -> Held:
    """Arithmetic where FINITE stands for any number."""
    if left is None or right is None:
        return None
    if op == "-":
        op, right = "+", -right if isinstance(right, float) else right
    numbers = [x for x in (left, right) if isinstance(x, float)]
    if op == "*" and 0.0 in numbers and not any(map(math.isinf, numbers)):
        return 0.0
    if not numbers:
        return FINITE if op in ("+", "*", "max", "min") else None
    if len(numbers) == 1:
        infinite = math.isinf(numbers[0])
        absorbs = infinite and (op == "+" or (op, numbers[0]) in (("max", math.inf), ("min", -math.inf)))
        return numbers[0] if absorbs else FINITE if op in ("max", "min") or (op in "+*" and not infinite) else None
    a, b = numbers
    if op == "+":
        return None if math.isnan(a + b) else a + b
    return {"*": a * b, "max": max(a, b), "min": min(a, b)}.get(op)
