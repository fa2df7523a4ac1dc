"""The best mapping of Einsums that share loops: shapes in the order of lower bounds, each solved exactly.

For one shape of tiles every decision adds to the cost: how an Einsum is computed, where a tensor is held. A dynamic
program over the Einsums in program order keeps, for each choice of where the tensors that live on are held, the sums
that no other dominates and that the bounds of the rest leave a chance. SEMANTICS 8.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations, product

import numpy as np

from einsum.cascade import Einsum
from mapper.search.build import Choice
from mapper.search.dynamic import Program
from mapper.search.effort import CLOSE, Effort
from mapper.search.group import Group, Option
from mapper.search.metrics import Metrics, mesh
from mapper.search.places import orders, places
from mapper.search.price import Prices, Shapes
from mapper.search.terms import Skeleton, Tables, Terms

BATCH = 16  # shapes whose costs are looked up at once
Template = dict[str, str]  # array.axis -> rank spread over it by every Einsum there that has the rank


class Several:
    """The space of a group of several Einsums. `columns`: each walked rank's chains of tiles, (chains, blocks)."""

    def __init__(self, group: Group, columns: Sequence[np.ndarray], buffers: int, effort: Effort) -> None:
        self.group, self.columns, self.buffers, self.effort = group, columns, buffers, effort
        self.metrics = Metrics.of(group)
        self.shapes = mesh([np.arange(len(c)) for c in columns])
        self._least: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
        self._bounds: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @cached_property
    def skeletons(self) -> list[Skeleton]:
        """Every way to spread ranks and to order loops, each distinct result once."""
        found: dict[tuple, Skeleton] = {}
        for options in self._spreads():
            for chosen in orders(self.group):
                chains = {t: places(self.group, use, chosen) for t, use in self.group.uses.items()}
                if all(chains.values()):
                    found.setdefault((*options.values(), *chains.values()), Skeleton(options, chains))
        choices = lambda s: math.prod(len(x) for x in (*s.options.values(), *s.chains.values()))
        self.effort.space += sum(map(choices, found.values())) * self.shapes.shape[1]
        return list(found.values())

    def _spreads(self) -> Iterator[dict[str, tuple[Option, ...]]]:
        """Options of every Einsum. Where registers keep what passes between Einsums, all those on one array spread the
        ranks that they share over the same axes, so that it stays where it is used."""
        if not self.group.registers:
            yield self.group.options
            return
        over: dict[str, dict[str, None]] = {}
        for options in self.group.options.values():
            for option in options:
                for axis, rank in option.spread:
                    over.setdefault(axis, {})[rank] = None
        for ranks in product(*over.values()):
            template = dict(zip(over, ranks, strict=True))
            chosen = {
                e: tuple(o for o in options if _follows(o, template, self.group.workload.cascade[e]))
                for e, options in self.group.options.items()
            }
            if all(chosen.values()):
                yield chosen

    def best(self, minimise: str, latency: float = math.inf, energy: float = math.inf) -> Choice | None:
        """The choice of least `minimise` (latency | energy) with neither above its limit; None if there is none."""
        bounds = [self.bound(i) for i in range(len(self.skeletons))]
        value = np.array([b[0 if minimise == "latency" else 1] for b in bounds])
        other = np.array([b[1 if minimise == "latency" else 0] for b in bounds])
        caps = (latency, energy) if minimise == "latency" else (energy, latency)
        ok = (value <= caps[0]) & (other <= caps[1]) & np.isfinite(value)
        at = np.argwhere(ok)
        at = at[np.lexsort((other[ok], value[ok]))]
        best: Choice | None = None
        for start in range(0, len(at), BATCH):
            self.effort.stop()
            limit = getattr(best, minimise) * (1 - CLOSE) if best else math.inf
            here = [(s, n) for s, n in at[start : start + BATCH].tolist() if value[s, n] < limit]
            if not here:
                break
            for s in dict.fromkeys(s for s, _ in here):
                numbers = [n for k, n in here if k == s]
                best = self._solve(self.skeletons[s], numbers, value[s], minimise, latency, energy, best)
        return best

    def _solve(self, skeleton, numbers, bound, minimise, latency, energy, best: Choice | None) -> Choice | None:
        """The better of `best` and the best of some shapes of a skeleton."""
        terms = self.terms(skeleton, np.array(numbers))
        for i, number in enumerate(numbers):
            limit = getattr(best, minimise) * (1 - CLOSE) if best else math.inf
            if bound[number] >= limit:
                continue
            limits = {"latency": latency, "energy": energy}
            limits[minimise] = min(limits[minimise], limit)
            found = Program(self.metrics, terms, i).solve(minimise, **limits)
            self.effort.costed += 1
            if found:
                best = self.choice(*found, number)
        return best

    def terms(self, skeleton: Skeleton, at: np.ndarray) -> Terms:
        """The costs of a skeleton's decisions in some shapes."""
        return Terms(self._tables, skeleton, at)

    def choice(self, values: np.ndarray, decisions, number: int) -> Choice:
        """The decisions behind a result of the dynamic program for a shape."""
        options = {e: o for e, o, _ in decisions}
        holds = {t: chain for _, _, chains in decisions for t, chain in chains}
        tiles = [column[i] for column, i in zip(self.columns, self.shapes[:, number], strict=True)]
        shape = {r: tuple(int(t) for t in tile) for r, tile in zip(self.group.walked, tiles, strict=True)}
        latency, energy = self.metrics.whole(values)
        return Choice(
            self.group, options, holds, shape, float(latency), float(energy), float(values[self.metrics.busy :].sum())
        )

    @cached_property
    def _tables(self) -> Tables:
        tiles = [c[i] for c, i in zip(self.columns, self.shapes, strict=True)]
        prices = Prices(self.group, Shapes.of(self.group.workload, self.group.walked, tiles), self.buffers)
        return Tables(self.group, prices, self.metrics.names, self.shapes.shape[1])

    def bound(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower bounds of latency and energy for each shape of a skeleton, infinite where something does not fit."""
        if index not in self._bounds:
            terms = self.terms(self.skeletons[index], np.arange(self.shapes.shape[1]))
            total, held = np.zeros((len(self._weights), terms.at.size)), 0.0
            for e in self.group.einsums:
                least, room = self._least_of(e, terms)
                total, held = total + least, held + room
            total[:, (held > self.metrics.rooms[:, None]).any(axis=0)] = math.inf
            latency = total[:-1].max(axis=0)
            static = self.metrics.static_power_w * np.where(np.isinf(latency), 0.0, latency)
            self._bounds[index] = latency, total[-1] + static
            self.effort.bounded += terms.at.size
        return self._bounds[index]

    def _least_of(self, e: Einsum, terms: Terms) -> tuple[np.ndarray, np.ndarray]:
        """The least of each weighted sum over an Einsum's options, and the least that must be held; the same for all
        skeletons that give it the same choices."""
        uses, skeleton = [u for u in self.group.uses.values() if e.name in u.users], terms.skeleton
        key = (e.name, skeleton.options[e.name], *(skeleton.chains[u.tensor] for u in uses))
        if key not in self._least:
            best, room = np.full((len(self._weights), terms.at.size), math.inf), np.array(math.inf)
            for option in skeleton.options[e.name]:
                table = terms.compute(e, option)
                value, kept = self._weighed(table), table[self.metrics.busy :]
                for use in uses:
                    parts = terms.parts(e, option, use)
                    value = value + np.min([self._weighed(part) for part in parts], axis=0)
                    kept = kept + parts[:, self.metrics.busy :].min(axis=0)
                best, room = np.minimum(best, value), np.minimum(room, kept)
            self._least[key] = np.where(best > 1e250, math.inf, best), room
        return self._least[key]

    def _weighed(self, table: np.ndarray) -> np.ndarray:
        """Weighted sums of a table's metrics, more than anything where something does not fit."""
        return self._weights @ np.where(np.isinf(table), 1e300, table)

    @cached_property
    def _weights(self) -> np.ndarray:
        """(bounds, metrics): sums of resources' times that bound the busiest from below, and the energy last."""
        one, units = np.eye(len(self.metrics.names)), {f"busy {u.name}" for u in self.group.machine.units}
        rows = [*one[1 : self.metrics.busy]]
        for a, b in combinations([i for i, m in enumerate(self.metrics.names) if m in units], 2):
            rows += [w * one[a] + (1 - w) * one[b] for w in np.linspace(0.1, 0.9, 9)]
        return np.array([*rows, one[0]])


def _follows(option: Option, template: Template, e: Einsum) -> bool:
    """Whether an option spreads what the template says over its axes, where the Einsum has the rank."""
    spread = dict(option.spread)
    return all(
        spread.get(axis) in (rank, None) and (rank not in e.ranks or spread.get(axis) == rank or axis not in spread)
        for axis, rank in template.items()
    )
