"""A machine as a readable tree, and as YAML that reads back equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from arch import units
from arch.machine import Array, Axis, Link, Machine, Memory, Node, Residency, Unit

UNLIMITED = "unlimited"


def show(machine: Machine, sources: bool = False) -> str:
    """The tree with its numbers, one node a line; with `sources`, where each number is from below it."""
    cap = f", at most {units.brief(machine.power_cap_w, 'power')}" if machine.power_cap_w is not None else ""
    idle = f", {units.brief(machine.static_power_w, 'power')} static" if machine.static_power_w else ""
    node = f", {units.brief(machine.technology_m, 'length')}" if machine.technology_m else ""
    boost = f", boost {units.brief(machine.boost_clock_hz, 'frequency')}" if machine.boost_clock_hz else ""
    lines = [f"machine {machine.name}: {units.brief(machine.clock_hz, 'frequency')}{boost}{node}{idle}{cap}"]
    lines += _tree(machine.root, "", "", machine)
    for link in machine.links:
        rate = units.brief(link.bytes_per_s, "bandwidth")
        lines.append(f"link {link.name}: {link.devices} devices, {link.topology}, {rate} each way")
    if sources:
        sure = {path: f" ({confidence} confidence)" for path, confidence in machine.confidence}
        said = [f"  {path}: {source or 'none given'}{sure.get(path, '')}" for path, source in machine.sources]
        lines += ["", "sources:", *said]
    return "\n".join(lines) + "\n"


def _tree(node: Node, indent: str, below: str, machine: Machine) -> Iterator[str]:
    yield f"{indent}{_title(node, machine)}"
    children: tuple[Node, ...] = getattr(node, "children", ())
    for i, child in enumerate(children):
        last = i == len(children) - 1
        yield from _tree(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), machine)


def _title(node: Node, machine: Machine) -> str:
    match node:
        case Array():
            axes = " x ".join(f"{axis.name} {axis.size}" for axis in node.axes)
            return f"array {node.name}: {axes}{_resident(node.residency)}"
        case Memory():
            return f"memory {node.name}: {', '.join(_memory_facts(node))}"
        case Unit():
            return f"unit {node.name} ({machine.instances(node.name)} of them): {', '.join(_unit_facts(node, machine))}"


def _resident(r: Residency | None) -> str:
    if r is None:
        return ""
    sums = f", {units.brief(r.tensor_memory_bytes, 'size')} of tensor memory" if r.tensor_memory_bytes else ""
    return f", {r.warps} warps of {r.warp_threads} in {r.programs} programs resident{sums}"


def _memory_facts(m: Memory) -> Iterator[str]:
    yield units.brief(m.capacity_bytes, "size") if m.capacity_bytes is not None else "unlimited capacity"
    rates = (m.read_bytes_per_s, m.write_bytes_per_s)
    read, write = (units.brief(rate, "bandwidth") if rate is not None else UNLIMITED for rate in rates)
    if m.shared_port and m.read_bytes_per_s is not None:
        yield f"{read} shared"
    elif not m.shared_port:
        yield f"reads {read}, writes {write}"
    if m.sustained_bytes_per_s is not None:
        yield f"sustained {units.brief(m.sustained_bytes_per_s, 'bandwidth')}"
    if m.read_energy_j or m.write_energy_j:
        read, write = (units.brief(e, "energy") for e in (m.read_energy_j, m.write_energy_j))
        yield f"{read} a read, {write} a write of {units.brief(m.access_bytes, 'size')}"
    if m.latency_s:
        yield f"latency {units.brief(m.latency_s, 'time')}"
    if m.holds is not None:
        yield f"holds {' and '.join(m.holds)}"
    if not m.bypass:
        yield "never bypassed"


def _unit_facts(u: Unit, machine: Machine) -> Iterator[str]:
    if u.clock_hz != machine.clock_hz:
        yield units.brief(u.clock_hz, "frequency")
    yield f"{u.lanes:g} {'lane' if u.lanes == 1 else 'lanes'}"
    for name, cost in u.ops.items():
        cycles = f" {cost.cycles:g} cycles" if cost.cycles != 1 else ""
        cycles += "".join(f" ({dtype} {n:g})" for dtype, n in cost.by_dtype)
        yield f"{name}{cycles}" + (f" {units.brief(cost.energy_j, 'energy')}" if cost.energy_j else "")
    for name, targets in u.expands.items():
        yield f"{name} = {' + '.join(f'{count} {target}' for target, count in targets.items())}"
    if u.drain_s:
        yield f"drains in {units.brief(u.drain_s, 'time')}"


def dump(machine: Machine) -> str:
    """YAML text such that `loads(dump(machine))` equals the machine, sources included."""
    from arch.document import render

    d = _Dumper(machine)
    data: dict[str, Any] = {"stepfall": "machine/1", "name": machine.name}
    if machine.doc:
        data["doc"] = machine.doc
    numbers = {"clock": (machine.clock_hz, "frequency"), "technology": (machine.technology_m, "length")}
    numbers["static_power"] = (machine.static_power_w or None, "power")
    numbers["power_cap"] = (machine.power_cap_w, "power")
    numbers["boost_clock"] = (machine.boost_clock_hz, "frequency")
    data |= {key: d.number(key, value, dimension) for key, (value, dimension) in numbers.items() if value is not None}
    data["root"] = d.node(machine.root, machine.clock_hz)
    if machine.links:
        data["links"] = [d.link(link) for link in machine.links]
    return render(_hoisted(data), frozenset({"children", "root", "links"}))


class _Dumper:
    """Plain data of each node; every number is `{value, source, confidence}` where these are known."""

    def __init__(self, machine: Machine) -> None:
        self.sources, self.confidence = dict(machine.sources), dict(machine.confidence)

    def number(self, path: str, value: float | None, dimension: str) -> Any:
        if value is None:
            return UNLIMITED
        plain = dimension == "count"
        text: Any = (int(value) if value == int(value) else value) if plain else units.show(value, dimension)
        words = {"source": self.sources.get(path), "confidence": self.confidence.get(path)}
        said = {key: word for key, word in words.items() if word}
        return {"value": text, **said} if said else text

    def node(self, node: Node, clock: float) -> dict[str, Any]:
        match node:
            case Memory():
                return self._memory(node) | {"children": [self.node(c, clock) for c in node.children]}
            case Array():
                axes = [self._axis(node.name, axis) for axis in node.axes]
                area = self.number(f"{node.name}.area", node.area_m2, "area")
                data = {"array": node.name, "axes": axes} | ({"area": area} if node.area_m2 else {})
                data |= {"residency": self._residency(node.name, node.residency)} if node.residency else {}
                return data | {"children": [self.node(c, clock) for c in node.children]}
            case Unit():
                return self._unit(node, clock)

    def _memory(self, m: Memory) -> dict[str, Any]:
        ports = {"bandwidth": m.read_bytes_per_s}
        if not m.shared_port:
            ports = {"read_bandwidth": m.read_bytes_per_s, "write_bandwidth": m.write_bytes_per_s}
        data = {"memory": m.name, "capacity": self.number(f"{m.name}.capacity", m.capacity_bytes, "size")}
        data |= {key: self.number(f"{m.name}.{key}", value, "bandwidth") for key, value in ports.items()}
        data["access"] = self.number(f"{m.name}.access", m.access_bytes, "size")
        rest = {"read_energy": (m.read_energy_j, "energy"), "write_energy": (m.write_energy_j, "energy")}
        rest |= {"latency": (m.latency_s, "time"), "area": (m.area_m2, "area")}
        rest["sustained_bandwidth"] = (m.sustained_bytes_per_s or 0.0, "bandwidth")
        data |= {k: self.number(f"{m.name}.{k}", v, dimension) for k, (v, dimension) in rest.items() if v}
        data |= {} if m.holds is None else {"holds": list(m.holds)}
        return data if m.bypass else data | {"bypass": False}

    def _axis(self, array: str, axis: Axis) -> dict[str, Any]:
        data = {"name": axis.name, "size": self.number(f"{array}.axes.{axis.name}.size", axis.size, "count")}
        flags: dict[str, Any] = {} if axis.multicast else {"multicast": False}
        return data | flags | ({"reduce": True} if axis.reduce else {})

    def _residency(self, array: str, r: Residency) -> dict[str, Any]:
        keys = ("programs", "warps", "warp_threads", "thread_registers", "register_step")
        values: dict[str, tuple[float, str]] = {key: (getattr(r, key), "count") for key in keys}
        sizes = ("shared_step", "reserved_shared", "tensor_memory")
        values |= {key: (getattr(r, f"{key}_bytes"), "size") for key in sizes}
        return {k: self.number(f"{array}.residency.{k}", v, dimension) for k, (v, dimension) in values.items() if v}

    def _unit(self, u: Unit, clock: float) -> dict[str, Any]:
        data: dict[str, Any] = {"unit": u.name}
        if u.clock_hz != clock:
            data["clock"] = self.number(f"{u.name}.clock", u.clock_hz, "frequency")
        if u.lanes != 1:
            data["lanes"] = self.number(f"{u.name}.lanes", u.lanes, "count")
        data["ops"] = {}
        for name, cost in u.ops.items():
            path = f"{u.name}.ops.{name}"
            data["ops"][name] = {"cycles": self.number(f"{path}.cycles", cost.cycles, "count")}
            if cost.by_dtype:
                rates = {k: self.number(f"{path}.dtypes.{k}", n, "count") for k, n in cost.by_dtype}
                data["ops"][name]["dtypes"] = rates
            if cost.energy_j:
                data["ops"][name]["energy"] = self.number(f"{path}.energy", cost.energy_j, "energy")
        if u.expands:
            data["expands"] = {
                name: {t: self.number(f"{u.name}.expands.{name}.{t}", n, "count") for t, n in targets.items()}
                for name, targets in u.expands.items()
            }
        if u.drain_s:
            data["drain"] = self.number(f"{u.name}.drain", u.drain_s, "time")
        if u.area_m2:
            data["area"] = self.number(f"{u.name}.area", u.area_m2, "area")
        return data

    def link(self, link: Link) -> dict[str, Any]:
        numbers = {"devices": (link.devices, "count"), "bandwidth": (link.bytes_per_s, "bandwidth")}
        numbers |= {"latency": (link.latency_s, "time"), "energy": (link.energy_j_per_byte, "energy per byte")}
        made = {k: self.number(f"{link.name}.{k}", v, dimension) for k, (v, dimension) in numbers.items() if v}
        return {"link": link.name, "topology": link.topology, **made}


def _hoisted(data: dict[str, Any]) -> dict[str, Any]:
    """The source and confidence that most of a node's numbers share, written once for the node."""
    own = [v for k, v in data.items() if k not in ("root", "children", "links")]
    common = Counter(_said(own)).most_common(1)
    made: dict[str, Any] = {}
    for i, (key, value) in enumerate(data.items()):
        if key in ("children", "links"):
            made[key] = [_hoisted(item) for item in value]
        elif key == "root":
            made[key] = _hoisted(value)
        else:
            made[key] = _without(value, common[0][0]) if common else value
        if common and i == (1 if "stepfall" in data else 0):
            source, confidence = common[0][0]
            made |= {"source": source} | ({"confidence": confidence} if confidence else {})
    return made


def _said(data: Any) -> Iterator[tuple[str, str | None]]:
    """(source, confidence) of every number with a source."""
    if isinstance(data, dict):
        if "source" in data:
            yield data["source"], data.get("confidence")
        for value in data.values():
            yield from _said(value)
    elif isinstance(data, list):
        for value in data:
            yield from _said(value)


def _without(data: Any, said: tuple[str, str | None]) -> Any:
    if isinstance(data, dict):
        if "source" in data and (data["source"], data.get("confidence")) == said:
            return data["value"]
        return {key: _without(value, said) for key, value in data.items()}
    return [_without(value, said) for value in data] if isinstance(data, list) else data
