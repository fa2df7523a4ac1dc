"""A computation as launches: generated from a mapping or written by hand, with what it does in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from einsum.cascade import Workload
from gpu_backend.kernel import Kernel
from mapper.result import Result

BY_HAND = "by hand"


@dataclass(frozen=True)
class Routine:
    """The launches of a workload, in order.

    `given` are the inputs that decide what is computed (chosen experts, lengths, pages); `closed` holds for them.
    """

    workload: Workload
    mapping: str  # its name, or BY_HAND
    tile: str
    kernels: tuple[Kernel, ...]
    closed: Result
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
