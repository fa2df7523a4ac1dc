"""Binding and order against every binding and order of small pipes, against simulation, and on FuseMax's tile."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import permutations, product

import pytest

from arch import read
from arch.machine import Array, Machine, Memory, Node, OpCost, Unit
from einsum import library as cascades
from einsum.bind import bind
from einsum.cascade import Workload
from einsum.ops import operation_classes
from einsum.parse import parse
from einsum.problems import InputError
from mapper import library
from mapper.assign.answer import assign, held_bytes
from mapper.assign.facts import Facts, facts
from mapper.assign.model import Model
from mapper.assign.solver import Violation, solve
from mapper.check import check
from mapper.mapping import Compute, Greedy, Group, Hold, Loop, Mapping, Order, Pipe, Seq, leaves
from mapper.random_mapping import random_case
from mapper.work import group_works
from sim.run import simulate

CLOCK = 1e9
SEEDS = range(30)
OPS = {"exp": "exp({})", "add": "{} + X[b,i]", "mul": "{} * X[b,i]", "max": "max({}, X[b,i])"}


@dataclass(frozen=True)
class Case:
    """A random pipe, and its facts in words that the oracle understands."""

    mapping: Mapping
    workload: Workload
    machine: Machine
    cycles: dict[str, dict[str, int]]  # leaf -> unit -> cycles
    reads: tuple[tuple[str, str, int], ...]  # (maker, reader, tiles back)
    deep: dict[str, int]  # tensor that lives within a tile -> its buffers
    open: int


def case(seed: int, tiles: int = 240) -> Case:
    """Three or four leaves on two units: a chain or a fork, and perhaps a running maximum that is read again."""
    rng = random.Random(seed)
    names, lines, reads = [], [], []
    classes: dict[str, str] = {}
    state = rng.choice(["", "old", "new"])
    for k in range(rng.choice([1, 2] if state else [2, 3])):
        name, op = f"T{k}", rng.choice(sorted(OPS))
        source = rng.choice(names[-2:]) if names else "X"
        reads += [(source, name, 0)] if names else []
        lines.append(f"{name}[b,i] = {OPS[op].format(f'{source}[b,i]')}")
        names.append(name)
        classes[name] = op
    if state:
        reads += [(names[-1], "R", 0), ("R", "R", 1)]
        lines += [f"R[b,i+1] = max(R[b,i], {names[-1]}[b,i]) init -inf"]
        lines += [f"S[b,i] = {names[0]}[b,i] * R[b,{'i' if state == 'old' else 'i+1'}]"]
        reads += [(names[0], "S", 0), ("R", "S", int(state == "old"))]
        classes |= {"R": "max", "S": "mul"}
    cascade = parse("cascade pipe\ntensor X[b,i]: fp32\n" + "\n".join(lines) + "\n")
    workload = bind(cascade, {"B": 1, "I": tiles})
    units = []
    for name in ("u", "v"):
        able = [c for c in (*OPS, "mul") if rng.random() < 0.6 or name == "u"]
        units.append(Unit(name, CLOCK, {c: OpCost(rng.randint(1, 9), 0.0) for c in able}, lanes=1))
    machine = Machine("pair", CLOCK, Memory("dram", (Memory("buffer", tuple(units), 1 << 20),), None))
    inner = {a for a, _, _ in reads if a != "R" and a not in cascade.outputs}
    deep = {name: rng.choice([1, 1, 2, 3]) for name in sorted(inner)}
    open_ = rng.choice([1, 2, 3])
    leaves = tuple(Compute(e.name, "u") for e in cascade.einsums)
    holds = tuple(Hold(name, "buffer", n) for name, n in deep.items())
    tile = Loop(("i",), (1,), holds=holds, body=(Pipe(leaves, open_, 1),))
    outer = Loop(("b",), (1,), holds=(Hold("R", "buffer"),) if state else (), body=(tile,))
    mapping = Mapping("pipe", "pipe", "pair", (Group("g", (outer,)),))
    check(mapping, workload, machine)
    cycles = {n: {u.name: int(u.ops[c].cycles) for u in units if c in u.ops} for n, c in classes.items()}
    return Case(mapping, workload, machine, cycles, tuple(reads), deep, open_)


def best_interval(case: Case) -> float:
    """Cycles from tile to tile under the best binding, stages and order: every one is run."""
    names = tuple(case.cycles)
    found = set()
    for units in product(*(case.cycles[n] for n in names)):
        bound = dict(zip(names, units, strict=True))
        for stages in product(range(case.open), repeat=len(names)):
            stage = dict(zip(names, stages, strict=True))
            if any(stage[a] > stage[b] + back for a, b, back in case.reads):
                continue
            tried = set()
            for sequence in permutations(names):
                place = {n: i for i, n in enumerate(sequence)}
                if any(stage[a] - back == stage[b] and place[a] > place[b] for a, b, back in case.reads if a != b):
                    continue
                orders = tuple(tuple(n for n in sequence if bound[n] == u) for u in ("u", "v"))
                if orders not in tried:
                    tried.add(orders)
                    found.add(interval(case, bound, stage, sequence))
    return min(filter(None, found))


def interval(case: Case, bound: dict[str, str], stage: dict[str, int], sequence: tuple[str, ...]) -> float | None:
    """Cycles a tile of one decision, by running tiles one after another; None if they wait for each other."""
    tiles, period = 72, 12  # long enough to settle; cycles a tile repeat after 1, 2, 3, 4 or 6 of them
    start: dict[tuple[str, int], int] = {}
    end: dict[tuple[str, int], int] = {}
    free = {"u": 0, "v": 0}
    users = {t: [t, *(b for a, b, _ in case.reads if a == t)] for t in case.deep}
    for step in range(tiles + case.open):
        for name in sequence:
            tile = step - stage[name]
            if not 0 <= tile < tiles:
                continue
            needs = [(a, tile - back) for a, b, back in case.reads if b == name]
            needs += [(n, tile - case.open) for n in sequence]
            needs += [(n, tile - case.deep[t]) for t in case.deep if name == t for n in users[t]]
            needs = [need for need in needs if need[1] >= 0]
            if any(need not in end for need in needs):
                return None
            start[name, tile] = max([free[bound[name]], *(end[need] for need in needs)])
            end[name, tile] = free[bound[name]] = start[name, tile] + case.cycles[name][bound[name]]
    last = tiles - 4  # tiles of later steps, which are missing at the end, come after it
    return (end[name, last] - end[name, last - period]) / period


def steady(make, tiles: int = 240) -> float:
    """Cycles that a further tile takes in simulation: the difference between two lengths."""
    (short, *few), (long, *many) = make(tiles), make(2 * tiles)
    return (simulate(long, *many).latency_s - simulate(short, *few).latency_s) * CLOCK / tiles


@pytest.mark.parametrize("seed", SEEDS)
def test_no_binding_and_order_is_better_and_the_simulation_takes_as_long(seed: int):
    small = case(seed)
    answer = assign(small.mapping, small.workload, small.machine)
    (pipe,) = answer.pipes
    assert (pipe.solved.status, pipe.solved.gap) == ("optimal", pytest.approx(0, abs=1e-6))
    assert pipe.solved.value * CLOCK == pytest.approx(best_interval(small), rel=1e-9)

    def of(tiles: int):
        other = case(seed, tiles)
        found = assign(other.mapping, other.workload, other.machine).mapping
        assert found
        return found, other.workload, other.machine

    assert steady(of) == pytest.approx(pipe.solved.value * CLOCK, rel=1e-9)


def test_the_given_units_are_seldom_the_best():
    """The random pipes above need the program: units change, leaves get stages, and more than units' work binds."""
    answers = [(one, assign(one.mapping, one.workload, one.machine)) for one in map(case, SEEDS)]
    pipes = [answer.pipes[0] for _, answer in answers]
    kept = [assign(one.mapping, one.workload, one.machine, rebind=False).pipes[0] for one, _ in answers]
    assert sum(p.solved.value < k.solved.value * 0.99 for p, k in zip(pipes, kept, strict=True)) > 10
    assert sum(p.solved.value > max(p.after.values()) * 1.01 for p in pipes) > 5
    stages = [{x.node.stage for x in leaves(a.mapping) if isinstance(x.node, Compute)} for _, a in answers if a.mapping]
    assert sum(len(used) > 1 for used in stages) > 5


