"""Which laws carry a reduction from an old value of what its terms depend on to a new one (SEMANTICS 2.5.3)."""

from __future__ import annotations

from dataclasses import dataclass

from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Name, rank_variables, walk
from einsum.ops import OPS, REDUCTIONS
from einsum.rewrites.defer import regrouped, satisfied
from einsum.rewrites.laws import TRANSPORT, Law
from einsum.rewrites.terms import Bindings, inlined, is_map, matches


@dataclass(frozen=True)
class Fiber:
    """What depends on a reduction over the ranks `outer` and `inner`, and how."""

    cascade: Cascade
    outer: str
    inner: str
    aggregates: frozenset[str]  # tensors without the fiber that depend on a reduction over it
    tainted: frozenset[str]  # tensors along the fiber that depend on an aggregate

    def reduces(self, einsum: Einsum) -> bool:
        """Whether the Einsum reduces the whole fiber."""
        return {self.outer, self.inner} <= set(einsum.reduced)

    def needs(self, expr: Expr) -> tuple[str, ...]:
        """The aggregates and tainted tensors that an expression reads."""
        names = (node.tensor for node in walk(expr) if isinstance(node, Access))
        return tuple(dict.fromkeys(n for n in names if n in self.aggregates or n in self.tainted))


def fiber(cascade: Cascade, outer: str, inner: str) -> Fiber:
    """Sort the tensors of a cascade by how they depend on reductions over the fiber."""
    aggregates: set[str] = set()
    tainted: set[str] = set()
    for einsum in cascade.einsums:
        reads = {a.tensor for a in einsum.reads}
        if {outer, inner} <= set(einsum.reduced):
            aggregates.add(einsum.name)
        elif reads & (aggregates | tainted):
            (tainted if {outer, inner} & set(einsum.ranks) else aggregates).add(einsum.name)
    return Fiber(cascade, outer, inner, frozenset(aggregates), frozenset(tainted))


def transport(f: Fiber, einsum: Einsum, laws: tuple[Law, ...]) -> tuple[Law, Bindings] | None:
    """A law that carries the Einsum's reduction, and what its pattern stands for; None if there is none.

    The maps along the fiber that depend on an aggregate are written out first. A factor or divisor that does not
    depend on an aggregate may stand beside the pattern if the law is linear, since multiplication distributes.
    """
    maps = [e.name for e in f.cascade.einsums if e.name in f.tainted and is_map(e)]
    term = einsum.expr
    while (spelt := inlined(term, f.cascade, maps)) != term:
        term = spelt
    fixed = lambda part: not set(rank_variables(part)) & {f.outer, f.inner}

    def allowed(name: str, part: Expr) -> bool:
        if name in "gkn":
            return fixed(part) and bool(f.needs(part) or name == "k")
        return not f.needs(part)

    term = regrouped(term, allowed, laws)
    for law in (law for law in laws if law.kind == TRANSPORT):
        if REDUCTIONS[law.reduction].name == einsum.reduce_op:
            for core in _cores(term, f) if _linear(law) else (term,):
                for bound in matches(law.pattern, core, allowed, {}):
                    if not law.given:
                        return law, bound
                    for more in satisfied(f.cascade, einsum, law, bound):
                        return law, more
    return None


def _linear(law: Law) -> bool:
    """Whether the law multiplies: then it also carries the reduction of any multiple of its term."""
    result = law.replacement
    return isinstance(result, Apply) and result.op == "*" and Name("s") in result.args


def _cores(term: Expr, f: Fiber) -> tuple[Expr, ...]:
    """The term, and what is left of it without factors, divisors and signs that depend on no aggregate."""
    found = [term]
    while isinstance(term, Apply):
        distributes = any("distributes over add" in law or law == "homomorphism of add" for law in OPS[term.op].laws)
        free = [not f.needs(arg) for arg in term.args]
        if not distributes or free.count(False) != 1 or (term.op == "/" and free[0]) or term.op == "+":
            break
        term = term.args[free.index(False)]
        found.append(term)
    return tuple(found)
