"""Scaled machines: one number changes, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch.machine import Memory
from arch.read import load
from arch.scale import parameters, scaled
from einsum.problems import InputError


def test_parameters_are_those_that_the_machine_states():
    assert parameters(load("h100"))[-1] == "static power"
    assert "dram capacity" not in parameters(load("fusemax"))  # unlimited
    assert {"dram bandwidth", "buffer capacity", "pe_2d throughput", "pe_2d energy"} <= set(parameters(load("fusemax")))


@pytest.mark.parametrize("name", parameters(load("h100")))
def test_only_the_named_parameter_changes(name: str):
    machine = load("h100")
    twice = scaled(machine, {name: 2.0})
    assert twice != machine
    assert scaled(twice, {name: 0.5}) == machine


def test_a_memory_is_scaled_port_by_port():
    machine = load("tpu-v4i")
    memory = machine.memory("dram")
    assert memory.read_bytes_per_s and memory.write_bytes_per_s
    expected = {
        "bandwidth": replace(
            memory,
            read_bytes_per_s=3 * memory.read_bytes_per_s,
            write_bytes_per_s=3 * memory.write_bytes_per_s,
        ),
        "energy": replace(memory, read_energy_j=3 * memory.read_energy_j, write_energy_j=3 * memory.write_energy_j),
    }
    for what, wanted in expected.items():
        found = scaled(machine, {f"dram {what}": 3.0}).root
        assert isinstance(found, Memory) and replace(found, children=()) == replace(wanted, children=())


def test_a_misspelt_parameter_is_named():
    with pytest.raises(InputError, match=r"no such parameter \(got dram bandwith\); did you mean dram bandwidth"):
        scaled(load("fusemax"), {"dram bandwith": 2.0})
