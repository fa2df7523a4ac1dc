"""parse(show(c)) == c, and every random cascade is well formed. SEMANTICS 1.1 and 1.2."""

import pytest

from einsum.cascade import Access, Apply, Cascade, Einsum, Guard, Name, Num, Tensor, walk
from einsum.check import check
from einsum.library import library, load
from einsum.ops import OPS
from einsum.parse import parse
from einsum.random_cascade import random_cascade
from einsum.show import show, show_expr

SEEDS = range(300)


@pytest.mark.parametrize("name", library())
def test_library_round_trip(name):
    cascade = load(name)
    again = parse(show(cascade))
    assert again == cascade
    assert again.name == name
    assert again.doc == cascade.doc != ""
    assert show(again) == show(cascade)


def test_random_cascades_round_trip():
    for seed in SEEDS:
        cascade = random_cascade(seed)
        assert check(cascade) == [], seed
        assert parse(show(cascade)) == cascade, seed


def test_random_cascades_cover_the_language():
    """The property above reaches every kind of statement and expression."""
    cascades = [random_cascade(seed) for seed in SEEDS]
    einsums = [e for c in cascades for e in c.einsums]
    nodes = [n for e in einsums for n in walk(e.expr)]
    assert random_cascade(7) == random_cascade(7) != random_cascade(8)
    assert {n.op for n in nodes if isinstance(n, Apply)} > {"+", "-", "*", "/", "max", "neg", "select", "//", "%"}
    assert {e.reduce_op for e in einsums} == {"add", "mul", "max", "min", "or"}
    assert {g.relation for e in einsums for g in e.guards} == {"<", "<=", "==", ">=", ">", "!=", "true"}
    assert any(isinstance(i, Access) for n in nodes if isinstance(n, Access) for i in n.indices)
    assert {len(e.topk.ranks) for e in einsums if e.topk} == {1, 2}
    assert sum(e.iterative is not None for e in einsums) > 100 and any(c.sizes for c in cascades)


EXPRESSIONS = {
    "a - (b - c)": Apply("-", (Name("a"), Apply("-", (Name("b"), Name("c"))))),
    "a - b - c": Apply("-", (Apply("-", (Name("a"), Name("b"))), Name("c"))),
    "(a + b) * c": Apply("*", (Apply("+", (Name("a"), Name("b"))), Name("c"))),
    "a * (b / c) % D": Apply("%", (Apply("*", (Name("a"), Apply("/", (Name("b"), Name("c"))))), Name("D"))),
    "-(a * b)": Apply("neg", (Apply("*", (Name("a"), Name("b"))),)),
    "-a * b": Apply("*", (Apply("neg", (Name("a"),)), Name("b"))),
    "-(2)": Apply("neg", (Num(2),)),
    "-2 - -0.5": Apply("-", (Num(-2), Num(-0.5))),
    "--a": Apply("neg", (Apply("neg", (Name("a"),)),)),
    "max(-inf, 1e-09)": Apply("max", (Num(float("-inf")), Num(1e-9))),
    "1e+300 // X[a%2,T[b]]": Apply(
        "//", (Num(1e300), Access("X", (Apply("%", (Name("a"), Num(2))), Access("T", (Name("b"),)))))
    ),
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_precedence(text):
    ranks = "a,b,c,x,y"
    declared = f"tensor X[x,y]\ntensor T[b]: int32\ntensor Z[{ranks}]\n" if "X[" in text else f"tensor Z[{ranks}]\n"
    left = f"O[{ranks}] = "
    parsed = parse(f"{declared}{left}max(Z[{ranks}], {text})").einsums[0].expr
    assert isinstance(parsed, Apply)
    assert parsed.args[1] == EXPRESSIONS[text]
    assert show_expr(EXPRESSIONS[text]) == text


def test_every_infix_operation_has_a_binding_strength():
    for key, row in OPS.items():
        if row.symbol:
            text = show_expr(Apply(key, (Apply("+", (Name("a"), Name("b"))), Apply("*", (Name("c"), Name("d"))))))
            assert text.count("(") <= 2 and f" {key} " in text


def test_every_part_of_the_notation():
    """One text with all of it, against the objects that it means."""
    text = """
# What it is
# in two lines

cascade all.of-it
tensor X[b,p,m]: fp16   # declared
tensor LEN[b]: int32
tensor MASK[p,m]: bool
tensor G[b,p]: bf16
size M1 = ceil(M / M0) + 0

G[b,p] | m < LEN[b] and MASK[p,m] and p != 2*m = max[m] (
    X[b,p,m]   # goes on
    * 2
)
R[b,p+1] = R[b,p] + G[b,p] init -1.5
T[b,p,m1,m0] = X[b,p,
                 m1*M0+m0]
F[b] = R[b,P]
"""
    access = lambda name, ranks: Access(name, tuple(map(Name, ranks)))
    guards = (
        Guard(Name("m"), "<", access("LEN", "b")),
        Guard(access("MASK", "pm")),
        Guard(Name("p"), "!=", Apply("*", (Num(2), Name("m")))),
    )
    tile = Apply("+", (Apply("*", (Name("m1"), Name("M0"))), Name("m0")))
    after = Access("R", (Name("b"), Apply("+", (Name("p"), Num(1)))))
    expected = Cascade(
        "all.of-it",
        (
            Tensor("X", ("b", "p", "m"), "fp16"),
            Tensor("LEN", ("b",), "int32"),
            Tensor("MASK", ("p", "m"), "bool"),
            Tensor("G", ("b", "p"), "bf16"),
            Tensor("R", ("b", "p")),
            Tensor("T", ("b", "p", "m1", "m0")),
            Tensor("F", ("b",)),
        ),
        (
            Einsum(access("G", "bp"), Apply("*", (access("X", "bpm"), Num(2))), "max", ("m",), guards),
            Einsum(after, Apply("+", (access("R", "bp"), access("G", "bp"))), init=-1.5),
            Einsum(access("T", ("b", "p", "m1", "m0")), Access("X", (Name("b"), Name("p"), tile))),
            Einsum(access("F", "b"), Access("R", (Name("b"), Name("P")))),
        ),
        (("M1", Apply("+", (Apply("ceil", (Apply("/", (Name("M"), Name("M0"))),)), Num(0)))),),
    )
    cascade = parse(text)
    assert cascade == expected
    assert cascade.doc == "What it is\nin two lines"
    assert [e.line for e in cascade.einsums] == [12, 16, 17, 19]
    assert parse(show(cascade)) == cascade
    assert cascade.inputs == ("X", "LEN", "MASK") and cascade.outputs == ("T", "F")
    assert cascade.free_sizes == ("B", "M", "M0", "P")
