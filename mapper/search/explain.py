"""Why a group fits nowhere: the tensor, the memory, the missing bytes, and the smallest change that helps."""

from __future__ import annotations

from dataclasses import replace

from arch.machine import Array, Machine, Memory, Node
from einsum.problems import Problem
from mapper.search.build import Choice, mapping_of
from mapper.search.group import Group
from mapper.work import group_works

STEPS = 48  # halvings of the interval in which the smallest capacity lies


def explain(group: Group, space) -> list[Problem]:
    """One problem for each memory whose capacity alone stands in the way; one in all if no single one does."""
    limited = [m.name for m in group.machine.memories if m.capacity_bytes is not None]
    found = [problem for name in limited if (problem := _smallest(group, space, name))]
    what = f"{', '.join(group.names)} cannot be mapped, whatever the capacity of any one memory"
    return found or [Problem(what, path=group.machine.name)]


def _smallest(group: Group, space, memory: str) -> Problem | None:
    """The least capacity of a memory with which the group has a mapping."""
    has = group.machine.memory(memory).capacity_bytes or 0.0
    if (choice := _best(group, space, memory, None)) is None:
        return None
    low, high = has, _held(choice, memory, space.buffers)[0]
    for _ in range(STEPS):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        other = _best(group, space, memory, middle)
        low, high, choice = (low, min(middle, high), other) if other else (middle, high, choice)
    needed, tensor, size = _held(choice, memory, space.buffers)
    what = f"{tensor} does not fit {memory}: {needed - has:g} bytes are missing, as {needed:g} have to be held at once"
    hint = f"{memory} with a capacity of {needed:g} B"
    return Problem(what, path=", ".join(group.names), got=f"{has:g} bytes, {size:g} of them for {tensor}", hint=hint)


def _best(group: Group, space, memory: str, capacity: float | None) -> Choice | None:
    from mapper.search.solve import Solver

    machine = replace(group.machine, root=_resized(group.machine.root, memory, capacity))
    return Solver(space).best(Group(group.workload, machine, group.names), "energy")


def _resized(node: Node, memory: str, capacity: float | None) -> Node:
    if isinstance(node, Memory | Array):
        node = replace(node, children=tuple(_resized(child, memory, capacity) for child in node.children))
    if isinstance(node, Memory) and node.name == memory:
        node = replace(
            node, capacity_bytes=capacity, access_bytes=min(node.access_bytes, capacity or node.access_bytes)
        )
    return node


def _held(choice: Choice, memory: str, buffers: int) -> tuple[float, str, float]:
    """(bytes that a memory holds, the tensor that takes most of them, its bytes)."""
    machine: Machine = choice.group.machine
    works = group_works(mapping_of("trial", [choice], buffers), choice.group.workload, machine)
    sizes: dict[str, float] = {}
    for hold, _, size in works[0].footprints:
        if hold.memory == memory:
            sizes[hold.tensor] = sizes.get(hold.tensor, 0.0) + size
    largest = max(sizes, key=sizes.__getitem__)
    return sum(sizes.values()), largest, sizes[largest]
