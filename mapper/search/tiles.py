"""Candidate tile sizes of a rank, and chains of them through the levels of a nest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

LIMIT = 64  # candidates for a rank at one level
TILINGS = ("divisors", "ragged")


@cache
def divisors(n: int) -> tuple[int, ...]:
    """Every divisor of n, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return tuple(sorted({*small, *(n // d for d in small)}))


@cache
def candidates(extent: int, widths: tuple[int, ...], tiling: str) -> tuple[int, ...]:
    """Tile sizes of a rank, ascending, at most `LIMIT`.

    `divisors`: those of the extent. `ragged`: also the powers of two below it and their products with the array
    widths, so that a prime extent has tiles too; the last tile of the rank is then cut off. Where there are more than
    `LIMIT`, array widths, the extent and 1 stay, and of the others every n-th.
    """
    found = set(divisors(extent))
    if tiling == "ragged":
        bases = {1, *(w for w in widths if w < extent)}
        found |= {b << k for b in bases for k in range(extent.bit_length()) if b << k < extent}
    kept = {1, extent, *(w for w in widths if w in found)}
    rest = sorted(found - kept)
    if len(found) > LIMIT:
        places = np.linspace(0, len(rest) - 1, LIMIT - len(kept)).round().astype(int)
        rest = [rest[i] for i in dict.fromkeys(places.tolist())]
    return tuple(sorted({*kept, *rest}))


def chains(levels: Sequence[Sequence[int]]) -> np.ndarray:
    """Tiles level by level, outermost first, each dividing the one outside it: (chains, levels), int64."""
    found: list[tuple[int, ...]] = [()]
    for sizes in levels:
        found = [(*chain, t) for chain in found for t in sizes if not chain or chain[-1] % t == 0]
    return np.array(found, dtype=np.int64).reshape(len(found), len(levels))
