"""Where a tensor may be held, without places that another one dominates (SEMANTICS 8.2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations, product

from mapper.search.group import Group, Option, Use, may_hold
from mapper.search.price import Hold

ORDERS = 36  # of the loops of several Einsums
Orders = tuple[tuple[str, ...], ...]


def orders(group: Group) -> Iterator[Orders]:
    """Orders of the loops of each block, batch ranks outermost; around what registers keep one order is enough.

    Several Einsums with more than `ORDERS` orders have the same at each level.
    """
    free = [r for r in group.walked if r not in group.batch]
    fixed = tuple(r for r in group.walked if r in group.batch)
    every = [(*fixed, *p) for p in permutations(free)]
    inner = [(*fixed, *free)] if group.registers else []
    if len(group.names) > 1 and len(every) ** len(group.levels) > ORDERS:
        yield from ((*[order] * len(group.levels), *inner) for order in every)
    else:
        yield from ((*chosen, *inner) for chosen in product(every, repeat=len(group.levels)))


def places(group: Group, use: Use, chosen: Orders) -> tuple[tuple[Hold, ...], ...]:
    """Chains of holds of a tensor, outermost first, in loops of these orders; () leaves it in the root memory."""
    levels: list[list[tuple[Hold, ...]]] = []
    for block, memory in enumerate(group.levels, start=1):
        able = may_hold(group.machine, memory, *use.roles)
        here = [(Hold(memory, block, _outside(chosen[block - 1], use.ranks)),)] if able else []
        needed = able and not group.machine.memory(memory).bypass
        levels.append(here if needed else [(), *here])
    if use.kind == "inner" and group.registers:
        inside, users = frozenset(chosen[-1]), [group.workload.cascade[u] for u in use.users]
        steps = [r for r in use.ranks if r not in group.walked and all(r in e.ranks for e in users)]
        able = [m for m in group.registers if may_hold(group.machine, m, *use.roles)]
        here = [(Hold(m, group.blocks, inside, r),) for m in able for r in (None, *steps)]
        levels.append([(), *here])
    chains = [tuple(hold for part in parts for hold in part) for parts in product(*levels)]
    held = group.carrier not in _added_up(group, use)
    return tuple(chain for chain in chains if (held if chain else not (use.written and len(use.users) > 1)))


def _added_up(group: Group, use: Use) -> tuple[str | None, ...]:
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
    above = {f"{array}.{axis.name}" for array, axis in group.machine.axes(memory)}
    inside = lambda axis, rank: [
        group.machine.axis(a).size for a in option.over(rank)[option.over(rank).index(axis) + 1 :]
    ]
    return tuple((axis, rank, math.prod(inside(axis, rank))) for axis, rank in option.spread if axis in above)


def below(group: Group, option: Option, memory: str) -> bool:
    """Whether the option's unit stands below a memory."""
    return memory in (node.name for node in group.machine.path(option.unit.split("+")[0]))
