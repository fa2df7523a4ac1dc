"""The one result type of every producer: closed form, simulation, counted, compiled and measured kernels."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

METHODS = ("closed form", "simulated", "counted", "compiled", "measured", "published")
# quantity -> unit of its value
QUANTITIES = {
    "latency": "s",  # end to end
    "busy": "s",  # time that a unit or memory port (place) works on an Einsum or moves a tensor
    "stall": "s",  # time that a unit (place) waits; detail: the cause
    "utilization": "1",  # of a unit (place) issued operations over what it could issue, of a port busy over latency
    "share": "1",  # of an Einsum in the utilization of a unit
    "operations": "op",  # detail: operation class, useful | issued
    "combines": "op",  # reductions' combine operations: points in less points out; detail as for operations
    "bytes": "B",  # moved at a memory (place); detail: read | write; boundary says issued or distinct
    "accesses": "1",  # of `access_bytes` each at a memory; detail: read | write
    "lanes": "1",  # of a kernel's accesses of blocks; issued, or useful: those not masked off
    "footprint": "B",  # of a tensor in a memory, all buffers of one instance
    "energy": "J",  # place: unit or memory
    "programs": "1",  # instances of a kernel: iterations of the spatial loop that is the launch grid
    "registers": "1",  # 32-bit, of one thread of a compiled kernel
    "occupancy": "1",  # warps of a compiled kernel resident on an SM over those that it has room for
    "spills": "B",  # of one thread; detail: read | write
    "instructions": "1",  # of a compiled kernel; detail: class; place: main loop | kernel
    "tiles": "1",  # iterations of the innermost temporal loop around a group
}


@dataclass(frozen=True, slots=True)
class Row:
    """One number. Two rows may be subtracted only when their keys and boundaries agree."""

    quantity: str
    value: float
    einsum: str = ""
    tensor: str = ""
    place: str = ""  # unit, memory or phase
    detail: str = ""
    boundary: str = ""  # what is counted: "issued", "useful", "distinct"
    low: float | None = None
    high: float | None = None

    @property
    def unit(self) -> str:
        return QUANTITIES[self.quantity]

    @property
    def key(self) -> tuple[str, ...]:
        return (self.quantity, self.einsum, self.tensor, self.place, self.detail, self.boundary)


@dataclass(frozen=True)
class Provenance:
    """Version, hash of the inputs and command of a result, so that it can be made again."""

    version: str
    inputs_sha256: str
    command: str


@dataclass(frozen=True)
class Result:
    """Rows of one producer for one (cascade, machine, mapping, sizes)."""

    method: str  # of METHODS
    config: dict[str, object]
    rows: tuple[Row, ...]
    provenance: Provenance | None = None
    notes: tuple[str, ...] = field(default=())

    def select(self, quantity: str, **key: str) -> tuple[Row, ...]:
        """Rows of a quantity whose named key fields (einsum, tensor, place, detail, boundary) are equal."""
        wanted: Callable[[Row], bool] = lambda r: all(getattr(r, k) == v for k, v in key.items())
        return tuple(r for r in self.rows if r.quantity == quantity and wanted(r))

    def total(self, quantity: str, **key: str) -> float:
        """Sum over `select`; 0 when nothing matches."""
        return sum(r.value for r in self.select(quantity, **key))

    def value(self, quantity: str, **key: str) -> float:
        """The value of the only matching row; KeyError unless there is exactly one."""
        found = self.select(quantity, **key)
        if len(found) != 1:
            raise KeyError(f"{len(found)} rows for {quantity} {key}")
        return found[0].value

    @property
    def latency_s(self) -> float:
        return self.value("latency")

    @property
    def energy_j(self) -> float:
        return self.total("energy")

    def with_provenance(self, *inputs: object) -> Result:
        """The result stamped with version, command line and a hash of `inputs` (their reprs)."""
        return replace(self, provenance=provenance(*inputs))

    def as_dict(self) -> dict[str, object]:
        """JSON-ready: rows carry their unit."""
        rows = [{k: v for k, v in asdict(r).items() if v not in ("", None)} | {"unit": r.unit} for r in self.rows]
        stamp = asdict(self.provenance) if self.provenance else None
        head = {"method": self.method, "config": self.config}
        return {**head, "rows": rows, "notes": list(self.notes), "provenance": stamp}


def provenance(*inputs: object) -> Provenance:
    """Version of the project, SHA-256 over the inputs' reprs, and the command line as typed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("stepfall")
    except PackageNotFoundError:
        number = "source"
    digest = hashlib.sha256(json.dumps([repr(i) for i in inputs]).encode()).hexdigest()
    name = sys.argv[0].rsplit("/", 1)[-1]
    return Provenance(number, digest, shlex.join([name, *sys.argv[1:]]))
