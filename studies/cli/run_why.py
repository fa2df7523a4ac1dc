"""What `stepfall run --why` adds: the circuits that set the pace, and what each parameter and buffer would gain."""

from __future__ import annotations

from collections.abc import Iterator

from sim.bottleneck import LATENCIES, TIED, Bottleneck
from sim.critical import Circuit
from sim.program import TICKS_PER_CYCLE
from studies import report
from studies.report import Cell

LINES = 8  # of a circuit
STEPS = ("task", "times", "resource", "cycles", "waits for the one before by")
SHARES = ("latency with", "1% better", "1% worse")
DEPTHS = ("latency with other buffers", "group", "slots", "one less", "one more")


def show(found: Bottleneck) -> None:
    """Print the longest circuit of each group, and what a little more or less of everything does to the latency."""
    for pace in found.paces:
        first, *others = pace.circuits or (None,)
        if first is None:
            continue
        cycles, share = first.ticks / TICKS_PER_CYCLE, first.spent / pace.makespan
        tiles = "each tile" if first.tiles == 1 else f"{first.tiles} tiles"
        print(f"bottleneck of {pace.group} in {share:.1%} of its time: {cycles:.6g} cycles for {tiles}, by")
        report.print_table("", STEPS, _steps(first))
        for other in [c for c in others if c.spent == first.spent and len(c.steps) <= LINES][:1]:
            print(f"and as long by {', '.join(step.task for step in other.steps)}")
    _show_shares(found)
    _show_depths(found)
    print("All this with this mapping; `stepfall map --buys` says what a better machine gains when mapped anew.")


def _show_shares(found: Bottleneck) -> None:
    rows = []
    for share in found.shares:
        names = " and ".join(share.parameters).replace(LATENCIES, "shorter latencies")
        rows.append(
            (names, _percent(-share.least / found.latency_s / 100), _percent(share.most / found.latency_s / 100))
        )
    report.print_table("", SHARES, (row for row in rows if row[1:] != ("0", "0")))
    if any(share.most - share.least > TIED * found.latency_s for share in found.shares):
        print("to first order; several paths are longest, and a gain needs a better parameter on each of them")
    if unused := [name for name, *change in rows if change == ["0", "0"]]:
        print(f"nothing changes with {', '.join(unused)}")


def _show_depths(found: Bottleneck) -> None:
    rows, same = [], []
    for depth in found.depths:
        changes = [
            "stands still" if seconds is None else _percent(seconds / found.latency_s - 1)
            for seconds in (depth.less, depth.more)
        ]
        if changes == ["0", "0"]:
            same.append(f"{depth.slot} ({depth.group})")
        else:
            rows.append((depth.slot, depth.group, depth.count, *changes))
    if rows:
        report.print_table("", DEPTHS, rows)
    if same:
        print(f"nothing changes with one slot less or more of {', '.join(same)}")


def _percent(change: float) -> str:
    return f"{change:+.3%}" if abs(change) >= 5e-6 else "0"


def _steps(circuit: Circuit) -> Iterator[tuple[Cell, ...]]:
    """Equal steps together; if there are many, those that take longest, and a row for the others."""
    sums: dict[tuple[str, str, str], list[int]] = {}
    for step in circuit.steps:
        entry = sums.setdefault((step.task, step.resource or "-", step.wait), [0, 0])
        entry[0] += 1
        entry[1] += step.ticks
    kept = sorted(sums, key=lambda key: -sums[key][1])[: LINES if len(sums) <= LINES else LINES - 1]
    for task, resource, wait in (key for key in sums if key in kept):
        times, ticks = sums[task, resource, wait]
        yield task, times, resource, ticks / TICKS_PER_CYCLE, wait
    if rest := [sums[key] for key in sums if key not in kept]:
        yield f"{len(rest)} others", sum(n for n, _ in rest), "-", sum(t for _, t in rest) / TICKS_PER_CYCLE, "-"
