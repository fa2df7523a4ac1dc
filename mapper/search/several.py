"""The best mapping of Einsums that share loops: shapes in the order of lower bounds, each solved exactly.

For one shape of tiles every decision adds to the cost: how an Einsum is computed, where a tensor is held. A dynamic
program over the Einsums in program order keeps, for each choice of where the tensors that live on are held, the sums
that no other dominates and that the bounds of the rest leave a chance. SEMANTICS 8.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product

import moocore
import numpy as np

from einsum.cascade import Einsum
from mapper.search.build import Choice
from mapper.search.effort import CLOSE, Effort
from mapper.search.group import Group, Option, Use
from mapper.search.places import below, orders, places, upper
from mapper.search.price import ENERGY, Hold, Prices, Shapes, add, mesh, resources, rooms

BATCH = 16  # shapes whose costs are computed at once
Chain = tuple[Hold, ...]
Template = dict[str, str]  # array.axis -> rank spread over it by every Einsum there that has the rank


@dataclass(frozen=True)
class Skeleton:
    """What is fixed before shapes: each Einsum's options and each tensor's chains of holds."""

    options: dict[str, tuple[Option, ...]]
    chains: dict[str, tuple[Chain, ...]]


@dataclass(frozen=True)
class Sums:
    """Partial sums of one state of the dynamic program: (sums, metrics), and the decisions behind each."""

    values: np.ndarray
    decisions: list[tuple]


class Several:
    """The space of a group of several Einsums. `columns`: each walked rank's chains of tiles, (chains, blocks)."""

    def __init__(self, group: Group, columns: Sequence[np.ndarray], buffers: int, effort: Effort) -> None:
        self.group, self.columns, self.buffers, self.effort = group, columns, buffers, effort
        self.room = rooms(group)
        self.busy = resources(group)
        self.metrics = (ENERGY, *self.busy, *self.room)
        self.shapes = mesh([np.arange(len(c)) for c in columns])
        self.first = {t: next(e for e in group.names if e in use.users) for t, use in group.uses.items()}
        last = {t: max(map(group.names.index, use.users)) for t, use in group.uses.items()}
        self.last = {t: group.names[i] for t, i in last.items()}
        self._shared: dict = {}
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
        bounds = [self._bound(i) for i in range(len(self.skeletons))]
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
        tiles = [column[i] for column, i in zip(self.columns, self.shapes[:, numbers], strict=True)]
        terms = Terms(
            self,
            skeleton,
            Prices(self.group, Shapes.of(self.group.workload, self.group.walked, tiles), self.buffers),
            len(numbers),
            {},
        )
        for i, number in enumerate(numbers):
            limit = getattr(best, minimise) * (1 - CLOSE) if best else math.inf
            if bound[number] >= limit:
                continue
            limits = {"latency": latency, "energy": energy}
            limits[minimise] = min(limits[minimise], limit)
            found = Program(self, skeleton, terms, i).solve(minimise, **limits)
            self.effort.costed += 1
            if found:
                shape = {
                    r: tuple(int(t) for t in column[i]) for r, column in zip(self.group.walked, tiles, strict=True)
                }
                best = self._choice(found, shape)
        return best

    def _choice(self, found: tuple[np.ndarray, tuple], shape) -> Choice:
        values, decisions = found
        options = {e: o for e, o, _ in decisions}
        holds = {t: chain for _, _, chains in decisions for t, chain in chains}
        held, whole = values[1 + len(self.busy) :], self.whole(values)
        costs = (float(whole["latency"]), float(whole["energy"]), float(held.sum()))
        return Choice(self.group, options, holds, shape, *costs)

    def whole(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Latency, and energy with static power, of (..., metrics)."""
        latency = values[..., 1 : 1 + len(self.busy)].max(axis=-1, initial=0.0)
        return {"latency": latency, "energy": values[..., 0] + self.group.machine.static_power_w * latency}

    def _bound(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower bounds of latency and energy for each shape of a skeleton, infinite where something does not fit."""
        if index not in self._bounds:
            skeleton = self.skeletons[index]
            terms = Terms(self, skeleton, self._prices, self.shapes.shape[1], self._shared)
            self._bounds[index] = terms.bounds(self._weights())
            self.effort.bounded += self.shapes.shape[1]
        return self._bounds[index]

    @cached_property
    def _prices(self) -> Prices:
        """Of every shape."""
        tiles = [c[i] for c, i in zip(self.columns, self.shapes, strict=True)]
        return Prices(self.group, Shapes.of(self.group.workload, self.group.walked, tiles), self.buffers)

    def _weights(self) -> np.ndarray:
        """(bounds, metrics): sums of resources' times that bound the busiest from below, and the energy last."""
        n, units = (
            len(self.metrics),
            [
                i
                for i, m in enumerate(self.metrics)
                if m.removeprefix("busy ") in {u.name for u in self.group.machine.units}
            ],
        )
        used = {u for options in self.group.options.values() for o in options for u in o.unit.split("+")}
        units = [i for i in units if self.metrics[i].removeprefix("busy ") in used]
        rows = [np.eye(n)[i] for i in range(1, 1 + len(self.busy))]
        for a, b in combinations(units, 2):
            rows += [w * np.eye(n)[a] + (1 - w) * np.eye(n)[b] for w in np.linspace(0.1, 0.9, 9)]
        return np.array([*rows, np.eye(n)[0]])


def _follows(option: Option, template: Template, e: Einsum) -> bool:
    """Whether an option spreads what the template says over its axes, where the Einsum has the rank."""
    spread = dict(option.spread)
    return all(
        spread.get(axis) in (rank, None) and (rank not in e.ranks or spread.get(axis) == rank or axis not in spread)
        for axis, rank in template.items()
    )


class Terms:
    """The vectors of all decisions of a skeleton, as (metrics, shapes) each."""

    def __init__(self, space: Several, skeleton: Skeleton, prices: Prices, shapes: int, known: dict) -> None:
        self.space, self.skeleton, self.prices, self.shapes = space, skeleton, prices, shapes
        self.group = space.group
        self._known = known  # what skeletons share for the same shapes

    def _dense(self, key: tuple, make) -> np.ndarray:
        if key not in self._known:
            vector, fits = make()
            table = np.zeros((len(self.space.metrics), self.shapes))
            for i, metric in enumerate(self.space.metrics):
                if metric in vector:
                    table[i] = vector[metric]
            if fits is not True:
                table[:, ~np.broadcast_to(fits, self.shapes)] = math.inf
            self._known[key] = table
        return self._known[key]

    def compute(self, e: Einsum, option: Option) -> np.ndarray:
        return self._dense((e.name, option), lambda: (self.prices.compute(e, option), self.prices.fits(e, option)))

    def access(self, e: Einsum, option: Option, tensor: str, source: str) -> np.ndarray:
        def make():
            vector = {}
            for access in dict.fromkeys((*e.reads, e.output)):
                if access.tensor == tensor:
                    add(vector, self.prices.access(e, access, option, source))
            return vector, True

        return self._dense((e.name, option, tensor, source), make)

    def keep(self, use: Use, chain: Chain, option: Option) -> np.ndarray:
        """What a chain of holds costs; `option`: that of the first Einsum that touches the tensor."""
        above: tuple = tuple(upper(self.group, option, h.memory) for h in chain)
        if any(h.along for h in chain):
            above = (*above, option)

        def make():
            vector, outer = {}, None if use.kind == "inner" else self.group.machine.root.name
            for hold in chain:
                add(vector, self.prices.keep(use, hold, outer, option))
                outer = hold.memory
            fits = self.prices.hold_fits(use, chain[0] if chain else None)
            e = self.group.workload.cascade[self.space.first[use.tensor]]
            for hold in chain:
                if hold.along:
                    fits = fits & self.prices.leads(e, option, hold.along)
            return vector, fits

        return self._dense((use.tensor, chain, above), make)

    def leads(self, e: Einsum, option: Option, rank: str) -> np.ndarray:
        """For each shape whether the rank's loop is the Einsum's outermost."""
        return np.broadcast_to(self.prices.leads(e, option, rank), self.shapes)

    def source(self, chain: Chain) -> str:
        """Where the Einsums find a tensor."""
        return chain[-1].memory if chain else self.group.machine.root.name

    def allowed(self, use: Use, chain: Chain, option: Option) -> bool:
        """Whether the first Einsum to touch a tensor stands below each memory that holds it."""
        return all(below(self.group, option, h.memory) for h in chain)

    def touch(self, e: Einsum, option: Option, use: Use) -> list[tuple[Chain, np.ndarray]]:
        """For the Einsum that touches a tensor first: each chain, with what it and the accesses cost."""
        chains = self.skeleton.chains[use.tensor]
        key = ("chains", e.name, option, use.tensor, chains)
        if key not in self._known:
            found = [c for c in chains if self.allowed(use, c, option)]
            reach = lambda c: self.access(e, option, use.tensor, self.source(c))
            self._known[key] = [(c, self.keep(use, c, option) + reach(c)) for c in found]
        return self._known[key]

    @cached_property
    def ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """(Einsums + 1, metrics, shapes): the least and the most that the Einsums from one on can add."""
        least, most = [], []
        for e in self.group.einsums:
            rows = [self._range(e, option) for option in self.skeleton.options[e.name]]
            least.append(np.min([low for low, _ in rows], axis=0))
            most.append(np.max([np.where(np.isinf(high), 0, high) for _, high in rows], axis=0))
        none = np.zeros((1, *least[0].shape))
        suffix = lambda rows: np.concatenate([np.cumsum(rows[::-1], axis=0)[::-1], none])
        return suffix(np.array(least)), suffix(np.array(most))

    def _range(self, e: Einsum, option: Option) -> tuple[np.ndarray, np.ndarray]:
        """The least and the most of each metric that an option of an Einsum can add."""
        low = high = self.compute(e, option)
        for use in self.group.uses.values():
            if e.name in use.users:
                if self.space.first[use.tensor] == e.name:
                    tables = [t for _, t in self.touch(e, option, use)]
                else:
                    sources = dict.fromkeys(map(self.source, self.skeleton.chains[use.tensor]))
                    tables = [self.access(e, option, use.tensor, s) for s in sources]
                each = np.array(tables) if tables else np.full((1, *low.shape), math.inf)
                low, high = low + each.min(axis=0), high + np.where(np.isinf(each), 0, each).max(axis=0)
        return low, high

    def bounds(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(latency, energy) from below for each shape."""
        total = np.zeros((len(weights), self.shapes))
        held = np.zeros((len(self.space.room), self.shapes))
        with np.errstate(invalid="ignore"):
            for e in self.group.einsums:
                least, room = self._least(e, weights)
                total += least
                held += room
        full = (held > np.array(list(self.space.room.values()))[:, None]).any(axis=0)
        total[:, full] = math.inf
        latency = total[:-1].max(axis=0)
        return latency, total[-1] + self.group.machine.static_power_w * np.where(np.isinf(latency), 0.0, latency)

    def _least(self, e: Einsum, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The least of each weighted sum over an Einsum's options, and the least that must be held."""
        best = np.full((len(weights), self.shapes), math.inf)
        room = np.full((len(self.space.room), self.shapes), math.inf)
        rooms_at = 1 + len(self.space.busy)
        weigh = lambda key, table: self._weighed(key, table, weights)
        for option in self.skeleton.options[e.name]:
            here = self.compute(e, option)
            value, kept = weigh((e.name, option), here), here[rooms_at:].copy()
            for use in self.group.uses.values():
                if e.name not in use.users:
                    continue
                if self.space.first[use.tensor] == e.name:
                    chains = self.skeleton.chains[use.tensor]
                    low, least = self._shared_touch(e, option, use, chains, weigh, rooms_at)
                    value, kept = value + low, kept + least
                else:
                    sources = dict.fromkeys(map(self.source, self.skeleton.chains[use.tensor]))
                    key = lambda s, use=use, option=option: (e.name, option, use.tensor, s)
                    each = [weigh(key(s), self.access(e, option, use.tensor, s)) for s in sources]
                    value = value + np.min(each, axis=0)
            best, room = np.minimum(best, value), np.minimum(room, kept)
        return np.where(best > 1e250, math.inf, best), room

    def _shared_touch(self, e: Einsum, option: Option, use: Use, chains, weigh, rooms_at: int):
        """The least weighted sums, and the least held, over the chains of a tensor that the Einsum touches first."""
        key = ("touch", e.name, option, use.tensor, chains)
        if key not in self._known:
            each = [table for _, table in self.touch(e, option, use)]
            none = (np.full(self.shapes, math.inf), math.inf)
            low = np.min([weigh(None, t) for t in each], axis=0) if each else none[0]
            self._known[key] = (low, np.min([t[rooms_at:] for t in each], axis=0) if each else none[1])
        return self._known[key]

    def _weighed(self, key, table: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weighted sums of a table's metrics, more than anything where something does not fit."""
        make = lambda: weights @ np.where(np.isinf(table), 1e300, table)
        if key is None:
            return make()
        if ("weighed", key) not in self._known:
            self._known["weighed", key] = make()
        return self._known["weighed", key]


class Program:
    """The dynamic program of one shape."""

    def __init__(self, space: Several, skeleton: Skeleton, terms: Terms, shape: int) -> None:
        self.space, self.skeleton, self.terms, self.shape = space, skeleton, terms, shape
        self.group = space.group

    def solve(self, minimise: str, latency: float, energy: float) -> tuple[np.ndarray, tuple] | None:
        """(metrics, decisions) of the least within the limits, or None."""
        n, whole = len(self.space.busy), self.space.whole
        caps = np.array([energy, *[latency] * n, *self.space.room.values()])
        least, most = (r[:, :, self.shape] for r in self.terms.ranges)
        states: dict[tuple, Sums] = {(): Sums(np.zeros((1, len(caps))), [()])}
        for i, e in enumerate(self.group.einsums):
            fresh: dict[tuple, list] = {}
            moves = self._undominated(e, self.moves(e))
            for key, sums in states.items():
                for option, chosen, live, vector in moves:
                    total = self._joined(e, option, key, vector)
                    if total is None:
                        continue
                    values = sums.values + total
                    bound = values + least[i + 1]
                    fits = (bound <= caps * (1 + CLOSE)).all(axis=1) & (whole(bound)["energy"] <= energy * (1 + CLOSE))
                    keep = np.flatnonzero(fits)
                    if keep.size:
                        after = tuple(x for x in (*key, *live) if self._lives(x[0], i))
                        made = [(*sums.decisions[k], (e.name, option, chosen)) for k in keep]
                        fresh.setdefault(after, []).append((values[keep], made))
            states = {
                key: self._pruned(parts, minimise, caps, least[i + 1], most[i + 1]) for key, parts in fresh.items()
            }
        done = [(v, d) for sums in states.values() for v, d in zip(sums.values, sums.decisions, strict=True)]
        if not done:
            return None
        first = ("latency", "energy") if minimise == "latency" else ("energy", "latency")
        return min(done, key=lambda x: (*(float(whole(x[0])[m]) for m in first), float(x[0][1 + n :].sum())))

    def _lives(self, tensor: str, step: int) -> bool:
        return self.group.names.index(self.space.last[tensor]) > step

    def moves(self, e: Einsum) -> list[tuple[Option, tuple, tuple, np.ndarray]]:
        """(option, chains of tensors touched first, what later Einsums need of them, vector)."""
        found = []
        mine = [u for u in self.group.uses.values() if self.space.first[u.tensor] == e.name]
        for option in self.skeleton.options[e.name]:
            base = self.terms.compute(e, option)[:, self.shape]
            if np.isinf(base[0]):
                continue
            each = [self.terms.touch(e, option, use) for use in mine]
            for chosen in product(*each):
                vector = base + sum(table[:, self.shape] for _, table in chosen)
                if np.isinf(vector).any():
                    continue
                chains = tuple((use.tensor, chain) for use, (chain, _) in zip(mine, chosen, strict=True))
                live = tuple((t, c, tuple(upper(self.group, option, h.memory) for h in c)) for t, c in chains)
                found.append((option, chains, live, vector))
        return found

    def _undominated(self, e: Einsum, moves: list) -> list:
        """Moves without those that another one beats whatever the others decide."""
        older = [u for u in self.group.uses.values() if e.name in u.users and self.space.first[u.tensor] != e.name]
        index = self.group.names.index(e.name)
        chains = [c for u in older for c in self.skeleton.chains[u.tensor]]
        along = sorted({h.along for c in chains for h in c if h.along})
        apart: dict[tuple, list] = {}
        for move in moves:
            option, _, live, vector = move
            leads = tuple(bool(self.terms.leads(e, option, r)[self.shape]) for r in along)
            later = tuple(x for x in live if self._lives(x[0], index))
            key = (later, option.spread if older else (), option.unit, leads)
            sources = [
                (u, s) for u in older for s in dict.fromkeys(map(self.terms.source, self.skeleton.chains[u.tensor]))
            ]
            reach = [self.terms.access(e, option, u.tensor, s)[:, self.shape] for u, s in sources]
            apart.setdefault(key, []).append((move, np.concatenate([vector, *reach])))
        kept = []
        for rows in apart.values():
            good = moocore.is_nondominated(np.array([v for _, v in rows])) if len(rows) > 1 else [True]
            kept += [move for (move, _), ok in zip(rows, good, strict=True) if ok]
        return kept

    def _joined(self, e: Einsum, option: Option, live: tuple, vector: np.ndarray) -> np.ndarray | None:
        """The move's vector with the Einsum's accesses of tensors that live already; None if they lie elsewhere."""
        for tensor, chain, spread in live:
            if e.name not in self.group.uses[tensor].users:
                continue
            for hold, there in zip(chain, spread, strict=True):
                if below(self.group, option, hold.memory) and upper(self.group, option, hold.memory) != there:
                    return None
                if hold.along and not self.terms.leads(e, option, hold.along)[self.shape]:
                    return None
            vector = vector + self.terms.access(e, option, tensor, self.terms.source(chain))[:, self.shape]
        return vector

    def _pruned(self, parts: list, minimise: str, caps: np.ndarray, least: np.ndarray, most: np.ndarray) -> Sums:
        """Sums that no other dominates in what can still matter."""
        values = np.concatenate([v for v, _ in parts])
        decisions = [d for _, made in parts for d in made]
        if len(values) == 1:
            return Sums(values, decisions)
        threshold = caps.copy()
        n = len(self.space.busy)
        static = self.group.machine.static_power_w > 0
        if minimise == "latency" or static:
            threshold[1 : 1 + n] = np.minimum(threshold[1 : 1 + n], (values + least)[:, 1 : 1 + n].max(axis=1).min())
        if minimise == "energy" or (static and math.isfinite(caps[0])):
            threshold[0] = -math.inf
        matters = np.any(values + most > threshold, axis=0)
        if not matters.any():
            return Sums(values[:1], decisions[:1])
        good = np.flatnonzero(moocore.is_nondominated(values[:, matters]))
        return Sums(values[good], [decisions[k] for k in good])
