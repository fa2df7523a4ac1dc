"""loads(dump(m)) == m for random machines: every field, several clocks, own and shared ports, links."""

from itertools import count

from hypothesis import given, settings, strategies as st

from arch.check import TOPOLOGIES, check, operation_classes
from arch.machine import ROLES, Array, Axis, Link, Machine, Memory, OpCost, Residency, Unit
from arch.read import loads
from arch.show import dump
from einsum.cascade import DTYPE_BITS

ROOT = 3  # depth of the tree that hangs below it
positive = st.floats(1e-15, 1e15)
maybe_zero = st.just(0.0) | positive
maybe_none = st.none() | positive
classes = st.sampled_from(operation_classes())


@st.composite
def machines(draw):
    fresh = (f"node{i}" for i in count())
    clock = draw(st.floats(1e6, 1e10))
    root = draw(memories(fresh, clock, depth=ROOT))
    links = tuple(
        Link(next(fresh), draw(st.integers(2, 99)), draw(st.sampled_from(TOPOLOGIES)), draw(positive), draw(maybe_zero))
        for _ in range(draw(st.integers(0, 2)))
    )
    return Machine(
        "random",
        clock,
        root,
        links,
        draw(maybe_zero),
        draw(maybe_none),
        draw(st.none() | st.floats(1e-9, 1e-7)),
        draw(maybe_none),
        confidence=(("clock", draw(st.sampled_from(("high", "medium", "low")))),),
        sources=(("clock", draw(st.text("abc: '\"#\n", min_size=1)).strip() or "x"),),
    )


@st.composite
def memories(draw, fresh, clock, depth):
    name, shared, access = next(fresh), draw(st.booleans()), draw(st.integers(1, 64))
    return Memory(
        name,
        draw(children(fresh, clock, depth - 1)),
        draw(st.none() | st.integers(64, 2**40).map(float)),
        draw(maybe_none),
        None if shared else draw(maybe_none),
        shared,
        float(access),
        draw(maybe_zero),
        draw(maybe_zero),
        draw(maybe_zero),
        draw(maybe_zero),
        None if depth == ROOT else draw(st.none() | st.lists(st.sampled_from(ROLES), min_size=1).map(tuple)),
        draw(st.booleans()),
        draw(maybe_none),
    )


@st.composite
def children(draw, fresh, clock, depth):
    kinds = (
        ["unit"] if depth <= 0 else draw(st.lists(st.sampled_from(["memory", "array", "unit"]), min_size=1, max_size=2))
    )
    makers = {
        "memory": memories(fresh, clock, depth),
        "array": arrays(fresh, clock, depth),
        "unit": units(fresh, clock),
    }
    return tuple(draw(makers[kind]) for kind in kinds)


@st.composite
def arrays(draw, fresh, clock, depth):
    sizes = draw(st.lists(st.integers(1, 512), min_size=1, max_size=2))
    axes = tuple(Axis(f"axis{i}", n, draw(st.booleans()), draw(st.booleans())) for i, n in enumerate(sizes))
    whole, size = st.integers(1, 1024), st.integers(1, 2**20).map(float)
    resident = st.builds(Residency, whole, whole, whole, whole, whole, size, st.just(0.0) | size, st.just(0.0) | size)
    return Array(next(fresh), axes, draw(children(fresh, clock, depth - 1)), 0.0, draw(st.none() | resident))


@st.composite
def units(draw, fresh, clock):
    cycles = st.floats(0.25, 64)
    by_dtype = st.dictionaries(st.sampled_from(sorted(DTYPE_BITS)), cycles).map(lambda d: tuple(d.items()))
    ops = draw(st.dictionaries(classes, st.builds(OpCost, cycles, maybe_zero, by_dtype), min_size=1, max_size=4))
    missing = [c for c in operation_classes() if c not in ops]
    counts = st.dictionaries(st.sampled_from(sorted(ops)), st.integers(1, 20), min_size=1)
    expands = draw(st.dictionaries(st.sampled_from(missing), counts, max_size=2))
    own = draw(st.just(clock) | st.floats(1e5, clock))
    return Unit(next(fresh), own, ops, draw(st.floats(0.25, 512)), expands, draw(maybe_zero), draw(maybe_zero))


@settings(max_examples=40)
@given(machines())
def test_dump_reads_back_equal(machine):
    check(machine)
    again = loads(dump(machine))
    assert again == machine
    assert dict(again.sources)["clock"] == dict(machine.sources)["clock"]
    assert dict(again.confidence)["clock"] == dict(machine.confidence)["clock"]
