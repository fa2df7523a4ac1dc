"""What the execution model reads of a GPU: a few numbers of its machine, found by name in the tree."""

from __future__ import annotations

from dataclasses import dataclass

from arch.machine import Array, Machine, Memory, Unit
from einsum.problems import InputError, Problem

NODES = ("sm", "smem", "registers", "l2", "tensor", "mufu")
# Dense tensor throughput over that of 16-bit floats: datasheets of H100 (8 bit) and B200 (4 bit). fp8-block is an fp8
# product whose partial sums are scaled for each block.
TENSOR_RATE = {"fp32": 0.5, "bf16": 1.0, "fp16": 1.0, "fp8": 2.0, "fp8-block": 2.0, "fp4": 4.0}


@dataclass(frozen=True, slots=True)
class Figures:
    """A GPU's figures: peaks, per SM and clock where the name says so."""

    name: str
    clock_hz: float
    sms: int
    flop_per_clock: float  # of an SM's tensor units, 16-bit floats, two for each multiply-accumulate
    exp_per_clock: float  # of an SM's special-function units
    smem_bytes: float  # of an SM
    smem_bytes_per_clock: float  # of an SM
    register_bytes: float  # of an SM
    l2_bytes: float
    l2_bytes_per_s: float
    hbm_bytes_per_s: float
    hbm_latency_s: float

    @property
    def flop_per_s(self) -> float:
        """Datasheet peak for 16-bit floats."""
        return self.sms * self.clock_hz * self.flop_per_clock


def figures(machine: Machine) -> Figures:
    """The figures of a machine that is a GPU; InputError names what it lacks."""
    names = {node.name: node for node in machine.nodes()}
    if missing := [name for name in NODES if name not in names]:
        raise InputError(Problem("is no GPU: it has no such part", machine.name, path=name) for name in missing)

    def below(name: str) -> int:  # instances of a node in one SM
        path = machine.path(name)
        count = 1
        for node in path[path.index(names["sm"]) + 1 :]:
            count *= node.size if isinstance(node, Array) else 1
        return count

    def memory(name: str) -> Memory:
        node = names[name]
        assert isinstance(node, Memory)
        return node

    def unit(name: str, operation: str) -> float:  # operations of an SM in a clock
        node = names[name]
        assert isinstance(node, Unit)
        return below(name) * node.lanes / node.ops[operation].cycles

    sm = names["sm"]
    assert isinstance(sm, Array)
    clock = machine.clock_hz
    return Figures(
        machine.name,
        clock,
        sm.size,
        2 * unit("tensor", "mac"),
        unit("mufu", "exp2"),
        memory("smem").capacity_bytes or 0.0,
        (memory("smem").read_bytes_per_s or 0.0) / clock,
        (memory("registers").capacity_bytes or 0.0) * below("registers"),
        memory("l2").capacity_bytes or 0.0,
        memory("l2").read_bytes_per_s or 0.0,
        machine.root.read_bytes_per_s or 0.0,
        machine.root.latency_s,
    )
