"""Sizes and types for a cascade: `Cascade` -> `Workload` (SEMANTICS 1.3 and 1.7)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from numbers import Integral

import numpy as np

from einsum.cascade import DTYPE_BITS, Apply, Cascade, Expr, Name, Num, Workload, walk
from einsum.problems import InputError, Problem, suggest
from einsum.show import show_expr

WHOLE = ("bool", "int32", "int8")  # types of indices and masks, which `*` leaves alone
_ARITHMETIC = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: Fraction(a // b),
    "%": lambda a, b: a % b,
    "neg": lambda a: -a,
    "ceil": lambda a: Fraction(math.ceil(a)),
    "floor": lambda a: Fraction(math.floor(a)),
}


def bind(
    cascade: Cascade,
    sizes: Mapping[str, int],
    dtypes: Mapping[str, str] | None = None,
    given: Mapping[str, np.ndarray] | None = None,
) -> Workload:
    """Give every free size a number and, where they differ from the text, tensors a type.

    The key `*` of `dtypes` stands for every tensor of a floating-point type; a tensor's own name wins over it. `given`
    are inputs whose values are known (`Workload.given`).
    Raises `InputError` with every missing, unknown or non-positive size and every unknown tensor or type.
    """
    dtypes = dtypes or {}
    problems = [*_sizes(cascade, sizes), *_types(cascade, dtypes)]
    if problems:
        raise InputError(problems)
    every = dtypes.get("*")
    types = {t.name: t.dtype if t.dtype in WHOLE else every or t.dtype for t in cascade.tensors}
    types |= {name: dtype for name, dtype in dtypes.items() if name != "*"}
    workload = Workload(cascade, _evaluated(cascade, sizes), types, dict(given or {}))
    if problems := list(_given(workload)):
        raise InputError(problems)
    return workload


def evaluate_size(expr: Expr, sizes: Mapping[str, int]) -> Fraction:
    """Value of a size expression, exactly. Raises KeyError for an unknown size and ZeroDivisionError."""
    match expr:
        case Num(value):
            return Fraction(value)
        case Name(name):
            return Fraction(sizes[name])
        case Apply(op, args):
            return _ARITHMETIC[op](*(evaluate_size(arg, sizes) for arg in args))
        case _:
            raise TypeError(f"not a size expression: {expr}")


def _given(workload: Workload) -> Iterator[Problem]:
    path, inputs = f"given to {workload.cascade.name}", workload.cascade.inputs
    for name, value in workload.given.items():
        if name not in inputs:
            yield Problem("no such input", path=path, got=name, hint=suggest(name, inputs))
        elif value.shape != (shape := tuple(map(workload.extent, workload.cascade.tensor[name].ranks))):
            yield Problem(f"{name} must have shape {shape}", path=path, got=str(value.shape))


def _sizes(cascade: Cascade, sizes: Mapping[str, int]) -> Iterator[Problem]:
    path = f"sizes of {cascade.name}"
    defined = dict(cascade.sizes)
    missing = [name for name in cascade.free_sizes if name not in sizes]
    unknown = [name for name in sizes if name not in cascade.free_sizes and name not in defined]
    meant = {name: suggest(name, missing) for name in unknown}
    for name in missing:
        if name not in meant.values():
            yield Problem(f"missing size {name}", path=path)
    for name, value in sizes.items():
        if name in defined:
            yield Problem(f"size {name} is defined by the cascade as {show_expr(defined[name])}", path=path)
        elif name in unknown:
            yield Problem("unknown size", path=path, got=name, hint=meant[name] or suggest(name, cascade.free_sizes))
        elif not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            yield Problem(f"size {name} must be a positive whole number", path=path, got=str(value))


def _types(cascade: Cascade, dtypes: Mapping[str, str]) -> Iterator[Problem]:
    path = f"types of {cascade.name}"
    for name, dtype in dtypes.items():
        if name != "*" and name not in cascade.tensor:
            yield Problem("unknown tensor", path=path, got=name, hint=suggest(name, cascade.tensor))
        if dtype not in DTYPE_BITS:
            yield Problem("unknown type", path=f"{path}: {name}", got=dtype, hint=suggest(dtype, DTYPE_BITS))


def _evaluated(cascade: Cascade, given: Mapping[str, int]) -> dict[str, int]:
    """Every size; definitions may stand in any order."""
    sizes = {name: int(given[name]) for name in cascade.free_sizes}
    waiting = dict(cascade.sizes)
    while waiting:
        name = next(n for n, d in waiting.items() if not any(_needs(x, waiting) for x in walk(d)))
        definition = waiting.pop(name)
        path = f"sizes of {cascade.name}"
        what = f"size {name} = {show_expr(definition)} must be a positive whole number"
        try:
            value = evaluate_size(definition, sizes)
        except ZeroDivisionError:
            raise InputError(Problem(what, path=path, got="a division by zero")) from None
        if value < 1 or value.denominator != 1:
            raise InputError(Problem(what, path=path, got=str(value)))
        sizes[name] = int(value)
    return sizes


def _needs(expr: Expr, waiting: Mapping[str, Expr]) -> bool:
    return isinstance(expr, Name) and expr.name in waiting
