"""Tiles that a copy engine moves: TMA descriptors, as text, and what they cannot move (SEMANTICS 7.1.2).

A descriptor spans the whole tensor, so that the engine leaves out what lies outside of it in any rank; a tile is one
coordinate of the ranks walked one at a time, and a block of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from einsum.affine import affine
from einsum.cascade import Access, Apply, Expr, Name, Num, rank_variables
from einsum.problems import Problem
from gpu_backend.plan import Plan, by_data, gathers, refusal, stored_ranks, written

# CUDA Driver API, cuTensorMapEncodeTiled
ALIGNED = 16  # bytes: what steps along each rank are multiples of, and the least of a tile's rows
MAX_RANKS = 5


def problems(plan: Plan) -> Iterator[Problem]:
    """What the moves of a kernel's groups ask for that no descriptor does."""
    workload = plan.workload
    for section in plan.sections:
        loads = [load.access for load in section.loads]
        stores = [written(workload.cascade[name]) for name in section.einsums if name in plan.stored]
        for access in (x for x in (*loads, *stores) if x.tensor in section.moved):
            for what, got in _reasons(plan, access):
                yield refusal(f"move {access.tensor}", what, got)
        for tensor in sorted(section.moved - {access.tensor for access in (*loads, *stores)}):
            yield refusal(f"move {tensor}", f"{section.group.name} neither loads nor stores it in device memory")
        for name in section.einsums:
            lengths = any(by_data(guard) for guard in workload.cascade[name].guards)
            if name in plan.stored and name in section.moved and lengths:
                yield refusal(f"move {name}", "a descriptor stores whole tiles, whatever a length leaves out")


def _reasons(plan: Plan, access: Access) -> Iterator[tuple[str, object]]:
    workload, ranks = plan.workload, stored_ranks(plan.workload.cascade, access.tensor)
    nbytes = workload.bits(access.tensor) // 8
    if len(ranks) > MAX_RANKS:
        yield f"a descriptor has at most {MAX_RANKS} ranks", len(ranks)
    if gathers(access):
        yield "a descriptor moves dense tiles: no index comes from a tensor", ""
        return
    for index in access.indices:
        if not _dense(plan, index):
            yield "a descriptor moves dense tiles: an index has one rank of a block, by itself", ""
            return
    row = math.prod(plan.tiles[rank] for rank in plan.axes(access.indices[-1])) * nbytes
    if row < ALIGNED:
        yield f"the rows of a descriptor's tile have at least {ALIGNED} bytes", row
    for i in range(1, len(ranks)):
        step = math.prod(map(workload.extent, ranks[i:])) * nbytes
        if step % ALIGNED:
            yield f"a descriptor steps along {ranks[i - 1]} by a multiple of {ALIGNED} bytes", step
    form = affine(access.indices[-1], workload.sizes)
    steps = [f for rank, f in form.terms if rank not in plan.tiles] if form else []
    if form and any(step * nbytes % ALIGNED for step in (form.const, *steps)):
        yield f"a descriptor's tiles begin at multiples of {ALIGNED} bytes of a row", ""


def _dense(plan: Plan, index: Expr) -> bool:
    form = affine(index, plan.workload.sizes)
    blocks = [factor for rank, factor in form.terms if rank in plan.tiles] if form else []
    return form is not None and blocks in ([], [1])


def made(plan: Plan, name: str, access: Access) -> str:
    """The source line that makes a descriptor of the tiles behind an access."""
    sizes = [rank.upper() for rank in stored_ranks(plan.workload.cascade, access.tensor)]
    strides = [" * ".join(sizes[i + 1 :]) or "1" for i in range(len(sizes))]
    block = ", ".join(_span(plan, index) for index in access.indices)
    shape = f"[{', '.join(sizes)}], [{', '.join(strides)}], [{block}]"
    return f"{name}_desc = tl.make_tensor_descriptor({access.tensor}_ptr, {shape})"


def shape(plan: Plan, access: Access, axes: tuple[str, ...]) -> tuple[str, str]:
    """(descriptor's block as text, the same without ranks walked one at a time); equal where there are none."""
    spans = [_span(plan, index) for index in access.indices]
    return ", ".join(spans), ", ".join(_span(plan, Name(axis)) for axis in axes)


def starts(plan: Plan, access: Access) -> tuple[Expr, ...]:
    """The coordinates at which a tile begins."""
    return tuple(_start(plan, index) for index in access.indices)


def _span(plan: Plan, index: Expr) -> str:
    """Coordinates of a tile along one rank of the tensor."""
    axes = plan.axes(index)
    return plan.span_text(axes[0]) if axes else "1"


def _start(plan: Plan, index: Expr) -> Expr:
    match index:
        case Name(rank) if rank in plan.tiles:
            walked = any(loop.rank == rank for loop in plan.loops)
            return Apply("*", (Name(f"{rank}_tile"), Name(f"{rank.upper()}_TILE"))) if walked else Num(0)
        case Apply("+", (left, right)):
            sides = [x for x in (_start(plan, left), _start(plan, right)) if x != Num(0)]
            return Apply("+", (sides[0], sides[1])) if len(sides) == 2 else sides[0] if sides else Num(0)
        case Apply(op, args):
            return Apply(op, tuple(_start(plan, arg) for arg in args))
    return index


def wide(plan: Plan, index: Expr) -> bool:
    """Whether an index is computed in 64 bits, as the kernel computes addresses too: a descriptor takes 32."""
    walked = {loop.rank for loop in plan.grid.loops if loop.tile == 1}
    return plan.wide and bool(walked & set(rank_variables(index)))
