"""Refinement by simulation against simulating everything, its certificate, and what a better machine buys."""

import math
import random
from contextlib import suppress
from dataclasses import replace
from itertools import product

import pytest

import stepfall
from arch.machine import Array, Axis, Machine, Memory, OpCost, Unit
from arch.read import load as load_machine
from arch.scale import parameters
from einsum.bind import bind
from einsum.library import load as load_cascade
from einsum.parse import parse
from einsum.problems import InputError
from mapper.check import check
from mapper.cost import cost
from mapper.library import make
from mapper.mapping import Compute, Group as MappedGroup, Hold, Loop, Mapping, Pipe
from mapper.modulo import static_orders
from mapper.search.answer import search
from mapper.search.build import Choice, mapping_of
from mapper.search.group import Group
from mapper.search.places import orders, places
from mapper.search.solve import Solver, Space
from mapper.search.tiles import chains, divisors
from mapper.work import group_works
from sim.fold import run_full
from sim.lower import lower
from sim.outcome import Deadlock, Standstill
from sim.run import simulate
from studies.refine import Variants, buys, refine, varied

TEXTS = (
    "cascade product\ntensor A[i,k]\ntensor B[k,j]\ntensor C[i,j]\nC[i,j] = A[i,k] * B[k,j]\n",
    "cascade rows\ntensor A[i,k]\ntensor D[i,k]\nD[i,k] = exp(A[i,k])\nS[i] = D[i,k]\n",
    "cascade scaled\ntensor A[i,k]\ntensor B[i]\nD[i,k] = A[i,k] * B[i]\nE[i,k] = exp(D[i,k])\n",
)
FEW = Variants(buffers=(1, 2), open=(2,), ahead=(1,))


def small(seed):
    """A workload of one or two Einsums and a machine with one buffer around a line of units."""
    draw = random.Random(seed)
    cascade = parse(TEXTS[seed % len(TEXTS)])
    square = cascade.name == "product"
    sizes = {"I": 2, "J": 2, "K": 2} if square else {"I": 2, "K": draw.choice([2, 4])}
    workload = bind(cascade, sizes)
    ops = {name: OpCost(draw.choice([1, 2, 5]), 1e-12) for name in ("mac", "mul", "add", "exp")}
    line = Array("line", (Axis("lane", 2, reduce=draw.random() < 0.5),), (Unit("pe", 1e9, ops),))
    units = (line, Unit("side", 1e9, {"exp": OpCost(3, 2e-12)}))
    buffer = Memory(
        "buffer", units, draw.choice([24.0, 48.0, 96.0]), access_bytes=2, read_bytes_per_s=draw.choice([None, 16e9])
    )
    speed = draw.choice([1e9, 4e9, 16e9])
    root = Memory(
        "dram", (buffer,), None, speed, speed, shared_port=draw.random() < 0.5, latency_s=draw.choice([0, 3e-9])
    )
    return workload, Machine(f"small-{seed}", 1e9, root)


def brute(group, buffers=1):
    """Every mapping of a group, from every decision that the rules allow, in no order."""
    group.check()
    w = group.workload
    for chosen in orders(group):
        holds = [places(group, use, chosen) for use in group.uses.values()]
        tiles = [
            [(1,)] if r in group.batch | group.stepped else chains([divisors(w.extent(r))] * group.blocks).tolist()
            for r in group.walked
        ]
        for shape, decided, options in product(product(*tiles), product(*holds), product(*group.options.values())):
            tile = dict(zip(group.walked, map(tuple, shape), strict=True))
            chain = dict(zip(group.uses, decided, strict=True))
            yield Choice(group, dict(zip(group.names, options, strict=True)), chain, tile, 0.0, 0.0, 0.0)


def legal(group):
    """The groups that these decisions make, once each, that stand the check beside the other Einsums' own groups."""
    names, solver, tried = [e.name for e in group.workload.cascade.einsums], Solver(Space()), set()
    others = {
        n: solver.best(Group(group.workload, group.machine, (n,)), "latency") for n in names if n not in group.names
    }
    for choice in brute(group):
        parts = [*(others[n] for n in names[: names.index(group.names[0])]), choice]
        parts += [others[n] for n in names if n in others and others[n] not in parts]
        mapping = mapping_of("brute", parts, 1)
        if mapping.groups in tried:
            continue
        tried.add(mapping.groups)
        try:
            check(mapping, group.workload, group.machine)
        except InputError:
            continue
        yield choice


