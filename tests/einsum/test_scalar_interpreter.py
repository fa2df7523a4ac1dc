"""The numpy oracle against an interpreter of single points: an oracle of the oracle. SEMANTICS 1.3 to 1.5.

The interpreter knows no arrays, masks, order of statements or fast paths: it asks for one point at a time, which
asks for the points that it needs; None is a point that does not exist.
"""

from functools import reduce
from itertools import product

import numpy as np
import pytest

from einsum.bind import bind
from einsum.cascade import Access, Apply, Name, Num, Workload
from einsum.oracle import random_inputs, run, run_with_masks
from einsum.parse import parse
from einsum.random_cascade import random_cascade
from einsum.show import show

SMALL = {"I": 3, "J": 2, "K": 4, "W": 2, "T0": 2}
SIZES = (SMALL, {"I": 2, "J": 3, "K": 3, "W": 1, "T0": 3}, dict.fromkeys(SMALL, 1))
UNION = {"+": 0.0, "max": -np.inf, "min": np.inf, "or": 0.0}
SCALAR = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: np.floor(a / b),
    "%": lambda a, b: a - b * np.floor(a / b),
    "max": lambda a, b: a if a >= b or a != a else b,
    "min": lambda a, b: a if a <= b or a != a else b,
    "or": lambda a, b: float(a != 0 or b != 0),
    "lt": lambda a, b: float(a < b),
    "gt": lambda a, b: float(a > b),
    "eq": lambda a, b: float(a == b),
    "ge": lambda a, b: float(a >= b),
    "select": lambda c, a, b: a if c != 0 else b,
    "exp": np.exp,
    "abs": abs,
    "neg": lambda a: -a,
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "silu": lambda a: a / (1 + np.exp(-a)),
    "floor": np.floor,
}
RELATION = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a > b,
    "!=": lambda a, b: a != b,
}
REDUCE = {"add": ("+", 0), "mul": ("*", 1), "max": ("max", -np.inf), "min": ("min", np.inf), "or": ("or", 0)}


class Interpreter:
    def __init__(self, workload: Workload, inputs):
        self.workload = workload
        self.inputs = {name: np.asarray(value, np.float64) for name, value in inputs.items()}
        self.known = {}

    def extents(self, name):
        ranks = self.workload.cascade.tensor[name].ranks
        state = self.workload.cascade[name].iterative if name in self.workload.cascade else None
        return [self.workload.sizes[rank.upper()] + (rank == state) for rank in ranks]

    def point(self, name, at):
        """Value of the tensor at a coordinate, or None."""
        if not all(0 <= i < extent for i, extent in zip(at, self.extents(name), strict=True)):
            return None
        if name in self.inputs:
            return self.inputs[name][at]
        if (name, at) not in self.known:
            self.known[name, at] = self.written(self.workload.cascade[name], at)
        return self.known[name, at]

    def written(self, einsum, at):
        here = dict(zip(einsum.output_ranks, at, strict=True))
        if einsum.iterative:
            here[einsum.iterative] -= 1
            if here[einsum.iterative] < 0:
                update = einsum.expr.op if isinstance(einsum.expr, Apply) else None
                return None if UNION.get(update) == einsum.init else einsum.init
        if einsum.topk:
            return self.chosen(einsum, here)
        found = []
        for rest in product(*(range(self.workload.sizes[rank.upper()]) for rank in einsum.reduced)):
            point = here | dict(zip(einsum.reduced, rest, strict=True))
            if all(self.holds(guard, point) for guard in einsum.guards):
                found.append(self.value(einsum.expr, point))
        found = [value for value in found if value is not None]
        if not found or not einsum.reduced:
            return found[0] if found else None
        op, start = REDUCE[einsum.reduce_op]
        return reduce(SCALAR[op], found, np.float64(start))

    def chosen(self, einsum, here):
        """1 for one of the largest points along the ranks of a top-k: the first of equal ones, NaN after all others."""
        fiber = []
        for at in product(*(range(self.workload.sizes[rank.upper()]) for rank in einsum.topk.ranks)):
            point = here | dict(zip(einsum.topk.ranks, at, strict=True))
            value = self.value(einsum.expr, point) if all(self.holds(g, point) for g in einsum.guards) else None
            if value is not None:
                fiber.append((value != value, -value, at))
        count = self.value(einsum.topk.count, here)
        kept = [at for _, _, at in sorted(fiber)[: 0 if count is None else max(int(count), 0)]]
        return 1.0 if tuple(here[rank] for rank in einsum.topk.ranks) in kept else None

    def holds(self, guard, point):
        left = self.value(guard.left, point)
        if guard.relation == "true":
            return left is not None and left != 0
        right = self.value(guard.right, point)
        return left is not None and right is not None and RELATION[guard.relation](left, right)

    def value(self, expr, point):
        match expr:
            case Num(value):
                return np.float64(value)
            case Name(name):
                return np.float64(self.workload.sizes[name] if name.isupper() else point[name])
            case Access(tensor, indices):
                at = [self.value(index, point) for index in indices]
                return None if None in at else self.point(tensor, tuple(map(int, at)))
            case Apply(op, args):
                values = [self.value(arg, point) for arg in args]
                if op in UNION:
                    here = [v for v in values if v is not None]
                    return reduce(SCALAR[op], here, np.float64(UNION[op])) if here else None
                return None if any(v is None for v in values) else np.float64(SCALAR[op](*values))


