"""Quirk 3 of the FuseMax artifact: partition sizes that overflow 64 bits."""

from __future__ import annotations

import math
from collections.abc import Iterator

from arch.machine import Machine, Memory
from mapper.work import GroupWork, Work

WORD = 2  # bytes
Level = tuple[str, list[tuple[str, int]]]  # a memory, or an axis; its loops as (rank, count)


def overflow(group: GroupWork, machine: Machine, file: str) -> Iterator[tuple[str, float]]:
    """Quirk 3: the artifact's tool takes the elements of a result that a level holds modulo 2^64 on the way, and then
    believes that more partial results are read (and brought) back than are."""
    for work in group.works:
        if not work.classes or work.unit.name == "exp_1d":
            continue
        levels, ranks, kept = _levels(group, work, file), _result_ranks(work), _kept(group, work, file)
        extents = [math.prod(count for rank, count in loops if rank in ranks) for _, loops in levels]
        held = [math.prod(extents[i:]) for i in range(len(levels))]  # elements below each level
        wrapped = true = held[0]
        outermost = True
        for i, (name, _) in enumerate(levels):
            if i:
                before = held[i - 1] if levels[i - 1][0].startswith("axis") else held[i]
                wrapped, true = wrapped * held[i] % 2**64 // before, true * held[i] // before
            if name in kept:
                yield from _missing(machine.memory(name), true - wrapped, outermost)
                outermost = False


def _missing(memory: Memory, elements: int, outermost: bool) -> Iterator[tuple[str, float]]:
    """Energy of reading, and unless it is the outermost level of filling, so many elements more. In registers the
    count is of one instance, which is what quirk 1 charges."""
    accesses = elements * WORD / memory.access_bytes
    yield memory.name, accesses * (memory.read_energy_j + (0 if outermost else memory.write_energy_j))


def _levels(group: GroupWork, work: Work, file: str) -> list[Level]:
    """The artifact's levels for an Einsum, outermost first. Loops inside those that bring something into the buffer
    are the buffer's; a row of the softmax is a step of the outermost level."""
    fills = [t.depth for t in group.transfers if t.kind == "fill" and t.target == "buffer" and t.source == "dram"]
    depth = max(fills, default=len(group.nest.loops))
    around = [(loop.rank, loop.count) for loop in group.nest.loops]
    outer, inner = around[:depth], around[depth:]
    axes: list[Level] = []
    ranks = work.einsum.ranks
    left = {rank: group.nest.extent(rank) for rank in ranks}
    for loop in work.leaf.node.loops:
        for rank, tile in zip(loop.ranks, loop.tile, strict=True):
            count, left[rank] = math.ceil(left[rank] / tile), min(left[rank], tile)
            if loop.over:
                axes.append((f"axis {loop.over}", [(rank, count)]))
            elif rank == "p" and work.name in ("GM", "SN", "SD", "A"):
                outer.append((rank, count))
            else:
                inner.append((rank, count))
    mine = lambda loops: [(rank, count) for rank, count in loops if rank in ranks]
    through = work.unit.name == "pe_2d" and file in ("arch", "binding", "linear")
    passing: list[Level] = [("regs_1d", [])] if through else []
    own = "regs_2d" if work.unit.name == "pe_2d" else "regs_1d"
    return [("dram", mine(outer)), ("buffer", mine(inner)), *passing, *axes, (own, [])]


def _result_ranks(work: Work) -> tuple[str, ...]:
    """Ranks of an Einsum's result in the artifact's problem file (quirk 4: SLNV lacks M)."""
    return tuple(r for r in work.einsum.output_ranks if (work.name, r) != ("SLNV", "m1"))


def _kept(group: GroupWork, work: Work, file: str) -> set[str]:
    """On-chip levels that keep an Einsum's result: the lanes' registers (of both arrays, where it crosses over) and
    the buffer where it is held. DRAM is charged by traffic."""
    own = "regs_2d" if work.unit.name == "pe_2d" else "regs_1d"
    leaving = [t for t in group.transfers if t.tensor == work.name and t.kind in ("drain", "write")]
    ends = {place for t in leaving for place in (t.source, t.target)}
    return {own} | (ends & {"buffer"}) | (ends & {"regs_1d"} if file in ("arch", "binding") else set())
