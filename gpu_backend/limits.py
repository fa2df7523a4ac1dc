"""What no kernel can be generated for, each thing with its reason (SEMANTICS 7.2)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from einsum.affine import Affine, affine
from einsum.cascade import Access, Apply, Einsum, Guard, Name, Num, Workload, walk
from einsum.ops import REDUCE_OPS, is_view
from einsum.problems import InputError, Problem
from einsum.show import show_expr
from gpu_backend.plan import Plan, factors, is_dot, maximum, refusal, source, structure
from mapper.mapping import Compute, Greedy, Leaf, Loop, Mapping, Pipe, leaves

DTYPES = ("bf16", "fp16", "fp32", "tf32")
OPERATIONS = ("+", "-", "*", "/", "max", "min", "exp")
REDUCTIONS = ("add", "max", "min")
MIN_DOT = 16  # smallest side of a block that a matrix unit takes
MAX_SLICE = 2**31  # elements that a 32-bit offset reaches from a program's base address


def plan(workload: Workload, mapping: Mapping) -> Plan:
    """The kernel's structure; InputError with every reason why this mapping of this cascade has none."""
    if found := list(mapping_problems(workload, mapping)):
        raise InputError(found)
    if found := [*_gathers(workload), *_loads_unheld(workload, mapping)]:
        raise InputError(found)
    made = structure(workload, mapping)
    if found := list(_cascade_problems(made)):
        raise InputError(found)
    return made


def mapping_problems(workload: Workload, mapping: Mapping) -> Iterator[Problem]:
    """What the mapping asks for that is not generated."""
    if len(mapping.groups) != 1:
        yield refusal("groups", "one fused group is one kernel", len(mapping.groups))
    every = tuple(leaves(mapping))
    loops = max((leaf.loops for leaf in every), key=len, default=())
    spatial = [loop for loop in loops if loop.over]
    if not spatial or loops[:1] != tuple(spatial):
        got = [loop.over or "temporal" for loop in loops]
        yield refusal("loops", "the outermost loop, and no other, is spatial: its iterations are the programs", got)
    if len(loops) - len(spatial) > 1 or any(len(loop.ranks) > 1 for loop in loops if not loop.over):
        yield refusal("loops", "at most one temporal loop, over one rank", [loop.ranks for loop in loops])
    for loop in loops:
        yield from _loop_problems(loop)
    for leaf in every:
        yield from _leaf_problems(workload, leaf, loops)
    computed = [leaf.node.einsum for leaf in every if isinstance(leaf.node, Compute)]
    for einsum in workload.cascade.einsums:
        if computed.count(einsum.name) != 1 and not is_view(einsum):
            yield refusal(einsum.name, "every Einsum is computed once", f"{computed.count(einsum.name)} times")


def _loop_problems(loop: Loop) -> Iterator[Problem]:
    path = f"loop {','.join(loop.ranks)}"
    if loop.offset or loop.combine or isinstance(loop.extent, tuple):
        yield refusal(path, "offset, combine and listed extents are not generated")
    for rank, tile in zip(loop.ranks, loop.tile, strict=True):
        if tile & (tile - 1):
            yield refusal(path, f"a block of {rank} has 2^k coordinates", tile)
    for hold in loop.holds:
        if hold.part != 1 or hold.over or hold.along:
            yield refusal(f"{path}: hold {hold.tensor}", "a tile is held whole, by one program")


def _leaf_problems(workload: Workload, leaf: Leaf, loops: tuple[Loop, ...]) -> Iterator[Problem]:
    node = leaf.node
    if not isinstance(node, Compute):
        yield refusal(f"move {node.tensor}", "the compiler places transfers itself")
        return
    if leaf.loops != loops[: len(leaf.loops)] or not leaf.loops:
        yield refusal(node.einsum, "all Einsums share one nest of loops")
    if node.shares or node.stage or (isinstance(leaf.parent, Pipe) and leaf.parent.schedule != Greedy()):
        what = "the compiler schedules a tile's operations itself: shares, stages and static orders cannot be asked for"
        yield refusal(node.einsum, what)
    inner = loops[-1].ranks[:1] if loops else ()
    if node.at and node.at != tuple((rank, "last") for rank in inner):
        yield refusal(node.einsum, "only the last iteration of the tile loop can be asked for", node.at)
    for loop in node.loops:
        cut = any(tile < workload.extent(rank) for rank, tile in zip(loop.ranks, loop.tile, strict=True))
        if loop.over is None and cut:
            yield refusal(node.einsum, "a rank private to an Einsum is one block", (loop.ranks, loop.tile))


def _gathers(workload: Workload) -> Iterator[Problem]:
    for einsum in workload.cascade.einsums:
        if any(isinstance(n, Access) for a in einsum.reads for i in a.indices for n in walk(i)):
            yield refusal(einsum.name, "a gathered index")


def _loads_unheld(workload: Workload, mapping: Mapping) -> Iterator[Problem]:
    """An input that two Einsums read is loaded once, so some loop has to hold it."""
    every = tuple(leaves(mapping))
    held = {hold.tensor for leaf in every for loop in leaf.loops for hold in loop.holds}
    readers: dict[str, list[str]] = {}
    for einsum in workload.cascade.einsums:
        for access in () if is_view(einsum) else einsum.reads:
            if source(workload, access).tensor in workload.cascade.inputs:
                readers.setdefault(access.tensor, []).append(einsum.name)
    for tensor, names in readers.items():
        origin = next(a for n in names for a in workload.cascade[n].reads if a.tensor == tensor)
        if len(names) > 1 and not {tensor, source(workload, origin).tensor} & held:
            yield refusal(tensor, "read more than once and held by no loop", ", ".join(names))


