"""Index expressions and guards as affine forms with integer factors, once the sizes are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from einsum.cascade import Access, Apply, Einsum, Expr, Name, Num


@dataclass(frozen=True, slots=True)
class Affine:
    """const + sum of factor * rank variable."""

    const: int
    terms: tuple[tuple[str, int], ...] = ()  # (rank variable, factor), no zero factors

    def factor(self, rank: str) -> int:
        return dict(self.terms).get(rank, 0)

    def __add__(self, other: Affine) -> Affine:
        total = dict(self.terms)
        for rank, factor in other.terms:
            total[rank] = total.get(rank, 0) + factor
        return Affine(self.const + other.const, tuple((r, f) for r, f in total.items() if f))

    def scaled(self, by: int) -> Affine:
        return Affine(self.const * by, tuple((r, f * by) for r, f in self.terms if by))

    def renamed(self, by: Mapping[str, Affine]) -> Affine:
        """The form after substituting affine forms for rank variables."""
        total = Affine(self.const)
        for rank, factor in self.terms:
            total += by.get(rank, Affine(0, ((rank, 1),))).scaled(factor)
        return total


def affine(expr: Expr, sizes: Mapping[str, int]) -> Affine | None:
    """The affine form of an expression; None when it is not affine (floor division, gather)."""
    match expr:
        case Num(value):
            return Affine(int(value)) if value == int(value) else None
        case Name(name):
            return Affine(sizes[name]) if name.isupper() else Affine(0, ((name, 1),))
        case Apply(op, (left,)) if op == "neg":
            inner = affine(left, sizes)
            return inner.scaled(-1) if inner else None
        case Apply(op, (left, right)) if op in "+-*":
            a, b = affine(left, sizes), affine(right, sizes)
            if a is None or b is None:
                return None
            if op == "*":
                return b.scaled(a.const) if not a.terms else a.scaled(b.const) if not b.terms else None
            return a + (b if op == "+" else b.scaled(-1))
    return None


def constraints(einsum: Einsum, sizes: Mapping[str, int]) -> tuple[Affine, ...]:
    """The Einsum's affine guards as forms that are <= 0 where a point exists; other guards are left out."""
    found = []
    for guard in einsum.guards:
        left, right = affine(guard.left, sizes), affine(guard.right, sizes)
        if isinstance(guard.left, Access) or left is None or right is None:
            continue
        below, above = left + right.scaled(-1), right + left.scaled(-1)
        match guard.relation:
            case "<=" | "<":
                found.append(below + Affine(guard.relation == "<"))
            case ">=" | ">":
                found.append(above + Affine(guard.relation == ">"))
            case "==":
                found += [below, above]
    return tuple(found)
