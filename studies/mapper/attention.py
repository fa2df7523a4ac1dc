"""What the search finds for the FuseMax paper's attention, without any hint, beside the paper's own mappings."""

from __future__ import annotations

import time
from dataclasses import dataclass

from arch.machine import Machine
from einsum.cascade import Workload
from mapper.check import check
from mapper.cost import cost
from mapper.library import make
from mapper.result import Result
from mapper.search.answer import proven
from mapper.search.build import mapping_of
from mapper.search.group import Group
from mapper.search.solve import Solver, Space
from studies.fusemax.designs import LENGTHS, MODELS, load_cascade, load_machine, sizes
from studies.study import Progress, Table

Points = tuple[tuple[str, str], ...]  # (model, length)
QUICK: Points = (("BERT", "1K"), ("BERT", "64K"), ("BERT", "1M"))
EVERY: Points = tuple((model, length) for model in MODELS for length in LENGTHS)
LONG = LENGTHS[LENGTHS.index("256K") :]  # where the unfused baseline is compared
CUT = (("QK",), ("GM", "SN", "SD", "A"), ("AV",))  # of the unfused baseline


@dataclass(frozen=True)
class Found:
    """What the search found for least latency, beside a published mapping on the same machine; in closed form."""

    model: str
    length: str
    published: Result
    ours: Result
    seconds: float  # that the search took

    @property
    def ratios(self) -> tuple[float, float]:
        """Latency and energy, ours over the published mapping's."""
        return self.ours.latency_s / self.published.latency_s, self.ours.energy_j / self.published.energy_j


def fused(points: Points, progress: Progress) -> tuple[Found, ...]:
    """The 1-pass cascade on FuseMax beside the paper's +Binding."""

    def solve(workload: Workload, machine: Machine) -> Result:
        return proven(workload, machine).found[0].result

    return tuple(_found("attention-1pass", "fusemax", "fusemax-binding", p, solve, progress) for p in points)


def unfused(points: Points, progress: Progress) -> tuple[Found, ...]:
    """The 3-pass cascade on FLAT's machine beside the paper's unfused baseline, cut into the same three groups."""
    return tuple(_found("attention-3pass", "flat", "unfused", p, _in_groups, progress) for p in points)


def _in_groups(workload: Workload, machine: Machine) -> Result:
    solver = Solver(Space())
    found = [solver.best(Group(workload, machine, names), "latency") for names in CUT]
    mapping = mapping_of("found", [choice for choice in found if choice], solver.space.buffers)
    check(mapping, workload, machine)
    return cost(mapping, workload, machine)


def _found(cascade: str, machine: str, mapping: str, point: tuple[str, str], solve, progress: Progress) -> Found:
    progress(f"{cascade} {' '.join(point)}")
    given, workload = make(mapping, load_cascade(cascade), load_machine(machine), sizes(*point))
    published, start = cost(given, workload, load_machine(machine)), time.perf_counter()
    ours = solve(workload, load_machine(machine))
    return Found(*point, published, ours, time.perf_counter() - start)


def table(name: str, title: str, rows: tuple[Found, ...]) -> Table:
    """Latency, energy, and their ratios."""
    made = []
    for row in rows:
        latency, energy = row.ratios
        numbers = (row.published.latency_s, row.ours.latency_s, latency, row.published.energy_j, row.ours.energy_j)
        made.append((row.model, row.length, *numbers, energy, row.seconds))
    names = ("model", "length", "t published mapping [s]", "ours", "ratio", "E published mapping [J]", "ours", "ratio")
    return Table(name, title, (*names, "search [s]"), tuple(made))