def compare(workload, inputs):
    """Every point of every tensor; the counts of points that exist and that do not."""
    results = run_with_masks(workload, inputs)
    values = run(workload, inputs)
    interpreter = Interpreter(workload, inputs)
    counts = {True: 0, False: 0}
    for name, points in results.items():
        assert points.value.shape == points.exists.shape == tuple(interpreter.extents(name))
        np.testing.assert_array_equal(points.value, values[name])
        for at in np.ndindex(points.value.shape):
            expected = interpreter.point(name, at)
            assert points.exists[at] == (expected is not None), (name, at)
            wanted = 0.0 if expected is None else expected
            np.testing.assert_allclose(points.value[at], wanted, rtol=1e-9, atol=1e-12, err_msg=f"{name}{at}")
            counts[expected is not None] += 1
    return counts


@pytest.mark.parametrize("sizes", SIZES, ids=("small", "other", "ones"))
@pytest.mark.parametrize("batch", range(4))
def test_random_cascades(batch, sizes):
    counts = {True: 0, False: 0}
    with np.errstate(all="ignore"):
        for seed in range(60 * batch, 60 * batch + 60):
            cascade = random_cascade(seed)
            workload = bind(cascade, {name: sizes[name] for name in cascade.free_sizes})
            try:
                found = compare(workload, random_inputs(workload, seed))
            except AssertionError as error:
                raise AssertionError(f"seed {seed}\n{show(cascade)}") from error
            counts = {exists: counts[exists] + found[exists] for exists in counts}
    assert min(counts.values()) > 20  # both kinds of points occur


def test_states_along_two_ranks_and_an_inner_chain():
    """States of two different loops, one of them through another Einsum, read at all kinds of coordinates."""
    text = """
tensor X[i,j]
tensor LEN[j]: int32
S[i+1,j] | i < LEN[j] = max(S[i,j], X[i,j]) init -inf
D[i,j] = S[i,j] - S[i+1,j]
R[i,j+1] = R[i,j] * X[i,j] + S[i,j] init 0.25
Y[i,j] = U[i,j] * exp(-abs(X[i,j]))
U[i+1,j] = Y[i,j] + D[i,j] init 0
Z[j] = U[I,j] + R[I-1,J] / 2
O[] = min[i,j] U[i,j] * Z[j]
"""
    workload = bind(parse(text), {"I": 4, "J": 3})
    counts = compare(workload, random_inputs(workload, 3) | {"LEN": np.array([4, 0, 2])})
    assert min(counts.values()) > 10