def fastest(group, variants):
    """Seconds of the fastest of all legal mappings of a group in all variants, tile by tile."""
    best = math.inf
    for choice in legal(group):
        plain = mapping_of("brute", [choice], 1)
        for body in variants.bodies(choice):
            mapping = replace(plain, groups=(replace(plain.groups[0], body=body),))
            with suppress(Deadlock, Standstill):
                best = min(best, run_full(lower(mapping, group.workload, group.machine)[0]).seconds)
    return best


@pytest.mark.parametrize("first", range(0, 36, 6))
def test_the_refined_mapping_is_the_fastest_of_all_in_all_variants(first):
    for seed in range(first, first + 6):
        workload, machine = small(seed)
        names = tuple(e.name for e in workload.cascade.einsums)
        group = lambda *chosen, w=workload, m=machine: Group(w, m, chosen)
        apart = sum(fastest(group(name), FEW) for name in names)
        together = fastest(group(*names), FEW) if len(names) > 1 else apart
        refined = refine(workload, machine, variants=FEW)
        proof = refined.certificate
        assert refined.found[0].latency_s == pytest.approx(min(apart, together), rel=1e-12), seed
        assert proof.exhausted and proof.gap <= 1e-9, seed


def test_refinement_finds_what_the_closed_form_cannot_tell_apart():
    better = 0
    for seed in range(6):
        workload, machine = small(seed)
        refined = refine(workload, machine, variants=FEW).found[0].latency_s
        plain = simulate(search(workload, machine).found[0].mapping, workload, machine).latency_s
        assert refined <= plain * (1 + 1e-12)
        better += refined < plain * (1 - 1e-6)
    assert better >= 2


@pytest.mark.parametrize("seed", range(0, 12, 3))
def test_a_limit_returns_the_best_so_far_with_an_honest_gap(seed):
    workload, machine = small(seed)
    best = refine(workload, machine, variants=FEW).found[0].latency_s
    values = []
    for simulations in (1, 4, 16):
        some = refine(workload, machine, variants=FEW, simulations=simulations)
        proof = some.certificate
        assert some.simulated <= simulations
        assert proof.bound <= best * (1 + 1e-12) and best <= some.found[0].latency_s * (1 + 1e-12)
        assert proof.value == some.found[0].latency_s and proof.exhausted == (proof.gap <= 1e-9)
        values.append(proof.value)
    assert values == sorted(values, reverse=True)
    assert refine(workload, machine, variants=FEW, seconds=0.0).simulated == 1


def test_an_interrupt_returns_the_best_so_far_of_every_group():
    workload, machine = small(1)
    pressed = []

    def interrupt(message):
        if "simulated" in message and not pressed:
            pressed.append(message)
            raise KeyboardInterrupt

    cut = refine(workload, machine, variants=FEW, told=interrupt)
    whole = refine(workload, machine, variants=FEW)
    assert cut.certificate.bound <= whole.certificate.value <= cut.certificate.value
    assert len(cut.found[0].mapping.groups) == cut.simulated


def test_an_interrupt_before_there_is_a_mapping_passes():
    def interrupt(message):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine(*small(0), told=interrupt)


def test_refinement_repeats():
    one, other = (refine(*small(4), variants=FEW) for _ in range(2))
    assert one.found[0].mapping == other.found[0].mapping and one.simulated == other.simulated


def test_fusemax_reaches_its_bound_under_overlap():
    cascade = load_cascade("attention-1pass")
    sizes = {"B": 1, "H": 12, "E": 64, "F": 64, "M": 65536, "P": 65536, "M0": 256}
    workload = bind(cascade, sizes, {t.name: "bf16" for t in cascade.tensors})
    refined = refine(workload, load_machine("fusemax"), variants=Variants(buffers=(1,)), simulations=1)
    assert refined.certificate.gap < 1e-3
    assert (
        0
        <= refined.certificate.bound
        == pytest.approx(cost(refined.found[0].mapping, workload, load_machine("fusemax")).latency_s, rel=1e-9)
    )


@pytest.mark.parametrize("queries", [256, 1024])
def test_a_static_order_of_fusemax_is_as_fast_as_its_own(queries):
    """From a DRAM twice as fast, as else DRAM hides the schedule."""
    preset, sizes = load_machine("fusemax"), {"B": 1, "H": 1, "E": 64, "F": 64, "M": 65536, "P": queries}
    machine = replace(preset, root=replace(preset.root, read_bytes_per_s=2 * preset.root.read_bytes_per_s))
    mapping, workload = make("fusemax-binding", load_cascade("attention-1pass"), machine, sizes)
    seconds = lambda m: simulate(m, workload, machine).latency_s
    stages, order = static_orders(group_works(mapping, workload, machine)[0])[-1]
    ours = with_pipe(mapping, Pipe((), 2, 4, order), stages)
    check(ours, workload, machine)
    assert seconds(ours) <= seconds(mapping) * (1 + 1e-9)
    assert seconds(with_pipe(mapping, Pipe((), 2, 4), {})) > 1.4 * seconds(ours)


