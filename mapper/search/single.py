"""The best mapping of one Einsum: exhaustive by bounds (SEMANTICS 8.4).

A template fixes the unit, what is spread over its axes, what stays innermost, and where each tensor is held. Its cost
is a sum of an outer part, that of the holds in the first level of loops, which depends on the outermost tiles, and of
an inner part, which is bounded from below by the innermost tiles alone. Both bounds are tables over few shapes, so that
of billions of points only those are costed whose bounds leave a chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush
from itertools import product

import numpy as np

from mapper.search.build import Choice
from mapper.search.group import Group, Option, Use
from mapper.search.places import orders, places
from mapper.search.price import ENERGY, Array, Hold, Prices, Shapes, Vector

CLOSE = 1e-12  # relative difference below which two costs are equal
BATCH = 1 << 12  # points costed at once
PAIRS = 1 << 18  # pairs of outermost and innermost tiles whose bounds are compared at once
FEW = 64  # outermost and innermost tiles that are tried first
Outer = tuple[Hold | None, ...]  # for each tensor its hold in the first level of loops
Inner = tuple[tuple[Hold, ...], ...]  # for each tensor those further in


class Stopped(Exception):
    """The search was asked to end."""


@dataclass
class Effort:
    """What a search has done so far. `stop` is called now and then and raises `Stopped` to end it."""

    space: float = 0  # points: (template, shape) pairs, or choices for several Einsums and shapes
    costed: int = 0  # points costed in full
    bounded: int = 0  # entries of the tables of bounds
    stop: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)


@dataclass(frozen=True)
class Piece:
    """A term of the cost: the rows of the metrics that it has, for each shape, with infinite energy where it is not
    allowed; and each metric's least value where it is."""

    rows: list[int]
    values: np.ndarray  # (rows, shapes)
    least: np.ndarray

    def add_to(self, table: np.ndarray) -> None:
        """Add to (metrics, shapes)."""
        table[self.rows] += self.values


