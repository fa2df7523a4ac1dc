"""Refinement by simulation against simulating everything, its certificate, and what a better machine buys."""

import math
import random
from dataclasses import replace
from itertools import product

import pytest

from arch.machine import Array, Axis, Machine, Memory, OpCost, Unit
from arch.read import load as load_machine
from einsum.bind import bind
from einsum.library import load as load_cascade
from einsum.parse import parse
from einsum.problems import InputError
from mapper.check import check
from mapper.cost import cost
from mapper.search.build import Choice, mapping_of
from mapper.search.group import Group, Illegal
from mapper.search.places import orders, places
from mapper.search.solve import Solver, Space
from mapper.search.tiles import chains, divisors
from sim.fold import run_full
from sim.lower import lower
from studies.refine import Variants, buys, refine

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
    sizes = {"I": draw.choice([2, 4]), "K": draw.choice([2, 4]), "J": 2}
    workload = bind(cascade, {s: n for s, n in sizes.items() if s != "J" or cascade.name == "product"})
    ops = {name: OpCost(draw.choice([1, 2, 5]), 1e-12) for name in ("mac", "mul", "add", "exp")}
    line = Array("line", (Axis("lane", 2, reduce=draw.random() < 0.5),), (Unit("pe", 1e9, ops),))
    units = (line, Unit("side", 1e9, {"exp": OpCost(3, 2e-12)}))
    buffer = Memory("buffer", units, draw.choice([24.0, 48.0, 96.0]), access_bytes=2, read_bytes_per_s=draw.choice([None, 16e9]))
    speed = draw.choice([1e9, 4e9, 16e9])
    root = Memory("dram", (buffer,), None, speed, speed, shared_port=draw.random() < 0.5, latency_s=draw.choice([0, 3e-9]))
    return workload, Machine(f"small-{seed}", 1e9, root)


def brute(group, buffers=1):
    """Every mapping of a group, from every decision that the rules allow, in no order."""
    group.check()
    w = group.workload
    for chosen in orders(group):
        holds = [places(group, use, chosen) for use in group.uses.values()]
        tiles = [[(1,)] if r in group.batch | group.stepped else chains([divisors(w.extent(r))] * group.blocks).tolist() for r in group.walked]
        for shape, decided, options in product(product(*tiles), product(*holds), product(*group.options.values())):
            tile = dict(zip(group.walked, map(tuple, shape), strict=True))
            chain = dict(zip(group.uses, decided, strict=True))
            yield Choice(group, dict(zip(group.names, options, strict=True)), chain, tile, 0.0, 0.0, 0.0)


def legal(group):
    """The groups that these decisions make, once each, that stand the check beside the other Einsums' own groups."""
    names, solver, tried = [e.name for e in group.workload.cascade.einsums], Solver(Space()), set()
    others = {n: solver.best(Group(group.workload, group.machine, (n,)), "latency") for n in names if n not in group.names}
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
            best = min(best, run_full(lower(mapping, group.workload, group.machine)[0]).seconds)
    return best
