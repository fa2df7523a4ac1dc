"""Seeded random cascades, well formed by construction: material for property tests and oracles."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Guard, Name, Num, Tensor, TopK, rank_variables
from einsum.ops import REDUCE_OPS

RANKS = ("i", "j", "k")
BINARY = ("+", "-", "*", "/", "max", "min", "or", "lt", "ge")
UNARY = ("exp", "abs", "neg", "tanh", "sigmoid", "silu", "floor")
RELATIONS = ("<", "<=", "==", ">=", ">", "!=")
INITS = {"+": 0.0, "max": float("-inf"), "min": float("inf"), "*": 1.0}


def random_cascade(seed: int, statements: int = 5) -> Cascade:
    """A cascade of `statements` Einsums over ranks i, j, k: guards, gathers, tiled views, top-k, iterative states.

    Its free sizes are I, J, K, W, and T0 where a tiled view occurs; every extent of 1 or more is fine.
    """
    return _Generator(random.Random(seed)).cascade(seed, statements)


@dataclass
class _Generator:
    rng: random.Random
    inputs: tuple[Tensor, ...] = (
        Tensor("A", ("i", "j"), "bf16"),
        Tensor("B", ("j", "k")),
        Tensor("C", ("i",), "fp16"),
        Tensor("S", ()),
        Tensor("LEN", ("i",), "int32"),
        Tensor("PT", ("j",), "int32"),
        Tensor("MASK", ("i", "k"), "bool"),
    )
    values: list[Tensor] = field(default_factory=list)  # that a value may read: tensors and finished states
    einsums: list[Einsum] = field(default_factory=list)
    sizes: list[tuple[str, Expr]] = field(default_factory=list)

    def cascade(self, seed: int, statements: int) -> Cascade:
        self.values = [t for t in self.inputs if t.name not in ("LEN", "PT", "MASK")]
        for number in range(statements):
            kind = self.rng.choice(("map", "map", "reduce", "reduce", "state", "view", "topk"))
            getattr(self, f"_{kind}")(f"X{number}")
        read = {access.tensor for e in self.einsums for access in e.reads}
        inputs = tuple(t for t in self.inputs if t.name in read)
        written = tuple(t for t in self.values if t not in self.inputs)
        return Cascade(f"random-{seed}", inputs + written, tuple(self.einsums), tuple(self.sizes))

    def _add(self, einsum: Einsum) -> None:
        dtype = self.rng.choice(("fp32", "fp32", "bf16"))
        self.values.append(Tensor(einsum.name, einsum.output_ranks, dtype))
        self.einsums.append(einsum)

    def _map(self, name: str) -> None:
        expr = self._expr(RANKS, 2)
        ranks = list(rank_variables(expr))
        self.rng.shuffle(ranks)
        self._add(Einsum(_access(name, ranks), expr, guards=self._guards(ranks)))

    def _reduce(self, name: str) -> None:
        expr = self._expr(RANKS, 2)
        if self.rng.random() < 0.5:
            expr = Apply("*", (self._value(RANKS), self._value(RANKS)))
        ranks = rank_variables(expr)
        kept = [rank for rank in ranks if self.rng.random() < 0.5]
        reduced = tuple(rank for rank in ranks if rank not in kept)
        op = self.rng.choice(("add", "add", *REDUCE_OPS)) if reduced else "add"
        self._add(Einsum(_access(name, kept), expr, op, reduced, self._guards(ranks)))

    def _state(self, name: str) -> None:
        """`X[i+1,..] = op(X[i,..], value)`, by way of a second Einsum inside the loop half of the time."""
        rank = self.rng.choice(RANKS)
        value = self._expr(RANKS, 1)
        others = [r for r in rank_variables(value) if r != rank]
        ranks = [rank, *others] if self.rng.random() < 0.5 else [*others, rank]
        before = _access(name, ranks)
        op = self.rng.choice(tuple(INITS))
        if self.rng.random() < 0.5:
            step = f"{name}_STEP"
            self._add(Einsum(_access(step, ranks), Apply("tanh", (before,)), guards=self._guards(ranks)))
            before = _access(step, ranks)
        after = tuple(Apply("+", (Name(r), Num(1))) if r == rank else Name(r) for r in ranks)
        init = INITS[op] if self.rng.random() < 0.7 else 0.5
        self._add(Einsum(Access(name, after), Apply(op, (before, value)), guards=self._guards(ranks), init=init))

    def _topk(self, name: str) -> None:
        """A choice among the elements of an input, so that rounding never decides it."""
        source = self.rng.choice([t for t in self.inputs if t.ranks and t.name not in ("LEN", "PT", "MASK")])
        expr = Access(source.name, tuple(self._index(rank) for rank in source.ranks))
        ranks = list(rank_variables(expr))
        if not ranks:
            return self._map(name)
        chosen = self.rng.sample(ranks, self.rng.randint(1, len(ranks)))
        counts: list[Expr] = [Num(1), Num(2), Name("W")]
        counts += [_access("LEN", ["i"])] if "i" in ranks and "i" not in chosen else []
        topk = TopK(tuple(chosen), self.rng.choice(counts))
        return self._add(Einsum(_access(name, ranks), expr, guards=self._guards(ranks), topk=topk))

    def _view(self, name: str) -> None:
        """A rank split in two: the last tile is ragged."""
        source = self.rng.choice([t for t in self.values if t.ranks and not {"t1", "t0"} & set(t.ranks)])
        split = self.rng.choice(source.ranks)
        tile = Apply("+", (Apply("*", (Name("t1"), Name("T0"))), Name("t0")))
        index = tuple(tile if rank == split else Name(rank) for rank in source.ranks)
        ranks = [r for rank in source.ranks for r in (("t1", "t0") if rank == split else (rank,))]
        if not self.sizes:
            self.sizes.append(("T1", Apply("ceil", (Apply("/", (Name(split.upper()), Name("T0"))),))))
        self._add(Einsum(_access(name, ranks), Access(source.name, index)))

    def _expr(self, ranks: tuple[str, ...], depth: int) -> Expr:
        if depth == 0 or self.rng.random() < 0.3:
            return self._value(ranks)
        if self.rng.random() < 0.3:
            return Apply(self.rng.choice(UNARY), (self._expr(ranks, depth - 1),))
        if self.rng.random() < 0.1:
            return Apply("select", (self._value(ranks), self._expr(ranks, depth - 1), Num(1)))
        left = self._expr(ranks, depth - 1)
        right = self._number(rank_variables(left)) if self.rng.random() < 0.2 else self._expr(ranks, depth - 1)
        args = (left, right) if self.rng.random() < 0.5 else (right, left)
        return Apply(self.rng.choice(BINARY), args)

    def _number(self, bound: tuple[str, ...]) -> Expr:
        """A constant, a size, or a coordinate of a rank that a tensor binds."""
        return self.rng.choice((Num(2), Num(-1.5), Num(0.1), Name("W"), *map(Name, bound[:1])))

    def _value(self, ranks: tuple[str, ...]) -> Expr:
        """An access with an index for each rank of the tensor: the rank, shifted, gathered, or the final coordinate."""
        tensor = self.rng.choice(self.values)
        return Access(tensor.name, tuple(self._index(rank) for rank in tensor.ranks))

    def _index(self, rank: str) -> Expr:
        kinds = {
            "shift": self._shifted(rank),
            "floor": Apply("//", (Name(rank), Num(2))),
            "wrap": Apply("%", (Name(rank), Name("W"))),
            "last": Apply("-", (Name(rank.upper()), Num(1))),
            "gather": Access("PT", (self._shifted("j") if self.rng.random() < 0.5 else Name("j"),)),
        }
        return kinds[self.rng.choice(tuple(kinds))] if self.rng.random() < 0.25 else Name(rank)

    def _shifted(self, rank: str) -> Expr:
        return Apply(self.rng.choice("+-"), (Name(rank), Num(self.rng.randint(1, 2))))

    def _guards(self, ranks: list[str] | tuple[str, ...]) -> tuple[Guard, ...]:
        found = []
        if ranks and self.rng.random() < 0.4:
            left, right = (Name(self.rng.choice(ranks)) for _ in range(2))
            bound = Apply("+", (right, Num(self.rng.randint(0, 1)))) if self.rng.random() < 0.5 else Name("W")
            found.append(Guard(left, self.rng.choice(RELATIONS), bound))
        if "i" in ranks and self.rng.random() < 0.2:
            sides = [Name(self.rng.choice(ranks)), Access("LEN", (self.rng.choice((Name("i"), self._shifted("i"))),))]
            self.rng.shuffle(sides)
            found.append(Guard(sides[0], self.rng.choice(RELATIONS), sides[1]))
        if {"i", "k"} <= set(ranks) and self.rng.random() < 0.3:
            found.append(Guard(_access("MASK", ["i", "k"])))
        return tuple(found)


def _access(tensor: str, ranks: list[str] | tuple[str, ...]) -> Access:
    return Access(tensor, tuple(map(Name, ranks)))