def with_pipe(mapping, pipe, stages):
    body = tuple(varied(node, frozenset(), pipe, stages) for node in mapping.groups[0].body)
    return replace(mapping, groups=(replace(mapping.groups[0], body=body),))


def test_a_unit_begins_the_next_tile_while_another_works_on_this_one():
    """Two cycles on one unit, three on another, two on the first again: seven a tile in program order, four if the next
    tile begins before this one ends."""
    text = "cascade there_and_back\ntensor X[i]\nA[i] = X[i] + X[i]\nB[i] = exp(A[i])\nC[i] = max(B[i], X[i])\n"
    workload = bind(parse(text), {"I": 100})
    one = Unit("one", 1e9, {"add": OpCost(2, 0), "max": OpCost(2, 0)})
    units = Memory("regs", (one, Unit("two", 1e9, {"exp": OpCost(3, 0)})))
    machine = Machine("pair", 1e9, Memory("dram", (Array("line", (Axis("x", 1),), (units,)),)))
    leaves = tuple(Compute(e, u) for e, u in (("A", "one"), ("B", "two"), ("C", "one")))
    loop = Loop(("i",), (1,), holds=(Hold("A", "regs", 2), Hold("B", "regs", 2)), body=(Pipe(leaves),))
    mapping = Mapping("m", "there_and_back", "pair", (MappedGroup("all", (loop,)),))
    orders = static_orders(group_works(mapping, workload, machine)[0])
    times = [
        simulate(with_pipe(mapping, Pipe((), 2, 1, order), stages), workload, machine).latency_s
        for stages, order in orders
    ]
    assert times == pytest.approx([700e-9, (100 * 4 + 3) * 1e-9], rel=0.01)
    for stages, order in orders:
        check(with_pipe(mapping, Pipe((), 2, 1, order), stages), workload, machine)


def test_what_a_better_machine_buys_equals_mapping_it_by_hand():
    workload, machine = small(3)
    buffer, root = machine.root.children[0], machine.root
    twice = {
        "dram bandwidth": replace(
            root, read_bytes_per_s=2 * root.read_bytes_per_s, write_bytes_per_s=2 * root.write_bytes_per_s
        ),
        "buffer capacity": replace(root, children=(replace(buffer, capacity_bytes=2 * buffer.capacity_bytes),)),
    }
    gains = {g.parameter: g for g in buys(workload, machine, twice, factor=2)}
    for parameter, tree in twice.items():
        better = replace(machine, root=tree)
        group = Group(workload, better, ("C",))
        least = min(cost(mapping_of("brute", [c], 1), workload, better).latency_s for c in legal(group))
        assert gains[parameter].after_s == pytest.approx(least, rel=1e-12)
        assert gains[parameter].gain == pytest.approx(1 - least / gains[parameter].before_s)
    assert list(gains) == sorted(gains, key=lambda p: -gains[p].gain)


def test_buys_names_every_parameter_and_refuses_others():
    workload, machine = small(0)
    assert len(buys(workload, machine)) == sum(not p.endswith("energy") for p in parameters(machine)) > 3
    with pytest.raises(InputError, match="did you mean dram bandwidth"):
        buys(workload, machine, ["drm bandwidth"])


def test_what_an_interrupted_search_has_so_far_is_no_gain(monkeypatch):
    def interrupted(*given):
        found = search(*given)
        return replace(found, certificate=replace(found.certificate, exhausted=False))

    workload, machine = small(0)
    monkeypatch.setattr("mapper.search.answer.search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        buys(workload, machine)


def test_map_simulates_and_says_what_buys_most(capsys):
    def cli(line):
        return stepfall.main(line.split()), *capsys.readouterr()

    code, out, _ = cli("map --cascade gemm --machine systolic-128 --size M=256,N=256,K=256 --simulate 3 --buys")
    assert code == 0 and "simulated latency at least" in out and "simulations: " in out and "dram bandwidth" in out
    code, _, err = cli(
        "map --cascade gemm --machine systolic-128 --size M=256,N=256,K=256 --simulate 3 --objective energy"
    )
    assert code == 2 and "--simulate" in err
