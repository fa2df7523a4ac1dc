"""The maximum subtracted under an exponential, where a common factor cancels (SEMANTICS 2.5.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Name, rank_variables, walk
from einsum.ops import REDUCTIONS
from einsum.parse import parse_expression
from einsum.rewrites.laws import SHIFT, STABLE, Law
from einsum.rewrites.terms import changed, fresh, is_map, matches, plain, rebuilt, refuse, substituted
from einsum.rewrites.tidy import hint, tidied


def shift(cascade: Cascade, name: str, rank: str, laws: tuple[Law, ...] = STABLE) -> Cascade:
    """Replace `exp(x)` in the map `name` by `exp(x - g)`, with `g` the maximum of `x` along `rank`.

    Every value is then smaller by a power of `exp(g)`; a logarithm adds the power of `g` back. InputError if no law
    of shifting applies, if `x` already depends on a reduction over the rank, or unless the factor cancels in every
    output.
    """
    if name not in cascade:
        raise refuse(cascade, "no such statement", name + hint(cascade, name))
    einsum = cascade[name]
    if not is_map(einsum) or rank not in einsum.output_ranks:
        raise refuse(cascade, f"{name} is no map along {rank}")
    for law in (law for law in laws if law.kind == SHIFT):
        for bound in matches(law.pattern, einsum.expr, lambda n, part: n == "x" and rank in rank_variables(part), {}):
            if {a.tensor for a in walk(bound["x"]) if isinstance(a, Access)} & _reduced_over(cascade, rank):
                raise refuse(cascade, f"{name} already depends on a reduction over {rank}")
            return _shifted(cascade, einsum, rank, law, bound["x"])
    raise refuse(cascade, f"no law shifts {name}")


def _reduced_over(cascade: Cascade, rank: str) -> set[str]:
    """Tensors that depend on a reduction over the rank."""
    found: set[str] = set()
    for einsum in cascade.einsums:
        if rank in einsum.reduced or any(a.tensor in found for a in einsum.reads):
            found.add(einsum.name)
    return found


def _shifted(cascade: Cascade, einsum: Einsum, rank: str, law: Law, x: Expr) -> Cascade:
    given = parse_expression(law.given)  # a reduction, such as max(x)
    assert isinstance(given, Apply), "a shift is by a reduction"
    kept = tuple(r for r in einsum.output_ranks if r != rank)
    g = Access(fresh(cascade.tensor, f"M{einsum.name}"), tuple(map(Name, kept)))
    extreme = Einsum(g, substituted(given.args[0], {"x": x}), REDUCTIONS[given.op].name, (rank,))
    result = changed(law.replacement, lambda n: {"x": x, "g": g}.get(n.name, n) if isinstance(n, Name) else n)
    powers = _Powers(cascade, g, {einsum.name: 1})
    at = cascade.einsums.index(einsum)
    later = [powers.statement(e) for e in cascade.einsums[at + 1 :]]
    left = [name for name in cascade.outputs if powers.of.get(name)]
    if left:
        raise refuse(cascade, f"the factor {law.scale} does not cancel in {left[0]}")
    statements = (*cascade.einsums[:at], extreme, replace(einsum, expr=result), *later)
    return tidied(rebuilt(cascade, statements), cascade.outputs)


@dataclass
class _Powers:
    """Of which power of the factor each tensor became smaller."""

    cascade: Cascade
    g: Access
    of: dict[str, int]

    def statement(self, einsum: Einsum) -> Einsum:
        """The statement with logarithms corrected; remembers the power of its result."""
        fixed = replace(einsum, expr=self._corrected(einsum.expr))
        power = self._power(einsum.expr)
        touched = any(a.tensor in self.of and self.of[a.tensor] for a in einsum.reads)
        varies = set(einsum.reduced) & set(rank_variables(self.g))
        guarded = any(self.of.get(a.tensor) for g in einsum.guards for s in (g.left, g.right) for a in _reads(s))
        carries = einsum.iterative or einsum.topk or einsum.reduce_op == "mul" or varies or guarded
        if touched and (carries if power else einsum.topk or einsum.iterative or guarded):
            raise refuse(self.cascade, f"the factor does not pass through {einsum.name}")
        self.of[einsum.name] = power
        return fixed

    def _power(self, expr: Expr) -> int:
        if isinstance(expr, Access):
            power = self.of.get(expr.tensor, 0)
            if power and not plain(expr, self.cascade):
                raise refuse(self.cascade, f"{expr.tensor} is not read at its own ranks")
            return power
        if not isinstance(expr, Apply):
            return 0
        powers = [self._power(arg) for arg in expr.args]
        match expr.op:
            case "*":
                return powers[0] + powers[1]
            case "/":
                return powers[0] - powers[1]
            case "log":
                return 0
            case "neg" | "abs" | "+" | "-" | "max" | "min" if len(set(powers)) == 1:
                return powers[0]
        if any(powers):
            raise refuse(self.cascade, f"the factor does not pass through {expr.op}")
        return 0

    def _corrected(self, expr: Expr) -> Expr:
        """log(s) becomes log(s) + g where s is smaller by the factor once, and so on."""
        if not isinstance(expr, Apply):
            return expr
        args = tuple(map(self._corrected, expr.args))
        found = Apply(expr.op, args)
        power = self._power(expr.args[0]) if expr.op == "log" else 0
        for _ in range(abs(power)):
            found = Apply("+" if power > 0 else "-", (found, self.g))
        return found


def _reads(expr: Expr) -> list[Access]:

    return [node for node in walk(expr) if isinstance(node, Access)]
