"""What each cascade costs by how much it keeps, beside dense attention: operations, bytes, and what is live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from einsum.analysis import Analysis
from einsum.cascade import Cascade
from einsum.library import load
from einsum.passes import passes
from studies.sparse.counted import counted, macs
from studies.study import Table

SHARES = (1, 2, 4, 8, 16)  # what is kept is the whole over these
HEADS = dict(B=1, H=32, E=128, F=128)
TOKENS, BLOCK, PROBES, CONCEPTS = 4096, 64, 64, 128


@dataclass(frozen=True)
class Case:
    """A cascade, its sizes when a share 1/n of `TOKENS` is kept, and the queries of the dense attention beside it."""

    cascade: str
    sizes: Callable[[int], dict[str, int]]
    queries: int
    chosen: tuple[str, ...]  # tensors that list or mark what is kept; empty: nothing depends on data


CASES = (
    Case("sparse-block-topk", lambda n: {"M0": BLOCK, "N": TOKENS // BLOCK // n, "P": TOKENS}, TOKENS, ("AT",)),
    Case("sparse-block-topk-decode", lambda n: {"M0": BLOCK, "N": TOKENS // BLOCK // n}, 1, ("AT",)),
    Case(
        "sparse-spatten-layer",
        lambda n: {"P": 1, "G": HEADS["H"], "N": TOKENS // n, "C": TOKENS // n},
        1,
        ("AT", "AH"),
    ),
    Case("sparse-keyformer", lambda n: {"M": TOKENS // n, "N": TOKENS // n, "W": TOKENS // n // 4}, 1, ("AT",)),
    Case("sparse-zipvl", lambda n: {"R": PROBES, "N": TOKENS // n}, TOKENS, ("AT",)),
    Case("sparse-rettention", lambda n: {"P": TOKENS, "W": TOKENS // n // 2}, TOKENS, ()),
    Case("sparse-manar", lambda n: {"P": TOKENS, "C": TOKENS // n}, TOKENS, ()),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a cascade, and of dense attention in its place."""

    own: Analysis
    dense: Analysis

    @property
    def macs(self) -> float:
        """Multiply-accumulates over those of dense attention."""
        return macs(self.own) / macs(self.dense)

    @property
    def nbytes(self) -> float:
        """Compulsory bytes over those of dense attention."""
        return self.own.compulsory_bytes / self.dense.compulsory_bytes

    @property
    def live(self) -> float:
        """Bytes kept between passes over tokens or what is left of them, over the same of dense attention."""
        return _live(self.own) / _live(self.dense)


def _live(analysis: Analysis) -> float:
    return max(sum(live.bytes for live in analysis.live if live.rank == rank) for rank in ("m", "m1", "n"))


def cost_of(case: Case, share: int) -> Cost:
    """The cost of a cascade that keeps 1/`share`."""
    own = counted(case.cascade, **HEADS | {"M": TOKENS} | case.sizes(share))
    return Cost(own, counted("attention-3pass", **HEADS, P=case.queries, M=TOKENS))


def choosing(case: Case, share: int) -> float:
    """Part of all operations that is needed to know what is kept."""
    own, needed = cost_of(case, share).own, _needed(case)
    operations = {e.name: sum(e.operations.values()) for e in own.einsums}
    return sum(n for name, n in operations.items() if name in needed) / sum(operations.values())


@cache
def _needed(case: Case) -> frozenset[str]:
    cascade: Cascade = load(case.cascade)
    needed = set(case.chosen)
    for einsum in reversed(cascade.einsums):
        if einsum.name in needed:
            needed |= {access.tensor for access in einsum.reads}
    return frozenset(needed)


def table() -> Table:
    """Every cascade at every share."""
    rows = []
    for case in CASES:
        for share in SHARES:
            cost = cost_of(case, share)
            doubt = "at most" if any(e.doubt for e in cost.own.einsums) else "exact"
            flops = cost.own.flops / cost.dense.flops
            shares = (cost.macs, flops, cost.nbytes, cost.live, choosing(case, share))
            rows.append((case.cascade, f"1/{share}", *shares, doubt))
    names = ("cascade", "kept", "macs", "flops", "bytes", "live", "choosing", "counts are")
    title = f"Cost over dense attention's, {TOKENS} tokens, 32 heads of 128; choosing: its part of all operations"
    return Table("kept", title, names, tuple(rows))


def passes_table() -> Table:
    """Passes over all tokens and over those kept: each choice ends one, as what it keeps is known only then."""
    rows = []
    for case in CASES:
        cascade = load(case.cascade)
        for rank in (r for r in ("m1", "m", "n") if r in cascade.ranks):
            counted_passes = passes(cascade, rank)
            live = ", ".join(counted_passes.live)
            rows.append((case.cascade, " ".join(counted_passes.fiber), counted_passes.count, live or "nothing"))
    names = ("cascade", "rank", "passes", "kept between passes")
    return Table("passes", "Passes over tokens m, blocks m1 and what is kept, n", names, tuple(rows))