def fusemax(name: str, m: int, p: int) -> tuple[Mapping, Workload, Machine]:
    cascade, machine = cascades.load("attention-1pass"), read.load("fusemax")
    mapping, workload = library.make(name, cascade, machine, {"B": 1, "H": 1, "E": 64, "F": 64, "M": m, "P": p})
    return mapping, workload, machine


@pytest.mark.parametrize("name", ["fusemax-binding", "fusemax-greedy", "fusemax-architecture"])
def test_fusemax_order_reaches_the_1d_arrays_bound(name: str):
    """P1 = 128 and two open tiles: 138 cycles a tile on the 1D array, and AV's 64 in one of 1024, from any schedule."""
    mapping, workload, machine = fusemax(name, m=1024 * 256, p=128 * 256)
    answer = assign(mapping, workload, machine, rebind=False)
    (pipe,) = answer.pipes
    assert pipe.solved.status == "optimal" and answer.mapping
    assert pipe.solved.value * machine.clock_hz == pytest.approx(138 + 64 / 1024, rel=1e-9)
    run = simulate(answer.mapping, workload, machine)
    more = run.latency_s - run.total("tiles") * pipe.solved.value
    assert 0 < more * machine.clock_hz < 1000  # the first tile's way through the machine, and its transfers


def test_no_binding_of_fusemax_takes_fewer_than_138_cycles():
    """The 2D array has 137 cycles that only it executes fast; what balances the two costs it at least one more."""
    mapping, workload, machine = fusemax("fusemax-binding", m=1024 * 256, p=128 * 256)
    answer = assign(mapping, workload, machine)
    (pipe,) = answer.pipes
    assert pipe.solved.status == "optimal" and answer.mapping
    assert pipe.solved.value * machine.clock_hz == pytest.approx(138, rel=1e-9)
    assert pipe.after["pe_2d"] * machine.clock_hz == pytest.approx(138, rel=1e-9)
    run = simulate(answer.mapping, workload, machine)
    assert 1 <= run.latency_s / run.total("tiles") / pipe.solved.value < 1.001


