"""What holds a mapping up, against simulations of slightly better and slightly worse machines and mappings."""

from dataclasses import replace

import pytest

from arch.machine import Array, Machine, Memory, Node, Unit
from arch.read import load as load_machine
from einsum.library import load as load_cascade
from mapper.library import make
from mapper.mapping import Compute, Loop, Pipe
from sim.bottleneck import LATENCIES, bottleneck
from sim.run import simulate

SIZES = {"B": 1, "H": 12, "E": 64, "F": 64}
EPSILON = 1e-4


def case(name: str, machine: str, tokens: int):
    cascade, place = load_cascade("attention-1pass" if "fusemax" in name else "attention-3pass"), load_machine(machine)
    mapping, workload = make(name, cascade, place, {**SIZES, "M": tokens, "P": tokens})
    return mapping, workload, place


def faster(node: Node, parameter: str, factor: float) -> Node:
    """The tree with one node's clock or bandwidth scaled."""
    name, what = parameter.rsplit(" ", 1)
    if isinstance(node, Memory | Array):
        node = replace(node, children=tuple(faster(child, parameter, factor) for child in node.children))
    if isinstance(node, Unit) and (node.name, "throughput") == (name, what):
        return replace(node, clock_hz=node.clock_hz * factor)
    if isinstance(node, Memory) and (node.name, "bandwidth") == (name, what) and node.read_bytes_per_s:
        return replace(node, read_bytes_per_s=node.read_bytes_per_s * factor)
    return node


def latency(mapping, workload, machine: Machine, parameters: tuple[str, ...], factor: float) -> float:
    root = machine.root
    for parameter in parameters:
        root = faster(root, parameter, factor)
    assert isinstance(root, Memory)
    return simulate(mapping, workload, replace(machine, root=root)).latency_s


@pytest.mark.parametrize(
    ("name", "machine", "tokens"),
    [
        ("fusemax-binding", "fusemax", 1024),
        ("fusemax-binding", "fusemax", 16384),
        ("fusemax-greedy", "fusemax", 1024),
        ("fusemax-greedy", "fusemax", 16384),
        ("fusemax-architecture", "fusemax", 4096),
        ("fusemax-cascade", "fusemax", 1024),
        ("flat", "flat", 2**19),
    ],
)
def test_shares_are_the_slopes_of_simulations_on_both_sides(name, machine, tokens):
    """Static and oldest-first units, phases, DRAM-bound; parameters alone, and together where they tie."""
    mapping, workload, place = case(name, machine, tokens)
    found, base = bottleneck(mapping, workload, place), simulate(mapping, workload, place).latency_s
    assert found.latency_s == pytest.approx(base, rel=1e-12)
    for share in found.shares:
        if share.parameters != (LATENCIES,):
            better = base - latency(mapping, workload, place, share.parameters, 1 + EPSILON)
            worse = latency(mapping, workload, place, share.parameters, 1 / (1 + EPSILON)) - base
            assert share.least == pytest.approx(better / (1 - 1 / (1 + EPSILON)), abs=2e-4 * base), share.parameters
            assert share.most == pytest.approx(worse / EPSILON, abs=2e-4 * base), share.parameters


def test_fusemax_has_both_units_on_longest_paths_and_gains_by_both():
    """+Binding's units tie: 138 cycles a tile on the 1D unit, and through the 2D unit with one maximum between."""
    found = bottleneck(*case("fusemax-binding", "fusemax", 65536))
    (pace,) = found.paces
    assert (pace.circuits[0].ticks, pace.circuits[0].tiles) == (138 * 2**20, 1)
    assert {step.resource for step in pace.circuits[0].steps} == {"pe_1d"}
    assert [step.task for step in pace.circuits[1].steps] == ["BQK", "LM", "RM", "SLN", "SLD", "SLNV"]
    assert (pace.circuits[1].ticks, pace.circuits[1].tiles) == (138 * 2**20, 1)
    share = {s.parameters: (s.least / found.latency_s, s.most / found.latency_s) for s in found.shares}
    assert share["pe_1d throughput",] == pytest.approx((0.013, 1), abs=1e-3)
    assert share["pe_2d throughput",] == pytest.approx((0, 0.987), abs=1e-3)
    assert share["pe_2d throughput", "pe_1d throughput"] == pytest.approx((1, 1), abs=1e-3)


def with_depth(node, tensor: str, deep: int):
    """The mapping's node with other buffers for a tensor."""
    if isinstance(node, Compute):
        return node
    body = tuple(with_depth(n, tensor, deep) for n in node.body)
    if isinstance(node, Loop):
        return replace(
            node, body=body, holds=tuple(replace(h, deep=deep) if h.tensor == tensor else h for h in node.holds)
        )
    return replace(node, body=body)


def test_a_slot_less_is_a_mapping_with_a_buffer_less():
    mapping, workload, machine = case("fusemax-binding", "fusemax", 1024)
    found = bottleneck(mapping, workload, machine)
    (value,) = (d for d in found.depths if d.slot == "V in buffer")
    (group,) = mapping.groups
    one, three = (
        replace(mapping, groups=(replace(group, body=tuple(with_depth(n, "BV", deep) for n in group.body)),))
        for deep in (1, 3)
    )
    assert value.less == pytest.approx(simulate(one, workload, machine).latency_s, rel=1e-12)
    assert value.more == pytest.approx(simulate(three, workload, machine).latency_s, rel=1e-12)
    assert value.less is not None and value.less > 1.02 * found.latency_s


def test_an_open_tile_more_is_what_the_oldest_first_schedule_lacks():
    mapping, workload, machine = case("fusemax-greedy", "fusemax", 4096)
    found = bottleneck(mapping, workload, machine)
    assert any(step.wait == "slot open tiles" for step in found.paces[0].circuits[0].steps)
    (tiles,) = (d for d in found.depths if d.slot == "open tiles")
    (group,) = mapping.groups

    def opened(node):
        if isinstance(node, Pipe):
            return replace(node, open=node.open + 1, ahead=node.ahead - 1)
        return node if isinstance(node, Compute) else replace(node, body=tuple(map(opened, node.body)))

    more = replace(mapping, groups=(replace(group, body=tuple(map(opened, group.body))),))
    assert tiles.more == pytest.approx(simulate(more, workload, machine).latency_s, rel=1e-12)
    assert tiles.more is not None and tiles.more < 0.8 * found.latency_s


def test_groups_add_up_and_a_buffer_that_must_be_there_stands_still_without():
    found = bottleneck(*case("unfused", "flat", 1024))
    assert [pace.group for pace in found.paces] == ["QK", "softmax", "AV"]
    share = {s.parameters: s for s in found.shares}
    everything = [("dram bandwidth",), ("pe_1d throughput", "exp_1d throughput")]
    assert sum(share[names].least for names in everything) == pytest.approx(found.latency_s, rel=1e-3)
    assert [d.less for d in found.depths if d.slot == "SN in regs_1d"] == [None]
