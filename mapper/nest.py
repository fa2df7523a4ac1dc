"""The loops around a group's leaves as numbers: bounds, tile extents, and exact counts of iterations.

A `Nest` is what the closed form (`mapper.cost`) and the simulator's lowering (`sim.lower`) both start from. A
linearised loop over several ranks becomes one `NestLoop` a rank. docs/SEMANTICS.md section 5 numbers the rules.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping as Dict, Sequence
from dataclasses import dataclass

import numpy as np

from einsum.affine import Affine, constraints
from einsum.cascade import Workload
from einsum.problems import InputError, Problem
from mapper.mapping import GUARD, Loop
from mapper.tile import lengths

LARGEST = 1 << 40  # size: products with indices of loops stay whole numbers of 64 bits
COUNTABLE, WALKABLE = 1 << 62, 1 << 28  # iterations: of all loops, and of those whose index a bound uses
When = tuple[tuple[int, str | int], ...]  # (loop position, "first" | "last" | index)


@dataclass(frozen=True, slots=True)
class Floor:
    """floor((const + sum of factor * index[position] + a value of the table) / divisor): a loop bound in the indices of
    outer loops."""

    const: int
    terms: tuple[tuple[int, int], ...] = ()  # (loop position, factor)
    divisor: int = 1
    table: tuple[int, tuple[int, ...]] | None = None  # (loop position, a value for each of its indices)

    def at(self, index: Sequence[np.ndarray | int]) -> np.ndarray | int:
        looked_up = np.asarray(self.table[1])[index[self.table[0]]] if self.table else 0
        linear = self.const + sum(factor * index[position] for position, factor in self.terms)
        return (linear + looked_up) // self.divisor

    @property
    def positions(self) -> tuple[int, ...]:
        """The loops that it depends on."""
        return (*(position for position, _ in self.terms), *([self.table[0]] if self.table else ()))


@dataclass(frozen=True, slots=True)
class NestLoop:
    """A loop over one rank: iterations [max(start), min(stop)) of `tile` coordinates; `count` bounds their number."""

    name: str  # the rank, with a prime for each outer loop over the same rank
    rank: str
    tile: int
    count: int
    start: tuple[Floor, ...]
    stop: tuple[Floor, ...]
    axis: str | None  # `array.axis` if spatial
    source: Loop


@dataclass(frozen=True)
class Nest:
    """Loops outermost first, over a workload."""

    loops: tuple[NestLoop, ...]
    workload: Workload

    def extent(self, rank: str, depth: int | None = None) -> int:
        """Coordinates of `rank` in one (full) iteration of the first `depth` loops; all of them by default."""
        tiles = [loop.tile for loop in self.loops[:depth] if loop.rank == rank]
        return tiles[-1] if tiles else self.workload.extent(rank)

    def positions(self, rank: str) -> tuple[int, ...]:
        return tuple(i for i, loop in enumerate(self.loops) if loop.rank == rank)

    def by_length(self, rank: str) -> bool:
        """Whether a given length bounds a loop over the rank."""
        return any(floor.table for loop in self.loops if loop.rank == rank for floor in loop.stop)

    def tiles(self, rank: str) -> int:
        """Innermost tiles of a rank."""
        return math.ceil(self.workload.extent(rank) / self.extent(rank))

    def at_tile(self, rank: str, tile: int) -> When:
        """The condition that the innermost tile of `rank` is that one. Of the last one every loop over the rank is at
        its last iteration, so that loops before it fold, or at that index if a guard may end the loop before."""
        last, start, when = tile == self.tiles(rank) - 1, tile * self.extent(rank), []
        for position in self.positions(rank):
            loop = self.loops[position]
            named = last and loop.source.extent != GUARD
            when.append((position, "last" if named else start // loop.tile))
            start %= loop.tile
        return tuple(when)

    def box(self, rank: str, tile: int) -> tuple[int, int]:
        """(first coordinate, extent) of an innermost tile of `rank`, cut off at the rank's end."""
        start = tile * self.extent(rank)
        return start, min(self.extent(rank), self.workload.extent(rank) - start)

    def count(self, when: When = ()) -> int:
        """Innermost iterations that satisfy every condition; exact for affine bounds.

        Only loops whose index a bound refers to are enumerated; the rest multiply. InputError if there are too many.
        """
        used = {p for loop in self.loops for f in (*loop.start, *loop.stop) for p in f.positions}
        fixed: dict[int, list[str | int]] = {}
        for position, value in when:
            fixed.setdefault(position, []).append(value)
        self._check_countable(used)
        weight, index = np.ones(1, dtype=np.int64), [np.zeros(1, dtype=np.int64)] * len(self.loops)
        for position, loop in enumerate(self.loops):
            start = np.maximum.reduce(np.broadcast_arrays(*[f.at(index) for f in loop.start], weight * 0)[:-1])
            stop = np.minimum.reduce(np.broadcast_arrays(*[f.at(index) for f in loop.stop], weight * 0)[:-1])
            if position in fixed:
                at = [_pick(value, start, stop) for value in fixed[position]]
                inside = (at[0] >= start) & (at[0] < stop) & np.logical_and.reduce([a == at[0] for a in at])
                index[position], weight = at[0], weight * inside
            elif position in used:
                span = np.arange(int(stop.max(initial=0)))
                inside = (span >= start[:, None]) & (span < stop[:, None])
                rows, columns = np.nonzero(inside)
                index, weight = [column[rows] for column in index], weight[rows]
                index[position] = columns
            else:
                weight = weight * np.maximum(stop - start, 0)
        return int(weight.sum())

    def _check_countable(self, used: set[int]) -> None:
        """InputError if all iterations do not fit 64 bits, or those of the loops to enumerate do not fit the memory."""
        every, walked = (math.prod(self.loops[i].count for i in who) for who in (range(len(self.loops)), used))
        if every >= COUNTABLE or walked >= WALKABLE:
            loops = [loop.name for i, loop in enumerate(self.loops) if every >= COUNTABLE or i in used]
            what = "too many iterations to count; larger tiles make fewer"
            raise InputError(Problem(what, path=f"loops over {', '.join(loops)}", got=f"{max(every, walked):.3g}"))


