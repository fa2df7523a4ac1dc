"""The whole study: AccelForge's cases, FuseMax's mappings, and the time and memory that answers take."""

from __future__ import annotations

from functools import partial

from arch.read import load as load_machine
from einsum.problems import InputError, Problem, suggest
from mapper.result import provenance
from studies.fusemax.designs import LENGTHS
from studies.mapper import attention, effort, figures, peers
from studies.mapper.cases import CASES, published
from studies.study import Figure, Progress, Study, Table

SCOPES = ("quick", "all")
NOTES = (
    "Ours is the least closed-form value of the stated space, with proof; latency is a lower bound of simulated time.",
    "AccelForge adds up latency over Einsums; ours lets the Einsums of a group overlap. `summed` is our mapping "
    "by its rule. Where only one objective of AccelForge's is known, it stands beside both of ours.",
    "AccelForge's attention writes scores and probabilities to the global buffer: its latency is that of these writes. "
    "Ours keeps them in the local buffers, so its energy is lower.",
    "Its mixture of experts is left out: how many tokens it had is not stated. Its times are of another machine.",
)


def run(progress: Progress, scope: str = SCOPES[0]) -> Study:
    """Search, compare, draw. `scope`: quick, or all (more attention, whole layers, 32 products)."""
    if scope not in SCOPES:
        raise InputError(Problem("unknown scope", path="scope", got=scope, hint=suggest(scope, SCOPES)))
    every = scope == "all"
    points = attention.EVERY if every else attention.QUICK
    cases = tuple(case for case in CASES if every or case.quick)
    rows = peers.solve(cases, progress)
    fused = attention.fused(points, progress)
    unfused = attention.unfused(tuple(p for p in points if p[1] in attention.LONG), progress)
    counts = effort.EVERY if every else effort.QUICK
    alone, pairs = effort.by_einsums(counts, 1, progress), effort.by_einsums(effort.PAIRED, 2, progress)
    lengths = effort.by_length(LENGTHS if every else effort.POINTS, progress)
    tables = (
        peers.table(rows),
        peers.inferred(),
        attention.table("binding", "1-pass attention on fusemax, beside the mapping +Binding of FuseMax", fused),
        attention.table("unfused", "3-pass attention on flat, beside the unfused baseline, in its groups", unfused),
        alone,
        pairs,
        lengths,
        Table("memory", "Memory of the whole study", ("peak [MB]",), ((effort.peak_bytes() / 1e6,),)),
    )
    drawn = (
        Figure("accelforge", partial(figures.against, rows), (9.0, 4.0)),
        Figure("effort", partial(figures.time_taken, (alone, pairs), lengths), (9.0, 4.0)),
    )
    inputs = (load_machine(peers.MACHINE), load_machine(effort.MACHINE), cases, published(), points, counts)
    return Study("mapper", tables, drawn, tuple(peers.comparisons(rows)), provenance(*inputs), NOTES)
