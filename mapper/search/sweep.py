"""Many machines at once: the tiles of a found mapping chosen anew for each, machines as one more array axis.

What a decision moves, computes and holds does not depend on how fast or how dear a part of the machine is. So the
quantities of all tile shapes are found once, and a machine is a row of factors on them. SEMANTICS 8.10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict
from dataclasses import dataclass, replace

import moocore
import numpy as np

from arch.machine import Machine
from arch.scale import STATIC, check, parameters, scaled
from einsum.cascade import Workload
from einsum.problems import InputError, Problem
from mapper.mapping import Mapping
from mapper.search.answer import DEFAULT
from mapper.search.build import Choice, mapping_of
from mapper.search.effort import CLOSE
from mapper.search.fuse import COSTS, Cuts
from mapper.search.group import Group
from mapper.search.metrics import Metrics, add, mesh
from mapper.search.price import ENERGY, Array, Prices, Shapes, Vector
from mapper.search.solve import Solver, Space, columns

SHAPES = 4096  # of a group's tiles
CELLS = 1 << 21  # machines times shapes at once


@dataclass(frozen=True)
class Quantities:
    """Of a group's decisions in the shapes that can be best on some machine: `busy`, seconds of each resource;
    `joules` by parameter of energy; `held`, bytes in each memory. (rows, shapes) each; `tiles`: walked rank -> (shapes,
    blocks)."""

    busy: dict[str, np.ndarray]
    joules: dict[str, np.ndarray]
    held: dict[str, np.ndarray]
    tiles: dict[str, np.ndarray]


@dataclass(frozen=True)
class Swept:
    """The best tiles for each of many machines: latency in seconds and energy in joules, (machines,), infinite where no
    shape fits; and which shape of each group, (groups, machines)."""

    latency_s: np.ndarray
    energy_j: np.ndarray
    shapes: np.ndarray
    choices: tuple[Choice, ...]
    quantities: tuple[Quantities, ...]
    buffers: int

    def mapping(self, machine: int) -> Mapping:
        """The mapping of one of the machines."""
        made = []
        for choice, found, at in zip(self.choices, self.quantities, self.shapes[:, machine], strict=True):
            tiles = {rank: tuple(int(t) for t in column[at]) for rank, column in found.tiles.items()}
            made.append(replace(choice, tiles=tiles))
        return mapping_of(f"machine-{machine}", made, self.buffers)


def sweep(
    workload: Workload,
    machine: Machine,
    factors: Dict[str, np.ndarray],
    objective: str = "latency",
    space: Space = DEFAULT,
) -> Swept:
    """The mapping of least `objective` (latency | energy) on the machine, its tiles chosen anew for each machine whose
    parameters (`arch.scale.parameters`) are scaled by a row of `factors`, (machines,) each.

    What is computed where, held where, and fused, stays: a search of its own may find better for a machine far away.
    InputError for an unknown parameter or objective.
    """
    check(machine, factors)
    if objective not in COSTS:
        raise InputError(Problem("unknown objective", got=objective, hint=" or ".join(COSTS)))
    choices, _ = Cuts(workload, machine, Solver(space)).best(objective, lambda _: None)
    every = tuple(quantities(choice, space) for choice in choices)
    count = max((np.size(values) for values in factors.values()), default=1)
    rows = {name: np.broadcast_to(np.asarray(values, float), count) for name, values in factors.items()}
    each = [_best(found, machine, rows, count, objective) for found in every]
    latency, energy = (np.sum([one[i] for one in each], axis=0) for i in (0, 1))
    return Swept(latency, energy, np.array([one[2] for one in each]), tuple(choices), every, space.buffers)


def quantities(choice: Choice, space: Space) -> Quantities:
    """What a choice's decisions cost in every shape of tiles, without shapes that another is better than on any
    machine."""
    group = choice.group
    chains = columns(group, space.tiling, SHAPES)
    at = mesh([np.arange(len(chain)) for chain in chains])
    own = [np.array([choice.tiles[rank]]) for rank in group.walked]
    tiles = [np.concatenate([mine, chain[i]]) for mine, chain, i in zip(own, chains, at, strict=True)]
    vector, allowed = _vector(choice, group, tiles, space.buffers)
    many = len(tiles[0]) if tiles else 1
    dense = lambda value: np.broadcast_to(np.asarray(value, float), many)
    metrics = Metrics.of(group)
    busy = {m: dense(vector[m]) for m in metrics.names[1 : metrics.busy] if m in vector}
    held = {m: dense(vector[m]) for m in metrics.names[metrics.busy :] if m in vector}
    joules = {name: dense(value) for name, value in _joules(choice, group, tiles, space.buffers).items()}
    kept = np.flatnonzero(np.broadcast_to(allowed, many))
    table = np.array([values[kept] for part in (busy, joules, held) for values in part.values()]).T
    kept = kept[moocore.is_nondominated(table)] if len(kept) > 1 else kept
    some = lambda part: {name: values[kept] for name, values in part.items()}
    return Quantities(some(busy), some(joules), some(held), some(dict(zip(group.walked, tiles, strict=True))))


def _joules(choice: Choice, group: Group, tiles: list[np.ndarray], buffers: int) -> dict[str, np.ndarray]:
    """The energy by parameter: that of a machine on which nothing else takes any."""
    named = [name for name in parameters(group.machine) if name.endswith(" energy")]
    found = {}
    for name in named:
        machine = scaled(group.machine, {other: 0.0 for other in named if other != name})
        found[name] = _vector(choice, Group(group.workload, machine, group.names), tiles, buffers)[0][ENERGY]
    return found


def _vector(choice: Choice, group: Group, tiles: list[np.ndarray], buffers: int) -> tuple[Vector, Array]:
    """(the sum of all decisions' costs, where they are allowed) for shapes of tiles."""
    prices = Prices(group, Shapes.of(group.workload, group.walked, tiles), buffers)
    vector: Vector = {}
    allowed: Array = True
    for e in group.einsums:
        option = choice.options[e.name]
        add(vector, prices.compute(e, option))
        allowed = allowed & prices.fits(e, option)
        for access in dict.fromkeys((*e.reads, e.output)):
            chain = choice.holds[access.tensor]
            source = chain[-1].memory if chain else group.machine.root.name
            add(vector, prices.access(e, access, option, source))
    for use in group.uses.values():
        chain, first = choice.holds[use.tensor], next(e for e in group.einsums if e.name in use.users)
        outer = None if use.kind == "inner" else group.machine.root.name
        allowed = allowed & prices.hold_fits(use, chain[0] if chain else None)
        for hold in chain:
            add(vector, prices.keep(use, hold, outer, choice.options[first.name]))
            allowed = allowed & (prices.leads(first, choice.options[first.name], hold.along) if hold.along else True)
            outer = hold.memory
    return vector, allowed


def _best(found: Quantities, machine: Machine, rows: Dict[str, np.ndarray], count: int, objective: str):
    """(latency, energy, shape) of a group's best shape for each machine."""
    shapes = len(next(iter(found.joules.values()), next(iter(found.busy.values()))))
    latency, energy, chosen = np.zeros(count), np.zeros(count), np.zeros(count, dtype=int)
    one = np.ones(count)
    for start in range(0, count, max(1, CELLS // shapes)):
        part = slice(start, start + max(1, CELLS // shapes))
        factor = lambda name, part=part: rows.get(name, one)[part, None]
        slow = np.zeros((len(one[part]), shapes))
        for metric, seconds in found.busy.items():
            np.maximum(slow, seconds / factor(_rate(metric, machine)), out=slow)
        joules = sum(factor(name) * values for name, values in found.joules.items()) + np.zeros_like(slow)
        joules = joules + machine.static_power_w * factor(STATIC) * slow
        for metric, size in found.held.items():
            name = metric.removeprefix("held ")
            room = (machine.memory(name).capacity_bytes or math.inf) * factor(f"{name} capacity")
            slow = np.where(size <= room, slow, math.inf)
        joules = np.where(np.isinf(slow), math.inf, joules)
        first, second = (slow, joules) if objective == "latency" else (joules, slow)
        ties = first <= first.min(axis=1, keepdims=True) * (1 + CLOSE)
        at = np.where(ties, second, math.inf).argmin(axis=1)
        here = np.arange(len(at))
        latency[part], energy[part], chosen[part] = slow[here, at], joules[here, at], at
    return latency, energy, chosen


def _rate(metric: str, machine: Machine) -> str:
    """The parameter that says how fast a resource is."""
    name = metric.split()[1]
    return f"{name} throughput" if name in {u.name for u in machine.units} else f"{name} bandwidth"
