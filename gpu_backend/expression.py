"""The value of an Einsum as text: matrix products, reductions of blocks, element-wise expressions."""

from __future__ import annotations

import math
from collections.abc import Mapping

from einsum.cascade import Access, Apply, Einsum, Expr, Name, Num, factors
from einsum.problems import InputError
from gpu_backend.address import Addresses, align
from gpu_backend.base2 import is_root, needs_factor
from gpu_backend.missing import Missing, hollow
from gpu_backend.plan import Plan, refusal
from mapper.tile import chosen

LOG2E = math.log2(math.e)
LOWEST = 'float("-inf")'
INFIX = ("+", "-", "*", "/")
CALLS = {"max": "tl.maximum", "min": "tl.minimum"}
FUNCTIONS = {"sqrt": "tl.sqrt", "log": "tl.log"}
MADE = {  # of a tensor's values; `compare.MADE_OF` says which operations these are
    "sigmoid": f"1.0 / (1.0 + tl.exp2({{0}} * {-LOG2E!r}))",
    "silu": f"{{0}} / (1.0 + tl.exp2({{0}} * {-LOG2E!r}))",
    "gelu": f"{{0}} * 0.5 * (1.0 + tl.erf({{0}} * {math.sqrt(0.5)!r}))",
}
REDUCE = {"add": "tl.sum", "max": "tl.max", "min": "tl.min"}
PRECISION = {"fp32": ', input_precision="ieee"', "tf32": ', input_precision="tf32"'}
NARROW = ("bf16", "fp16", "e4m3", "e5m2")  # element types that are widened before anything but a matrix product
EIGHT = ("e4m3", "e5m2")


