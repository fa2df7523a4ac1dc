"""Hold a kernel's counts against the closed form of its mapping, with no tolerance (SEMANTICS 7.7)."""

from __future__ import annotations

from collections import defaultdict

from einsum.cascade import Apply, Einsum, walk
from einsum.ops import REDUCE_OPS, operation_classes
from gpu_backend.base2 import is_root, needs_factor
from gpu_backend.plan import Plan
from mapper.result import Result

SEEN = ("operations", "combines", "bytes")
MADE_OF = {"silu": ("mul", "exp", "add", "div")}  # x / (1 + exp2(-log2(e) * x))
Key = tuple[str, str, str, str]  # quantity, Einsum, tensor, detail


def expected(closed: Result, plans: tuple[Plan, ...], memory: str) -> dict[Key, float]:
    """What a closed form says that the counter must see, issued operations and bytes.

    Of a reduction the counter sees the combines, of a matrix product the multiply-accumulates; bytes are those at
    `memory`, whoever moves them; and a kernel multiplies by log2(e) where its logits are made (SEMANTICS 7.5).
    """
    found: dict[Key, float] = defaultdict(float)
    for plan in plans:
        for name in plan.einsums:
            found |= _arithmetic(closed, plan, plan.workload.cascade[name])
    for row in closed.select("bytes", place=memory, boundary="issued"):
        found["bytes", "", row.tensor, row.detail] += row.value
    return {key: value for key, value in found.items() if value}


def _arithmetic(closed: Result, plan: Plan, einsum: Einsum) -> dict[Key, float]:
    classes = operation_classes(einsum)
    rows = closed.select("operations", einsum=einsum.name, boundary="issued")
    if not rows:
        return {}
    points = rows[0].value / classes[rows[0].detail]
    combines = closed.total("combines", einsum=einsum.name, boundary="issued")
    results = points - combines
    found: dict[str, float] = defaultdict(float)
    for row in rows:
        for name in MADE_OF.get(row.detail, (row.detail,)):
            found[name] += row.value
    found["mul"] += results * is_root(einsum, plan.scaled)
    if plan.is_dot(einsum):
        found["mul"] = results * is_root(einsum, plan.scaled) or results * classes.get("mul", 0)
        combines = 0
    else:
        exponents = [x.args[0] for x in walk(einsum.expr) if isinstance(x, Apply) and x.op == "exp"]
        found["mul"] += points * sum(needs_factor(x, plan.scaled) for x in exponents)
        if found.pop("mac", 0):
            found["mul"] += points
        elif einsum.reduced:
            found[REDUCE_OPS[einsum.reduce_op].op_class] -= points
        if plan.accumulates(einsum):
            found[REDUCE_OPS[einsum.reduce_op].op_class] += results
    operations = {("operations", einsum.name, "", name): n for name, n in found.items()}
    return operations | {("combines", einsum.name, "", ""): combines}


def seen(counted: Result) -> dict[Key, float]:
    """The issued operations and bytes of a count."""
    rows = [r for quantity in SEEN for r in counted.select(quantity, boundary="issued")]
    return {(r.quantity, r.einsum, r.tensor, r.detail): r.value for r in rows}


def differences(closed: Result, counted: Result, plans: tuple[Plan, ...], memory: str) -> tuple[str, ...]:
    """One line for each key on which the closed form and the count differ; empty when they are equal."""
    left, right = expected(closed, plans, memory), seen(counted)
    pairs = [(key, left.get(key, 0), right.get(key, 0)) for key in sorted({*left, *right})]
    name = {key: " ".join(filter(None, key)) for key, _, _ in pairs}
    return tuple(f"{name[k]}: {closed.method} {a:.0f}, {counted.method} {b:.0f}" for k, a, b in pairs if a != b)
