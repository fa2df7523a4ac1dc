"""A workload executed in numpy: the reference for every other way to compute it (SEMANTICS 1.3 to 1.5).

Every tensor carries its existence: reductions skip what does not exist and nothing is padded. All arithmetic is
in one floating-point type; the storage types of tensors (bf16, ...) are not imitated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import DTypeLike

from einsum.cascade import Access, Apply, Einsum, Expr, Guard, Name, Num, TopK, Workload, factors, walk
from einsum.graph import components, is_loop
from einsum.ops import INTERSECTION, OPS, REDUCE_OPS, empty_init
from einsum.problems import InputError, Problem, suggest

_COMPARE = {"<": "lt", "<=": "le", "==": "eq", ">=": "ge", ">": "gt", "!=": "ne"}
_INTEGERS = {"int32": np.int64, "int8": np.int64, "bool": np.bool_}


@dataclass(frozen=True, slots=True)
class Points:
    """Values over some points, 0 where `exists` is false; both arrays broadcast against the space they stand in."""

    value: np.ndarray
    exists: np.ndarray  # bool


def run(workload: Workload, inputs: Mapping[str, np.ndarray], dtype: DTypeLike = np.float64) -> dict[str, np.ndarray]:
    """Value of every written tensor, in program order; points that do not exist are returned as 0.

    `inputs` holds an array for each input tensor, shaped like its ranks. A tensor with an iterative rank of extent N
    has N+1 coordinates there, the initial state first. Everything is computed in `dtype`; tensors of integer or bool
    type stay whole numbers. Raises `InputError` for missing, unknown or wrongly shaped inputs.
    """
    return {name: points.value for name, points in run_with_masks(workload, inputs, dtype).items()}


def run_with_masks(
    workload: Workload, inputs: Mapping[str, np.ndarray], dtype: DTypeLike = np.float64
) -> dict[str, Points]:
    """Like `run`, with the existence of every point."""
    _check_inputs(workload, inputs)
    cascade = workload.cascade
    tensors: dict[str, Points] = {}
    for name in cascade.inputs:
        value = np.asarray(inputs[name]).astype(_INTEGERS.get(workload.dtypes[name], dtype))
        tensors[name] = Points(value, np.ones(value.shape, bool))
    with np.errstate(all="ignore"):
        for einsum in cascade.einsums:
            tensors[einsum.name] = _initial(workload, einsum, np.dtype(dtype))
        for component in components(cascade):
            rank = next((e.iterative for e in component if e.iterative), None) if is_loop(component) else None
            for at in range(workload.extent(rank)) if rank else (None,):
                for einsum in component:
                    _Space(workload, einsum, tensors, np.dtype(dtype), rank, at).execute()
    return {einsum.name: tensors[einsum.name] for einsum in cascade.einsums}


def random_inputs(workload: Workload, seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Inputs of every tensor: normal of standard deviation `scale`, whole numbers and masks for those types.

    A tensor that is an index stays inside the rank it indexes; one in a guard goes up to the largest extent
    compared with it.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for name in workload.cascade.inputs:
        shape = _shape(workload, name)
        if workload.dtypes[name] == "bool":
            found[name] = rng.random(shape) < 0.7
        elif workload.dtypes[name] in _INTEGERS:
            found[name] = rng.integers(0, _limit(workload, name), shape)
        else:
            found[name] = rng.normal(0.0, scale, shape)
    return found


def _limit(workload: Workload, name: str) -> int:
    """Exclusive upper bound of the whole numbers in the input `name`."""
    limits = []
    for einsum in workload.cascade.einsums:
        for access in einsum.reads:
            ranks = workload.cascade.tensor[access.tensor].ranks
            for rank, index in zip(ranks, access.indices, strict=True):
                if any(isinstance(node, Access) and node.tensor == name for node in walk(index)):
                    limits.append(workload.extent(rank))
        for guard in einsum.guards:
            nodes = [*walk(guard.left), *walk(guard.right)]
            if any(isinstance(node, Access) and node.tensor == name for node in nodes):
                extents = [workload.extent(n.name) for n in nodes if isinstance(n, Name) and n.name.islower()]
                limits.append(max(extents, default=1) + 1)
    return min(limits, default=8)


def _shape(workload: Workload, name: str) -> tuple[int, ...]:
    """Coordinates of each rank; one more than the extent for an iterative rank."""
    cascade = workload.cascade
    iterative = cascade[name].iterative if name in cascade else None
    return tuple(workload.extent(rank) + (rank == iterative) for rank in cascade.tensor[name].ranks)


def _initial(workload: Workload, einsum: Einsum, dtype: np.dtype) -> Points:
    """The tensor before anything runs: nothing exists but the initial state, unless that is empty."""
    shape = _shape(workload, einsum.name)
    points = Points(np.zeros(shape, dtype), np.zeros(shape, bool))
    if einsum.iterative and not empty_init(einsum):
        first = tuple(0 if rank == einsum.iterative else slice(None) for rank in einsum.output_ranks)
        points.value[first] = einsum.init
        points.exists[first] = True
    return points


def _check_inputs(workload: Workload, inputs: Mapping[str, np.ndarray]) -> None:
    path = f"inputs of {workload.cascade.name}"
    needed = workload.cascade.inputs
    problems = [Problem("unknown tensor", path=path, got=n, hint=suggest(n, needed)) for n in inputs if n not in needed]
    for name in needed:
        if name not in inputs:
            problems.append(Problem(f"missing tensor {name}", path=path))
        elif np.shape(inputs[name]) != _shape(workload, name):
            what = f"{name} must have shape {_shape(workload, name)}"
            problems.append(Problem(what, path=path, got=str(np.shape(inputs[name]))))
    if problems:
        raise InputError(problems)


@dataclass(frozen=True)
class _Space:
    """The iteration space of one Einsum: an axis per rank, outputs' ranks first; `rank` may be fixed at `at`."""

    workload: Workload
    einsum: Einsum
    tensors: dict[str, Points]
    dtype: np.dtype
    rank: str | None = None
    at: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(1 if rank == self.rank else self.workload.extent(rank) for rank in self.einsum.ranks)

    def execute(self) -> None:
        """Compute the points of the space and write them into the output tensor."""
        einsum = self.einsum
        result = self._sum_of_products() if self._multiplies() else self._reduced()
        result = self._chosen(result, einsum.topk) if einsum.topk else result
        shape = self.shape[: len(einsum.output_ranks)]
        exists = np.broadcast_to(result.exists, shape)
        value = np.where(exists, np.broadcast_to(result.value, shape), self.dtype.type(0))
        target = tuple(self._target(rank) for rank in einsum.output_ranks)
        self.tensors[einsum.name].value[target] = value
        self.tensors[einsum.name].exists[target] = exists

    def _chosen(self, points: Points, topk: TopK) -> Points:
        """The largest points along the ranks of a top-k, with value 1; of equal ones the first in row-major order."""
        axes = tuple(self.einsum.output_ranks.index(rank) for rank in topk.ranks)
        last = tuple(range(-len(axes), 0))
        value = np.where(points.exists, points.value, -np.inf)
        split = np.moveaxis(np.broadcast_to(value, self.shape), axes, last)
        there = np.moveaxis(np.broadcast_to(points.exists, self.shape), axes, last)
        rows = (*split.shape[: -len(axes)], -1)
        order = np.lexsort((-split.reshape(rows), ~there.reshape(rows)), axis=-1)
        place = np.argsort(order, axis=-1).reshape(split.shape)
        count = self._value(topk.count, number=True)
        chosen = np.moveaxis(place, last, axes) < count.value
        return Points(np.ones(self.shape, self.dtype), chosen & points.exists & count.exists)

    def _target(self, rank: str) -> slice:
        step = int(rank == self.einsum.iterative)
        first = step + (self.at or 0 if rank == self.rank else 0)
        return slice(first, first + (1 if rank == self.rank else self.workload.extent(rank)))

    def _multiplies(self) -> bool:
        return bool(self.einsum.reduced) and self.einsum.reduce_op == "add"

    def _guarded(self) -> list[np.ndarray]:
        return [self._holds(guard) for guard in self.einsum.guards]

    def _reduced(self) -> Points:
        """Any expression and reduction, over the whole iteration space at once."""
        points = self._value(self.einsum.expr)
        exists = points.exists
        for holds in self._guarded():
            exists = exists & holds
        if not self.einsum.reduced:
            return Points(points.value, exists)
        reduction = REDUCE_OPS[self.einsum.reduce_op]
        assert isinstance(reduction.function, np.ufunc), "a reduction is a ufunc with an identity"
        axes = tuple(range(len(self.einsum.output_ranks), len(self.einsum.ranks)))
        exists = np.broadcast_to(exists, self.shape)
        value = np.where(exists, points.value, self.dtype.type(reduction.identity))
        for axis in reversed(axes):
            value = reduction.function.reduce(value, axis=axis)
        return Points(value.astype(self.dtype), np.logical_or.reduce(exists, axis=axes))

    def _sum_of_products(self) -> Points:
        """A sum of a product of anything: `np.einsum` on the factors, 0 where one does not exist."""
        operands = [self._value(factor) for factor in factors(self.einsum.expr)]
        guards = self._guarded()
        exists = [points.exists for points in operands] + guards
        complete = all(mask.all() for mask in exists)
        if not all(np.isfinite(points.value).all() for points in operands):
            return self._reduced()  # in another order, or against a 0 for what is missing, inf may become nan
        values = [np.where(points.exists, points.value, self.dtype.type(0)) for points in operands]
        value = self._contract([*values, *(holds.astype(self.dtype) for holds in guards)])
        if complete:
            return Points(value, np.ones((1,) * value.ndim, bool))
        return Points(value, self._contract([mask.astype(np.float64) for mask in exists]) > 0)

    def _contract(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Product of arrays over the space, summed over the reduced ranks."""
        kept = len(self.einsum.output_ranks)
        operands: list = []
        seen: set[int] = set()
        for array in arrays:
            axes = [axis for axis, extent in enumerate(array.shape) if extent > 1]
            operands += [array.reshape([array.shape[axis] for axis in axes]), axes]
            seen.update(axes)
        output = [axis for axis in range(kept) if axis in seen]
        total = np.einsum(*operands, output, optimize=True)
        return np.reshape(total, [self.shape[axis] if axis in seen else 1 for axis in range(kept)])

    def _holds(self, guard: Guard) -> np.ndarray:
        """Where a guard is true; it is false where one of its tensors does not exist."""
        left = self._value(guard.left, number=True)
        if guard.relation == "true":
            return left.exists & (left.value != 0)
        right = self._value(guard.right, number=True)
        return left.exists & right.exists & OPS[_COMPARE[guard.relation]].function(left.value, right.value)

    def _value(self, expr: Expr, number: bool = False) -> Points:
        """An expression over the space, in `dtype`; with `number` whole numbers stay whole (indices, guards)."""
        match expr:
            case Num(value):
                whole = number and float(value).is_integer()
                return self._scalar(np.int64(int(value)) if whole else self.dtype.type(value))
            case Name(name) if name.isupper():
                size = self.workload.sizes[name]
                return self._scalar(np.int64(size) if number else self.dtype.type(size))
            case Name(name):
                axis = self.einsum.ranks.index(name)
                coordinates = np.array([self.at]) if name == self.rank else np.arange(self.shape[axis])
                shape = [-1 if i == axis else 1 for i in range(len(self.shape))]
                coordinates = coordinates.reshape(shape)
                return Points(coordinates if number else coordinates.astype(self.dtype), self._true())
            case Access():
                points = self._access(expr)
                return points if number else Points(points.value.astype(self.dtype, copy=False), points.exists)
            case Apply(op, args):
                points = _merge(op, [self._value(arg, number) for arg in args])
                return points if number else Points(points.value.astype(self.dtype, copy=False), points.exists)

    def _true(self) -> np.ndarray:
        return np.ones((1,) * len(self.shape), bool)

    def _scalar(self, value: np.generic | np.ndarray) -> Points:
        return Points(np.reshape(value, (1,) * len(self.shape)), self._true())

    def _access(self, access: Access) -> Points:
        """A tensor at its indices; a point whose index lies outside the tensor does not exist."""
        tensor = self.tensors[access.tensor]
        if self._plain(access):
            return self._transposed(access)
        exists = self._true()
        coordinates = []
        for index, extent in zip(access.indices, tensor.value.shape, strict=True):
            points = self._value(index, number=True)
            at = points.value.astype(np.int64)
            exists = exists & points.exists & (at >= 0) & (at < extent)
            coordinates.append(np.clip(at, 0, extent - 1))
        if not coordinates:
            return Points(self._scalar(tensor.value).value, exists & tensor.exists)
        where = tuple(coordinates)
        return Points(tensor.value[where], exists & tensor.exists[where])

    def _plain(self, access: Access) -> bool:
        """Every index is a rank variable of its own that covers the tensor's rank exactly: a mere transposition."""
        names = [index.name for index in access.indices if isinstance(index, Name) and index.name.islower()]
        shape = self.tensors[access.tensor].value.shape
        return (
            len(names) == len(access.indices) == len(set(names)) > 0
            and self.rank not in names
            and all(self.workload.extent(name) == extent for name, extent in zip(names, shape, strict=True))
        )

    def _transposed(self, access: Access) -> Points:
        axes = [self.einsum.ranks.index(index.name) for index in access.indices if isinstance(index, Name)]
        order = np.argsort(axes)
        tensor = self.tensors[access.tensor]
        shape = [self.shape[axis] if axis in axes else 1 for axis in range(len(self.shape))]
        return Points(tensor.value.transpose(order).reshape(shape), tensor.exists.transpose(order).reshape(shape))


def _merge(op: str, args: list[Points]) -> Points:
    """An operation on operands that may be missing; a union takes a missing one for its identity."""
    row = OPS[op]
    masks = [points.exists for points in args]
    if row.merge == INTERSECTION:
        return Points(row.function(*(points.value for points in args)), reduce(np.logical_and, masks))
    assert row.identity is not None, "a union has an identity"
    values = [p.value if p.exists.all() else np.where(p.exists, p.value, row.identity) for p in args]
    return Points(row.function(*values), reduce(np.logical_or, masks))
