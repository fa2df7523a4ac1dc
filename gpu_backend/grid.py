"""The launch grid: how many programs a kernel has, and which tiles each of them computes in which order.

The tiles of the spatial ranks are numbered with the last rank fastest; one rank may be walked in groups of tiles, and
tiles may be numbered longest first. A program computes one tile, or, in a persistent grid, every tile whose number is
its own modulo the number of programs. SEMANTICS 7.1.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from arch.machine import Machine
from einsum.problems import InputError, Problem
from mapper.mapping import Loop
from mapper.nest import Nest, NestLoop

RESERVED = ("rest", "inner", "first", "group", "tile")  # variables of a kernel that number its tiles
PERSISTENT = ("cyclic", "sorted")  # fills that deal tiles out to as many programs as the axis has instances


@dataclass(frozen=True)
class Grid:
    """Tiles in the order of their numbers, and the programs that walk them."""

    loops: tuple[NestLoop, ...]  # one a rank; the last rank is the fastest
    programs: int
    persistent: bool = False
    group: tuple[str, int] | None = None  # (rank, tiles): from this rank on numbered group by group, in it fastest
    descending: str = ""  # the rank whose tiles are walked from the last one to the first

    @property
    def tiles(self) -> int:
        return math.prod(loop.count for loop in self.loops)

    @property
    def total(self) -> str:
        """The number of tiles as text."""
        return " * ".join(map(count_text, self.loops))


def merged(loop: Loop) -> Loop:
    """The loop with one entry for each rank: the outer one of a rank in groups of tiles says only in which order."""
    tiles = dict(zip(loop.ranks, loop.tile, strict=True))
    return replace(loop, ranks=tuple(tiles), tile=tuple(tiles.values()))


def group_problem(loop: Loop) -> str:
    """Why the ranks that a spatial loop names more than once are no groups of tiles; empty if they are."""
    twice = len(loop.ranks) - len(set(loop.ranks))
    if twice > 1 or (twice and loop.ranks.count(loop.ranks[-1]) != 2):
        return "one rank is walked in groups of tiles, like m, n, m: its tiles are the fastest in a group"
    return ""


def launch_grid(loop: Loop, nests: Sequence[Nest], machine: Machine | None) -> Grid:
    """The grid of a spatial loop around sections with these nests; InputError where no order is longest first, or for
    a persistent grid without the machine whose instances it fills."""
    ranks = tuple(dict.fromkeys(loop.ranks))
    spatial = tuple(next(x for x in nests[0].loops if x.rank == rank) for rank in ranks)
    grid = Grid(spatial, math.prod(x.count for x in spatial))
    tiles = [t for rank, t in zip(loop.ranks, loop.tile, strict=True) if rank == loop.ranks[-1]]
    if len(tiles) == 2:
        grid = replace(grid, group=(loop.ranks[-1], math.ceil(tiles[0] / tiles[1])))
    if loop.fill == "sorted":
        grid = _longest_first(grid, nests)
    if loop.fill in PERSISTENT:
        if machine is None or loop.over is None:
            raise InputError(_refusal(loop, "a persistent grid fills the instances of a machine: name the machine"))
        grid = replace(grid, persistent=True, programs=min(grid.tiles, machine.axis(loop.over).size))
    return grid


def _longest_first(grid: Grid, nests: Sequence[Nest]) -> Grid:
    """Tiles by descending iterations of the tile loops inside: the rank that decides them becomes the slowest."""
    work: dict[str, np.ndarray] = {}
    for nest in nests:
        for loop in (x for x in nest.loops if not x.axis):
            used = {nest.loops[p].rank for floor in (*loop.start, *loop.stop) for p, _ in floor.terms}
            for rank in used:
                work[rank] = work.get(rank, np.zeros(1)) + _iterations(nest, loop, rank)
    if not work:
        return grid
    source, (rank, *others) = grid.loops[0].source, work
    if others or grid.group:
        raise InputError(_refusal(source, "`fill: sorted` orders tiles by the one rank that decides their work"))
    steps = np.diff(work[rank])
    if (steps > 0).any() and (steps < 0).any():
        raise InputError(_refusal(source, f"the work of tiles along {rank} rises and falls: no order of it is sorted"))
    slowest = next(x for x in grid.loops if x.rank == rank)
    loops = (slowest, *(x for x in grid.loops if x is not slowest))
    return replace(grid, loops=loops, descending=rank if (steps > 0).any() else "")


def _iterations(nest: Nest, loop: NestLoop, rank: str) -> np.ndarray:
    """Iterations of a tile loop for each tile of a rank around it."""
    position = next(i for i, x in enumerate(nest.loops) if x.rank == rank)
    index: list[np.ndarray | int] = [0] * len(nest.loops)
    index[position] = np.arange(nest.loops[position].count)
    start = np.maximum.reduce(np.broadcast_arrays(*[floor.at(index) for floor in loop.start], index[position])[:-1])
    stop = np.minimum.reduce(np.broadcast_arrays(*[floor.at(index) for floor in loop.stop], index[position])[:-1])
    return np.maximum(stop - start, 0)


def _refusal(loop: Loop, what: str) -> Problem:
    return Problem(f"no kernel can be generated: {what}", path=f"loop {','.join(loop.ranks)}", got=loop.fill)


def counter(loop: NestLoop) -> str:
    """The variable that counts a loop's iterations: the rank itself when it is walked coordinate by coordinate."""
    return f"{loop.rank}_tile" if loop.tile > 1 else loop.rank