def _cascade_problems(made: Plan) -> Iterator[Problem]:
    """What the cascade needs that is not generated, given the kernel's blocks."""
    workload, cascade = made.workload, made.workload.cascade
    walked = {loop.rank for loop in made.nest.loops if loop.tile == 1}
    for rank, span in made.tiles.items():
        if span & (span - 1):
            yield refusal(f"rank {rank}", "a block has 2^k coordinates", span)
    for name in (*cascade.inputs, *cascade.outputs):
        if workload.dtypes[name] not in DTYPES:
            yield refusal(f"tensor {name}", f"element types are {', '.join(DTYPES)}", workload.dtypes[name])
        if math.prod(workload.extent(r) for r in cascade.tensor[name].ranks if r not in walked) >= MAX_SLICE:
            yield refusal(f"tensor {name}", f"one program's slice stays below {MAX_SLICE} elements")
    for einsum in cascade.einsums:
        yield from _einsum_problems(made, einsum)


def _einsum_problems(made: Plan, einsum: Einsum) -> Iterator[Problem]:
    for operation in _operations(einsum):
        if operation.op not in OPERATIONS:
            yield refusal(einsum.name, f"operations are {' '.join(OPERATIONS)}", operation.op)
        own = made.axes(*(n for n in walk(operation) if isinstance(n, Access)))
        if own and own != made.axes(einsum.output, *map(Name, einsum.reduced)):
            what = "an operation that does not vary along all the Einsum's ranks needs an Einsum of its own"
            yield refusal(einsum.name, what, show_expr(operation))
    if einsum.iterative and einsum.iterative != made.loop:
        what = f"its state is carried along {einsum.iterative}, which has to be the tile loop"
        yield refusal(einsum.name, what, made.loop)
    if split := [r for r in einsum.reduced if r in {loop.rank for loop in made.nest.loops}]:
        yield refusal(einsum.name, f"it reduces over {split[0]}, which is split over programs or iterations")
    if einsum.reduced and einsum.reduce_op not in REDUCTIONS:
        name = REDUCE_OPS[einsum.reduce_op].reduction
        yield refusal(einsum.name, f"reductions are {', '.join(REDUCE_OPS[r].reduction for r in REDUCTIONS)}", name)
    if len(einsum.reduced) > 1:
        yield refusal(einsum.name, "one reduced rank", einsum.reduced)
    if is_dot(einsum):
        yield from _dot_problems(made, einsum)
    for guard in einsum.guards:
        yield from _guard_problems(made, einsum, guard)


def _operations(einsum: Einsum) -> tuple[Apply, ...]:
    """Operations on values, without those of indices."""
    in_indices = {id(n) for a in einsum.reads for i in a.indices for n in walk(i)}
    return tuple(n for n in walk(einsum.expr) if isinstance(n, Apply) and id(n) not in in_indices)


def _dot_problems(made: Plan, einsum: Einsum) -> Iterator[Problem]:
    parts = [f for f in factors(einsum.expr) if not isinstance(f, Num)]
    operands = [f for f in parts if isinstance(f, Access)]
    if len(parts) != 2 or len(operands) != 2:
        yield refusal(einsum.name, "a sum of products has two tensors and constants as factors")
        return
    origins = [source(made.workload, f).tensor for f in operands]
    types = sorted({made.workload.dtypes[t] for t in origins if t in made.workload.cascade.inputs})
    if len(types) != 1:
        yield refusal(einsum.name, "the factors of a matrix product have one element type, that of an input", types)
    sides = [made.axes(f) for f in operands]
    if set(sides[0]) & set(sides[1]) != set(einsum.reduced) or any(len(side) != 2 for side in sides):
        yield refusal(einsum.name, "a matrix product is of two-dimensional blocks that share the reduced rank", sides)
    for rank in dict.fromkeys((*sides[0], *sides[1])):
        if made.tiles[rank] < MIN_DOT:
            got = f"{rank}: {made.tiles[rank]}"
            yield refusal(einsum.name, f"a side of a matrix product has at least {MIN_DOT} coordinates", got)


def _guard_problems(made: Plan, einsum: Einsum, guard: Guard) -> Iterator[Problem]:
    """A guard is an affine inequality that the first tile of every output fulfils somewhere."""
    sizes = made.workload.sizes
    left, right = affine(guard.left, sizes), affine(guard.right, sizes)
    if left is None or right is None or guard.relation not in ("<", "<=", ">", ">="):
        yield refusal(einsum.name, "guards are affine inequalities", guard.relation)
        return
    below = left + right.scaled(-1) if guard.relation in ("<", "<=") else right + left.scaled(-1)
    spatial = [loop.rank for loop in made.nest.loops if loop.axis]
    worst = Affine(below.const, tuple((r, f) for r, f in below.terms if r in spatial))
    strict = guard.relation in ("<", ">")
    if maximum(worst, lambda rank: made.workload.extent(rank) - 1) + strict > 0:
        what = "its guard leaves a row of the first tile without any point, where a running maximum is not a number"
        yield refusal(einsum.name, what)
