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

from einsum.cascade import Access, Apply, Einsum, Expr, Guard, Name, Num, rank_variables
from einsum.ops import REDUCE_OPS
from einsum.problems import InputError
from gpu_backend.plan import Plan, refusal

FINITE = "finite"  # some number
Held = float | str | None  # a number, FINITE, or unknown
LARGE = 700.0  # exp of more is no float64


@dataclass(frozen=True, slots=True)
class Missing:
    """Conditions for a tensor's points to exist, what it holds elsewhere, and whether a mask has to put it there."""

    conditions: tuple[Guard, ...] = ()
    held: Held = FINITE
    masked: bool = False


def missing_points(plan: Plan) -> dict[str, Missing]:
    """For each loaded and each computed tensor; InputError where points that do not exist would be seen.

    Lanes past the end of a rank are no points at all: loads and stores leave them out.
    """
    found: dict[str, Missing] = {}
    for load in plan.loads:
        conditions = tuple(c for c in plan.bounds(load.access) if not isinstance(c.left, Name))
        found[load.name] = Missing(conditions, 0.0 if conditions else FINITE)
    for name in plan.einsums:
        found[name] = _computed(plan, plan.workload.cascade[name], found)
        if found[name].conditions and name in plan.workload.cascade.outputs:
            raise InputError(refusal(name, "an output with points that do not exist"))
    return found


def _crosses(condition: Guard, einsum: Einsum) -> bool:
    """Whether the Einsum reduces over a rank of the condition."""
    return bool({*rank_variables(condition.left), *rank_variables(condition.right)} & set(einsum.reduced))


def _computed(plan: Plan, einsum: Einsum, found: Mapping[str, Missing]) -> Missing:
    operands = {a.tensor: found.get(a.tensor, Missing()) for a in einsum.reads}
    inherited = dict.fromkeys(c for m in operands.values() for c in m.conditions)
    conditions = tuple(dict.fromkeys((*inherited, *einsum.guards)))
    held = None if set(einsum.guards) - set(inherited) else _everywhere(einsum.expr, operands)
    crossed = [c for c in conditions if _crosses(c, einsum)]
    if crossed and held != REDUCE_OPS[einsum.reduce_op].identity:
        raise InputError(refusal(einsum.name, "a reduction over points that do not exist"))
    left = tuple(c for c in conditions if c not in crossed)
    if not left:
        return Missing()
    wanted = _wanted(plan, einsum.name, left)
    return Missing(left, held) if wanted in (None, held) else Missing(left, wanted, masked=True)


def _wanted(plan: Plan, tensor: str, conditions: tuple[Guard, ...]) -> float | None:
    """The identity of the first reduction of this tensor that crosses one of the conditions."""
    for einsum in plan.workload.cascade.einsums:
        alone = isinstance(einsum.expr, Access) and einsum.expr.tensor == tensor
        if alone and any(_crosses(c, einsum) for c in conditions):
            return REDUCE_OPS[einsum.reduce_op].identity
    return None


def _everywhere(expr: Expr, operands: Mapping[str, Missing]) -> Held:
    """The value wherever at least one operand's point does not exist; None unless it is the same in all such places."""
    partial = [name for name, m in operands.items() if m.conditions]
    results = []
    for absent in itertools.product((False, True), repeat=len(partial)):
        gone = {name for name, is_absent in zip(partial, absent, strict=True) if is_absent}
        if gone:
            results.append(_value(expr, {name: m.held if name in gone else FINITE for name, m in operands.items()}))
    return results[0] if results and all(r == results[0] for r in results) else None


def _value(expr: Expr, held: Mapping[str, Held]) -> Held:
    match expr:
        case Access(tensor):
            return held[tensor]
        case Num(value):
            return value
        case Apply("exp", (arg,)):
            inside = _value(arg, held)
            if isinstance(inside, float):
                return math.exp(inside) if inside < LARGE else None
            return inside
        case Apply(op, (left, right)):
            return _binary(op, _value(left, held), _value(right, held))
    return None


def _binary(op: str, left: Held, right: Held) -> Held:
    """Arithmetic where FINITE stands for any number: an infinity absorbs it, and 0 times it is 0."""
    if left is None or right is None or op == "/":
        return None
    if op == "-":
        return _binary("+", left, -right if isinstance(right, float) else right)
    numbers = [x for x in (left, right) if isinstance(x, float)]
    if len(numbers) == 2:
        a, b = numbers
        results = {"+": a + b, "*": a * b, "max": max(a, b), "min": min(a, b)}
        return None if math.isnan(results[op]) else results[op]
    if not numbers or not math.isinf(numbers[0]):
        return 0.0 if op == "*" and numbers == [0.0] else FINITE
    absorbs = {"+": True, "*": None, "max": numbers[0] > 0, "min": numbers[0] < 0}[op]
    return None if absorbs is None else numbers[0] if absorbs else FINITE