def test_a_limit_gives_the_best_so_far_and_its_gap():
    mapping, workload, machine = fusemax("fusemax-binding", m=65536, p=65536)
    answer = assign(mapping, workload, machine, seconds=0.0)
    (pipe,) = answer.pipes
    assert pipe.solved.status == "feasible" and answer.mapping
    assert pipe.solved.value * machine.clock_hz == pytest.approx(138.25, rel=1e-9)  # as it was given
    assert 0 < pipe.solved.bound < assign(mapping, workload, machine).pipes[0].solved.value
    assert pipe.solved.gap == pytest.approx(1 - pipe.solved.bound / pipe.solved.value)
    wanted = assign(mapping, workload, machine, within=138.1 / machine.clock_hz, seconds=0.0)
    assert wanted.mapping is None and wanted.pipes[0].solved.status == "unknown"


def greedy(mapping: Mapping) -> Mapping:
    """The mapping without its static order: without time, `assign` then has only those of `mapper.modulo` (8.8.1)."""

    def change(node):
        if isinstance(node, Compute):
            return replace(node, stage=0)
        schedule = {"schedule": Greedy()} if isinstance(node, Pipe) else {}
        return replace(node, body=tuple(map(change, node.body)), **schedule)

    return replace(mapping, groups=tuple(replace(g, body=tuple(map(change, g.body))) for g in mapping.groups))


def test_orders_with_one_cut_are_enough_for_fusemax():
    mapping, workload, machine = fusemax("fusemax-greedy", m=1024 * 256, p=128 * 256)
    heuristic = assign(mapping, workload, machine, rebind=False, seconds=0.0).pipes[0].solved
    assert heuristic.value * machine.clock_hz == pytest.approx(138 + 64 / 1024, rel=1e-9)


@pytest.mark.parametrize(("seed", "gain"), [(9, 19 / 12), (12, 9 / 8)])
def test_orders_with_one_cut_are_not_enough_for_every_pipe(seed: int, gain: float):
    one = case(seed)
    best = assign(one.mapping, one.workload, one.machine)
    assert best.mapping
    heuristic = assign(greedy(best.mapping), one.workload, one.machine, rebind=False, seconds=0.0)
    assert heuristic.pipes[0].solved.value / best.pipes[0].solved.value == pytest.approx(gain)


