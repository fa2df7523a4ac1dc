"""Count what a generated kernel does while Triton's interpreter runs it (SEMANTICS 7.6).

Per tensor the bytes that active lanes load and store (issued), the bytes touched at least once (distinct), the 32-byte
sectors that the accesses of blocks touch, and the lanes of these blocks with and without those masked off; per
Einsum the arithmetic operations by class and the combines of reductions, padded lanes included (issued) and without
those that hold no point (useful, `gpu_backend.useful`). The counts check the generated kernel and its mapping; they say
nothing of traffic between caches.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from triton.runtime.interpreter import TensorHandle

from gpu_backend import interpret, source
from gpu_backend.interpret import Builder, HostTensor, Reduction
from gpu_backend.kernel import Kernel
from gpu_backend.useful import BY_DATA, HOLDS, Trace, by_data, held
from mapper.result import Result, Row

CLASSES = {  # builder operation -> operation class
    "fadd": "add", "fsub": "add", "fmul": "mul", "fdiv": "div", "precise_divf": "div", "approx_divf": "div",
    "maximumf": "max", "maxnumf": "max", "minimumf": "min", "minnumf": "min", "exp": "exp", "exp2": "exp",
}  # fmt: skip
CASTS = ("fp_ext", "fp_trunc", "fp_to_fp", "bitcast", "si_to_fp", "ui_to_fp")
LAYOUT = ("broadcast", "expand_dims", "reshape", "trans")
FREE = (*CASTS, *LAYOUT, "select", "splat", "unsplat", "join", "split", "cat", "load", "masked_load")
COMBINES = "combines"  # of a reduction, beside the classes of operations
SECTOR = 32  # bytes
UNCOUNTED = (
    "atomic", "descriptor_gather", "descriptor_scatter", "descriptor_reduce", "dot_scaled", "gather", "histogram",
    "inline_asm", "extern",
)  # fmt: skip


@dataclass
class Tally:
    """Counts of one or several launches."""

    kernels: Sequence[Kernel]
    tensors: Mapping[str, HostTensor]
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)  # (Einsum, class) -> operations
    combines: Counter[str] = field(default_factory=Counter)  # Einsum -> combines of its reduction
    dots: Counter[tuple[str, int, int, int]] = field(default_factory=Counter)  # (dtype, M, N, K) -> products
    issued: Counter[tuple[str, str]] = field(default_factory=Counter)  # (tensor, read | write) -> bytes
    sectors: Counter[tuple[str, str]] = field(default_factory=Counter)  # of each access of a block, those it touches
    lanes: Counter[tuple[str, str]] = field(default_factory=Counter)  # of accessed blocks, masked-off ones included
    touched: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # element by element
    programs: int = 0
    trace: Trace = field(default_factory=Trace)
    points: dict[str, np.ndarray] = field(default_factory=dict)  # stored tensor -> elements that hold a point

    def __post_init__(self) -> None:
        self._lines = {str(source.path(kernel)): dict(kernel.lines) for kernel in self.kernels}

    def label(self) -> str:
        """The Einsum (or tensor) of the kernel's line that is running; empty outside the labelled lines."""
        return self.running()[0]

    def running(self) -> tuple[str, object]:
        """The label of the kernel's line that is running, and the value that the variable of this name has so far."""
        frame = sys._getframe(1)
        while frame and frame.f_code.co_filename not in self._lines:
            frame = frame.f_back
        if frame is None:
            return "", None
        label = self._lines[frame.f_code.co_filename].get(frame.f_lineno, "")
        return label, getattr(frame.f_locals.get(label), "handle", None)

    def load(self, pointers: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Counts a load; the lanes that hold a point: active ones, of an element that an earlier kernel made of one."""
        name, offsets = self.move(pointers, mask, "read")
        lanes = np.broadcast_to(mask, pointers.shape).copy()
        if name in self.points:
            lanes[lanes] = self.points[name][offsets]
        return lanes

    def store(self, pointers: np.ndarray, mask: np.ndarray, value: TensorHandle) -> None:
        """Counts a store."""
        name, offsets = self.move(pointers, mask, "write")
        if name:
            points = self.points.setdefault(name, np.zeros(self.tensors[name].array.size, bool))
            points[offsets] = held(value)[np.broadcast_to(mask, pointers.shape)]
        self.trace.store(value, mask)

    def move(self, pointers: np.ndarray, mask: np.ndarray, direction: str) -> tuple[str, np.ndarray]:
        """A load or a store of (tensor, its elements); IndexError if an active lane leaves its tensor."""
        active = pointers[np.broadcast_to(mask, pointers.shape)].astype(np.int64)
        self.lanes[self._tensor(self.label()), direction] += pointers.size
        if not active.size:
            return "", active
        for name, tensor in self.tensors.items():
            base, size = tensor.data_ptr(), tensor.array.itemsize
            offsets = (active - base) // size
            if offsets.min() >= 0 and offsets.max() < tensor.array.size:
                self.issued[name, direction] += active.size * size
                self.sectors[name, direction] += np.unique(offsets * size // SECTOR).size
                seen = self.touched.setdefault((name, direction), np.zeros(tensor.array.size, bool))
                seen[offsets] = True
                return name, offsets
        raise IndexError(f"a {direction} at {self.label()} leaves every tensor")

    def _tensor(self, label: str) -> str:
        """The tensor in memory behind a load's label, which may be a view's name or a numbered one."""
        return next((load for kernel in self.kernels for name, load in kernel.loads if name == label), label)

    def result(self, memory: str) -> Result:
        """Rows with boundary issued, useful and distinct."""
        rows = [Row("programs", self.programs)]
        for (name, direction), nbytes in sorted(self.issued.items()):
            rows.append(Row("bytes", nbytes, tensor=name, place=memory, detail=direction, boundary="issued"))
            distinct = int(self.touched[name, direction].sum()) * self.tensors[name].array.itemsize
            rows.append(Row("bytes", distinct, tensor=name, place=memory, detail=direction, boundary="distinct"))
            sectors, lanes = self.sectors[name, direction], nbytes // self.tensors[name].array.itemsize
            rows.append(Row("accesses", sectors, tensor=name, place=memory, detail=direction))
            rows.append(Row("lanes", lanes, tensor=name, place=memory, detail=direction, boundary="useful"))
        for (name, direction), lanes in sorted(self.lanes.items()):
            rows.append(Row("lanes", lanes, tensor=name, place=memory, detail=direction, boundary="issued"))
        for (einsum, name), n in sorted(self.operations.items()):
            rows.append(Row("operations", n, einsum=einsum, detail=name, boundary="issued"))
        for einsum, n in sorted(self.combines.items()):
            rows.append(Row("combines", n, einsum=einsum, boundary="issued"))
        for (einsum, name), n in sorted(self.trace.found.items()):
            quantity, detail = ("combines", "") if name == COMBINES else ("operations", name)
            rows.append(Row(quantity, n, einsum=einsum, detail=detail, boundary="useful"))
        notes = tuple(f"{n} products {m}x{k}x{c} of {t}" for (t, m, c, k), n in sorted(self.dots.items()))
        launches = {kernel.name: list(kernel.grid) for kernel in self.kernels}
        return Result("counted", {"kernels": launches}, tuple(rows), notes=notes)


Outputs = dict[str, np.ndarray]


def count(kernels: Sequence[Kernel], inputs: Mapping[str, np.ndarray], memory: str = "hbm") -> tuple[Outputs, Result]:
    """Interpret kernels and count: (what they store, as float64; the counts). `memory` names the place of the bytes."""
    tensors = interpret.tensors(kernels, inputs)
    tally = Tally(kernels, tensors)
    interpret.launch(kernels, tensors, *_observed(tally))
    tally.trace.finish()
    return interpret.outputs(kernels, tensors), tally.result(memory)


def _observed(tally: Tally) -> tuple[type[Builder], type[Reduction]]:
    """Builder and reduction that report to `tally`."""

    class Observed(Builder):
        def set_grid_idx(self, x, y, z):
            tally.trace.finish()
            tally.programs += 1
            super().set_grid_idx(x, y, z)

        def create_masked_load(self, ptrs, mask, other, cache_policy, is_volatile):
            lanes = tally.load(ptrs.data, mask.data)
            result = super().create_masked_load(ptrs, mask, other, cache_policy, is_volatile)
            result.attr[HOLDS] = lanes
            return result

        def create_masked_store(self, ptrs, value, mask, cache_policy):
            tally.store(ptrs.data, mask.data, value)
            return super().create_masked_store(ptrs, value, mask, cache_policy)

        def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
            (m, k), n, key = a.data.shape, b.data.shape[1], (tally.label(), "mac")
            tally.dots[str(a.dtype.scalar), m, n, k] += 1
            tally.operations[key] += m * n * k
            result = super().create_dot(a, b, d, input_precision, max_num_imprecise_acc)
            tally.trace.dot(result, a, b, d, key)
            return result

        def create_select(self, condition, left, right):
            result = super().create_select(condition, left, right)
            tally.trace.select(result, condition, left, right)
            return result

    class ObservedReduction(Reduction):
        def apply_impl(self, input):
            result = super().apply_impl(input)  # of all inputs the first is the one reduced
            first, *others = result if isinstance(result, list | tuple) else (result,)
            for place in others:  # of an extreme
                place.handle.attr[BY_DATA] = True
            label = tally.label()
            tally.combines[label] += input[0].handle.data.size - first.handle.data.size
            tally.trace.reduction(first.handle, input[0].handle, self.axis, (label, COMBINES))
            return result

    for name in dir(Builder):
        operation = name.removeprefix("create_")
        if operation != name and name not in vars(Observed):
            setattr(Observed, name, _reporting(tally, operation, getattr(Builder, name)))
    return Observed, ObservedReduction


def _reporting(tally: Tally, operation: str, original):
    """An operation that counts the elements of its floating-point result, and is traced."""

    def create(self, *args, **kwargs):
        if operation.startswith(UNCOUNTED):
            raise NotImplementedError(f"{operation} is not counted")
        result = original(self, *args, **kwargs)
        operands = [x for x in args if isinstance(x, TensorHandle)]
        if not isinstance(result, TensorHandle) or not operands:
            return result
        if operation.startswith("fcmp") or by_data(operands):
            result.attr[BY_DATA] = True
        if not result.dtype.is_floating() or result.data.dtype == np.bool_:
            return result
        if operation in LAYOUT:
            tally.trace.moved(result, operands[0], lambda x: original(self, x, *args[1:], **kwargs))
        elif operation in CASTS:
            tally.trace.elementwise(result, operands, operation, None, None)
        elif operation not in FREE:
            label, own = tally.running()
            key = (label, CLASSES.get(operation, operation))
            tally.operations[key] += result.data.size
            tally.trace.elementwise(result, operands, operation, key, own)
        return result

    return create
