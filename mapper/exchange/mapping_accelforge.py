"""Mappings of AccelForge, LoopTrees: each node inside the one before it, and splits into branches."""

from __future__ import annotations

from collections.abc import Iterator

from arch.machine import Array, Machine
from einsum.cascade import Workload
from einsum.ops import is_view
from mapper.exchange.mapping import Made, known
from mapper.exchange.nest import Step, Store, group, touched
from mapper.exchange.source import View
from mapper.mapping import Compute, Group, Loop, Mapping, Node, Pipe, Seq
from mapper.tile import storage


def accelforge(mapping: View, made: Made, name: str) -> Mapping:
    """AccelForge `mapping:`, a LoopTree. What stands above a split without a loop makes groups, with loops a fusion."""
    seen: list[Store] = []
    _branch(mapping.want("nodes"), list(mapping.want("nodes").listed()), made, [], [], seen)
    for store in seen:
        if store not in made.used and store.memory != made.machine.root.name and store.view is not None:
            store.view.note(f"no Einsum inside has {store.tensor}, so {store.memory} need not hold it")
    return made.mapping(name)


def _branch(at: View, nodes: list[View], made: Made, steps: list[Step], stores: list[Store], seen: list[Store]) -> None:
    """Read a list of nodes, each inside the one before it."""
    for i, view in enumerate(nodes):
        match view.tag:
            case "Storage":
                found = list(_stores(view, made, len(steps)))
                stores += found
                seen += found
            case "Temporal" | "Spatial":
                steps.append(_step(view, made))
            case "Nested":
                return _branch(view, [*view.want("nodes").listed(), *nodes[i + 1 :]], made, steps, stores, seen)
            case "Compute":
                return _leaf(view, made, steps, stores)
            case "Sequential" | "Pipeline" | "Split":
                inside = view.want("nodes").listed()
                branches = [list(v.want("nodes").listed()) if v.tag == "Nested" else [v] for v in inside]
                if steps:
                    return _fused(view, branches, made, steps, stores)
                for branch in branches:
                    _branch(view, branch, made, list(steps), list(stores), seen)
                return None
            case "Toll" | "Reservation":
                view.note("has no counterpart", view.tag)
            case _:
                raise view.fail("expected !Storage, !Temporal, !Spatial, !Compute or a split", view.tag)
    raise at.fail("a branch ends without !Compute")


def _stores(view: View, made: Made, depth: int) -> Iterator[Store]:
    component, cascade = view.want("component"), made.workload.cascade
    memory = known(component, [m.name for m in made.machine.memories])
    if (persistent := view.get("persistent")) is not None and persistent.data:
        persistent.note("tensors that persist have no counterpart")
    for tensor in view.want("tensors").listed():
        yield Store(storage(cascade, known(tensor, cascade.tensor)), memory, depth, view)


def _step(view: View, made: Made) -> Step:
    rank, over = view.want("rank_variable"), None
    if view.tag == "Spatial":
        axis, component = view.want("name").text(), view.want("component")
        node = known(component, [n.name for n in made.machine.nodes()] + _array_owners(made.machine))
        arrays = [a for a in made.machine.nodes() if isinstance(a, Array) and a.name in (node, f"{node}_array")]
        if not arrays or axis not in [x.name for x in arrays[0].axes]:
            raise view.want("name").fail(f"{node} has no such fanout", axis)
        over = f"{arrays[0].name}.{axis}"
    if (first := view.get("initial_tile_shape")) is not None:
        first.note("a first tile of another size does not carry over", first.brief())
    return Step(known(rank, made.workload.cascade.ranks), view.want("tile_shape").whole(), over, view)


def _array_owners(machine: Machine) -> list[str]:
    return [n.name.removesuffix("_array") for n in machine.nodes() if n.name.endswith("_array")]


def _leaf(view: View, made: Made, steps: list[Step], stores: list[Store]) -> None:
    """A group of one Einsum. The root memory holds its operands without being told."""
    einsum = made.einsum(view.want("einsum"))
    unit = known(view.want("component"), [u.name for u in made.machine.units])
    if is_view(einsum):
        return view.note(f"{einsum.name} is a copy and computed by nobody here", unit)
    mine, root = touched(einsum, made.workload), made.machine.root.name
    own = [s for s in stores if s.tensor in mine and s.memory != root]
    return made.add(einsum, steps, own, unit, view)


def _fused(view: View, branches: list[list[View]], made: Made, steps: list[Step], stores: list[Store]) -> None:
    """Einsums that share loops: those of one branch alone become the leaf's own, in their order."""
    if any(step.over is not None for step in steps):
        raise view.fail("Einsums fused inside a spatial loop cannot be written here")
    leaves, read = [], []
    for branch in branches:
        own: list[Step] = []
        for at in branch:
            match at.tag:
                case "Temporal" | "Spatial":
                    own.append(_step(at, made))
                case "Storage":
                    found = list(_stores(at, made, len(steps)))
                    if own:
                        at.note("what is held inside one Einsum's own loops cannot be held here", at.tag)
                    else:
                        stores += found
                case "Compute":
                    einsum = made.einsum(at.want("einsum"))
                    unit = known(at.want("component"), [u.name for u in made.machine.units])
                    loops = tuple(Loop((s.rank,), (s.tile,), over=s.over) for s in own)
                    leaves.append(Compute(einsum.name, unit, loops=loops))
                    read += touched(einsum, made.workload)
                case _:
                    raise at.fail("splits inside splits cannot be written here", at.tag)
    if not leaves or len(leaves) != len(branches):
        raise view.fail("a branch ends without !Compute")
    root, own_results = made.machine.root.name, passed(made.workload, [leaf.einsum for leaf in leaves])
    inner = [s for s in stores if s.tensor in read and (s.memory != root or s.tensor in own_results)]
    node: Node = Pipe(tuple(leaves)) if view.tag == "Pipeline" else Seq(tuple(leaves))
    first = made.workload.cascade[leaves[0].einsum]
    shell, places = group(first, steps, inner, leaves[0].unit, made.workload, (len(made.groups), view))
    made.append(Group("+".join(leaf.einsum for leaf in leaves), (_ending(shell.body[0], node),)), places, inner)


def passed(workload: Workload, einsums: list[str]) -> list[str]:
    """Results that the Einsums of a group read, and nobody else: they are only where they are held."""
    cascade = workload.cascade
    outside = {a.tensor for e in cascade.einsums if e.name not in einsums for a in e.reads}
    return [name for name in einsums if name not in outside and name not in cascade.outputs]


def _ending(node: Node, leaf: Node) -> Node:
    """The nest with another innermost node."""
    if isinstance(node, Loop):
        return Loop(node.ranks, node.tile, holds=node.holds, body=(_ending(node.body[0], leaf),))
    return leaf
