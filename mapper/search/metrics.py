"""What choices are measured by, and small tools for tables of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapper.place import own_memory
from mapper.search.group import Group
from mapper.search.price import ENERGY, Vector


def mesh(axes: Sequence[np.ndarray]) -> np.ndarray:
    """(axes, combinations): every combination of values."""
    if not axes:
        return np.zeros((0, 1), dtype=int)
    return np.array(list(np.meshgrid(*axes, indexing="ij"))).reshape(len(axes), -1)


def add(vector: Vector, other: Vector) -> None:
    """Add a vector into another."""
    for metric, value in other.items():
        vector[metric] = vector.get(metric, 0.0) + value


@dataclass(frozen=True)
class Metrics:
    """What a choice is measured by: energy, the time of each unit and memory port, the bytes held in each memory."""

    names: tuple[str, ...]
    busy: int  # those before the bytes held
    rooms: np.ndarray  # capacities of the memories, bytes
    static_power_w: float

    @staticmethod
    def of(group: Group) -> Metrics:
        """Those that the group can have."""
        machine, options = group.machine, [o for options in group.options.values() for o in options]
        units = dict.fromkeys(u for o in options for u in o.unit.split("+"))
        own = [own_memory(machine, u).name for u in units]
        memories = dict.fromkeys((machine.root.name, *group.levels, *group.registers, *own))
        ports = [m for m in memories if machine.memory(m).read_bytes_per_s or machine.memory(m).write_bytes_per_s]
        ported = [p for m in ports for p in ([m] if machine.memory(m).shared_port else [f"{m} read", f"{m} write"])]
        sizes = {m: machine.memory(m).capacity_bytes for m in (*group.levels, *group.registers)}
        held = {f"held {m}": size for m, size in sizes.items() if size is not None}
        first = (ENERGY, *(f"busy {name}" for name in (*units, *ported)))
        return Metrics((*first, *held), len(first), np.array(list(held.values())), machine.static_power_w)

    def whole(self, values: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(latency, energy with static power) from metrics, with or without bytes held, along an axis."""
        first = np.moveaxis(values, axis, 0)
        latency = first[1 : self.busy].max(axis=0, initial=0.0)
        return latency, first[0] + self.static_power_w * latency if self.static_power_w else first[0]
