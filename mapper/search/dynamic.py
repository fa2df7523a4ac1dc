"""The dynamic program over Einsums that share loops, for one shape of tiles. SEMANTICS 8.5.1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np

from einsum.cascade import Einsum
from mapper.search.effort import CLOSE
from mapper.search.group import Option
from mapper.search.metrics import Metrics
from mapper.search.places import below, upper
from mapper.search.terms import Held, Live, Moves, Terms

Made = tuple[Any, Moves, int] | None  # the decisions before (again such a tuple), and the last one


def _made(last: Made) -> list[tuple[str, Option, Held]]:
    """Decisions, the last one first."""
    found = []
    while last is not None:
        before, moves, i = last
        found.append((moves.einsum, *moves.decided[i]))
        last = before
    return found


@dataclass(frozen=True)
class Sums:
    """Partial sums of one state of the dynamic program: (sums, metrics), and the decisions behind each."""

    values: np.ndarray
    decisions: list[Made]


class Program:
    """The dynamic program of one of the terms' shapes."""

    def __init__(self, metrics: Metrics, terms: Terms, shape: int) -> None:
        self.metrics, self.terms, self.shape = metrics, terms, shape
        self.group, self.tables, self.skeleton = terms.group, terms.tables, terms.skeleton

    def solve(self, minimise: str, latency: float, energy: float) -> tuple[np.ndarray, list] | None:
        """(metrics, decisions) of the least within the limits, or None."""
        caps = np.array([energy, *[latency] * (self.metrics.busy - 1), *self.metrics.rooms]) * (1 + CLOSE)
        least, most = (r[:, :, self.shape] for r in self.terms.ranges)
        states: dict[Live, Sums] = {(): Sums(np.zeros((1, len(caps))), [None])}
        for i, e in enumerate(self.group.einsums):
            fresh: dict[Live, list] = {}
            moves = self._undominated(e)
            for key, sums in states.items():
                able = self.joined(e, key, moves)
                values = sums.values[:, None] + able.vectors
                bound = values + least[i + 1]
                fits = (bound <= caps).all(axis=-1) & (self.metrics.whole(bound, -1)[1] <= caps[0])
                stays = tuple(x for x in key if self.tables.lives(x[0], e.name))
                for left in np.unique(able.after):
                    at, which = np.nonzero(fits & (able.after == left))
                    if at.size:
                        made = [(sums.decisions[k], able, m) for k, m in zip(at, which, strict=True)]
                        fresh.setdefault((*stays, *able.left[left]), []).append((values[at, which], made))
            states = {
                key: self._pruned(parts, minimise, caps, least[i + 1], most[i + 1]) for key, parts in fresh.items()
            }
        done = [(v, d) for sums in states.values() for v, d in zip(sums.values, sums.decisions, strict=True)]
        if not done:
            return None
        order = (0, 1) if minimise == "latency" else (1, 0)
        rank = lambda value: [float(self.metrics.whole(value)[i]) for i in order]
        value, last = min(done, key=lambda x: (*rank(x[0]), float(x[0][self.metrics.busy :].sum())))
        return value, _made(last)

    def moves(self, e: Einsum) -> Moves:
        """Every way to decide about the Einsum that is allowed in this shape."""
        every = self.terms.moves(e)
        kept = np.flatnonzero(np.isfinite(every.vectors[:, :, self.shape]).all(axis=1))
        return every.only(kept, every.vectors[kept, :, self.shape])

    def _undominated(self, e: Einsum) -> Moves:
        """Those that no other one beats whatever the others decide."""
        every, options, mine = self.terms.moves(e), self.skeleton.options[e.name], self.tables.fresh(e.name)
        older = [u for u in self.group.uses.values() if e.name in u.users and u not in mine]
        along = sorted({h.along for u in older for c in self.skeleton.chains[u.tensor] for h in c if h.along})
        sources = [(u, s) for u in older for s in self.terms.sources(u)]
        vectors = every.vectors[:, :, self.shape]
        allowed = np.asarray(np.isfinite(vectors).all(axis=1))
        longer, shorter = every.shorter.T
        allowed[longer[allowed[shorter]]] = False
        kept = np.flatnonzero(allowed)
        vectors, values = vectors[kept], vectors[kept]
        if older:
            reach = [[self.terms.access(e, o, u.tensor, s)[:, self.shape] for u, s in sources] for o in options]
            values = np.hstack([values, np.array(reach).reshape(len(options), -1)[every.option[kept]]])
        leads = [sum(2**i * int(self.terms.leads(e, o, r)[self.shape]) for i, r in enumerate(along)) for o in options]
        apart = every.alike[kept] * 2 ** len(along) + np.array(leads)[every.option[kept]]
        good = np.ones(len(kept), bool)
        for one in np.unique(apart):
            rows = np.flatnonzero(apart == one)
            if len(rows) > 1:
                good[rows] = moocore.is_nondominated(values[rows])
        return every.only(kept[good], vectors[good])

    def joined(self, e: Einsum, live: Live, moves: Moves) -> Moves:
        """The moves that find what lives already where it is, with the Einsum's accesses of it."""
        mine = tuple(x for x in live if e.name in self.group.uses[x[0]].users)
        if not mine:
            return moves
        options = self.skeleton.options[e.name]
        added = {i: self._reached(e, options[i], mine) for i in np.unique(moves.option).tolist()}
        kept = np.array([k for k, i in enumerate(moves.option.tolist()) if added[i] is not None], dtype=int)
        more = np.array([added[i] for i in moves.option[kept].tolist()]).reshape(len(kept), moves.vectors.shape[1])
        return moves.only(kept, moves.vectors[kept] + more)

    def _reached(self, e: Einsum, option: Option, live: Live) -> np.ndarray | None:
        """The cost of reading and writing what lives already; None if it lies elsewhere."""
        total = np.zeros(len(self.metrics.names))
        for tensor, chain, spread in live:
            for hold, there in zip(chain, spread, strict=True):
                if below(self.group, option, hold.memory) and upper(self.group, option, hold.memory) != there:
                    return None
                if hold.along and not self.terms.leads(e, option, hold.along)[self.shape]:
                    return None
            total = total + self.terms.access(e, option, tensor, self.terms.source(chain))[:, self.shape]
        return total

    def _pruned(self, parts: list, minimise: str, caps: np.ndarray, least: np.ndarray, most: np.ndarray) -> Sums:
        """Sums that no other dominates in what can still matter."""
        values = np.concatenate([v for v, _ in parts])
        decisions = [d for _, made in parts for d in made]
        if len(values) == 1:
            return Sums(values, decisions)
        threshold = caps.copy()
        busy, static = slice(1, self.metrics.busy), self.metrics.static_power_w > 0
        if minimise == "latency" or static:
            threshold[busy] = np.minimum(threshold[busy], (values + least)[:, busy].max(axis=1, initial=0.0).min())
        if minimise == "energy" or (static and math.isfinite(caps[0])):
            threshold[0] = -math.inf
        matters = np.any(values + most > threshold, axis=0)
        if not matters.any():
            return Sums(values[:1], decisions[:1])
        good = np.flatnonzero(moocore.is_nondominated(values[:, matters]))
        return Sums(values[good], [decisions[k] for k in good])
