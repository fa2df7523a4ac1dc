"""Architectures of other tools as machines; here Timeloop v4's: levels of a hierarchy, each around those after it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from arch import check
from arch.machine import Array, Axis, Machine, Memory, Node, OpCost, Unit
from arch.units import UnitError, parse
from einsum.problems import InputError
from mapper.exchange.source import View

COMPUTE = ("mac", "mul", "add")  # the classes of a multiplier and adder, one operation each
COMPUTES = re.compile(r"mac|compute|alu|multiplier|adder", re.I)  # Timeloop: classes of compute components
NETWORKS = ("XY_NoC", "Legacy", "ReductionTree", "SimpleMulticast")
MESH = ("meshX", "meshY")
PJ = Fraction(1, 10**12)
CLOCK_HZ = 1e9  # where a format has none
Places = dict[str, View]  # node -> where it is described


def checked(machine: Machine, places: Places, top: View) -> Machine:
    """The machine with its sources; InputError with its problems, each at its node in the file."""
    if found := tuple(check.problems(machine)):
        at = [(places.get(p.path.partition(".")[0], top), p) for p in found]
        raise InputError(replace(v.problem(p.what, p.got, p.hint), path=p.path) for v, p in at)
    return replace(machine, sources=tuple(_sources(machine, places, top)))


def _sources(machine: Machine, places: Places, top: View) -> Iterator[tuple[str, str]]:
    """Every number's place in the foreign file."""
    ports = ("bandwidth", "read_bandwidth", "write_bandwidth", "read_energy", "write_energy")
    yield "clock", "{}, line {}".format(*top.where)
    for node in machine.nodes():
        match node:
            case Memory():
                keys = ["capacity", "access", "latency", "area", *ports]
            case Array():
                keys = [f"axes.{axis.name}.size" for axis in node.axes]
            case Unit():
                keys = [f"ops.{op}.{key}" for op in node.ops for key in ("cycles", "energy")] + ["lanes", "area"]
        source = "{}, line {}".format(*places.get(node.name, top).where)
        yield from ((f"{node.name}.{key}", source) for key in keys)


def root_of(nodes: tuple[Node, ...], top: View) -> Memory:
    """The outermost memory; InputError if something else is outermost."""
    if len(nodes) != 1 or not isinstance(nodes[0], Memory):
        raise top.fail("the outermost component must be one memory")
    return nodes[0]


def timeloop(architecture: View, name: str, ert: View | None) -> Machine:
    """Timeloop v4 `architecture:`; energies come from an `ERT:` (Accelergy's table) where there is one."""
    if "subtree" in architecture:
        raise architecture.want("subtree").fail("an architecture of Timeloop v3: convert it to v4 (`nodes`) first")
    reader = _Timeloop(_ert(ert))
    root = root_of(reader.chain(list(architecture.want("nodes").listed()), ()), architecture)
    if ert is None:
        architecture.note("energies are Accelergy's to estimate, and no ERT is given: they are 0")
    clock = reader.clock or architecture.note("no global_cycle_seconds: 1 GHz") or CLOCK_HZ
    return checked(Machine(name, clock, root, technology_m=reader.technology), reader.places, architecture)


def word_bits(architecture: View | None) -> int | None:
    """Bits of a value: the outermost component's `datawidth`, in which Timeloop counts words."""
    if architecture is None:
        return None
    document = architecture.source.document
    places = [p for p in document.places if p[: len(architecture.place)] == architecture.place and p[-1] == "datawidth"]
    found = [View(architecture.source, place) for place in places]
    for view in found[1:]:
        if view.whole() != found[0].whole():
            view.note(f"values take {found[0].data} bits everywhere here", view.data)
    return found[0].whole() if found else None


def _ert(ert: View | None) -> dict[str, dict[str, float]]:
    """Component -> action -> joules."""
    found: dict[str, dict[str, float]] = {}
    for table in ert.want("tables").listed() if ert is not None else ():
        name = table.want("name").text().partition("[")[0].rpartition(".")[2]
        actions = {a.want("name").text(): a.want("energy") for a in table.want("actions").listed()}
        found[name] = {action: joules.unit(PJ) for action, joules in actions.items()}
        for action, joules in actions.items():  # an update is a write here
            if action not in ("read", "write", "compute") and found[name].get("write") != found[name][action]:
                joules.note(f"no energy of {action} is counted", joules.brief())
    return found