def violated(mapping: Mapping, workload: Workload, machine: Machine, cycles: float) -> list[Violation]:
    answer = assign(mapping, workload, machine, within=cycles / machine.clock_hz)
    assert answer.mapping is None and answer.pipes[0].order is None
    assert answer.pipes[0].solved.status == "infeasible"
    return list(answer.pipes[0].solved.violated)


def test_a_unit_that_is_too_busy_is_named_with_the_cycles_it_lacks():
    mapping, workload, machine = fusemax("fusemax-binding", m=65536, p=65536)
    (found,) = violated(mapping, workload, machine, 137)
    assert (found.family, found.where, found.unit) == ("unit", "pe_2d", "cycles")
    assert found.missing == pytest.approx(1, abs=1e-4)
    assert str(found).startswith("unit pe_2d: 1")


def pipe_of(text: str, open_: int, deep: int) -> tuple[Mapping, Workload, Machine]:
    """A pipe on two units, one that multiplies and one that adds, of five cycles each."""
    cascade = parse(f"cascade pipe\ntensor X[b,i]: fp32\n{text}\n")
    workload = bind(cascade, {"B": 1, "I": 100})
    units = tuple(Unit(f"of {c}", CLOCK, {c: OpCost(5, 0.0)}) for c in ("mul", "add"))
    machine = Machine("pair", CLOCK, Memory("dram", (Memory("buffer", units, 1 << 20),), None))
    state = tuple(Hold(e.name, "buffer") for e in cascade.einsums if e.iterative)
    holds = tuple(Hold(e.name, "buffer", deep) for e in cascade.einsums if e.name == "T")
    body = tuple(Compute(e.name, f"of {next(iter(operation_classes(e)))}") for e in cascade.einsums)
    tile = Loop(("i",), (1,), holds=holds, body=(Pipe(body, open_, 1),))
    mapping = Mapping("pipe", "pipe", "pair", (Group("g", (Loop(("b",), (1,), holds=state, body=(tile,)),)),))
    check(mapping, workload, machine)
    return mapping, workload, machine


CHAIN = "T[b,i] = X[b,i] * X[b,i]\nU[b,i] = T[b,i] + X[b,i]"
CIRCLE = "T[b,i] = X[b,i] * R[b,i]\nR[b,i+1] = R[b,i] + T[b,i] init 0"


def test_what_passes_a_port_on_the_way_to_its_reader_comes_later():
    """Four bytes through a port of 2 bytes a cycle, in and out: 5 + 2 + 2 + 5 cycles where one tile is open."""
    mapping, workload, machine = pipe_of(CHAIN, 1, 1)
    buffer = machine.memory("buffer")
    apart = tuple(Memory(f"at {unit.name}", (unit,), None) for unit in machine.units)
    ported = replace(buffer, children=apart, read_bytes_per_s=2 * CLOCK, shared_port=True)
    other = replace(machine, root=replace(machine.root, children=(ported,)))
    answer = assign(mapping, workload, other)
    assert answer.mapping and answer.pipes[0].solved.value * CLOCK == pytest.approx(14)
    assert simulate(answer.mapping, workload, other).latency_s * CLOCK == pytest.approx(14 * 100, abs=14)


WAYS = {
    "open tiles": (CHAIN, 1, 2, "g", 10 / 8 - 1, "tiles"),
    "buffers": (CHAIN, 3, 1, "T in buffer", 10 / 8 - 1, "buffers"),
    "precedence": (CIRCLE, 3, 3, "", 2.0, "cycles"),
}


@pytest.mark.parametrize("family", WAYS)
def test_what_keeps_tiles_apart_is_named(family: str):
    """Two leaves of five cycles, one after the other: 10 cycles where tiles cannot overlap, and 8 are wanted."""
    text, open_, deep, where, missing, unit = WAYS[family]
    pipe = pipe_of(text, open_, deep)
    assert assign(*pipe).pipes[0].solved.value * CLOCK == pytest.approx(10)
    found = violated(*pipe, cycles=8)
    assert {(v.family, v.unit) for v in found} == {(family, unit)}
    assert sum(v.missing for v in found) == pytest.approx(missing, rel=1e-4)
    assert where in found[0].where


def resized(part: Node, sizes: dict[str, float]) -> Node:
    if isinstance(part, Memory | Array):
        part = replace(part, children=tuple(resized(child, sizes) for child in part.children))
    return replace(part, capacity_bytes=sizes[part.name]) if isinstance(part, Memory) and part.name in sizes else part


