"""The nodes of a mapping with their surroundings, and a report of problems that knows where each node stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from einsum.problems import Problem
from mapper.mapping import Compute, Group, Hold, Key, Loop, Mapping, Move, Node, Pipe, Seq


@dataclass(frozen=True)
class Site:
    """A node, its key and readable path, the loops around it (outermost first), and the pipe or sequence it is in."""

    node: Node
    key: Key
    path: str
    loops: tuple[Site, ...]
    parent: Site | None
    group: Group

    @property
    def nest(self) -> tuple[Loop, ...]:
        """The loops around the node and, of a `Compute`, its private ones."""
        private = self.node.loops if isinstance(self.node, Compute) else ()
        return (*(site.node for site in self.loops), *private)

    @property
    def holds(self) -> Iterator[tuple[Key, Hold]]:
        """The holds of a loop with their keys."""
        return (((*self.key, "holds", i), hold) for i, hold in enumerate(self.node.holds))


def sites(mapping: Mapping) -> Iterator[Site]:
    """Every node, parents first, in program order."""
    for i, group in enumerate(mapping.groups):
        yield from _sites(group.body, (i,), f"groups.{group.name}", (), None, group)


def _sites(
    body: tuple[Node, ...], key: Key, path: str, loops: tuple[Site, ...], parent: Site | None, group: Group
) -> Iterator[Site]:
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

    def add(self, at: Site | Key, what: str, path: str = "", got: object = "", hint: str = "") -> None:
        """A problem at a node; `path` defaults to the node's."""
        key = at.key if isinstance(at, Site) else at
        path = path or (at.path if isinstance(at, Site) else "")
        known = next((key[:n] for n in range(len(key), 0, -1) if key[:n] in self.mapping.places), None)
        file, line = self.mapping.places[known] if known else ("", 0)
        problem = Problem(what, file, line, path=path, got=str(got), hint=hint)
        if problem not in self.problems:
            self.problems.append(problem)
