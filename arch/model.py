"""The YAML of a machine: boundary models, and the machine that they make. SEMANTICS section 3 numbers the rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, StringConstraints, Tag

from arch.document import Document, Place, Strict, told_apart_by
from arch.machine import Array, Axis, Link, Machine, Memory, Node as MachineNode, OpCost, Residency, Unit
from arch.number import (
    WORDS,
    AccessEnergy,
    Area,
    Bandwidth,
    Confidence,
    Count,
    Energy,
    EnergyPerByte,
    Frequency,
    Length,
    Number,
    Power,
    Rate,
    Size,
    SizeOrUnlimited,
    Time,
)

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class AxisModel(Strict):
    """One dimension of an array."""

    name: Name
    size: Count
    multicast: bool = True
    reduce: bool = False


class OpModel(Strict):
    """One operation class: cycles that a lane is busy, those of other element types, energy (absent: not modelled)."""

    cycles: Rate
    dtypes: dict[str, Rate] = Field(default_factory=dict)
    energy: Energy | None = None
    source: str | None = None
    confidence: Confidence | None = None


class UnitModel(Strict):
    """A functional unit; `expands` rewrites a class into classes that it executes."""

    unit: Name
    source: str | None = None
    confidence: Confidence | None = None
    clock: Frequency | None = None
    lanes: Rate | None = None
    ops: dict[str, OpModel] = Field(min_length=1)
    expands: dict[str, dict[str, Count]] = Field(default_factory=dict)
    drain: Time | None = None
    area: Area | None = None


NodeModel = Annotated[
    Annotated["MemoryModel", Tag("MemoryModel")]
    | Annotated["ArrayModel", Tag("ArrayModel")]
    | Annotated["UnitModel", Tag("UnitModel")],
    told_apart_by(memory="MemoryModel", array="ArrayModel", unit="UnitModel"),
]


class ResidencyModel(Strict):
    """What one coordinate of an array keeps resident at once: thread blocks, warps, and how room is given out."""

    source: str | None = None
    confidence: Confidence | None = None
    programs: Count
    warps: Count
    warp_threads: Count
    thread_registers: Count
    register_step: Count
    shared_step: Size
    reserved_shared: Size | None = None
    tensor_memory: Size | None = None


class ArrayModel(Strict):
    """A fan-out of everything below it."""

    array: Name
    source: str | None = None
    confidence: Confidence | None = None
    clock: Frequency | None = None
    axes: list[AxisModel] = Field(min_length=1)
    residency: ResidencyModel | None = None
    area: Area | None = None
    children: list[NodeModel] = Field(min_length=1)


class MemoryModel(Strict):
    """A memory: `bandwidth` is one port shared by reads and writes, else each has its own. `holds` lists the roles in
    which it may hold a tensor, `bypass` whether it need not. `sustained_bandwidth` is what streaming kernels reach."""

    memory: Name
    source: str | None = None
    confidence: Confidence | None = None
    clock: Frequency | None = None
    capacity: SizeOrUnlimited | None = None
    bandwidth: Bandwidth | None = None
    read_bandwidth: Bandwidth | None = None
    write_bandwidth: Bandwidth | None = None
    sustained_bandwidth: Bandwidth | None = None
    access: Size | None = None
    read_energy: AccessEnergy | None = None
    write_energy: AccessEnergy | None = None
    latency: Time | None = None
    area: Area | None = None
    holds: list[str] | None = None
    bypass: bool = True
    children: list[NodeModel] = Field(min_length=1)


ArrayModel.model_rebuild(force=True)  # it refers to MemoryModel, which comes after it


class LinkModel(Strict):
    """Links between copies of the machine."""

    link: Name
    source: str | None = None
    confidence: Confidence | None = None
    devices: Count
    topology: str
    bandwidth: Bandwidth
    latency: Time | None = None
    energy: EnergyPerByte | None = None


def _whole_or_like(schema: dict[str, Any]) -> None:
    """A file has a clock and a tree of its own, or names the machine that it is like (`arch.variant`)."""
    schema["required"] = [key for key in schema["required"] if key not in ("clock", "root")]
    schema["anyOf"] = [{"required": ["clock", "root"]}, {"required": ["like"]}]


class MachineModel(Strict):
    """A machine: `stepfall: machine/1`, its clock, and the tree from the outermost memory down; or the machine that it
    is `like`, with `changes` by path such as `hbm.capacity`."""

    model_config = ConfigDict(json_schema_extra=_whole_or_like)
    version: ClassVar[str] = "machine/1"
    stepfall: str
    name: str
    like: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)
    doc: str = ""
    source: str | None = None
    confidence: Confidence | None = None
    clock: Frequency
    boost_clock: Frequency | None = None
    technology: Length | None = None
    static_power: Power | None = None
    power_cap: Power | None = None
    root: MemoryModel
    links: list[LinkModel] = Field(default_factory=list)


@dataclass
class Builder:
    """Makes the machine, and keeps every number's source, confidence and place, and every node's place."""

    sources: list[tuple[str, str]] = field(default_factory=list)
    confidence: list[tuple[str, str]] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)

    def machine(self, m: MachineModel) -> Machine:
        clock = self._number(m, "clock", "", (), 0.0)
        keys = ("technology", "static_power", "power_cap", "boost_clock")
        values = {key: self._number(m, key, "", (), clock) for key in keys}
        return Machine(
            name=m.name,
            clock_hz=clock,
            root=self._memory(m.root, ("root",), clock),
            links=tuple(self._link(link, ("links", i), clock) for i, link in enumerate(m.links)),
            static_power_w=values["static_power"] or 0.0,
            power_cap_w=values["power_cap"],
            technology_m=values["technology"],
            boost_clock_hz=values["boost_clock"],
            sources=tuple(self.sources),
            confidence=tuple(self.confidence),
            doc=m.doc.strip(),
        )

    def _number(
        self, model: Strict, key: str, prefix: str, place: Place, clock: float, above: Any = None, per: float = 1
    ) -> Any:
        """The SI value of a key (None: absent or unlimited); cycles take the clock, energy per byte `per` bytes. A
        number without a source has that of its model, else of the model `above`."""
        number: Number | None = getattr(model, key)
        if number is None:
            return None
        return self._note(number, f"{prefix}.{key}".lstrip("."), (*place, key), clock, (model, above), per)

    def _note(
        self, number: Number, path: str, place: Place, clock: float, around: tuple[Any, ...], per: float = 1
    ) -> Any:
        self.places[path] = place
        if number.value is None:
            return None
        said = next((m for m in (number, *around) if getattr(m, "source", None)), None)
        self.sources.append((path, getattr(said, "source", "")))
        if confidence := number.confidence or getattr(said, "confidence", None):
            self.confidence.append((path, confidence))
        if number.dimension == "cycles":
            return number.value / clock
        return number.value * {"bytes per cycle": clock, "energy per byte": per}.get(number.dimension, 1)

    def _clock(self, model: Any, path: str, place: Place, clock: float) -> float:
        """The clock of a node: its own, else its parent's."""
        return clock if model.clock is None else self._number(model, "clock", path, place, clock)

    def _children(self, models: list[Any], place: Place, clock: float) -> tuple[MachineNode, ...]:
        makers = {MemoryModel: self._memory, ArrayModel: self._array, UnitModel: self._unit}
        return tuple(makers[type(m)](m, (*place, "children", i), clock) for i, m in enumerate(models))

    def _memory(self, m: MemoryModel, place: Place, clock: float) -> Memory:
        self.places.setdefault(m.memory, (*place, "memory"))
        clock = self._clock(m, m.memory, place, clock)
        access = self._number(m, "access", m.memory, place, clock) or 1.0
        keys = ("capacity", "bandwidth", "read_bandwidth", "write_bandwidth", "read_energy", "write_energy")
        rest = ("latency", "area", "sustained_bandwidth")
        v = {k: self._number(m, k, m.memory, place, clock, per=access) for k in (*keys, *rest)}
        own_ports = m.read_bandwidth is not None or m.write_bandwidth is not None
        self.places[f"{m.memory}.holds"] = (*place, "holds")
        return Memory(
            name=m.memory,
            children=self._children(m.children, place, clock),
            capacity_bytes=v["capacity"],
            read_bytes_per_s=v["read_bandwidth"] if own_ports else v["bandwidth"],
            write_bytes_per_s=v["write_bandwidth"],
            shared_port=not own_ports,
            access_bytes=access,
            read_energy_j=v["read_energy"] or 0.0,
            write_energy_j=v["write_energy"] or 0.0,
            latency_s=v["latency"] or 0.0,
            area_m2=v["area"] or 0.0,
            holds=None if m.holds is None else tuple(m.holds),
            bypass=m.bypass,
            sustained_bytes_per_s=v["sustained_bandwidth"],
        )

    def _array(self, m: ArrayModel, place: Place, clock: float) -> Array:
        self.places.setdefault(m.array, (*place, "array"))
        clock = self._clock(m, m.array, place, clock)
        axes = []
        for i, a in enumerate(m.axes):
            size = self._number(a, "size", f"{m.array}.axes.{a.name}", (*place, "axes", i), clock, m)
            axes.append(Axis(a.name, int(size), a.multicast, a.reduce))
        area = self._number(m, "area", m.array, place, clock) or 0.0
        residency = self._residency(m, place, clock)
        return Array(m.array, tuple(axes), self._children(m.children, place, clock), area, residency)

    def _residency(self, m: ArrayModel, place: Place, clock: float) -> Residency | None:
        if m.residency is None:
            return None
        where = (f"{m.array}.residency", (*place, "residency"))
        v = {k: self._number(m.residency, k, *where, clock, m) for k in ResidencyModel.model_fields if k not in WORDS}
        sizes = ("shared_step", "reserved_shared", "tensor_memory")
        values: dict[str, Any] = {k: int(n) for k, n in v.items() if k not in sizes}
        values |= {f"{k}_bytes": v[k] or 0.0 for k in sizes}
        return Residency(**values)

    def _unit(self, m: UnitModel, place: Place, clock: float) -> Unit:
        self.places.setdefault(m.unit, (*place, "unit"))
        clock = self._clock(m, m.unit, place, clock)
        ops, expands = {}, {}
        for name, op in m.ops.items():
            where = (f"{m.unit}.ops.{name}", (*place, "ops", name))
            self.places[where[0]] = where[1]
            cycles = self._number(op, "cycles", *where, clock, m)
            kinds = [(k, (f"{where[0]}.dtypes.{k}", (*where[1], "dtypes", k))) for k in op.dtypes]
            by_dtype = tuple((k, self._note(op.dtypes[k], *at, clock, (op, m))) for k, at in kinds)
            ops[name] = OpCost(cycles, self._number(op, "energy", *where, clock, m) or 0.0, by_dtype)
        for name, targets in m.expands.items():
            expands[name] = {}
            for target, count in targets.items():
                path, at = f"{m.unit}.expands.{name}.{target}", (*place, "expands", name, target)
                value = self._note(count, path, at, clock, (m,))
                expands[name][target] = int(value)
        drain, area, lanes = (self._number(m, k, m.unit, place, clock) for k in ("drain", "area", "lanes"))
        return Unit(m.unit, clock, ops, lanes or 1, expands, drain or 0.0, area or 0.0)

    def _link(self, m: LinkModel, place: Place, clock: float) -> Link:
        self.places.setdefault(m.link, (*place, "link"))
        v = {k: self._number(m, k, m.link, place, clock) for k in ("devices", "bandwidth", "latency", "energy")}
        self.places[f"{m.link}.topology"] = (*place, "topology")
        return Link(m.link, int(v["devices"]), m.topology, v["bandwidth"], v["latency"] or 0.0, v["energy"] or 0.0)


def structure_problems(m: MachineModel, document: Document) -> None:
    """Append the problems that the built machine can no longer show: a shared port beside own ports."""

    def visit(node: Any, place: Place) -> None:
        if isinstance(node, MemoryModel) and node.bandwidth is not None:
            for key in ("read_bandwidth", "write_bandwidth"):
                if getattr(node, key) is not None:
                    what = "a port of its own beside `bandwidth`, which both share: keep one or the other"
                    document.problems.append(document.problem((*place, key), what))
        for i, child in enumerate(getattr(node, "children", ())):
            visit(child, (*place, "children", i))

    visit(m.root, ("root",))
