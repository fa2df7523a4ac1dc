"""Energy of a result in three accountings.

`own` is the project's (SEMANTICS 5.7 and 5.10). `as-published` is what the FuseMax artifact's files hold: the same
counts with the artifact's deviations, each in one function below (quirk 3 in `studies.fusemax.overflow`). `corrected`
is that with quirks 1 to 3 removed: every register file charged, +Cascade's exponentials and register traffic paid, no
overflow. Quirk 4 stays in it, and with every register file charged it weighs more than in the files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from arch.machine import Machine
from mapper.result import Result, Row
from mapper.work import GroupWork, Transfer, Work, expand, group_works
from studies.fusemax.designs import Case
from studies.fusemax.overflow import overflow

ACCOUNTINGS = ("as-published", "corrected", "own")
PARTS = ("operations", "registers", "buffer", "dram")  # of the energy
WORD = 2  # bytes
Groups = tuple[GroupWork, ...]
Term = tuple[str, float]  # place, joules


def energy_j(case: Case, result: Result, accounting: str, file: str = "") -> dict[str, float]:
    """Joules by PARTS. `file` is the artifact's name of the design, for the quirks that belong to one of them."""
    rows = result.select("energy")
    if accounting == "own":
        return _by_part((row.place, row.value) for row in rows)
    groups = group_works(case.mapping, case.workload, case.machine)
    rows = results_leave_unread(rows, groups)
    terms = [*spilled_part_filled(groups, case.machine), *omitted_rank(groups, case.machine, file, accounting)]
    if accounting == "as-published":
        rows = one_register_file(rows, groups, case.machine, file)
        terms += exponential_left_out(result, case.machine, file)
        terms += [term for group in groups for term in overflow(group, case.machine, file)]
    return _by_part([*((row.place, row.value) for row in rows), *terms])


def _by_part(terms: Iterable[Term]) -> dict[str, float]:
    found: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    for place, joules in terms:
        part = place if place in PARTS else "registers" if place.startswith("regs") else "operations"
        found[part] += joules
    return found


def results_leave_unread(rows: tuple[Row, ...], groups: Groups) -> tuple[Row, ...]:
    """The artifact's tool charges what enters a memory and what is read by those below, but no read for a result that
    leaves for the next memory out."""
    leaving = [t for g in groups for t in g.transfers if t.kind in ("drain", "write") and not t.spilled]
    unread = {(_writer(t), t.tensor, t.source, "read") for t in leaving}
    return tuple(row for row in rows if (row.einsum, row.tensor, row.place, row.detail) not in unread)


def one_register_file(rows: tuple[Row, ...], groups: Groups, machine: Machine, file: str) -> tuple[Row, ...]:
    """Quirk 1: registers are charged for one instance while operations are totals; what passes from the 2D array to
    the 1D array is charged in full. Quirk 2, first half: in +Cascade that traffic is dropped."""
    works, ends = {w.name: w for g in groups for w in g.works}, {"regs_1d", "regs_2d"}
    crossing = {(_writer(t), t.tensor) for g in groups for t in g.transfers if {t.source, t.target} == ends}

    def charged(row: Row) -> float:
        if row.place not in ends:
            return 1.0
        if row.place == "regs_1d" and (row.einsum, row.tensor) in crossing:
            return float(file != "cascade")
        return 1 / (instances_used(works[row.einsum]) if row.einsum else machine.instances(row.place))

    return tuple(replace(row, value=row.value * charged(row)) for row in rows)


def exponential_left_out(result: Result, machine: Machine, file: str) -> list[Term]:
    """Quirk 2, second half: +Cascade's exponentials cost nothing, their key is misspelt."""
    if file != "cascade":
        return []
    issued = result.select("operations", detail="exp", boundary="issued")
    return [(row.place, -row.value * machine.unit(row.place).ops["exp"].energy_j) for row in issued]


def spilled_part_filled(groups: Groups, machine: Machine) -> Iterator[Term]:
    """FLAT's partly resident operands: the artifact charges the buffer for bringing in the spilled part as well."""
    for group in groups:
        for t in group.transfers:
            if t.kind == "fill" and t.hold and t.hold.part < 1:
                memory = machine.memory(t.target)
                spilled = group.total(t.when, t.nbytes) * (1 / t.hold.part - 1)
                yield memory.name, spilled * t.copies / memory.access_bytes * memory.write_energy_j


def omitted_rank(groups: Groups, machine: Machine, file: str, accounting: str) -> Iterator[Term]:
    """Quirk 4: SLNV's problem file omits M, so that SLNV seems to be added up over the tiles of M. In the 1D array all
    but the first are read there first; in the 2D array each product is added to what is brought from the tile before,
    in every register file if all are charged."""
    lanes, grid = machine.memory("regs_1d"), machine.memory("regs_2d")
    alone = accounting == "as-published"
    for group in groups:
        for t in group.transfers:
            if t.kind == "write" and t.einsums == ("SLNV",) and not (alone and file == "cascade"):
                yield lanes.name, _later(group) * group.total(t.when, t.nbytes) / WORD * lanes.read_energy_j
        for work in group.works:
            if work.name == "SLNV":
                products = group.total(work.when, work.points) / (machine.instances(grid.name) if alone else 1)
                yield grid.name, _later(group) * products * (grid.read_energy_j + grid.write_energy_j)


def _later(group: GroupWork) -> float:
    """The fraction of the tiles of M that are not the first."""
    return 1 - 1 / math.prod(loop.count for loop in group.nest.loops if loop.rank == "m1")


def instances_used(work: Work) -> float:
    """Instances of its unit that an Einsum keeps busy."""
    cycles = sum(n * work.unit.ops[c].cycles for c, n in expand(work.classes, work.unit).items())
    return work.points[-1][1] * cycles / work.cycles[-1][1] / work.unit.lanes


def _writer(transfer: Transfer) -> str:
    """The Einsum under which an access is counted; none for what a hold implies."""
    return transfer.einsums[0] if transfer.kind in ("read", "write") else ""
