"""One group's best mappings, by the solver that fits it; equal groups are solved once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from einsum.cascade import Access, Apply, Einsum, Expr, Name
from mapper.search.build import Choice
from mapper.search.effort import CLOSE, Effort
from mapper.search.group import Group, Illegal, Use
from mapper.search.price import Hold
from mapper.search.several import Several
from mapper.search.single import Single
from mapper.search.tiles import candidates, chains

FRONT = 256  # points of a group's front
SHAPES = 1024  # of Einsums that share loops; tile sizes are thinned until there are no more


@dataclass(frozen=True)
class Space:
    """What the search chooses from: the tilings, the buffers of each hold, and how many Einsums, and how many matrix
    products among them, may share loops."""

    tiling: str = "divisors"
    buffers: int = 1
    together: int = 16
    products: int = 2


@dataclass
class Solver:
    """Solves groups within a space."""

    space: Space
    effort: Effort = field(default_factory=Effort)
    cut_off: bool = False  # whether a front had more than `FRONT` points
    _known: dict[tuple, Choice | None] = field(default_factory=dict)

    def best(self, group: Group, minimise: str, latency: float = math.inf, energy: float = math.inf) -> Choice | None:
        """The choice of least `minimise` within the limits, of equal ones the least of the other; None if none fits."""
        self.effort.stop()
        names = named(group)
        key = (minimise, latency, energy, *signature(group, names))
        if key not in self._known:
            self._known[key] = self._solve(group, minimise, latency, energy)
        found = self._known[key]
        return found if found is None or found.group == group else renamed(found, group)

    def _solve(self, group: Group, minimise: str, latency: float, energy: float) -> Choice | None:
        solver = self.space_of(group)
        first = solver.best(minimise, latency, energy)
        if first is None:
            return None
        limit = {"latency": latency, "energy": energy} | {minimise: getattr(first, minimise) * (1 + CLOSE)}
        other = "energy" if minimise == "latency" else "latency"
        return solver.best(other, **limit) or first

    def space_of(self, group: Group) -> Single | Several:
        """The group's space."""
        if len(group.names) == 1:
            return Single(group, sizes(group, self.space.tiling), self.space.buffers, self.effort)
        return Several(group, columns(group, self.space.tiling, SHAPES), self.space.buffers, self.effort)

    def front(self, group: Group) -> Iterator[Choice]:
        """Choices that no other beats in both latency and energy, fastest first."""
        energy = math.inf
        for _ in range(FRONT):
            found = self.best(group, "latency", energy=energy)
            if found is None:
                return
            yield found
            energy = found.energy * (1 - 1e-9)
        self.cut_off = True


def widths(group: Group) -> tuple[int, ...]:
    """Sizes of the axes above the group's units."""
    units = {u for options in group.options.values() for o in options for u in o.unit.split("+")}
    return tuple(sorted({axis.size for u in units for _, axis in group.machine.axes(u)}))


def sizes(group: Group, tiling: str) -> list[tuple[int, ...]]:
    """For each walked rank its sizes of tiles; batch and stepped ranks go coordinate by coordinate."""
    single = group.batch | group.stepped
    each = lambda rank: candidates(group.workload.extent(rank), widths(group), tiling)
    return [(1,) if rank in single else each(rank) for rank in group.walked]


def columns(group: Group, tiling: str, most: float = math.inf) -> list[np.ndarray]:
    """For each walked rank its chains of tiles, (chains, blocks). Around what registers keep a tile is an array's
    width, one coordinate, or the rank. There are at most `most` shapes: of the rank with the most chains every other
    tile size goes, widths, one and the rank aside."""
    extents, allowed = [group.workload.extent(r) for r in group.walked], sizes(group, tiling)
    while True:
        found = []
        for extent, chosen in zip(extents, allowed, strict=True):
            levels = [chosen] * len(group.levels)
            if group.registers:
                levels.append(tuple(t for t in chosen if len(chosen) == 1 or t in (1, extent, *widths(group))))
            found.append(chains(levels))
        if math.prod(map(len, found)) <= most:
            return found
        longest = max(range(len(found)), key=lambda i: len(found[i]))
        kept = (1, extents[longest], *widths(group))
        rest = [t for t in allowed[longest] if t not in kept]
        if not rest:
            return found
        allowed[longest] = tuple(sorted({*(t for t in allowed[longest] if t in kept), *rest[1::2]}))


def named(group: Group) -> dict[str, str]:
    """Tensors and ranks -> names that do not depend on what they are called, in order of first use."""
    names: dict[str, str] = {}
    for e in group.einsums:
        for r in e.ranks:
            names.setdefault(r, f"r{len(names)}")
        for t in (*(a.tensor for a in e.reads), e.name):
            names.setdefault(t, f"t{len(names)}")
    return names


def signature(group: Group, names: dict[str, str]) -> tuple:
    """Equal for groups that differ in names only."""
    w = group.workload
    uses = [
        (
            u.kind,
            w.bits(u.storage),
            u.roles,
            tuple(names.get(r, r) for r in u.ranks),
            u.state and names.get(u.state, u.state),
        )
        for u in group.uses.values()
    ]
    extents = tuple((new, w.extent(old)) for old, new in names.items() if new.startswith("r"))
    return tuple(_shape(e, names, w.sizes) for e in group.einsums), tuple(uses), extents, group.machine.name


def _shape(e: Einsum, names: dict[str, str], sizes) -> tuple:
    parts = (e.output, *e.right)
    return (
        tuple(_expr(x, names, sizes) for x in parts),
        e.reduce_op,
        tuple(names[r] for r in e.reduced),
        e.init is None,
    )


def _expr(x: Expr, names: dict[str, str], sizes) -> tuple:
    match x:
        case Access():
            return ("access", names[x.tensor], *(_expr(i, names, sizes) for i in x.indices))
        case Apply():
            return (x.op, *(_expr(a, names, sizes) for a in x.args))
        case Name():
            return ("name", names.get(x.name, sizes.get(x.name)))
        case _:
            return ("number", x.value)


def renamed(choice: Choice, group: Group) -> Choice:
    """The same decisions about a group that differs in names only."""
    back = {new: old for old, new in named(group).items()}
    to = {old: back[new] for old, new in named(choice.group).items()}

    def rank(name: str) -> str:
        return to.get(name, name)

    options = {
        to[e]: replace(o, spread=tuple((a, rank(r)) for a, r in o.spread), inner=o.inner and rank(o.inner))
        for e, o in choice.options.items()
    }
    move = lambda h: Hold(h.memory, h.block, frozenset(map(rank, h.outside)), h.along and rank(h.along))
    holds = {to[t]: tuple(map(move, chain)) for t, chain in choice.holds.items()}
    return replace(
        choice, group=group, options=options, holds=holds, tiles={rank(r): t for r, t in choice.tiles.items()}
    )


__all__ = ["Illegal", "Solver", "Space", "Use", "columns"]
