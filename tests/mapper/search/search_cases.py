"""Seeded random cascades, machines and decisions about groups, for the tests of the search."""

from __future__ import annotations

import random
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np

from arch.machine import Array, Axis, Machine, Memory, OpCost, Unit
from einsum.bind import bind
from einsum.cascade import Workload
from einsum.parse import parse
from mapper.search.build import Choice
from mapper.search.group import Group, Option
from mapper.search.places import below, upper
from mapper.search.price import Hold, Prices, Shapes
from mapper.search.tiles import candidates

CLASSES = ("mac", "mul", "add", "max", "div", "exp")


@dataclass(frozen=True)
class Draw:
    """Random decisions about a group: every part of a `Choice` but its costs."""

    options: dict[str, Option]
    holds: dict[str, tuple[Hold, ...]]
    tiles: dict[str, tuple[int, ...]]

    def choice(self, group: Group) -> Choice:
        return Choice(group, self.options, self.holds, self.tiles, 0.0, 0.0, 0.0)


def random_draw(rng: random.Random, group: Group, tiling: str = "divisors") -> Draw:
    """Decisions about tiles, options, orders and holds, allowed or not."""
    widths = tuple(axis.size for u in group.machine.units for _, axis in group.machine.axes(u.name))
    tiles = {}
    for rank in group.walked:
        chain: list[int] = []
        for _ in range(group.blocks):
            sizes = (1,) if rank in group.stepped else candidates(group.workload.extent(rank), widths, tiling)
            chain.append(rng.choice([t for t in sizes if not chain or chain[-1] % t == 0]))
        tiles[rank] = tuple(chain)
    template: dict[str, str | None] = {}
    options = {e.name: _option(rng, group, e.name, template) for e in group.einsums}
    orders = [rng.sample(group.walked, len(group.walked)) for _ in range(group.blocks)]
    eager = rng.random()
    holds = {t: _chain(rng, group, t, orders, eager) for t in group.uses}
    return Draw(options, holds, tiles)


def _option(rng: random.Random, group: Group, name: str, template: dict[str, str | None]) -> Option:
    """An option that spreads over the axes what those before it do, where there is one."""
    every = group.options[name]
    alike = [o for o in every if all(template.get(a, r) == r for a, r in o.spread)]
    chosen = rng.choice(alike or every)
    for axis, rank in chosen.spread:
        template.setdefault(axis, rank)
    return chosen


def _chain(rng: random.Random, group: Group, tensor: str, orders: list[list[str]], eager: float) -> tuple[Hold, ...]:
    use, found = group.uses[tensor], []
    for block, memory in enumerate(group.levels, start=1):
        if rng.random() < eager:
            place = rng.randint(0, len(group.walked))
            found.append(Hold(memory, block, frozenset(orders[block - 1][:place])))
    if use.kind == "inner" and group.registers and (not found or rng.random() < 0.5):
        users = [group.workload.cascade[u] for u in use.users]
        steps = [r for r in use.ranks if r not in group.walked and all(r in e.ranks for e in users)]
        outside = frozenset(orders[-1])
        found.append(Hold(rng.choice(group.registers), group.blocks, outside, rng.choice([None, *steps])))
    if use.kind == "inner" and not found and group.levels:
        found.append(Hold(group.levels[-1], len(group.levels), frozenset()))
    return tuple(found)


def prices(group: Group, draw: Draw, buffers: int = 1) -> Prices:
    """The group's prices for the one shape that was drawn."""
    columns = [np.array([draw.tiles[r]]) for r in group.walked]
    return Prices(group, Shapes.of(group.workload, group.walked, columns), buffers)


def allowed(group: Group, draw: Draw, prices: Prices) -> bool:
    """Whether the search allows the decisions, memories' capacities aside."""
    able = all(bool(np.all(prices.fits(e, draw.options[e.name]))) for e in group.einsums)
    return able and all(_hold_allowed(group, draw, prices, t) for t in group.uses)


