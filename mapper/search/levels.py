"""What it costs to hold the tensors of one Einsum, level by level of memory, as tables over the tiles there.

A level's cost depends on its tiles, and for what comes again on the rounds of the loops in the level around. From the
innermost level outwards, another table says what everything inside a tile costs at least. SEMANTICS 8.4.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from mapper.search.effort import Effort, Limits
from mapper.search.group import Group, Option, Use
from mapper.search.metrics import Metrics, add, mesh
from mapper.search.places import added_up, at_level, level_orders, upper
from mapper.search.price import Array, Hold, Prices, Shapes, Vector, ceil_div

KEPT = 1 << 27  # bytes of tables kept
Level = tuple[Hold | None, ...]  # for each tensor its hold at a level


@dataclass(frozen=True)
class Template:
    """How the Einsum is computed and, level by level, where its tensors are held."""

    option: Option
    levels: tuple[Level, ...]
    tensors: int

    def around(self, level: int, root: str) -> tuple[str, ...]:
        """For each tensor the memory that keeps it around a level's loops."""
        return tuple(next((h.memory for h in reversed(c) if h), root) for c in self._outside(level))

    def fresh(self, level: int) -> tuple[bool, ...]:
        """For each tensor whether no level around this one holds it."""
        return tuple(not any(c) for c in self._outside(level))

    def _outside(self, level: int) -> list[tuple[Hold | None, ...]]:
        return list(zip(*self.levels[:level], strict=True)) if level else [()] * self.tensors


@dataclass(frozen=True)
class Table:
    """A level's cost for each tile there: (metrics, tiles), infinite where it is not allowed.

    `once`, and what comes again for each time that loops over some ranks in the level around go round.
    """

    once: np.ndarray
    again: dict[frozenset[str], np.ndarray]


class Piece(NamedTuple):
    """A term of the cost: the rows of the metrics that it has, (rows, tiles), and each metric's least."""

    rows: list[int]
    values: np.ndarray
    least: np.ndarray

    def add_to(self, table: np.ndarray) -> None:
        """Add to (metrics, tiles)."""
        table[self.rows] += self.values


