"""What a cascade needs before any hardware is named: operations, bytes, passes, live tensors (SEMANTICS 2.1).

Counts are of points that exist. Where existence depends on data (a guard by length, a gather, a state) a count is an
upper bound and says why; every other count is exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from einsum.cascade import Cascade, Workload
from einsum.domain import Space, count, points, spaces
from einsum.ops import is_view, operation_classes
from einsum.passes import Passes, partitions, passes
from einsum.touched import touched

FLOPS = {"mac": 2}  # a multiply-accumulate is two floating-point operations, anything else is one


@dataclass(frozen=True, slots=True)
class EinsumWork:
    """The work of one Einsum: points of its iteration space that exist, and operations over all of them by class."""

    name: str
    points: int
    operations: Mapping[str, int]
    doubt: str = ""  # why `points` may be too many; empty: exact


@dataclass(frozen=True, slots=True)
class TensorUse:
    """A tensor that comes from outside or leaves: elements read or written at least once, and their bytes."""

    name: str
    role: str  # input | output
    elements: int
    bytes: float
    doubt: str = ""  # why `elements` may be too many; empty: exact


@dataclass(frozen=True, slots=True)
class Live:
    """A tensor that must be kept while a rank is walked; `growth` is its size per point of its other ranks."""

    tensor: str
    rank: str  # that is walked
    why: str  # between passes | state
    growth: str  # symbolic, such as M or M1*M0; 1: it does not grow with the rank
    size: str  # symbolic, all of it
    elements: int
    bytes: float


@dataclass(frozen=True)
class Analysis:
    """The analysis of a workload; `str` is a report, `as_dict` is plain data."""

    cascade: str
    sizes: Mapping[str, int]
    einsums: tuple[EinsumWork, ...]
    tensors: tuple[TensorUse, ...]
    passes: tuple[Passes, ...]
    live: tuple[Live, ...]

    @cached_property
    def operations(self) -> dict[str, int]:
        """Operations of the whole cascade by class."""
        total: Counter[str] = Counter()
        for work in self.einsums:
            total.update(work.operations)
        return dict(sorted(total.items()))

    @property
    def flops(self) -> int:
        """Floating-point operations, a mac counted as two."""
        return sum(n * FLOPS.get(op_class, 1) for op_class, n in self.operations.items())

    @property
    def compulsory_bytes(self) -> float:
        """Bytes of inputs and outputs touched at least once: a lower bound on traffic."""
        return sum(use.bytes for use in self.tensors)

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: flops per compulsory byte; an upper bound on what a mapping can reach."""
        return self.flops / self.compulsory_bytes

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "cascade": self.cascade,
            "sizes": dict(self.sizes),
            "operations": self.operations,
            "flops": self.flops,
            "compulsory_bytes": self.compulsory_bytes,
            "flops_per_byte": self.intensity,
            "einsums": [_fields(work) | {"operations": dict(work.operations)} for work in self.einsums],
            "tensors": [_fields(use) for use in self.tensors],
            "passes": [_passes_as_dict(p) for p in self.passes],
            "live": [_fields(live) for live in self.live],
        }

    def __str__(self) -> str:
        return "\n".join(_report(self)) + "\n"


def analyse(workload: Workload) -> Analysis:
    """Analyse a workload; needs no machine and executes nothing."""
    cascade = workload.cascade
    found = spaces(workload)
    walked = tuple(passes(cascade, rank) for rank in walked_ranks(cascade))
    return Analysis(
        cascade.name,
        {name: workload.sizes[name] for name in sorted(workload.sizes)},
        tuple(_works(workload, found)),
        tuple(_uses(workload, found)),
        walked,
        tuple(_live(workload, walked)),
    )


def walked_ranks(cascade: Cascade) -> tuple[str, ...]:
    """Ranks that an Einsum reduces or steps along; of a partitioned rank the outermost part."""
    computed = [e for e in cascade.einsums if not is_view(e)]
    found = dict.fromkeys(r for e in computed for r in (*e.reduced, *([e.iterative] if e.iterative else [])))
    outermost = {inner: ranks[0] for ranks in partitions(cascade) for inner in ranks[1:]}
    return tuple(dict.fromkeys(outermost.get(r, r) for r in found))