def _hold_allowed(group: Group, draw: Draw, prices: Prices, tensor: str) -> bool:
    use, chain = group.uses[tensor], draw.holds[tensor]
    if not chain:
        return use.kind != "inner" and bool(np.all(prices.hold_fits(use, None)))
    users = [group.workload.cascade[n] for n in group.names if n in use.users]
    for hold in chain:
        if not below(group, draw.options[users[0].name], hold.memory):
            return False
        inside = [e for e in users if below(group, draw.options[e.name], hold.memory)]
        if len({upper(group, draw.options[e.name], hold.memory) for e in inside}) > 1:
            return False
        if hold.along and not all(np.all(prices.leads(e, draw.options[e.name], hold.along)) for e in users):
            return False
    return bool(np.all(prices.hold_fits(use, chain[0])))


def random_machine(rng: random.Random, tight: bool = False, vector: bool | None = None) -> Machine:
    """0 to 2 buffers above an array of 0 to 2 axes with registers, and perhaps a unit of several lanes beside it."""
    every = {c: OpCost(rng.choice([1, 1, 2, 3]), rng.random() * 1e-12) for c in CLASSES[:-1]}
    expands = {"exp": {"mac": rng.randint(1, 6)}}
    sizes = [rng.choice([2, 3, 4]) for _ in range(rng.choice([0, 1, 1, 2]))]
    axes = tuple(Axis(f"x{i}", n, rng.random() < 0.7, rng.random() < 0.5) for i, n in enumerate(sizes))
    unit = Unit("pe", 1e9, every, lanes=rng.choice([1, 1, 1, 4]), expands=expands)
    registers = _memory(rng, "regs", (unit,), [None, *([8, 24, 64] if tight else [64, 4096])], ported=False)
    node: Array | Memory = Array("grid", axes, (registers,)) if axes else registers
    children: tuple = (node,)
    if rng.random() < 0.3 if vector is None else vector:
        children = (node, Unit("vector", 1e9, every, lanes=rng.choice([1, 2, 4]), expands=expands))
    for level in range(rng.choice([0, 1, 1, 2])):
        size = [None, *([16, 32, 64, 128] if tight else [1024, 1 << 16])]
        children = (_memory(rng, f"buffer{level}", children, size),)
    return Machine(f"random-{rng.random()}", 1e9, _memory(rng, "dram", children, [None]))


def _memory(rng: random.Random, name: str, children: tuple, sizes: list, ported: bool = True) -> Memory:
    speed = lambda: rng.choice([None, 1e9, 3e9, 64e9]) if ported else None
    energy = lambda: rng.randint(1, 900) * 1e-14
    return Memory(
        name, children, rng.choice(sizes), speed(), speed(), shared_port=rng.random() < 0.5,
        access_bytes=2, read_energy_j=energy(), write_energy_j=energy(),
    )  # fmt: skip


def workload(text: str, **sizes: int) -> Workload:
    """A cascade's text, without its head, bound to sizes."""
    return bind(parse(f"cascade small\n{text}"), sizes)


def partial() -> AbstractContextManager:
    """Lets `check` pass mappings of some of a cascade's Einsums."""
    return patch("mapper.check._coverage")


