"""Run a generated kernel in Triton's interpreter, on numpy arrays, in a process that can also compile it.

Three things about the interpreter are handled here (SEMANTICS 7.3): it keeps bf16 and 8-bit types as codes and computes
on the codes as integers, so a builder that widens to fp32 and rounds to nearest even takes its place; it asks for torch
tensors, so a numpy array with guard zones around it stands in; and the library functions of `triton.language` refuse
to be called unless TRITON_INTERPRET was set before the import, so they are routed while a kernel runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.interpreter import GridExecutor, InterpretedFunction, InterpreterBuilder, ReduceOps, TensorHandle
from triton.runtime.jit import JITFunction

from gpu_backend import source
from gpu_backend.kernel import Argument, Kernel
from gpu_backend.rounding import CODES, narrow, widen

NUMPY = {"fp32": np.float32, "tf32": np.float32, "fp16": np.float16, "int32": np.int32, **CODES}
TRITON = {
    "fp32": "fp32", "tf32": "fp32", "fp16": "fp16", "bf16": "bf16", "e4m3": "fp8e4nv", "e5m2": "fp8e5", "int32": "i32",
}  # fmt: skip
CODED = {tl.bfloat16: "bf16", tl.float8e4nv: "e4m3", tl.float8e5: "e5m2"}  # codes: numpy cannot compute on them
GUARD_BYTES = 4096  # around each tensor, so that an access outside it does not fall into another


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values rounded to an element type, as numpy can hold it."""
    return narrow(values, dtype) if dtype in CODES else values.astype(NUMPY[dtype])


def values(array: np.ndarray, dtype: str) -> np.ndarray:
    """What a stored array means, in float64."""
    return (widen(array, dtype) if dtype in CODES else array).astype(np.float64)


class HostTensor:
    """What the interpreter needs to know of a tensor: its address and element type."""

    def __init__(self, argument: Argument, initial: np.ndarray | None) -> None:
        element = np.dtype(NUMPY[argument.dtype])
        size = int(np.prod(argument.shape)) * element.itemsize
        self._buffer = np.zeros(size + 2 * GUARD_BYTES, np.uint8)
        self.name = argument.name
        self.dtype = TRITON[argument.dtype]
        self.array = self._buffer[GUARD_BYTES : GUARD_BYTES + size].view(element).reshape(argument.shape)
        empty = np.array(0 if argument.dtype == "int32" else np.nan)
        self.array[...] = stored(empty, argument.dtype) if initial is None else initial

    def data_ptr(self) -> int:
        return self.array.ctypes.data


def _coded(handle: object) -> str:
    """The element type of a block that is kept as codes; empty for others."""
    if not isinstance(handle, TensorHandle) or handle.data.dtype not in (np.uint8, np.uint16):
        return ""
    return CODED.get(handle.dtype.scalar, "")


def _up(handle: TensorHandle) -> TensorHandle:
    return TensorHandle(widen(handle.data, dtype), tl.float32) if (dtype := _coded(handle)) else handle


class Builder(InterpreterBuilder):
    """The interpreter's builder with arithmetic on codes in fp32, rounded to nearest even after each operation."""

    def _in_fp32(self, operation, handles, *rest):
        result = operation(*map(_up, handles), *rest)
        dtype = next(filter(None, map(_coded, handles)), "")
        if not dtype or result.data.dtype == np.bool_:
            return result
        return TensorHandle(narrow(result.data, dtype), next(t for t, name in CODED.items() if name == dtype))

    def binary_op(self, lhs, rhs, op):
        return self._in_fp32(super().binary_op, (lhs, rhs), op)

    def unary_op(self, arg, op):
        return self._in_fp32(super().unary_op, (arg,), op)

    def create_fma(self, x, y, z):
        return self._in_fp32(super().create_fma, (x, y, z))

    def create_rsqrt(self, arg):
        return self._in_fp32(super().create_rsqrt, (arg,))

    def create_erf(self, arg):
        return self._in_fp32(super().create_erf, (arg,))

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        return super().create_dot(_up(a), _up(b), d, input_precision, max_num_imprecise_acc)

    def cast_impl(self, src, dst_type):
        if dtype := CODED.get(dst_type.scalar):
            return TensorHandle(narrow(_up(src).data, dtype), dst_type.scalar)
        return super().cast_impl(_up(src), dst_type)

    def create_fp_to_fp(self, src, dst_type, rounding_mode):
        return self.cast_impl(src, dst_type)


