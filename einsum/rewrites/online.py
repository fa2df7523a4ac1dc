"""Reductions that need each other in one pass over tiles: iterative, or tiles in parallel (SEMANTICS 2.5.4).

Both work from the same laws. Iterative (`online`): a tile's terms use the running value, and the state is carried
from the value before the tile to the one after it. Parallel (`split`): a tile's terms use the tile's own value, and
each tile's result is carried to the value of all tiles when they are combined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Name, Num, rank_variables
from einsum.ops import REDUCE_OPS
from einsum.parse import parse_expression
from einsum.rewrites.laws import STABLE, Law
from einsum.rewrites.terms import Bindings, changed, changed_einsum, fresh, is_map, rebuilt, refuse
from einsum.rewrites.tidy import tidied
from einsum.rewrites.transport import Fiber, fiber, transport

Change = Callable[[Expr], Expr]


def online(cascade: Cascade, rank: str, laws: tuple[Law, ...] = STABLE) -> Cascade:
    """Make the reductions over the partitioned `rank` iterative over its tiles, with running values (online softmax).

    InputError if the rank is not partitioned, or if no reduction over it needs another one that a law can carry.
    """
    return _rewritten(cascade, rank, laws, parallel=False)


def split(cascade: Cascade, rank: str, laws: tuple[Law, ...] = STABLE) -> Cascade:
    """Reduce each tile of the partitioned `rank` by itself and combine the tiles after that (Flash-Decoding).

    InputError as for `online`.
    """
    return _rewritten(cascade, rank, laws, parallel=True)


def carriers(cascade: Cascade, rank: str, laws: tuple[Law, ...] = STABLE) -> dict[str, Law]:
    """The law that would carry each reduction over the partitioned rank which needs another one."""
    f = fiber(cascade, f"{rank}1", f"{rank}0")
    needy = (e for e in cascade.einsums if f.reduces(e) and f.needs(e.expr))
    return {e.name: found[0] for e in needy if (found := transport(f, e, laws))}


def _rewritten(cascade: Cascade, rank: str, laws: tuple[Law, ...], parallel: bool) -> Cascade:
    outer, inner = f"{rank}1", f"{rank}0"
    if outer not in cascade.ranks or inner not in cascade.ranks:
        raise refuse(cascade, "the rank is not partitioned", rank)
    for einsum in cascade.einsums:
        if einsum.iterative or len({outer, inner} & set(einsum.reduced)) == 1:
            raise refuse(cascade, f"{einsum.name} already carries a state or reduces a part of rank {rank}")
    f = fiber(cascade, outer, inner)
    carried = {e.name: found for e in cascade.einsums
               if f.reduces(e) and f.needs(e.expr) and (found := transport(f, e, laws))}  # fmt: skip
    running = _running(f, carried)
    if not running:
        raise refuse(cascade, f"no reduction over {rank} needs another one that a law can carry")
    tiles = _Tiles(f, rank.upper(), parallel, carried, running)
    statements = [new for e in cascade.einsums for new in tiles.statements(e)]
    return tidied(rebuilt(cascade, statements), cascade.outputs)


def _running(f: Fiber, carried: dict[str, tuple[Law, Bindings]]) -> set[str]:
    """The carried reductions, and all along or behind the fiber that they need; none of one that cannot be carried."""
    found: set[str] = set()
    for name in carried:
        wanted = [name]
        for other in wanted:  # grows while it is walked
            einsum = f.cascade[other]
            wanted += [n for n in f.needs(einsum.expr) if n not in wanted]
        possible = all(
            n in carried or is_map(f.cascade[n]) or (f.reduces(f.cascade[n]) and not f.needs(f.cascade[n].expr))
            for n in wanted
        )
        found |= set(wanted) if possible else set()
    return found


@dataclass
class _Tiles:
    """Writes each statement of the old cascade for one tile, for all tiles so far, and for the end."""

    f: Fiber
    size: str  # of the rank that is partitioned
    parallel: bool
    carried: dict[str, tuple[Law, Bindings]]
    running: set[str]
    local: dict[str, str] = field(default_factory=dict)  # old name -> the tensor of one tile, or of the tiles so far
    state: dict[str, str] = field(default_factory=dict)  # old name of a reduction -> its state
    taken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.taken = list(self.f.cascade.tensor)
        self.outer = Name(self.f.outer)

    def statements(self, e: Einsum) -> list[Einsum]:
        """What stands in place of one statement."""
        if e.name not in self.running:
            return [self._final(e)]
        if not self.f.reduces(e):
            return [self._tile_map(e), self._final(e)]
        name = self._name("L", e)
        reduced = tuple(r for r in e.reduced if r != self.f.outer)
        here = changed_einsum(e, self._new)
        local = replace(here, output=self._along(Access(name, e.output.indices)), reduced=reduced)
        self.local[e.name] = name
        combined = self._combined(e, local) if self.parallel else self._iterated(e, local)
        return [local, *combined]

    def _tile_map(self, e: Einsum) -> Einsum:
        """A map for one tile: of values along the fiber, or of running aggregates."""
        aggregate = e.name in self.f.aggregates
        name = self._name("R" if aggregate and not self.parallel else "L", e)
        self.local[e.name] = name
        output = Access(name, e.output.indices)
        here = changed_einsum(e, self._new)
        if not aggregate:
            return replace(here, output=output)
        return replace(here, expr=self._prefix(here.expr, new=True), output=self._along(output))

    def _iterated(self, e: Einsum, local: Einsum) -> list[Einsum]:
        """The state: the tile's result joined to the state so far, carried to the new values if it needs that."""
        name = self._name("R", e)
        self.state[e.name] = name
        before = self._along(Access(name, e.output.indices))
        added: list[Einsum] = []
        addends = (before, local.output)
        if e.name in self.carried:
            carry = self._carry(e, before, added, self._old, self._new)
            moved = Einsum(self._along(Access(self._name("C", e), e.output.indices)), carry)
            added.append(moved)
            addends = (local.output, moved.output)
        row = REDUCE_OPS[e.reduce_op]
        after = Access(name, (*e.output.indices, Apply("+", (self.outer, Num(1)))))
        added.append(Einsum(after, Apply(row.key, addends), init=row.identity))
        if e.name in self.f.cascade.outputs:
            added.append(Einsum(e.output, self._last(e.output)))
        return added

    def _combined(self, e: Einsum, local: Einsum) -> list[Einsum]:
        """The results of all tiles joined, each carried to the values of all tiles."""
        added: list[Einsum] = []
        carry: Expr = local.output
        if e.name in self.carried:
            carry = self._carry(e, local.output, added, self._new, lambda node: node)
        return [*added, Einsum(e.output, carry, e.reduce_op, (self.f.outer,))]

    def _carry(self, e: Einsum, s: Expr, added: list[Einsum], old: Change, new: Change) -> Expr:
        """The law's result for `s`; what it needs besides is added as statements of its own."""
        law, bound = self.carried[e.name]
        parts: dict[str, Expr] = {name: changed(part, old) for name, part in bound.items()}
        parts |= {"s": s, "h": changed(bound["g"], new)}
        if "n" in bound:
            parts["n"] = self._prefix(changed(bound["n"], old), new=False)
        for name, text in law.lets:
            value = _filled(parse_expression(text), parts)
            ranks = [r for r in (*e.output_ranks, self.f.outer) if r in rank_variables(value)]
            target = Access(self._fresh(f"P{e.name}"), tuple(map(Name, ranks)))
            added.append(Einsum(target, value))
            parts[name] = target
        return _filled(law.replacement, parts)

    def _new(self, node: Expr) -> Expr:
        """An access at the tiles so far, this one included; of this tile alone in parallel."""
        if not isinstance(node, Access) or node.tensor not in self.local:
            return node
        if node.tensor in self.state:
            at: Expr = Apply("+", (self.outer, Num(1)))
            return Access(self.state[node.tensor], (*node.indices, at))
        name = self.local[node.tensor]
        return (
            self._along(Access(name, node.indices)) if node.tensor in self.f.aggregates else Access(name, node.indices)
        )

    def _old(self, node: Expr) -> Expr:
        """An access at the tiles before this one."""
        if not isinstance(node, Access) or node.tensor not in self.local:
            return node
        if node.tensor in self.state:
            return self._along(Access(self.state[node.tensor], node.indices))
        return Access(self.local[node.tensor], (*node.indices, Apply("-", (self.outer, Num(1)))))

    def _final(self, e: Einsum) -> Einsum:
        """The statement with the last states in place of reductions."""
        return changed_einsum(e, lambda node: self._last(node) if isinstance(node, Access) else node)

    def _last(self, node: Access) -> Access:
        if node.tensor not in self.state:
            return node
        return Access(self.state[node.tensor], (*node.indices, Name(self.f.outer.upper())))

    def _prefix(self, expr: Expr, new: bool) -> Expr:
        """The size of the rank replaced by the number of its coordinates in the tiles that are meant."""
        tile = Name(f"{self.size}0")
        whole = Name(self.size)
        start: Expr = Apply("*", (self.outer, tile))
        if self.parallel:
            count: Expr = Apply("min", (tile, Apply("-", (whole, start))))
        else:
            count = Apply("min", (Apply("+", (start, tile)), whole)) if new else start
        return changed(expr, lambda node: count if node == whole else node)

    def _along(self, access: Access) -> Access:
        return replace(access, indices=(*access.indices, self.outer))

    def _name(self, prefix: str, e: Einsum) -> str:
        return self._fresh(prefix + e.name)

    def _fresh(self, base: str) -> str:
        self.taken.append(fresh(self.taken, base))
        return self.taken[-1]


def _filled(pattern: Expr, parts: Bindings) -> Expr:
    """The pattern with its names replaced, once each."""
    if isinstance(pattern, Apply):
        return Apply(pattern.op, tuple(_filled(a, parts) for a in pattern.args))
    return parts.get(pattern.name, pattern) if isinstance(pattern, Name) else pattern
