"""What the search finds for the FuseMax paper's attention, without any hint, beside the paper's own mapping."""

from __future__ import annotations

from dataclasses import dataclass

from mapper.cost import cost
from mapper.library import make
from mapper.result import Result
from mapper.search.answer import Answer, search
from mapper.search.solve import Space
from studies.fusemax.designs import LENGTHS, MODELS, load_cascade, load_machine, sizes
from studies.study import Progress, Table

QUICK = (("BERT", "1K"), ("BERT", "64K"), ("BERT", "1M"))
EVERY = tuple((model, length) for model in MODELS for length in LENGTHS)
FROM = "256K"  # the least length at which the unfused baseline is compared


@dataclass(frozen=True)
class Found:
    """The search's answer beside a published mapping of the same workload and machine."""

    model: str
    length: str
    published: Result
    answer: Answer

    @property
    def ratios(self) -> tuple[float, float]:
        """Latency and energy, ours over the published mapping's, both in closed form."""
        ours = self.answer.found[0]
        return ours.latency_s / self.published.latency_s, ours.energy_j / self.published.energy_j


def fused(points: tuple[tuple[str, str], ...], progress: Progress) -> tuple[Found, ...]:
    """The 1-pass cascade on FuseMax for least latency, beside the paper's +Binding."""
    return tuple(_found("attention-1pass", "fusemax", "fusemax-binding", p, Space(), progress) for p in points)


def unfused(points: tuple[tuple[str, str], ...], progress: Progress) -> tuple[Found, ...]:
    """The 3-pass cascade on FLAT's machine, no loops shared, beside the mapping that the paper's baseline has."""
    long = [(m, n) for m, n in points if LENGTHS.index(n) >= LENGTHS.index(FROM)]
    return tuple(_found("attention-3pass", "flat", "unfused", p, Space(together=1), progress) for p in long)


def _found(
    cascade: str, machine: str, mapping: str, point: tuple[str, str], space: Space, progress: Progress
) -> Found:
    progress(f"{cascade} {' '.join(point)}")
    given, workload = make(mapping, load_cascade(cascade), load_machine(machine), sizes(*point))
    answer = search(workload, load_machine(machine), "latency", space)
    return Found(*point, cost(given, workload, load_machine(machine)), answer)


def table(name: str, title: str, rows: tuple[Found, ...]) -> Table:
    """Latency, energy, and their ratios."""
    made = []
    for row in rows:
        ours, proof = row.answer.found[0], row.answer.certificate
        latency, energy = row.ratios
        numbers = (row.published.latency_s, ours.latency_s, latency, row.published.energy_j, ours.energy_j, energy)
        made.append((row.model, row.length, *numbers, proof.seconds))
    names = ("model", "length", "t published mapping [s]", "ours", "ratio", "E published mapping [J]", "ours", "ratio")
    return Table(name, title, (*names, "search [s]"), tuple(made))
