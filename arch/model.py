"""The YAML of a machine: boundary models, and the machine that they make. SEMANTICS section 3 numbers the rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError, core_schema

from arch import units
from arch.document import Document, Place, Strict, told_apart_by
from arch.machine import Array, Axis, Link, Machine, Memory, Node as MachineNode, OpCost, Unit
from einsum.problems import suggest

UNLIMITED = "unlimited"
LARGEST = 1e15  # of a plain number: below it every whole number is exact
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


@dataclass(frozen=True, slots=True)
class Number:
    """A number of the file with its dimension and source; value None: unlimited."""

    value: float | None
    dimension: str
    source: str | None


def _error(what: str, hint: str = "") -> PydanticCustomError:
    return PydanticCustomError("number", "{what}", {"what": what, "hint": hint})


def _split(given: Any) -> tuple[Any, str | None]:
    """`{value: x, source: y}` or a plain x."""
    if not isinstance(given, dict):
        return given, None
    for key in given:
        if key not in ("value", "source"):
            raise _error(f"unknown key `{key}` beside a number", suggest(str(key), ("value", "source")))
    if "value" not in given:
        raise _error("missing key `value`")
    if "source" in given and not isinstance(given["source"], str):
        raise _error("expected a text as `source`")
    return given["value"], given.get("source")


class _Sourced:
    """Metadata of an annotated `Number`: how pydantic reads it, with or without its source, and its JSON schema."""

    schema: dict[str, Any]

    def read(self, given: Any) -> Number:
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        both = {"value": self.schema, "source": {"type": "string"}}
        pair = {"type": "object", "properties": both, "required": ["value"], "additionalProperties": False}
        return {"anyOf": [self.schema, pair]}


class _Quantity(_Sourced):
    """A quantity of one of `dimensions`, read into SI."""

    def __init__(self, *dimensions: str, unlimited: bool = False) -> None:
        self.dimensions, self.unlimited = dimensions, unlimited
        examples = [units.EXAMPLES[d] for d in dimensions] + [UNLIMITED] * unlimited
        self.schema = {"type": "string", "description": " or ".join(dimensions), "examples": examples}

    def read(self, given: Any) -> Number:
        text, source = _split(given)
        if self.unlimited and text == UNLIMITED:
            return Number(None, self.dimensions[0], source)
        try:
            value, dimension = units.parse(text, *self.dimensions)
        except units.UnitError as error:
            raise _error(error.what, error.hint) from None
        return Number(value, dimension, source)


class _Plain(_Sourced):
    """A positive number without a unit."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.schema = {"type": "integer", "minimum": 1} if whole else {"type": "number", "exclusiveMinimum": 0}

    def read(self, given: Any) -> Number:
        value, source = _split(given)
        numeric = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        if not numeric or not 0 < value < LARGEST:
            raise _error(f"expected a positive {'whole ' if self.whole else ''}number")
        return Number(value, "count", source)


Count = Annotated[Number, _Plain(whole=True)]
Rate = Annotated[Number, _Plain(whole=False)]
Size = Annotated[Number, _Quantity("size")]
SizeOrUnlimited = Annotated[Number, _Quantity("size", unlimited=True)]
Bandwidth = Annotated[Number, _Quantity("bandwidth", "bytes per cycle", unlimited=True)]
Time = Annotated[Number, _Quantity("time", "cycles")]
Energy = Annotated[Number, _Quantity("energy")]
AccessEnergy = Annotated[Number, _Quantity("energy", "energy per byte")]
EnergyPerByte = Annotated[Number, _Quantity("energy per byte")]
Area = Annotated[Number, _Quantity("area")]
Length = Annotated[Number, _Quantity("length")]
Power = Annotated[Number, _Quantity("power")]
Frequency = Annotated[Number, _Quantity("frequency")]


class AxisModel(Strict):
    """One dimension of an array."""

    name: Name
    size: Count
    multicast: bool = True
    reduce: bool = False


class OpModel(Strict):
    """One operation class: cycles that a lane is busy, and energy (absent: not modelled)."""

    cycles: Rate
    energy: Energy | None = None
    source: str | None = None


class UnitModel(Strict):
    """A functional unit; `expands` rewrites a class into classes that it executes."""

    unit: Name
    source: str | None = None
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


