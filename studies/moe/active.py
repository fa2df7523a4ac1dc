"""How many experts tokens activate, and how skewed their loads are: formula and published checks beside sampling."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from einsum.occupancy import Occupancy, expected_active, parse
from studies.models import model
from studies.study import Comparison, Table

SEEDS = 40
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
KINDS = ("uniform", "zipf:0.3", "zipf:0.6")
CHECK = (4096, 128, 8)  # tokens, experts and choices of the published skews


@dataclass(frozen=True)
class Activated:
    """Experts that a batch activates: the formula for choices at random, and the mean over SEEDS draws of each kind."""

    model: str
    experts: int
    tokens: int
    formula: float
    sampled: dict[str, float]


def activated(names: tuple[str, ...], batches: tuple[int, ...] = BATCHES) -> tuple[Activated, ...]:
    """One row for each model and batch."""
    return tuple(_activated(name, tokens) for name in names for tokens in batches)


def _activated(name: str, tokens: int) -> Activated:
    e = model(name).experts
    assert e, "a model with experts"
    sampled = {
        kind: float(np.mean([_seeded(kind, seed).draw(tokens, e.count, e.chosen).active for seed in range(SEEDS)]))
        for kind in KINDS
    }
    return Activated(name, e.count, tokens, expected_active(e.count, e.chosen, tokens), sampled)


def _seeded(kind: str, seed: int) -> Occupancy:
    return parse(f"{kind}:{seed}")


def active_table(rows: tuple[Activated, ...]) -> Table:
    """The formula beside the draws."""
    columns = ("model", "tokens", "N(t) = E(1-(1-K/E)^t)", *(f"{kind}, sampled" for kind in KINDS))
    made = ((r.model, r.tokens, r.formula, *r.sampled.values()) for r in rows)
    return Table("active", f"experts that t tokens activate, mean of {SEEDS} draws", columns, tuple(made))


def skews() -> Iterator[Comparison]:
    """Max/mean and Gini of the loads, mean of SEEDS draws, beside the published ones, of one draw of the same sizes."""
    text = files("studies").joinpath("reference/moe/skew.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()[1:]):
        drawn = [_seeded(row["routing"], seed).draw(*CHECK) for seed in range(SEEDS)]
        ours = {"max_over_mean": np.mean([r.max_over_mean for r in drawn]), "gini": np.mean([r.gini for r in drawn])}
        for quantity, value in ours.items():
            if row[quantity]:
                config = f"{row['routing']}, E=128, K=8, T=4096"
                yield Comparison(quantity.replace("_over_", "/"), config, float(row[quantity]), float(value), "1",
                                 f"skew.csv {row['routing']}")  # fmt: skip
