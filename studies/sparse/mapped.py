"""Cascades on a machine: block top-k decoding by a mapping written by hand, as no search covers what data decides;
MANAR, a cross layer of VISOR, and dense attention beside them, by the search."""

from __future__ import annotations

from importlib.resources import files

from arch.read import load as load_machine
from einsum.bind import bind
from einsum.cascade import Workload
from einsum.library import load
from mapper.check import check
from mapper.cost import cost
from mapper.mapping import Mapping
from mapper.result import Result
from mapper.search.answer import proven
from mapper.yaml import loads
from sim.run import simulate
from studies.study import Progress, Table

MACHINE = "tpu-v4i"
DECODE = dict(B=8, H=8, P=1, M=4096, E=128, F=128, M0=64)
TOKENS = dict(B=1, H=8, P=4096, M=4096, E=128, F=128, C=128)
IMAGE = dict(B=1, H=8, P=512, M=512, E=128, F=128, D=512)  # of a small layer: proofs take longer with more divisors
KEPT = (64, 32, 16, 8, 4)  # blocks of the 64
Solved = tuple[Result, Result]  # closed form, simulated


def workload_of(name: str, **sizes: int) -> Workload:
    """A library cascade of those of the sizes that it has; what it computes is bf16 in memory."""
    cascade = load(name)
    return bind(cascade, {size: n for size, n in sizes.items() if size in cascade.free_sizes}, {"*": "bf16"})


def block_topk() -> Mapping:
    """The mapping by hand, `block-topk.yaml` beside this file."""
    return loads(files("studies").joinpath("sparse/block-topk.yaml").read_text(encoding="utf-8"), "block-topk.yaml")


def moved(result: Result) -> float:
    """Bytes over the outermost memory's ports."""
    return sum(row.value for row in result.select("bytes") if row.place == "dram")


def solved(workload: Workload) -> Solved:
    """(closed form, simulated) of the mapping of least latency."""
    machine = load_machine(MACHINE)
    found = proven(workload, machine).found[0]
    return found.result, simulate(found.mapping, workload, machine)


def by_hand(kept: int) -> Solved:
    """(closed form, simulated) of block top-k decoding that keeps so many blocks."""
    machine, mapping = load_machine(MACHINE), block_topk()
    workload = workload_of(mapping.cascade, N=kept, **DECODE)
    check(mapping, workload, machine)
    return cost(mapping, workload, machine), simulate(mapping, workload, machine)


def table(progress: Progress) -> Table:
    """Latency by both methods, energy and bytes, and latency and bytes of dense attention over them."""
    progress("dense attention on a machine")
    decode, prefill = (solved(workload_of("attention-3pass", **sizes)) for sizes in (DECODE, TOKENS))
    cases: list[tuple[str, str, Solved, Solved | None]] = []
    for kept in KEPT:
        progress(f"block top-k on a machine, {kept} blocks")
        cases.append(("sparse-block-topk-decode", f"{kept} of {KEPT[0]} blocks", by_hand(kept), decode))
    for name, sizes, dense in (("sparse-manar", TOKENS, prefill), ("sparse-visor", IMAGE, None)):
        progress(f"{name} on a machine")
        config = ", ".join(f"{size}={n}" for size, n in sizes.items())
        cases.append((name, config, solved(workload_of(name, **sizes)), dense))
    rows = []
    for name, config, (closed, simulated), dense in cases:
        numbers = (closed.latency_s, simulated.latency_s, closed.energy_j, moved(closed))
        faster = dense[1].latency_s / simulated.latency_s if dense else None
        rows.append((name, config, *numbers, faster, moved(dense[0]) / moved(closed) if dense else None))
    names = ("cascade", "config", "latency [s]", "simulated [s]", "energy [J]", "bytes", "speedup", "fewer bytes")
    return Table("mapped", f"On {MACHINE}; speedup and fewer bytes: against dense attention", names, tuple(rows))