class ArrayModel(Strict):
    """A fan-out of everything below it."""

    array: Name
    source: str | None = None
    clock: Frequency | None = None
    axes: list[AxisModel] = Field(min_length=1)
    area: Area | None = None
    children: list[NodeModel] = Field(min_length=1)


class MemoryModel(Strict):
    """A memory: `bandwidth` is one port shared by reads and writes, else each has its own. `holds` lists the roles in
    which it may hold a tensor, `bypass` whether it need not."""

    memory: Name
    source: str | None = None
    clock: Frequency | None = None
    capacity: SizeOrUnlimited | None = None
    bandwidth: Bandwidth | None = None
    read_bandwidth: Bandwidth | None = None
    write_bandwidth: Bandwidth | None = None
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
    devices: Count
    topology: str
    bandwidth: Bandwidth
    latency: Time | None = None
    energy: EnergyPerByte | None = None


class MachineModel(Strict):
    """A machine: `stepfall: machine/1`, its clock, and the tree from the outermost memory down."""

    version: ClassVar[str] = "machine/1"
    stepfall: str
    name: str
    doc: str = ""
    source: str | None = None
    clock: Frequency
    technology: Length | None = None
    static_power: Power | None = None
    power_cap: Power | None = None
    root: MemoryModel
    links: list[LinkModel] = Field(default_factory=list)


@dataclass
class Builder:
    """Makes the machine, and keeps every number's source and every node's and number's place in the document."""

    sources: list[tuple[str, str]] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)

    def machine(self, m: MachineModel) -> Machine:
        clock = self._number(m, "clock", "", (), 0.0)
        values = {key: self._number(m, key, "", (), clock) for key in ("technology", "static_power", "power_cap")}
        return Machine(
            name=m.name,
            clock_hz=clock,
            root=self._memory(m.root, ("root",), clock),
            links=tuple(self._link(link, ("links", i), clock) for i, link in enumerate(m.links)),
            static_power_w=values["static_power"] or 0.0,
            power_cap_w=values["power_cap"],
            technology_m=values["technology"],
            sources=tuple(self.sources),
            doc=m.doc.strip(),
        )

    def _number(
        self,
        model: Strict,
        key: str,
        prefix: str,
        place: Place,
        clock: float,
        source: str | None = None,
        per: float = 1,
    ) -> Any:
        """The SI value of a key (None: absent or unlimited); cycles take the clock, energy per byte `per` bytes."""
        number: Number | None = getattr(model, key)
        if number is None:
            return None
        found = number.source or getattr(model, "source", None) or source or ""
        return self._note(number, f"{prefix}.{key}".lstrip("."), (*place, key), str(found), clock, per)

    def _note(self, number: Number, path: str, place: Place, source: str, clock: float, per: float = 1) -> Any:
        self.places[path] = place
        if number.value is None:
            return None
        self.sources.append((path, source))
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
        v = {k: self._number(m, k, m.memory, place, clock, per=access) for k in (*keys, "latency", "area")}
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
        )

    def _array(self, m: ArrayModel, place: Place, clock: float) -> Array:
        self.places.setdefault(m.array, (*place, "array"))
        clock = self._clock(m, m.array, place, clock)
        axes = []
        for i, a in enumerate(m.axes):
            size = self._number(a, "size", f"{m.array}.axes.{a.name}", (*place, "axes", i), clock, m.source)
            axes.append(Axis(a.name, int(size), a.multicast, a.reduce))
        area = self._number(m, "area", m.array, place, clock) or 0.0
        return Array(m.array, tuple(axes), self._children(m.children, place, clock), area)

    def _unit(self, m: UnitModel, place: Place, clock: float) -> Unit:
        self.places.setdefault(m.unit, (*place, "unit"))
        clock = self._clock(m, m.unit, place, clock)
        ops, expands = {}, {}
        for name, op in m.ops.items():
            where = (f"{m.unit}.ops.{name}", (*place, "ops", name))
            self.places[where[0]] = where[1]
            cycles = self._number(op, "cycles", *where, clock, m.source)
            ops[name] = OpCost(cycles, self._number(op, "energy", *where, clock, m.source) or 0.0)
        for name, targets in m.expands.items():
            expands[name] = {}
            for target, count in targets.items():
                path, at = f"{m.unit}.expands.{name}.{target}", (*place, "expands", name, target)
                value = self._note(count, path, at, count.source or m.source or "", clock)
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
