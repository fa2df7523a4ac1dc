"""The search for a chain of rewrites that brings a cascade down to a number of passes (SEMANTICS 2.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from einsum.analysis import walked_ranks
from einsum.cascade import Apply, Cascade, Einsum
from einsum.passes import passes
from einsum.problems import InputError, Problem
from einsum.rewrites.accept import same_values, stable
from einsum.rewrites.defer import defer
from einsum.rewrites.laws import DISTRIBUTE, SHIFT, STABLE, TRANSPORT, Law
from einsum.rewrites.online import carriers, online, split
from einsum.rewrites.partition import partition
from einsum.rewrites.shift import shift
from einsum.show import show, show_einsum

LONGEST = 6  # rewrites in a chain


@dataclass(frozen=True)
class Step:
    """One accepted rewrite: what it did, by which laws, and the cascade that it left."""

    rewrite: str  # such as `defer AV`
    laws: tuple[str, ...]
    cascade: Cascade
    passes: int
    error: float  # greatest relative difference from the cascade before, in float64 on random shapes

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = {"rewrite": self.rewrite, "laws": list(self.laws), "passes": self.passes, "error": self.error}
        return plain | {"text": show(self.cascade)}


@dataclass(frozen=True)
class Derivation:
    """A chain of rewrites from `source` to `result`, and what the oracle refused on the way."""

    source: Cascade
    rank: str
    passes: int  # of the source
    steps: tuple[Step, ...]
    stability: float  # greatest relative error of the result in float32 on large inputs
    refused: tuple[str, ...]

    @property
    def result(self) -> Cascade:
        """The last cascade, named after the first."""
        if not self.steps:
            return self.source
        doc = f"Derived from {self.source.name}: {', '.join(step.rewrite for step in self.steps)}."
        return replace(self.steps[-1].cascade, name=f"{self.source.name}-derived", doc=doc)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "source": show(self.source),
            "rank": self.rank,
            "passes": self.passes,
            "steps": [step.as_dict() for step in self.steps],
            "result": show(self.result),
            "float32_error": self.stability,
            "refused": list(self.refused),
        }

    def __str__(self) -> str:
        return "\n".join(_report(self)) + "\n"


def derive(
    cascade: Cascade, wanted: int = 1, rank: str = "", *, laws: tuple[Law, ...] = STABLE, parallel: bool = False
) -> Derivation:
    """The shortest chain of rewrites to at most `wanted` passes over `rank` (default: the rank with the most passes).

    Every rewrite keeps the values that the oracle computes; the result must be stable in float32 besides, unless it
    comes by an unstable law that `laws` holds. With `parallel` tiles are reduced side by side (Flash-Decoding) and
    not one after another. InputError if there is no such chain.
    """
    rank = rank or max(walked_ranks(cascade), key=lambda r: passes(cascade, r).count)
    start = passes(cascade, rank).count
    refused: dict[str, None] = {}
    level: list[tuple[Cascade, tuple[Step, ...]]] = [(cascade, ())]
    seen = {_text(cascade)}
    best = start
    for _ in range(LONGEST + 1):
        for found, steps in level:
            if (steps[-1].passes if steps else start) <= wanted:
                verdict = stable(found)
                asked = any(law.unstable and law.name in step.laws for step in steps for law in laws)
                if verdict or asked:
                    return Derivation(cascade, rank, start, steps, verdict.error, tuple(refused))
                refused[f"{', '.join(s.rewrite for s in steps) or 'the source'}: {verdict.why}"] = None
        level = [
            (step.cascade, (*steps, step))
            for found, steps in level
            for step in _steps(found, rank, laws, parallel, seen, refused)
        ]
        best = min([best, *(steps[-1].passes for _, steps in level)])
    what = f"no chain of {LONGEST} rewrites leads to {wanted} stable pass{'es' * (wanted != 1)} over {rank}"
    reasons = "".join(f"; {reason}" for reason in refused)
    raise InputError(Problem(f"{what}; fewest found: {best}{reasons}", path=cascade.name))


def _text(cascade: Cascade) -> str:
    return show(replace(cascade, doc=""))


def _steps(
    cascade: Cascade, rank: str, laws: tuple[Law, ...], parallel: bool, seen: set[str], refused: dict[str, None]
) -> Iterator[Step]:
    """Every rewrite that applies, leads to a cascade not in `seen`, and is accepted by the oracle; fills `seen`."""
    for name, used, rewrite in _candidates(cascade, rank, laws, parallel):
        try:
            found = rewrite()
        except InputError:  # its precondition does not hold here
            continue
        if _text(found) in seen:
            continue
        verdict = same_values(cascade, found)
        if verdict:
            seen.add(_text(found))
        else:
            by = f" by {', '.join(f'`{law}`' for law in used)}" if used else ""
            refused[f"{name}{by}: {verdict.why}"] = None
            continue
        outer = rank if rank in found.ranks and f"{rank}1" not in found.ranks else f"{rank}1"
        yield Step(name, used, found, passes(found, outer).count, verdict.error)


def _candidates(
    cascade: Cascade, rank: str, laws: tuple[Law, ...], parallel: bool
) -> Iterator[tuple[str, tuple[str, ...], Callable[[], Cascade]]]:
    """(name, laws, rewrite) for every place where a rewrite might apply."""
    if f"{rank}1" in cascade.ranks:
        yield from _tilings(cascade, rank, laws, parallel)
        return
    for einsum in cascade.einsums:
        if rank in einsum.reduced:
            yield from _by_law("defer", einsum, laws, DISTRIBUTE, lambda e, own: defer(cascade, e.name, own))
        elif rank in einsum.output_ranks and isinstance(einsum.expr, Apply):
            yield from _by_law("shift", einsum, laws, SHIFT, lambda e, own: shift(cascade, e.name, rank, own))
    yield f"partition {rank}", (), lambda: partition(cascade, rank)


def _by_law(
    what: str, einsum: Einsum, laws: tuple[Law, ...], kind: str, rewrite: Callable[[Einsum, tuple[Law, ...]], Cascade]
) -> Iterator[tuple[str, tuple[str, ...], Callable[[], Cascade]]]:
    for law in (law for law in laws if law.kind == kind):
        own = tuple(other for other in laws if other.kind != kind or other is law)
        yield f"{what} {einsum.name}", (law.name,), lambda own=own: rewrite(einsum, own)


def _tilings(
    cascade: Cascade, rank: str, laws: tuple[Law, ...], parallel: bool
) -> Iterator[tuple[str, tuple[str, ...], Callable[[], Cascade]]]:
    """The rewrite over tiles with all laws, and without each of those that it would use."""
    used = dict.fromkeys(law.name for law in carriers(cascade, rank, laws).values())
    for left_out in (None, *used):
        own = tuple(law for law in laws if law.kind != TRANSPORT or law.name != left_out)
        names = tuple(dict.fromkeys(law.name for law in carriers(cascade, rank, own).values()))
        if parallel:
            yield f"split {rank}1", names, lambda own=own: split(cascade, rank, own)
        else:
            yield f"online {rank}1", names, lambda own=own: online(cascade, rank, own)


def _report(d: Derivation) -> Iterator[str]:
    yield f"{d.source.name}: {_count(d.passes)} over {d.rank}"
    yield from (f"    {show_einsum(e)}" for e in d.source.einsums)
    before = d.source
    for number, step in enumerate(d.steps, 1):
        laws = f" ({'; '.join(step.laws)})" if step.laws else ""
        yield f"{number}. {step.rewrite}{laws}: {_count(step.passes)}; values agree to {step.error:.1g}"
        old = set(map(show_einsum, before.einsums))
        yield from (f"  {' ' if show_einsum(e) in old else '+'} {show_einsum(e)}" for e in step.cascade.einsums)
        before = step.cascade
    yield f"float32 agrees with float64 to {d.stability:.1g} on inputs x1024 and +1024"
    yield from (f"refused: {reason}" for reason in d.refused)


def _count(n: int) -> str:
    return f"{n} pass{'es' * (n != 1)}"
