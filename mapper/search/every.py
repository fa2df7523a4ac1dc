"""Every mapping of a group whose closed-form latency lies in an interval, one after another (SEMANTICS 8.8).

The search keeps only what nothing beats in closed form. What is fastest in closed form need not be fastest in time, so
here nothing is left out but what lies outside of the interval.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mapper.search.build import Choice
from mapper.search.effort import CLOSE, Limits
from mapper.search.price import Prices, Shapes
from mapper.search.several import Program, Several, Skeleton, Terms
from mapper.search.single import Single


def every(space: Single | Several, above: float, limit: float) -> Iterator[Choice]:
    """The choices of a group's space with `above` < latency <= `limit`, in seconds, in a fixed order."""
    found = _singles(space, limit) if isinstance(space, Single) else _severals(space, limit)
    return (choice for choice in found if above < choice.latency <= limit)


def _singles(space: Single, limit: float) -> Iterator[Choice]:
    limits = Limits(latency=limit * (1 + CLOSE))
    for template in space.templates():
        if space.within(space.bound(template), limits):
            for tiles, costs in space.points(template, "latency", lambda: limits):
                yield from (space.choice(template, tiles[:, at], costs[:, at]) for at in range(tiles.shape[1]))


def _severals(space: Several, limit: float) -> Iterator[Choice]:
    for index, skeleton in enumerate(space.skeletons):
        bound, _ = space._bound(index)
        order = np.argsort(bound, kind="stable")
        for number in order[bound[order] <= limit * (1 + CLOSE)].tolist():
            yield from _of_shape(space, skeleton, number, limit)


def _of_shape(space: Several, skeleton: Skeleton, number: int, limit: float) -> Iterator[Choice]:
    tiles = [column[at : at + 1] for column, at in zip(space.columns, space.shapes[:, number], strict=True)]
    shapes = Shapes.of(space.group.workload, space.group.walked, tiles)
    program = Program(space, skeleton, Terms(space, skeleton, Prices(space.group, shapes, space.buffers), 1, {}), 0)
    caps = np.array([np.inf, *[limit] * len(space.busy), *space.room.values()])
    shape = {r: tuple(int(t) for t in tile[0]) for r, tile in zip(space.group.walked, tiles, strict=True)}
    for decided in _decisions(program, 0, (), np.zeros(len(caps)), (), caps * (1 + CLOSE)):
        yield space._choice(decided, shape)


def _decisions(
    program: Program, step: int, live: tuple, values: np.ndarray, made: tuple, caps: np.ndarray
) -> Iterator[tuple[np.ndarray, tuple]]:
    """(metrics, decisions) of every way to decide about the Einsums from `step` on that stays below the caps."""
    if step == len(program.group.einsums):
        yield values, made
        return
    e = program.group.einsums[step]
    for option, chosen, fresh, vector in program.moves(e):
        total = program._joined(e, option, live, vector)
        if total is not None and (values + total + program.terms.ranges[0][step + 1, :, 0] <= caps).all():
            after = tuple(x for x in (*live, *fresh) if program._lives(x[0], step))
            yield from _decisions(program, step + 1, after, values + total, (*made, (e.name, option, chosen)), caps)
