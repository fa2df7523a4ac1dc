"""The table of operations, operations per point, and binding. SEMANTICS 1.4, 1.6 and 1.7."""

import inspect

import numpy as np
import pytest

from einsum.bind import bind
from einsum.cascade import DTYPE_BITS
from einsum.graph import components, is_loop
from einsum.library import load
from einsum.ops import INTERSECTION, OPS, TABLE, UNION, is_view, operation_classes
from einsum.parse import parse
from einsum.show import show

SAMPLES = np.array([-2.0, -0.5, 0.0, 1.0, 3.0])


def test_keys_and_names_are_unique():
    assert len(OPS) == len(TABLE) == len({row.name for row in TABLE})
    assert {row.merge for row in TABLE} == {UNION, INTERSECTION}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_row(row):
    """Arity, identity and laws hold for the function of the row."""
    args = np.meshgrid(*[SAMPLES] * row.arity)
    with np.errstate(all="ignore"):
        assert np.shape(row.function(*args)) == args[0].shape
    if inspect.isfunction(row.function):
        assert len(inspect.signature(row.function).parameters) == row.arity
    assert row.merge == INTERSECTION or row.identity is not None
    if row.identity is not None:
        assert isinstance(row.function, np.ufunc)
        values = SAMPLES != 0 if row.name == "or" else SAMPLES
        np.testing.assert_array_equal(row.function(values, row.identity), values)
    f = row.function
    if "commutative" in row.laws:
        np.testing.assert_array_equal(f(*args), f(*args[::-1]))
    if "associative" in row.laws:
        a, b, c = np.meshgrid(SAMPLES, SAMPLES, SAMPLES)
        np.testing.assert_array_equal(f(f(a, b), c), f(a, f(b, c)))
    if "idempotent" in row.laws:
        values = (SAMPLES != 0) if row.name == "or" else SAMPLES if row.arity == 2 else f(SAMPLES)
        np.testing.assert_array_equal(f(values, values) if row.arity == 2 else f(values), values)
    if "increasing" in row.laws:
        assert (np.diff(f(SAMPLES[SAMPLES > 0])) > 0).all()
    for law in row.laws:
        if law.startswith(("distributes over", "left distributes over")):
            g = next(other.function for other in TABLE if other.name == law.split()[-1])
            a, b, c = np.meshgrid(SAMPLES, SAMPLES, SAMPLES[SAMPLES != 0])
            np.testing.assert_allclose(f(g(a, b), c), g(f(a, c), f(b, c)))
        if law.startswith(("turns", "homomorphism")):
            words = law.split()
            source, target = (words[1], words[3]) if words[0] == "turns" else (words[2], words[2])
            inner, outer = (next(o.function for o in TABLE if o.name == name) for name in (source, target))
            a, b = np.meshgrid(SAMPLES[SAMPLES > 0], SAMPLES[SAMPLES > 0])
            np.testing.assert_allclose(f(inner(a, b)), outer(f(a), f(b)))


ONE_PASS_OPERATIONS = {
    "BK": {},
    "BV": {},
    "BQK": {"mac": 1},
    "LM": {"max": 1},
    "RM": {"max": 1},
    "SLN": {"add": 1, "exp": 1},
    "SLD": {"add": 1},
    "SLNV": {"mac": 1},
    "PRM": {"add": 1, "exp": 1},
    "SPD": {"mul": 1},
    "RD": {"add": 1},
    "SPNV": {"mul": 1},
    "RNV": {"add": 1},
    "AV": {"div": 1},
}


def test_operations_of_one_pass_attention():
    cascade = load("attention-1pass")
    assert {e.name: operation_classes(e) for e in cascade.einsums} == ONE_PASS_OPERATIONS
    assert [e.name for e in cascade.einsums if is_view(e)] == ["BK", "BV"]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("Y[i] = X[i,j] * Z[j] * 2", {"mac": 1, "mul": 1}),
        ("Y[i,j] = X[i,j] * Z[j]", {"mul": 1}),
        ("Y[i] = prod[j] X[i,j] * Z[j]", {"mul": 2}),
        ("Y[i] = X[i,j] + Z[j]", {"add": 2}),
        ("Y[i] = max[j] X[i,j] * Z[j]", {"max": 1, "mul": 1}),
        ("Y[i,j] = X[i,j] / sqrt(E * 2) + Z[j]", {"add": 1, "div": 1}),
        ("Y[i,j] = -X[i,j//2] - Z[j+1-1]", {"add": 1, "neg": 1}),
        ("Y[i,j] = select(lt(X[i,j], Z[j]), silu(Z[j]), 0)", {"compare": 1, "select": 1, "silu": 1}),
        ("Y[i,j] = X[i,j] * (i - j) + Z[j]", {"add": 2, "mul": 1}),
        ("Y[i,j] | i < 2*j = X[i,j] + Z[j]", {"add": 1}),
        ("Y[i,j] = topk[j](X[i,j] * Z[j], 2)", {"mul": 1, "topk": 1}),
        ("Y[i] = any[j] X[i,j] * Z[j]", {"compare": 1, "mul": 1}),
    ],
)
def test_operations_per_point(statement, expected):
    einsum = parse(f"tensor X[i,j]\ntensor Z[j]\n{statement}").einsums[0]
    assert operation_classes(einsum) == expected


