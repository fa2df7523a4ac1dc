"""From a mapping to the shape of a kernel: launch grid, tile loop, register blocks, loads; or why there is none.

The thin slice: one group, one linearised spatial loop of programs, at most one temporal tile loop with carried state,
everything between loads and stores in registers. SEMANTICS 7.1 and 7.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from einsum.affine import Affine, affine
from einsum.cascade import Access, Apply, Einsum, Expr, Guard, Name, Num, Workload, rank_variables, walk
from einsum.ops import REDUCE_OPS, is_view
from einsum.problems import InputError, Problem
from gpu_backend.base2 import scaled_tensors
from mapper.mapping import Compute, Greedy, Leaf, Loop, Mapping, Pipe, leaves
from mapper.nest import Nest, nest

DTYPES = ("bf16", "fp16", "fp32", "tf32")
OPERATIONS = ("+", "-", "*", "/", "max", "min", "exp")
REDUCTIONS = ("add", "max", "min")
MIN_DOT = 16  # smallest side of a block that a matrix unit takes
MAX_SLICE = 2**31  # elements that a 32-bit offset reaches from a program's base address


@dataclass(frozen=True, slots=True)
class Load:
    """A tile of an input, read through `access` into the variable `name`; once a program, or once an iteration."""

    name: str  # of the input, or of the view that partitions it
    access: Access  # of the input, its indices in rank variables
    inside: bool


@dataclass(frozen=True)
class Plan:
    """A kernel's structure. Einsums stand before, inside and after the tile loop, in the mapping's order."""

    workload: Workload
    mapping: Mapping
    nest: Nest  # the spatial ranks, then the rank of the tile loop, if any
    before: tuple[str, ...]
    inside: tuple[str, ...]
    after: tuple[str, ...]
    loads: tuple[Load, ...]
    stages: int  # buffers of a tile that the loop's loads fill
    warps: int  # among which a block is dealt out

    @cached_property
    def tiles(self) -> dict[str, int]:
        """Rank -> coordinates of it that a register block spans, for ranks with an axis in blocks, in axis order."""
        looped = {loop.rank: loop.tile for loop in self.nest.loops}
        order = dict.fromkeys((*looped, *self.workload.cascade.ranks))
        spans = {r: looped.get(r, self.workload.extent(r)) for r in order}
        return {r: span for r, span in spans.items() if r not in looped or span > 1}

    @property
    def grid(self) -> int:
        """Programs of a launch."""
        return math.prod(loop.count for loop in self.nest.loops if loop.axis)

    @property
    def loop(self) -> str | None:
        """The rank of the tile loop."""
        last = self.nest.loops[-1]
        return None if last.axis else last.rank

    @cached_property
    def scaled(self) -> frozenset[str]:
        return scaled_tensors(self.workload.cascade)

    def axes(self, ranks: tuple[str, ...]) -> tuple[str, ...]:
        """The block axes of a value that varies along `ranks`, in axis order."""
        return tuple(r for r in self.tiles if r in ranks)

    def einsum_axes(self, einsum: Einsum) -> tuple[str, ...]:
        return self.axes(rank_variables(einsum.output))

    def last(self, rank: str) -> int:
        """The greatest coordinate that a block of the rank covers, in bounds or not."""
        loops = [loop for loop in self.nest.loops if loop.rank == rank]
        return loops[0].count * loops[0].tile - 1 if loops else self.workload.extent(rank) - 1

    def bounds(self, access: Access) -> tuple[Guard, ...]:
        """The conditions `index < size` that some coordinate of some tile breaks."""
        found = []
        for index, rank in zip(access.indices, self.workload.cascade.tensor[access.tensor].ranks, strict=True):
            form = affine(index, self.workload.sizes)
            if form and maximum(form, self.last) >= self.workload.extent(rank):
                found.append(Guard(index, "<", Name(rank.upper())))
        return tuple(found)


def maximum(form: Affine, last: Callable[[str], int]) -> int:
    """The greatest value of an affine form over coordinates 0..last(rank)."""
    return form.const + sum(factor * last(rank) for rank, factor in form.terms if factor > 0)


def source(workload: Workload, access: Access) -> Access:
    """The access of an input that an access of a chain of views amounts to."""
    cascade = workload.cascade
    while access.tensor in cascade and is_view(cascade[access.tensor]):
        view = cascade[access.tensor]
        assert isinstance(view.expr, Access)
        if view.output.indices != access.indices:
            raise _refusal(access.tensor, "a view is read at the indices that it is defined at")
        access = view.expr
    return access


def plan(workload: Workload, mapping: Mapping) -> Plan:
    """The kernel's structure; InputError with every reason why this mapping has none."""
    found = list(_mapping_problems(workload, mapping))
    if found:
        raise InputError(found)
    every = tuple(leaves(mapping))
    loops = max((leaf.loops for leaf in every), key=len)
    where: dict[str, list[str]] = {"before": [], "inside": [], "after": []}
    for leaf in every:
        assert isinstance(leaf.node, Compute)
        inside = len(leaf.loops) == len(loops) and not leaf.node.at and loops[-1].over is None
        where["inside" if inside else "after" if where["inside"] else "before"].append(leaf.node.einsum)
    parts = {name: tuple(names) for name, names in where.items()}
    deep = [hold.deep for loop in loops if loop.over is None for hold in loop.holds if hold.tensor]
    warps = max((_warps(workload, leaf, loops) for leaf in every), default=1)
    made = Plan(workload, mapping, nest(loops, workload), **parts, loads=(), stages=max(deep, default=1), warps=warps)
    found = list(_cascade_problems(made))
    if found:
        raise InputError(found)
    return replace(made, loads=tuple(_loads(made, loops)))


