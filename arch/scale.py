"""Machines whose parameters are scaled: for sensitivity, and for sweeps over many machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from arch.machine import Array, Machine, Memory, Node, Unit
from einsum.problems import InputError, Problem, suggest

STATIC = "static power"


def parameters(machine: Machine) -> tuple[str, ...]:
    """What can be scaled, `NODE PROPERTY` each: throughput and energy of units, bandwidth, capacity and energy of
    memories where they are stated, and the static power."""
    found = [f"{unit.name} throughput" for unit in machine.units]
    found += [f"{m.name} bandwidth" for m in machine.memories if m.read_bytes_per_s or m.write_bytes_per_s]
    found += [f"{m.name} capacity" for m in machine.memories if m.capacity_bytes is not None]
    found += [f"{u.name} energy" for u in machine.units if any(op.energy_j for op in u.ops.values())]
    found += [f"{m.name} energy" for m in machine.memories if m.read_energy_j or m.write_energy_j]
    return (*found, *([STATIC] if machine.static_power_w else []))


def check(machine: Machine, names) -> None:
    """InputError for names of parameters that the machine has not."""
    able = parameters(machine)
    if unknown := [name for name in names if name not in able]:
        raise InputError(Problem("no such parameter", path=machine.name, got=n, hint=suggest(n, able)) for n in unknown)


def scaled(machine: Machine, factors: Mapping[str, float]) -> Machine:
    """The machine with some parameters times a factor each. InputError for a parameter that it has not."""
    check(machine, factors)
    by_node = {name.rsplit(" ", 1)[0]: {} for name in factors if name != STATIC}
    for name, factor in factors.items():
        if name != STATIC:
            node, what = name.rsplit(" ", 1)
            by_node[node][what] = factor
    static = machine.static_power_w * factors.get(STATIC, 1.0)
    return replace(machine, root=_scaled(machine.root, by_node), static_power_w=static)


def _scaled(node: Node, by_node: Mapping[str, Mapping[str, float]]) -> Node:
    if isinstance(node, Memory | Array):
        node = replace(node, children=tuple(_scaled(child, by_node) for child in node.children))
    wanted = by_node.get(node.name, {})
    energy = wanted.get("energy", 1.0)
    match node:
        case Unit():
            ops = {name: replace(op, energy_j=op.energy_j * energy) for name, op in node.ops.items()}
            return replace(node, clock_hz=node.clock_hz * wanted.get("throughput", 1.0), ops=ops)
        case Memory():
            times = lambda value, what: value and value * wanted.get(what, 1.0)
            return replace(
                node,
                capacity_bytes=times(node.capacity_bytes, "capacity"),
                read_bytes_per_s=times(node.read_bytes_per_s, "bandwidth"),
                write_bytes_per_s=times(node.write_bytes_per_s, "bandwidth"),
                read_energy_j=node.read_energy_j * energy,
                write_energy_j=node.write_energy_j * energy,
            )
        case _:
            return node
