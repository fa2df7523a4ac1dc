"""Mistakes in a cascade's text: one located message each, as exact text. SEMANTICS 1.2."""

import random

import pytest

from einsum.bind import bind
from einsum.library import load
from einsum.parse import parse
from einsum.problems import InputError
from einsum.show import show

DECLARED = "tensor Q[b,p,e]: bf16\ntensor K[b,m,e]: bf16\n"
SCORES = "QK[b,p,m] = Q[b,p,e] * K[b,m,e]\n"

# What -> (text behind the declarations, message, column of the caret). The first are mistakes that peers bury.
BAD = {
    "misspelt keyword": (
        "tensr X[p]: bf16\n" + SCORES,
        "c:3: no such statement (got tensr); did you mean tensor?",
        1,
    ),
    "unknown tensor": (
        "QK[b,p,m] = Q[b,p,e] * KX[b,m,e]\nS[b,p,m] = exp(QK[b,p,m])",
        "c:3: QK: unknown tensor (got KX); did you mean K?",
        24,
    ),
    "missing bracket": (
        "QK[b,p,m] = Q[b,p,e * K[b,m,e]\nS[b,p,m] = exp(QK[b,p,m])",
        "c:3: `[` is never closed: `]` is missing",
        14,
    ),
    "missing parenthesis": (
        SCORES + "S[b,p,m] = exp(QK[b,p,m]\nT[b,p] = S[b,p,m]",
        "c:4: `(` is never closed: `)` is missing",
        15,
    ),
    "crossed brackets": (
        SCORES + "S[b,p,m] = exp(QK[b,p,m)]",
        "c:4: `[` is never closed: `]` is missing",
        18,
    ),
    "bracket too many": (
        SCORES + "S[b,p,m] = exp(QK[b,p,m]))",
        "c:4: `)` closes nothing",
        26,
    ),
    "nonsense operators": (
        "QK[b,p,m] = Q[b,p,e] ** K[b,m,e]",
        "c:3: expected a tensor, a rank, a number or `(` (got `*`)",
        23,
    ),
    "unknown character": (
        "QK[b,p,m] = Q[b,p,e] @ K[b,m,e]",
        "c:3: expected an operator or the end of the expression (got `@`)",
        22,
    ),
    "missing operator": (
        "QK[b,p,m] = Q[b,p,e] K[b,m,e]",
        "c:3: QK: an operator is missing behind Q[...]",
        19,
    ),
    "swapped rank order": (
        "QK[b,p,m] = Q[b,p,e] * K[b,e,m]",
        "c:3: QK: index e stands at the place of rank m of K; did you mean K[b,m,e]?",
        28,
    ),
    "swapped on the left": (
        "tensor QK[b,p,m]: bf16\nQK[b,m,p] = Q[b,p,e] * K[b,m,e]",
        "c:4: QK: index m stands at the place of rank p of QK; did you mean QK[b,p,m]?",
        6,
    ),
    "missing index": (
        "QK[b,p,m] = Q[b,p,e] * K[b,m]",
        "c:3: QK: K has 3 ranks (got 2 indices); did you mean K[b,m,e]?",
        24,
    ),
    "no indices": (
        SCORES + "S[b,p,m] = exp(QK)",
        "c:4: S: tensor QK needs its indices (got QK); did you mean QK[b,p,m]?",
        16,
    ),
    "unknown operation": (
        SCORES + "S[b,p,m] = tahn(QK[b,p,m])",
        "c:4: S: no such operation (got tahn); did you mean tanh?",
        12,
    ),
    "arguments": (
        SCORES + "S[b,p,m] = max(QK[b,p,m])",
        "c:4: S: max takes 2 arguments (got 1)",
        12,
    ),
    "unknown reduction": (
        SCORES + "G[b,p] = maxx[m] QK[b,p,m]",
        "c:4: G: not a reduction (sum, prod, max, min, any) (got maxx); did you mean max?",
        10,
    ),
    "reduced rank not used": (
        SCORES + "G[b,p] = max[n] QK[b,p,m]",
        "c:4: G: reduced rank n is not used on the right; did you mean m?",
        14,
    ),
    "reduced rank on the left": (
        SCORES + "G[b,p] = max[m,p] QK[b,p,m]",
        "c:4: G: rank p is reduced but stands on the left too",
        16,
    ),
    "rank neither kept nor reduced": (
        SCORES + "G[b] = max[m] QK[b,p,m]",
        "c:4: G: rank p is neither on the left nor reduced; did you mean max[p,m]?",
        8,
    ),
    "rank of the left missing on the right": (
        "QK[b,p,mm] = Q[b,p,e] * K[b,m,e]",
        "c:3: QK: rank mm of the left-hand side is not used on the right; did you mean m?",
        1,
    ),
    "unbound rank": (
        "QK[b,p,m] = Q[b,p,ee] * K[b,m,e]",
        "c:3: QK: rank variable ee is unbound: no tensor has such a rank; did you mean e?",
        19,
    ),
    "unbound rank in a guard": (
        "QK[b,p,m] | m <= pp = Q[b,p,e] * K[b,m,e]",
        "c:3: QK: rank variable pp is bound on neither side of the statement; did you mean p?",
        18,
    ),
    "read before written": (
        "S[b,p,m] = exp(QK[b,p,m])\n" + SCORES,
        "c:3: S: QK is read before it is written in line 4",
        16,
    ),
    "reads itself": (
        SCORES + "R[b,p,m] = R[b,p,m] + QK[b,p,m]",
        "c:4: R: R reads itself; only an earlier coordinate of an iterative rank can be read",
        12,
    ),
    "reads its own next state": (
        SCORES + "R[b,p,m+1] = R[b,p,m+1] + QK[b,p,m] init 0",
        "c:4: R: R reads itself; only an earlier coordinate of an iterative rank can be read",
        14,
    ),
    "cycle": (
        SCORES + "X[b,p,m] = QK[b,p,m] + R[b,p,m]\nY[b,p,m] = X[b,p,m+1]\nR[b,p,m+1] = R[b,p,m] + Y[b,p,m] init 0",
        "c:5: Y: inside its cycle X is read at m or an earlier coordinate only",
        12,
    ),
    "cycle that leaves the iterative rank": (
        SCORES + "X[b,m] = QK[b,p,m] + R[b,p,m]\nY[b] = X[b,m]\nR[b,p,m+1] = QK[b,p,m] + Y[b] init 0",
        "c:5: Y: cycle R -> X -> Y -> R, but Y does not step along m",
        1,
    ),
    "defined twice": (
        SCORES + SCORES,
        "c:4: QK is defined twice, first in line 3",
        1,
    ),
    "declared twice": (
        "tensor K[b,m,e]\n" + SCORES,
        "c:3: tensor K is declared twice",
        8,
    ),
    "declared but unused": (
        "tensor X[p,m]\n" + SCORES,
        "c:3: tensor X is declared but never used",
        8,
    ),
    "iterative without init": (
        SCORES + "R[b,p,m+1] = max(R[b,p,m], QK[b,p,m])",
        "c:4: R: iterative rank m needs an initial value, such as `init 0`",
        1,
    ),
    "init without iterative": (
        "QK[b,p,m] = Q[b,p,e] * K[b,m,e] init 0",
        "c:3: QK: init without an iterative rank `r+1` on the left",
        1,
    ),
    "init that is no number": (
        SCORES + "R[b,p,m+1] = R[b,p,m] + QK[b,p,m] init M",
        "c:4: init is a number, such as 0 or -inf",
        40,
    ),
    "index of the left": (
        "QK[b,p,2*m] = Q[b,p,e] * K[b,m,e]",
        "c:3: QK: an index on the left is a rank variable, or `r+1` for an iterative rank",
        9,
    ),
    "unknown type": (
        "tensor X[m]: bf15\nS[b,m] = K[b,m,e] * X[m]\n" + SCORES,
        "c:3: X: unknown type (got bf15); did you mean bf16?",
        8,
    ),
    "upper-case rank": (
        "tensor X[M]\nQK[b,p,m] = Q[b,p,e] * K[b,m,e]\nS[b,p] = QK[b,p,m] * X[m]",
        "c:3: X: a rank variable is lower case (got M); did you mean m?",
        8,
    ),
    "unknown size": (
        "size M1 = ceil(MM / M0)\nBK[b,m1,m0,e] = K[b,m1*M0+m0,e] * Q[b,m1,e]",
        "c:3: M1: unknown size (got MM); did you mean M?",
        16,
    ),
    "sizes in a circle": (
        "size M1 = M2 + 1\nsize M2 = M1 - 1\n" + SCORES,
        "c:3: sizes that need each other: M1, M2",
        6,
    ),
    "guard that is no condition": (
        "QK[b,p,m] | p = Q[b,p,e] * K[b,m,e]",
        "c:3: a guard is a comparison such as `m <= p`, or a tensor of type bool",
        13,
    ),
    "guard by a float": (
        "tensor X[p,m]\nQK[b,p,m] | X[p,m] = Q[b,p,e] * K[b,m,e]",
        "c:4: QK: X is a guard, so its type must be bool (got fp32); did you mean bool?",
        13,
    ),
    "gather by a float": (
        "tensor X[m]\nS[b,p,m] = Q[b,p,e] * K[b,X[m],e]",
        "c:4: S: X is an index, so its type must be an integer (got fp32); did you mean int32?",
        27,
    ),
    "division in an index": (
        "S[b,p,m] = Q[b,p,e] * K[b,m/2,e]",
        "c:3: S: not an operation on indices (got /); did you mean //?",
        28,
    ),
    "topk that reduces": (
        SCORES + "A[b,p,m] = topk[m](Q[b,p,e] * K[b,m,e], W)",
        "c:4: A: topk keeps every rank of its operand, but e is not on the left",
        1,
    ),
    "topk along an unknown rank": (
        SCORES + "A[b,p,m] = topk[mm](QK[b,p,m], W)",
        "c:4: A: topk chooses along ranks of the left-hand side, each once (got mm); did you mean m?",
        1,
    ),
    "topk whose count changes along its rank": (
        SCORES + "A[b,p,m] = topk[m](QK[b,p,m], m + 1)",
        "c:4: A: the count of a topk cannot depend on rank m",
        33,
    ),
    "topk with a state": (
        SCORES + "A[b,p+1,m] = topk[m](QK[b,p,m], 2) init 0",
        "c:4: expected the end of the statement (got `init`)",
        36,
    ),
    "topk without a count": (
        SCORES + "A[b,p,m] = topk[m](QK[b,p,m])",
        "c:4: expected an operator or the end of the expression (got `)`)",
        29,
    ),
    "topk by a fraction": (
        SCORES + "A[b,p,m] = topk[m](QK[b,p,m], 1.5)",
        "c:4: A: an index is a whole number (got 1.5)",
        31,
    ),
    "topk along the rank of its cycle": (
        SCORES + "A[b,p,m] = topk[m](R[b,p,m], 2)\nR[b,p,m+1] = QK[b,p,m] + A[b,p,m] init 0",
        "c:4: A: topk chooses along m, which its cycle steps along",
        1,
    ),
    "nothing on the right": (
        "QK[b,p,m] =",
        "c:3: expected a tensor, a rank, a number or `(` (got the end of the statement)",
        12,
    ),
    "late header": (
        "cascade late\n" + SCORES,
        "c:3: the header `cascade NAME` comes before every other statement",
        1,
    ),
}


