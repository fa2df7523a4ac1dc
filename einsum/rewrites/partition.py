"""A rank cut into tiles: `m` becomes `m1` (the tile) and `m0` (inside it), with `m = m1*M0 + m0` (SEMANTICS 2.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Guard, Name
from einsum.ops import OPS, empty_init, is_view
from einsum.problems import suggest
from einsum.rewrites.terms import changed, fresh, rebuilt, refuse


def partition(cascade: Cascade, rank: str) -> Cascade:
    """Every tensor along `rank` becomes one along the tiles and inside them; the last tile may be ragged.

    Inputs, and views of them, are read through a view. InputError if there is no such rank, if a statement carries a
    state or chooses along it, or if a written tensor is read at another index than the bare rank.
    """
    if rank not in cascade.ranks:
        raise refuse(cascade, "no such rank", rank + _meant(rank, cascade))
    for new in (f"{rank}1", f"{rank}0"):
        if new in cascade.ranks or new.upper() in cascade.free_sizes or new.upper() in dict(cascade.sizes):
            raise refuse(cascade, f"rank {rank} cannot be cut: {new} exists already")
    for einsum in cascade.einsums:
        if einsum.iterative == rank or (einsum.topk and rank in einsum.topk.ranks):
            raise refuse(cascade, f"rank {rank} cannot be cut: {einsum.name} steps or chooses along it")
    cut = _Cut(cascade, rank)
    statements = [written for e in cascade.einsums for written in cut.statements(e)]
    definition = Apply("ceil", (Apply("/", (Name(rank.upper()), Name(f"{rank.upper()}0"))),))
    sizes = ((f"{rank.upper()}1", definition), *cascade.sizes)
    whole = [view for name, view in cut.views.items() if name not in cascade]
    for statement in statements:
        whole += [statement, *([cut.views[statement.name]] if statement.name in cut.views else [])]
    return rebuilt(cascade, whole, sizes)


def _meant(rank: str, cascade: Cascade) -> str:
    close = suggest(rank, cascade.ranks)
    return f"; did you mean {close}?" if close else ""


@dataclass
class _Cut:
    cascade: Cascade
    rank: str

    def __post_init__(self) -> None:
        self.sources = set(self.cascade.inputs)  # read through a view: inputs, and views of nothing but these
        for einsum in self.cascade.einsums:
            if is_view(einsum) and {a.tensor for a in einsum.reads} <= self.sources:
                self.sources.add(einsum.name)
        self.views: dict[str, Einsum] = {}
        self.outer, self.inner = Name(f"{self.rank}1"), Name(f"{self.rank}0")
        self.tile = Apply("+", (Apply("*", (self.outer, Name(f"{self.rank.upper()}0"))), self.inner))

    def statements(self, einsum: Einsum) -> tuple[Einsum, ...]:
        """The statement over the two ranks; an output that they cut is put together again by a view."""
        if einsum.name in self.sources:
            return (einsum,)
        found = self._einsum(einsum)
        if einsum.name not in self.cascade.outputs or self.rank not in einsum.output_ranks:
            return (found,)
        name = fresh(self.cascade.tensor, f"B{einsum.name}")
        inside = {self.outer.name: "//", self.inner.name: "%"}
        size = Name(f"{self.rank.upper()}0")
        back = lambda i: Apply(inside[i.name], (Name(self.rank), size)) if i in (self.outer, self.inner) else i
        whole = Access(name, tuple(map(back, found.output.indices)))
        return (replace(found, output=replace(found.output, tensor=name)), Einsum(einsum.output, whole))

    def _einsum(self, einsum: Einsum) -> Einsum:
        if self.rank not in einsum.ranks:
            return self._with(einsum, einsum.output, einsum.reduced)
        output = Access(einsum.name, self._indices(einsum.output))
        reduced = tuple(n for r in einsum.reduced for n in (self._names if r == self.rank else (r,)))
        found = self._with(einsum, output, reduced)
        if not self._bounded(einsum.expr):
            found = replace(found, guards=(*found.guards, Guard(self.tile, "<", Name(self.rank.upper()))))
        return found

    @property
    def _names(self) -> tuple[str, str]:
        return self.outer.name, self.inner.name

    def _with(self, einsum: Einsum, output: Access, reduced: tuple[str, ...]) -> Einsum:
        guards = tuple(Guard(self._expr(g.left), g.relation, self._expr(g.right)) for g in einsum.guards)
        topk = einsum.topk and replace(einsum.topk, count=self._expr(einsum.topk.count))
        expr = self._expr(einsum.expr)
        return replace(einsum, output=output, expr=expr, reduced=reduced, guards=guards, topk=topk)

    def _indices(self, access: Access) -> tuple[Expr, ...]:
        """The indices with the bare rank replaced by both of its parts."""
        bare = Name(self.rank)
        return tuple(n for i in access.indices for n in ((self.outer, self.inner) if i == bare else (i,)))

    def _expr(self, expr: Expr) -> Expr:
        """The expression over the two ranks."""
        if isinstance(expr, Access):
            return self._access(expr)
        if isinstance(expr, Apply):
            return Apply(expr.op, tuple(map(self._expr, expr.args)))
        return self.tile if expr == Name(self.rank) else expr

    def _access(self, access: Access) -> Access:
        name = access.tensor
        if name not in self.sources:
            written = self.cascade[name].output.indices
            bare = [i == Name(self.rank) for i in access.indices]
            if bare != [i == Name(self.rank) for i in written]:
                what = f"rank {self.rank} cannot be cut: {name} is read along it at another index than the bare rank"
                raise refuse(self.cascade, what)
            rest = Access(name, tuple(i if b else self._expr(i) for i, b in zip(access.indices, bare, strict=True)))
            return replace(rest, indices=self._indices(rest))
        if access.indices.count(Name(self.rank)) == 1 and self._only_bare(access):
            return self._viewed(access)
        return Access(name, tuple(self._expr(i) for i in access.indices))

    def _only_bare(self, access: Access) -> bool:
        """The rank stands alone in one index and in no other."""
        return all(i == Name(self.rank) or changed(i, self._marked) == i for i in access.indices)

    def _marked(self, node: Expr) -> Expr:
        return self.outer if node == Name(self.rank) else node

    def _viewed(self, access: Access) -> Access:
        """The access of a view of an input that is cut along the rank at this place."""
        at = access.indices.index(Name(self.rank))
        ranks = self.cascade.tensor[access.tensor].ranks
        if access.tensor not in self.views:
            taken = (*self.cascade.tensor, *(view.name for view in self.views.values()))
            own: tuple[Expr, ...] = tuple(map(Name, ranks))
            source = Access(access.tensor, (*own[:at], self.tile, *own[at + 1 :]))
            target = Access(fresh(taken, f"B{access.tensor}"), (*own[:at], self.outer, self.inner, *own[at + 1 :]))
            self.views[access.tensor] = Einsum(target, source)
        view = self.views[access.tensor]
        indices = (*access.indices[:at], self.outer, self.inner, *access.indices[at + 1 :])
        return Access(view.name, indices) if view.output.indices[at] == self.outer else access

    def _bounded(self, expr: Expr) -> bool:
        """Whether the expression cannot exist behind the end of the rank: all that it needs ends there."""
        if isinstance(expr, Access):
            if expr.tensor in self.cascade and (e := self.cascade[expr.tensor]).iterative and not empty_init(e):
                return False  # the initial state exists behind the end too
            ends = self.cascade.tensor[expr.tensor].ranks if expr.tensor in self.sources else None
            return any(i == Name(self.rank) and (ends is None or ends[at] == self.rank)
                       for at, i in enumerate(expr.indices))  # fmt: skip
        if isinstance(expr, Apply):
            some = any if OPS[expr.op].merge != "union" or len(expr.args) == 1 else all
            return some(map(self._bounded, expr.args))
        return False
