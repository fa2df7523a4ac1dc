"""The types of a machine: a tree of memories, arrays and units, and links between devices.

A spatial accelerator and a GPU are the same kind of tree. The root is the outermost memory; a `Memory` or an
`Array` holds children; a `Unit` is a leaf that executes operation classes. All numbers are SI (bytes, seconds,
joules, hertz, square metres); quantity strings exist only in YAML. docs/SEMANTICS.md section 3 numbers the rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

ROLES = ("input", "weight", "output")  # of a tensor in an Einsum: SEMANTICS 3.10


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of an array: `size` instances; a read that does not vary along it is fetched once if `multicast`,
    and partial results are summed on the way out if `reduce`."""

    name: str
    size: int
    multicast: bool = True
    reduce: bool = False


@dataclass(frozen=True, slots=True)
class OpCost:
    """One operation class on a unit: clock cycles a lane is busy, and joules, for each operation.

    `by_dtype` lists the cycles for operands of other element types than those that `cycles` stands for.
    """

    cycles: float
    energy_j: float
    by_dtype: tuple[tuple[str, float], ...] = ()

    def cycles_of(self, dtype: str) -> float:
        """Cycles that a lane is busy with operands of this element type; `fp8` stands for both kinds of it."""
        known = dict(self.by_dtype)
        return known.get(dtype, known.get("fp8", self.cycles) if dtype in ("e4m3", "e5m2") else self.cycles)


@dataclass(frozen=True)
class Unit:
    """A functional unit, one per instance of the arrays above it. `lanes` one-cycle operations start each cycle.

    `ops` says what one operation of a class costs. `expands` rewrites a class that the unit has no hardware for
    into others, such as exp -> 6 mac. `drain_s` is the pure latency until the last result has left the array.
    """

    name: str
    clock_hz: float
    ops: dict[str, OpCost] = field(hash=False)
    lanes: float = 1
    expands: dict[str, dict[str, int]] = field(default_factory=dict, hash=False)
    drain_s: float = 0.0
    area_m2: float = 0.0


@dataclass(frozen=True)
class Memory:
    """A memory, one per instance of the arrays above it. None means unlimited (capacity, bandwidth) or not modelled.

    Energy is charged for each access of `access_bytes`. With `shared_port` reads and writes share
    `read_bytes_per_s`; otherwise each has its own port. `holds` names the `ROLES` in which it may hold a tensor (None:
    all of them); without `bypass` it must hold every tensor that a unit below it uses in one of them.
    """

    name: str
    children: tuple[Node, ...]
    capacity_bytes: float | None = None
    read_bytes_per_s: float | None = None
    write_bytes_per_s: float | None = None
    shared_port: bool = True
    access_bytes: float = 1.0
    read_energy_j: float = 0.0  # per access
    write_energy_j: float = 0.0  # per access
    latency_s: float = 0.0
    area_m2: float = 0.0
    holds: tuple[str, ...] | None = None
    bypass: bool = True
    sustained_bytes_per_s: float | None = None  # what a streaming kernel reaches; None: not known


@dataclass(frozen=True, slots=True)
class Residency:
    """What one coordinate of an array (an SM) can keep resident at once: SEMANTICS 3.11.

    `warps` of `warp_threads` threads, in at most `programs` thread blocks. A thread uses at most `thread_registers`
    registers of 32 bit, given out to a warp in steps of `register_step`. A program's shared memory is rounded up to
    `shared_step_bytes`, after `reserved_shared_bytes` that the system takes for each. The
    programs share `tensor_memory_bytes`, where a tensor unit that runs beside the threads keeps its sums.
    """

    programs: int
    warps: int
    warp_threads: int
    thread_registers: int
    register_step: int
    shared_step_bytes: float
    reserved_shared_bytes: float = 0.0
    tensor_memory_bytes: float = 0.0


@dataclass(frozen=True)
class Array:
    """A fan-out: everything below stands once per coordinate of the axes. `area_m2` is that of the array's wiring."""

    name: str
    axes: tuple[Axis, ...]
    children: tuple[Node, ...]
    area_m2: float = 0.0
    residency: Residency | None = None  # of each coordinate, where programs are resident

    @property
    def size(self) -> int:
        return math.prod(axis.size for axis in self.axes)


Node = Memory | Array | Unit


@dataclass(frozen=True, slots=True)
class Link:
    """Links between `devices` copies of the machine: bandwidth is per device and direction."""

    name: str
    devices: int
    topology: str  # ring | mesh | torus | full | switch
    bytes_per_s: float
    latency_s: float = 0.0
    energy_j_per_byte: float = 0.0


@dataclass(frozen=True)
class Machine:
    """A machine tree with its static power, power cap and the source of every number."""

    name: str
    clock_hz: float  # of the fastest clock domain: simulated ticks are 2**-20 of its cycle
    root: Memory
    links: tuple[Link, ...] = ()
    static_power_w: float = 0.0
    power_cap_w: float | None = None
    technology_m: float | None = None
    boost_clock_hz: float | None = None  # highest under load; `clock_hz` is that of the published peak
    sources: tuple[tuple[str, str], ...] = field(default=(), compare=False)  # (path of a number, where it is from)
    confidence: tuple[tuple[str, str], ...] = field(default=(), compare=False)  # (path, high | medium | low) if stated
    doc: str = field(default="", compare=False)

    @cached_property
    def _paths(self) -> dict[str, tuple[Node, ...]]:
        """Name of a node -> the nodes from the root down to it."""
        return {path[-1].name: path for path in _walk((self.root,))}

    @cached_property
    def _named(self) -> dict[tuple[type, str], Any]:
        """Memories, units and axes by kind and name."""
        arrays = [n for n in self.nodes() if isinstance(n, Array)]
        axes = {(Axis, f"{array.name}.{axis.name}"): axis for array in arrays for axis in array.axes}
        return {(type(n), n.name): n for n in self.nodes()} | axes

    def nodes(self) -> tuple[Node, ...]:
        """Every node, parents first."""
        return tuple(path[-1] for path in self._paths.values())

    def path(self, name: str) -> tuple[Node, ...]:
        """The nodes from the root down to the node `name`; KeyError if there is none."""
        return self._paths[name]

    @property
    def memories(self) -> tuple[Memory, ...]:
        return tuple(n for n in self.nodes() if isinstance(n, Memory))

    @property
    def units(self) -> tuple[Unit, ...]:
        return tuple(n for n in self.nodes() if isinstance(n, Unit))

    def memory(self, name: str) -> Memory:
        return self._named[Memory, name]

    def unit(self, name: str) -> Unit:
        return self._named[Unit, name]

    def axis(self, over: str) -> Axis:
        """The axis that `array.axis` names."""
        return self._named[Axis, over]

    def axes(self, name: str) -> tuple[tuple[str, Axis], ...]:
        """(array name, axis) of every axis above the node `name`, outermost first."""
        return tuple((n.name, axis) for n in self.path(name)[:-1] if isinstance(n, Array) for axis in n.axes)

    def instances(self, name: str) -> int:
        """How many copies of the node the machine has."""
        return math.prod(axis.size for _, axis in self.axes(name))

    def area_m2(self, name: str = "") -> float:
        """Area of the subtree at the node `name`, in all its instances; of the whole machine by default."""
        path = self.path(name or self.root.name)
        below = [p for p in self._paths.values() if p[: len(path)] == path]
        return sum(p[-1].area_m2 * self.instances(p[-1].name) for p in below)


def _walk(path: tuple[Node, ...]) -> Iterator[tuple[Node, ...]]:
    yield path
    for child in getattr(path[-1], "children", ()):
        yield from _walk((*path, child))