def message(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse(text, "c")
    return str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_message(name):
    text, expected, column = BAD[name]
    line = (DECLARED + text).splitlines()[int(expected.split(":")[1]) - 1]
    assert message(DECLARED + text) == f"{expected}\n  {line}\n  {' ' * (column - 1)}^"


def test_nothing_computed():
    assert message("# only a comment") == (
        "c:1: the cascade has no statement that computes anything\n  # only a comment\n  ^"
    )


def test_all_problems_at_once_sorted_by_place():
    text = DECLARED + "S[b,p,m] = exq(QK[b,p,m]\n" + "QK[b,p,m] = Q[b,p,e] * K[b,e,m]\nG[b,p] = max[n] QX[b,p,m]\n"
    assert [line for line in message(text).splitlines() if line.startswith("c:")] == [
        "c:3: `(` is never closed: `)` is missing",
        "c:4: QK: index e stands at the place of rank m of K; did you mean K[b,m,e]?",
        "c:5: G: reduced rank n is not used on the right; did you mean m?",
    ]


def test_a_broken_statement_does_not_blame_its_readers():
    text = DECLARED + "QK[b,p,m] = Q[b,p,e] ** K[b,m,e]\nS[b,p,m] = exp(QK[b,p,m])\n"
    assert message(text).count("c:") == 1


ONE_PASS = {"B": 1, "H": 1, "P": 4, "M": 8, "E": 2, "F": 2, "M0": 4}


@pytest.mark.parametrize(
    ("sizes", "dtypes", "expected"),
    [
        ({"M0": None, "E": None}, {}, ["missing size E", "missing size M0"]),
        ({"M0": None, "MO": 4}, {}, ["unknown size (got MO); did you mean M0?"]),
        ({"X": 3}, {}, ["unknown size (got X)"]),
        ({"M": 0}, {}, ["size M must be a positive whole number (got 0)"]),
        ({"M": 2.5}, {}, ["size M must be a positive whole number (got 2.5)"]),
        (
            {"P": True, "F": "4"},
            {},
            [f"size {n} must be a positive whole number (got {g})" for n, g in [("P", True), ("F", 4)]],
        ),
        ({"M1": 2}, {}, ["size M1 is defined by the cascade as ceil(M / M0)"]),
    ],
)
def test_sizes(sizes, dtypes, expected):
    given = {name: size for name, size in (ONE_PASS | sizes).items() if size is not None}
    with pytest.raises(InputError) as caught:
        bind(load("attention-1pass"), given, dtypes)
    assert str(caught.value).splitlines() == [f"sizes of attention-1pass: {line}" for line in expected]


def test_types():
    with pytest.raises(InputError) as caught:
        bind(load("attention-1pass"), ONE_PASS, {"QQ": "bf16", "K": "fp17", "*": "bf8"})
    assert str(caught.value).splitlines() == [
        "types of attention-1pass: unknown tensor (got QQ); did you mean Q?",
        "types of attention-1pass: K: unknown type (got fp17); did you mean fp16?",
        "types of attention-1pass: *: unknown type (got bf8); did you mean fp8?",
    ]


def test_unknown_cascade():
    with pytest.raises(InputError) as caught:
        load("atention-1pas")
    assert str(caught.value) == "cascade: no such cascade (got atention-1pas); did you mean attention-1pass?"
    with pytest.raises(InputError) as caught:
        load("folder/none.cascade")
    assert str(caught.value) == "folder/none.cascade: no such file"


def test_any_damage_to_a_text_is_refused_with_a_place_or_accepted():
    """Never a traceback: characters lost, doubled or replaced, words swapped, lines lost or exchanged."""
    rng = random.Random(5)
    text = show(load("attention-1pass-causal"))
    refused = 0
    for _ in range(400):
        damaged = list(text)
        for _ in range(rng.randint(1, 3)):
            i = rng.randrange(len(damaged))
            damaged[i] = rng.choice(["", damaged[i] * 2, *"[](),=|*/+-%:#@ \n1mM"])
        if rng.random() < 0.3:
            lines = "".join(damaged).splitlines(keepends=True)
            rng.shuffle(lines)
            damaged = lines[rng.randint(0, 2) :]
        try:
            parse("".join(damaged), "c")
        except InputError as error:
            refused += 1
            assert all(problem.line and problem.column and problem.what for problem in error.problems), str(error)
    assert refused > 200
