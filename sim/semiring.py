"""Linear algebra in (max,+): the sum of two times is their maximum, the product their sum. int64 ticks; -inf is NEVER.

Durations are not negative, so finite entries are not either; anything below zero is NEVER. Source: Baccelli, Cohen,
Olsder, Quadrat, Synchronization and Linearity, 1992.
"""

from __future__ import annotations

import numpy as np

NEVER = -(2**62)
NONE = NEVER // 2  # lower bounds may be negative; what is not above this is none
MOST = 2**62  # finite entries stay below, so that a sum of two fits 64 bits


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(max,+) product of matrices (n, m) and (m, p), further axes one by one; OverflowError beyond 2^62 ticks."""
    if a.size and b.size and int(a.max()) + int(b.max()) >= MOST:
        raise OverflowError("more than 2^62 ticks")
    out = np.full((a.shape[0], *b.shape[1:]), NEVER)
    for k in range(a.shape[1]):
        np.maximum(out, a[:, k, None] + b[k], out=out)
    out[out < 0] = NEVER
    return out


def apply(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(max,+) product of a matrix (n, m) and a vector (m,); OverflowError beyond 2^62 ticks."""
    if a.size and int(a.max()) + int(x.max()) >= MOST:
        raise OverflowError("more than 2^62 ticks")
    out = (a + x).max(axis=1)
    out[out < 0] = NEVER
    return out


def slack(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For rows i of `a` and j of `b` over the same columns: the greatest d with a[i] x >= d + b[j] x for every x."""
    out = np.full((a.shape[0], b.shape[0]), NEVER)
    for j, row in enumerate(b):
        used = row > NONE
        least = np.where(a[:, used] > NONE, a[:, used] - row[used], NEVER).min(axis=1, initial=MOST)
        out[:, j] = np.where(least > NONE, least, NEVER)
    return out


def tightened(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The greatest rows that are equal to `rows` for all x with x[i] >= known[i, j] + x[j]."""
    out = rows.copy()
    for k in range(rows.shape[1]):
        sums = rows[:, k, None] + known[k]
        sums[(rows[:, k, None] <= NONE) | (known[k] <= NONE)] = NEVER
        np.maximum(out, sums, out=out)
    return out