def _works(workload: Workload, found: Mapping[str, Space]) -> Iterator[EinsumWork]:
    for einsum in workload.cascade.einsums:
        if is_view(einsum):
            continue
        inside = found[einsum.name].inside
        n = points(einsum, inside, workload)
        operations = {op_class: each * n for op_class, each in operation_classes(einsum).items()}
        yield EinsumWork(einsum.name, n, operations, inside.doubt)


def _uses(workload: Workload, found: dict[str, Space]) -> Iterator[TensorUse]:
    cascade = workload.cascade
    for name, (elements, doubt) in touched(workload, found).items():
        yield TensorUse(name, "input", elements, elements * workload.bits(name) / 8, doubt)
    for name in cascade.outputs:
        outer = found[name].outer
        elements = count(cascade[name].output_ranks, outer.forms, workload)
        yield TensorUse(name, "output", elements, elements * workload.bits(name) / 8, outer.doubt)


def _live(workload: Workload, walked: tuple[Passes, ...]) -> Iterator[Live]:
    cascade = workload.cascade
    for p in walked:
        for name, ranks in p.live.items():
            yield _kept(workload, name, p.rank, "between passes", cascade.tensor[name].ranks, ranks)
        for einsum in cascade.einsums:
            if einsum.iterative == p.rank:
                others = tuple(r for r in cascade.tensor[einsum.name].ranks if r != p.rank)
                yield _kept(workload, einsum.name, p.rank, "state", others, ())


def _kept(w: Workload, name: str, rank: str, why: str, ranks: tuple[str, ...], growing: tuple[str, ...]) -> Live:
    elements = 1
    for r in ranks:
        elements *= w.extent(r)
    return Live(name, rank, why, _product(growing), _product(ranks), elements, elements * w.bits(name) / 8)


def _product(ranks: tuple[str, ...]) -> str:
    return "*".join(rank.upper() for rank in ranks) or "1"


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _passes_as_dict(p: Passes) -> dict[str, Any]:
    return {
        "rank": p.rank,
        "fiber": list(p.fiber),
        "passes": p.count,
        "inputs": dict(p.inputs),
        "levels": {str(level): list(names) for level, names in by_level(p).items()},
        "live": {name: list(ranks) for name, ranks in p.live.items()},
    }


def by_level(p: Passes) -> dict[int, tuple[str, ...]]:
    """Pass -> the Einsums that run in it, in program order; pass 0 waits for nothing and walks nothing."""
    return {at: tuple(e for e, level in p.levels.items() if level == at) for at in sorted(set(p.levels.values()))}


def _report(a: Analysis) -> Iterator[str]:
    yield f"{a.cascade}: " + ", ".join(f"{name}={n}" for name, n in a.sizes.items())
    yield f"operations: {_counts(a.operations)}"
    yield f"flops: {a.flops:.6g}; compulsory bytes: {a.compulsory_bytes:.6g}; flops per byte: {a.intensity:.6g}"
    yield ""
    works = [(e.name, _bounded(e.points, e.doubt), _counts(e.operations)) for e in a.einsums]
    yield from columns(("einsum", "points", "operations"), works)
    yield ""
    uses = [(t.name, t.role, _bounded(t.elements, t.doubt), f"{t.bytes:.6g}") for t in a.tensors]
    yield from columns(("tensor", "role", "elements", "bytes"), uses)
    for p in a.passes:
        inputs = ", ".join(f"{name} {n}" for name, n in p.inputs.items())
        yield ""
        yield f"rank {' '.join(p.fiber)}: {p.count} pass{'es' * (p.count != 1)} ({inputs})"
        yield from (f"  pass {at}: {', '.join(names)}" for at, names in by_level(p).items() if at)
    yield ""
    kept = [(x.tensor, x.rank, x.why, x.growth, x.size, f"{x.bytes:.6g}") for x in a.live]
    yield from columns(("live tensor", "while walking", "why", "grows with", "size", "bytes"), kept)
    doubts = dict.fromkeys(x.doubt for x in (*a.einsums, *a.tensors) if x.doubt)
    if doubts:
        yield ""
        yield f"<= : at most, because existence depends on: {'; '.join(doubts)}"


def columns(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Text in aligned columns."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _bounded(n: int, doubt: str) -> str:
    return f"{'<= ' * bool(doubt)}{n:.6g}"


def _counts(operations: Mapping[str, int]) -> str:
    return ", ".join(f"{op_class} {n:.6g}" for op_class, n in operations.items()) or "none"
