"""What no kernel can be generated for, each thing with its reason (SEMANTICS 7.2)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from arch.machine import Machine
from einsum.affine import affine
from einsum.cascade import Access, Apply, Einsum, Guard, Name, Num, Workload, factors, walk
from einsum.ops import REDUCE_OPS, is_view
from einsum.problems import InputError, Problem
from einsum.show import show_expr
from gpu_backend import descriptor
from gpu_backend.base2 import is_root
from gpu_backend.grid import RESERVED, group_problem, merged
from gpu_backend.plan import Plan, Section, in_memory, refusal, source, stored_ranks, structures
from mapper.handover import kept
from mapper.mapping import Compute, Greedy, Group, Leaf, Loop, Mapping, Pipe, leaves
from mapper.tile import chosen

DTYPES = ("bf16", "fp16", "fp32", "tf32", "e4m3", "e5m2", "int32")
COMPOUND = ("sigmoid", "silu", "gelu")  # each made of several operations
FUNCTIONS = ("exp", "sqrt", "log", *COMPOUND)
OPERATIONS = ("+", "-", "*", "/", "max", "min", "eq", *FUNCTIONS)
REDUCTIONS = ("add", "max", "min")
MIN_DOT = 16  # smallest side of a block that a matrix unit takes
MIN_SUM = 32  # least that a product of 8-bit factors adds up
MAX_SLICE = 2**31  # elements that a 32-bit offset reaches from a program's base address


def plans(workload: Workload, mapping: Mapping, machine: Machine | None = None) -> tuple[Plan, ...]:
    """The kernels' structure; InputError with every reason why this mapping of this cascade has none."""
    if found := list(mapping_problems(workload, mapping)):
        raise InputError(found)
    if found := list(_loads_unheld(workload, mapping)):
        raise InputError(found)
    made = structures(workload, mapping, machine)
    if found := list(dict.fromkeys(p for plan in made for p in _plan_problems(plan))):
        raise InputError(found)
    return made


def mapping_problems(workload: Workload, mapping: Mapping) -> Iterator[Problem]:
    """What the mapping asks for that is not generated."""
    every = tuple(leaves(mapping))
    for group in mapping.groups:
        yield from _group_problems(workload, group, [leaf for leaf in every if leaf.group == group.name])
    computed = [leaf.node.einsum for leaf in every if isinstance(leaf.node, Compute)]
    for einsum in workload.cascade.einsums:
        if computed.count(einsum.name) != 1 and not is_view(einsum):
            yield refusal(einsum.name, "every Einsum is computed once", f"{computed.count(einsum.name)} times")


def _group_problems(workload: Workload, group: Group, every: list[Leaf]) -> Iterator[Problem]:
    loops = max((leaf.loops for leaf in every), key=len, default=())
    spatial = [loop for loop in loops if loop.over]
    path = f"loops of {group.name}"
    if not spatial or loops[:1] != tuple(spatial):
        got = [loop.over or "temporal" for loop in loops]
        yield refusal(path, "the outermost loop, and no other, is spatial: its iterations are the programs", got)
    if len(loops) - len(spatial) > 1 or any(len(loop.ranks) > 1 for loop in loops if not loop.over):
        yield refusal(path, "at most one temporal loop, over one rank", [loop.ranks for loop in loops])
    for loop in loops:
        yield from _loop_problems(loop)
    for leaf in every:
        yield from _leaf_problems(workload, leaf, loops)


def _loop_problems(loop: Loop) -> Iterator[Problem]:
    path = f"loop {','.join(loop.ranks)}"
    if loop.offset or loop.combine or isinstance(loop.extent, tuple):
        yield refusal(path, "offset, combine and listed extents are not generated")
    if problem := group_problem(loop):
        yield refusal(path, problem)
    for rank, tile in zip(merged(loop).ranks, merged(loop).tile, strict=True):
        if tile & (tile - 1):
            yield refusal(path, f"a block of {rank} has 2^k coordinates", tile)
    for hold in loop.holds:
        if hold.part != 1 or hold.over or hold.along:
            yield refusal(f"{path}: hold {hold.tensor}", "a tile is held whole, by one program")


def _leaf_problems(workload: Workload, leaf: Leaf, loops: tuple[Loop, ...]) -> Iterator[Problem]:
    node = leaf.node
    if not isinstance(node, Compute):
        memories = {hold.memory for loop in loops for hold in loop.holds}
        if node.unit or node.stage or {node.source, node.target} <= memories:
            what = "only what the copy engine moves between device memory and the chip: no unit, no stage"
            yield refusal(f"move {node.tensor}", what, f"{node.source} -> {node.target}")
        return
    if leaf.loops != loops or not leaf.loops:
        yield refusal(node.einsum, "all Einsums of a group share one nest of loops")
    if node.shares or node.stage or (isinstance(leaf.parent, Pipe) and leaf.parent.schedule != Greedy()):
        what = "the compiler schedules a tile's operations itself: shares, stages and static orders cannot be asked for"
        yield refusal(node.einsum, what)
    inner = loops[-1].ranks[:1] if loops else ()
    if len(node.at) > 1 or any(rank not in inner for rank, _ in node.at):
        yield refusal(node.einsum, "only an iteration of the tile loop can be asked for", node.at)
    for loop in node.loops:
        cut = any(tile < workload.extent(rank) for rank, tile in zip(loop.ranks, loop.tile, strict=True))
        if loop.over is None and cut:
            yield refusal(node.einsum, "a rank private to an Einsum is one block", (loop.ranks, loop.tile))


