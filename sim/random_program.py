"""Seeded random programs that always end: every feature of the type, alone and together.

Freedom from deadlock is by construction: dependencies inside a tile point to earlier tasks, all others to earlier
tiles; slots are taken in launch order and given back by a later task of the chain; static orders run each tile's
tasks in program order, stage 1 before stage 0.
"""

from __future__ import annotations

import random
from dataclasses import replace

from sim.program import Affine, Dep, Extreme, Loop, Program, Resource, Slot, Table, Task, Variant, When

TICKS = (0, 1, 2, 3, 5, 7, 16, 64, 137)


def random_program(
    seed: int, most: tuple[int, int, int] = (6, 9, 40), kind: str | None = None, static: bool = False
) -> Program:
    """A program over a nest of at most `most` iterations a loop. `kind` is one of square, causal, band, ragged.
    With `static` every resource has a static order; slots may still be given back out of order."""
    r = random.Random(seed)
    loops = _loops(r, most, kind or r.choice(("square",) * 4 + ("causal", "band", "ragged")))
    names = [f"T{k}" for k in range(r.randint(2, 9))]
    resources = [f"R{i}" for i in range(r.randint(1, 4))]
    tasks = [_task(r, k, names, resources, loops) for k in range(len(names))]
    slots = _add_slots(r, tasks, loops)
    window = r.randint(1, 5)
    cut = r.randint(1, len(tasks)) if window > 1 and r.random() < 0.5 else len(tasks)
    ordered = tuple(Resource(n, _order(r, n, tasks, cut, static)) for n in resources)
    return Program(f"random{seed}", loops, tuple(tasks), ordered, window, 1.0, slots)


def _loops(r: random.Random, most: tuple[int, int, int], kind: str) -> tuple[Loop, ...]:
    i, j, k = (r.randint(1, n) for n in most)
    inner = Loop("k", k)
    if kind == "causal":
        inner = Loop("k", Affine(1 + r.randint(0, 2), (("j", r.randint(1, 3)),), r.randint(1, 2)))
    elif kind == "band":
        low = Extreme("max", (0, Affine(-r.randint(0, 3), (("j", 1),))))
        inner = Loop("k", Extreme("min", (k, Affine(1, (("j", 1),)))), low)
    elif kind == "ragged":
        inner = Loop("k", Table("j", tuple(r.randint(0, k) for _ in range(j))))
    return Loop("i", i), Loop("j", j), inner


def _conditions(r: random.Random, loops: tuple[Loop, ...]) -> tuple[When, ...]:
    return (When(r.choice(loops).name, r.choice(("first", "last", "last", "not first", "not last", r.randint(0, 2)))),)


def _task(r: random.Random, k: int, names: list[str], resources: list[str], loops: tuple[Loop, ...]) -> Task:
    deps = [Dep(names[a]) for a in range(k) if r.random() < 0.4]
    for a in names:
        if r.random() < 0.12:
            d = r.randrange(len(loops))
            inside = ((loops[2].name, r.randint(-1, 1)),) if d < 2 and r.random() < 0.2 else ()
            deps.append(Dep(a, carried=((loops[d].name, r.choice((1, 1, 2))), *(x for x in inside if x[1]))))
        if r.random() < 0.05:
            deps.append(Dep(a, launched=r.randint(1, 3)))
    variants = ()
    if r.random() < 0.2:
        variants = (Variant(_conditions(r, loops), r.choice(TICKS), (("bytes", float(r.randint(1, 9))),)),)
    return Task(
        names[k],
        None if r.random() < 0.15 else r.choice(resources),
        r.choice(TICKS),
        tuple(deps),
        _conditions(r, loops) if r.random() < 0.2 else (),
        variants,
        counters=(("bytes", float(r.randint(10, 90))),),
        lead=r.choice((0, 0, 0, 1, 2, -1)),
    )


def _add_slots(r: random.Random, tasks: list[Task], loops: tuple[Loop, ...]) -> tuple[Slot, ...]:
    """Up to two slots, each taken by one task and given back by a later one of the same tile, or held over a pass of
    the innermost loop, or for each of its iterations over a pass of the middle one."""
    slots = []
    for n in range(r.choice((0, 0, 1, 2))):
        first, last = sorted(r.sample(range(len(tasks)), 2))
        slot = Slot(f"S{n}", r.randint(1, 3))
        taker, giver = tasks[first], tasks[last]
        if any(t.acquires or t.releases for t in (taker, giver)):
            continue
        stop = loops[-1].stop
        held = r.choice(("", "", "", "k", "j") if isinstance(stop, int) else ("", "", "k"))
        begin, end = ((When(held, "first"),), (When(held, "last"),)) if held else ((), ())
        if held == "j" and isinstance(stop, int):  # one for each k, from the first j to the last
            slot = replace(slot, count=slot.count * stop)
        slots.append(slot)
        if held:
            tasks[first] = replace(taker, resource=None, deps=(), when=begin, acquires=(slot.name,))
        else:
            deps = (*taker.deps, Dep(taker.name, launched=1))
            tasks[first] = replace(taker, deps=deps, when=begin, acquires=(slot.name,))
        tasks[last] = replace(giver, deps=(*giver.deps, Dep(taker.name)), when=end, releases=(slot.name,))
    return tuple(slots)


def _order(
    r: random.Random, resource: str, tasks: list[Task], cut: int, static: bool
) -> tuple[tuple[str, int], ...] | None:
    """Tasks from `cut` on run one tile behind, and first."""
    mine = [(t.name, int(k >= cut)) for k, t in enumerate(tasks) if t.resource == resource]
    if not mine or (not static and r.random() < 0.6):
        return None
    return tuple(sorted(mine, key=lambda entry: -entry[1]))
