"""How often a cascade must walk a fiber of its inputs, and what it must keep meanwhile (SEMANTICS 1.9).

A pass is one traversal of the coordinates of a rank. What has been reduced over the rank, or carried to its end, is
known only when a pass is over; an Einsum that needs it and walks the rank again belongs to the next pass. The count
is a lower bound that holds for every mapping. Source of the rule: FuseMax (MICRO 2024), section III.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from einsum.cascade import Access, Apply, Cascade, Einsum, Expr, Num, rank_variables, walk
from einsum.ops import is_view
from einsum.problems import InputError, Problem, suggest


@dataclass(frozen=True)
class Passes:
    """The passes of a cascade over `fiber`, the rank asked for and the ranks that it is partitioned with."""

    rank: str
    fiber: tuple[str, ...]
    levels: Mapping[str, int]  # Einsum -> pass in which it runs; 0: before any
    inputs: Mapping[str, int]  # tensor in which the fiber begins, mostly an input -> passes over it
    live: Mapping[str, tuple[str, ...]]  # tensor used in several passes -> ranks of the fiber along which it is kept

    @property
    def count(self) -> int:
        """N of an N-pass cascade: the most passes over an input."""
        return max(self.inputs.values(), default=0)


def passes(cascade: Cascade, rank: str) -> Passes:
    """Passes over a rank: of a partitioned one the outermost part, such as m1. InputError if there is none such."""
    if rank not in cascade.ranks:
        raise InputError(Problem("unknown rank", path=cascade.name, got=rank, hint=suggest(rank, cascade.ranks)))
    fiber = _fiber(cascade, rank)
    sources = _sources(cascade, rank)
    computed = [e for e in cascade.einsums if e.name not in sources]
    levels, kept = _levels(computed, rank)
    views = {e.name for e in computed if is_view(e)}
    walking = [e for e in computed if set(fiber) <= set(e.ranks) and e.name not in views]
    inputs: dict[str, set[int]] = {}
    for tensor, source in sources.items():
        derived = _derived(computed, tensor, rank)
        if seen := {levels[e.name] for e in walking if _reads(e, derived, rank)}:
            inputs.setdefault(source, set()).update(seen)
    live = {t: tuple(r for r in fiber if r in cascade.tensor[t].ranks) for t, at in kept.items() if len(at) > 1}
    levels = {name: level for name, level in levels.items() if name not in views}
    return Passes(rank, fiber, levels, {name: len(seen) for name, seen in inputs.items()}, live)


def _fiber(cascade: Cascade, rank: str) -> tuple[str, ...]:
    """The rank with those that one index combines it with, as m1*M0 + m0 does."""
    joined = [ranks for ranks in partitions(cascade) if rank in ranks]
    return tuple(dict.fromkeys((rank, *(r for ranks in joined for r in ranks))))


def partitions(cascade: Cascade) -> tuple[tuple[str, ...], ...]:
    """Ranks that an index puts together, outermost first: m1, m0 for m1*M0 + m0, however that is used further."""
    indices = (i for e in cascade.einsums for access in e.reads for i in access.indices)
    return tuple(dict.fromkeys(ranks for i in indices if len(ranks := _partition(i)) > 1))


def _partition(index: Expr) -> tuple[str, ...]:
    for node in walk(index):
        match node:
            case Apply("+", (Apply("*"), _)) if not any(isinstance(inner, Access) for inner in walk(node)):
                return rank_variables(node)
    return ()


def _levels(einsums: list[Einsum], rank: str) -> tuple[dict[str, int], dict[str, set[int]]]:
    """The pass of each Einsum, and the passes that touch each tensor at coordinates of the rank.

    A tensor can be followed along the rank from the pass `stream` on; it is complete at the end of pass `done`.
    """
    stream: dict[str, int] = {}
    done: dict[str, int] = {}
    levels: dict[str, int] = {}
    touched: dict[str, set[int]] = {}
    for e in einsums:
        walks = rank in e.ranks
        level = int(walks)
        for access in e.reads:
            if any(isinstance(i, Num) and i.value == 0 for i in access.indices):  # the initial state waits for nothing
                continue
            if rank in rank_variables(access):
                level = max(level, stream.get(access.tensor, 1))
            else:
                complete = done.get(access.tensor, 0)
                level = max(level, complete + 1 if walks and complete else complete)
        levels[e.name] = done[e.name] = level
        if rank in e.output_ranks:
            chosen = e.topk is not None and rank in e.topk.ranks  # known only when the pass is over
            stream[e.name] = max(level + chosen, stream.get(e.name, 0))
        for access in (e.output, *e.reads):
            if rank in rank_variables(access):
                touched.setdefault(access.tensor, set()).add(level)
    return levels, touched


def _derived(einsums: list[Einsum], tensor: str, rank: str) -> set[str]:
    """The tensor and all that is computed from it coordinate by coordinate of the rank."""
    found = {tensor}
    while True:
        carried = {e.name for e in einsums if rank in e.output_ranks and _reads(e, found, rank)}
        if carried <= found:
            return found
        found |= carried


def _reads(einsum: Einsum, tensors: set[str], rank: str) -> bool:
    return any(access.tensor in tensors and rank in rank_variables(access) for access in einsum.reads)


def _sources(cascade: Cascade, rank: str) -> dict[str, str]:
    """Where the fiber begins: inputs and the views of them, and views that cut the rank out of another one.

    Each with the tensor that it is: an input, or the computed one that is cut.
    """
    found = {name: name for name in cascade.inputs}
    for e in filter(is_view, cascade.einsums):
        source = e.reads[0].tensor
        if all(access.tensor in found for access in e.reads):
            found[e.name] = found[source]
        elif rank in e.output_ranks and rank not in cascade.tensor[source].ranks:
            found[e.name] = source
    return found
