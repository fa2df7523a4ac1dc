"""The papers' claims, our numbers beside them, and how far they agree."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from studies.report import relative
from studies.study import Comparison, Table

FIGURE = 0.05  # a number read off a figure
ORDER = 2.0  # the largest factor between two numbers of the same order
TAGS = ("exact", "by order", "by sign", "contradicts", "out of reach")
Key = tuple[str, str, str]  # paper, quantity, configuration


@dataclass(frozen=True, slots=True)
class Claim:
    """A published number. `neutral` is its value where the method has no effect, `kind` is how it was published."""

    paper: str
    quantity: str
    config: str
    published: str  # as printed: its digits are its precision
    unit: str
    neutral: float
    kind: str  # computed | printed | figure | headline
    source: str

    @property
    def key(self) -> Key:
        return (self.paper, self.quantity, self.config)

    @property
    def value(self) -> float:
        return float(self.published)

    @property
    def tolerance(self) -> float:
        """In the claim's unit: half of the last printed digit, and of a figure 5 %."""
        digits = len(self.published.partition(".")[2])
        return FIGURE * abs(self.value) if self.kind == "figure" else 0.5 * 10**-digits

    def tag(self, ours: float | None) -> str:
        """How far a number of ours agrees: headlines by sign and order at best."""
        if ours is None:
            return "out of reach"
        if self.kind != "headline" and abs(ours - self.value) <= self.tolerance * (1 + 1e-9):
            return "exact"
        if (ours - self.neutral) * (self.value - self.neutral) <= 0:
            return "contradicts"
        return "by order" if max(ours / self.value, self.value / ours) <= ORDER else "by sign"


@cache
def claims() -> tuple[Claim, ...]:
    """Every published number, in the order of the file; its first line states the sources."""
    text = files("studies").joinpath("reference/sparse/claims.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines()[1:])
    return tuple(
        Claim(
            r["paper"],
            r["quantity"],
            r["config"],
            r["published"],
            r["unit"],
            float(r["neutral"]),
            r["kind"],
            r["source"],
        )
        for r in rows
    )


def table(ours: Mapping[Key, float], reasons: Mapping[tuple[str, str], str]) -> Table:
    """Every claim; `reasons` says of a (paper, quantity) without a number of ours why. KeyError if nothing does."""
    rows = []
    for claim in claims():
        mine = ours.get(claim.key)
        error = None if mine is None else relative(mine, claim.value)
        why = reasons[claim.paper, claim.quantity] if mine is None else ""
        rows.append((*claim.key, claim.value, mine, claim.unit, error, claim.tag(mine), claim.kind, why))
    names = ("paper", "quantity", "config", "published", "ours", "unit", "error", "agrees", "kind", "why not")
    return Table("claims", "Claims of the papers and the cost of their cascades", names, tuple(rows))


def tally(ours: Mapping[Key, float]) -> Table:
    """How many claims of each paper agree how far."""
    counts = Counter((claim.paper, claim.tag(ours.get(claim.key))) for claim in claims())
    papers = dict.fromkeys(claim.paper for claim in claims())
    rows = tuple((paper, *(counts[paper, tag] for tag in TAGS)) for paper in papers)
    return Table("tally", "Claims by how far they agree", ("paper", *TAGS), rows)


def comparisons(ours: Mapping[Key, float]) -> Iterator[Comparison]:
    """Claims that have a number of ours."""
    for claim in claims():
        if claim.key in ours:
            quantity, source = f"{claim.paper}: {claim.quantity}", f"reference/sparse/claims.csv, {claim.source}"
            yield Comparison(quantity, claim.config, claim.value, ours[claim.key], claim.unit, source)
