"""What one tile of a mapped group does: work on units, transfers between memories, footprints.

Everything is stated per innermost iteration of the group's nest, with the conditions under which it happens: the
closed form multiplies by exact counts, the simulator lowers the same facts to tasks. SEMANTICS section 5.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping as Dict
from dataclasses import dataclass
from itertools import combinations
from typing import cast

from arch.machine import Machine, Unit
from einsum.cascade import Einsum, Workload
from einsum.ops import operation_classes
from mapper.mapping import Compute, Group, Hold, Leaf, Mapping, Pipe, Seq, leaves
from mapper.nest import Nest, When, variants
from mapper.place import Placement, Variants, unit_names
from mapper.tile import lengths
from mapper.transfer import Transfer, transfers

__all__ = ["GroupWork", "Transfer", "Variants", "Work", "executes", "expand", "group_works"]


@dataclass(frozen=True)
class Work:
    """A `Compute` leaf in one tile of one grid instance: `cycles` of its unit's clock, `points` issued.

    A leaf bound to several units (`fma+mufu`) makes one `Work` for each, with the classes that fall to it.
    """

    leaf: Leaf[Compute]
    einsum: Einsum
    unit: Unit
    when: When
    cycles: Variants
    points: Variants
    results: Variants
    begun: Variants  # of a reduction: running values that the instances start in a tile that satisfies `started`
    started: When  # nothing has been added up before the tile
    classes: Dict[str, int]  # operations per point, by class as the cascade names it

    @property
    def name(self) -> str:
        return self.einsum.name


@dataclass(frozen=True)
class GroupWork:
    """One fused group: its nest, its leaves and its transfers, in program order."""

    group: Group
    parent: Seq | Pipe | None
    nest: Nest
    works: tuple[Work, ...]
    transfers: tuple[Transfer, ...]
    footprints: tuple[tuple[Hold, str, float], ...]  # (hold, storage, bytes of all its buffers in one instance)

    def total(self, when: When, kinds: Variants) -> float:
        """Sum of the variants' values over all tiles, of all grid instances, that satisfy `when`."""
        total, counted = 0.0, Counter[frozenset[tuple[int, str | int]]]()  # conditions -> tiles counted under more
        for conditions, value in kinds:  # from most to least cut off
            own = tuple(dict.fromkeys(conditions))
            exact = self.nest.count((*when, *own)) - counted[frozenset(own)]
            total += exact * value
            for n in range(len(own) + 1):
                counted.update({frozenset(fewer): exact for fewer in combinations(own, n)})
        return total


def group_works(mapping: Mapping, workload: Workload, machine: Machine) -> tuple[GroupWork, ...]:
    """The facts of every group. The mapping must have passed `mapper.check.check`. A length that the workload does not
    give is the whole rank."""
    every = tuple(cast("Leaf[Compute]", leaf) for leaf in leaves(mapping) if isinstance(leaf.node, Compute))
    return tuple(
        _group(group, Placement(workload, machine, [leaf for leaf in every if leaf.group == group.name]))
        for group in mapping.groups
    )


def _group(group: Group, place: Placement) -> GroupWork:
    inside = tuple(place.leaf.values())
    works = tuple(work for leaf in inside for work in _works(place, leaf))
    return GroupWork(group, inside[0].parent, place.nest, works, tuple(transfers(place)), tuple(place.footprints()))


def _works(place: Placement, leaf: Leaf[Compute]) -> Iterator[Work]:
    node, einsum = leaf.node, place.cascade[leaf.node.einsum]
    units = [place.machine.unit(name) for name in unit_names(node)]
    shares: dict[str, dict[str, int]] = {unit.name: {} for unit in units}
    for name, n in operation_classes(einsum).items():
        shares[next(u.name for u in units if executes(u, name))][name] = n
    when = tuple((i, side) for rank, side in node.at for i in place.nest.positions(rank))
    for unit in units:
        classes = shares[unit.name]
        per_point = sum(n * unit.ops[c].cycles for c, n in expand(classes, unit).items())
        spread = [(rank, n) for rank, n in place.spatial(leaf, unit.name) if rank in einsum.reduced]
        short = lengths(einsum, place.workload.given) if unit.lanes == 1 else ()
        cycles, points, made, begun = [], [], [], []
        for cut, box in variants(place.nest, einsum.ranks, place.cut(einsum), short):
            issued = {r: place.nest.extent(r) if unit.lanes > 1 else extent for r, (_, extent) in box.items()}
            busy = math.prod(_busiest(place, node, rank, extent) for rank, extent in issued.items())
            cycles.append((cut, math.ceil(busy / unit.lanes) * per_point))
            points.append((cut, math.prod(issued.values())))
            results = math.prod(extent for rank, extent in issued.items() if rank not in einsum.reduced)
            made.append((cut, results))
            begun.append((cut, results * math.prod(min(n, issued[rank]) for rank, n in spread)))
        yield Work(
            leaf, einsum, unit, when, tuple(cycles), tuple(points), tuple(made), tuple(begun),
            (*when, *place.started(einsum)), classes,
        )  # fmt: skip


def _busiest(place: Placement, node: Compute, rank: str, extent: int) -> int:
    """Coordinates of `rank` that fall to the busiest instance of the leaf's spatial loops."""
    for loop in node.loops:
        if loop.over and rank in loop.ranks:
            tile = loop.tile[loop.ranks.index(rank)]
            waves = math.ceil(math.ceil(extent / tile) / place.machine.axis(loop.over).size)
            extent = min(extent, waves * tile)
    return extent


def executes(unit: Unit, name: str) -> bool:
    """Whether the unit has the operation class, in hardware or by expansion."""
    return name in unit.ops or name in unit.expands


def expand(classes: Dict[str, int], unit: Unit) -> Dict[str, int]:
    """Operations per point in the classes that the unit's hardware has."""
    done: dict[str, int] = {}
    for name, n in classes.items():
        for inner, times in ({name: 1} if name in unit.ops else unit.expands[name]).items():
            done[inner] = done.get(inner, 0) + n * times
    return done
