"""The experts of a layer under several routings: the fused kernel on one GPU, and experts dealt out to several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from arch.machine import Machine
from arch.read import load as load_machine
from einsum.occupancy import Routing, parse
from gpu_backend.handwritten.moe import Tiles, fused_moe
from mapper.experts import block_rows
from mapper.result import Result
from studies.models import Experts, Model, model
from studies.study import Table

MACHINE = "h100"
ROUTINGS = ("even", "uniform", "zipf:0.3", "zipf:0.6")
MODELS = ("Mixtral-8x22B", "Qwen3-235B-A22B", "DeepSeek-V3")
TOKENS = (16, 256, 4096)
DEVICES = 8
ELEMENT = 2  # bytes, bf16
COLUMNS, DEPTH = 64, 64  # of the kernel's blocks
Key = tuple[str, int, str]  # model, tokens, routing


@dataclass(frozen=True)
class Layer:
    """The routed experts of one layer of a model on the GPU, for one routing."""

    model: str
    tokens: int
    routing: str

    @property
    def shape(self) -> tuple[Model, Experts]:
        found = model(self.model)
        assert found.experts, "a model with experts"
        return found, found.experts

    @property
    def drawn(self) -> Routing:
        return draw(self.model, self.tokens, self.routing)

    @property
    def rows(self) -> int:
        """Of a block."""
        _, experts = self.shape
        return block_rows(self.tokens * experts.chosen / experts.count)

    @cached_property
    def kernel(self) -> Result:
        """The fused kernel's counts, and its bound on latency."""
        found, e = self.shape
        sizes = {"T": self.tokens, "D": found.hidden, "E": e.count, "F": e.width, "K": e.chosen}
        return fused_moe(sizes, self.drawn, _machine(), Tiles(self.rows, COLUMNS, DEPTH)).closed

    @property
    def padding(self) -> float:
        """Matrix work issued over what is useful: blocks hold rows that no token has."""
        macs = lambda boundary: self.kernel.total("operations", detail="mac", boundary=boundary)
        return macs("issued") / macs("useful")

    def bytes_moved(self, boundary: str) -> float:
        """At device memory; `issued` as if there was no cache, `distinct` as if it was unlimited."""
        return self.kernel.total("bytes", boundary=boundary)

    def devices_s(self) -> np.ndarray:
        """The bound on latency of each of DEVICES, whose experts lie together."""
        found, e = self.shape
        parts = self.drawn.counts.reshape(DEVICES, -1)
        return np.array([bound_s(part, found.hidden, e.width, self.rows, _machine()) for part in parts])


def bound_s(counts: np.ndarray, hidden: int, width: int, rows: int, machine: Machine) -> float:
    """Seconds that experts with so many rows each take at least: their matrix work in whole blocks at the tensor units'
    peak, or the weights of those that have rows, and the rows in and out, once at the memory's bandwidth."""
    unit, memory = machine.unit("tensor"), machine.root
    assert memory.read_bytes_per_s, "device memory has a bandwidth"
    macs = 3 * hidden * width * rows * int((-(-counts // rows)).sum())
    moved = ELEMENT * (3 * hidden * width * int((counts > 0).sum()) + 2 * hidden * int(counts.sum()))
    rate = machine.instances(unit.name) * unit.lanes * unit.clock_hz
    return max(macs / rate, moved / memory.read_bytes_per_s)


@cache
def draw(name: str, tokens: int, routing: str) -> Routing:
    """The routing of a model's tokens."""
    experts = model(name).experts
    assert experts, "a model with experts"
    return parse(routing).draw(tokens, experts.count, experts.chosen)


@cache
def _machine() -> Machine:
    return load_machine(MACHINE)


def layers(models: Iterable[str] = MODELS, tokens: Iterable[int] = TOKENS) -> tuple[Layer, ...]:
    """One for each model, number of tokens and routing."""
    return tuple(Layer(name, count, routing) for name in models for count in tokens for routing in ROUTINGS)


def even(layer: Layer, every: tuple[Layer, ...]) -> Layer:
    """The same layer with its tokens evenly split, the estimate that the others are compared with."""
    return next(x for x in every if (x.model, x.tokens, x.routing) == (layer.model, layer.tokens, "even"))


def gpu_table(every: tuple[Layer, ...]) -> Table:
    """Latency, traffic and load of each layer, and over those of the even split."""
    title = f"experts of a layer on {MACHINE}, fused kernel: latency is a bound, bytes are without a cache, and once"
    columns = ("model", "tokens", "routing", "active experts", "max/mean load", "work padded", "latency [s]",
               "over even", "bytes issued", "over even", "bytes once", "over even")  # fmt: skip
    return Table("gpu", title, columns, tuple(_gpu_rows(every)))


def _gpu_rows(every: tuple[Layer, ...]) -> Iterator[tuple]:
    for layer in every:
        base = even(layer, every)
        numbers = [(layer.kernel.latency_s, base.kernel.latency_s)]
        numbers += [(layer.bytes_moved(b), base.bytes_moved(b)) for b in ("issued", "distinct")]
        pairs = [cell for ours, theirs in numbers for cell in (ours, ours / theirs)]
        load = (layer.drawn.active, layer.drawn.max_over_mean, layer.padding)
        yield (layer.model, layer.tokens, layer.routing, *load, *pairs)


def device_table(every: tuple[Layer, ...]) -> Table:
    """Load and latency of the slowest of several devices, and what a device sends."""
    title = f"experts dealt out to {DEVICES} {MACHINE}: the step ends with the slowest; rows that a device sends"
    columns = ("model", "tokens", "routing", "max/mean of devices", "slowest [s]", "over even", "all at average [s]",
               "rows sent, most", "T/P*K*(1-1/P)")  # fmt: skip
    return Table("devices", title, columns, tuple(_device_rows(every)))


def _device_rows(every: tuple[Layer, ...]) -> Iterator[tuple]:
    for layer in every:
        times, least = layer.devices_s(), even(layer, every).devices_s()
        loads, (_, experts) = layer.drawn.loads(DEVICES), layer.shape
        sent = int(layer.drawn.sent(DEVICES).sum(axis=1).max())
        copies = layer.tokens / DEVICES * experts.chosen * (1 - 1 / DEVICES)
        load, slowest = float(loads.max() / loads.mean()), float(times.max())
        over = slowest / float(least.max())
        yield (layer.model, layer.tokens, layer.routing, load, slowest, over, float(times.mean()), sent, copies)