def _loads_unheld(workload: Workload, mapping: Mapping) -> Iterator[Problem]:
    """A tensor in memory that two Einsums of a group read alike is loaded once, so some loop has to hold it."""
    for group in mapping.groups:
        every = [leaf for leaf in leaves(mapping) if leaf.group == group.name]
        names = {leaf.node.einsum for leaf in every if isinstance(leaf.node, Compute)}
        held = {hold.tensor for leaf in every for loop in leaf.loops for hold in loop.holds}
        readers: dict[Access, list[str]] = {}
        for einsum in workload.cascade.einsums:
            for access in einsum.reads if einsum.name in names else ():
                if source(workload, access).tensor not in names:
                    readers.setdefault(access, []).append(einsum.name)
        for access, found in readers.items():
            if len(set(found)) > 1 and not {access.tensor, source(workload, access).tensor} & held:
                yield refusal(access.tensor, "read more than once and held by no loop", ", ".join(found))


def _plan_problems(made: Plan) -> Iterator[Problem]:
    """What the cascade needs that is not generated, given the kernel's blocks."""
    workload, cascade = made.workload, made.workload.cascade
    walked = {loop.rank for loop in made.loops if loop.tile == 1}
    for rank, span in made.tiles.items():
        if span & (span - 1):
            yield refusal(f"rank {rank}", "a block has 2^k coordinates", span)
    for index in (index for load in made.loads for index in load.access.indices):
        if len(made.axes(index)) > 1:
            yield refusal(show_expr(index), "an index that combines two axes of a block", made.axes(index))
    for name in (*cascade.ranks, *cascade.tensor):
        if name in RESERVED:
            yield refusal(name, "a kernel has a variable of this name")
    for section in made.sections:
        yield from _section_problems(made, section)
    yield from descriptor.problems(made)
    for name in dict.fromkeys((*(load.access.tensor for load in made.loads), *made.stored)):
        if workload.dtypes[name] not in DTYPES:
            yield refusal(f"tensor {name}", f"element types are {', '.join(DTYPES)}", workload.dtypes[name])
        if math.prod(workload.extent(r) for r in stored_ranks(cascade, name) if r not in walked) >= MAX_SLICE:
            yield refusal(f"tensor {name}", f"one program's slice stays below {MAX_SLICE} elements")
    for name in made.einsums:
        yield from _einsum_problems(made, cascade[name])


def _section_problems(made: Plan, section: Section) -> Iterator[Problem]:
    """All sections walk a rank in the same tiles, or none walks it."""
    for loop in section.nest.loops:
        known = next(x for x in made.loops if x.rank == loop.rank)
        if (loop.tile, loop.count) != (known.tile, known.count):
            yield refusal(section.group.name, f"groups of one kernel walk {loop.rank} in the same tiles", loop.tile)
    earlier = {n for s in made.sections[: made.sections.index(section)] for n in s.einsums}
    for name in section.einsums:
        for access in made.workload.cascade[name].reads:
            if access.tensor in earlier and access.tensor not in kept(section.group):
                what = f"{name} reads {access.tensor}, which no hold keeps from the group that computes it"
                yield refusal(section.group.name, what)
    own = {loop.rank for loop in section.nest.loops}
    for loop in made.loops:
        ranks = {r for n in section.einsums for r in made.workload.cascade[n].ranks}
        if loop.rank in ranks and loop.rank not in own:
            yield refusal(section.group.name, f"it has {loop.rank} whole, another group of the kernel walks it")


def _einsum_problems(made: Plan, einsum: Einsum) -> Iterator[Problem]:
    if einsum.topk:
        yield from _choice_problems(made, einsum)
    for operation in _operations(einsum):
        if operation.op not in OPERATIONS:
            yield refusal(einsum.name, f"operations are {' '.join(OPERATIONS)}", operation.op)
        elif operation.op in COMPOUND and not isinstance(operation.args[0], Access):
            yield refusal(einsum.name, f"{operation.op} is applied to a tensor", show_expr(operation))
        elif operation.op == "eq" and not _is_one_hot(made, operation):
            yield refusal(einsum.name, "eq compares a coordinate with an int32 element", show_expr(operation))
        own = made.axes(operation)
        if own and own != made.axes(einsum.output, *map(Name, einsum.reduced)):
            what = "an operation that does not vary along all the Einsum's ranks needs an Einsum of its own"
            yield refusal(einsum.name, what, show_expr(operation))
    section = made.section(einsum.name)
    walked = section.loop.rank if section.loop else None
    if einsum.iterative and einsum.iterative != walked:
        what = f"its state is carried along {einsum.iterative}, which has to be the tile loop"
        yield refusal(einsum.name, what, walked)
    split = [loop.rank for loop in made.spatial if loop.count > 1 and loop.rank in einsum.reduced]
    if split:
        yield refusal(einsum.name, f"it reduces over {split[0]}, which is split over programs")
    yield from _reduction_problems(made, einsum)
    for guard in einsum.guards:
        yield from _guard_problems(made, einsum, guard)


