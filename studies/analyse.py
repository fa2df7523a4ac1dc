"""A cascade's analysis against a machine: a roofline, and whether everything fits into its memories (SEMANTICS 2.2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from arch.machine import Machine, Unit
from einsum.analysis import Analysis, columns
from einsum.cascade import Access, Cascade, Workload, walk
from einsum.problems import InputError, Problem

BATCH, QUERY = "b", "p"  # the rank variables that tell weights, cached keys and activations apart


@dataclass(frozen=True, slots=True)
class Roofline:
    """Lower bounds on the time of a workload, in seconds, and what the greater of them allows."""

    compute_s: float  # every operation, spread over the units as well as can be
    memory_s: float  # compulsory bytes at the outermost bandwidth
    flops: int
    ridge: float | None  # flops per byte above which the units bound this mix of operations; None: always

    @property
    def seconds(self) -> float:
        return max(self.compute_s, self.memory_s)

    @property
    def bound(self) -> str:
        return "compute" if self.compute_s >= self.memory_s else "memory"

    @property
    def flops_per_s(self) -> float:
        return self.flops / self.seconds


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes by kind; activations are inputs, outputs, and the intermediates that exist at the same time."""

    weights: float
    kv: float
    inputs_outputs: float
    unfused: float  # most bytes of intermediates at once if every Einsum runs by itself, in program order
    fused: float  # bytes that no mapping avoids: kept between passes, and states

    @property
    def total_unfused(self) -> float:
        return self.weights + self.kv + self.inputs_outputs + self.unfused

    @property
    def total_fused(self) -> float:
        return self.weights + self.kv + self.inputs_outputs + self.fused


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether the footprint fits into the outermost memory, and what must stay live into the inner ones."""

    memory: str
    what: str
    needed_bytes: float
    capacity_bytes: float | None  # of all instances; None: unlimited

    @property
    def fits(self) -> bool:
        return self.capacity_bytes is None or self.needed_bytes <= self.capacity_bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a machine makes of a workload."""

    machine: str
    roofline: Roofline
    footprint: Footprint
    fits: tuple[Fit, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        line = self.roofline
        kinds = ("weights", "kv", "inputs_outputs", "unfused", "fused", "total_unfused", "total_fused")
        return {
            "machine": self.machine,
            "roofline": {
                "compute_s": line.compute_s, "memory_s": line.memory_s, "seconds": line.seconds, "bound": line.bound,
                "flops_per_s": line.flops_per_s, "ridge_flops_per_byte": line.ridge,
            },
            "footprint_bytes": {kind: getattr(self.footprint, kind) for kind in kinds},
            "fits": [
                {"memory": f.memory, "what": f.what, "needed_bytes": f.needed_bytes,
                 "capacity_bytes": f.capacity_bytes, "fits": f.fits} for f in self.fits
            ],
        }  # fmt: skip

    def __str__(self) -> str:
        return "\n".join(_report(self)) + "\n"


def judge(workload: Workload, analysis: Analysis, machine: Machine) -> Verdict:
    """Roofline and memory fit. InputError if no unit of the machine executes an operation class."""
    found = footprint(workload, analysis)
    return Verdict(machine.name, roofline(analysis, machine), found, tuple(_fits(found, machine)))


def roofline(analysis: Analysis, machine: Machine) -> Roofline:
    """Lower bounds on time: no schedule is faster."""
    compute = compute_seconds(analysis.operations, machine)
    bandwidth = _bandwidth(machine)
    memory = analysis.compulsory_bytes / bandwidth if bandwidth else 0.0
    ridge = analysis.flops / compute / bandwidth if compute and bandwidth else None
    return Roofline(compute, memory, analysis.flops, ridge)


def compute_seconds(operations: Mapping[str, int], machine: Machine) -> float:
    """Least seconds in which the units execute the operations: a linear program over who executes how many of what."""
    import numpy as np
    from scipy.optimize import linprog

    wanted = {op_class: n for op_class, n in operations.items() if n}
    cycles = {unit.name: {c: cost for c in wanted if (cost := _cycles(unit, c)) is not None} for unit in machine.units}
    missing = [c for c in wanted if not any(c in costs for costs in cycles.values())]
    if missing:
        raise InputError([Problem(f"no unit executes operation class {c}", path=machine.name) for c in missing])
    pairs = [(unit, c) for unit in machine.units for c in cycles[unit.name]]
    if not pairs:
        return 0.0
    shares = {unit.name: np.zeros(len(pairs) + 1) for unit in machine.units}
    totals = {c: np.zeros(len(pairs) + 1) for c in wanted}
    for at, (unit, c) in enumerate(pairs):  # variables: the fraction of class c that the unit executes, then seconds
        rate = unit.clock_hz * unit.lanes * machine.instances(unit.name)
        shares[unit.name][at] = wanted[c] * cycles[unit.name][c] / rate
        totals[c][at] = 1
    scale = max(share.max() for share in shares.values())
    rows = [np.append(share[:-1] / scale, -1) for share in shares.values()]
    goal = np.append(np.zeros(len(pairs)), 1)
    answer = linprog(goal, rows, np.zeros(len(rows)), list(totals.values()), np.ones(len(totals)), method="highs")
    return float(answer.fun) * scale


def _cycles(unit: Unit, op_class: str) -> float | None:
    """Lane cycles of one operation, by its own hardware or through others; None if the unit cannot."""
    if op_class in unit.ops:
        return unit.ops[op_class].cycles
    parts = unit.expands.get(op_class)
    return sum(n * unit.ops[c].cycles for c, n in parts.items()) if parts else None


def _bandwidth(machine: Machine) -> float | None:
    """Bytes per second that the outermost memory can move at most, reads and writes together; None: unlimited."""
    root = machine.root
    if root.read_bytes_per_s is None or root.shared_port or root.write_bytes_per_s is None:
        return root.read_bytes_per_s
    return root.read_bytes_per_s + root.write_bytes_per_s


def footprint(workload: Workload, analysis: Analysis) -> Footprint:
    """Bytes by kind: inputs without a batch rank are weights; with it and without a query rank, or gathered by an
    index tensor, they are cached keys and values; everything else is an activation."""
    cascade = workload.cascade
    size = {name: workload.elements(name) * workload.bits(name) / 8 for name in cascade.tensor}
    cached = set(_gathered(cascade))
    kinds = {"weights": 0.0, "kv": 0.0, "inputs_outputs": sum(size[name] for name in cascade.outputs)}
    for name in cascade.inputs:
        ranks = cascade.tensor[name].ranks
        if name in cached or (BATCH in ranks and QUERY not in ranks):
            kinds["kv"] += size[name]
        elif BATCH in ranks:
            kinds["inputs_outputs"] += size[name]
        else:
            kinds["weights"] += size[name]
    once = {live.tensor: live.bytes for live in analysis.live}
    return Footprint(**kinds, unfused=_peak(workload, size), fused=sum(once.values()))


def _gathered(cascade: Cascade) -> Iterator[str]:
    """Inputs that an index tensor selects from, such as the pages of a cache."""
    for access in (a for e in cascade.einsums for a in e.reads):
        nodes = [node for index in access.indices for node in walk(index)]
        if access.tensor in cascade.inputs and any(isinstance(node, Access) for node in nodes):
            yield access.tensor


def _peak(workload: Workload, size: Mapping[str, float]) -> float:
    """Most bytes of intermediates at one time, each from its statement to the last one that reads it."""
    from einsum.ops import is_view

    cascade = workload.cascade
    last: dict[str, int] = {}
    for at, einsum in enumerate(cascade.einsums):
        last |= {access.tensor: at for access in einsum.reads}
    kept = {e.name: at for at, e in enumerate(cascade.einsums) if e.name in last and not is_view(e)}
    return max(
        (sum(size[n] for n, first in kept.items() if first <= at <= last[n]) for at in range(len(cascade.einsums))),
        default=0.0,
    )


def _fits(found: Footprint, machine: Machine) -> Iterator[Fit]:
    root = machine.root
    yield Fit(root.name, "all, unfused", found.total_unfused, root.capacity_bytes)
    yield Fit(root.name, "all, fused", found.total_fused, root.capacity_bytes)
    for memory in machine.memories:
        if memory is not root:
            instances = machine.instances(memory.name)
            capacity = None if memory.capacity_bytes is None else memory.capacity_bytes * instances
            yield Fit(memory.name, "live while fused", found.fused, capacity)


def _report(v: Verdict) -> Iterator[str]:
    line, found = v.roofline, v.footprint
    ridge = "-" if line.ridge is None else f"{line.ridge:.6g}"
    yield f"roofline on {v.machine}: {line.seconds:.6g} s, {line.bound} bound, {line.flops_per_s:.6g} flop/s"
    yield f"  compute {line.compute_s:.6g} s; memory {line.memory_s:.6g} s; ridge at {ridge} flops per byte"
    kinds = ("weights", "kv", "inputs_outputs", "unfused", "fused")
    yield "bytes: " + "; ".join(f"{kind.replace('_', ' and ')} {getattr(found, kind):.6g}" for kind in kinds)
    text = lambda n: "unlimited" if n is None or math.isinf(n) else f"{n:.6g}"
    rows = [
        (f.memory, f.what, text(f.needed_bytes), text(f.capacity_bytes), "fits" if f.fits else "too large")
        for f in v.fits
    ]
    yield from columns(("memory", "what", "bytes needed", "capacity", "verdict"), rows)
