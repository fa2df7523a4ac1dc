"""Check a generated kernel three ways: its values, its counts, and that it compiles (`stepfall gpu check NAME`)."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from arch.machine import Machine
from einsum import oracle
from einsum.bind import bind
from einsum.cascade import Workload
from einsum.library import load as load_cascade
from einsum.problems import InputError, Problem, suggest
from gpu_backend.compare import compared, differences
from gpu_backend.emit import emit
from gpu_backend.kernel import Kernel
from gpu_backend.kernels import GIVEN, KERNELS
from gpu_backend.limits import plans
from mapper.check import check as check_mapping
from mapper.cost import cost
from mapper.library import make
from mapper.mapping import Mapping
from mapper.result import Result

MACHINE = "h100"
TRITON = "3.9."
SPREAD = 0.5  # standard deviation of inputs: logits of E = 64 spread by 2, so that no softmax is uniform or one-hot
# Largest error over largest value. Two roundings to the element type dominate, of the probabilities before the second
# product and of the result: a relative 2**-8 each in bf16, 2**-11 in fp16, 2**-4 in e4m3, 2**-3 in e5m2. fp32 sums of
# the sizes here stay below 5e-6.
TOLERANCE = {
    "e5m2": 2 * 2**-3, "e4m3": 2 * 2**-4, "bf16": 2 * 2**-8, "fp16": 2 * 2**-11, "tf32": 2 * 2**-11, "fp32": 5e-6,
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What the checks of a mapping's kernels found. `error` is relative to the largest value of the oracle's output."""

    name: str
    kernels: tuple[Kernel, ...]
    error: float
    tolerance: float
    counted: Result
    closed: Result
    differences: tuple[str, ...]
    compared: int  # quantities
    compiled: tuple[Result, ...]  # one a kernel

    @property
    def passed(self) -> bool:
        """Values within tolerance and every count equal; what the compiler made is reported, not judged."""
        return self.error <= self.tolerance and not self.differences

    def __str__(self) -> str:
        wrong = len(self.differences)
        counts = (
            f"WRONG: {wrong} of {self.compared} quantities differ from" if wrong else f"ok: all {self.compared} equal"
        )
        lines = [
            *(f"kernel    {kernel.name}, {kernel.grid[0]} programs" for kernel in self.kernels),
            f"values    {'ok' if self.error <= self.tolerance else 'WRONG'}: "
            f"largest error {self.error:.1e} of the largest value, allowed {self.tolerance:.1e}",
            f"counts    {counts} the closed form, exactly",
            *(f"          {line}" for line in self.differences),
            *(line for result in self.compiled for line in _compiled_lines(result)),
        ]
        return "\n".join(lines)


def _compiled_lines(result: Result) -> tuple[str, ...]:
    macs = result.total("operations", place="main loop", detail="mac")
    return (
        f"compiled  for {result.config['target']}: {result.value('registers'):.0f} registers, "
        f"{result.value('footprint'):.0f} B of shared memory, {result.total('spills'):.0f} B spilled, "
        f"{macs:.0f} matrix MACs an iteration",
        *(f"          note: {note}" for note in result.notes),
    )


def check(name: str, sizes: Dict[str, int] | None = None, dtype: str = "bf16") -> Verdict:
    """Check one of KERNELS on the H100.

    `sizes` override the defaults; `dtype` is the element type of inputs and outputs. InputError for what is unknown,
    cannot be generated, or needs Triton where it is not installed.
    """
    if name not in KERNELS:
        raise InputError(Problem("no such kernel", path="kernel", got=name, hint=suggest(name, KERNELS)))
    return check_kernel(*case(name, sizes, dtype), given=given(name))


def given(name: str) -> dict[str, np.ndarray]:
    """Inputs of one of KERNELS that are not drawn at random."""
    return {tensor: np.array(values) for tensor, values in GIVEN.get(name, {}).items()}


def case(name: str, sizes: Dict[str, int] | None = None, dtype: str = "bf16") -> tuple[Workload, Mapping, Machine]:
    """The workload, mapping and machine of one of KERNELS, with another element type in place of bf16."""
    from arch.read import load as load_machine

    cascade_name, mapping_name, default = KERNELS[name]
    cascade, machine = load_cascade(cascade_name), load_machine(MACHINE)
    mapping, workload = make(mapping_name, cascade, machine, {**default, **(sizes or {})})
    return *retyped(workload, mapping, dtype), machine


def retyped(workload: Workload, mapping: Mapping, dtype: str) -> tuple[Workload, Mapping]:
    """The same with another element type in place of bf16; InputError for a type that there is not."""
    cascade = workload.cascade
    narrow = [t for t, kind in workload.dtypes.items() if kind == "bf16"]
    types = dict(mapping.dtypes) | dict.fromkeys(narrow, dtype)
    mapping = replace(mapping, dtypes=tuple(types.items()))
    return bind(cascade, {name: workload.sizes[name] for name in cascade.free_sizes}, types), mapping


def check_kernel(
    workload: Workload,
    mapping: Mapping,
    machine: Machine,
    seed: int = 0,
    given: Dict[str, np.ndarray] | None = None,
) -> Verdict:
    """Generate the kernels of a mapping on a machine and check them on inputs, random but for the given ones."""
    require_triton()
    from gpu_backend.count import count
    from gpu_backend.static import profile

    check_mapping(mapping, workload, machine)
    kernels, memory = emit(workload, mapping, machine), machine.root.name
    inputs, exact = oracle_case(workload, seed, given)
    outputs, counted = count(kernels, inputs, memory)
    error = max(relative_error(outputs[name], exact[name]) for name in workload.cascade.outputs)
    tolerance = max(TOLERANCE[a.dtype] for kernel in kernels for a in kernel.arguments if a.dtype in TOLERANCE)
    known = replace(workload, given=given or {})
    closed, made = cost(mapping, known, machine), plans(workload, mapping, machine)
    found, quantities = differences(closed, counted, made, memory), len(compared(closed, counted, made, memory))
    compiled = tuple(profile(kernel) for kernel in kernels)
    return Verdict(mapping.name, kernels, error, tolerance, counted, closed, found, quantities, compiled)


def require_triton() -> None:
    """InputError that says what to install; the interpreter, which the counter extends, changes with each version."""
    if find_spec("triton") is None:
        raise InputError(Problem("triton is not installed: pip install 'stepfall[gpu]'"))
    if not version("triton").startswith(TRITON):
        what = f"kernels are checked with triton {TRITON}*: pip install 'stepfall[gpu]'"
        raise InputError(Problem(what, got=version("triton")))


def oracle_case(
    workload: Workload, seed: int, given: Dict[str, np.ndarray] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random inputs, rounded to their element types, and the float64 oracle's value of every tensor, NaN where no point
    exists; `given` inputs, such as lengths, take the place of random ones. Needs Triton."""
    from gpu_backend.interpret import stored, values

    drawn = {**oracle.random_inputs(workload, seed, SPREAD), **(given or {})}
    inputs = {n: values(stored(x, workload.dtypes[n]), workload.dtypes[n]) for n, x in drawn.items()}
    points = oracle.run_with_masks(workload, inputs)
    return inputs, {name: np.where(p.exists, p.value, np.nan) for name, p in points.items()}


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest absolute difference over the largest magnitude; infinite if anything found is not a number, or if there
    is a number (of what was filled with NaN) where no point exists."""
    there = ~np.isnan(exact)
    if not np.isfinite(found[there]).all() or not np.isnan(found[~there]).all():
        return float("inf")
    return float(np.abs(found[there] - exact[there]).max() / np.abs(exact[there]).max())
