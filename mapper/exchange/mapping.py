"""Mappings of other tools; here Timeloop v4's: directives for the levels of an architecture."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping as Dict
from dataclasses import dataclass, field

from arch.machine import Array, Machine, Memory
from einsum.cascade import Einsum, Workload, rank_variables
from einsum.problems import suggest
from mapper.exchange.nest import Places, Step, Store, group, hoisted, touched
from mapper.exchange.source import View
from mapper.exchange.workload import Imported
from mapper.mapping import Group, Mapping


@dataclass
class Made:
    """A mapping in the making."""

    workload: Workload
    machine: Machine
    names: Imported  # foreign names of Einsums and ranks
    sizes: Dict[str, int]  # of partitions, which the cascade does not know
    groups: list[Group] = field(default_factory=list)
    places: Places = field(default_factory=dict)
    used: set[Store] = field(default_factory=set)

    def add(self, einsum: Einsum, steps: list[Step], stores: list[Store], unit: str, view: View) -> None:
        made, places = group(einsum, steps, stores, unit, self.workload, (len(self.groups), view))
        self.append(made, places, stores)

    def append(self, made: Group, places: Places, stores: list[Store]) -> None:
        after = (self.groups[-1].name,) if self.groups else ()
        self.groups.append(Group(made.name, made.body, after))
        self.places |= places
        self.used |= set(stores)

    def mapping(self, name: str) -> Mapping:
        cascade = self.workload.cascade.name
        return Mapping(name, cascade, self.machine.name, tuple(self.groups), places=self.places)

    def einsum(self, view: View) -> Einsum:
        return self.workload.cascade[self.names.einsums[known(view, self.names.einsums)]]


def known(view: View, names: Iterable[str]) -> str:
    """The text of a place, which must be one of the names."""
    if (name := view.text()) not in (options := tuple(names)):
        raise view.fail(f"unknown name, expected one of {', '.join(options)}", name, suggest(name, options))
    return name


def timeloop(listed: View, made: Made, name: str) -> Mapping:
    """Timeloop v4 `mapping:`. Permutations are innermost first; a level keeps what it does not bypass.

    Between two iterations in which a tile stays the same Timeloop fetches nothing, so each hold stands outside the
    loops around its level that do not vary its tensor.
    """
    (einsum,) = made.workload.cascade.einsums
    unit = next(u for u in made.machine.units if "mac" in u.ops)
    path = made.machine.path(unit.name)
    levels = _directives(listed, [n.name for n in path])
    tensors = touched(einsum, made.workload)
    blocks: list[tuple[str, list[tuple[str, int, str | None]], View]] = []  # factors of a level, outermost first
    kept: list[tuple[str, str, int, View]] = []
    for node in path:
        mine = levels.get(node.name, {})
        if isinstance(node, Memory):
            view = mine.get("bypass")
            here = [(tensor, node.name, len(blocks), view or listed) for tensor in _kept(view, tensors)]
            if node is not path[0]:
                kept += here
            elif view is not None and len(here) < len(tensors):
                view.note("the outermost memory holds every tensor")
        kind = "spatial" if isinstance(node, Array) else "temporal"
        if (view := mine.get(kind)) is not None:
            over = [f"{node.name}.{axis.name}" for axis in node.axes] if isinstance(node, Array) else None
            blocks.append((kind, _factors(view, over, made.names.ranks, einsum), view))
    for access in (einsum.output, *einsum.reads):
        if any(len(rank_variables(index)) > 1 for index in access.indices):
            listed.note(f"tiles of {access.tensor} overlap: a hold fetches all of each, Timeloop what is new in it")
    steps, ends = _tiles(blocks, made.workload, einsum, listed)
    stores: list[Store] = []
    for tensor, memory, block, view in kept:
        least = max((s.depth for s in stores if s.tensor == tensor), default=0)
        stores.append(hoisted(Store(tensor, memory, ends[block], view), steps, tensors[tensor], least))
    made.add(einsum, steps, stores, unit.name, listed)
    return made.mapping(name)


_TYPES = {"temporal": "temporal", "spatial": "spatial"} | dict.fromkeys(
    ("bypass", "datatype", "dataspace", "storage"), "bypass"
)


def _directives(listed: View, nodes: list[str]) -> dict[str, dict[str, View]]:
    """Node -> kind -> directive. `inter_X_spatial` is the fanout of X, which Timeloop calls a level of its own."""
    levels: dict[str, dict[str, View]] = {}
    for view in listed.listed():
        target, kind = view.want("target"), view.want("type")
        name = target.text()
        fanout = re.fullmatch(r"inter_(\w+)_spatial", name)
        name = fanout[1] if fanout else name
        if kind.text() not in _TYPES:
            kind.note("directives other than temporal, spatial and bypass do not carry over", kind.text())
            continue
        what = _TYPES[kind.text()]
        name = f"{name}_array" if what == "spatial" and f"{name}_array" in nodes else name
        if fanout and what != "spatial":
            if view.plain().get("keep"):
                view.note("nothing is kept in a fanout here")
        elif what in levels.get(name, {}):
            raise target.fail(f"a second {kind.text()} directive for this level", target.text())
        elif name not in nodes:
            raise target.fail("no such level", target.text(), suggest(name, nodes))
        else:
            levels.setdefault(name, {})[what] = view
    return levels


def _kept(view: View | None, tensors: Iterable[str]) -> Iterator[str]:
    """What a level keeps: all that it does not bypass."""
    bypassed = [known(v, tensors) for v in view.each("bypass")] if view is not None else []
    for stays in view.each("keep") if view is not None else ():
        if known(stays, tensors) in bypassed:
            raise stays.fail("kept and bypassed at once", stays.text())
    yield from (tensor for tensor in tensors if tensor not in bypassed)


def _factors(
    view: View, over: list[str] | None, ranks: Dict[str, str], einsum: Einsum
) -> list[tuple[str, int, str | None]]:
    """(rank, factor, axis) of a directive, outermost first, without those of 1."""
    given: dict[str, int] = {}
    factors = view.want("factors")
    for item in re.split(r"[\s,]+", _joined(factors)):
        match = re.fullmatch(r"(\w+)=(\d+)|([A-Za-z_]+)(\d+)", item)
        if item and (match is None or (match[1] or match[3]).lower() not in ranks):
            raise factors.fail("expected factors of the dimensions, such as M=4", item)
        if match:
            given[(match[1] or match[3]).lower()] = int(match[2] or match[4])
    order = list(ranks)
    if (permutation := view.get("permutation")) is not None:
        text = _joined(permutation)
        letters = re.fullmatch(r"\w+", text) and text.lower() not in ranks  # MNK: a letter a dimension
        order = [name.lower() for name in re.findall(r"\w" if letters else r"\w+", text)]
        missing = [ranks[r] for r, n in given.items() if n != 1 and r not in order]
        if missing or any(rank not in ranks for rank in order):
            raise permutation.fail(f"must order the dimensions {', '.join(ranks.values())}", text)
    split = view.get("split")
    cut = len(order) if split is None else int(split.unit())
    axis = lambda i: None if over is None else over[0 if i < cut or len(over) == 1 else 1]
    found = [(rank, given[rank], axis(i)) for i, rank in enumerate(order) if given.get(rank, 1) != 1][::-1]
    for rank, _, _ in found:
        if rank not in einsum.ranks:
            raise factors.fail("no tensor has this dimension", ranks[rank])
    return found if over is None else sorted(found, key=lambda f: over.index(f[2] or over[0]))


def _joined(view: View) -> str:
    return ",".join(v.text() for v in view.listed()) if isinstance(view.data, list) else view.text()


def _tiles(
    blocks: list[tuple[str, list[tuple[str, int, str | None]], View]], workload: Workload, einsum: Einsum, listed: View
) -> tuple[list[Step], list[int]]:
    """The steps with their tiles, and the number of steps before each block (and after the last)."""
    flat = [(rank, n, axis, view) for _, factors, view in blocks for rank, n, axis in factors]
    left = {rank: workload.extent(rank) for rank in einsum.ranks}
    steps = []
    for rank, n, axis, view in flat:
        rest = math.prod(m for r, m, _, _ in flat if r == rank and m)
        n = n or workload.extent(rank) // rest  # a factor of 0 is whatever is left
        if n < 1 or left[rank] % n:
            raise view.fail(f"the factors of {rank.upper()} do not divide its size of {workload.extent(rank)}", n)
        left[rank] //= n
        steps.append(Step(rank, left[rank], axis, view))
    for rank, rest in left.items():
        if rest != 1:
            size = workload.extent(rank)
            raise listed.fail(f"the factors of {rank.upper()} multiply to {size // rest}, its size is {size}")
    ends = [sum(len(factors) for _, factors, _ in blocks[:i]) for i in range(len(blocks) + 1)]
    return steps, ends
