"""Whether a machine is well formed (SEMANTICS 3.2 to 3.6 and 3.10); run wherever a machine is handed over."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from arch.machine import ROLES, Array, Link, Machine, Memory, Node, Residency, Unit
from einsum.cascade import DTYPE_BITS
from einsum.problems import InputError, Problem, suggest

TOPOLOGIES = ("full", "mesh", "ring", "switch", "torus")
RESERVED = ("device",)  # Loop.over uses it for copies of the machine


def check(machine: Machine) -> None:
    """InputError with every problem of the machine, each with its path such as `buffer.capacity`."""
    found = tuple(problems(machine))
    if found:
        raise InputError(found)


def problems(machine: Machine) -> Iterator[Problem]:
    """Every problem of the machine."""
    nodes = tuple(_walk(machine.root))
    yield from _names([n.name for n in nodes] + [link.name for link in machine.links])
    yield from _positive("", clock=machine.clock_hz, technology=machine.technology_m, power_cap=machine.power_cap_w)
    yield from _positive("", boost_clock=machine.boost_clock_hz)
    yield from _not_negative("", static_power=machine.static_power_w)
    if machine.root.holds is not None:
        yield Problem("the root holds every tensor", path=f"{machine.root.name}.holds")
    for node in nodes:
        match node:
            case Memory():
                yield from _memory(node)
            case Array():
                yield from _array(node)
            case Unit():
                yield from _unit(node, machine)
    for link in machine.links:
        yield from _link(link)


def operation_classes() -> tuple[str, ...]:
    """Every operation class that a unit can execute."""
    from einsum.ops import TABLE

    return tuple(sorted({row.op_class for row in TABLE} | {"mac", "topk"}))


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in getattr(node, "children", ()):
        yield from _walk(child)


def _names(names: list[str]) -> Iterator[Problem]:
    for name, times in Counter(names).items():
        if times > 1:
            yield Problem(f"{times} nodes have this name, which must be unique in the tree", path=name)
        if name in RESERVED:
            yield Problem("this name is reserved for copies of the machine", path=name)


def _positive(path: str, **values: float | None) -> Iterator[Problem]:
    for key, value in values.items():
        if value is not None and not 0 < value < math.inf:
            yield Problem("must be positive and finite", path=f"{path}.{key}".lstrip("."), got=f"{value:g}")


def _not_negative(path: str, **values: float) -> Iterator[Problem]:
    for key, value in values.items():
        if not 0 <= value < math.inf:
            yield Problem("must not be negative or infinite", path=f"{path}.{key}".lstrip("."), got=f"{value:g}")


def _memory(m: Memory) -> Iterator[Problem]:
    read = "bandwidth" if m.shared_port else "read_bandwidth"
    sizes = {"capacity": m.capacity_bytes, "access": m.access_bytes}
    yield from _positive(m.name, **sizes, **{read: m.read_bytes_per_s}, write_bandwidth=m.write_bytes_per_s)
    yield from _positive(m.name, sustained_bandwidth=m.sustained_bytes_per_s)
    yield from _not_negative(m.name, read_energy=m.read_energy_j, write_energy=m.write_energy_j)
    yield from _not_negative(m.name, latency=m.latency_s, area=m.area_m2)
    if m.shared_port and m.write_bytes_per_s is not None:
        yield Problem("a write bandwidth has no meaning beside a shared port", path=f"{m.name}.write_bandwidth")
    if m.capacity_bytes and m.access_bytes > m.capacity_bytes:
        what = f"one access is larger than the capacity of {m.capacity_bytes:g} bytes"
        yield Problem(what, path=f"{m.name}.access", got=f"{m.access_bytes:g} bytes")
    for role in m.holds or ():
        if role not in ROLES:
            what = f"unknown role of a tensor, expected one of {', '.join(ROLES)}"
            yield Problem(what, path=f"{m.name}.holds", got=role, hint=suggest(role, ROLES))
    if m.holds == ():
        yield Problem("holds nothing: name a role, or leave the key out for all of them", path=f"{m.name}.holds")
    if not m.children:
        yield Problem("has nothing below it: the leaves of the tree are units", path=m.name)


def _array(a: Array) -> Iterator[Problem]:
    for name, times in Counter(axis.name for axis in a.axes).items():
        if times > 1:
            yield Problem(f"{times} axes have the name {name}", path=a.name)
    yield from _not_negative(a.name, area=a.area_m2)
    for axis in a.axes:
        yield from _positive(f"{a.name}.axes.{axis.name}", size=axis.size)
    if a.residency is not None:
        yield from _residency(f"{a.name}.residency", a.residency)
    if not a.axes:
        yield Problem("has no axis", path=a.name)
    if not a.children:
        yield Problem("has nothing below it: the leaves of the tree are units", path=a.name)


def _residency(path: str, r: Residency) -> Iterator[Problem]:
    counts = {
        "programs": r.programs,
        "warps": r.warps,
        "warp_threads": r.warp_threads,
        "register_step": r.register_step,
    }
    yield from _positive(path, **counts, thread_registers=r.thread_registers, shared_step=r.shared_step_bytes)
    yield from _not_negative(path, reserved_shared=r.reserved_shared_bytes, tensor_memory=r.tensor_memory_bytes)


def _unit(u: Unit, machine: Machine) -> Iterator[Problem]:
    known = operation_classes()
    yield from _positive(u.name, clock=u.clock_hz, lanes=u.lanes)
    yield from _not_negative(u.name, drain=u.drain_s, area=u.area_m2)
    if u.clock_hz > machine.clock_hz:
        what = f"faster than the machine's clock of {machine.clock_hz:g} Hz, which must be the fastest"
        yield Problem(what, path=f"{u.name}.clock", got=f"{u.clock_hz:g} Hz")
    for name, cost in u.ops.items():
        path = f"{u.name}.ops.{name}"
        yield from _positive(path, cycles=cost.cycles)
        yield from _not_negative(path, energy=cost.energy_j)
        for dtype, cycles in cost.by_dtype:
            yield from _positive(f"{path}.dtypes", **{dtype: cycles})
            if dtype not in DTYPE_BITS:
                hint = suggest(dtype, DTYPE_BITS)
                yield Problem("unknown element type", path=f"{path}.dtypes.{dtype}", got=dtype, hint=hint)
        if name not in known:
            yield Problem("unknown operation class", path=path, got=name, hint=suggest(name, known))
    for name, targets in u.expands.items():
        if name not in known:
            path = f"{u.name}.expands.{name}"
            yield Problem("unknown operation class", path=path, got=name, hint=suggest(name, known))
        if name in u.ops:
            yield Problem("expands a class that the unit executes itself", path=f"{u.name}.ops.{name}", got=name)
        for target, count in targets.items():
            path = f"{u.name}.expands.{name}.{target}"
            yield from _positive(path.rpartition(".")[0], **{target: count})
            if target not in u.ops:
                what = f"expands into a class that {u.name} does not execute"
                yield Problem(what, path=path, got=target, hint=suggest(target, u.ops))


def _link(link: Link) -> Iterator[Problem]:
    if link.topology not in TOPOLOGIES:
        what = f"unknown topology, expected one of {', '.join(TOPOLOGIES)}"
        path = f"{link.name}.topology"
        yield Problem(what, path=path, got=link.topology, hint=suggest(link.topology, TOPOLOGIES))
    if link.devices < 2:
        yield Problem("a link needs at least two devices", path=f"{link.name}.devices", got=str(link.devices))
    yield from _positive(link.name, bandwidth=link.bytes_per_s)
    yield from _not_negative(link.name, latency=link.latency_s, energy=link.energy_j_per_byte)
