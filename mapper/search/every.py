"""Every mapping of a group whose closed-form latency lies in an interval, one after another (SEMANTICS 8.8).

The search keeps only what nothing beats in closed form. What is fastest in closed form need not be fastest in time, so
here nothing is left out but what lies outside of the interval.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mapper.search.build import Choice
from mapper.search.dynamic import Program
from mapper.search.effort import CLOSE, Limits
from mapper.search.several import Several
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
    caps = np.array([np.inf, *[limit] * (space.metrics.busy - 1), *space.metrics.rooms]) * (1 + CLOSE)
    for index, skeleton in enumerate(space.skeletons):
        bound, _ = space.bound(index)
        order = np.argsort(bound, kind="stable")
        for number in order[bound[order] <= limit * (1 + CLOSE)].tolist():
            program = Program(space.metrics, space.terms(skeleton, np.array([number])), 0)
            for values, decisions in _decisions(program, 0, (), np.zeros(len(caps)), (), caps):
                yield space.choice(values, decisions, number)


def _decisions(
    program: Program, step: int, live: tuple, values: np.ndarray, made: tuple, caps: np.ndarray
) -> Iterator[tuple[np.ndarray, list]]:
    """(metrics, decisions) of every way to decide about the Einsums from `step` on that stays below the caps."""
    if step == len(program.group.einsums):
        yield values, list(made)
        return
    e = program.group.einsums[step]
    moves = program.joined(e, live, program.moves(e))
    for decided, left, vector in zip(moves.decided, moves.after, moves.vectors, strict=True):
        if (values + vector + program.terms.ranges[0][step + 1, :, 0] <= caps).all():
            after = tuple(x for x in live if program.tables.lives(x[0], e.name)) + moves.left[left]
            yield from _decisions(program, step + 1, after, values + vector, (*made, (e.name, *decided)), caps)