def _is_one_hot(made: Plan, operation: Apply) -> bool:
    """Whether it is 1 at the coordinate that a tensor names, and 0 elsewhere."""
    rank, chosen_by = operation.args
    whole = isinstance(chosen_by, Access) and made.workload.dtypes[chosen_by.tensor] == "int32"
    return whole and isinstance(rank, Name) and rank.name in made.tiles


def _choice_problems(made: Plan, einsum: Einsum) -> Iterator[Problem]:
    """A top-k is taken of a tensor, along one rank that stands whole in a block."""
    ranks = einsum.topk.ranks if einsum.topk else ()
    if not isinstance(einsum.expr, Access) or not chosen(made.workload, einsum.name):
        yield refusal(einsum.name, "a top-k chooses a fixed number of a tensor's values along one rank", ranks)
    for rank in ranks:
        if made.tiles.get(rank, 1) < made.workload.extent(rank):
            yield refusal(einsum.name, f"a top-k along {rank}, which is walked in tiles", made.tiles.get(rank, 1))


def _reduction_problems(made: Plan, einsum: Einsum) -> Iterator[Problem]:
    if einsum.reduced and einsum.reduce_op not in REDUCTIONS:
        name = REDUCE_OPS[einsum.reduce_op].reduction
        yield refusal(einsum.name, f"reductions are {', '.join(REDUCE_OPS[r].reduction for r in REDUCTIONS)}", name)
    if len(made.axes(*map(Name, einsum.reduced))) > 1:
        yield refusal(einsum.name, "one reduced rank in a block", einsum.reduced)
    if made.accumulates(einsum) and is_root(einsum, made.scaled):
        yield refusal(einsum.name, "logits that a tile loop adds up: their factor log2(e) has no place yet")
    if made.is_dot(einsum):
        yield from _dot_problems(made, einsum)


def _operations(einsum: Einsum) -> tuple[Apply, ...]:
    """Operations on values, without those of indices."""
    in_indices = {id(n) for a in einsum.reads for i in a.indices for n in walk(i)}
    return tuple(n for n in walk(einsum.expr) if isinstance(n, Apply) and id(n) not in in_indices)


def _dot_problems(made: Plan, einsum: Einsum) -> Iterator[Problem]:
    parts = [f for f in factors(einsum.expr) if not isinstance(f, Num)]
    operands = [f for f in parts if isinstance(f, Access)]
    if len(parts) != 2:
        yield refusal(einsum.name, "a matrix product has two tensors and constants as factors")
        return
    if made.accumulates(einsum) and len(factors(einsum.expr)) > 2:
        yield refusal(einsum.name, "a product that a tile loop adds up has no constant factor")
    types = sorted({made.workload.dtypes[t] for t in _loaded(made, operands)})
    if len(types) > 1:
        yield refusal(einsum.name, "the factors of a matrix product have one element type, that of an input", types)
    for rank in dict.fromkeys(r for f in operands for r in made.axes(f)):
        if made.tiles[rank] < MIN_DOT:
            got = f"{rank}: {made.tiles[rank]}"
            yield refusal(einsum.name, f"a side of a matrix product has at least {MIN_DOT} coordinates", got)
        elif types in (["e4m3"], ["e5m2"]) and rank in einsum.reduced and made.tiles[rank] < MIN_SUM:
            what = f"a matrix product of {types[0]} adds up at least {MIN_SUM} coordinates"
            yield refusal(einsum.name, what, f"{rank}: {made.tiles[rank]}")


def _loaded(made: Plan, operands: list[Access]) -> list[str]:
    """The tensors in memory that operands are loaded from."""
    read = {load.read for load in made.loads}
    return [in_memory(made.workload, f).tensor for f in operands if f in read]


def _guard_problems(made: Plan, einsum: Einsum, guard: Guard) -> Iterator[Problem]:
    sizes = made.workload.sizes
    plain = all(isinstance(side, Access) or affine(side, sizes) for side in (guard.left, guard.right))
    if not plain or guard.relation not in ("<", "<=", ">", ">="):
        yield refusal(
            einsum.name, "guards are affine inequalities, or compare with an element of a tensor", guard.relation
        )
