"""Mappings of TeAAL: loop orders, partitions and ranks in space, on one of our machines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from arch.machine import Machine
from einsum.cascade import Einsum
from einsum.ops import operation_classes
from mapper.exchange.mapping import Made, known
from mapper.exchange.nest import Step, Store, touched
from mapper.exchange.source import View
from mapper.mapping import Mapping
from mapper.work import executes


def teaal(mapping: View, bound: View | None, made: Made, name: str) -> Mapping:
    """TeAAL `mapping:`: loop orders, partitions into uniform shapes, ranks in space, and buffers with `evict-on`."""
    cascade = made.workload.cascade
    per_einsum = lambda key: dict(view.items(cascade)) if (view := mapping.get(key)) is not None else {}
    shapes, space = per_einsum("partitioning"), per_einsum("spacetime")
    bindings = dict(bound.items(cascade)) if bound is not None else {}
    for einsum_name, order in mapping.want("loop-order").items(cascade):
        einsum = cascade[einsum_name]
        tiles = _partitions(einsum, shapes.get(einsum_name), made)
        steps, unit = [], _able(einsum, made.machine, order)
        axes = [f"{array}.{axis.name}" for array, axis in made.machine.axes(unit)]
        if (times := space.get(einsum_name)) is not None and "time" in times:
            times.want("time").plain()  # the loops that are not in space, in their order
        found = times.get("space") if times is not None else None
        spatial = [v.text().partition(".")[0] for v in found.listed()] if found is not None else []
        names = []
        for view in order.listed():
            rank, tile = tiles[known(view, tiles)]
            over = None
            if view.text() in spatial:
                if not axes:
                    raise view.fail(f"{unit} has fewer axes above it than ranks in space", view.text())
                over = axes.pop(0)
            steps.append(Step(rank, tile, over, view))
            names.append(view.text())
        stores = list(_evicted(bindings.get(einsum_name), names, made, einsum))
        made.add(einsum, steps, stores, unit, order)
    return made.mapping(name)


def _partitions(einsum: Einsum, view: View | None, made: Made) -> dict[str, tuple[str, int]]:
    """Loop name (K, or K2, K1, K0 of a partitioned rank) -> rank and tile."""
    tiles: dict[str, tuple[str, int]] = {}
    shapes = dict(view.items([rank.upper() for rank in einsum.ranks])) if view is not None else {}
    for rank in einsum.ranks:
        if (view := shapes.get(rank.upper())) is None:
            tiles[rank.upper()] = (rank, 1)
            continue
        cuts = [_shape(cut, made) for cut in view.listed()]
        tiles |= {f"{rank.upper()}{len(cuts) - i}": (rank, tile) for i, tile in enumerate([*cuts, 1])}
    return tiles


def _shape(cut: View, made: Made) -> int:
    match = re.fullmatch(r"(\w+)\((\w+)\)", cut.text())
    if match is None or match[1] != "uniform_shape":
        raise cut.fail("only uniform_shape(N) carries over: other partitions depend on the data", cut.text())
    value = int(match[2]) if match[2].isdigit() else made.sizes.get(match[2])
    if value is None:
        raise cut.fail(f"the size {match[2]} is not known: give it with --size", cut.text())
    return value


def _able(einsum: Einsum, machine: Machine, view: View) -> str:
    """The first unit that executes the Einsum."""
    units = [u.name for u in machine.units if all(executes(u, c) for c in operation_classes(einsum))]
    if not units:
        raise view.fail(f"no unit of {machine.name} executes {einsum.name}")
    return units[0]


def _evicted(bound: View | None, names: list[str], made: Made, einsum: Einsum) -> Iterator[Store]:
    """A buffer bound with `evict-on` a rank keeps what one iteration of that rank's loop touches."""
    for component in bound.listed() if bound is not None else ():
        if "component" not in component:
            continue
        memory = component.want("component").text()
        if memory not in [m.name for m in made.machine.memories] or memory == made.machine.root.name:
            component.note(f"{made.machine.name} has no buffer {memory}")
            continue
        for view in component.want("bindings").listed():
            tensor, evict = view.want("tensor"), view.get("evict-on")
            if evict is None or known(tensor, touched(einsum, made.workload)) is None:
                continue
            if (kind := view.get("type")) is not None and kind.text() not in ("payload", "elem"):
                view.note("what is stored beside the values does not carry over", kind.text())
                continue
            depth = 0 if evict.text() == "root" else names.index(known(evict, names)) + 1
            yield Store(tensor.text(), memory, depth, view)
