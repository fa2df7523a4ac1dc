"""Mappings as the files of other tools: plain data, and notes on what they have no place for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from arch.document import TAG
from arch.machine import Array, Machine, Memory, Node as MachineNode
from einsum.cascade import Einsum, Workload
from einsum.ops import is_view
from einsum.problems import Problem
from mapper.exchange.mapping_accelforge import passed
from mapper.exchange.nest import Step, Store, steps_of, touched
from mapper.exchange.write import Notes, refuse
from mapper.mapping import Compute, Group, Hold, Loop, Mapping, Pipe, Seq


def _odd(node: Any, default: Any, fields: str, path: str, notes: Notes) -> None:
    """Notes on fields that are not at their defaults and have no place in the other tools."""
    for field in fields.split():
        if (value := getattr(node, field)) != getattr(default, field):
            notes.append(Problem(f"{field} has no place there", path=path, got=str(value)))


def _nest(group: Group, notes: Notes) -> tuple[list[Loop], tuple[Compute, ...], Seq | Pipe | None]:
    """Loops, leaves and what joins them, of a group that is one nest."""
    loops, body, parent = [], group.body, None
    while len(body) == 1 and isinstance(body[0], Loop):
        loops.append(body[0])
        body = body[0].body
    if len(body) == 1 and isinstance(body[0], Seq | Pipe):
        parent, body = body[0], body[0].body
    leaves = tuple(node for node in body if isinstance(node, Compute))
    if len(leaves) != len(body) or not leaves or any(len(loop.ranks) > 1 for loop in loops):
        raise refuse("only loops around Einsums carry over", group.name)
    if any(loop.over is not None for loop in loops):
        raise refuse("a group spread over an array does not carry over: give its leaves the spatial loops", group.name)
    _odd(group, Group("", ()), "share", group.name, notes)
    for loop in (*loops, *(loop for leaf in leaves for loop in leaf.loops)):
        _odd(loop, Loop((), ()), "fill extent offset combine", f"{group.name}.{'.'.join(loop.ranks)}", notes)
        for hold in loop.holds:
            fields = "deep part over spread along users inplace kept"
            _odd(hold, Hold("", ""), fields, f"{group.name}.{hold.tensor} in {hold.memory}", notes)
    for leaf in leaves:
        _odd(leaf, Compute("", ""), "shares stage at", f"{group.name}.{leaf.einsum}", notes)
    if isinstance(parent, Pipe) and (parent.schedule != Pipe(()).schedule):
        notes.append(Problem("its schedule has no place there", path=group.name))
    return loops, leaves, parent


def accelforge_mapping(mapping: Mapping, workload: Workload, machine: Machine, notes: Notes) -> dict[str, Any]:
    """`mapping:`; groups are branches of a split at the top."""
    within = {t for g in mapping.groups for t in passed(workload, [leaf.einsum for leaf in _nest(g, [])[1]])}
    views = {e.name for e in workload.cascade.einsums if is_view(e)}
    top = [_storage([t for t in workload.cascade.tensor if t not in within | views], machine.root.name)]
    branches = [_accelforge_group(group, workload, machine, notes) for group in mapping.groups]
    if len(branches) > 1:
        top.append({TAG: "Sequential", "nodes": [{TAG: "Nested", "nodes": nodes} for nodes in branches]})
    return {"mapping": {"nodes": top + (branches[0] if len(branches) == 1 else [])}}


def _storage(tensors: list[str], memory: str) -> dict[str, Any]:
    return {TAG: "Storage", "tensors": tensors, "component": memory}


def _accelforge_group(group: Group, workload: Workload, machine: Machine, notes: Notes) -> list[dict[str, Any]]:
    loops, leaves, parent = _nest(group, notes)
    if len(leaves) == 1:
        fail = lambda what: refuse(what, group.name)
        steps, stores = steps_of(loops, leaves[0], machine, workload, fail)
        return [*_tree(steps, stores), _compute(leaves[0], notes)]
    outer = [Step(loop.ranks[0], loop.tile[0], None) for loop in loops]
    held = [Store(h.tensor, h.memory, i + 1) for i, loop in enumerate(loops) for h in loop.holds]
    branches = []
    for leaf in leaves:
        own = [Step(r, t, loop.over) for loop in leaf.loops for r, t in zip(loop.ranks, loop.tile, strict=True)]
        branches.append({TAG: "Nested", "nodes": [*_tree(own, ()), _compute(leaf, notes)]})
    return [*_tree(outer, held), {TAG: "Pipeline" if isinstance(parent, Pipe) else "Sequential", "nodes": branches}]


def _tree(steps: Sequence[Step], stores: Iterable[Store]) -> Iterator[dict[str, Any]]:
    waiting = list(stores)
    for depth in range(len(steps) + 1):
        here = [s for s in waiting if s.depth == depth]
        for memory in dict.fromkeys(s.memory for s in here):
            yield _storage([s.tensor for s in here if s.memory == memory], memory)
        if depth < len(steps):
            step = steps[depth]
            array, _, axis = (step.over or "").partition(".")
            where = {"name": axis, "component": array} if step.over else {}
            tag = "Spatial" if step.over else "Temporal"
            yield {TAG: tag, "rank_variable": step.rank, **where, "tile_shape": step.tile}


def _compute(leaf: Compute, notes: Notes) -> dict[str, Any]:
    unit, _, others = leaf.unit.partition("+")
    if others:
        notes.append(Problem(f"one unit computes an Einsum there, {unit}", path=leaf.einsum, got=leaf.unit))
    return {TAG: "Compute", "einsum": leaf.einsum, "component": unit}


def timeloop_mapping(mapping: Mapping, workload: Workload, machine: Machine, notes: Notes) -> dict[str, Any]:
    """`mapping:` of the one leaf: the loops between the holds of one memory and those of the next are its level's."""
    if len(mapping.groups) != 1 or len((nest := _nest(mapping.groups[0], notes))[1]) != 1:
        raise refuse("a Timeloop mapping computes one Einsum", mapping.name)
    loops, (leaf,), _ = nest
    einsum, path = workload.cascade[leaf.einsum], machine.path(leaf.unit.partition("+")[0])
    temporal, spatial = _counted(loops, leaf, einsum, workload)
    depth = [sum(n > 1 for _, n in temporal[: i + 1]) for i in range(len(loops))]
    held = {(hold.tensor, hold.memory): depth[i] for i, loop in enumerate(loops) for hold in loop.holds}
    walked = [(rank, n) for rank, n in temporal if n > 1]
    memories = [n for n in path if isinstance(n, Memory)]
    ends = [*_levels(einsum, memories, held, walked, touched(einsum, workload)), len(walked)]
    start, listed = 0, []
    for i, memory in enumerate(memories):
        listed.append(_directive(memory.name, "temporal", walked[start : ends[i]], einsum))
        start = ends[i]
        tensors = list(touched(einsum, workload))
        keep = [t for t in tensors if i == 0 or (t, memory.name) in held]
        listed.append(
            {"target": memory.name, "type": "bypass", "keep": keep, "bypass": [t for t in tensors if t not in keep]}
        )
        for array in (n for n in path if isinstance(n, Array) and _above(n, path) is memory):
            over = [(r, n) for axis in array.axes for r, n in spatial.get(f"{array.name}.{axis.name}", [])]
            first = len(spatial.get(f"{array.name}.{array.axes[0].name}", []))
            listed.append(_directive(f"inter_{array.name}_spatial", "spatial", over, einsum, first))
    return {"mapping": listed}


