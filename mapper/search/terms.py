"""What decisions about Einsums that share loops cost: tables over all shapes, and the choices of a skeleton."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import numpy as np

from einsum.cascade import Einsum
from mapper.search.group import Group, Option, Use
from mapper.search.metrics import add
from mapper.search.places import below, upper
from mapper.search.price import Hold, Prices

Chain = tuple[Hold, ...]
Held = tuple[tuple[str, Chain], ...]  # tensors and where they are held
Live = tuple[tuple[str, Chain, tuple], ...]  # tensors that live on: their chains and how these are dealt out


@dataclass(frozen=True)
class Skeleton:
    """What is fixed before shapes: each Einsum's options and each tensor's chains of holds."""

    options: dict[str, tuple[Option, ...]]
    chains: dict[str, tuple[Chain, ...]]
    _moves: dict[str, Moves] = field(default_factory=dict, compare=False, repr=False)

    def moves(self, terms: Terms, e: Einsum) -> Moves:
        """Every way to compute the Einsum and to hold the tensors that it touches first; what they cost is open."""
        if e.name not in self._moves:
            space, group, mine = terms.tables, terms.tables.group, terms.tables.fresh(e.name)
            older = any(e.name in use.users and use not in mine for use in group.uses.values())
            decided, left, alike, numbers = [], {}, {}, []
            for i, option in enumerate(self.options[e.name]):
                dealt = lambda chain, option=option: tuple(upper(group, option, h.memory) for h in chain)
                each = [[chain for chain, _ in terms.touch(e, option, use)] for use in mine]
                for chosen in product(*each):
                    held = tuple((use.tensor, chain) for use, chain in zip(mine, chosen, strict=True))
                    live = tuple((t, c, dealt(c)) for t, c in held if space.lives(t, e.name))
                    after = left.setdefault(live, len(left))
                    key = (after, option.spread if older else (), option.unit)
                    decided.append((option, held))
                    numbers.append((i, after, alike.setdefault(key, len(alike))))
            table, none = np.array(numbers, dtype=int).reshape(-1, 3), np.zeros((len(decided), 0))
            shorter = _shorter(decided, {use.tensor for use in mine if use.kind == "inner"})
            self._moves[e.name] = Moves(
                e.name, decided, list(left), table[:, 0], table[:, 1], table[:, 2], shorter, none
            )
        return self._moves[e.name]


def _shorter(decided: list[tuple[Option, Held]], inner: set[str]) -> np.ndarray:
    """(pairs, 2): moves, and what is the same but without the outermost of several holds of a tensor that lives in the
    group: it moves less and holds less, and its users find it at the same place."""
    number, found = {move: i for i, move in enumerate(decided)}, []
    for i, (option, held) in enumerate(decided):
        for k, (tensor, chain) in enumerate(held):
            if tensor in inner and len(chain) > 1:
                other = number.get((option, (*held[:k], (tensor, chain[1:]), *held[k + 1 :])))
                found += [(i, other)] if other is not None else []
    return np.array(found, dtype=int).reshape(-1, 2)


@dataclass(frozen=True)
class Moves:
    """Ways to decide about one Einsum: an option and chains of the tensors that it touches first, and what these cost,
    (moves, metrics) or (moves, metrics, shapes).

    Of each move: the number of its option; of what later Einsums need to know, in `left`; and of those that it can
    stand in for. `shorter`: pairs of a move and one that is better where it is allowed.
    """

    einsum: str
    decided: list[tuple[Option, Held]]
    left: list[Live]
    option: np.ndarray
    after: np.ndarray
    alike: np.ndarray
    shorter: np.ndarray
    vectors: np.ndarray

    def only(self, kept: np.ndarray, vectors: np.ndarray) -> Moves:
        """Some of them, with vectors of their own."""
        decided, numbers = [self.decided[i] for i in kept], (self.option[kept], self.after[kept], self.alike[kept])
        return Moves(self.einsum, decided, self.left, *numbers, self.shorter[:0], vectors)


class Tables:
    """The costs of decisions about a group in every shape: only the metrics that one has are kept."""

    def __init__(self, group: Group, prices: Prices, metrics: tuple[str, ...], shapes: int) -> None:
        self.group, self.prices, self.metrics, self.shapes = group, prices, metrics, shapes
        self.first = {t: next(e for e in group.names if e in use.users) for t, use in group.uses.items()}
        last = {t: max(map(group.names.index, use.users)) for t, use in group.uses.items()}
        self.last = {t: group.names[i] for t, i in last.items()}
        self._known: dict[tuple, tuple[list[int], np.ndarray]] = {}

    def fresh(self, einsum: str) -> list[Use]:
        """The tensors that an Einsum touches first."""
        return [use for use in self.group.uses.values() if self.first[use.tensor] == einsum]

    def lives(self, tensor: str, einsum: str) -> bool:
        """Whether Einsums after one use a tensor."""
        return self.group.names.index(self.last[tensor]) > self.group.names.index(einsum)

    def _at(self, key: tuple, make, at: np.ndarray) -> np.ndarray:
        """(metrics, shapes at), infinite where it is not allowed."""
        if key not in self._known:
            vector, fits = make()
            rows = [i for i, metric in enumerate(self.metrics) if metric in vector or i == 0]
            values = np.zeros((len(rows), self.shapes))
            for i, row in enumerate(rows):
                values[i] = vector.get(self.metrics[row], 0.0)
            if fits is not True:
                values[:, ~np.broadcast_to(fits, self.shapes)] = math.inf
            self._known[key] = rows, values
        rows, values = self._known[key]
        table = np.zeros((len(self.metrics), len(at)))
        table[rows] = values[:, at]
        return table

    def compute(self, e: Einsum, option: Option, at: np.ndarray) -> np.ndarray:
        make = lambda: (self.prices.compute(e, option), self.prices.fits(e, option))
        return self._at((e.name, option), make, at)

    def access(self, e: Einsum, option: Option, tensor: str, source: str, at: np.ndarray) -> np.ndarray:
        def make():
            vector = {}
            for access in dict.fromkeys((*e.reads, e.output)):
                if access.tensor == tensor:
                    add(vector, self.prices.access(e, access, option, source))
            return vector, True

        return self._at((e.name, option, tensor, source), make, at)

    def keep(self, use: Use, chain: Chain, option: Option, at: np.ndarray) -> np.ndarray:
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
            e = self.group.workload.cascade[self.first[use.tensor]]
            for hold in chain:
                if hold.along:
                    fits = fits & self.prices.leads(e, option, hold.along)
            return vector, fits

        return self._at((use.tensor, chain, above), make, at)


class Terms:
    """The costs of a skeleton's decisions in some shapes, `at`: (metrics, shapes) each."""

    def __init__(self, tables: Tables, skeleton: Skeleton, at: np.ndarray) -> None:
        self.tables, self.skeleton, self.at, self.group = tables, skeleton, at, tables.group
        self._moves: dict[str, Moves] = {}

    def compute(self, e: Einsum, option: Option) -> np.ndarray:
        return self.tables.compute(e, option, self.at)

    def access(self, e: Einsum, option: Option, tensor: str, source: str) -> np.ndarray:
        return self.tables.access(e, option, tensor, source, self.at)

    def leads(self, e: Einsum, option: Option, rank: str) -> np.ndarray:
        """For each shape whether the rank's loop is the Einsum's outermost."""
        return np.broadcast_to(self.tables.prices.leads(e, option, rank), self.tables.shapes)[self.at]

    def source(self, chain: Chain) -> str:
        """Where the Einsums find a tensor."""
        return chain[-1].memory if chain else self.group.machine.root.name

    def sources(self, use: Use) -> list[str]:
        """Every place where they may find it."""
        return list(dict.fromkeys(map(self.source, self.skeleton.chains[use.tensor])))

    def touch(self, e: Einsum, option: Option, use: Use) -> list[tuple[Chain, np.ndarray]]:
        """For the Einsum that touches a tensor first: each chain, with what it and the accesses cost."""
        chains = [c for c in self.skeleton.chains[use.tensor] if all(below(self.group, option, h.memory) for h in c)]
        reach = {s: self.access(e, option, use.tensor, s) for s in dict.fromkeys(map(self.source, chains))}
        return [(c, self.tables.keep(use, c, option, self.at) + reach[self.source(c)]) for c in chains]

    def moves(self, e: Einsum) -> Moves:
        """Every way to decide about the Einsum, (moves, metrics, shapes)."""
        if e.name not in self._moves:
            mine, vectors = self.tables.fresh(e.name), []
            for option in self.skeleton.options[e.name]:
                total = self.compute(e, option)[None]
                for use in mine:
                    tables = np.array([table for _, table in self.touch(e, option, use)])
                    total = (total[:, None] + tables.reshape(-1, *total.shape[1:])).reshape(-1, *total.shape[1:])
                vectors.append(total)
            self._moves[e.name] = replace(self.skeleton.moves(self, e), vectors=np.concatenate(vectors))
        return self._moves[e.name]

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

    def parts(self, e: Einsum, option: Option, use: Use) -> np.ndarray:
        """(choices, metrics, shapes): what the Einsum's use of a tensor may cost; infinite if there is no choice."""
        if self.tables.first[use.tensor] == e.name:
            each = [table for _, table in self.touch(e, option, use)]
        else:
            each = [self.access(e, option, use.tensor, s) for s in self.sources(use)]
        return np.array(each) if each else np.full((1, len(self.tables.metrics), len(self.at)), math.inf)

    def _range(self, e: Einsum, option: Option) -> tuple[np.ndarray, np.ndarray]:
        """The least and the most of each metric that an option of an Einsum can add."""
        low = high = self.compute(e, option)
        for use in self.group.uses.values():
            if e.name in use.users:
                each = self.parts(e, option, use)
                low, high = low + each.min(axis=0), high + np.where(np.isinf(each), 0, each).max(axis=0)
        return low, high
