"""The best mapping of one Einsum: exhaustive by bounds (SEMANTICS 8.4).

Templates say how the Einsum is computed and where its tensors are held. They are visited in the order of their bounds,
and in each one the tiles from the outermost level inwards, in the order of what they and all inside of them cost at
least. Of billions of points only those are costed whose bounds leave a chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import heappop, heappush

import numpy as np

from mapper.search.build import Choice
from mapper.search.effort import CLOSE, Limits
from mapper.search.levels import Levels, Template

FIRST, BATCH = 1 << 6, 1 << 12  # points followed inwards at once: at first, and at most
PAIRS = 1 << 18  # pairs of a tile and one inside of it whose bounds are compared at once
Points = tuple[np.ndarray, np.ndarray]  # (levels, points): which tiles; (metrics, points): what they cost


class Single(Levels):
    """The space of a group of one Einsum."""

    def best(self, minimise: str, latency: float = math.inf, energy: float = math.inf) -> Choice | None:
        """The choice of least `minimise` (latency | energy) with neither above its limit; None if there is none."""
        limits, best = Limits(latency, energy), None
        templates, bounds = list(self.templates()), (self.bound, self.joint, self.tight)
        queue: list[tuple[float, float, int, int]] = []  # bound, of the other, how tight, template
        todo = ((0, number) for number in range(len(templates)))
        while True:
            for tight, number in todo:
                if self.within(bound := bounds[tight](templates[number]), limits):
                    first, second = self._ranked(bound, minimise)
                    heappush(queue, (float(first), float(second), tight, number))
            if not queue:
                return best
            bound, _, tight, number = heappop(queue)
            if best and bound >= getattr(best, minimise) * (1 - CLOSE):
                return best
            self.effort.stop()
            todo = [(tight + 1, number)] if tight + 1 < len(bounds) else []
            if not todo:
                best = self._best_of(templates[number], minimise, limits, best)

    def _best_of(self, template: Template, minimise: str, limits: Limits, best: Choice | None) -> Choice | None:
        """The better of `best` and the template's best point."""

        def room() -> Limits:
            most = getattr(best, minimise) * (1 - CLOSE) if best else math.inf
            return replace(limits, **{minimise: min(most, getattr(limits, minimise))})

        for tiles, costs in self.points(template, minimise, room):
            self.effort.costed += tiles.shape[1]
            value, other = self._ranked(costs[: self.busy], minimise)
            allowed = np.flatnonzero(self.within(costs[: self.busy], room()))
            if allowed.size:
                ties = allowed[value[allowed] <= value[allowed].min() * (1 + CLOSE)]
                ties = ties[other[ties] <= other[ties].min() * (1 + CLOSE)]
                at = ties[np.argmin(costs[self.busy :, ties].sum(axis=0))]
                best = self.choice(template, tiles[:, at], costs[:, at])
        return best

    def choice(self, template: Template, tiles: np.ndarray, costs: np.ndarray) -> Choice:
        """The decisions behind a point."""
        shape = {r: tuple(int(t) for t in self.tiles[i, tiles]) for i, r in enumerate(self.group.walked)}
        holds = {
            use.tensor: tuple(filter(None, (level[i] for level in template.levels))) for i, use in enumerate(self.uses)
        }
        latency, energy = self.metrics.whole(costs)
        values = float(latency), float(energy), float(costs[self.busy :].sum())
        return Choice(self.group, {self.einsum.name: template.option}, holds, shape, *values)

    def _ranked(self, values: np.ndarray, minimise: str) -> tuple[np.ndarray, np.ndarray]:
        """(what is minimised, the other) of latency and energy."""
        latency, energy = self.metrics.whole(values)
        return (latency, energy) if minimise == "latency" else (energy, latency)

    def points(self, template: Template, minimise: str, limits: Callable[[], Limits]) -> Iterator[Points]:
        """All points within the limits, which may shrink meanwhile, about in the order of what is minimised."""
        if self.group.levels:
            nothing = np.zeros((0, 1), dtype=int), np.zeros((len(self.metrics.names), 1))
            yield from self._inwards(template, *nothing, minimise, limits)
        else:
            yield np.zeros((0, 1), dtype=int), self.leaf(template)

    def _inwards(self, template: Template, chosen, spent, minimise: str, limits) -> Iterator[Points]:
        """The points inside of the tiles `chosen`, (levels so far, points), which cost `spent`, (metrics, points)."""
        level, busy = len(chosen), self.busy
        last, table = level + 1 == len(self.group.levels), self.table(template, level)
        rest = self.leaf(template) if last else self.rest(template, level)
        own = table.once[:busy] + rest[:busy]
        again = [(self.rounds(r)[chosen[-1]], more) for r, more in table.again.items()]
        least = spent[:busy].min(axis=1)[:, None] + own + sum(r.min() * more[:busy] for r, more in again)
        inner = np.flatnonzero(self.within(least, limits()))
        step = max(1, PAIRS // max(1, inner.size))
        for start in range(0, spent.shape[1] if inner.size else 0, step):
            left = np.arange(start, min(start + step, spent.shape[1]))
            bound = spent[:busy, left, None] + own[:, None, inner]
            for rounds, more in again:
                bound += rounds[left][:, None] * more[:busy, None, inner]
            nest = self.nested(chosen[-1, left], inner) if level else True
            pairs = np.argwhere(self.within(bound, limits()) & nest)
            pairs = pairs[np.lexsort(self._ranked(bound[:, pairs[:, 0], pairs[:, 1]], minimise)[::-1])]
            for part in _parts(len(pairs)):
                outer, here = left[pairs[part, 0]], inner[pairs[part, 1]]
                cost = spent[:, outer] + table.once[:, here] + sum(r[outer] * more[:, here] for r, more in again)
                points = np.vstack([chosen[:, outer], here])
                if last:
                    yield points, cost + rest[:, here]
                    continue
                self.effort.stop()
                still = self.within(cost[:busy] + rest[:, here], limits())
                if still.any():
                    yield from self._inwards(template, points[:, still], cost[:, still], minimise, limits)


def _parts(many: int) -> Iterator[slice]:
    """Consecutive parts of so many, each twice as large as the one before."""
    start, size = 0, FIRST
    while start < many:
        yield slice(start, start + size)
        start, size = start + size, min(2 * size, BATCH)
