"""Which lanes of a kernel's arithmetic hold points that exist, found by following values through a program.

Nothing here knows the cascade, the mapping or coordinates. A lane holds a point from the mask of its load on: a
product, difference or quotient holds one where every operand does, a sum or an extreme where any does, a select by
coordinates not where it puts a constant. And a lane is needed where what is stored is made of it. Operations on lanes
that hold a point and are needed are useful (SEMANTICS 7.6.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import TensorHandle

UNIONS = ("fadd", "maximumf", "maxnumf", "minimumf", "minnumf")  # with one operand missing the result is the other
HOLDS = "holds a point"  # attribute of a handle: lanes; absent where all do
BY_DATA = "compares values"  # attribute of a condition made of floating-point comparisons
Array = np.ndarray


@dataclass(frozen=True)
class Step:
    """One operation of a program. `useful` counts operations from the lanes of its result that are needed, and `needs`
    says which lanes of each operand these need."""

    result: TensorHandle
    operands: tuple[TensorHandle, ...]
    key: tuple[str, str] | None  # (Einsum, operation class); None for what is free
    useful: Callable[[Array], int]
    needs: Callable[[Array], Sequence[Array]]


def held(handle: TensorHandle) -> Array:
    """Lanes of a value that hold a point."""
    return np.broadcast_to(handle.attr.get(HOLDS, np.True_), handle.data.shape)


def by_data(handles: Sequence[TensorHandle]) -> bool:
    """Whether any of them was decided by values."""
    return any(BY_DATA in handle.attr for handle in handles)


class Trace:
    """The operations of the program that runs; `finish` adds its useful ones to `found`."""

    def __init__(self) -> None:
        self.found: Counter[tuple[str, str]] = Counter()
        self._steps: list[Step] = []
        self._stored: list[tuple[TensorHandle, Array]] = []

    def store(self, value: TensorHandle, mask: Array) -> None:
        """What leaves the program is needed."""
        self._stored.append((value, np.broadcast_to(mask, value.data.shape)))

    def elementwise(self, result: TensorHandle, operands: Sequence[TensorHandle], name: str, key, own: object) -> None:
        """An operation lane by lane. `own` is the old value of the Einsum that is computed: with nothing to add to it
        it is carried along, which is no operation."""
        lanes = [np.broadcast_to(held(x), result.data.shape) for x in operands]
        done = np.logical_and.reduce(lanes)
        asked = done  # where the result holds no point it needs no operand
        if name in UNIONS:
            asked = result.attr[HOLDS] = np.logical_or.reduce(lanes)
            added = [x for x, operand in zip(lanes, operands, strict=True) if operand is not own]
            done = np.logical_or.reduce(added or lanes)
        else:
            result.attr[HOLDS] = done
        back = lambda needed: [_reduced(needed & asked, x.data.shape) for x in operands]
        self._add(result, operands, key, lambda needed: int((needed & done).sum()), back)

    def select(self, result: TensorHandle, condition: TensorHandle, left: TensorHandle, right: TensorHandle) -> None:
        """A mask of coordinates: where it puts a constant no point is. A choice by values takes points as they are."""
        chosen, data = np.broadcast_to(condition.data, result.data.shape) != 0, by_data([condition])
        lanes = [held(x) if data or HOLDS in x.attr else np.False_ for x in (left, right)]
        if not any(HOLDS in x.attr for x in (left, right)):
            lanes = [np.True_, np.True_]
        result.attr[HOLDS] = np.where(chosen, *lanes)
        back = lambda needed: [_reduced(needed & c, x.data.shape) for c, x in ((chosen, left), (~chosen, right))]
        self._add(result, (left, right), None, lambda needed: 0, back)

    def moved(self, result: TensorHandle, operand: TensorHandle, move: Callable[[TensorHandle], TensorHandle]) -> None:
        """A change of layout: `move` does the same to any array of the operand's shape."""
        like = lambda array: move(TensorHandle(array, tl.int64)).data
        if HOLDS in operand.attr:
            result.attr[HOLDS] = like(held(operand))
        places = like(np.arange(operand.data.size).reshape(operand.data.shape))

        def back(needed: Array) -> Sequence[Array]:
            lanes = np.zeros(operand.data.size, bool)
            lanes[places[needed]] = True
            return [lanes.reshape(operand.data.shape)]

        self._add(result, (operand,), None, lambda needed: 0, back)

    def dot(self, result: TensorHandle, left: TensorHandle, right: TensorHandle, total: TensorHandle, key) -> None:
        """A matrix product, added to a total."""
        pairs = held(left).astype(np.float32) @ held(right).astype(np.float32)
        result.attr[HOLDS] = (pairs > 0) | total.attr.get(HOLDS, np.False_)
        rows = lambda needed: np.broadcast_to(needed.any(1)[:, None], left.data.shape)
        columns = lambda needed: np.broadcast_to(needed.any(0)[None, :], right.data.shape)
        back = lambda needed: [rows(needed), columns(needed), needed]
        self._add(result, (left, right, total), key, lambda needed: int((pairs * needed).sum()), back)

    def reduction(self, result: TensorHandle, operand: TensorHandle, axis: int, key) -> None:
        """A reduction of a block along an axis: its useful combines."""
        lanes = held(operand)
        result.attr[HOLDS] = lanes.any(axis).reshape(result.data.shape)
        shape = lanes.any(axis, keepdims=True).shape
        spread = lambda needed: np.broadcast_to(needed.reshape(shape), operand.data.shape)

        def useful(needed: Array) -> int:
            points = lanes & spread(needed)
            return int(points.sum() - points.any(axis).sum())

        self._add(result, (operand,), key, useful, lambda needed: [spread(needed)])

    def _add(self, result, operands, key, useful, needs) -> None:
        self._steps.append(Step(result, tuple(operands), key, useful, needs))

    def finish(self) -> None:
        """The program has ended: from what it stored back to what that is made of."""
        needed: dict[int, Array] = {}

        def need(handle: TensorHandle, lanes: Array) -> None:
            needed[id(handle)] = needed[id(handle)] | lanes if id(handle) in needed else lanes

        for value, mask in self._stored:
            need(value, mask)
        for step in reversed(self._steps):
            lanes = needed.pop(id(step.result), None)
            if lanes is None:
                continue
            if step.key:
                self.found[step.key] += step.useful(lanes)
            for operand, own in zip(step.operands, step.needs(lanes), strict=True):
                need(operand, own)
        self._steps, self._stored = [], []


def _reduced(lanes: Array, shape: tuple[int, ...]) -> Array:
    """Lanes of an operand that was broadcast to the result's shape."""
    if lanes.shape == shape:
        return lanes
    lanes = lanes.reshape((1,) * (len(shape) - lanes.ndim) + lanes.shape)
    own = (1,) * (lanes.ndim - len(shape)) + shape
    axes = tuple(i for i, n in enumerate(own) if n == 1)
    return np.asarray(lanes.any(axes, keepdims=True)).reshape(shape)