class Expressions:
    """Values of a kernel in terms of the variables that exist so far."""

    def __init__(self, plan: Plan, missing: Mapping[Access | str, Missing], addresses: Addresses) -> None:
        self._plan, self._addresses = plan, addresses
        self._loads = {load.read: load for load in plan.loads}
        self._hollow, self._missing = hollow(plan, missing), missing
        self.defined: set[str] = set()  # variables of loads, states and Einsums written so far
        self.pending: dict[str, str] = {}  # state -> variable of its next value, while the old one is still read

    def einsum(self, einsum: Einsum, axes: tuple[str, ...]) -> str:
        """One tile of an Einsum, along block axes."""
        plan = self._plan
        if plan.is_dot(einsum):
            return self._dot(einsum, axes)
        around = plan.axes(einsum.output, *map(Name, einsum.reduced))
        text = self._expression(einsum.expr, around)
        if len(around) > len(axes):
            (axis,) = (i for i, r in enumerate(around) if r in einsum.reduced)
            text = f"{REDUCE[einsum.reduce_op]}({text}, {axis})"
        return f"({text}) * {LOG2E!r}" if is_root(einsum, plan.scaled) else text

    def choice(self, einsum: Einsum, axes: tuple[str, ...]) -> tuple[str, ...]:
        """The lines of a top-k: as often as it chooses, the first of the greatest values that are left is taken out."""
        ((rank, count),), name, access = chosen(self._plan.workload, einsum.name).items(), einsum.name, einsum.reads[0]
        value, missing = self._wide(access, axes), self._missing.get(access) or self._missing.get(access.tensor)
        mask = self._addresses.mask(missing.conditions, axes) if missing else ""
        at = align(f"{name}_at", tuple(a for a in axes if a != rank), axes)
        here = f"{align(rank, (rank,), axes)} == {at}"
        return (
            f"{name}_left = {f'tl.where({mask}, {value}, {LOWEST})' if mask else value}",
            f"{name} = tl.zeros_like({name}_left)",
            f"for _ in tl.static_range({count}):",
            f"    {name}_at = tl.argmax({name}_left, {axes.index(rank)})",
            f"    {name} = tl.where({here}, 1.0, {name})",
            f"    {name}_left = tl.where({here}, {LOWEST}, {name}_left)",
        )

    def _dot(self, einsum: Einsum, axes: tuple[str, ...]) -> str:
        """`tl.dot` over the reduced rank; constants, and log2(e) where the logits are made, become one factor.

        A computed operand is rounded to the element type of the loaded one.
        """
        plan, parts = self._plan, factors(einsum.expr)
        operands = [f for f in parts if isinstance(f, Access)]
        (rank,) = set(plan.axes(operands[0])) & set(plan.axes(operands[1]))
        operands.sort(key=lambda a: axes[0] not in plan.axes(a))
        loaded = [self._loads[a] for a in operands if a in self._loads]
        sides = []
        for access, target in zip(operands, ((axes[0], rank), (rank, axes[1])), strict=True):
            text = self._read(access, target)
            cast = f".to({loaded[0].name}.dtype)" if loaded else ".to(tl.bfloat16)"
            sides.append(text if access in self._loads else f"{text}{cast}")
        dtype = plan.workload.dtypes[loaded[0].access.tensor] if loaded else ""
        precision = PRECISION.get(dtype, "")
        if dtype in EIGHT and plan.accumulates(einsum):  # Hopper's tensor cores add these with fewer bits than fp32 has
            precision = f", max_num_imprecise_acc={plan.span_text(rank)}"
        scale = math.prod(f.value for f in parts if isinstance(f, Num))
        scale *= LOG2E if is_root(einsum, plan.scaled) else 1.0
        total = f", {einsum.name}" if plan.accumulates(einsum) else ""
        text = f"tl.dot({sides[0]}, {sides[1]}{total}{precision})"
        return text if scale == 1.0 else f"{text} * {scale!r}"

    def _expression(self, expr: Expr, axes: tuple[str, ...]) -> str:
        match expr:
            case Num(value):
                return number(value)
            case Name(name) if name.isupper():
                return name
            case Access():
                return self._wide(expr, axes)
            case Apply("eq", (Name(rank), Access() as whole)):
                return f"tl.where({align(rank, (rank,), axes)} == {self._read(whole, axes)}, 1.0, 0.0)"
            case Apply("exp", (arg,)):
                inside = self._exponent(arg, axes)
                scaled = f"({inside}) * {LOG2E!r}" if needs_factor(arg, self._plan.scaled) else inside
                return f"tl.exp2({scaled})"
            case Apply(op, (Access() as arg,)) if op in MADE:
                return MADE[op].format(self._wide(arg, axes))
            case Apply(op, (arg,)):
                return f"{FUNCTIONS[op]}({self._expression(arg, axes)})"
            case Apply(op, (left, right)) if op in INFIX:
                texts = [self._expression(x, axes) for x in (left, right)]
                nested = [isinstance(x, Apply) and (x.op in INFIX or x.op in MADE) for x in (left, right)]
                first, second = (f"({t})" if n else t for t, n in zip(texts, nested, strict=True))
                return f"{first} {op} {second}"
            case Apply(op, (left, right)):
                return f"{CALLS[op]}({self._expression(left, axes)}, {self._expression(right, axes)})"
        raise InputError(refusal(str(expr), "an expression of another kind"))

    def _exponent(self, expr: Expr, axes: tuple[str, ...]) -> str:
        """An exponent; where rows may be empty, a computed maximum that is still -inf is not subtracted from -inf."""
        match expr:
            case Apply("-", (left, Access() as maximum)) if (
                self._hollow and maximum.tensor in self._plan.workload.cascade
            ):
                text = self._read(maximum, axes)
                return f"{self._expression(left, axes)} - tl.where({text} == {number(-math.inf)}, 0.0, {text})"
        return self._expression(expr, axes)

    def _wide(self, access: Access, axes: tuple[str, ...]) -> str:
        """The accessed values in a type that is computed on."""
        load = self._loads.get(access)
        narrow = load is not None and self._plan.workload.dtypes[load.access.tensor] in NARROW
        return self._read(access, axes) + (".to(tl.float32)" if narrow else "")

    def _read(self, access: Access, axes: tuple[str, ...]) -> str:
        """The variable that holds the accessed values, aligned to block axes."""
        if load := self._loads.get(access):
            name, own = load.name, self._addresses.axes(load.access)
        else:
            name, own = access.tensor, self._plan.axes(access)
            if name in self.pending and access.indices == self._plan.workload.cascade[name].output.indices:
                return align(self.pending[name], own, axes)
        if name not in self.defined:
            raise InputError(refusal(name, "it is read before the mapping computes it"))
        return align(name, own, axes)


def number(value: float | str | None) -> str:
    """A constant of a kernel's source."""
    constant = float(value or 0)
    return f'float("{constant}")' if math.isinf(constant) else repr(constant)
