"""What a kernel's registers hold at points that do not exist, so that reductions skip them (SEMANTICS 7.4).

A block is computed whole, points outside a tensor or a guard included. A reduction may run over them if they hold its
identity. Loads fill with 0; from there on the value is followed through the cascade, and where it would not be the
identity of the reduction that comes, the tensor is masked when it is made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Guard, Name, Num, factors, rank_variables
from einsum.ops import REDUCE_OPS
from einsum.problems import InputError
from gpu_backend.hollow import every_row_has_a_point, leaves_rows_empty
from gpu_backend.plan import Load, Plan, by_data, refusal, written
from mapper.mapping import GUARD

FINITE = "finite"  # some number
Held = float | str | None  # a number, FINITE, or unknown
LARGE = 700.0  # exp of more is no float64


@dataclass(frozen=True, slots=True)
class Missing:
    """Conditions for a tensor's points to exist, what it holds elsewhere, and whether a mask has to put it there."""

    conditions: tuple[Guard, ...] = ()
    held: Held = FINITE
    masked: bool = False


def missing_points(plans: Sequence[Plan]) -> list[dict[Access | str, Missing]]:
    """For each kernel its loads (by the access that reads them) and Einsums (by name); InputError where points that do
    not exist would be seen.

    Lanes past the end of a rank that nothing reduces are no points at all: loads and stores leave them out.
    """
    every: list[dict[Access | str, Missing]] = []
    stored: dict[str, Missing] = {}
    for plan in plans:
        found: dict[Access | str, Missing] = {}
        for section in plan.sections:
            for load in section.loads:
                found[load.read] = _loaded(plan, load, stored)
            for name in section.einsums:
                found[name] = _computed(plan, plan.workload.cascade[name], found)
        for name in plan.stored:
            stored[name] = _storable(plan, name, found[name])
        every.append(found)
    return every


def hollow(plan: Plan, found: Mapping[Access | str, Missing]) -> bool:
    """Whether a block of the kernel may have a row without points in its first tile."""
    return leaves_rows_empty(plan, tuple(dict.fromkeys(c for m in found.values() for c in m.conditions)))


def _loaded(plan: Plan, load: Load, stored: Mapping[str, Missing]) -> Missing:
    """Bounds of ranks that are reduced here or stand in a combination, and what the kernel that stored it left out."""
    reduced = {r for name in plan.einsums for r in plan.workload.cascade[name].reduced}
    bounds = [c for c in plan.bounds(load.access) if not isinstance(c.left, Name) or c.left.name in reduced]
    left = stored.get(load.access.tensor, Missing())
    conditions = tuple(dict.fromkeys((*bounds, *left.conditions)))
    if not conditions:
        return Missing()
    if left.conditions:
        return Missing(conditions, left.held)
    return Missing(conditions, _wanted(plan, load.name, conditions) or 0.0)


def _storable(plan: Plan, name: str, missing: Missing) -> Missing:
    """What a later kernel finds in memory: points that a store's bounds leave out are no points of it either."""
    einsum = plan.workload.cascade[name]
    bounds = plan.bounds(written(einsum))
    final = name in plan.workload.cascade.outputs
    left = tuple(c for c in missing.conditions if c not in bounds and not (final and by_data(c)))
    loop = plan.section(name).loop
    skips = loop is not None and loop.source.extent == GUARD
    if left and (final or skips or not isinstance(missing.held, float)):
        raise InputError(refusal(name, "an output with points that do not exist"))
    if left and isinstance(missing.held, float) and math.isinf(missing.held) and plan.workload.bits(name) == 8:
        what = "in memory its points that do not exist are infinite, which an 8-bit type cannot hold"
        raise InputError(refusal(name, what, plan.workload.dtypes[name]))
    return Missing(left, missing.held if left else FINITE)


def _crosses(condition: Guard, einsum: Einsum) -> bool:
    """Whether the Einsum reduces over a rank of the condition."""
    return bool({*rank_variables(condition.left), *rank_variables(condition.right)} & set(einsum.reduced))


def _computed(plan: Plan, einsum: Einsum, found: Mapping[Access | str, Missing]) -> Missing:
    operands = {a: found.get(a) or found.get(a.tensor, Missing()) for a in einsum.reads}
    if einsum.topk:  # it chooses none of the points that do not exist, and is 0 wherever it has none
        return Missing((Guard(einsum.output, ">", Num(0)),), 0.0)
    inherited = dict.fromkeys(c for m in operands.values() for c in m.conditions)
    conditions = tuple(dict.fromkeys((*inherited, *einsum.guards)))
    outputs = _final_ranks(plan.workload.cascade, einsum.name)
    own, gone = [g for g in einsum.guards if g not in inherited], _everywhere(einsum.expr, operands)
    held = _everywhere(einsum.expr, operands, own=True) if own else gone
    crossed = [c for c in conditions if _crosses(c, einsum)]
    if crossed and not every_row_has_a_point(plan.workload, conditions, outputs):
        raise InputError(refusal(einsum.name, "a result without any point, which would not be a number"))
    if crossed and (set(own) & set(crossed) or gone != REDUCE_OPS[einsum.reduce_op].identity):
        raise InputError(refusal(einsum.name, "a reduction over points that do not exist"))
    left = tuple(c for c in conditions if c not in crossed)
    if not left:
        return Missing()
    wanted = _wanted(plan, einsum.name, left)
    return Missing(left, held) if wanted in (None, held) else Missing(left, wanted, masked=True)


def _final_ranks(cascade: Cascade, name: str) -> tuple[str, ...]:
    """Ranks of the outputs that are made of an Einsum."""
    made = {name}
    while grown := {e.name for e in cascade.einsums if e.name not in made and made & {a.tensor for a in e.reads}}:
        made |= grown
    return tuple(dict.fromkeys(r for n in cascade.outputs if n in made for r in cascade.tensor[n].ranks))


def _wanted(plan: Plan, tensor: str, conditions: tuple[Guard, ...]) -> float | None:
    """The identity of the first reduction of this tensor, alone or as a factor, that crosses one of the conditions."""
    for einsum in plan.workload.cascade.einsums:
        parts = factors(einsum.expr)
        if any(isinstance(f, Access) and f.tensor == tensor for f in parts) and any(
            _crosses(c, einsum) for c in conditions
        ):
            product = len(parts) > 1 and einsum.reduce_op == "add"
            return 0.0 if product else REDUCE_OPS[einsum.reduce_op].identity if len(parts) == 1 else None
    return None


def _everywhere(expr: Expr, operands: Mapping[Access, Missing], own: bool = False) -> Held:
    """The value wherever at least one operand's point does not exist, or with `own` where a guard of the Einsum is
    false; None unless it is the same in all such places."""
    partial = {name: set(m.conditions) for name, m in operands.items() if m.conditions}
    results = []
    for absent in itertools.product((False, True), repeat=len(partial)):
        gone = {name for name, is_absent in zip(partial, absent, strict=True) if is_absent}
        along = {name for name in partial if any(partial[other] <= partial[name] for other in gone)}
        if gone == along and (gone or own):
            results.append(_value(expr, {name: m.held if name in gone else FINITE for name, m in operands.items()}))
    return results[0] if results and all(r == results[0] for r in results) else None


def _value(expr: Expr, held: Mapping[Access, Held]) -> Held:
    match expr:
        case Access():
            return held[expr]
        case Num(value):
            return value
        case Apply("eq"):
            return FINITE
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
