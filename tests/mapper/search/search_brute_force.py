"""The space of the search, one mapping at a time: built, checked by `mapper.check`, costed by `mapper.cost`.

Nothing here prices a decision or bounds a cost. A hold may stand anywhere inside the loops that vary its tensor, and
loops in any order, so that what the search leaves out as dominated is tried here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, permutations, product

from search_cases import partial

from einsum.cascade import Workload
from einsum.problems import InputError
from mapper import mapping as types
from mapper.check import check
from mapper.cost import cost
from mapper.mapping import Compute, Leaf, leaves
from mapper.place import Placement
from mapper.search.build import Choice, mapping_of
from mapper.search.group import Group, Illegal, Use, may_hold, role
from mapper.search.price import Hold
from mapper.transfer import _repeats

Point = tuple[float, float]  # latency in seconds, energy in joules
Front = tuple[Point, ...]


def points(group: Group) -> Iterator[Point]:
    """Every mapping of the group's space that is legal."""
    seen = set()
    for choice in choices(group):
        mapping = mapping_of("one", [choice], 1)
        if mapping.groups in seen or not filled(choice):
            continue
        seen.add(mapping.groups)
        if not obeys(mapping, group):
            continue
        try:
            with partial():
                check(mapping, group.workload, group.machine)
        except InputError:
            continue
        result = cost(mapping, group.workload, group.machine)
        yield result.latency_s, result.energy_j


def size(group: Group) -> int:
    """Combinations of decisions, equal mappings counted again."""
    options = math.prod(len(o) for o in group.options.values())
    orders = math.factorial(len(group.walked)) ** len(group.levels)
    shapes = math.prod(len(list(chains(group, rank))) for rank in group.walked)
    one = [tuple(group.walked)] * group.blocks
    return options * orders * shapes * math.prod(len(list(held(group, u, one))) for u in group.uses.values())


def choices(group: Group) -> Iterator[Choice]:
    """Every combination of decisions, legal or not."""
    options = [dict(zip(group.names, o, strict=True)) for o in product(*(group.options[n] for n in group.names))]
    tiles = [dict(zip(group.walked, t, strict=True)) for t in product(*(chains(group, r) for r in group.walked))]
    fixed = [tuple(group.walked)] if group.registers else []
    for orders in product(*([list(permutations(group.walked))] * len(group.levels)), *([fixed] if fixed else [])):
        for chosen in product(*(held(group, use, orders) for use in group.uses.values())):
            holds = dict(zip(group.uses, chosen, strict=True))
            for option, tile in product(options, tiles):
                yield Choice(group, option, holds, tile, 0.0, 0.0, 0.0)


def chains(group: Group, rank: str) -> Iterator[tuple[int, ...]]:
    """Tiles of a rank, a block's dividing those of the block around it."""
    extent = group.workload.extent(rank)
    single = rank in group.batch | group.stepped
    widths = {axis.size for unit in group.machine.units for _, axis in group.machine.axes(unit.name)}
    divide = [t for t in range(1, extent + 1) if extent % t == 0 and (t == 1 or not single)]
    kept = [t for t in divide if t in {1, extent} | widths]
    for chain in product(*([divide] * len(group.levels)), *([kept] if group.registers else [])):
        if all(a % b == 0 for a, b in pairwise(chain)):
            yield chain


def held(group: Group, use: Use, orders) -> Iterator[tuple[Hold, ...]]:
    """Where a tensor may be held: in each buffer or not, and what lives in the group perhaps in registers."""
    parts: list[list[tuple[Hold, ...]]] = []
    for block, (memory, order) in enumerate(zip(group.levels, orders, strict=False), start=1):
        last = max((i for i, r in enumerate(order) if r in use.ranks), default=-1)
        able = may_hold(group.machine, memory, *use.roles)
        here = [(Hold(memory, block, frozenset(order[: n + 1])),) for n in range(last, len(order))] if able else []
        parts.append(here if able and not group.machine.memory(memory).bypass else [(), *here])
    if group.registers and use.kind == "inner":
        users = [group.workload.cascade[u] for u in use.users]
        steps = [r for r in use.ranks if r not in group.walked and all(r in e.ranks for e in users)]
        inside = frozenset(group.walked)
        able = [m for m in group.registers if may_hold(group.machine, m, *use.roles)]
        here = [(Hold(m, group.blocks, inside, r),) for m in able for r in (None, *steps)]
        parts.append([(), *here])
    yield from (tuple(h for part in chain for h in part) for chain in product(*parts))


