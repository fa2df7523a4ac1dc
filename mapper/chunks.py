"""Mappings of ragged experts, one after another, each in chunks of rows (SEMANTICS 4.17).

A mapping of one expert with a given number of rows, which the search finds with proof, becomes one of all experts: each
is walked in chunks of so many rows, and no further than its routing says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from arch.machine import Machine
from einsum.bind import bind
from einsum.cascade import Cascade, Workload
from einsum.compose import renamed
from einsum.problems import InputError, Problem
from mapper.check import check
from mapper.cost import cost
from mapper.kernel_gpu import power_of_two
from mapper.mapping import GUARD, Compute, Group, Hold, Loop, Mapping, Move, Node, Pipe, Seq, leaves
from mapper.place import unit_names
from mapper.search.answer import DEFAULT, Found, proven
from mapper.search.solve import Space
from mapper.tile import length_guards

LEAST = 16  # rows of the smallest chunk


def chunked(
    workload: Workload,
    machine: Machine,
    objective: str = "latency",
    space: Space = DEFAULT,
    told: Callable[[str], None] = lambda message: None,
) -> dict[int, Found]:
    """Rows of a chunk, powers of two up to the busiest expert's -> the mapping whose chunks are the best of one expert
    with so many rows by the objective, costed for the workload's lengths.

    InputError if the workload is none of ragged experts alone, or its lengths are not given.
    """
    _, rank, tensor = _lengths(workload.cascade)
    if tensor not in workload.given:
        raise InputError(Problem(f"the lengths {tensor} are not given: name a routing", path=workload.cascade.name))
    found: dict[int, Found] = {}
    rows, most = LEAST, max(LEAST, power_of_two(int(workload.given[tensor].max())))
    while rows <= most:
        told(f"one expert with {rows} rows {rank}")
        best = proven(one_expert(workload, rows), machine, objective, space, told).found[0].mapping
        mapping = one_by_one(best, workload, machine, rows)
        check(mapping, workload, machine)
        found[rows] = Found(mapping, cost(mapping, workload, machine))
        rows *= 2
    return found


def one_expert(workload: Workload, rows: int) -> Workload:
    """One of the experts, with `rows` rows: the rank of experts is left out, and so are the lengths.

    InputError if the cascade is none of ragged experts alone.
    """
    by, ragged, _ = _lengths(workload.cascade)
    bare = replace(workload.cascade, einsums=tuple(replace(e, guards=()) for e in workload.cascade.einsums))
    read = {a.tensor for e in bare.einsums for a in e.reads} | {e.name for e in bare.einsums}
    bare = replace(bare, tensors=tuple(t for t in bare.tensors if t.name in read))
    try:
        alone = renamed(bare, ranks={by: ()})
    except ValueError as error:
        raise InputError(Problem(f"not ragged experts alone: {error}", path=bare.name)) from error
    sizes = {n: workload.sizes[n] for n in alone.free_sizes} | {ragged.upper(): rows}
    return bind(alone, sizes, {t.name: workload.dtypes[t.name] for t in alone.tensors})


def one_by_one(mapping: Mapping, workload: Workload, machine: Machine, rows: int) -> Mapping:
    """The mapping of one expert with `rows` rows for each expert of the workload, in chunks of so many rows.

    The outermost memory but the root above all units of a group holds the expert's length meanwhile.
    """
    by, rank, tensor = _lengths(workload.cascade)

    def wrapped(group: Group) -> Group:
        units = {u for leaf in leaves(mapping) if leaf.group == group.name for u in _units(leaf.node)}
        above = [n.name for n in machine.path(min(units)) if all(n in machine.path(u) for u in units)]
        memory = next((n for n in above[1:] if n in (m.name for m in machine.memories)), None)
        body = tuple(_bounded(node, rank) for node in group.body)
        if not (isinstance(outer := body[0], Loop) and (outer.ranks, outer.tile) == ((rank,), (rows,))):
            body = (Loop((rank,), (rows,), extent=GUARD, body=body),)
        return replace(group, body=(Loop((by,), (1,), holds=(Hold(tensor, memory),) if memory else (), body=body),))

    name = f"{mapping.name}-{rows}"
    return replace(mapping, name=name, cascade=workload.cascade.name, groups=tuple(map(wrapped, mapping.groups)))


def _units(node: Compute | Move) -> tuple[str, ...]:
    return unit_names(node) if isinstance(node, Compute) else ()


def _bounded(node: Node, rank: str) -> Node:
    """The node with every loop over a rank bounded by its guard."""
    match node:
        case Loop():
            extent = GUARD if rank in node.ranks else node.extent
            return replace(node, extent=extent, body=tuple(_bounded(n, rank) for n in node.body))
        case Seq() | Pipe():
            return replace(node, body=tuple(_bounded(n, rank) for n in node.body))
    return node


def _lengths(cascade: Cascade) -> tuple[str, str, str]:
    """(the rank of experts, the rank of their rows, the tensor of their lengths), those of every Einsum."""
    found = [length_guards(e) for e in cascade.einsums]
    if len(set(found)) != 1 or len(found[0]) != 1 or len(found[0][0][1]) != 1:
        what = "ragged experts are Einsums that all have one guard by a length of each expert"
        raise InputError(Problem(what, path=cascade.name))
    ((rank, (by,), tensor),) = found[0]
    return by, rank, tensor
