"""Our answers on AccelForge's cases, on its machine under its assumptions, beside its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations

from arch.read import load as load_machine
from einsum.cascade import Cascade
from mapper.check import check
from mapper.cost import cost
from mapper.mapping import Compute, Group, Hold, Loop, Mapping, Pipe
from mapper.result import Result
from mapper.search.answer import Answer, proven
from mapper.search.solve import Space
from studies.mapper.cases import ATTENTION, CASES, Case, Published, published
from studies.report import relative
from studies.study import Comparison, Progress, Table

MACHINE = "tpu-v4i"
SOURCE = "reference/mapper/accelforge.csv, AccelForge on its TPUv4i preset"
GLOBAL, LOCAL = "global_buffer", "local_buffer"
OBJECTIVES = ("energy", "latency")
PRINTED = 1e-3  # latencies this close are equal to the digits printed
_TYPES = tuple((t, "bf16") for t in ("Q", "K", "V", "QK", "A", "AV"))


@dataclass(frozen=True)
class Row:
    """A case solved for one objective, and what the other mapper answered, if it was asked."""

    case: Case
    objective: str
    answer: Answer
    alone: Result  # the best without shared loops
    theirs: Published | None

    @property
    def result(self) -> Result:
        return self.answer.found[0].result

    @property
    def reference(self) -> Published:
        """What stands beside ours: their answer to this objective, else that to the case's only one."""
        return self.theirs or next(p for p in published() if p.case == self.case.name)


def solve(cases: tuple[Case, ...], progress: Progress) -> tuple[Row, ...]:
    """Every case for least energy and for least latency."""
    machine, known, rows = load_machine(MACHINE), {(p.case, p.objective): p for p in published()}, []
    for case in cases:
        for objective in OBJECTIVES:
            progress(f"{case.name}, least {objective}")
            fused, alone = (proven(case.workload(), machine, objective, Space(together=n)) for n in (case.together, 1))
            rows.append(Row(case, objective, fused, alone.found[0].result, known.get((case.name, objective))))
    return tuple(rows)


def latency_of_sums(result: Result, cascade: Cascade) -> float:
    """Latency as AccelForge adds it up: over Einsums, of the busiest resource of each, nothing overlapping.

    What a hold moves counts for the Einsum that writes the tensor, else for the first that reads it.
    """
    busy: dict[str, dict[tuple[str, str], float]] = {e.name: {} for e in cascade.einsums}
    reader = {a.tensor: e.name for e in reversed(cascade.einsums) for a in e.reads}
    for row in result.select("busy"):
        owner = row.einsum or (row.tensor if row.tensor in busy else reader[row.tensor])
        place = (row.place, row.detail)
        busy[owner][place] = busy[owner].get(place, 0.0) + row.value
    return sum(max(places.values()) for places in busy.values())


def table(rows: tuple[Row, ...]) -> Table:
    """Energy, latency and time beside the other mapper's. Its own answer stands beside each of our objectives."""
    made = []
    for row in rows:
        theirs, found, cascade = row.reference, row.result, row.case.workload().cascade
        energy, latency = found.energy_j, found.latency_s
        numbers = (theirs.energy_j, energy, energy / theirs.energy_j, theirs.latency_s, latency)
        made.append(
            (
                row.case.name,
                row.objective,
                *numbers,
                latency / theirs.latency_s,
                latency_of_sums(found, cascade),
                row.alone.energy_j,
                row.alone.latency_s,
                theirs.wall_s,
                row.answer.certificate.seconds,
            )
        )
    names = ("case", "least", "E theirs", "ours", "ratio", "t theirs", "ours", "ratio", "summed")
    title = "AccelForge's cases on its TPUv4i, J and s; summed: t as AccelForge adds it up; unfused: no loops shared"
    return Table("accelforge", title, (*names, "E unfused", "t unfused", "took theirs", "ours"), tuple(made))


def comparisons(rows: tuple[Row, ...]) -> Iterator[Comparison]:
    """Numbers that both mappers were asked for."""
    for row in rows:
        if row.theirs:
            config = f"{row.case.name}, least {row.objective}"
            yield Comparison("energy", config, row.theirs.energy_j, row.result.energy_j, "J", SOURCE)
            yield Comparison("latency", config, row.theirs.latency_s, row.result.latency_s, "s", SOURCE)


def inferred() -> Table:
    """The mapping that AccelForge chose for attention, as far as its numbers tell, costed by our closed form.

    Its latency is that of scores and probabilities written to the global buffer. What goes over the four cores, and
    what else passes through the global buffer, is not stated: of all such mappings those with its latency, to the
    digits printed, are candidates, and the one with the nearest energy is shown.
    """
    machine, rows = load_machine(MACHINE), []
    for case in CASES:
        if case.text == ATTENTION and case.sizes["P"] > 1:
            theirs, workload = next(p for p in published() if p.case == case.name), case.workload()
            found = []
            for mapping in through_global_buffer():
                check(mapping, workload, machine)
                result = cost(mapping, workload, machine)
                if abs(latency_of_sums(result, workload.cascade) / theirs.latency_s - 1) < PRINTED:
                    found.append((mapping.name, result.energy_j))
            name, energy = min(found, key=lambda x: abs(x[1] - theirs.energy_j))
            spread = (min(e for _, e in found), max(e for _, e in found))
            error = relative(energy, theirs.energy_j)
            rows.append((case.name, theirs.latency_s, theirs.energy_j, len(found), *spread, energy, error, name))
    names = ("case", "t theirs [s]", "E theirs [J]", "candidates", "least E", "most E", "nearest", "error", "mapping")
    return Table("inferred", "Mappings with AccelForge's latency on attention", names, tuple(rows))


def through_global_buffer() -> Iterator[Mapping]:
    """Fused attention with scores and probabilities in the global buffer: every choice of the rank over the four cores,
    and of what else is held in the global buffer."""
    for rank in ("p", "h"):
        for also in powerset(("Q", "K", "V", "AV")):
            name = f"{rank} over cores; {' '.join(also) or 'nothing else'} in {GLOBAL}"
            yield Mapping(name, "attention", MACHINE, (Group("attention", (_nest(rank, also),)),), dtypes=_TYPES)


def powerset(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every subset, smallest first."""
    return chain.from_iterable(combinations(names, n) for n in range(len(names) + 1))


def _nest(rank: str, also: tuple[str, ...]) -> Loop:
    steps = (Loop(("p",), (4 if rank == "p" else 1,)), Loop((rank,), (1,), over="cores.core"))

    def product(name: str, column: str, row: str) -> Compute:
        axes = (Loop((column,), (1,), over="mxu.col"), Loop((row,), (1,), over="mxu.row"))
        return Compute(name, "mac", loops=(Loop(("m",), (128,)), *steps, *axes))

    leaves = (product("QK", "m", "e"), Compute("A", "scalar", loops=steps), product("AV", "f", "m"))
    shared = tuple(Hold(t, GLOBAL) for t in ("QK", "A", *also))
    holds = (*shared, Hold("Q", LOCAL), Hold("AV", LOCAL))
    return Loop(("h",), (4 if rank == "h" else 1,), holds=holds, body=(Pipe(leaves, open=2, ahead=2),))
