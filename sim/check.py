"""Well-formedness of a program: names, bounds, dependencies, and static orders that could never proceed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from einsum.problems import InputError, Problem, suggest
from sim.outcome import Standstill
from sim.program import CONDITIONS, Affine, Extreme, Program, Table, Task, loops_of

if TYPE_CHECKING:
    import networkx as nx


def check(program: Program) -> None:
    """Raises InputError with every problem of the program."""
    found = [*_names(program), *_loops(program), *(p for t in program.tasks for p in _task(program, t))]
    if not found:
        found = [*_orders(program), *_slots(program)]
    kind = InputError if found else Standstill
    found = found or list(_standstill(program))
    if found:
        raise kind(Problem(p.what, program.name, path=p.path, got=p.got, hint=p.hint) for p in found)


def _names(program: Program) -> Iterator[Problem]:
    for kind in ("loops", "tasks", "resources", "slots"):
        for name, n in Counter(x.name for x in getattr(program, kind)).items():
            if n > 1:
                yield Problem("defined twice", path=kind, got=name)
    if program.window < 1:
        yield Problem("the window must hold at least one tile", path="window", got=str(program.window))
    for slot in program.slots:
        if slot.count < 1:
            yield Problem("a slot needs a count of at least one", path=f"slots.{slot.name}", got=str(slot.count))


def _loops(program: Program) -> Iterator[Problem]:
    for d, loop in enumerate(program.loops):
        outer = [other.name for other in program.loops[:d]]
        for bound in (loop.start, loop.stop):
            for name in loops_of(bound):
                if name not in outer:
                    yield Problem("a bound may depend on outer loops only", path=f"loops.{loop.name}", got=name)
            for part in bound.bounds if isinstance(bound, Extreme) else (bound,):
                table = part.table if isinstance(part, Affine) else part
                if isinstance(table, Table) and table.loop in outer:
                    around = program.loops[outer.index(table.loop)].stop
                    if isinstance(around, int) and around > len(table.values):
                        short = f"{len(table.values)} values for {around} iterations"
                        yield Problem("the table is too short", path=f"loops.{loop.name}", got=short)


def _unknown(what: str, path: str, name: str, known: list[str]) -> Iterator[Problem]:
    if name not in known:
        yield Problem(f"unknown {what}", path=path, got=name, hint=suggest(name, known))


def _task(program: Program, task: Task) -> Iterator[Problem]:
    path = f"tasks.{task.name}"
    loops, slots = list(program.depth), [s.name for s in program.slots]
    if task.resource is not None:
        yield from _unknown("resource", path, task.resource, [r.name for r in program.resources])
    if min(task.ticks, *(v.ticks for v in task.variants), task.ticks) < 0:
        yield Problem("a duration must not be negative", path=path, got=str(task.ticks))
    for when in (*task.when, *(w for v in task.variants for w in v.when)):
        yield from _unknown("loop", path, when.loop, loops)
        if isinstance(when.at, str) and when.at not in CONDITIONS:
            yield Problem("unknown condition", path=path, got=when.at, hint=suggest(when.at, CONDITIONS))
    for slot in (*task.acquires, *task.releases):
        yield from _unknown("slot", path, slot, slots)
    for dep in task.deps:
        yield from _unknown("task", path, dep.task, list(program.position))
        for name, _ in dep.carried:
            yield from _unknown("loop", path, name, loops)
        vector = [dict(dep.carried).get(name, 0) for name in loops]
        if dep.launched < 0 or (dep.carried and (dep.launched or next((d for d in vector if d), 0) <= 0)):
            yield Problem("a dependency must point to an earlier tile", path=path, got=repr(dep))


def _orders(program: Program) -> Iterator[Problem]:
    for resource in program.resources:
        if resource.order is not None:
            mine = sorted(t.name for t in program.tasks if t.resource == resource.name)
            given = sorted(name for name, _ in resource.order)
            if mine != given or not mine:
                odd = sorted((Counter(mine) - Counter(given)) + (Counter(given) - Counter(mine))) or ["nothing"]
                what = "a static order must name each task of its resource once"
                yield Problem(what, path=f"resources.{resource.name}.order", got=", ".join(odd))
            if any(stage < 0 for _, stage in resource.order):
                yield Problem("a stage must not be negative", path=f"resources.{resource.name}.order")


def _slots(program: Program) -> Iterator[Problem]:
    for slot in program.slots:
        for verb, users in (
            ("takes", [t for t in program.tasks if slot.name in t.acquires]),
            ("gives back", [t for t in program.tasks if slot.name in t.releases]),
        ):
            if not users:
                yield Problem(f"no task {verb} this slot", path=f"slots.{slot.name}")


def _standstill(program: Program) -> Iterator[Problem]:
    """Waits that close a circle in the steady state. An edge (u, v, w) says: v of tile n + w waits for u of tile n; a
    circle of total weight zero or less can never proceed. Only tasks that exist in every tile count."""
    import networkx as nx  # here, since it is slow to import

    always = [t.name for t in program.tasks if not t.when]
    graph = nx.MultiDiGraph()
    for task in always:
        graph.add_edge(task, "end of tile", weight=0)
        graph.add_edge("start of tile", task, weight=0)
        for dep in program[task].deps:
            if dep.task in always and not dep.carried:
                graph.add_edge(dep.task, task, weight=dep.launched)
    graph.add_edge("end of tile", "start of tile", weight=program.window)
    for resource in program.resources:
        order = [(name, stage) for name, stage in resource.order or () if name in always]
        for (name, stage), (after, later) in zip(order, [*order[1:], *order[:1]], strict=True):
            graph.add_edge(name, after, weight=stage - later + (after == order[0][0]))
    for slot in program.slots:
        takers = [t.name for t in program.tasks if slot.name in t.acquires]
        givers = [t.name for t in program.tasks if slot.name in t.releases]
        if len(takers) == len(givers) == 1 and takers[0] in always and givers[0] in always:
            graph.add_edge(givers[0], takers[0], weight=slot.count)
    circle = _circle(graph)
    if circle:
        what = "these wait for each other in a circle; a wider window, other stages or another order would free them"
        yield Problem(what, path="schedule", got=" -> ".join(circle))


def _circle(graph: nx.MultiDiGraph) -> list[str]:
    """A circle of total weight zero or less, or nothing: scaled so that such a circle, and no other, is negative."""
    import networkx as nx

    n, scaled = len(graph) + 1, nx.DiGraph()
    for u, v, w in graph.edges(data="weight"):
        weight = min(w * n - 1, scaled[u][v]["weight"] if scaled.has_edge(u, v) else w * n)
        scaled.add_edge(u, v, weight=weight)
    for node in graph:
        scaled.add_edge("anywhere", node, weight=0)
    return nx.find_negative_cycle(scaled, "anywhere")[:-1] if nx.negative_edge_cycle(scaled) else []