class Single:
    """The space of a group of one Einsum. `columns`: for each walked rank its chains of tiles, (chains, blocks)."""

    def __init__(self, group: Group, columns: Sequence[np.ndarray], buffers: int, effort: Effort) -> None:
        self.group, self.buffers, self.effort = group, buffers, effort
        self.einsum, self.uses = group.einsums[0], tuple(group.uses.values())
        self.room = rooms(group)
        self.metrics = (ENERGY, *resources(group), *self.room)
        self.busy = len(self.metrics) - len(self.room)  # metrics before those of footprints
        self.rooms_at, self.rooms = slice(self.busy, None), np.array(list(self.room.values()))
        outer = [np.unique(c[:, :1]) for c in columns] if group.blocks else [np.zeros(1, dtype=int)] * len(columns)
        inner = [np.unique(c[:, -1:]) for c in columns] if group.blocks else outer
        self.ends = (mesh(outer), mesh(inner))  # (ranks, shapes): outermost and innermost tiles
        self.columns = [c[np.lexsort((c[:, -1], c[:, 0]))] if group.blocks else c for c in columns]
        self.number = list(_between(self.columns)) if group.blocks and columns else []
        outermost = [np.repeat(c[:, None], group.blocks, axis=1) for c in self.ends[0]]
        innermost = [np.repeat(c[:, None], group.blocks, axis=1) for c in self.ends[1]]
        self.outer_prices = Prices(group, Shapes.of(group.workload, group.walked, outermost), buffers)
        relaxed = Shapes.of(group.workload, group.walked, innermost)
        for count in relaxed.count.values():
            count[:-1] = [1] * (len(count) - 1)
        self.inner_prices = Prices(group, relaxed, buffers)
        self.tables: dict = {}
        self.rounds: dict[frozenset, np.ndarray] = {}
        shapes = math.prod(len(c) for c in columns)
        effort.space += len(self.outers) * len(self.inners) * len(self.options) * shapes

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """Options that fit some shape."""
        each = self.group.options[self.einsum.name]
        return tuple(o for o in each if np.any(self.inner_prices.fits(self.einsum, o)))

    @cached_property
    def _holds(self) -> tuple[dict[Outer, None], dict[Inner, None]]:
        outers: dict[Outer, None] = {}
        inners: dict[Inner, None] = {}
        for chosen in orders(self.group):
            chains = [places(self.group, use, chosen) for use in self.uses]
            first = [dict.fromkeys(c[0] if c and c[0].block == 1 else None for c in each) for each in chains]
            rest = [dict.fromkeys(tuple(h for h in c if h.block > 1) for c in each) for each in chains]
            outers |= dict.fromkeys(product(*first))
            inners |= dict.fromkeys(product(*rest))
        return outers, inners

    @property
    def outers(self) -> tuple[Outer, ...]:
        return tuple(self._holds[0])

    @property
    def inners(self) -> tuple[Inner, ...]:
        return tuple(self._holds[1])

    def _piece(self, key: tuple, make, shapes: int) -> Piece:
        """A term of the cost for all shapes, made once for each key."""
        if key not in self.tables:
            vector, fits = make()
            rows = [i for i, metric in enumerate(self.metrics) if metric in vector or i == 0]
            table = np.zeros((len(rows), shapes))
            for i, row in enumerate(rows):
                table[i] = vector.get(self.metrics[row], 0.0)
            table[0, ~np.broadcast_to(fits, shapes)] = math.inf
            least = np.zeros(len(self.metrics))
            least[rows] = table.min(axis=1, where=np.isfinite(table[0]), initial=math.inf)
            self.tables[key] = Piece(rows, table, least)
            self.effort.bounded += shapes
        return self.tables[key]

    def _fitting(self, table: np.ndarray) -> np.ndarray:
        """The table without shapes that no memory has room for."""
        over = (table[self.rooms_at] > self.rooms[:, None]).any(axis=0)
        return np.where(over | np.isinf(table[0]), math.inf, table)

    def outer_table(self, outer: Outer, option: Option) -> np.ndarray:
        """(metrics, outermost shapes): the cost of the holds in the first level of loops, exact."""
        key = ("outer", outer, self._below_arrays(option, outer))
        if key not in self.tables:
            table = np.zeros((len(self.metrics), self.ends[0].shape[1]))
            for use, hold in zip(self.uses, outer, strict=True):
                if hold:
                    make = lambda use=use, hold=hold: self._kept(self.outer_prices, use, (hold,), None, option)
                    self._piece((use.tensor, hold, key[2]), make, table.shape[1]).add_to(table)
            self.tables[key] = self._fitting(table)
        return self.tables[key]

    def _below_arrays(self, option: Option, holds) -> Option | None:
        """The option, if what it spreads matters to the holds: a memory below an array is filled in copies."""
        return option if any(h and self.group.machine.axes(h.memory) for h in holds) else None

    def inner_tables(self, inner: Inner, outside: tuple[bool, ...], option: Option) -> dict[frozenset, np.ndarray]:
        """Ranks -> (metrics, innermost shapes): computing, holds further in and accesses, for each time that the loops
        over these ranks in the first level go round; as if all other loops were innermost."""
        once = np.zeros((len(self.metrics), self.ends[1].shape[1]))
        tables = {frozenset(): once}
        for piece in self._pieces(inner, outside, option):
            piece.add_to(once)
        for use, chain, kept in zip(self.uses, inner, outside, strict=True):
            around = self.group.levels[0] if kept else self.group.machine.root.name
            for hold in chain:
                again = frozenset(r for r in self.group.walked if r not in use.ranks and r not in hold.outside)
                if again:
                    make = lambda use=use, hold=hold, around=around: (
                        self.inner_prices.keep(use, hold, around, option),
                        True,
                    )
                    part = np.zeros_like(once)
                    self._piece((use.tensor, hold, around, option), make, once.shape[1]).add_to(part)
                    once[: self.busy] -= np.where(np.isinf(once[0]), 0, part[: self.busy])
                    tables[again] = tables.get(again, 0) + part
                around = hold.memory
        tables[frozenset()] = self._fitting(once)
        return {again: table[: self.busy] for again, table in tables.items()}

    def _pieces(self, inner: Inner, outside: tuple[bool, ...], option: Option) -> Iterator[Piece]:
        """The terms of the inner part as if every loop were innermost."""
        prices, shapes = self.inner_prices, self.ends[1].shape[1]
        compute = lambda: (prices.compute(self.einsum, option), prices.fits(self.einsum, option))
        yield self._piece((option,), compute, shapes)
        for use, chain, kept in zip(self.uses, inner, outside, strict=True):
            make = lambda use=use, chain=chain, kept=kept: self._used(prices, use, chain, kept, option)
            yield self._piece((use.tensor, chain, kept, option), make, shapes)

    def _kept(self, prices: Prices, use: Use, chain, around: str | None, option: Option) -> tuple[Vector, Array]:
        """The cost of a tensor's holds inside `around`, a memory that keeps it, or None: from the root."""
        vector: Vector = {}
        fits = np.True_ if around else prices.hold_fits(use, chain[0] if chain else None)
        around = around or self.group.machine.root.name
        for hold in chain:
            add(vector, prices.keep(use, hold, around, option))
            around = hold.memory
        return vector, fits

    def _used(self, prices: Prices, use: Use, chain, kept: bool, option: Option) -> tuple[Vector, Array]:
        """The cost of a tensor's holds inside the first level, and of the Einsum's accesses of it."""
        around = self.group.levels[0] if kept else None
        vector, fits = self._kept(prices, use, chain, around, option)
        source = chain[-1].memory if chain else around or self.group.machine.root.name
        for access in dict.fromkeys((*self.einsum.reads, self.einsum.output)):
            if access.tensor == use.tensor:
                add(vector, prices.access(self.einsum, access, option, source))
        return vector, fits

    def best(self, minimise: str, latency: float = math.inf, energy: float = math.inf) -> Choice | None:
        """The choice of least `minimise` (latency | energy) with neither above its limit; None if there is none."""
        levels = (self._least, self._joint, self._tight)
        queue: list[tuple[float, float, int, int, int, int]] = []  # bound, of the other, level, template
        templates = product(range(len(self.options)), range(len(self.outers)), range(len(self.inners)))
        fresh = [(0, *template) for template in templates]
        best: Choice | None = None
        while fresh or queue:
            for level, o, i, j in fresh:
                bound = levels[level](self.outers[i], self.inners[j], self.options[o])
                if within(bound, latency, energy):
                    first, second = ranked(bound, minimise)
                    heappush(queue, (float(first), float(second), level, o, i, j))
            fresh = []
            if not queue:
                break
            bound, _, level, o, i, j = heappop(queue)
            if best and bound >= getattr(best, minimise) * (1 - CLOSE):
                break
            self.effort.stop()
            if level + 1 < len(levels):
                fresh = [(level + 1, o, i, j)]
            else:
                best = self._try(self.options[o], self.outers[i], self.inners[j], minimise, latency, energy, best)
        return best

    def _least(self, outer: Outer, inner: Inner, option: Option) -> np.ndarray:
        """A template's lower bound of each metric: the outermost tiles, and each term of the rest, at their best."""
        outside = tuple(h is not None for h in outer)
        first = ("outermost", outer, self._below_arrays(option, outer))
        if first not in self.tables:
            self.tables[first] = self.outer_table(outer, option)[: self.busy].min(axis=1)
        rest = ("innermost", inner, outside, option)
        if rest not in self.tables:
            parts = [piece.least for piece in self._pieces(inner, outside, option)]
            self.tables[rest] = np.sum(parts, axis=0)[: self.busy]
        return self.tables[first] + self.tables[rest]

    def _joint(self, outer: Outer, inner: Inner, option: Option) -> np.ndarray:
        """The same with all terms of the rest at the same innermost tiles."""
        outside = tuple(h is not None for h in outer)
        key = ("joint", inner, outside, option)
        if key not in self.tables:
            parts = self.inner_tables(inner, outside, option)
            self.tables[key] = np.sum(list(parts.values()), axis=0).min(axis=1)
        return self.tables["outermost", outer, self._below_arrays(option, outer)] + self.tables[key]

    def _tight(self, outer: Outer, inner: Inner, option: Option) -> np.ndarray:
        """The same, of tiles that nest."""
        outside = tuple(h is not None for h in outer)
        key = ("nested", inner, outside, option)
        if key not in self.tables:
            parts = self.inner_tables(inner, outside, option).items()
            self.tables[key] = sum(self._nested(table) * self._rounds(again) for again, table in parts)
        return (self.outer_table(outer, option)[: self.busy] + self.tables[key]).min(axis=1)

    def _nested(self, table: np.ndarray) -> np.ndarray:
        """(metrics, outermost shapes): the least of a table over the innermost shapes that nest in each."""
        found = table.reshape(len(table), *(n.start.shape[1] for n in self.number))
        for axis, number in enumerate(self.number, start=1):
            nests = [np.flatnonzero(row) for row in number.many]
            found = np.stack([found.take(inside, axis=axis).min(axis=axis) for inside in nests], axis=axis)
        return found.reshape(len(table), -1)

    def _rounds(self, ranks: frozenset[str]) -> np.ndarray:
        """For each outermost shape how often the first level's loops over the ranks go round."""
        if ranks not in self.rounds:
            self.rounds[ranks] = math.prod((self.outer_prices.shapes.count[r][1] for r in ranks), start=np.ones(1))
        return self.rounds[ranks]

    def _try(self, option, outer: Outer, inner: Inner, minimise, latency, energy, best: Choice | None) -> Choice | None:
        """The better of `best` and the template's best shape, points in the order of their bounds."""
        outside = tuple(h is not None for h in outer)
        first = self.outer_table(outer, option)[: self.busy]
        second = self.inner_tables(inner, outside, option)
        for few in (FEW, None) if best is None else (None,):
            limit = getattr(best, minimise) * (1 - CLOSE) if best else math.inf
            for chains in self._pairs(first, second, minimise, latency, energy, limit, few):
                best = self._cost(chains, option, outer, inner, outside, minimise, latency, energy, best)
        return best

    def _cost(self, chains, option, outer, inner, outside, minimise, latency, energy, best) -> Choice | None:
        """The better of `best` and the best of these shapes, costed in full."""
        tiles, costs = self.costs(chains, option, outer, inner, outside)
        at = costs.least(minimise, latency, energy)
        if at is None or (best and getattr(costs, minimise)[at] >= getattr(best, minimise) * (1 - CLOSE)):
            return best
        return self.choice(costs, at, tiles, option, outer, inner)

    def costs(self, chains, option, outer, inner, outside) -> tuple[list[np.ndarray], Costs]:
        """The shapes that these chains make, as each rank's tiles, and their costs in full."""
        tiles = [self.columns[r][chain] for r, chain in enumerate(chains)]
        prices = Prices(self.group, Shapes.of(self.group.workload, self.group.walked, tiles), self.buffers)
        vector, fits = prices.compute(self.einsum, option), prices.fits(self.einsum, option)
        for use, hold, chain, kept in zip(self.uses, outer, inner, outside, strict=True):
            parts = [self._used(prices, use, chain, kept, option)]
            if hold:
                parts.append(self._kept(prices, use, (hold,), None, option))
            for part, allowed in parts:
                add(vector, part)
                fits = fits & allowed
        costs = costed(vector, fits, self.room, len(chains[0]) if chains else 1)
        self.effort.costed += costs.latency.size
        return tiles, costs

    def choice(self, costs: Costs, at: int, tiles, option, outer, inner) -> Choice:
        """The decisions behind one of the costs."""
        chosen = {r: tuple(int(t) for t in column[at]) for r, column in zip(self.group.walked, tiles, strict=True)}
        both = zip(self.uses, outer, inner, strict=True)
        holds = {use.tensor: (*((h,) if h else ()), *rest) for use, h, rest in both}
        values = (float(costs.latency[at]), float(costs.energy[at]), float(costs.footprint[at]))
        return Choice(self.group, {self.einsum.name: option}, holds, chosen, *values)

    def _pairs(self, first, second, minimise, latency, energy, limit, few) -> Iterator[list[np.ndarray]]:
        """Batches of shapes, as each rank's chain, whose bounds stay below the limits; only the `few` best of each end
        if given, to have a limit soon."""
        if not self.number:
            yield [np.zeros(1, dtype=int)] * len(self.columns)
            return
        room = {"latency": latency, "energy": energy}
        room[minimise] = min(room[minimise], limit)
        once = second[frozenset()]
        again = [(self._rounds(ranks), table) for ranks, table in second.items() if ranks]
        outermost = first + sum(self._nested(table) * self._rounds(ranks) for ranks, table in second.items())
        innermost = first.min(axis=1)[:, None] + once + sum(rounds.min() * table for rounds, table in again)
        ends = []
        for bound in (outermost, innermost):
            at = np.flatnonzero(within(bound, **room))
            ends.append(at[np.argsort(ranked(bound[:, at], minimise)[0], kind="stable")[:few]])
        step = max(1, PAIRS // max(1, len(ends[1])))
        for start in range(0, len(ends[0]), step):
            left = ends[0][start : start + step]
            bound = first[:, left, None] + once[:, None, ends[1]]
            for rounds, table in again:
                bound += table[:, None, ends[1]] * np.broadcast_to(rounds, first.shape[1])[left][:, None]
            pairs = np.argwhere(within(bound, **room) & self._nests(left, ends[1]))
            if pairs.size:
                value = ranked(bound[:, pairs[:, 0], pairs[:, 1]], minimise)[0]
                chosen = pairs[np.argsort(value, kind="stable")]
                for part in range(0, len(chosen), BATCH):
                    here = chosen[part : part + BATCH]
                    chains = self._chains(left[here[:, 0]], ends[1][here[:, 1]])
                    if chains[0].size:
                        yield chains

    def _nests(self, outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
        """(outer, inner): whether the tiles of every rank nest."""
        each = [n.many[n.outer[outer][:, None], n.inner[inner]] > 0 for n in self.number]
        return np.logical_and.reduce(each)

    def _chains(self, outer: np.ndarray, inner: np.ndarray) -> list[np.ndarray]:
        """Each rank's chain for pairs of outermost and innermost tiles: every chain between those that nest."""
        starts = np.array([n.start[n.outer[outer], n.inner[inner]] for n in self.number])
        many = np.array([n.many[n.outer[outer], n.inner[inner]] for n in self.number])
        each = np.prod(many, axis=0)
        pair = np.repeat(np.arange(len(each)), each)
        rest = np.arange(len(pair)) - np.repeat(np.cumsum(each) - each, each)
        found = []
        for start, n in zip(starts, many, strict=True):
            found.append(start[pair] + rest % n[pair])
            rest = rest // n[pair]
        return found


@dataclass(frozen=True)
class Costs:
    """Latency in seconds, energy in joules and bytes held of points; infinite where not allowed."""

    latency: np.ndarray
    energy: np.ndarray
    footprint: np.ndarray

    def least(self, minimise: str, latency: float, energy: float) -> int | None:
        """The point of least `minimise` within the limits, of equal ones that of least of the other, then of bytes."""
        value, other = (getattr(self, m) for m in sorted(("latency", "energy"), key=lambda m: m != minimise))
        allowed = np.isfinite(value) & (self.latency <= latency) & (self.energy <= energy)
        if not allowed.any():
            return None
        ties = allowed & (value <= value[allowed].min() * (1 + CLOSE))
        ties &= other <= other[ties].min() * (1 + CLOSE)
        return int(np.flatnonzero(ties)[np.argmin(self.footprint[ties])])


def costed(vector: Vector, fits, room: dict[str, float], points: int) -> Costs:
    """Latency, energy and footprint from a vector of metrics."""
    whole = lambda a: np.broadcast_to(np.asarray(a, float), points)
    busy, held = np.zeros(points), np.zeros(points)
    for metric, value in vector.items():
        if metric.startswith("busy"):
            busy = np.maximum(busy, value)
        elif metric in room:
            held, fits = held + value, fits & (value <= room[metric])
    fits = np.broadcast_to(fits, points)
    return Costs(np.where(fits, busy, math.inf), np.where(fits, whole(vector[ENERGY]), math.inf), held)


def ranked(values: np.ndarray, minimise: str) -> tuple[np.ndarray, np.ndarray]:
    """(what is minimised, the other) of latency and energy, from metrics along the first axis."""
    latency, energy = values[1:].max(axis=0), values[0]
    return (latency, energy) if minimise == "latency" else (energy, latency)


def within(values: np.ndarray, latency: float, energy: float) -> np.ndarray:
    """Whether bounds leave room below the limits."""
    return np.isfinite(values[0]) & (values[0] <= energy) & (values[1:].max(axis=0) <= latency)


@dataclass(frozen=True)
class Between:
    """The chains of a rank between its outermost and innermost tiles: `many` from `start` on, in order.

    `outer` and `inner`: which of the rank's tiles stands in each combination of all ranks' tiles.
    """

    start: np.ndarray
    many: np.ndarray
    outer: np.ndarray
    inner: np.ndarray


def _between(columns: Sequence[np.ndarray]) -> Iterator[Between]:
    ends = [[np.unique(c[:, i], return_inverse=True) for c in columns] for i in (0, -1)]
    at = [
        np.unravel_index(np.arange(math.prod(map(len, sizes))), tuple(map(len, sizes)))
        for sizes in ([u for u, _ in end] for end in ends)
    ]
    for r in range(len(columns)):
        (first, i), (last, j) = ends[0][r], ends[1][r]
        many = np.zeros((len(first), len(last)), dtype=int)
        np.add.at(many, (i, j), 1)
        start = (np.cumsum(many) - many.ravel()).reshape(many.shape)
        yield Between(start, many, at[0][r], at[1][r])


def mesh(axes: Sequence[np.ndarray]) -> np.ndarray:
    """(axes, combinations): every combination of values."""
    if not axes:
        return np.zeros((0, 1), dtype=int)
    return np.array(list(np.meshgrid(*axes, indexing="ij"))).reshape(len(axes), -1)


def add(vector: Vector, other: Vector) -> None:
    """Add a vector into another."""
    for metric, value in other.items():
        vector[metric] = vector.get(metric, 0.0) + value


def rooms(group: Group) -> dict[str, float]:
    """Metric of a memory's footprint -> its capacity."""
    sizes = {m: group.machine.memory(m).capacity_bytes for m in (*group.levels, *group.registers)}
    return {f"held {m}": size for m, size in sizes.items() if size is not None}


def resources(group: Group) -> tuple[str, ...]:
    """Metrics of what can be busy: units and memory ports."""
    units = [u.name for u in group.machine.units]
    ports = [p for m in group.machine.memories for p in (m.name, f"{m.name} read", f"{m.name} write")]
    limited = {m.name for m in group.machine.memories if m.read_bytes_per_s or m.write_bytes_per_s}
    return tuple(f"busy {name}" for name in (*units, *(p for p in ports if p.split()[0] in limited)))
