"""The five designs of FuseMax: which cascade, machine and mapping each is, and its results by both methods."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from arch.machine import Machine, Node, Unit
from arch.read import load as load_machine
from einsum.cascade import Cascade, Workload
from einsum.library import load as load_cascade
from mapper import baselines, fusemax
from mapper.check import check
from mapper.cost import cost
from mapper.library import bound, make
from mapper.mapping import Mapping
from mapper.result import Result
from sim.run import simulate
from studies.fusemax.published import layer

MODELS = ("BERT", "TrXL", "T5", "XLM")
LENGTHS = ("1K", "4K", "16K", "64K", "256K", "1M")
METHODS = ("closed form", "simulated")
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Design:
    """A bar of the paper's figures: its name there, the artifact's file, our cascade and machine."""

    name: str
    file: str
    cascade: str
    machine: str
    shares: tuple[tuple[str, str], ...] = ()  # published column -> Einsum whose share of the 2D array it states


_TILE = (("QK", "BQK"), ("LM", "LM"), ("SLN", "SLN"), ("SLD", "SLD"), ("SLNV", "SLNV"))
DESIGNS = (
    Design("Unfused", "unfused", "attention-3pass", "flat"),
    Design("FLAT", "flat", "attention-3pass", "flat", (("QK", "QK"), ("AV", "AV"))),
    Design("+Cascade", "cascade", "attention-1pass", "flat", (("QK", "BQK"), ("SLNV", "SLNV"))),
    Design("+Architecture", "arch", "attention-1pass", "fusemax", _TILE),
    Design("+Binding", "binding", "attention-1pass", "fusemax", _TILE),
)


@dataclass(frozen=True)
class Case:
    """What is costed and simulated."""

    mapping: Mapping
    workload: Workload
    machine: Machine

    def solve(self) -> tuple[Result, Result]:
        """The results in the order of METHODS; InputError if the mapping is not legal."""
        check(self.mapping, self.workload, self.machine)
        given = self.mapping, self.workload, self.machine
        return cost(*given), simulate(*given)


class Compared:
    """What has results by both methods."""

    results: tuple[Result, Result]  # in the order of METHODS

    def result(self, method: str) -> Result:
        return self.results[METHODS.index(method)]


@dataclass(frozen=True)
class Point(Compared):
    """One design, model and length: by both methods."""

    design: Design
    model: str
    length: str
    case: Case
    results: tuple[Result, Result]  # in the order of METHODS

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.length

    @property
    def config(self) -> str:
        return f"{self.design.name} {self.model} {self.length}"

    def values(self, method: str) -> dict[str, float]:
        """The artifact's columns, ours, without energy: bytes, seconds and ratios."""
        result = self.result(method)
        found = {"traffic": result.total("bytes", place="dram"), "latency": result.latency_s}
        found |= {f"util_{d}d": result.value("utilization", place=f"pe_{d}d") for d in (2, 1)}
        return found | {c: result.value("share", einsum=e, place="pe_2d") for c, e in self.design.shares}


load_cascade, load_machine = cache(load_cascade), cache(load_machine)


def sizes(model: str, length: str) -> dict[str, int]:
    """Sizes of an attention layer: batch 64, as many keys as queries."""
    row = layer(model, length)
    return {name: int(row[name]) for name in "BHEFMP"}


def point(design: Design, model: str, length: str) -> Point:
    """A design on a layer, solved by both methods."""
    case = case_of(design, sizes(model, length), layer(model, length))
    return Point(design, model, length, case, case.solve())


def case_of(design: Design, layer_sizes: dict[str, int], choices: dict[str, str]) -> Case:
    """The mapping of a design for a layer; `choices` are FLAT's."""
    cascade, machine = load_cascade(design.cascade), load_machine(design.machine)
    match design.file:
        case "flat":
            mapping = baselines.flat(cascade, machine, layer_sizes, flat_choice(choices))
        case "cascade":
            machine = exponential_in_series(machine)
            mapping = cascade_sized_for_less(cascade, machine, layer_sizes)
        case "unfused":
            mapping, _ = make("unfused", cascade, machine, layer_sizes)
        case _:
            name = {"arch": "fusemax-architecture", "binding": "fusemax-binding"}[design.file]
            mapping, _ = make(name, cascade, machine, layer_sizes)
    return Case(mapping, bound(mapping, cascade, layer_sizes), machine)


def flat_choice(row: dict[str, str]) -> baselines.FlatChoice:
    """FLAT's choices for a layer, given: with granularity `head` all of P is in flight."""
    resident = tuple(t for t in ("Q", "K", "QK", "A", "V", "AV") if row[f"{t}_loc"] == "onchip")
    rows = int(row["P"] if row["fusion_granularity"] == "head" else row["P1"])
    stationary = (row["QK_stationarity"], row["AV_stationarity"])
    return baselines.FlatChoice(rows, resident, float(row["proportion_buffered"]), stationary)


def exponential_in_series(machine: Machine) -> Machine:
    """Quirk of the artifact: +Cascade's lanes take a cycle for the subtraction and then one for the exponential,
    FLAT's, on the same machine, pass the difference on to the exponential unit in the same cycle."""
    unit = machine.unit("exp_1d")

    def changed(node: Node) -> Node:
        if isinstance(node, Unit):
            both = replace(node, ops=node.ops | unit.ops, area_m2=node.area_m2 + unit.area_m2)
            return both if node.name == "pe_1d" else node
        return replace(node, children=tuple(changed(c) for c in node.children if c.name != unit.name))

    return replace(machine, root=changed(machine.root))


def cascade_sized_for_less(cascade: Cascade, machine: Machine, layer_sizes: dict[str, int]) -> Mapping:
    """Quirk of the artifact: +Cascade keeps as many tiles of P as 16 MiB hold, and pays for a buffer of 32 MiB."""
    return fusemax.cascade_only(cascade, machine, layer_sizes, buffer_bytes=16 * MIB)