def test_a_memory_that_is_too_small_is_named_with_the_bytes_it_lacks():
    mapping, workload, machine = fusemax("fusemax-binding", m=65536, p=65536)
    small = replace(machine, root=resized(machine.root, {"regs_1d": 16}))
    (found,) = violated(mapping, workload, small, 1e6)
    assert found == Violation("memory", "regs_1d", pytest.approx(12), "bytes")


@pytest.mark.parametrize("seed", range(10))
def test_any_mapping_proceeds_and_is_not_faster_than_its_interval(seed: int):
    """With ports, ragged and causal loops, and holds of every depth, where the simulation takes longer."""
    plain, causal = cascades.load("attention-1pass"), cascades.load("attention-1pass-causal")
    mapping, workload, machine = random_case(seed, plain, causal)
    answer = assign(mapping, workload, machine, rebind=seed % 3 > 0)
    assert answer.mapping and answer.pipes[0].solved.status == "optimal"
    run = simulate(answer.mapping, workload, machine)
    assert run.latency_s >= answer.pipes[0].solved.value * run.total("tiles") * (1 - 1e-9)


def chosen_at_random(problem: Facts, rng: random.Random) -> dict[str, int]:
    return {name: rng.randrange(len(found)) for name, found in problem.candidates.items()}


@pytest.mark.parametrize("seed", range(12))
def test_bytes_held_are_the_footprints_of_the_mapping(seed: int):
    """Of any binding; and a byte less than that in each memory is what the program says is missing."""
    mapping, workload, machine = fusemax("fusemax-binding", m=65536, p=65536)
    problem = facts(mapping, workload, machine, mapping.groups[0])
    chosen = chosen_at_random(problem, random.Random(seed))
    nodes = {name: problem.candidates[name][k].node for name, k in chosen.items()}
    held: dict[str, float] = {}
    for hold, _, size in group_works(rebound(mapping, nodes), workload, machine)[0].footprints:
        held[hold.memory] = held.get(hold.memory, 0.0) + size
    assert held_bytes(problem, chosen) == pytest.approx(held, rel=1e-12)
    for missing in (0, 1):
        model = Model(replace(problem, capacity={name: size - missing for name, size in held.items()}), elastic=True)
        for name, k in chosen.items():
            model.pyomo.on[name, k].fix(1)
        solve(model.pyomo)
        found = {v.where: v.missing for v in model.violations() if v.family == "memory"}
        assert found == {name: pytest.approx(1, abs=0.1) for name in held if missing}


def rebound(mapping: Mapping, nodes: dict[str, Compute]) -> Mapping:
    def change(node):
        if isinstance(node, Compute):
            return nodes[node.einsum]
        return replace(node, body=tuple(map(change, node.body)))

    return replace(mapping, groups=tuple(replace(g, body=tuple(map(change, g.body))) for g in mapping.groups))


def test_order_and_units_are_written_in_the_mapping():
    mapping, workload, machine = fusemax("fusemax-greedy", m=65536, p=65536)
    answer = assign(mapping, workload, machine)
    assert answer.mapping and answer.mapping.name == "fusemax-greedy-bound"
    found = [x for x in leaves(answer.mapping) if isinstance(x.node, Compute)]
    assert {x.node.unit for x in found if x.node.einsum in ("BQK", "SLNV")} == {"pe_2d"}
    assert isinstance(found[0].parent, Pipe) and isinstance(found[0].parent.schedule, Order)
    assert found[0].parent.schedule == answer.pipes[0].order
    again = assign(answer.mapping, workload, machine)
    assert again.pipes[0].solved.value == pytest.approx(answer.pipes[0].solved.value, rel=1e-9)


def test_without_a_pipe_nothing_overlaps():
    mapping, workload, machine = pipe_of(CHAIN, 1, 1)
    (outer,) = mapping.groups[0].body
    assert isinstance(outer, Loop) and isinstance(outer.body[0], Loop) and isinstance(outer.body[0].body[0], Pipe)
    sequence = replace(outer.body[0], body=(Seq(outer.body[0].body[0].body),))
    alone = replace(mapping, groups=(replace(mapping.groups[0], body=(replace(outer, body=(sequence,)),)),))
    with pytest.raises(InputError, match="pipe: no group has a pipe"):
        assign(alone, workload, machine)
