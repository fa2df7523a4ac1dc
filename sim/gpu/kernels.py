"""What kernels do, per CTA and in total: the input of the execution model. Rules: SEMANTICS 9."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Kernels:
    """Kernels as arrays that broadcast against each other; a leading axis holds mappings to choose from.

    A CTA walks `steps` of its main loop; `longest` of them is the longest CTA's, `last` those of a CTA that starts
    late. Per step: `flop` (padded, useful or not), `exps`, and `smem_bytes` read by the tensor units. In total:
    `l2_bytes` out of L2, `hbm_bytes` distinct or fetched again; `store_bytes` are moved by a kernel of its own that
    scatters rows, `combine_bytes` by one that combines split reductions; `more_kernels` counts these and others beside.
    """

    ctas: Array
    per_sm: Array  # resident CTAs of an SM
    drained: Array  # steps of a CTA whose tensor and softmax work cannot overlap: the pipeline's fill and drain
    steps: Array  # of all CTAs together
    longest: Array
    last: Array
    flop: Array
    rate: Array  # tensor throughput over that of 16-bit floats
    exps: Array
    smem_bytes: Array
    l2_bytes: Array
    hbm_bytes: Array
    store_bytes: Array
    combine_bytes: Array
    more_kernels: Array

    def broadcast(self) -> Kernels:
        """The same with every array of the common shape."""
        names = [f.name for f in fields(self)]
        arrays = np.broadcast_arrays(*(np.asarray(getattr(self, name), float) for name in names))
        return Kernels(*arrays)

    def lifted(self) -> Kernels:
        """The same with a leading axis of one mapping."""
        full = self.broadcast()
        return Kernels(*(getattr(full, f.name)[None] for f in fields(self)))
