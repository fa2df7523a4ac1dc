"""Ragged experts on a spatial accelerator: mapped by the search, costed in closed form and simulated."""

from __future__ import annotations

from dataclasses import dataclass

from arch.read import load as load_machine
from einsum.bind import bind
from einsum.library import load as load_cascade
from einsum.occupancy import Routing, parse
from mapper.chunks import chunked
from mapper.result import Result
from sim.run import simulate
from studies.models import model
from studies.moe.layers import ROUTINGS
from studies.study import Progress, Table

MACHINE = "tpu-v4i"
MODEL = "OLMoE-1B-7B"
TOKENS = (64, 1024)


@dataclass(frozen=True)
class Mapped:
    """The chunks of rows of the least simulated time for one routing, and both results."""

    tokens: int
    routing: str
    drawn: Routing
    rows: int
    closed: Result
    simulated: Result

    @property
    def traffic(self) -> float:
        """Bytes at the outermost memory."""
        return self.simulated.total("bytes", place="dram")


def mapped(tokens: int, routing: str, name: str = MODEL) -> Mapped:
    """The experts of a layer of a model under a routing."""
    found, cascade, machine = model(name), load_cascade("moe-ragged"), load_machine(MACHINE)
    e = found.experts
    assert e, "a model with experts"
    drawn = parse(routing).draw(tokens, e.count, e.chosen)
    sizes = {"E": e.count, "D": found.hidden, "I": e.width, "C": int(drawn.counts.max())}
    workload = bind(cascade, sizes, given=drawn.given(cascade))
    best: Mapped | None = None
    for rows, answer in sorted(chunked(workload, machine).items(), key=lambda pair: pair[1].latency_s):
        if best and answer.latency_s >= best.simulated.latency_s:
            break  # the closed form is a bound
        run = simulate(answer.mapping, workload, machine)
        if best is None or run.latency_s < best.simulated.latency_s:
            best = Mapped(tokens, routing, drawn, rows, answer.result, run)
    assert best, "there is at least one chunk"
    return best


def points(progress: Progress, tokens: tuple[int, ...] = TOKENS) -> tuple[Mapped, ...]:
    """One for each number of tokens and each routing."""
    made = []
    for count in tokens:
        for routing in ROUTINGS:
            progress(f"{MODEL}, {count} tokens, {routing}")
            made.append(mapped(count, routing))
    return tuple(made)


def array_table(every: tuple[Mapped, ...]) -> Table:
    """Latency by both methods and traffic, and over those of the even split."""
    title = f"experts of a layer of {MODEL} on {MACHINE}, one after another, mapped by the search"
    columns = ("tokens", "routing", "active experts", "max/mean load", "rows of a chunk", "closed form [s]",
               "simulated [s]", "over even", "dram [B]", "over even")  # fmt: skip
    rows = []
    for m in every:
        base = next(x for x in every if (x.tokens, x.routing) == (m.tokens, "even"))
        times = (m.closed.latency_s, m.simulated.latency_s, m.simulated.latency_s / base.simulated.latency_s)
        load = (m.drawn.active, m.drawn.max_over_mean)
        rows.append((m.tokens, m.routing, *load, m.rows, *times, m.traffic, m.traffic / base.traffic))
    return Table("array", title, columns, tuple(rows))
