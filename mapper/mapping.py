"""The types of a mapping: who computes what, when, and where the data stays.

A `Mapping` is a tree over a cascade: loops around sequences and pipes of `Compute` leaves, with `Hold`s on the
loops that say which memory keeps which tensor while the loop's body runs. It prints as a loop nest
(`mapper.show`), round-trips through YAML (`mapper.yaml`), and is checked by `mapper.check`.
docs/SEMANTICS.md section 4 numbers the rules of legality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping as Dict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

GUARD = "guard"  # Loop.extent: stop after the last tile that the cascade's guards leave any point of
FILLS = ("block", "cyclic", "dynamic", "sorted")
SPREADS = ("replicated", "sharded", "multicast")
COMBINES = ("network", "atomic", "workspace")
Key = tuple[
    int | str, ...
]  # a node: index of its group, then of each body on the way; `holds`, i and `loops`, i inside


@dataclass(frozen=True, slots=True)
class Hold:
    """While one iteration of the loop runs, `memory` keeps the part of `tensor` that the iteration touches.

    `deep` buffers (2: the next iteration's part is filled while this one is used); `part` < 1 keeps that fraction
    and spills the rest to the next memory out; `over` names an axis along which the copies are `spread`;
    `along` names a rank along which producer and consumer walk in step, so that only `deep` steps of it live.
    `users` are the Einsums that find the tensor here (all of them if empty); the others see the next hold out.
    `inplace` names a tensor whose buffers this one takes over, element by element.
    `kept`, on the outermost spatial loop: iteration by iteration the contents are taken over from the group before, or
    left for the group after, whose loop is the same (`mapper.handover`).
    """

    tensor: str
    memory: str
    deep: int = 1
    part: float = 1.0
    over: str | None = None
    spread: str = "replicated"  # of SPREADS; has a meaning only with `over`
    along: str | None = None
    users: tuple[str, ...] = ()
    inplace: str | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Loop:
    """Walk `ranks` in tiles: iteration i covers coordinates [i*tile, (i+1)*tile) of what the enclosing loop leaves.

    Temporal when `over` is None, else spread over an array axis (`array.axis`) or `device`. Several ranks are one
    linearised loop over their product, the last rank fastest. `extent` is None (all of the rank), GUARD (affine in
    outer indices, derived from the cascade's guards), or one count for each iteration of the loop around (ragged).
    `offset` rotates the index by a spatial coordinate (ring attention). `fill` says how more tiles than instances
    are dealt out. `combine` says how a reduction that is split over this loop comes together.
    """

    ranks: tuple[str, ...]
    tile: tuple[int, ...]  # coordinates of each rank that one iteration covers
    over: str | None = None
    fill: str = "block"
    extent: str | tuple[int, ...] | None = None
    offset: str | None = None
    combine: str | None = None
    holds: tuple[Hold, ...] = ()
    body: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Compute:
    """One Einsum on a unit (or on shares of several), with the loops that belong to it alone.

    `unit` may join units with different operation classes, as in `fma+mufu`: a class goes to the first that has it.
    `stage`: by how many iterations of the loop around the pipe it runs behind. `at`: (rank, "first" | "last")
    restricts it to that iteration of the enclosing temporal loop over the rank (AV after the last m1).
    """

    einsum: str
    unit: str
    shares: tuple[tuple[str, float], ...] = ()  # further units and the fraction of the points that each takes
    stage: int = 0
    at: tuple[tuple[str, str], ...] = ()
    loops: tuple[Loop, ...] = ()  # private, outermost first, bodies empty


@dataclass(frozen=True, slots=True)
class Move:
    """A transfer as an actor of its own (prefetch, producer warps); transfers that holds imply need none."""

    tensor: str
    source: str
    target: str
    unit: str | None = None
    stage: int = 0
    at: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Greedy:
    """Every unit serves the oldest ready tile first, then program order."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Leaves that run together; the next phase starts when all have ended and `drain`, a unit, has drained."""

    leaves: tuple[str, ...]  # Einsum names
    drain: str | None = None


@dataclass(frozen=True, slots=True)
class Phases:
    """Phases ended by barriers, in order, once an iteration."""

    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """For each unit the static order of its leaves in the steady state; a leaf of stage s works s iterations behind."""

    units: tuple[tuple[str, tuple[str, ...]], ...]


Schedule = Greedy | Phases | Order


@dataclass(frozen=True, slots=True)
class Seq:
    """One after another; nothing overlaps across iterations of the loop around."""

    body: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Pipe:
    """Leaves overlapped across iterations of the loop around: at most `open` iterations compute at once, and
    transfers are issued for at most `ahead` further ones (as far as the holds' `deep` allows)."""

    body: tuple[Node, ...]
    open: int = 2
    ahead: int = 1
    schedule: Schedule = Greedy()


Node = Loop | Seq | Pipe | Compute | Move


@dataclass(frozen=True, slots=True)
class Group:
    """A fused group: Einsums that share loops. Runs once the groups in `after` ended, on `share` of the machine."""

    name: str
    body: tuple[Node, ...]
    after: tuple[str, ...] = ()
    share: float = 1.0


@dataclass(frozen=True)
class Mapping:
    """A cascade placed on a machine. `sizes` are the partition sizes that the mapping fixes (M0 = 256);
    `dtypes` the storage types where they differ from the cascade's (`*`: every tensor). `places` says where nodes
    stand in the file that the mapping was read from."""

    name: str
    cascade: str
    machine: str
    groups: tuple[Group, ...]
    sizes: tuple[tuple[str, int], ...] = ()
    dtypes: tuple[tuple[str, str], ...] = ()
    doc: str = field(default="", compare=False)
    places: Dict[Key, tuple[str, int]] = field(default_factory=dict, compare=False, repr=False)  # -> (file, line)


N = TypeVar("N", bound=Compute | Move, covariant=True)


@dataclass(frozen=True)
class Leaf(Generic[N]):
    """A `Compute` or `Move` with the loops around it, outermost first, and the pipe or sequence it stands in."""

    node: N
    loops: tuple[Loop, ...]
    parent: Seq | Pipe | None
    group: str


def leaves(mapping: Mapping) -> Iterator[Leaf[Compute | Move]]:
    """Every leaf in program order."""
    for group in mapping.groups:
        yield from _leaves(group.body, (), None, group.name)


def _leaves(
    body: tuple[Node, ...], loops: tuple[Loop, ...], parent: Seq | Pipe | None, group: str
) -> Iterator[Leaf[Compute | Move]]:
    for node in body:
        match node:
            case Loop():
                yield from _leaves(node.body, (*loops, node), parent, group)
            case Seq() | Pipe():
                yield from _leaves(node.body, loops, node, group)
            case _:
                yield Leaf(node, loops, parent, group)