def _warps(workload: Workload, leaf: Leaf, loops: tuple[Loop, ...]) -> int:
    """Instances that a leaf's private spatial loops deal its block out to; 4 if it has none."""
    spatial = [loop for loop in getattr(leaf.node, "loops", ()) if loop.over]
    around = {rank: tile for loop in loops for rank, tile in zip(loop.ranks, loop.tile, strict=True)}
    counts = [math.ceil(around.get(r, workload.extent(r)) / t) for x in spatial for r, t in zip(x.ranks, x.tile, strict=True)]
    return math.prod(counts) if counts else 4


def _loads(made: Plan, loops: tuple[Loop, ...]) -> Iterator[Load]:
    """One load for each input or view that is read; outside the tile loop if it does not vary and is held there."""
    cascade = made.workload.cascade
    seen: dict[str, int] = {}
    outside = {hold.tensor for loop in loops if loop.over for hold in loop.holds}
    for name in (*made.before, *made.inside, *made.after):
        for access in cascade[name].reads:
            origin = source(made.workload, access)
            if origin.tensor not in cascade.inputs:
                continue
            seen[access.tensor] = seen.get(access.tensor, 0) + 1
            varies = any(made.loop in rank_variables(i) for i in origin.indices)
            if seen[access.tensor] == 1:
                held = {access.tensor, origin.tensor} & outside
                yield Load(access.tensor, origin, name in made.inside and (varies or not held))


def _refusal(path: str, what: str, got: object = "") -> InputError:
    return InputError(_problem(path, what, got))


def _problem(path: str, what: str, got: object = "") -> Problem:
    return Problem(f"no kernel can be generated: {what}", path=path, got=str(got))


