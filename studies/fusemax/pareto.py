"""Area against latency of +Binding at 256K tokens, over the width of the 2D array. The rules are the artifact's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from arch.machine import Array, Machine, Memory, Node, Unit
from mapper.cost import cost
from mapper.library import make
from mapper.result import Result
from studies.fusemax.designs import Case, Compared, load_cascade, load_machine, sizes
from studies.fusemax.published import buffer_area_m2

WIDTHS = (16, 32, 64, 128, 256, 512)
LENGTH = "256K"
WORD = 2  # bytes
ADDRESS_BIT_M2 = 11.63494e-12  # of an address generator; source: the artifact's area reference table
REGISTERS_M2 = 16849.2142e-12 - 5 * ADDRESS_BIT_M2  # up to 64 entries, in proportion from there; same source


@dataclass(frozen=True)
class Width(Compared):
    """FuseMax of one array width, on one model, by both methods."""

    model: str
    width: int
    machine: Machine
    results: tuple[Result, Result]  # in the order of METHODS

    @property
    def key(self) -> tuple[str, str]:
        return self.model, str(self.width)

    @property
    def config(self) -> str:
        return f"Pareto {self.model} {self.width}x{self.width}"

    def values(self, method: str) -> dict[str, float]:
        """The artifact's columns, ours: bytes, seconds, and areas in square micrometres."""
        result = self.result(method)
        return {
            "traffic": result.total("bytes", place="dram"),
            "mem_lat": result.total("busy", place="dram"),
            "comp_2d_lat": result.total("busy", place="pe_2d"),
            "comp_1d_lat": result.total("busy", place="pe_1d"),
            "latency": result.latency_s,
            "array_2d_area": self.machine.area_m2("array_2d") * 1e12,
            "area": self.machine.area_m2() * 1e12,
        }


def width(model: str, columns: int) -> Width:
    """The array with the smallest buffer, doubled from the least, that keeps memory from being the bottleneck."""
    layer = sizes(model, LENGTH)
    tiles = 2 * max(1, columns // layer["E"])  # in flight, so that a tile's latency is hidden
    capacity = columns * max(1, tiles * columns // 2**18) * layer["E"] * 16
    while True:
        machine = scaled(load_machine("fusemax"), columns, capacity, tiles)
        case = Case(*make("fusemax-binding", load_cascade("attention-1pass"), machine, layer), machine)
        closed = cost(case.mapping, case.workload, case.machine)
        if closed.total("busy", place="dram") <= closed.total("busy", place="pe_1d"):
            sized = with_buffer_area(machine, buffer_area_m2(columns, capacity))
            return Width(model, columns, sized, case.solve())
        capacity *= 2


def scaled(machine: Machine, columns: int, capacity: int, tiles: int) -> Machine:
    """The machine with arrays of another width, another buffer, and registers for so many tiles in flight.

    Energies are left at zero, for no source states them for these sizes, and so is the area of the buffer's cells.
    """
    entries = {"regs_2d": 2 * tiles, "regs_1d": 8 * tiles}

    def changed(node: Node) -> Node:
        if isinstance(node, Unit):
            return node
        inner = replace(node, children=tuple(map(changed, node.children)))
        match inner:
            case Array():
                wiring = inner.area_m2 * columns / 256 if inner.name == "array_2d" else inner.area_m2
                return replace(inner, axes=tuple(replace(a, size=columns) for a in inner.axes), area_m2=wiring)
            case Memory(name="buffer"):
                address = math.log2(capacity // (WORD * columns)) * ADDRESS_BIT_M2
                return replace(
                    inner,
                    capacity_bytes=capacity,
                    access_bytes=WORD * columns,
                    read_energy_j=0.0,
                    write_energy_j=0.0,
                    area_m2=address,
                )
            case Memory(name=name) if name in entries:
                return replace(
                    inner,
                    capacity_bytes=max(inner.capacity_bytes or 0, WORD * entries[name]),
                    read_energy_j=0.0,
                    write_energy_j=0.0,
                    area_m2=registers_m2(entries[name]),
                )
        return inner

    return replace(machine, root=changed(machine.root))  # pyright: ignore[reportArgumentType]


def with_buffer_area(machine: Machine, area_m2: float) -> Machine:
    """The machine with the area of the buffer's cells added."""
    buffer = machine.memory("buffer")
    children = (replace(buffer, area_m2=buffer.area_m2 + area_m2),)
    return replace(machine, root=replace(machine.root, children=children))


def registers_m2(entries: int) -> float:
    """Area of a register file."""
    bits = max(1, math.ceil(math.log2(entries)))
    return REGISTERS_M2 * max(64, entries) / 64 + bits * ADDRESS_BIT_M2


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one is below in both coordinates, by the first."""
    best: list[tuple[float, float]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best
