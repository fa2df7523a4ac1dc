"""The graph of a cascade: which Einsums feed each other, and which form a loop over an iterative rank."""

from __future__ import annotations

from einsum.cascade import Cascade, Einsum


def components(cascade: Cascade) -> tuple[tuple[Einsum, ...], ...]:
    """Strongly connected components in an order in which they can run, each in program order (SEMANTICS 1.5)."""
    import networkx as nx

    graph = nx.DiGraph()
    place = {e.name: i for i, e in enumerate(cascade.einsums)}
    graph.add_nodes_from(place)
    graph.add_edges_from((a.tensor, e.name) for e in cascade.einsums for a in e.reads if a.tensor in place)
    condensed = nx.condensation(graph)
    members = {node: sorted(names, key=place.__getitem__) for node, names in condensed.nodes("members")}
    order = nx.lexicographical_topological_sort(condensed, key=lambda node: place[members[node][0]])
    return tuple(tuple(cascade[name] for name in members[node]) for node in order)


def is_loop(component: tuple[Einsum, ...]) -> bool:
    """Whether the component carries state: it reads what it writes."""
    names = {e.name for e in component}
    return any(a.tensor in names for e in component for a in e.reads)
