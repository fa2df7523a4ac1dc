"""The engine against longest paths in an event graph that it shares no code with."""

from dataclasses import replace

import networkx as nx
import pytest
from event_graph import Instances, event_graph, makespan
from fusemax_program import fusemax

from sim.fold import run_full
from sim.program import Program
from sim.random_program import random_program


def _busy(program: Program) -> dict[str, int]:
    inst, busy = Instances(program), {r.name: 0 for r in program.resources}
    for (_, k), ticks in inst.ticks.items():
        if program.tasks[k].resource is not None:
            busy[program.tasks[k].resource] += ticks
    return busy


@pytest.mark.parametrize("block", range(10))
def test_300_random_programs_agree_tick_for_tick(block):
    for seed in range(30 * block, 30 * block + 30):
        program = random_program(seed, most=(2, 3, 6))
        run = run_full(program)
        assert run.makespan == makespan(program), program.name
        assert {r.name: run.busy(r.name) for r in program.resources} == _busy(program), program.name


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(("e", "f"), [(64, 64), (128, 64)])
def test_unsaturated_fusemax_agrees_tick_for_tick(e, f, depth, static):
    program = fusemax(m1=24, p1=1, e=e, f=f, window=depth, static=static, heads=2)
    assert run_full(program).makespan == makespan(program)


def without(program: Program, task: str, dep) -> Program:
    tasks = [replace(t, deps=tuple(d for d in t.deps if d != dep)) if t.name == task else t for t in program.tasks]
    return replace(program, tasks=tuple(tasks))


def _dependency_edges(inst: Instances, task: str, dep) -> list[tuple]:
    """The edges of the event graph that only this dependency asks for."""
    bare = Instances(without(inst.program, task, dep))
    k = inst.names.index(task)
    return [
        (("end", *a), ("start", n, k))
        for n, j in inst.ticks
        if j == k
        for a in inst.after[n, k]
        if a not in bare.after[n, k]
    ]


def _is_critical(inst: Instances, graph: nx.DiGraph, task: str, dep) -> bool:
    """Whether every longest path uses the dependency: without its edges the longest path is shorter."""
    edges = [(a, b) for a, b in _dependency_edges(inst, task, dep) if graph[a][b]["kinds"] == {"dependency"}]
    fewer = graph.copy()
    fewer.remove_edges_from(edges)
    longest = nx.dag_longest_path_length(graph, weight="ticks")
    return nx.dag_longest_path_length(fewer, weight="ticks") < longest


@pytest.mark.parametrize(("static", "window", "e"), [(True, 2, 64), (True, 2, 128), (False, 2, 64), (False, 4, 128)])
def test_deleting_any_critical_dependency_of_fusemax_changes_the_answer(static, window, e):
    program = fusemax(m1=12, p1=1, e=e, f=64, window=window, static=static)
    inst = Instances(program)
    graph, whole, critical = event_graph(inst), run_full(program).makespan, []
    for task in program.tasks:
        for dep in task.deps:
            fewer = without(program, task.name, dep)
            assert run_full(fewer).makespan == makespan(fewer)
            if _is_critical(inst, graph, task.name, dep):
                critical.append((task.name, dep.task))
                assert run_full(fewer).makespan != whole, (task.name, dep)
    assert critical


def test_deleting_any_critical_dependency_of_random_static_programs_changes_the_answer():
    tried = 0
    for seed in range(800):
        program = random_program(seed, most=(2, 2, 5))
        if program.slots or any(r.order is None for r in program.resources):
            continue  # a policy may serve in another order once a dependency is gone; a static order may not
        inst = Instances(program)
        graph, whole = event_graph(inst), run_full(program).makespan
        for task in program.tasks:
            for dep in task.deps:
                if _is_critical(inst, graph, task.name, dep):
                    tried += 1
                    assert run_full(without(program, task.name, dep)).makespan < whole, (program.name, task.name, dep)
    assert tried >= 20
