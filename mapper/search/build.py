"""The mapping that decisions about groups amount to."""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict, Sequence
from dataclasses import dataclass

from einsum.cascade import Einsum
from mapper import mapping as types
from mapper.mapping import Compute, Loop, Node, Pipe
from mapper.search.group import Group, Option
from mapper.search.price import Hold, temporal


@dataclass(frozen=True)
class Choice:
    """Everything decided about a group, and what it costs."""

    group: Group
    options: Dict[str, Option]
    holds: Dict[str, tuple[Hold, ...]]
    tiles: Dict[str, tuple[int, ...]]  # walked rank -> its tile in each block
    latency: float  # seconds
    energy: float  # joules
    footprint: float  # bytes held, over all memories

    def tile(self, rank: str, block: int) -> int:
        """Coordinates of a rank inside a block's loops; of all of it for block 0."""
        whole = block == 0 or rank not in self.tiles
        return self.group.workload.extent(rank) if whole else self.tiles[rank][block - 1]


@dataclass(frozen=True)
class _Frame:
    """A loop of the nest with its holds."""

    rank: str
    tile: int
    holds: list[types.Hold]


def mapping_of(name: str, choices: Sequence[Choice], buffers: int) -> types.Mapping:
    """The mapping of groups that run one after another."""
    groups: list[types.Group] = []
    for choice in choices:
        after = (groups[-1].name,) if groups else ()
        groups.append(types.Group(choice.group.names[-1], (_nest(choice, buffers),), after))
    workload, machine = choices[0].group.workload, choices[0].group.machine
    partition = tuple((s, n) for s, n in workload.sizes.items() if s == "M0")
    types_of = tuple((t.name, d) for t in workload.cascade.tensors if (d := workload.dtypes[t.name]) != t.dtype)
    return types.Mapping(name, workload.cascade.name, machine.name, tuple(groups), partition, types_of)


def _nest(choice: Choice, buffers: int) -> Node:
    """Loops with holds around a pipe of leaves. A loop of one iteration is left out; its holds stand further out."""
    frames: list[_Frame] = []
    for block in range(1, choice.group.blocks + 1):
        held = [(t, h) for t, holds in choice.holds.items() for h in holds if h.block == block]
        order = _order(choice.group.walked, [h.outside for _, h in held])
        for place in range(len(order) + 1):
            if place and choice.tile(order[place - 1], block) < choice.tile(order[place - 1], block - 1):
                frames.append(_Frame(order[place - 1], choice.tile(order[place - 1], block), []))
            inside = frozenset(order[:place])
            here = [types.Hold(t, h.memory, deep=buffers, along=h.along) for t, h in held if h.outside == inside]
            if here and not frames:
                frames.append(_carrier(choice))
            if here:
                frames[-1].holds.extend(here)
    looped = tuple(dict.fromkeys(frame.rank for frame in frames))
    leaves = tuple(_leaf(e, choice, looped) for e in choice.group.einsums)
    node: Node = Pipe(leaves, open=2, ahead=2)
    for frame in reversed(frames):
        node = Loop((frame.rank,), (frame.tile,), holds=tuple(frame.holds), body=(node,))
    return node


def _carrier(choice: Choice) -> _Frame:
    """A loop of one iteration for holds that stand around all others."""
    assert choice.group.carrier
    return _Frame(choice.group.carrier, choice.tile(choice.group.carrier, 0), [])


def _order(ranks: Sequence[str], outside: Sequence[frozenset[str]]) -> tuple[str, ...]:
    """An order of loops in which each of these nested sets stands first."""
    order: list[str] = []
    for chosen in sorted(set(outside), key=len):
        order += [r for r in ranks if r in chosen and r not in order]
    return (*order, *(r for r in ranks if r not in order))


def _leaf(e: Einsum, choice: Choice, looped: tuple[str, ...]) -> Compute:
    """An Einsum with its own loops: turns in time, what does not vary innermost, then the axes."""
    option, machine = choice.options[e.name], choice.group.machine
    sizes = lambda axes: math.prod(machine.axis(axis).size for axis in axes)
    tile = {r: choice.tile(r, choice.group.blocks) for r in e.ranks}
    loops: list[Loop] = []
    for rank in temporal(e, option, machine):
        if tile[rank] > sizes(option.over(rank)):
            loops.append(Loop((rank,), (sizes(option.over(rank)),)))
    for axis, rank in option.spread:
        axes = option.over(rank)
        below = sizes(axes[axes.index(axis) + 1 :])
        if min(tile[rank], sizes(axes)) > below or axis == axes[-1]:
            loops.append(Loop((rank,), (below,), over=axis))
    return Compute(e.name, option.unit, at=tuple((r, "last") for r in looped if r not in e.ranks), loops=tuple(loops))
