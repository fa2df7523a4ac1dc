"""What a search has done so far, how exact it is, and how it is ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

CLOSE = 1e-12  # relative difference below which two costs are equal


class Stopped(Exception):
    """The search was asked to end."""


@dataclass
class Effort:
    """What a search has done so far. `stop` is called now and then and raises `Stopped` to end it."""

    space: float = 0  # points: (template, shape) pairs, or choices for several Einsums and shapes
    costed: int = 0  # points costed in full
    bounded: int = 0  # entries of the tables of bounds
    stop: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)


@dataclass(frozen=True)
class Limits:
    """The most that a choice may cost, in seconds and joules."""

    latency: float = math.inf
    energy: float = math.inf
