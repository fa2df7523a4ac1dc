"""What the counter must see: a kernel's closed form from the workload and the loops of its mapping, in pure arithmetic.

Nothing is read from the generated source. A block is issued whole, padded lanes and masked points included; bytes are
those of active lanes. SEMANTICS 7.7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict
from collections.abc import Iterator

from einsum.affine import affine
from einsum.cascade import Access, Einsum, Workload, rank_variables
from einsum.ops import operation_classes
from gpu_backend.base2 import is_root, needs_factor
from gpu_backend.plan import Plan, is_dot, plan
from mapper.mapping import Mapping
from mapper.result import Result, Row

Index = dict[str, int]  # rank of a loop -> tile


def expected(workload: Workload, mapping: Mapping, memory: str = "hbm") -> Result:
    """The closed form of the generated kernel of (workload, mapping): rows keyed as the counter's."""
    made = plan(workload, mapping)
    programs, iterations = tuple(_programs(made)), {}
    for at in programs:
        iterations[tuple(at.values())] = tuple(_iterations(made, at))
    everywhere = [at for program in iterations.values() for at in program]
    rows = [Row("programs", made.grid)]
    for load in made.loads:
        rows += _bytes(made, load.access, everywhere if load.inside else programs, memory, "read")
    for name in workload.cascade.outputs:
        where = everywhere if name in made.inside else programs
        rows += _bytes(made, workload.cascade[name].output, where, memory, "write")
    for name in (*made.before, *made.inside, *made.after):
        rows += _arithmetic(made, workload.cascade[name], len(everywhere if name in made.inside else programs))
    config = {"cascade": mapping.cascade, "mapping": mapping.name, "machine": mapping.machine, "sizes": dict(workload.sizes)}
    return Result("closed form", config, tuple(rows))