class Reduction(ReduceOps):
    """A reduction of codes in fp32, rounded at its end."""

    def apply_impl(self, input):
        if not any(_coded(x.handle) for x in input):
            return super().apply_impl(input)
        wide = tuple(self.to_tensor(_up(x.handle).data, tl.float32) if _coded(x.handle) else x for x in input)
        results = super().apply_impl(wide)
        dtype = next(x.dtype for x in input if _coded(x.handle))
        return [self._rounded(x, dtype) for x in (results if isinstance(results, list | tuple) else (results,))]

    def _rounded(self, result, dtype):
        if result.dtype != tl.float32:
            return result
        codes = narrow(result.handle.data, CODED[dtype])
        return self.to_tensor(codes if result.type.is_block() else codes[0], dtype)


class _Launch(GridExecutor):
    """A launch whose arguments are on the host already."""

    def _init_args_hst(self, args_dev, kwargs):
        return args_dev, kwargs

    def _restore_args_dev(self, args_dev, args_hst, kwargs, kwargs_hst):
        pass


@contextmanager
def _interpreted(builder: type[Builder], reduction: type[Reduction]) -> Iterator[None]:
    """Our builder and reduction in the interpreter's place, and `triton.language`'s own functions interpreted."""
    jit = next(c for c in JITFunction.__mro__ if "__call__" in vars(c))
    refuse, stock, stock_reduction = jit.__call__, triton_interpreter.interpreter_builder.__class__, ReduceOps

    def call(function, *args, **kwargs):
        scope = triton_interpreter._patch_lang(function.fn)
        try:
            return InterpretedFunction(function.fn).rewrite()(*args, **kwargs)
        finally:
            scope.restore()

    jit.__call__ = call
    triton_interpreter.ReduceOps = reduction
    triton_interpreter.interpreter_builder.__class__ = builder
    try:
        yield
    finally:
        jit.__call__ = refuse
        triton_interpreter.ReduceOps = stock_reduction
        triton_interpreter.interpreter_builder.__class__ = stock


def launch(
    kernels: Sequence[Kernel],
    tensors: Mapping[str, HostTensor],
    builder: type[Builder] = Builder,
    reduction: type[Reduction] = Reduction,
) -> None:
    """Interpret every program of the kernels' grids, in order."""
    for kernel in kernels:
        arguments = [tensors[a.name] for a in kernel.arguments]
        launch_one(source.load(kernel), arguments, dict(kernel.constants), kernel.grid, builder, reduction)


def launch_one(
    function: Any,
    arguments: Sequence[HostTensor],
    constants: Mapping[str, int],
    grid: tuple[int, ...],
    builder: type[Builder] = Builder,
    reduction: type[Reduction] = Reduction,
) -> None:
    """Interpret every program of one `triton.jit` function's launch."""
    interpreted = InterpretedFunction(function.fn)
    # lanes outside of all tensors may compute what is no number; what is stored is compared with the oracle
    with _interpreted(builder, reduction), np.errstate(all="ignore"):
        _Launch(interpreted.rewrite(), interpreted.arg_names, grid)(*arguments, **constants)


def tensors(kernels: Sequence[Kernel], inputs: Mapping[str, np.ndarray]) -> dict[str, HostTensor]:
    """Inputs rounded to their element types; what kernels store is filled with NaN."""
    stored_here = {a.name for kernel in kernels for a in kernel.arguments if a.output}
    made = {a.name: a for kernel in kernels for a in kernel.arguments}
    initial = {n: None if n in stored_here else stored(inputs[n], a.dtype) for n, a in made.items()}
    return {name: HostTensor(argument, initial[name]) for name, argument in made.items()}


def outputs(kernels: Sequence[Kernel], tensors: Mapping[str, HostTensor]) -> dict[str, np.ndarray]:
    """What the kernels have stored, as float64."""
    return {a.name: values(tensors[a.name].array, a.dtype) for k in kernels for a in k.arguments if a.output}


def run(kernels: Sequence[Kernel], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the kernels store, as float64, for inputs by tensor name (any float type, the arguments' shapes)."""
    arrays = tensors(kernels, inputs)
    launch(kernels, arrays)
    return outputs(kernels, arrays)
