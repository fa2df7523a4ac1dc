"""Speed of the mapper: points costed in full a second on one core, time to proof, and peak memory.

A point is one shape of tiles of a three-level template: its energy, the busiest resource, what every memory holds, and
whether it fits. Each rank's tiles lie along an axis of their own, so that a factor which depends on one rank is
computed once for each of its chains.
"""

import resource
import time
from functools import reduce
from statistics import median

import numpy as np

from arch.read import load as load_machine
from einsum.bind import bind
from einsum.library import load as load_cascade
from mapper.search.answer import search
from mapper.search.group import Group
from mapper.search.metrics import Metrics
from mapper.search.price import ENERGY, Prices, Shapes
from mapper.search.solve import Solver, Space, columns
from studies.mapper.cases import CASES

SIDE = 12288  # many divisors: 273 chains of two tiles for each rank
RUNS = 3


def template(group: Group):
    """The decisions of the search's own answer about the product, of any size."""
    choice = Solver(Space()).best(group, "energy")
    return choice.options["C"], [(use, choice.holds[use.tensor]) for use in group.uses.values()]


def chunk_costs(group: Group, room, decided, tiles):
    """(latency, energy, bytes held), infinite where something does not fit, for every combination of the ranks' chains.

    Terms are added up from those that depend on few ranks to those that depend on all.
    """
    option, holds = decided
    (einsum,), root = group.einsums, group.machine.root.name
    spread = [c.reshape(*(len(c) if i == r else 1 for i in range(3)), -1) for r, c in enumerate(tiles)]
    prices = Prices(group, Shapes.of(group.workload, group.walked, spread), 1)
    fits, terms = prices.fits(einsum, option), [prices.compute(einsum, option)]
    for use, chain in holds:
        fits, outer = fits & prices.hold_fits(use, chain[0] if chain else None), root
        for hold in chain:
            terms.append(prices.keep(use, hold, outer, option))
            outer = hold.memory
        accesses = [a for a in (*einsum.reads, einsum.output) if a.tensor == use.tensor]
        terms += [prices.access(einsum, access, option, outer) for access in accesses]
    sums = {
        m: smallest_first(np.add, [t[m] for t in terms if m in t]) for m in dict.fromkeys(m for t in terms for m in t)
    }
    for metric, size in room.items():
        fits = fits & (sums[metric] <= size) if metric in sums else fits
    latency = smallest_first(np.maximum, [v for m, v in sums.items() if m.startswith("busy")])
    held = smallest_first(np.add, [v for m, v in sums.items() if m in room])
    return np.where(fits, latency, np.inf), np.where(fits, sums[ENERGY], np.inf), held


def smallest_first(operation, values):
    """All values, which broadcast against each other, joined by an operation."""
    return reduce(operation, sorted(values, key=np.size))


def product(side: int) -> Group:
    """A matrix product of three equal sides on the TPUv4i."""
    workload = bind(load_cascade("gemm"), dict.fromkeys("MNK", side), {"*": "int8"})
    return Group(workload, load_machine("tpu-v4i"), ("C",))


def throughput() -> float:
    """Points a second: the median of the runs."""
    group, decided, speeds = product(SIDE), template(product(4096)), []
    first, *others = columns(group, "divisors")
    metrics = Metrics.of(group)
    room = dict(zip(metrics.names[metrics.busy :], metrics.rooms, strict=True))
    for _ in range(RUNS):
        points, start = 0, time.process_time()
        for at in range(len(first)):
            points += chunk_costs(group, room, decided, [first[at : at + 1], *others])[1].size
        speeds.append(points / (time.process_time() - start))
    return median(speeds)


def proofs():
    """(what, seconds of a fresh search)."""
    case = next(c for c in CASES if c.name == "gemm-4096")
    yield "GEMM 4096^3 on tpu-v4i, energy", search(case.workload(), load_machine("tpu-v4i"), "energy")
    sizes = {"B": 64, "H": 12, "E": 64, "F": 64, "M": 65536, "P": 65536, "M0": 256}
    attention = bind(load_cascade("attention-1pass"), sizes, {"*": "bf16"})
    yield "1-pass attention, 64K, on fusemax, latency", search(attention, load_machine("fusemax"), "latency")
    case = next(c for c in CASES if c.name == "layer-fused")
    yield "GPT-3 layer of 10 Einsums on tpu-v4i, energy", search(case.workload(), load_machine("tpu-v4i"), "energy")


print(f"{throughput() / 1e6:7.1f} M points/s  three-level GEMM template, one core, numpy {np.__version__}", flush=True)
for what, answer in proofs():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{answer.certificate.seconds:7.2f} s  {what}; at most {peak:.0f} MB so far", flush=True)