def test_inf_times_a_missing_point_is_skipped():
    text = "tensor X[i]\ntensor Y[i]\nS[] | i < 2 = X[i] * Y[i]\nG[i] | i > 1 = Y[i]\nT[] = X[i] * G[i]"
    workload = bind(parse(text), {"I": 3})
    inputs = {"X": np.array([np.inf, 2.0, 3.0]), "Y": np.array([1.0, 2.0, np.inf])}
    results = run(workload, inputs)
    assert results["S"] == np.inf and results["T"] == np.inf
    inputs["X"][0] = 1.0
    assert run(workload, inputs)["S"] == 5.0


def test_float32_stays_float32():
    for seed in range(40):
        cascade = random_cascade(seed)
        workload = bind(cascade, {name: SMALL[name] for name in cascade.free_sizes})
        results = run(workload, random_inputs(workload, seed), np.float32)
        assert {value.dtype for value in results.values()} == {np.dtype(np.float32)}


def test_guards_and_gathers_with_missing_points():
    """A guard on a point outside of a tensor is false; so is an index that comes from outside (SEMANTICS 1.3)."""
    text = """
tensor X[i]
tensor LEN[i]: int32
tensor MASK[i]: bool
A[i] | i >= LEN[i+1] = X[i]
B[i] | LEN[i-1] <= i = X[i]
C[i] | MASK[i+2] = X[i]
D[i] = X[LEN[i+1]]
E[i] = A[i] + D[i]
"""
    workload = bind(parse(text), {"I": 3})
    inputs = {"X": np.array([1.0, 2, 3]), "LEN": np.array([0, 1, 2]), "MASK": np.array([True] * 3)}
    results = run_with_masks(workload, inputs)
    exists = {name: points.exists.tolist() for name, points in results.items()}
    assert exists == {
        "A": [False, False, False],
        "B": [False, True, True],
        "C": [True, False, False],
        "D": [True, True, False],
        "E": [True, True, False],
    }
    assert results["D"].value.tolist() == [2, 3, 0]
    compare(workload, inputs)


def test_choice_inside_a_loop():
    """SEMANTICS 1.8: what survives is chosen anew at every step from the state, ties by the lower index."""
    text = """
tensor A[l,m]
tensor KEEP[l]: int32
TM[l,m] | m != 1 = topk[m](ST[l,m], KEEP[l])
ST[l+1,m] = ST[l,m] + A[l,m] * TM[l,m] init 1
N[l] = TM[l,m]
"""
    workload = bind(parse(text), {"L": 4, "M": 5})
    inputs = {"A": np.array([[0, 9, 2, 1, 2], [1, 9, -5, 0, 0], [0, 0, 0, 0, 0], [3, 3, 3, 3, 3]]) * 1.0}
    inputs["KEEP"] = np.array([3, 2, 0, 9])
    counts = compare(workload, inputs)
    results = run_with_masks(workload, inputs)
    assert results["N"].value.tolist() == [3, 2, 0, 4] and results["N"].exists.tolist() == [True, True, False, True]
    assert results["TM"].exists.tolist() == [
        [True, False, True, True, False],
        [False, False, True, True, False],
        [False] * 5,
        [True, False, True, True, True],
    ]
    assert min(counts.values()) > 10


def test_choice_among_nan_infinities_and_zeros():
    """NaN comes after every number, -inf before what does not exist; both zeros are equal."""
    declared = "tensor X[i,j]\ntensor LEN[i]: int32\n"
    text = "A[i,j] | j < LEN[i] = topk[j](X[i,j], 2)\nT[i,j] = topk[i,j](X[i,j], 4)"
    workload = bind(parse(declared + text), {"I": 4, "J": 4})
    nan, inf = np.nan, np.inf
    x = np.array([[nan, -inf, nan, 3], [-0.0, 0.0, -0.0, -1], [nan, 1, inf, inf], [5, 6, 7, 8]])
    inputs = {"X": x, "LEN": np.array([4, 3, 2, 0])}
    compare(workload, inputs)
    results = run_with_masks(workload, inputs)
    assert [np.flatnonzero(row).tolist() for row in results["A"].exists] == [[1, 3], [0, 1], [0, 1], []]
    assert np.argwhere(results["T"].exists).tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
