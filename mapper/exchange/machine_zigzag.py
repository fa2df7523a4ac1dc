"""ZigZag hardware as machines: memories from the multipliers outwards, in bits and cycles."""

from __future__ import annotations

from arch.machine import ROLES, Array, Axis, Machine, Memory, Node, OpCost, Unit
from mapper.exchange.machine import CLOCK_HZ, COMPUTE, PJ, Places, checked, root_of
from mapper.exchange.source import View


def zigzag(hardware: View, name: str) -> Machine:
    """ZigZag hardware: memories from the multipliers outwards. It counts cycles; sizes and rates are in bits."""
    core = hardware.want("operational_array", "multipliers")
    sizes, names = ([*core.want(key).listed()] for key in ("sizes", "dimensions"))
    if len(sizes) != len(names):
        raise core.fail(f"{len(names)} dimensions and {len(sizes)} sizes")
    axes = {name.name(): size.whole() for name, size in zip(names, sizes, strict=True)}
    places: Places = {"multiplier": core}
    energy = core.want("unit_energy", "multiplier_energy").unit(PJ)
    if (area := core.get("unit_area", "multiplier_area")) is not None and area.unit():
        area.note("areas are in units of the user's own there", area.brief())
    hardware.note("which port of a memory serves what is not kept")
    hardware.note("it has no clock: 1 GHz, so that times are in cycles of 1 ns")
    node: Node = Unit("multiplier", CLOCK_HZ, dict.fromkeys(COMPUTE, OpCost(1, energy)))
    waiting = dict(axes)  # axes that stand below every memory so far
    for title, view in hardware.want("memories").items():
        places[title] = view
        served = [v.text() for v in view.want("served_dimensions").listed()]
        node = _wrapped(node, {d: waiting.pop(d) for d in list(waiting) if d in served}, places, core)
        for dimension in (d for d in axes if d not in served and d not in waiting):
            view.note(f"one memory for each coordinate of {dimension} there, one for all of them here")
        node = _zigzag_memory(title, view, node)
    if waiting:
        raise hardware.want("memories").fail(f"no memory serves {', '.join(waiting)}, so there is no outermost one")
    title = found.text() if (found := hardware.get("name")) is not None else name
    return checked(Machine(title, CLOCK_HZ, root_of((node,), hardware)), places, hardware)


def _wrapped(node: Node, axes: dict[str, int], places: Places, view: View) -> Node:
    if not axes:
        return node
    name = "_".join(("array", *axes))
    places[name] = view
    return Array(name, tuple(Axis(axis, n, reduce=True) for axis, n in axes.items()), (node,))


_OPERANDS = {"I1": "input", "I2": "weight", "O": "output"}


def _zigzag_memory(name: str, view: View, inside: Node) -> Memory:
    """A memory of the operands that it lists; the cost of an access is that of a word as wide as the port."""
    ports = [(p, p.want("type").text()) for p in view.want("ports").listed() if "type" in p]
    view.want("ports").plain()
    widest = lambda kind: sum(p.want("bandwidth_max").unit() for p, k in ports if kind == k)
    rates, width = [widest("read"), widest("write")], max([p.want("bandwidth_max").unit() for p, _ in ports], default=0)
    both = widest("read_write")
    if not ports:  # before version 3.8: a rate for all ports and the number of each kind
        rates, count = (
            [view.want(f"{k}_bw").unit() for k in "rw"],
            {k: view.want(f"{k}_port").unit() for k in ("r", "w", "rw")},
        )
        both = rates[0] * (count["rw"] or 1) if not count["r"] else 0
        width, rates = rates[0], [rates[0] * count["r"], rates[1] * count["w"]]
    if both and any(rates):
        view.note("ports of their own beside shared ones: their rates are added up in one shared port")
    shared = sum(rates) + both if both else 0
    per_second = lambda bits: bits / 8 * CLOCK_HZ
    roles = [_OPERANDS.get(v.text()) or v.note("unknown operand", v.text()) for v in view.want("operands").listed()]
    if (area := view.get("area")) is not None and area.unit():
        area.note("areas are in units of the user's own there", area.brief())
    return Memory(
        name,
        (inside,),
        view.want("size").unit() / 8,
        per_second(shared or rates[0]),
        None if shared else per_second(rates[1]),
        bool(shared),
        width / 8,
        view.want("r_cost").unit(PJ),
        view.want("w_cost").unit(PJ),
        latency.unit() / CLOCK_HZ if (latency := view.get("latency")) is not None else 0.0,
        holds=None if set(roles) >= set(ROLES) else tuple(r for r in ROLES if r in roles),
    )
