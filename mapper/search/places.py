"""Where a tensor may be held, without places that another one dominates (SEMANTICS 8.2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations, product

from mapper.search.group import Group, Option, Use, may_hold
from mapper.search.price import Hold

ORDERS = 36  # of the loops of several Einsums
Orders = tuple[tuple[str, ...], ...]


def level_orders(group: Group) -> list[tuple[str, ...]]:
    """Orders of the loops of a level, batch ranks outermost."""
    free = [r for r in group.walked if r not in group.batch]
    fixed = tuple(r for r in group.walked if r in group.batch)
    return [(*fixed, *p) for p in permutations(free)]


def orders(group: Group) -> Iterator[Orders]:
    """Orders of the loops of each block of several Einsums; around what registers keep one order is enough.

    Where there are more than `ORDERS`, every level has the same.
    """
    every = level_orders(group)
    inner = [group.walked] if group.registers else []
    if len(every) ** len(group.levels) > ORDERS:
        yield from ((*[order] * len(group.levels), *inner) for order in every)
    else:
        yield from ((*chosen, *inner) for chosen in product(every, repeat=len(group.levels)))


def places(group: Group, use: Use, chosen: Orders) -> tuple[tuple[Hold, ...], ...]:
    """Chains of holds of a tensor, outermost first, in loops of these orders; () leaves it in the root memory."""
    levels = [at_level(group, use, block, chosen[block - 1]) for block in range(1, len(group.levels) + 1)]
    if use.kind == "inner" and group.registers:
        inside, users = frozenset(chosen[-1]), [group.workload.cascade[u] for u in use.users]
        long = [r for r in use.ranks if r not in group.walked and group.workload.extent(r) > 1]
        steps = [r for r in long if all(r in e.ranks for e in users)]
        able = [m for m in group.registers if may_hold(group.machine, m, *use.roles)]
        levels.append((None, *(Hold(m, group.blocks, inside, r) for m in able for r in (None, *steps))))
    chains = (tuple(hold for hold in chain if hold) for chain in product(*levels))
    needed = use.kind == "inner" or (use.written and len(use.users) > 1)
    return tuple(chain for chain in chains if chain or not needed)


def at_level(group: Group, use: Use, block: int, order: tuple[str, ...]) -> tuple[Hold | None, ...]:
    """The ways to keep a tensor at a level, in loops of this order: not at all, or inside of those that vary it."""
    memory = group.levels[block - 1]
    if not may_hold(group.machine, memory, *use.roles):
        return (None,)
    held = (Hold(memory, block, _outside(order, use.ranks)),)
    return (None, *held) if group.machine.memory(memory).bypass else held


def added_up(group: Group, use: Use) -> tuple[str | None, ...]:
    """Ranks along which a tensor is added up or carried: a loop over one of them cannot carry its hold."""
    e = group.workload.cascade[use.tensor] if use.written else None
    return (*e.reduced, e.iterative or "") if e else ()


def _outside(order: tuple[str, ...], ranks: tuple[str, ...]) -> frozenset[str]:
    """Loops outside a hold: all up to the innermost one that varies the tensor.

    To stand outside of a loop that does not vary the tensor moves less and holds no more. To stand outside of one that
    does is a tile that spans the rank, which is another shape.
    """
    last = max((i for i, rank in enumerate(order) if rank in ranks), default=-1)
    return frozenset(order[: last + 1])


def upper(group: Group, option: Option, memory: str) -> tuple[tuple[str, str, int], ...]:
    """How an option spreads over the axes above a memory: (axis, rank, coordinates each instance takes at once)."""
    key = ("upper", option, memory)
    if key not in group.facts:
        above = {f"{array}.{axis.name}" for array, axis in group.machine.axes(memory)}
        inside = lambda axis, rank: [
            group.machine.axis(a).size for a in option.over(rank)[option.over(rank).index(axis) + 1 :]
        ]
        group.facts[key] = tuple((a, r, math.prod(inside(a, r))) for a, r in option.spread if a in above)
    return group.facts[key]


def below(group: Group, option: Option, memory: str) -> bool:
    """Whether the option's unit stands below a memory."""
    key = ("below", option.unit, memory)
    if key not in group.facts:
        group.facts[key] = memory in (node.name for node in group.machine.path(option.unit.split("+")[0]))
    return group.facts[key]
