"""The whole study: the papers' claims on cost, the cost of each cascade by what it keeps, and mapped cases."""

from __future__ import annotations

from functools import partial

from arch.read import load as load_machine
from einsum.library import load as load_cascade
from mapper.result import provenance
from studies.sparse import claims, figures, kept, mapped, pruning, schedules
from studies.study import Figure, Progress, Study

SOURCES = (pruning.spatten, pruning.keyformer, pruning.zipvl, schedules.rettention, schedules.manar, schedules.visor)
OWN_DESIGN = "needs the rival's design, which is not modelled"
REASONS = {  # (paper, quantity) -> why there is no number of ours
    ("SpAtten", "DRAM bits"): "no schedule or row of the 30 benchmarks is public",
    ("SpAtten", "speedup"): OWN_DESIGN,
    ("SpAtten", "energy"): OWN_DESIGN,
    ("ZipVL", "prefill speedup"): "the share p/n that the threshold leaves is data, and not stated",
    ("ZipVL", "memory saved"): "the share of the cache in all memory is not stated",
    ("Re-ttention", "attention latency saved"): "its schedule leaves 45.7 % of the operations",
}
NOTES = (
    "Nothing is fitted, and no published number enters a model. A number is exact to half of its last printed digit, "
    "or 5 % of one read off a figure; by order: the same effect within a factor of 2; by sign: the same effect. "
    "Headlines are by order at best.",
    "SpAtten: the rows of GPT-2 small say more than their schedule does. MACs less elements read are 0.058 of dense, "
    "and so are the low bits, if values are read in parts too; 7 % of the keys kept are 0.0175. The rows that need low "
    "bits are then in the first layers, which keep most. Heads are pruned in the last layers, which keep few tokens: "
    "on GPT-2 medium that saves 1.049x, not the 1.085x of the heads alone.",
    "Quick-select: comparisons over comparators; what a round needs beside them is left out.",
    "Keyformer: a step takes as long as its bytes, 4 sequences, and both caches are written anew in each. Its score "
    "overhead falls with the length, as a fixed cost does; ours is the bytes of scores and noise alone.",
    "Re-ttention: by operations attention is 49.1 % of a layer of CogVideoX-5B, so that 92 % less of it and 45 % less "
    "end to end are one claim; the schedule of the same paper saves 54 % of attention.",
    "MANAR reads tokens into concepts and concepts into tokens, twice n c d. VISOR's sizes are not stated: 4 cross "
    "layers on Qwen3-0.6B, an image of 729 tokens; the cross layers are what exceeds L_s / L.",
    "Block top-k is mapped by hand, since the search covers nothing that data decides: studies/sparse/block-topk.yaml.",
)


def run(progress: Progress) -> Study:
    """Compute, compare, map, draw."""
    progress("claims")
    ours = dict(pair for source in SOURCES for pair in source())
    tables = (
        claims.table(ours, REASONS),
        claims.tally(ours),
        kept.table(),
        kept.passes_table(),
        mapped.table(progress),
    )
    drawn = (
        Figure("kept", figures.by_kept, (9.0, 4.5)),
        Figure("claims", partial(figures.against, ours), (8.0, 4.0)),
        Figure("run", figures.run, (6.0, 3.5)),
    )
    cascades = tuple(load_cascade(case.cascade) for case in kept.CASES)
    inputs = (load_machine(mapped.MACHINE), cascades, claims.claims(), pruning.SCHEDULES, mapped.DECODE, mapped.TOKENS)
    return Study("sparse", tables, drawn, tuple(claims.comparisons(ours)), provenance(*inputs), NOTES)