def _mapping_problems(workload: Workload, mapping: Mapping) -> Iterator[Problem]:
    """What the mapping asks for that the thin slice does not generate."""
    if len(mapping.groups) != 1:
        yield _problem("groups", "one fused group is one kernel", len(mapping.groups))
    every = tuple(leaves(mapping))
    loops = max((leaf.loops for leaf in every), key=len, default=())
    spatial = [loop for loop in loops if loop.over]
    if len(spatial) != 1 or loops[0] is not spatial[0]:
        yield _problem("loops", "the outermost loop, and no other, is spatial: its iterations are the programs",
                       [loop.over or "temporal" for loop in loops])
    if len(loops) - len(spatial) > 1 or any(len(loop.ranks) > 1 for loop in loops if not loop.over):
        yield _problem("loops", "at most one temporal loop over one rank", [loop.ranks for loop in loops])
    for loop in loops:
        path = f"loop {','.join(loop.ranks)}"
        if loop.offset or loop.combine or isinstance(loop.extent, tuple):
            yield _problem(path, "offset, combine and listed extents are not generated")
        for rank, tile in zip(loop.ranks, loop.tile, strict=True):
            if tile & (tile - 1):
                yield _problem(path, f"a block of {rank} has 2^k coordinates", tile)
        for hold in loop.holds:
            if hold.part != 1 or hold.over or hold.along:
                yield _problem(f"{path}: hold {hold.tensor}", "a tile is held whole, by one program")
    for leaf in every:
        yield from _leaf_problems(workload, leaf, loops)
    computed = [leaf.node.einsum for leaf in every if isinstance(leaf.node, Compute)]
    for einsum in workload.cascade.einsums:
        if computed.count(einsum.name) != 1 and not is_view(einsum):
            yield _problem(einsum.name, "every Einsum is computed once", f"{computed.count(einsum.name)} times")


def _leaf_problems(workload: Workload, leaf: Leaf, loops: tuple[Loop, ...]) -> Iterator[Problem]:
    node = leaf.node
    if not isinstance(node, Compute):
        yield _problem(f"move {node.tensor}", "the compiler places transfers itself")
        return
    if leaf.loops != loops[: len(leaf.loops)]:
        yield _problem(node.einsum, "all Einsums share one nest of loops")
    if node.shares or node.stage or (isinstance(leaf.parent, Pipe) and leaf.parent.schedule != Greedy()):
        yield _problem(node.einsum, "the compiler schedules a tile's operations itself: shares, stages and static orders "
                       "cannot be asked for")
    inner = loops[-1].ranks[0] if loops else ""
    if node.at and node.at != ((inner, "last"),):
        yield _problem(node.einsum, "an Einsum may be restricted to the last iteration of the tile loop only", node.at)
    for loop in node.loops:
        if loop.over is None and any(tile < workload.extent(rank) for rank, tile in zip(loop.ranks, loop.tile, strict=True)):
            yield _problem(node.einsum, "a rank private to an Einsum is one block", (loop.ranks, loop.tile))


def _cascade_problems(made: Plan) -> Iterator[Problem]:
    """What the cascade needs that the thin slice does not generate, given the kernel's blocks."""
    workload, cascade = made.workload, made.workload.cascade
    for rank, span in made.tiles.items():
        if span & (span - 1):
            yield _problem(f"rank {rank}", "a block has 2^k coordinates", span)
    for name in (*cascade.inputs, *cascade.outputs):
        if workload.dtypes[name] not in DTYPES:
            yield _problem(f"tensor {name}", f"element types are {', '.join(DTYPES)}", workload.dtypes[name])
        sliced = [r for r in cascade.tensor[name].ranks if r in made.tiles or r not in {x.rank for x in made.nest.loops}]
        if math.prod(workload.extent(r) for r in sliced) >= MAX_SLICE:
            yield _problem(f"tensor {name}", f"one program's slice stays below {MAX_SLICE} elements")
    for einsum in cascade.einsums:
        yield from _einsum_problems(made, einsum)


