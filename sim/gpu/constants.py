"""The named physical constants of a GPU that datasheets do not give: shared by every kernel, fitted to measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

# name -> (low, high, start); fractions are of the machine's peak
BOUNDS = {
    "tensor_fraction": (0.4, 1.08, 0.9),
    "power_fraction": (0.4, 1.0, 0.85),
    "hbm_fraction": (0.4, 1.0, 0.85),
    "l2_fraction": (0.2, 1.0, 0.6),
    "fill_cycles": (0.0, 12000.0, 3000.0),
    "softmax_cycles": (0.5, 4.0, 1.3),
    "softmax_exposed": (0.0, 1.0, 0.4),
    "overlap_order": (1.0, 12.0, 4.0),
}


@dataclass(frozen=True, slots=True)
class Constants:
    """At most eight numbers per GPU, each a property of the hardware and not of a class of kernels."""

    tensor_fraction: float  # of the peak that an SM's tensor units reach while they are fed; above 1 at boost clock
    power_fraction: float  # of the peak that the whole chip sustains under its power cap
    hbm_fraction: float  # of the HBM's peak that streaming reaches
    l2_fraction: float  # of the L2's peak
    fill_cycles: float  # from a CTA's start to its first product, and from its last to its end
    softmax_cycles: float  # an SM's time for a softmax element over that of its exponential alone
    softmax_exposed: float  # share of the lesser of tensor and softmax time that is not hidden behind the greater
    overlap_order: float  # of the norm that joins SM, L2 and HBM times: 1 one after another, endless: the longest

    def values(self) -> tuple[float, ...]:
        """In the order of `BOUNDS`."""
        return tuple(getattr(self, name) for name in BOUNDS)


assert tuple(f.name for f in fields(Constants)) == tuple(BOUNDS)
PEAK = Constants(1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, math.inf)  # everything at its datasheet peak and overlapped