def check_sizes(workload: Workload) -> None:
    """InputError for sizes too large to count with."""
    large = [(name, size) for name, size in workload.sizes.items() if size > LARGEST]
    if large:
        path = f"sizes of {workload.cascade.name}"
        raise InputError(Problem(f"size {n} is larger than 2^40", path=path, got=str(size)) for n, size in large)


def _pick(value: str | int, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    return start if value == "first" else stop - 1 if value == "last" else np.full_like(start, value)


def nest(loops: Sequence[Loop], workload: Workload) -> Nest:
    """The nest of enclosing loops (temporal and spatial) with bounds: ragged tails, and guards where asked, those by
    length as far as lengths are given."""
    made: list[NestLoop] = []
    for loop in loops:
        for rank, tile in zip(loop.ranks, loop.tile, strict=True):
            outer = [i for i, other in enumerate(made) if other.rank == rank]
            covered = made[outer[-1]].tile if outer else workload.extent(rank)
            count = math.ceil(min(covered, workload.extent(rank)) / tile)
            stop = [Floor(count)]
            cut = any(workload.extent(rank) % made[i].tile for i in outer)
            if count > 1 and cut:  # the last outer tile holds fewer inner ones
                stop.append(_tail(rank, tile, outer, made, workload))
            start = [Floor(0)]
            if loop.extent == GUARD:
                low, high = _guard_bounds(rank, tile, outer, made, workload)
                start, stop = (
                    start + low,
                    [*stop, *high, *_length_bounds(rank, tile, outer, made, workload)],
                )
            name = rank + "'" * len(outer)
            made.append(NestLoop(name, rank, tile, count, tuple(start), tuple(stop), loop.over, loop))
    return Nest(tuple(made), workload)


def _tail(rank: str, tile: int, outer: list[int], made: list[NestLoop], workload: Workload) -> Floor:
    """Inner tiles that the rank still has from the outer tile's first coordinate on."""
    terms = tuple((i, -made[i].tile) for i in outer)
    return Floor(workload.extent(rank) + tile - 1, terms, tile)


def _length_bounds(rank: str, tile: int, outer: list[int], made: list[NestLoop], workload: Workload) -> Iterator[Floor]:
    """Tiles below a length L[a], where a loop around walks `a` one by one (SEMANTICS 4.5)."""
    for einsum in workload.cascade.einsums:
        for bounded, by, values in lengths(einsum, workload.given):
            around = [i for i, loop in enumerate(made) if loop.rank in by]
            if bounded == rank and len(by) == len(around) == 1 and made[around[0]].tile == 1:
                behind = tuple((i, -made[i].tile) for i in outer)
                yield Floor(tile - 1, behind, tile, (around[0], tuple(map(int, values))))


def _guard_bounds(rank: str, tile: int, outer: list[int], made: list[NestLoop], workload: Workload):
    """Bounds (start, stop) of the loop over `rank` outside which no point of a guarded Einsum exists."""
    start: list[Floor] = []
    stop: list[Floor] = []
    for einsum in workload.cascade.einsums:
        for guard in constraints(einsum, workload.sizes):
            if guard.factor(rank):
                _bound(guard, rank, tile, outer, made, workload, start, stop)
    return start, stop


def _bound(
    guard: Affine,
    rank: str,
    tile: int,
    outer: list[int],
    made: list[NestLoop],
    workload: Workload,
    start: list[Floor],
    stop: list[Floor],
) -> None:
    """`guard` <= 0 at the best corner of the tile, solved for the loop's index."""
    factor = guard.factor(rank)
    clipped, free, terms = guard.const, guard.const, []
    for other, f in guard.terms:
        if other == rank:
            continue
        extent = workload.extent(other)
        around = [i for i, loop in enumerate(made) if loop.rank == other]
        if f > 0 or not around:  # least at the tile's first coordinate, or over the whole rank
            low = 0 if f > 0 else f * (extent - 1)
            free, clipped = free + low, clipped + low
        else:  # greatest coordinate of the tile; the rank's own end bounds it where the tile is cut off
            free, clipped = free + f * (made[around[-1]].tile - 1), clipped + f * (extent - 1)
        terms += [(i, f * made[i].tile) for i in around]
    own = [(i, factor * made[i].tile) for i in outer]
    for const, moving in {(free, tuple(terms)), (clipped, tuple(t for t in terms if t[1] > 0))}:
        if factor > 0:  # factor * tile * index <= -(const + terms)
            stop.append(Floor(-const + factor * tile, tuple((i, -f) for i, f in (*moving, *own)), factor * tile))
        else:  # the tile's last coordinate reaches the guard: -factor * (tile * index + tile - 1) >= const + terms
            step = -factor * tile
            base = const + factor * (tile - 1) + step - 1
            start.append(Floor(base, (*moving, *own), step))
            # the last tile may be cut off: with no coordinate of the rank that reaches the guard, start at the end
            end, count = const + factor * (workload.extent(rank) - 1), workload.extent(rank)
            if end + sum(max(0, f) * (made[i].count - 1) for i, f in moving) > 0:
                start.append(Floor(count * end, tuple((i, count * f) for i, f in moving)))


def variants(
    nest_: Nest,
    ranks: Sequence[str],
    cut: Sequence[tuple[Affine, int]] = (),
    short: Sequence[tuple[str, tuple[str, ...], np.ndarray]] = (),
) -> list[tuple[When, Dict[str, tuple[int, int]]]]:
    """The kinds of innermost tile over `ranks`, most cut off first.

    A rank's last tile is cut off when the tile does not divide the rank; a tile of several ranks when an index of `cut`
    leads to or beyond the end that stands beside it; a tile of a rank when a length of `short` ends in or before it
    (`mapper.tile.Length`, over ranks that are walked one by one). Each kind is (conditions, rank -> (first coordinate,
    extent)), with 0 for the first coordinate of a tile that is not cut; the first kind whose conditions hold is its.
    """
    ragged = [r for r in ranks if nest_.positions(r) and nest_.workload.extent(r) % nest_.extent(r)]
    causes = [[{r: nest_.tiles(r) - 1}] for r in ragged]
    causes += [_beyond(nest_, [r for r in ranks if nest_.positions(r)], form, size) for form, size in cut]
    limits = [x for x in short if {x[0], *x[1]} <= set(ranks) and all(nest_.extent(r) == 1 for r in x[1])]
    causes += [_short(nest_, *limit) for limit in limits]
    full, kinds = {r: (0, nest_.extent(r)) for r in ranks}, {}
    for chosen in itertools.product(*([*tiles, {}] for tiles in causes)):
        at: dict[str, int] = {r: i for tiles in chosen for r, i in tiles.items()}
        if all(at[r] == i for tiles in chosen for r, i in tiles.items()):
            when = tuple(c for r in ranks if r in at for c in nest_.at_tile(r, at[r]))
            box = full | {r: nest_.box(r, i) for r, i in at.items()}
            for rank, by, length in limits:
                if {rank, *by} <= set(at):
                    (first, extent), end = box[rank], int(length[tuple(at[r] for r in by)])
                    box[rank] = first, max(0, min(extent, end - first))
            kinds.setdefault(when, box)
    return sorted(kinds.items(), key=lambda kind: -len(kind[0]))


def _short(nest_: Nest, rank: str, by: tuple[str, ...], length: np.ndarray) -> list[Dict[str, int]]:
    """The tiles (rank -> index of its tile) that a length ends in or before."""
    tile, extent = nest_.extent(rank), nest_.workload.extent(rank)
    ends = np.minimum(np.arange(1, nest_.tiles(rank) + 1) * tile, extent)
    length = np.asarray(length)[..., None]
    cut = length < ends
    if nest_.by_length(rank):  # no tile runs that begins behind the end
        cut &= length > np.arange(nest_.tiles(rank)) * tile
    ended = np.argwhere(cut)
    return [dict(zip((*by, rank), map(int, at), strict=True)) for at in ended]


def _beyond(nest_: Nest, looped: Sequence[str], form: Affine, size: int) -> list[Dict[str, int]]:
    """The tiles (rank -> index of its tile) of the looped ranks in which the index reaches `size`."""
    walked = [r for r, _ in form.terms if r in looped]
    greatest = np.full([nest_.tiles(r) for r in walked], form.const)
    for rank, factor in form.terms:
        if rank not in walked:
            greatest += max(0, factor * (nest_.extent(rank) - 1))
            continue
        first = np.arange(nest_.tiles(rank)) * nest_.extent(rank)
        last = np.minimum(first + nest_.extent(rank), nest_.workload.extent(rank)) - 1
        along = np.where(np.array(walked) == rank, -1, 1)
        greatest += (factor * (last if factor > 0 else first)).reshape(along)
    return [dict(zip(walked, map(int, at), strict=True)) for at in np.argwhere(greatest >= size)] if walked else []
