"""Cascades made of cascades: other names for tensors and ranks, and several cascades joined into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Guard, Name, Tensor, TopK

Ranks = Mapping[str, tuple[str, ...]]  # rank variable -> those that stand in its place, none to drop it


def renamed(cascade: Cascade, tensors: Mapping[str, str] | None = None, ranks: Ranks | None = None) -> Cascade:
    """The cascade with other names for tensors and ranks; the size of a rank `t` that becomes `p` is P and no longer T.

    A rank may become several, or none: then ValueError if it stands inside an expression or its size is used.
    """
    return _Renaming(lambda tensor: ranks or {}, tensors or {}).cascade(cascade)


def reindexed(cascade: Cascade, ranks_of: Callable[[str], Ranks]) -> Cascade:
    """The cascade with the ranks of each tensor replaced as `ranks_of(tensor)` says; `renamed` has the conditions."""
    return _Renaming(ranks_of, {}).cascade(cascade)


def joined(name: str, parts: tuple[Cascade, ...], doc: str = "") -> Cascade:
    """The statements of the parts one after another; a tensor that one part writes is what later ones read by its name.

    Types are those of the first part that names a tensor. Raises ValueError for a tensor that two parts write and for
    a size that two parts define differently.
    """
    einsums = tuple(e for part in parts for e in part.einsums)
    written = [e.name for e in einsums]
    if len(set(written)) < len(written):
        raise ValueError(f"written twice: {sorted({n for n in written if written.count(n) > 1})}")
    known: dict[str, Tensor] = {}
    sizes: dict[str, Expr] = {}
    for part in parts:
        for tensor in part.tensors:
            known.setdefault(tensor.name, tensor)
        for size, definition in part.sizes:
            if sizes.setdefault(size, definition) != definition:
                raise ValueError(f"size {size} is defined in two ways")
    inputs = tuple(t for t in known.values() if t.name not in written)
    return Cascade(name, (*inputs, *(known[n] for n in written)), einsums, tuple(sizes.items()), doc)


@dataclass(frozen=True)
class _Renaming:
    """New names; the ranks of a tensor are looked up under its old one."""

    ranks_of: Callable[[str], Ranks]
    names: Mapping[str, str]

    def cascade(self, cascade: Cascade) -> Cascade:
        tensors = tuple(
            replace(t, name=self.names.get(t.name, t.name), ranks=_flat(t.ranks, self.ranks_of(t.name)))
            for t in cascade.tensors
        )
        every = self.ranks_of("")
        sizes = tuple((_size(name, every), self._expr(definition, every)) for name, definition in cascade.sizes)
        return replace(cascade, tensors=tensors, einsums=tuple(map(self._einsum, cascade.einsums)), sizes=sizes)

    def _einsum(self, einsum: Einsum) -> Einsum:
        own = self.ranks_of(einsum.name)
        guards = (Guard(self._expr(g.left, own), g.relation, self._expr(g.right, own)) for g in einsum.guards)
        topk = einsum.topk and TopK(_flat(einsum.topk.ranks, own), self._expr(einsum.topk.count, own))
        return replace(
            einsum, output=self._access(einsum.output), expr=self._expr(einsum.expr, own),
            reduced=_flat(einsum.reduced, own), guards=tuple(guards), topk=topk,
        )  # fmt: skip

    def _access(self, access: Access) -> Access:
        """The access with bare ranks replaced by any number of them, and ranks inside index expressions by one."""
        own = self.ranks_of(access.tensor)
        indices: list[Expr] = []
        for index in access.indices:
            if isinstance(index, Name) and index.name in own:
                indices += map(Name, own[index.name])
            else:
                indices.append(self._expr(index, own))
        return Access(self.names.get(access.tensor, access.tensor), tuple(indices))

    def _expr(self, expr: Expr, own: Ranks) -> Expr:
        match expr:
            case Access():
                return self._access(expr)
            case Apply(op, args):
                return Apply(op, tuple(self._expr(arg, own) for arg in args))
            case Name(name) if name.isupper():
                return Name(_size(name, own))
            case Name(name) if name in own:
                if len(own[name]) != 1:
                    raise ValueError(f"rank {name} stands inside an expression")
                return Name(own[name][0])
            case _:
                return expr


def _size(name: str, ranks: Ranks) -> str:
    by = ranks.get(name.lower(), (name.lower(),))
    if len(by) != 1:
        raise ValueError(f"size {name} is used, and its rank becomes {len(by)} ranks")
    return by[0].upper()


def _flat(ranks: tuple[str, ...], by: Ranks) -> tuple[str, ...]:
    return tuple(new for rank in ranks for new in by.get(rank, (rank,)))
