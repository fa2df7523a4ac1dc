"""The nodes of a mapping with their surroundings, and a report of problems that knows where each node stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from einsum.problems import Problem, suggest
from mapper.mapping import Compute, Group, Hold, Key, Loop, Mapping, Move, Node, Pipe, Seq

At = tuple[Key, str]  # a place in the tree: key and readable path
N = TypeVar("N", bound=Node, covariant=True)
M = TypeVar("M", bound=Node)


@dataclass(frozen=True)
class Site(Generic[N]):
    """A node, its key and readable path, the loops around it (outermost first), and the pipe or sequence it is in."""

    node: N
    key: Key
    path: str
    loops: tuple[Site[Loop], ...]
    parent: Site[Seq | Pipe] | None
    group: Group

    @property
    def at(self) -> At:
        return self.key, self.path


def private(leaf: Site[Compute]) -> Iterator[tuple[At, Loop]]:
    """The loops that belong to a leaf alone, outermost first, with their places."""
    for i, loop in enumerate(leaf.node.loops):
        yield ((*leaf.key, "loops", i), f"{leaf.path}.{','.join(loop.ranks)}"), loop


def nest(leaf: Site[Compute]) -> Iterator[tuple[At, Loop]]:
    """The loops around a leaf, then its private ones, outermost first, with their places."""
    yield from ((site.at, site.node) for site in leaf.loops)
    yield from private(leaf)


def holds(at: At, loop: Loop) -> Iterator[tuple[At, Hold]]:
    """The holds on the loop at a place, with theirs."""
    key, path = at
    for i, hold in enumerate(loop.holds):
        yield ((*key, "holds", i), f"{path}.hold {hold.tensor}"), hold


def of_type(every: Iterable[Site[Node]], kind: type[M]) -> tuple[Site[M], ...]:
    """The sites whose node is a `kind`, in program order."""
    return tuple(cast("Site[M]", site) for site in every if isinstance(site.node, kind))


def sites(mapping: Mapping) -> Iterator[Site[Node]]:
    """Every node, parents first, in program order."""
    for i, group in enumerate(mapping.groups):
        yield from _sites(group.body, (i,), f"groups.{group.name}", (), None, group)


def _sites(
    body: tuple[Node, ...],
    key: Key,
    path: str,
    loops: tuple[Site[Loop], ...],
    parent: Site[Seq | Pipe] | None,
    group: Group,
) -> Iterator[Site[Node]]:
    for i, node in enumerate(body):
        here = (*key, i)
        match node:
            case Loop():
                site = Site(node, here, f"{path}.{','.join(node.ranks)}", loops, parent, group)
                yield site
                yield from _sites(node.body, here, site.path, (*loops, site), parent, group)
            case Seq() | Pipe():
                site = Site(node, here, f"{path}.{type(node).__name__.lower()}", loops, parent, group)
                yield site
                yield from _sites(node.body, here, site.path, loops, site, group)
            case Compute():
                yield Site(node, here, f"groups.{group.name}.{node.einsum}", loops, parent, group)
            case Move():
                yield Site(node, here, f"groups.{group.name}.move {node.tensor}", loops, parent, group)


class Report:
    """Collects problems of one mapping, each at the line of its node if the mapping came from a file."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self.problems: list[Problem] = []

    def add(self, at: At, what: str, got: object = "", hint: str = "") -> None:
        """A problem at a place; the same problem is reported once."""
        key, path = at
        known = next((key[:n] for n in range(len(key), 0, -1) if key[:n] in self.mapping.places), None)
        file, line = self.mapping.places[known] if known else ("", 0)
        problem = Problem(what, file, line, path=path, got=str(got), hint=hint)
        if problem not in self.problems:
            self.problems.append(problem)

    def known(self, at: At, kind: str, name: str, options: Iterable[str]) -> None:
        """A problem unless `name` is one of `options`."""
        if name not in options:
            self.add(at, f"unknown {kind}", name, suggest(name, options))
