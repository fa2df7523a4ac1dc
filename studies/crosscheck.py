"""Every way to get a number, side by side: closed form, counted, compiled, simulated, measured.

One row a (cascade, mapping, sizes) and quantity. Only equal definitions stand in one row: bytes issued at the outermost
memory, operations issued, work of one iteration of a tile loop, latency. Where a method has no number the row says why.
Kernels are interpreted and compiled, so their sizes are small; what was measured stands beside the closed form of its
own sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping as Dict, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from arch.read import load as load_machine
from einsum.problems import InputError, Problem, suggest

if TYPE_CHECKING:
    from gpu_backend.check import Verdict

METHODS = ("closed form", "counted", "compiled", "simulated", "measured")
EQUAL, BOUND, ALONE, DIFFERS, WRONG = "equal", "above the bound", "alone", "differs", "WRONG"
SPATIALS = (  # (cascade, mapping, machine): what the simulator runs; two passes were mapped to GPUs alone
    ("attention-1pass", "fusemax-binding", "fusemax"),
    ("attention-1pass", "fusemax-architecture", "fusemax"),
    ("attention-1pass", "fusemax-cascade", "flat"),
    ("attention-3pass", "flat", "flat"),
    ("attention-3pass", "unfused", "flat"),
    ("attention-1pass", "found", "fusemax"),  # by the search, as in the mapper's study
    ("gemm", "found", "tpu-v4i"),
    ("moe-ragged", "chunks", "tpu-v4i"),  # the best of ragged experts, for the routing below
    ("backward-attention", "fusemax-backward", "fusemax"),
    ("backward-attention-recompute-causal", "fusemax-backward-recompute", "fusemax"),
    ("backward-layer-norm", "fusemax-rows", "fusemax"),
    ("backward-cross-entropy", "tpu-rows", "tpu-v4i"),
)
REASONS = {  # why a method has no number
    "no kernel": "the machine is no GPU",
    "no chip": "there is none to measure",
    "GPU grid": "groups spread over the SMs are not simulated",
    "by hand": "kernels without a mapping are not simulated",
    "no total": "machine code is compared iteration by iteration",
    "no part": "only whole kernels are counted, simulated and measured",
    "no time": "counts and machine code say nothing of it",
    "no counter": "the GPU is not asked for it",
    "no record": "not measured yet",
    "elsewhere": "the rows of the kernels at small sizes have it",
}
SPATIAL = {"counted": "no kernel", "compiled": "no kernel", "measured": "no chip"}
Key = tuple[str, str, str, dict[str, int]]  # cascade, mapping, machine, sizes
SIZES = {"B": 1, "H": 1, "E": 64, "F": 64, "P": 4096, "M": 4096}
OTHER = {  # sizes of what is no attention
    "gemm": {"M": 4096, "N": 4096, "K": 4096},
    "moe-ragged": {"T": 512, "K": 2, "E": 16, "D": 1024, "I": 512},
    "backward-layer-norm": {"B": 16, "T": 256, "D": 1024},
    "backward-cross-entropy": {"T": 4096, "V": 32000},
}
ROUTING = "zipf:0.6"


@dataclass(frozen=True)
class Line:
    """One quantity of one mapped cascade by each method that has it."""

    cascade: str
    mapping: str
    machine: str
    sizes: dict[str, int]
    quantity: str
    unit: str
    values: dict[str, float]  # method -> value
    notes: tuple[str, ...] = ()
    reasons: Dict[str, str] = field(default_factory=dict)  # method without a value -> key of REASONS

    @property
    def difference(self) -> float | None:
        """The largest relative difference from the closed form; None if that stands alone or is not there."""
        base = self.values.get("closed form")
        others = [value for method, value in self.values.items() if method != "closed form"]
        if base is None or not others:
            return None
        return max((abs(value - base) / base if base else float(value != 0) for value in others), default=None)

    @property
    def verdict(self) -> str:
        """Latencies are bounded from below by the closed form; counts are equal, tensor by tensor, or wrong; what a
        compiler makes of an iteration may differ, and the notes say how."""
        if self.difference is None:
            return ALONE
        if "compiled" in self.values:
            return DIFFERS if self.difference else EQUAL
        if self.quantity != "latency":
            return WRONG if self.difference or self.notes else EQUAL
        least = min(value for method, value in self.values.items() if method != "closed form")
        return BOUND if least >= self.values["closed form"] * (1 - 1e-9) else WRONG

    def as_dict(self) -> dict[str, object]:
        """JSON-ready."""
        judged = {"difference": self.difference, "verdict": self.verdict}
        return asdict(self) | judged | {"notes": list(self.notes), "reasons": dict(self.reasons)}


def names() -> tuple[str, ...]:
    """Cascades that are simulated, and kernels: generated ones, then those written by hand."""
    from gpu_backend.handwritten.library import ROUTINES
    from gpu_backend.kernels import KERNELS

    return tuple(dict.fromkeys((*(cascade for cascade, _, _ in SPATIALS), *KERNELS, *ROUTINES)))


def lines(only: Sequence[str] = ()) -> Iterator[Line]:
    """The simulated mappings, the kernels as far as Triton is installed, and the records; or those named in `only`.

    InputError for unknown names.
    """
    chosen = only or names()
    if unknown := [name for name in chosen if name not in names()]:
        raise InputError(Problem("no such cascade or kernel", got=n, hint=suggest(n, names())) for n in unknown)
    for cascade, mapping, machine in SPATIALS:
        if cascade in chosen:
            yield from _simulated(cascade, mapping, machine)
    if find_spec("triton"):
        from gpu_backend.handwritten.library import ROUTINES
        from gpu_backend.kernels import KERNELS

        for name in chosen:
            if name in ROUTINES or name in KERNELS:
                yield from _by_hand(name) if name in ROUTINES else _kernel(name)
    if not only:
        yield from _measured()


def _simulated(cascade_name: str, mapping_name: str, machine_name: str) -> Iterator[Line]:
    from einsum.bind import bind
    from einsum.library import load as load_cascade
    from einsum.occupancy import routed
    from mapper.check import check
    from mapper.chunks import chunked
    from mapper.cost import cost
    from mapper.library import make
    from mapper.search.answer import proven
    from sim.run import simulate

    cascade, machine = load_cascade(cascade_name), load_machine(machine_name)
    sizes = OTHER.get(cascade_name, SIZES)
    if mapping_name == "found":
        workload = bind(cascade, {**sizes, "M0": 256} if "M0" in cascade.free_sizes else sizes)
        mapping = proven(workload, machine).found[0].mapping
    elif mapping_name == "chunks":
        own, given, _ = routed(cascade, sizes, ROUTING)
        workload = bind(cascade, own, given=given)
        mapping = min(chunked(workload, machine).values(), key=lambda found: found.latency_s).mapping
    else:
        mapping, workload = make(mapping_name, cascade, machine, sizes)
    check(mapping, workload, machine)
    results = {"closed form": cost(mapping, workload, machine), "simulated": simulate(mapping, workload, machine)}
    key = (cascade_name, mapping_name, machine_name, dict(workload.sizes))
    root = machine.root.name
    of_both = lambda value: {method: value(result) for method, result in results.items()}
    yield Line(*key, "latency", "s", of_both(lambda r: r.latency_s), reasons=SPATIAL)
    yield Line(*key, f"bytes at {root}", "B", of_both(lambda r: r.total("bytes", place=root)), reasons=SPATIAL)
    operations = of_both(lambda r: r.total("operations", boundary="issued"))
    yield Line(*key, "operations", "op", operations, reasons=SPATIAL)


def _kernel(name: str) -> Iterator[Line]:
    """Bytes and operations are summed after the comparison tensor by tensor and Einsum by Einsum."""
    from gpu_backend.check import case, check_kernel, given
    from gpu_backend.compare import expected, seen
    from gpu_backend.limits import plans

    workload, mapping, machine = case(name)
    verdict = check_kernel(workload, mapping, machine, given=given(name))
    wanted = expected(verdict.closed, plans(workload, mapping, machine), machine.root.name)
    found, key = seen(verdict.counted), (workload.cascade.name, mapping.name, machine.name, dict(workload.sizes))
    values = {q: {"closed form": _sum(wanted, q), "counted": _sum(found, q)} for q in ("bytes", "operations")}
    yield from _checked(key, verdict, values, machine.root.name, "GPU grid")


def _by_hand(name: str) -> Iterator[Line]:
    """The same, for what has no mapping."""
    from gpu_backend.check import MACHINE
    from gpu_backend.handwritten.library import ROUTINES, check

    machine = load_machine(MACHINE)
    routine = ROUTINES[name](machine, "bf16")
    verdict, workload = check(routine), routine.workload
    key = (workload.cascade.name, f"{name} by hand", machine.name, dict(workload.sizes))
    both = {"closed form": verdict.closed, "counted": verdict.counted}
    values = {q: {m: r.total(q, boundary="issued") for m, r in both.items()} for q in ("bytes", "operations")}
    yield from _checked(key, verdict, values, machine.root.name, "by hand")


def _checked(key: Key, verdict: Verdict, values: Dict[str, dict[str, float]], root: str, grid: str) -> Iterator[Line]:
    """The rows of a checked kernel; `grid` says why nothing is simulated."""
    whole = {"simulated": grid, "compiled": "no total"}
    counters = whole | {"measured": "no counter"}
    yield Line(*key, f"bytes at {root}", "B", values["bytes"], verdict.differences, whole | {"measured": "no record"})
    yield Line(*key, "operations", "op", values["operations"], verdict.differences, counters)
    part: dict[str, str] = dict.fromkeys(("counted", "simulated", "measured"), "no part")
    for kernel, compiled in zip(verdict.kernels, verdict.compiled, strict=True):
        if kernel.iteration_macs and compiled.select("instructions", place="main loop"):
            group = kernel.name.removeprefix(key[0].replace("-", "_")).replace("_", " ")
            group = f" {group.strip()}" if group else ""
            for quantity, closed in (("operations", kernel.iteration_macs), ("bytes", kernel.iteration_bytes)):
                name, unit = ("macs", "op") if quantity == "operations" else ("bytes", "B")
                found = {"closed form": closed, "compiled": compiled.total(quantity, place="main loop")}
                yield Line(*key, f"{name} an iteration{group}", unit, found, compiled.notes, part)
    no_time = {"counted": "no time", "compiled": "no time", "simulated": grid, "measured": "no record"}
    yield Line(*key, "latency", "s", {"closed form": verdict.closed.latency_s}, (), no_time)


def _sum(values: Dict[tuple[str, ...], float], quantity: str) -> float:
    return sum(value for key, value in values.items() if key[0] == quantity)


def _measured() -> Iterator[Line]:
    from gpu_backend.record import RECORDS, read, result

    for file in sorted(RECORDS.glob("*_*.json")):
        record = read(file)
        config, measured = record.config, result(record)
        key = (config.cascade, f"{config.mapping} {config.tile}", config.machine, config.sizes)
        values = {"closed form": record.expected.latency_s, "measured": measured.latency_s}
        reasons: dict[str, str] = dict.fromkeys(("counted", "compiled", "simulated"), "elsewhere")
        yield Line(*key, "latency", "s", values, measured.notes, reasons)
