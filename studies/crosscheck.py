"""Every way to get a number, side by side: closed form, counted, compiled, simulated, measured.

One row a (cascade, mapping, sizes) and quantity. Only equal definitions stand in one row: bytes issued at the outermost
memory, operations issued, work of one iteration of a tile loop, latency. Kernels are interpreted and compiled, so
their sizes are small; what was measured stands beside the closed form of its own sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec

from mapper.result import Result

METHODS = ("closed form", "counted", "compiled", "simulated", "measured")
EQUAL, BOUND, ALONE, DIFFERS, WRONG = "equal", "above the bound", "alone", "differs", "WRONG"
FUSEMAX = (  # (cascade, mapping, machine): what the simulator runs
    ("attention-1pass", "fusemax-binding", "fusemax"),
    ("attention-1pass", "fusemax-architecture", "fusemax"),
    ("attention-3pass", "flat", "flat"),
)
SIZES = {"B": 1, "H": 1, "E": 64, "F": 64, "P": 4096, "M": 4096}


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
        return asdict(self) | {"difference": self.difference, "verdict": self.verdict, "notes": list(self.notes)}


def lines(kernels: Sequence[str] | None = None) -> Iterator[Line]:
    """The simulated mappings, then the named kernels (all by default), as far as Triton is installed, then records."""
    for cascade, mapping, machine in FUSEMAX:
        yield from _simulated(cascade, mapping, machine)
    if find_spec("triton"):
        from gpu_backend.kernels import KERNELS

        for name in KERNELS if kernels is None else kernels:
            yield from _kernel(name)
    yield from _measured()


def _simulated(cascade_name: str, mapping_name: str, machine_name: str) -> Iterator[Line]:
    from arch.read import load as load_machine
    from einsum.library import load as load_cascade
    from mapper.check import check
    from mapper.cost import cost
    from mapper.library import make
    from sim.run import simulate

    cascade, machine = load_cascade(cascade_name), load_machine(machine_name)
    mapping, workload = make(mapping_name, cascade, machine, SIZES)
    check(mapping, workload, machine)
    results = {"closed form": cost(mapping, workload, machine), "simulated": simulate(mapping, workload, machine)}
    key = (cascade_name, mapping_name, machine_name, dict(workload.sizes))
    yield Line(*key, "latency", "s", {m: r.latency_s for m, r in results.items()})
    root = machine.root.name
    yield Line(*key, f"bytes at {root}", "B", {m: r.total("bytes", place=root) for m, r in results.items()})
    operations = {m: r.total("operations", boundary="issued") for m, r in results.items()}
    yield Line(*key, "operations", "op", operations)


def _kernel(name: str) -> Iterator[Line]:
    """Bytes and operations are summed after the comparison tensor by tensor and Einsum by Einsum."""
    from gpu_backend.check import case, check_kernel, given
    from gpu_backend.compare import expected, seen
    from gpu_backend.limits import plans

    workload, mapping, machine = case(name)
    verdict = check_kernel(workload, mapping, machine, given=given(name))
    root = machine.root.name
    wanted = expected(verdict.closed, plans(workload, mapping), root)
    found, key = seen(verdict.counted), (workload.cascade.name, mapping.name, machine.name, dict(workload.sizes))
    yield Line(*key, f"bytes at {root}", "B", _sums(wanted, found, "bytes"), verdict.differences)
    yield Line(*key, "operations", "op", _sums(wanted, found, "operations"), verdict.differences)
    for kernel, compiled in zip(verdict.kernels, verdict.compiled, strict=True):
        if kernel.iteration_macs and compiled.select("instructions", place="main loop"):
            group = kernel.name.removeprefix(workload.cascade.name.replace("-", "_")).replace("_", " ")
            values = {"closed form": kernel.iteration_macs, "compiled": _main_loop(compiled, "operations")}
            yield Line(*key, f"macs an iteration{group}", "op", values, compiled.notes)
            values = {"closed form": kernel.iteration_bytes, "compiled": _main_loop(compiled, "bytes")}
            yield Line(*key, f"bytes an iteration{group}", "B", values, compiled.notes)


def _sums(wanted: dict, found: dict, quantity: str) -> dict[str, float]:
    total = lambda values: sum(value for key, value in values.items() if key[0] == quantity)
    return {"closed form": total(wanted), "counted": total(found)}


def _main_loop(compiled: Result, quantity: str) -> float:
    return compiled.total(quantity, place="main loop")


def _measured() -> Iterator[Line]:
    from gpu_backend.record import RECORDS, read, result

    for file in sorted(RECORDS.glob("*_*.json")):
        record = read(file)
        config, measured = record.config, result(record)
        key = (config.cascade, config.mapping, config.machine, config.sizes)
        values = {"closed form": record.expected.latency_s, "measured": measured.latency_s}
        yield Line(*key, "latency", "s", values, measured.notes)