def obeys(mapping: types.Mapping, group: Group) -> bool:
    """What no rule of legality says: users of what an array's memories hold spread it alike and, where they pass it on
    step by step, walk it outermost; registers that must keep an operand get each element once."""
    own: list[Leaf[Compute]] = [leaf for leaf in leaves(mapping) if isinstance(leaf.node, Compute)]
    place = Placement(group.workload, group.machine, own)
    machine, path = group.machine, lambda leaf: group.machine.path(leaf.node.unit.split("+")[0])
    for hold in (h for loop in own[0].loops for h in loop.holds):
        users = [leaf for leaf in own if leaf.node.einsum in group.uses[hold.tensor].users]
        above = {f"{array}.{axis.name}" for array, axis in machine.axes(hold.memory)}
        inside = [leaf for leaf in users if machine.memory(hold.memory) in path(leaf)]
        if len({tuple((x.over, x.ranks, x.tile) for x in leaf.node.loops if x.over in above) for leaf in inside}) > 1:
            return False
        if users[0] not in inside:
            return False
        for leaf in users if hold.along else ():
            if not leaf.node.loops or (leaf.node.loops[0].ranks, leaf.node.loops[0].over) != ((hold.along,), None):
                return False
    for leaf in own:
        memory, e = machine.memory(place.own_memory(leaf.node.unit.split("+")[0])), place.cascade[leaf.node.einsum]
        needed = [a for a in e.reads if memory.holds and not memory.bypass and role(e, a.tensor) in memory.holds]
        in_time = replace(leaf, node=replace(leaf.node, loops=tuple(x for x in leaf.node.loops if not x.over)))
        if any(_repeats(place, in_time, access) != 1 for access in needed):
            return False
    return True


def filled(choice: Choice) -> bool:
    """Axes above a level with another one inside are filled by the ranks that go over them, or these are whole."""
    group = choice.group
    outer = {f"{array}.{axis.name}" for memory in group.levels[:-1] for array, axis in group.machine.axes(memory)}
    for option in choice.options.values():
        for rank in {r for axis, r in option.spread if axis in outer}:
            tile, axes = choice.tile(rank, group.blocks), option.over(rank)
            spans = [math.prod(group.machine.axis(a).size for a in axes[i:]) for i, a in enumerate(axes) if a in outer]
            if tile != group.workload.extent(rank) and any(tile % span for span in spans):
                return False
    return True


def nondominated(found: set[Point]) -> Front:
    """Fastest first, each with less energy than all before it by more than rounding."""
    kept: list[Point] = []
    for latency, energy in sorted(found):
        if not kept or energy < kept[-1][1] * (1 - 1e-9):
            if kept and latency <= kept[-1][0] * (1 + 1e-9):
                kept.pop()
            kept.append((latency, energy))
    return tuple(kept)


def fronts(workload: Workload, machine, together: int = 16) -> tuple[Front, dict[tuple[str, ...], Front]]:
    """The front over every cut into connected groups, and each group's."""
    known = {names: front(Group(workload, machine, names)) for names in groups(workload, together)}
    every = tuple(e.name for e in workload.cascade.einsums)
    total: set[Point] = set()
    for cut in cuts(every, tuple(known)):
        if ordered(workload, cut):
            sums = {(0.0, 0.0)}
            for names in cut:
                sums = set(nondominated({(a + c, b + d) for a, b in sums for c, d in known[names]}))
            total |= sums
    return nondominated(total), known


def front(group: Group) -> Front:
    """The group's front; empty if it cannot share loops or fits nowhere."""
    try:
        group.check()
    except Illegal:
        return ()
    return nondominated(set(points(group)))


def groups(workload: Workload, together: int) -> Iterator[tuple[str, ...]]:
    """Connected sets of Einsums, in program order."""
    every = workload.cascade.einsums
    for chosen in product([False, True], repeat=len(every)):
        members = [e for e, yes in zip(every, chosen, strict=True) if yes]
        if not members or len(members) > together:
            continue
        joined, todo = {members[0].name}, list(members)
        for _ in todo:
            for e in members:
                near = {a.tensor for a in e.reads} | {x.name for x in members if e.name in {a.tensor for a in x.reads}}
                if near & joined:
                    joined.add(e.name)
        if len(joined) == len(members):
            yield tuple(e.name for e in members)


def cuts(left: tuple[str, ...], known: tuple[tuple[str, ...], ...]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Every way to make the Einsums up from these groups."""
    if not left:
        yield ()
    for names in known:
        if left and left[0] in names and set(names) <= set(left):
            for rest in cuts(tuple(n for n in left if n not in names), known):
                yield (names, *rest)


def ordered(workload: Workload, cut: tuple[tuple[str, ...], ...]) -> bool:
    """Whether the groups can run one after another."""
    done: set[str] = set(workload.cascade.inputs)
    todo = list(cut)
    while todo:
        needs = lambda names: {a.tensor for n in names for a in workload.cascade[n].reads} - set(names)
        ready = [names for names in todo if needs(names) <= done]
        if not ready:
            return False
        done |= {n for names in ready for n in names}
        todo = [names for names in todo if names not in ready]
    return True