SINGLE = (
    "C[m,n] = A[m,k] * B[k,n]",
    "C[b,m,n] = A[b,m,k] * B[b,k,n]",
    "C[m] = A[m,k] * B[k]",
    "C[m,n] = A[m] * B[n]",
    "C[m,n] = A[m,n] + B[m,n]",
    "C[m,n] = A[m,n] * B[m]",
    "C[m] = A[m,n]",
    "C[m] = max[n] A[m,n]",
    "C[n] = exp(A[m,n] - B[n])",
)
SEVERAL = (
    "T[m] = A[m,k] * B[k]; C[m,n] = T[m] * D[n]",
    "T[m,n] = A[m,k] * B[k,n]; C[m] = max[n] T[m,n]",
    "T[m] = max[n] A[m,n]; C[m,n] = exp(A[m,n] - T[m])",
    "T[m,n] = exp(A[m,n] - B[n]); C[m] = T[m,n] * D[n]",
    "T[m] = A[m,n] * B[n]; U[m] = exp(T[m]); C[m] = U[m] + D[m]",
    "T[m] = max[n] A[m,n]; U[m,n] = exp(A[m,n] - T[m]); C[m] = U[m,n]",
    "T[m,n] = A[m] * B[n]; U[m,n] = exp(T[m,n]); C[n] = U[m,n] * D[m]",
)
ONLINE = (
    "L[j] = max[i] A[j,i]; R[j+1] = max(R[j], L[j]) init -inf; C[j] = exp(A[j,i] - R[j+1])",
    "L[j] = max[i] A[j,i]; R[j+1] = max(R[j], L[j]) init -inf; C[p] = R[J] * B[p]",
    "Q[j,i] = A[e] * B[j,i,e]; L[j] = max[i] Q[j,i]; R[j+1] = max(R[j], L[j]) init -inf",
    "S[j] = A[j,i]; P[j] = D[j] * B[j]; D[j+1] = P[j] + S[j] init 0",
)


def text_of(einsums: str, rng: random.Random) -> str:
    """The text of a cascade from its Einsums, with inputs declared by their first use in random types."""
    lines, written = einsums.split("; "), [e[: e.index("[")] for e in einsums.split("; ")]
    declared: dict[str, str] = {}
    for name, ranks in re.findall(r"(?<![a-z\[])([A-Z])\[([a-z,]+)\]", einsums):
        if name not in written:
            declared.setdefault(name, f"tensor {name}[{ranks}]: {rng.choice(['bf16', 'fp32'])}")
    return "\n".join((*declared.values(), *lines)) + "\n"


def tiny(rng: random.Random, einsums: str) -> Workload:
    """One of the cascades above bound to tiny sizes."""
    text = text_of(einsums, rng)
    cascade = parse(f"cascade small\n{text}")
    pick = {"J": [1, 2], "E": [1, 2], "B": [2, 3]}
    return bind(cascade, {s: rng.choice(pick.get(s, [1, 2, 2, 3, 4, 6])) for s in cascade.free_sizes})


def tiny_machine(rng: random.Random, levels: int | None = None) -> Machine:
    """At most three buffers, arrays between them, an axis or two, and registers; some must keep operands."""
    every = {c: OpCost(rng.choice([1, 1, 2, 3]), rng.randint(1, 99) * 1e-14) for c in CLASSES}
    sizes = [rng.choice([2, 2, 3, 4]) for _ in range(rng.choice([0, 0, 1, 1, 2]))]
    axes = tuple(Axis(f"x{i}", n, rng.random() < 0.7, rng.random() < 0.5) for i, n in enumerate(sizes))
    unit = Unit("pe", 1e9, every, lanes=rng.choice([1, 1, 2]))
    registers = _memory(rng, "regs", (unit,), [None, 4, 8, 16, 32], ported=False)
    roles = rng.choice([None, None, ("weight",), ("input", "weight"), ("output",)])
    registers = replace(registers, holds=roles, bypass=rng.random() < 0.6 if roles else True)
    children: tuple = (Array("grid", axes, (registers,)) if axes else registers,)
    if rng.random() < 0.25:
        children = (*children, Unit("vector", 1e9, every, lanes=rng.choice([1, 2, 4])))
    for level in range(levels or rng.choice([0, 1, 1, 1, 2, 2, 3])):
        if level and rng.random() < 0.3:
            children = (Array(f"part{level}", (Axis("y", 2, rng.random() < 0.7, rng.random() < 0.5),), children),)
        buffer = _memory(rng, f"buffer{level}", children, [None, 8, 12, 16, 24, 32, 48])
        roles = rng.choice([None] * 4 + [("input", "weight"), ("output", "input")])
        children = (replace(buffer, holds=roles, bypass=rng.random() < 0.8),)
    static = rng.choice([0.0, 0.0, 1e-5, 1e-4])
    return Machine(f"tiny-{rng.random()}", 1e9, _memory(rng, "dram", children, [None]), static_power_w=static)