class Kept:
    """So many tables, made when they are first needed; those not needed for longest go first."""

    def __init__(self, many: int) -> None:
        self.many, self.tables = many, OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The table of a key."""
        if key in self.tables:
            self.tables.move_to_end(key)
        else:
            self.tables[key] = make()
            if len(self.tables) > self.many:
                self.tables.popitem(last=False)
        return self.tables[key]


class Levels:
    """The tables of a group of one Einsum. `sizes`: each walked rank's sizes of tiles, at every level."""

    def __init__(self, group: Group, sizes: Sequence[Sequence[int]], buffers: int, effort: Effort) -> None:
        self.group, self.buffers, self.effort = group, buffers, effort
        self.einsum, self.uses = group.einsums[0], tuple(group.uses.values())
        self._root = group.machine.root.name
        self.metrics = Metrics.of(group)
        self.busy = self.metrics.busy
        each = [np.array(s if group.levels else (0,)) for s in sizes]
        self.tiles = mesh(each)  # (ranks, shapes)
        self.nests = [s[:, None] % np.maximum(s, 1) == 0 for s in each]  # (tile, tile inside) of a rank
        self._many = self.tiles.shape[1]
        self._at = mesh([np.arange(len(s)) for s in each])
        self._known: dict = {}
        self._kept = Kept(max(16, KEPT // (8 * len(self.metrics.names) * self._many)))
        effort.space += len(self.options) * math.prod(map(len, self.levels)) * math.prod(map(self._chains, self.nests))

    @cached_property
    def _inside(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each rank the tiles inside of each tile, one after another, and where each one's begin."""
        ends = [np.cumsum(nests.sum(axis=1)) for nests in self.nests]
        return [(np.nonzero(n)[1], np.concatenate([[0], e[:-1]])) for n, e in zip(self.nests, ends, strict=True)]

    def _chains(self, nests: np.ndarray) -> float:
        """Chains of tiles of a rank through all levels."""
        many = np.ones(len(nests))
        for _ in self.group.levels[1:]:
            many = nests @ many
        return float(many.sum())

    @cached_property
    def prices(self) -> list[Prices]:
        """Of tiles at each level, as if the loops around went round once; the last one's are those of the leaf."""
        found = []
        for level in range(max(1, len(self.group.levels))):
            columns = [np.repeat(t[:, None], len(self.group.levels), axis=1) for t in self.tiles]
            shapes = Shapes.of(self.group.workload, self.group.walked, columns)
            for count in shapes.count.values():
                count[:] = [n if i == level + 1 else 1 for i, n in enumerate(count)]
            found.append(Prices(self.group, shapes, self.buffers))
        return found

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """Options that fit some shape."""
        each = self.group.options[self.einsum.name]
        return tuple(o for o in each if np.any(self.prices[-1].fits(self.einsum, o)))

    @cached_property
    def levels(self) -> tuple[tuple[Level, ...], ...]:
        """At each level every way to hold the tensors."""
        found: list[dict[Level, None]] = [{} for _ in self.group.levels]
        for order in level_orders(self.group):
            for block, ways in enumerate(found, start=1):
                each = (at_level(self.group, use, block, order) for use in self.uses)
                ways |= dict.fromkeys(product(*each))
        return tuple(map(tuple, found))

    def templates(self) -> Iterator[Template]:
        both = product(self.options, product(*self.levels))
        yield from (Template(option, levels, len(self.uses)) for option, levels in both)

    def within(self, values: np.ndarray, limits: Limits) -> np.ndarray:
        """Whether bounds leave room below the limits."""
        latency, energy = self.metrics.whole(values)
        return np.isfinite(values[0]) & (energy <= limits.energy) & (latency <= limits.latency)

    def table(self, template: Template, level: int) -> Table:
        """What the holds of a level cost."""
        option = self._alike(template.option, level)
        holds, around, fresh = template.levels[level], template.around(level, self._root), template.fresh(level)
        return self._kept.get(
            (level, holds, around, fresh, option), lambda: self._table(level, holds, around, fresh, option)
        )

    def _table(self, level: int, holds: Level, around, fresh, option: Option) -> Table:
        once, fits, again = np.zeros((len(self.metrics.names), self._many)), np.True_, {}
        for use, hold, outer, first in zip(self.uses, holds, around, fresh, strict=True):
            if hold:
                fits = fits & (self.prices[level].hold_fits(use, hold) if first else True)
                here, ranks = self._keep(use, hold, outer, option)
                here[0].add_to(once)
                if ranks:
                    here[1].add_to(again.setdefault(ranks, np.zeros_like(once)))
        fits = fits & (once[self.busy :] <= self.metrics.rooms[:, None]).all(axis=0)
        tables = [np.where(fits, t, math.inf) for t in (once, *again.values())]
        self.effort.bounded += self._many
        return Table(tables[0], dict(zip(again, tables[1:], strict=True)))

    def _alike(self, option: Option, level: int) -> Option:
        """The first option that spreads the same over the axes above a level: all that matters to what it holds."""
        memory = self.group.levels[level]
        return self._known.setdefault(("alike", memory, upper(self.group, option, memory)), option)

    def _keep(self, use: Use, hold: Hold, outer: str, option: Option) -> tuple[list[Piece], frozenset[str]]:
        """What a hold costs once, and again in each round of the loops over these ranks in the level around.

        The cost is linear in the rounds, so that one and two of them say what belongs to which.
        """
        level = hold.block - 1
        idle = [r for r in self.group.walked if level and r not in use.ranks and r not in hold.outside]
        key = (use.tensor, hold, outer, option)
        if key not in self._known:
            one = self.prices[level].keep(use, hold, outer, option)
            if idle:
                twice = Prices(self.group, self._twice(level, idle[0]), self.buffers).keep(use, hold, outer, option)
                more = {metric: value - one[metric] for metric, value in twice.items()}
                once = {metric: value - more[metric] for metric, value in one.items()}
                self._known[key] = [self._piece(once), self._piece(more)]
            else:
                self._known[key] = [self._piece(one)]
        return self._known[key], frozenset(idle)

    def _twice(self, level: int, rank: str) -> Shapes:
        """Tiles at a level as if the loop over a rank around them went round twice."""
        shapes = self.prices[level].shapes
        count = [2 if i == level else n for i, n in enumerate(shapes.count[rank])]
        return Shapes(shapes.tile, shapes.count | {rank: count})

    def _piece(self, vector: Vector, fits: Array = True) -> Piece:
        rows = [i for i, metric in enumerate(self.metrics.names) if metric in vector or i == 0]
        values = np.zeros((len(rows), self._many))
        for i, row in enumerate(rows):
            values[i] = vector.get(self.metrics.names[row], 0.0)
        if fits is not True:
            values[:, ~np.broadcast_to(fits, self._many)] = math.inf
        least = np.zeros(len(self.metrics.names))
        least[rows] = values.min(axis=1)
        return Piece(rows, values, least[: self.busy])

    def leaf(self, template: Template) -> np.ndarray:
        """(metrics, tiles): computing, and the accesses of what the leaf finds in the memories around it."""
        depth = len(self.group.levels)
        key = (template.option, template.around(depth, self._root), template.fresh(depth))
        return self._kept.get(key, lambda: self._leaf(*key))

    def _leaf(self, option: Option, sources: tuple[str, ...], unheld: tuple[bool, ...]) -> np.ndarray:
        total = np.zeros((len(self.metrics.names), self._many))
        for piece in self._pieces(option, sources):
            piece.add_to(total)
        fits = np.isfinite(total[0])
        for use in (use for use, never in zip(self.uses, unheld, strict=True) if never):
            fits = fits & self.prices[-1].hold_fits(use, None)
        self.effort.bounded += self._many
        return np.where(fits, total, math.inf)

    def _pieces(self, option: Option, sources: tuple[str, ...]) -> list[Piece]:
        """Of the leaf: computing, and the accesses of each tensor."""
        return [
            self._computed(option),
            *(self._accessed(*both, option) for both in zip(self.uses, sources, strict=True)),
        ]

    def _computed(self, option: Option) -> Piece:
        if option not in self._known:
            prices = self.prices[-1]
            self._known[option] = self._piece(prices.compute(self.einsum, option), prices.fits(self.einsum, option))
        return self._known[option]

    def _accessed(self, use: Use, source: str, option: Option) -> Piece:
        key = (use.tensor, source, option)
        if key not in self._known:
            vector: Vector = {}
            for access in dict.fromkeys((*self.einsum.reads, self.einsum.output)):
                if access.tensor == use.tensor:
                    add(vector, self.prices[-1].access(self.einsum, access, option, source))
            self._known[key] = self._piece(vector)
        return self._known[key]

    def rest(self, template: Template, level: int) -> np.ndarray:
        """(metrics without footprints, tiles): what everything inside a level's tiles costs at least."""
        inner = level + 1
        if inner == len(self.group.levels):
            return self.leaf(template)[: self.busy]
        outside = template.around(inner, self._root), template.fresh(inner)
        key = ("rest", inner, template.option, template.levels[inner:], *outside)
        return self._kept.get(key, lambda: self._rest(template, inner))

    def _rest(self, template: Template, level: int) -> np.ndarray:
        table, busy = self.table(template, level), self.busy
        least = self._least_inside(table.once[:busy] + self.rest(template, level))
        for ranks, more in table.again.items():
            least = least + self._least_inside(more[:busy]) * self.rounds(ranks)
        for use, hold, first in zip(self.uses, template.levels[level], template.fresh(level), strict=True):
            if hold and first:
                around = frozenset(r for r in added_up(self.group, use) if r and r not in hold.outside)
                least = np.where(self.rounds(around) > 1, math.inf, least)
        return least

    def _least_inside(self, table: np.ndarray) -> np.ndarray:
        """(metrics, tiles): the least of a table over the tiles that nest in each."""
        found = table.reshape(len(table), *map(len, self.nests))
        for axis, (inside, starts) in enumerate(self._inside, start=1):
            found = np.minimum.reduceat(found.take(inside, axis=axis), starts, axis=axis)
        return found.reshape(len(table), -1)

    def rounds(self, ranks: frozenset[str]) -> np.ndarray:
        """For each tile how often the loops over the ranks up to it go round."""
        if ranks not in self._known:
            extents = [self.group.workload.extent(r) for r in self.group.walked]
            counts = [
                ceil_div(n, t) for r, n, t in zip(self.group.walked, extents, self.tiles, strict=True) if r in ranks
            ]
            self._known[ranks] = math.prod(counts, start=np.ones(self._many))
        return self._known[ranks]

    def bound(self, template: Template) -> np.ndarray:
        """A lower bound of each metric without footprints: every term at its best."""
        pieces = self._pieces(template.option, template.around(len(self.group.levels), self._root))
        for level, holds in enumerate(template.levels):
            option = self._alike(template.option, level)
            for use, hold, outer in zip(self.uses, holds, template.around(level, self._root), strict=True):
                pieces += self._keep(use, hold, outer, option)[0] if hold else []
        return np.sum([piece.least for piece in pieces], axis=0)

    def joint(self, template: Template) -> np.ndarray:
        """A higher one: each level at its best tiles, the leaf at those of the last level."""
        parts, depth = [], len(self.group.levels)
        for level in range(depth):
            last, outside = level + 1 == depth, (template.around(level, self._root), template.fresh(level))
            option = template.option if last else self._alike(template.option, level)
            key = ("joint", level, template.levels[level], *outside, option)
            if key not in self._known:
                table = self.table(template, level)
                every = [table.once, *table.again.values(), *([self.leaf(template)] if last else [])]
                self._known[key] = np.sum([t[: self.busy] for t in every], axis=0).min(axis=1)
            parts.append(self._known[key])
        return np.sum(parts or [self.leaf(template)[: self.busy].min(axis=1)], axis=0)

    def tight(self, template: Template) -> np.ndarray:
        """A still higher one: of tiles that nest."""
        if not self.group.levels:
            return self.joint(template)
        return (self.table(template, 0).once[: self.busy] + self.rest(template, 0)).min(axis=1)

    def nested(self, outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
        """(outer, inner): whether the tiles of every rank nest."""
        each = zip(self.nests, self._at, strict=True)
        return np.logical_and.reduce([n[at[outer][:, None], at[inner]] for n, at in each])