def _einsum_problems(made: Plan, einsum: Einsum) -> Iterator[Problem]:
    loops = {loop.rank for loop in made.nest.loops}
    for node in walk(einsum.expr):
        if isinstance(node, Apply) and node.op not in OPERATIONS and node not in _index_nodes(einsum):
            yield _problem(einsum.name, f"operations are {' '.join(OPERATIONS)}", node.op)
    if any(isinstance(n, Access) for a in einsum.reads for i in a.indices for n in walk(i)):
        yield _problem(einsum.name, "a gathered index")
    if einsum.iterative and einsum.iterative != made.loop:
        yield _problem(einsum.name, f"its state is carried along {einsum.iterative}, which has to be the tile loop", made.loop)
    if split := [r for r in einsum.reduced if r in loops]:
        yield _problem(einsum.name, f"it reduces over {split[0]}, which is split over programs or iterations")
    if einsum.reduced and einsum.reduce_op not in REDUCTIONS:
        yield _problem(einsum.name, f"reductions are {', '.join(REDUCTIONS)}", REDUCE_OPS[einsum.reduce_op].reduction)
    if len(einsum.reduced) > 1:
        yield _problem(einsum.name, "one reduced rank", einsum.reduced)
    if is_dot(einsum):
        yield from _dot_problems(made, einsum)
    for guard in einsum.guards:
        yield from _guard_problems(made, einsum, guard)


def _index_nodes(einsum: Einsum) -> list[Expr]:
    return [n for a in einsum.reads for i in a.indices for n in walk(i)]


def factors(expr: Expr) -> tuple[Expr, ...]:
    """The factors of a product."""
    if isinstance(expr, Apply) and expr.op == "*":
        return factors(expr.args[0]) + factors(expr.args[1])
    return (expr,)


def is_dot(einsum: Einsum) -> bool:
    """A sum of products: what a matrix unit computes, when its operands have the shape for it."""
    return bool(einsum.reduced) and einsum.reduce_op == "add" and len(factors(einsum.expr)) > 1


def _dot_problems(made: Plan, einsum: Einsum) -> Iterator[Problem]:
    operands = [f for f in factors(einsum.expr) if not isinstance(f, Num)]
    if len(operands) != 2 or not all(isinstance(f, Access) for f in operands):
        yield _problem(einsum.name, "a sum of products has two tensors and constants as factors")
        return
    origins = [source(made.workload, f).tensor for f in operands]
    kinds = {made.workload.dtypes[t] for t in origins if t in made.workload.cascade.inputs}
    if len(kinds) != 1:
        yield _problem(einsum.name, "the factors of a matrix product have one element type, that of an input", sorted(kinds))
    sides = [made.axes(rank_variables(f)) for f in operands]
    shared = set(sides[0]) & set(sides[1])
    if shared != set(einsum.reduced) or any(len(side) != 2 for side in sides):
        yield _problem(einsum.name, "a matrix product of two-dimensional blocks that share the reduced rank", sides)
    for rank in (*sides[0], *sides[1]):
        if made.tiles[rank] < MIN_DOT:
            yield _problem(einsum.name, f"a side of a matrix product has at least {MIN_DOT} coordinates",
                           f"{rank}: {made.tiles[rank]}")


def _guard_problems(made: Plan, einsum: Einsum, guard: Guard) -> Iterator[Problem]:
    """A guard is an affine inequality that the first tile of every output fulfils somewhere."""
    sizes = made.workload.sizes
    left, right = affine(guard.left, sizes), affine(guard.right, sizes)
    if isinstance(guard.left, Access) or left is None or right is None or guard.relation not in ("<", "<=", ">", ">="):
        yield _problem(einsum.name, "guards are affine inequalities", guard.relation)
        return
    below = left + right.scaled(-1) if guard.relation in ("<", "<=") else right + left.scaled(-1)
    free = [loop.rank for loop in made.nest.loops if loop.axis]
    worst = Affine(below.const, tuple((r, f) for r, f in below.terms if r in free))
    if maximum(worst, lambda rank: made.workload.extent(rank) - 1) + (guard.relation in ("<", ">")) > 0:
        yield _problem(einsum.name, "its guard leaves a row of the first tile without any point, where a running "
                       "maximum is not a number")