def _above(array: Array, path: tuple[MachineNode, ...]) -> Memory:
    return [n for n in path[: path.index(array)] if isinstance(n, Memory)][-1]


def _counted(
    loops: list[Loop], leaf: Compute, einsum: Einsum, workload: Workload
) -> tuple[list[tuple[str, int]], dict[str, list[tuple[str, int]]]]:
    """Iterations of the temporal loops, and of the spatial ones by axis; InputError unless they divide evenly."""
    left = {rank: workload.extent(rank) for rank in einsum.ranks}
    temporal, spatial = [], {}
    for loop in (*loops, *leaf.loops):
        for rank, tile in zip(loop.ranks, loop.tile, strict=True):
            if left[rank] % tile:
                raise refuse(f"tiles of {rank} do not divide it evenly", leaf.einsum)
            made = temporal if loop.over is None else spatial.setdefault(loop.over, [])
            made.append((rank, left[rank] // tile))
            left[rank] = tile
    if any(n != 1 for n in left.values()) or any(loop.over is None for loop in leaf.loops):
        raise refuse("not mapped to single points by loops around the leaf and spatial loops", leaf.einsum)
    return temporal, spatial


def _levels(
    einsum: Einsum,
    memories: list[Memory],
    held: dict[tuple[str, str], int],
    walked: list[tuple[str, int]],
    ranks: dict[str, tuple[str, ...]],
) -> tuple[int, ...]:
    """How many loops stand outside of each memory but the root.

    A level may stand further in than its holds: Timeloop keeps a tensor through loops that do not vary it.
    """

    def hoisted(depth: int, tensor: str, least: int) -> int:
        while depth > least and walked[depth - 1][0] not in ranks[tensor]:
            depth -= 1
        return depth

    possible = []
    for i, memory in enumerate(memories[1:], 1):
        around = {t: max([0, *(held.get((t, m.name), 0) for m in memories[:i])]) for t, m in held if m == memory.name}
        depths = range(len(walked) + 1)
        wanted = [(tensor, least, held[tensor, memory.name]) for tensor, least in around.items()]
        possible.append([d for d in depths if all(d >= n and hoisted(d, t, n) == own for t, n, own in wanted)])
        if not possible[-1]:
            raise refuse(f"no one place of {memory.name} in Timeloop's nest keeps its tensors as long", einsum.name)
    for ends in itertools.product(*possible):
        cuts = [0, *ends, len(walked)]
        blocks = [[r for r, _ in itertools.groupby(walked[a:b], lambda w: w[0])] for a, b in itertools.pairwise(cuts)]
        if sorted(ends) == list(ends) and all(len(set(block)) == len(block) for block in blocks):
            return ends
    raise refuse("a level of Timeloop has one loop a dimension, here there are more", einsum.name)


def _directive(target: str, kind: str, loops: list[tuple[str, int]], einsum: Einsum, split: int = -1) -> dict[str, Any]:
    """Factors and permutation, innermost first; on a spatial level those of the first axis come first."""
    merged: list[tuple[str, int]] = []
    for rank, n in loops:
        if split < 0 and merged and merged[-1][0] == rank:
            merged[-1] = (rank, merged[-1][1] * n)
        else:
            merged.append((rank, n))
    if len(dict(merged)) != len(merged):
        raise refuse("a rank on both axes of an array", einsum.name)
    first, second = (merged[:split], merged[split:]) if split >= 0 else (merged, [])
    order = [r for r, _ in (*first[::-1], *second[::-1])]
    rest = [r for r in einsum.ranks if r not in order]
    factors = [f"{rank.upper()}={dict(merged).get(rank, 1)}" for rank in einsum.ranks]
    made = {"target": target, "type": kind, "factors": factors}
    made["permutation"] = [r.upper() for r in (*order, *rest)]
    return made | ({"split": split} if split >= 0 else {})
