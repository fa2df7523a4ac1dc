"""The whole study: 120 attention points, 48 layers end to end, 24 array widths, by both methods."""

from __future__ import annotations

from functools import partial

from einsum.problems import InputError, Problem, suggest
from mapper.result import provenance
from studies.fusemax import artifact, figures, headlines
from studies.fusemax.accounting import ACCOUNTINGS
from studies.fusemax.designs import DESIGNS, LENGTHS, MODELS, load_cascade, load_machine, point
from studies.fusemax.linear import FILES, linear
from studies.fusemax.pareto import WIDTHS, width
from studies.study import Figure, Progress, Study

NOTES = (
    "Nothing is fitted. Published rows: the FuseMax artifact, BERT and XLM; TrXL and T5 are predictions.",
    "Errors of energy are of the accounting `as-published`, which has the artifact's quirks. `corrected` charges every "
    "register file, pays for +Cascade's exponentials and has no overflow; `own` also drops a rank omitted from a "
    "problem file, which makes SLNV look added up over the tiles of M.",
    "The simulated time holds what the closed form leaves out: the first tile's loads, the last tile's drain, and in "
    "the linear layers of XLM the single buffers of an operand that is read again for every tile of rows.",
)


def run(progress: Progress, accounting: str = ACCOUNTINGS[0]) -> Study:
    """Solve, compare, draw. `accounting`: of the energies in the files of the artifact's columns."""
    if accounting not in ACCOUNTINGS:
        what, hint = "unknown accounting", suggest(accounting, ACCOUNTINGS)
        raise InputError(Problem(what, path="accounting", got=accounting, hint=hint))
    answers = solve(progress)
    progress("tables and figures")
    totals = headlines.Totals(answers)
    summary = (*artifact.comparisons(answers), *headlines.printed(totals))
    numbers = summary[: -3 * len(headlines.PRINTED)]
    shown = (
        headlines.table_1(),
        artifact.errors(numbers),
        headlines.layers_table(totals),
        headlines.sensitivity(totals),
        headlines.headlines(totals),
    )
    tables = (*shown, *artifact.tables(answers, accounting))
    drawn = tuple(Figure(name, partial(draw, answers, totals), size) for name, draw, size in figures.FIGURES)
    machines = tuple(load_machine(name) for name in FILES)
    stamp = provenance(machines, tuple(load_cascade(d.cascade) for d in DESIGNS), MODELS, LENGTHS, accounting)
    return Study("fusemax", tables, drawn, summary, stamp, NOTES)


def solve(progress: Progress) -> artifact.Answers:
    """Everything by both methods."""
    points, layers, widths = [], [], []
    for design in DESIGNS:
        for model in MODELS:
            for length in LENGTHS:
                progress(f"attention {len(points) + 1}/{len(DESIGNS) * 24}: {design.name} {model} {length}")
                points.append(point(design, model, length))
    for machine in FILES:
        for model in MODELS:
            for length in LENGTHS:
                progress(f"linear layers {len(layers) + 1}/{len(FILES) * 24}: {machine} {model} {length}")
                layers.append(linear(machine, model, length))
    for model in MODELS:
        for columns in WIDTHS:
            progress(f"array widths {len(widths) + 1}/{len(MODELS) * len(WIDTHS)}: {model} {columns}")
            widths.append(width(model, columns))
    return artifact.Answers(tuple(points), tuple(layers), tuple(widths))