class _Timeloop:
    """Builds the tree; attributes of containers hold for everything inside."""

    def __init__(self, ert: dict[str, dict[str, float]]) -> None:
        self.ert, self.places = ert, {}
        self.clock: float | None = None
        self.technology: float | None = None

    def chain(self, views: list[View], around: tuple[View, ...]) -> tuple[Node, ...]:
        if not views:
            return ()
        view, rest = views[0], views[1:]
        if view.tag in ("Parallel", "Hierarchical", "Pipelined"):
            if view.tag != "Hierarchical":
                view.note(f"!{view.tag} levels stand one inside the other here")
            return self.chain([*view.want("nodes").listed(), *rest], around)
        if view.tag not in ("Container", "Component"):
            raise view.fail("expected !Container, !Component, !Parallel or !Hierarchical", view.tag)
        own = (found, *around) if (found := view.get("attributes")) is not None else around
        self._machine(own)
        name = view.want("name").name()
        self.places[name] = view
        kind = view.want("class").text() if view.tag == "Component" else ""
        if kind in NETWORKS:
            view.note("networks are not modelled")
            return self.chain(rest, around)
        inside = lambda: self.chain(rest, own if view.tag == "Container" else around)
        if COMPUTES.search(kind):
            _attribute(own, "datawidth")  # `word_bits` is about it
            energy = self.ert.get(name, {}).get("compute", 0.0)
            nodes: tuple[Node, ...] = (Unit(name, self.clock or CLOCK_HZ, dict.fromkeys(COMPUTE, OpCost(1, energy))),)
            nodes += inside()
        else:
            nodes = (self._memory(name, own, inside()),) if kind else inside()
        return self._spread(view, name, nodes, bool(kind))

    def _machine(self, own: tuple[View, ...]) -> None:
        """Clock and technology, of whatever container states them first."""
        if self.clock is None and (cycle := _attribute(own, "global_cycle_seconds")) is not None:
            self.clock = cycle.inverse()
        if self.technology is None and (technology := _attribute(own, "technology")) is not None:
            try:
                self.technology = parse(technology.text(), "length").value
            except UnitError as error:
                raise technology.fail(error.what, technology.text()) from None

    def _spread(self, view: View, name: str, nodes: tuple[Node, ...], component: bool) -> tuple[Node, ...]:
        if (spatial := view.get("spatial")) is None:
            return nodes
        mesh = [(axis, size.whole()) for axis, size in spatial.items(MESH)]
        axes = tuple(Axis(axis, n, reduce=True) for axis, n in mesh if n > 1 or len(mesh) == 1)
        array = f"{name}_array" if component else name
        self.places[array] = view
        return (Array(array, axes, nodes),) if axes else nodes

    def _memory(self, name: str, own: tuple[View, ...], children: tuple[Node, ...]) -> Memory:
        number = lambda *keys: found.unit() if (found := _attribute(own, *keys)) is not None else None
        word = number("datawidth", "word_bits") or 8
        width = number("width", "memory_width") or word * (number("block_size", "cluster_size") or 1)
        depth = number("depth", "memory_depth")
        port = lambda key: None if (n := number(key)) is None else n * word / 8 * (self.clock or CLOCK_HZ)
        shared, read, write = (port(f"{kind}_bandwidth") for kind in ("shared", "read", "write"))
        energy = self.ert.get(name, {})
        capacity = depth * width / 8 if depth else None
        if capacity is None and (kib := number("sizeKB")):
            capacity = kib * 1024
        return Memory(
            name,
            children,
            capacity,
            shared if read is None and write is None else read,
            write,
            read is None and write is None,
            width / 8,
            energy.get("read", 0.0),
            energy.get("write", 0.0),
        )


def _attribute(own: tuple[View, ...], *keys: str) -> View | None:
    """An attribute of the component, or of the innermost container around it that has one."""
    return next((found for attributes in own if (found := attributes.get(*keys)) is not None), None)