def count_text(loop: NestLoop) -> str:
    """The number of a rank's tiles as text."""
    return f"{loop.rank.upper()}_TILES" if loop.tile > 1 else loop.rank.upper()


def coordinates(grid: Grid, wide: bool) -> Iterator[str]:
    """Source lines that turn a tile's number into the coordinates of its ranks.

    `wide`: a rank walked coordinate by coordinate may lead past 2**31 elements.
    """
    at = next((i for i, x in enumerate(grid.loops) if grid.group and x.rank == grid.group[0]), len(grid.loops))
    outer, inner = grid.loops[:at], grid.loops[at:]
    ranks = ", ".join(x.rank for x in grid.loops)
    order = f"{inner[0].rank} in groups, fastest in each" if inner else "the last rank fastest"
    yield f"rest = {'tile' if grid.persistent else 'tl.program_id(0)'}  # a tile of ({ranks}), {order}"
    left = "rest"
    if outer and inner:
        every = " * ".join(map(count_text, inner))
        left = "inner"
        yield f"inner = rest % ({every})"
        yield f"rest = rest // ({every})"
    if inner:
        first, tiles = inner[0], f"{inner[0].rank.upper()}_GROUP"
        each = " * ".join([tiles, *map(count_text, inner[1:])])
        yield f"first = {left} // ({each}) * {tiles}"
        yield f"{left} = {left} % ({each})"
        yield f"group = tl.minimum({tiles}, {count_text(first)} - first)  # the last one may have fewer"
        yield f"{counter(first)} = {_wide(f'first + {left} % group', first, wide)}"
        yield f"{left} = {left} // group"
        yield from _digits(inner[1:], left, grid, wide)
    yield from _digits(outer, "rest", grid, wide)


def _digits(loops: Sequence[NestLoop], left: str, grid: Grid, wide: bool) -> Iterator[str]:
    """A number's digits, the last loop's first."""
    for loop in reversed(loops):
        text = left if loop is loops[0] else f"{left} % {count_text(loop)}"
        if loop.rank == grid.descending:
            text = f"{count_text(loop)} - 1 - {text if text == left else f'({text})'}"
        note = "  # the longest tiles first" if loop.rank == grid.descending else ""
        yield f"{counter(loop)} = {_wide(text, loop, wide)}{note}"
        if loop is not loops[0]:
            yield f"{left} = {left} // {count_text(loop)}"


def _wide(text: str, loop: NestLoop, wide: bool) -> str:
    if loop.tile > 1 or not wide:
        return text
    return f"({text}).to(tl.int64)" if " " in text else f"{text}.to(tl.int64)"
