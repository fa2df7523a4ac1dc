"""Hold a kernel's counts against the closed form of its mapping, with no tolerance (SEMANTICS 7.7)."""

from __future__ import annotations

from collections import defaultdict

from einsum.cascade import Apply, Einsum, walk
from einsum.domain import count as count_points, spaces
from einsum.ops import REDUCE_OPS, operation_classes
from gpu_backend.base2 import is_root, needs_factor
from gpu_backend.plan import Plan, by_data, gathers
from mapper.result import Result
from mapper.tile import chosen

SEEN = ("operations", "combines", "bytes")
USEFUL = "useful operations"
MADE_OF = {  # operation class -> what a kernel computes it from
    "sigmoid": ("mul", "exp", "add", "div"),  # 1 / (1 + exp2(-log2(e) * x))
    "silu": ("mul", "exp", "add", "div"),  # x / (1 + exp2(-log2(e) * x))
    "gelu": ("mul", "mul", "mul", "erf", "add"),  # x * 0.5 * (1 + erf(sqrt(0.5) * x))
    "compare": (),  # of coordinates: index arithmetic
    "topk": (),  # of each value that is chosen a reduction, which is combines
    "mac": ("mul",),  # outside a matrix product; the additions are combines
}
Key = tuple[str, str, str, str]  # quantity, Einsum, tensor, detail


def expected(closed: Result, plans: tuple[Plan, ...], memory: str) -> dict[Key, float]:
    """What a closed form says that the counter must see: issued operations and bytes, and useful operations.

    Of a reduction the counter sees the combines, of a matrix product the multiply-accumulates; bytes are those at
    `memory`, whoever moves them; and a kernel multiplies by log2(e) where its logits are made (SEMANTICS 7.5).
    """
    found: dict[Key, float] = defaultdict(float)
    for plan in plans:
        for name in plan.einsums:
            found |= _arithmetic(closed, plan, plan.workload.cascade[name])
    for row in closed.select("bytes", place=memory, boundary="issued"):
        found["bytes", "", row.tensor, row.detail] += row.value
    return {key: value for key, value in (found | _useful(closed, plans)).items() if value}


def _arithmetic(closed: Result, plan: Plan, einsum: Einsum) -> dict[Key, float]:
    points = _points(closed, einsum, "issued")
    if points is None:
        return {}
    combines = closed.total("combines", einsum=einsum.name, boundary="issued")
    results = points - combines
    for rank, n in chosen(plan.workload, einsum.name).items() if einsum.topk else ():
        combines = n * (points - points / plan.tiles[rank])
    found = _operations(plan, einsum, points, results)
    if plan.is_dot(einsum):
        combines = 0
    elif plan.accumulates(einsum):
        found[REDUCE_OPS[einsum.reduce_op].op_class] += results
    operations = {("operations", einsum.name, "", name): n for name, n in found.items()}
    return operations | {("combines", einsum.name, "", ""): combines}


def _useful(closed: Result, plans: tuple[Plan, ...]) -> dict[Key, float]:
    """Operations on points that exist. What goes on from tile to tile depends on how rows meet tiles and is left out;
    so are cascades whose points are data, of which the closed form states a bound."""
    workload = plans[0].workload
    einsums = [workload.cascade[name] for plan in plans for name in plan.einsums]
    if any(e.topk or any(map(by_data, e.guards)) or any(map(gathers, e.reads)) for e in einsums):
        return {}
    space, found = spaces(workload), {}
    for plan in plans:
        for einsum in map(workload.cascade.__getitem__, plan.einsums):
            points = _points(closed, einsum, "useful")
            results = count_points(einsum.output_ranks, space[einsum.name].outer.forms, workload)
            operations = {} if points is None else _operations(plan, einsum, points, results)
            if plan.accumulates(einsum) and not plan.is_dot(einsum):
                operations.pop(REDUCE_OPS[einsum.reduce_op].op_class, None)
            found |= {(USEFUL, einsum.name, "", name): n for name, n in operations.items()}
    return found


def _points(closed: Result, einsum: Einsum, boundary: str) -> float | None:
    """Points of an Einsum; None if the closed form has no operation of it."""
    rows = closed.select("operations", einsum=einsum.name, boundary=boundary)
    return rows[0].value / operation_classes(einsum)[rows[0].detail] if rows else None


def _operations(plan: Plan, einsum: Einsum, points: float, results: float) -> dict[str, float]:
    """What a kernel computes element by element, or as a matrix product, of points that are reduced to results."""
    classes, scaled = operation_classes(einsum), results * is_root(einsum, plan.scaled)
    if plan.is_dot(einsum):
        return {"mac": points, "mul": scaled or results * classes.get("mul", 0)}
    found: dict[str, float] = defaultdict(float)
    for detail, n in classes.items():
        for name in MADE_OF.get(detail, (detail,)):
            found[name] += n * points
    exponents = [x.args[0] for x in walk(einsum.expr) if isinstance(x, Apply) and x.op == "exp"]
    found["mul"] += scaled + points * sum(needs_factor(x, plan.scaled) for x in exponents)
    if einsum.reduced and "mac" not in classes:
        found[REDUCE_OPS[einsum.reduce_op].op_class] -= points
    return found


def seen(counted: Result) -> dict[Key, float]:
    """The issued operations and bytes of a count."""
    rows = [r for quantity in SEEN for r in counted.select(quantity, boundary="issued")]
    return {(r.quantity, r.einsum, r.tensor, r.detail): r.value for r in rows}


def compared(closed: Result, counted: Result, plans: tuple[Plan, ...], memory: str) -> dict[Key, tuple[float, float]]:
    """(closed form, count) of every key: all that was issued, and what the closed form says of useful operations."""
    left, right = expected(closed, plans, memory), seen(counted)
    for row in counted.select("operations", boundary="useful"):
        key = (USEFUL, row.einsum, row.tensor, row.detail)
        right |= {key: row.value} if key in left else {}
    return {key: (left.get(key, 0), right.get(key, 0)) for key in sorted({*left, *right})}


def differences(closed: Result, counted: Result, plans: tuple[Plan, ...], memory: str) -> tuple[str, ...]:
    """One line for each key on which the closed form and the count differ; empty when they are equal."""
    found = compared(closed, counted, plans, memory).items()
    name = {key: " ".join(filter(None, key)) for key, _ in found}
    return tuple(f"{name[k]}: {closed.method} {a:.0f}, {counted.method} {b:.0f}" for k, (a, b) in found if a != b)
