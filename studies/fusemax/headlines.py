"""The paper's headline means, Table I, and how the energy ratios depend on the technology."""

from __future__ import annotations

import math
from collections.abc import Iterator

from einsum.library import load as load_cascade
from einsum.passes import passes
from studies.fusemax.accounting import ACCOUNTINGS, energy_j
from studies.fusemax.artifact import Answers
from studies.fusemax.designs import LENGTHS, METHODS, MODELS
from studies.study import Comparison, Table

BASELINES = ("FLAT", "Unfused")
# (kernel, baseline) -> (speedup, energy ratio) as printed; source: FuseMax, MICRO 2024, section VI
PRINTED = {
    ("attention", "FLAT"): (6.7, 0.79),
    ("attention", "Unfused"): (10.0, 0.77),
    ("end to end", "FLAT"): (5.3, 0.83),
    ("end to end", "Unfused"): (7.6, 0.82),
}
# Factors on the energy of operations and registers, and of the buffer; DRAM stays
SCALINGS = ((1.0, 1.0), (0.5, 0.5), (0.25, 0.25), (0.1, 0.1), (0.5, 1.0), (0.25, 0.5), (0.1, 0.25))
WORKS = {
    "attention-3pass": "PyTorch, TensorFlow, FLAT, E.T.",
    "attention-2pass": "TileFlow, Choi et al.",
    "attention-1pass": "FlashAttention, FlashAttention-2, Rabe and Staats, FuseMax",
}

Energies = dict[tuple[str, str, str, str], dict[str, float]]  # design, model, length, accounting -> joules by part


class Totals:
    """Latency and energy of each design on each layer, of attention alone or end to end; in seconds and joules."""

    def __init__(self, answers: Answers) -> None:
        self._points = {(p.design.name, *p.key): p for p in answers.points}
        self._layers = {(x.machine, *x.key): x for x in answers.layers}
        self._known: Energies = {}

    def latency_s(self, design: str, model: str, length: str, kernel: str, method: str) -> float:
        point = self._points[design, model, length]
        around = self._layers[point.design.machine, model, length].result(method).latency_s
        return point.result(method).latency_s + (around if kernel == "end to end" else 0)

    def energy(self, design: str, model: str, length: str, kernel: str, accounting: str) -> dict[str, float]:
        """By part, by the closed form."""
        point = self._points[design, model, length]
        own = self._energy((design, model, length, accounting), point, point.design.file)
        if kernel == "attention":
            return own
        layer = self._layers[point.design.machine, model, length]
        around = self._energy((layer.machine, model, length, accounting), layer, "linear")
        return {part: own[part] + around[part] for part in own}

    def _energy(self, key, row, file: str) -> dict[str, float]:
        if key not in self._known:
            self._known[key] = energy_j(row.case, row.result(METHODS[0]), key[3], file)
        return self._known[key]

    def speedup(self, kernel: str, over: str, method: str, of: str = "+Binding") -> list[float]:
        """Over a design, on all 24 layers."""
        time = lambda design, m, n: self.latency_s(design, m, n, kernel, method)
        return [time(over, m, n) / time(of, m, n) for m in MODELS for n in LENGTHS]

    def ratio(
        self, kernel: str, over: str, accounting: str, logic: float = 1.0, buffer: float = 1.0, of: str = "+Binding"
    ) -> list[float]:
        """Energy over that of a design on all 24 layers, with the energy on chip scaled."""
        scale = {"operations": logic, "registers": logic, "buffer": buffer, "dram": 1.0}
        total = lambda design, m, n: sum(
            scale[part] * joules for part, joules in self.energy(design, m, n, kernel, accounting).items()
        )
        return [total(of, m, n) / total(over, m, n) for m in MODELS for n in LENGTHS]


def mean(values: list[float]) -> float:
    """Arithmetic, as the paper takes it."""
    return math.fsum(values) / len(values)


def headlines(totals: Totals) -> Table:
    """Speedups and energy ratios of FuseMax, means over the 24 layers."""
    rows = []
    for (kernel, over), (speed, energy) in PRINTED.items():
        closed, simulated = (totals.speedup(kernel, over, method) for method in METHODS)
        geometric = math.exp(mean([math.log(x) for x in closed]))
        ratios = [mean(totals.ratio(kernel, over, a)) for a in ACCOUNTINGS]
        rows.append((kernel, over, speed, mean(closed), mean(simulated), geometric, energy, *ratios))
    names = ("kernel", "over", "speedup, printed", "ours", "simulated", "geometric", "energy, printed", *ACCOUNTINGS)
    title = "FuseMax over the baselines, arithmetic means over 4 models and 6 lengths"
    return Table("headlines", title, names, tuple(rows))


def printed(totals: Totals) -> Iterator[Comparison]:
    """The paper's headline numbers beside ours."""
    for (kernel, over), (speed, energy) in PRINTED.items():
        where = "FuseMax, MICRO 2024, section VI"
        for method in METHODS:
            ours = mean(totals.speedup(kernel, over, method))
            yield Comparison(f"mean speedup, {method}", f"{kernel} over {over}", speed, ours, "1", where)
        ratio = mean(totals.ratio(kernel, over, "as-published"))
        yield Comparison("mean energy ratio, as-published", f"{kernel} over {over}", energy, ratio, "1", where)


def sensitivity(totals: Totals) -> Table:
    """Mean energy ratios where energy on chip shrinks and that of DRAM does not, as from one technology to the next."""
    rows = []
    for logic, buffer in SCALINGS:
        found = [mean(totals.ratio("attention", over, a, logic, buffer)) for a in ACCOUNTINGS for over in BASELINES]
        rows.append((logic, buffer, *found))
    names = ("logic", "buffer", *(f"{a} / {over}" for a in ACCOUNTINGS for over in BASELINES))
    title = "Energy of FuseMax over the baselines, attention: factors on logic and registers, on the buffer"
    return Table("sensitivity", title, names, tuple(rows))


def table_1() -> Table:
    """Passes over the keys of published attention works, counted on their cascades."""
    rows = []
    for name, works in WORKS.items():
        cascade = load_cascade(name)
        counted = passes(cascade, "m1" if "m1" in cascade.ranks else "m")
        live = ", ".join(f"{tensor} over {'*'.join(ranks).upper()}" for tensor, ranks in counted.live.items())
        rows.append((counted.count, name, works, live or "nothing"))
    names = ("passes", "cascade", "published works", "kept between passes")
    return Table("table-1", "Passes over the keys (Table I)", names, tuple(rows))


def layers_table(totals: Totals) -> Table:
    """FuseMax on every layer."""
    rows = []
    each = [(m, n) for m in MODELS for n in LENGTHS]
    for i, (model, length) in enumerate(each):
        times = [totals.latency_s("+Binding", model, length, "attention", method) for method in METHODS]
        speed = [totals.speedup("attention", over, METHODS[0])[i] for over in BASELINES]
        ratio = [totals.ratio("attention", over, a)[i] for a in ACCOUNTINGS[:2] for over in BASELINES]
        rows.append((model, length, *times, *speed, *ratio))
    names = (
        "model",
        "length",
        "latency [s]",
        "simulated [s]",
        *(f"speedup / {o}" for o in BASELINES),
        *(f"energy / {o}{mark}" for mark in ("", " *") for o in BASELINES),
    )
    title = "FuseMax +Binding, attention of one layer; energies as published, * corrected"
    return Table("attention", title, names, tuple(rows))
