"""A kernel's source file as `Kernel`s: what is written by hand is counted and compiled as what is generated."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from einsum.cascade import Workload
from einsum.problems import InputError, Problem, suggest
from gpu_backend.kernel import Argument, Kernel

FOLDER = Path(__file__).parent
POINTER = "_ptr"
TYPES = ("bf16", "fp16", "fp32", "e4m3", "e5m2")  # fp32 products are computed in fp32


def kernel(
    file: str,
    tensors: Mapping[str, Argument],
    name: str,
    stored: tuple[str, ...],
    constants: Mapping[str, int],
    grid: int | tuple[int, ...],
    warps: int = 4,
    stages: int = 2,
    iteration: tuple[int, int] = (0, 0),
) -> Kernel:
    """The function `name` of a file of this folder.

    Its parameters are pointers `TENSOR_ptr`, then constants; both are taken by name from `tensors` and `constants`.
    A line belongs to the tensor that it loads or stores, else to the variable that it assigns. `iteration`: matrix
    multiply-accumulates, and loaded bytes, of an iteration of the tile loop.
    """
    text, functions = _parsed(file)
    function = functions[name]
    parameters = [a.arg for a in function.args.args]
    pointers = [p.removesuffix(POINTER) for p in parameters if p.endswith(POINTER)]
    made = tuple(replace(tensors[t], output=t in stored) for t in pointers)
    fixed = tuple((p, constants[p]) for p in parameters if not p.endswith(POINTER))
    shape = grid if isinstance(grid, tuple) else (grid,)
    return Kernel(name, text, made, fixed, shape, tuple(_lines(function)), (), warps, stages, *iteration)


def arguments(workload: Workload) -> dict[str, Argument]:
    """Every tensor of a workload, as a kernel that only reads it takes it."""
    shape = lambda tensor: tuple(map(workload.extent, tensor.ranks))
    return {t.name: Argument(t.name, workload.dtypes[t.name], shape(t), False) for t in workload.cascade.tensors}


def check_type(dtype: str) -> None:
    """InputError unless the kernels take this element type."""
    if dtype not in TYPES:
        what = f"kernels written by hand take {', '.join(TYPES)}"
        raise InputError(Problem(what, path="dtype", got=dtype, hint=suggest(dtype, TYPES)))


@cache
def _parsed(file: str) -> tuple[str, dict[str, ast.FunctionDef]]:
    text = (FOLDER / file).read_text(encoding="utf-8")
    return text, {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def _lines(function: ast.FunctionDef) -> Iterator[tuple[int, str]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr):
            label = _moved(node) or _assigned(node)
            yield from ((line, label) for line in range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _moved(statement: ast.stmt) -> str:
    """The tensor of a load or a store; empty for another statement."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tl.load", "tl.store"):
            names = [n.id for n in ast.walk(node.args[0]) if isinstance(n, ast.Name)]
            return next(n.removesuffix(POINTER) for n in names if n.endswith(POINTER))
    return ""


def _assigned(statement: ast.Assign | ast.AugAssign | ast.Expr) -> str:
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    return target.id.removesuffix("_next") if isinstance(target, ast.Name) else ""