def test_components_run_in_program_order():
    """Only the states loop, with what they feed; the rest stands alone, in program order."""
    found = [tuple(e.name for e in part) for part in components(load("attention-1pass"))]
    loops = [names for names in found if is_loop(tuple(load("attention-1pass")[n] for n in names))]
    assert loops == [("RM",), ("SPD", "RD"), ("SPNV", "RNV")]
    order = [names[0] for names in found]
    assert order == [n for n in ONE_PASS_OPERATIONS if n not in ("RD", "RNV")]


def test_views():
    declared = "tensor X[i,j]\ntensor T[i]: int32\n"
    views = {
        "Y[i,j] = X[i,j]": True,
        "Y[i,j] = X[T[i],j]": True,
        "Y[j1,j0,i] = X[i,j1*4+j0]": True,
        "Y[i] = X[i,j]": False,
        "Y[i,j] | i < j = X[i,j]": False,
        "Y[i,j] = -X[i,j]": False,
        "Y[i+1,j] = X[i,j] init 0": False,
    }
    for text, expected in views.items():
        used = declared if "T[" in text else declared.splitlines()[0] + "\n"
        assert is_view(parse(used + text).einsums[0]) == expected, text


def test_bind_evaluates_sizes_in_any_order():
    text = """
tensor X[a,b,c,d]
size A = B1 * 2 - 1
size B1 = ceil(N / 4) + N % 3
size C = N // 4
size D = 7
Y[a] = X[a,b,c,d] * Z[n]
Z[n] = 1
"""
    lines = text.strip().splitlines()
    cascade = parse("\n".join([*lines[:-2], lines[-1], lines[-2]]))
    assert cascade.free_sizes == ("B", "N")
    workload = bind(cascade, {"N": 10, "B": 3})
    assert workload.sizes == {"A": 7, "B": 3, "B1": 4, "C": 2, "D": 7, "N": 10}
    assert workload.extent("a") == 7 and workload.elements("X") == 7 * 3 * 2 * 7


def test_ceil_is_exact():
    cascade = parse("tensor X[m]\nsize T = ceil(M / S)\nY[t,s] = X[t*S+s]")
    assert bind(cascade, {"M": 10**17 + 1, "S": 10}).sizes["T"] == 10**16 + 1


def test_bind_types():
    text = "tensor X[m]: bf16\ntensor P[m]: int32\ntensor L[m]: bool\nY[m] | L[m] = X[P[m]]\nZ[m] = Y[m]"
    cascade = parse(text)
    expected = {"X": "bf16", "P": "int32", "L": "bool", "Y": "fp32", "Z": "fp32"}
    assert bind(cascade, {"M": 2}).dtypes == expected
    halved = bind(cascade, {"M": 2}, {"*": "fp16", "Z": "fp64"})
    assert halved.dtypes == expected | {"X": "fp16", "Y": "fp16", "Z": "fp64"}
    assert [halved.bits(name) for name in "XPLYZ"] == [16, 32, 8, 16, 64]
    assert set(halved.dtypes.values()) <= set(DTYPE_BITS)


def test_a_cascade_loads_from_a_file(tmp_path):
    path = tmp_path / "mine.cascade"
    path.write_text(show(load("attention-2pass-causal")), encoding="utf-8")
    assert load(path) == load(str(path)) == load("attention-2pass-causal")


def test_impossible_sizes():
    for definition, got in (("M - 4", "0"), ("M / 3", "4/3"), ("M // (M - 4)", "a division by zero")):
        cascade = parse(f"tensor X[m]\nsize T = {definition}\nY[t,m] = X[m] * t")
        with pytest.raises(ValueError, match="positive whole number") as caught:
            bind(cascade, {"M": 4})
        what = f"size T = {definition} must be a positive whole number"
        assert str(caught.value) == f"sizes of cascade: {what} (got {got})"
