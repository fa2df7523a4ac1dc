"""Architectures of AccelForge as machines: levels of a hierarchy, each around those after it, and forks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from arch.machine import ROLES, Array, Axis, Machine, Memory, Node, OpCost, Unit
from mapper.exchange.machine import CLOCK_HZ, COMPUTE, Places, checked, root_of
from mapper.exchange.source import View


def accelforge(arch: View, name: str) -> Machine:
    """AccelForge `arch:`. It has no clock: the slowest compute component's action is a cycle."""
    reader = _AccelForge()
    reader.rates(list(arch.want("nodes").listed()))
    root = replace(root_of(reader.chain(list(arch.want("nodes").listed())), arch), holds=None, bypass=True)
    machine = Machine(name, reader.clock, root)
    static = sum(watts * machine.instances(node) for node, watts in reader.leaks.items())
    return checked(replace(machine, static_power_w=static), reader.places, arch)


class _AccelForge:
    """Builds the tree; a compute component is a leaf beside what comes after it."""

    def __init__(self) -> None:
        self.places: Places = {}
        self.leaks: dict[str, float] = {}
        self.clock = CLOCK_HZ

    def rates(self, views: Iterable[View]) -> None:
        """Set the clock: actions a second of the slowest compute component, one of its parallel instances."""
        found = [rate for view in _leaves(views, "Compute") if (rate := _rate(_actions(view).get("compute")))]
        self.clock = min(found, default=CLOCK_HZ)

    def chain(self, views: list[View]) -> tuple[Node, ...]:
        if not views:
            return ()
        view, rest = views[0], views[1:]
        match view.tag:
            case "Fork":
                return *self.chain(list(view.want("nodes").listed())), *self.chain(rest)
            case "Hierarchical" | "Array":
                return self.chain([*view.want("nodes").listed(), *rest])
            case "Toll":
                view.note(f"a toll has no counterpart: {view.want('name').text()} costs nothing")
                return self.chain(rest)
            case "Memory" | "Compute" | "Container" | "Fanout":
                pass
            case _:
                raise view.fail("expected !Memory, !Compute, !Container, !Fork or !Toll", view.tag)
        name = view.want("name").name()
        self.places[name] = view
        if (leak := view.get("leak_power")) is not None and (watts := leak.unit()):
            self.leaks[name] = watts
        if view.tag == "Compute":
            return *self._spread(view, name, (self._unit(view, name),)), *self.chain(rest)
        inside = self.chain(rest)
        return self._spread(view, name, (self._memory(view, name, inside),) if view.tag == "Memory" else inside)

    def _spread(self, view: View, name: str, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        fanouts = list(view.each("spatial"))
        if not fanouts:
            return nodes
        array = name if view.tag in ("Container", "Fanout") else f"{name}_array"
        self.places[array] = view
        return (Array(array, tuple(map(_axis, fanouts)), nodes),)

    def _unit(self, view: View, name: str) -> Unit:
        action = _actions(view).get("compute")
        rate, parallel = _rate(action), view.get("n_parallel_instances")
        if not rate:
            view.note(f"no or infinite speed: {name} takes a cycle of {self.clock:g} Hz for an operation")
        lanes = (rate or self.clock) / self.clock * (parallel.unit() if parallel is not None else 1)
        lanes = round(lanes) if math.isclose(lanes, round(lanes), rel_tol=1e-9) else lanes
        return Unit(name, self.clock, dict.fromkeys(COMPUTE, OpCost(1, _energy(action))), lanes, area_m2=_area(view))

    def _memory(self, view: View, name: str, children: tuple[Node, ...]) -> Memory:
        actions, default = _actions(view), view.get("bits_per_action")
        (bits, read, joules), (other, write, spent) = (_port(actions.get(kind), default) for kind in ("read", "write"))
        if bits != other:
            view.note(f"reads of {bits:g} and writes of {other:g} bits: energies are those of a bit here")
            bits, joules, spent = 1.0, joules / bits, spent / other
        total, size = view.get("total_latency"), view.want("size").number()
        separate = read != write or (total is not None and "max" in total.text())
        if total is not None and not re.fullmatch(r"\s*(max|sum)\(.*\)\s*", total.text()):
            total.note("only max(...) (ports of their own) and sum(...) (one port) carry over", total.text())
        holds, bypass = _held(view)
        return Memory(
            name,
            children,
            None if size is None else float(size) / 8,
            read,
            write if separate else None,
            not separate,
            bits / 8,
            joules,
            spent,
            area_m2=_area(view),
            holds=holds,
            bypass=bypass,
        )


def _port(action: View | None, default: View | None) -> tuple[float, float | None, float]:
    """(bits of an access, bytes a second, joules of an access)."""
    width = (action.get("bits_per_action") if action is not None else None) or default
    bits, rate = width.unit() if width is not None else 1.0, _rate(action)
    return bits, rate * bits / 8 if rate else None, _energy(action)


def _leaves(views: Iterable[View], tag: str) -> Iterator[View]:
    for view in views:
        if view.tag == tag:
            yield view
        elif (inside := view.get("nodes")) is not None:
            yield from _leaves(inside.listed(), tag)


def _actions(view: View) -> dict[str, View]:
    return {action.want("name").text(): action for action in view.each("actions")}


def _energy(action: View | None) -> float:
    found = action.get("energy") if action is not None else None
    if action is not None and found is None:
        action.note("no energy: hwcomponents would estimate it, here it is 0")
    return found.unit() if found is not None else 0.0


def _rate(action: View | None) -> float | None:
    """Actions a second, of `throughput` or as many as take turns in `latency`; None: not stated, or unlimited."""
    if action is None:
        return None
    if (throughput := action.get("throughput")) is not None:
        return throughput.unit() if throughput.number() is not None else None
    if (latency := action.get("latency")) is None or latency.number() == 0:
        return None
    return latency.inverse()


def _area(view: View) -> float:
    return area.unit() if (area := view.get("area")) is not None else 0.0


def _axis(view: View) -> Axis:
    """A fanout; operands reused along it are multicast, results are summed."""
    reuse = _roles(found) if (found := view.get("may_reuse")) is not None else ROLES
    forced = view.get("reuse")
    if forced is not None:
        forced.note("which tensors must be reused is for a search to know", forced.text())
    operands = [role for role in reuse if role != "output"]
    if len(operands) == 1:
        view.note(f"reuse of the {operands[0]} alone: multicast is for all operands here")
    return Axis(view.want("name").name(), view.want("fanout").whole(), bool(operands), "output" in reuse)


_SETS = {"All": ROLES, "Nothing": (), "~All": (), "Inputs": ("input", "weight"), "Outputs": ("output",)}
_SETS |= {role: (role,) for role in ROLES}


def _roles(view: View) -> tuple[str, ...]:
    """Roles that a set expression names; one that is more than names joined by | counts as all of them."""
    parts = [part.strip() for part in view.text().split("|")]
    if any(part not in _SETS for part in parts):
        view.note("a set expression other than roles joined by |: taken for all tensors", view.text())
        return ROLES
    return tuple(role for role in ROLES if any(role in _SETS[part] for part in parts))


def _held(view: View) -> tuple[tuple[str, ...] | None, bool]:
    """(roles that the memory may hold, whether it may be bypassed)."""
    if (tensors := view.get("tensors")) is None:
        return None, True
    keep, may = tensors.get("keep"), tensors.get("may_keep")
    must = () if keep is None or keep.text().startswith("~") else _roles(keep)  # ~MainMemory: what is not kept there
    allowed = {*must, *(_roles(may) if may is not None else ()), *(ROLES if keep is None or not must else ())}
    if must and may is not None and set(must) < allowed:
        tensors.note("some roles must be kept and others may: all of them may")
    roles = tuple(role for role in ROLES if role in allowed)
    return None if roles == ROLES else roles, not must or set(must) < allowed
