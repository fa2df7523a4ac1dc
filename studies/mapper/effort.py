"""How long the search takes: by the number of Einsums, equal or not, and by the length of a sequence."""

from __future__ import annotations

import resource
from statistics import median

from arch.read import load as load_machine
from einsum.bind import bind
from einsum.cascade import Workload
from mapper.search.answer import Answer, search
from mapper.search.solve import Space
from studies.fusemax.designs import load_cascade, sizes
from studies.mapper.cases import chain
from studies.study import Progress, Table

MACHINE = "fusemax"
RUNS = 3
QUICK = (1, 2, 4, 8, 16)
POINTS = ("1K", "64K", "1M")  # quick lengths
EVERY = (*QUICK, 32)
PAIRED = (1, 2)  # where two products may share loops


def timed(workload: Workload, space: Space, objective: str) -> tuple[Answer, float]:
    """The answer, and the median of the seconds of repeated runs."""
    answers = [search(workload, load_machine(MACHINE), objective, space) for _ in range(RUNS)]
    return answers[0], median(a.certificate.seconds for a in answers)


def by_einsums(counts: tuple[int, ...], together: int, progress: Progress) -> Table:
    """Chains of matrix products. `together`: how many may share loops."""
    rows = []
    for count in counts:
        for equal in (True, False):
            progress(f"{count} {'equal' if equal else 'different'} products, at most {together} together")
            answer, seconds = timed(chain(count, equal), Space(together=together), "energy")
            proof = answer.certificate
            groups = len(answer.found[0].mapping.groups)
            numbers = (proof.effort.space, proof.effort.costed, answer.found[0].energy_j, seconds, seconds / count)
            rows.append((count, "equal" if equal else "different", groups, *numbers))
    names = ("Einsums", "sides", "groups", "points", "costed", "energy [J]", "median [s]", "per Einsum [s]")
    title = f"Chains of matrix products on {MACHINE}, least energy, at most {together} sharing loops; {RUNS} runs"
    return Table(f"einsums-{together}", title, names, tuple(rows))


def by_length(lengths: tuple[str, ...], progress: Progress) -> Table:
    """1-pass attention of BERT, from 1K to 1M tokens."""
    rows = []
    for length in lengths:
        progress(f"1-pass attention, {length}")
        types = {"*": "bf16"}
        workload = bind(load_cascade("attention-1pass"), sizes("BERT", length) | {"M0": 256}, types)
        answer, seconds = timed(workload, Space(), "latency")
        effort = answer.certificate.effort
        rows.append((length, effort.space, effort.costed, answer.found[0].latency_s, seconds))
    names = ("length", "points", "costed", "latency [s]", "median [s]")
    return Table("lengths", f"1-pass attention of BERT on {MACHINE}, least latency; {RUNS} runs", names, tuple(rows))


def peak_bytes() -> int:
    """The most memory that this process has had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
