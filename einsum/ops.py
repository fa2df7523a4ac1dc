"""The table of operations: what each computes, its laws, how it merges missing operands, and what it costs.

Every map (`exp(x)`, `a + b`) and every reduction (`max[m]`) of the language is one row. SEMANTICS 1.4 and 1.6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from einsum.cascade import Access, Apply, Einsum, Expr, Name, Num, walk

UNION = "union"  # a missing operand is skipped; the result is missing only if every operand is
INTERSECTION = "intersection"  # the result is missing if any operand is
GROUP = ("associative", "commutative")
LATTICE = ("associative", "commutative", "idempotent")


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. `key` is what `Apply.op` holds: the symbol of an infix operation, else the name."""

    name: str
    arity: int
    op_class: str  # what a unit of a machine executes
    function: Callable[..., Any]  # over numpy arrays, element by element; a ufunc if the operation can reduce
    merge: str = INTERSECTION
    symbol: str = ""
    reduction: str = ""  # the word that names it as a reduction, such as `sum`
    identity: float | None = None  # value of an empty reduction; None: cannot reduce
    laws: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.symbol or self.name


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _silu(x: np.ndarray) -> np.ndarray:
    return x * _sigmoid(x)


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return x * (1 + erf(x / np.sqrt(2))) / 2


TABLE = (
    Op("add", 2, "add", np.add, UNION, "+", "sum", 0.0, (*GROUP, "distributes over max", "distributes over min")),
    Op("sub", 2, "add", np.subtract, symbol="-"),
    Op("mul", 2, "mul", np.multiply, INTERSECTION, "*", "prod", 1.0, (*GROUP, "distributes over add")),
    Op("div", 2, "div", np.true_divide, symbol="/", laws=("left distributes over add",)),
    Op("floordiv", 2, "div", np.floor_divide, symbol="//"),
    Op("mod", 2, "div", np.remainder, symbol="%"),
    Op("max", 2, "max", np.maximum, UNION, "", "max", -np.inf, LATTICE),
    Op("min", 2, "min", np.minimum, UNION, "", "min", np.inf, LATTICE),
    Op("or", 2, "compare", np.logical_or, UNION, "", "any", 0.0, LATTICE),
    Op("neg", 1, "neg", np.negative, laws=("homomorphism of add",)),
    Op("abs", 1, "abs", np.abs, laws=("idempotent",)),
    Op("exp", 1, "exp", np.exp, laws=("turns add into mul", "increasing")),
    Op("exp2", 1, "exp2", np.exp2, laws=("turns add into mul", "increasing")),
    Op("log", 1, "log", np.log, laws=("turns mul into add", "increasing")),
    Op("sqrt", 1, "sqrt", np.sqrt, laws=("homomorphism of mul", "increasing")),
    Op("tanh", 1, "tanh", np.tanh, laws=("increasing",)),
    Op("sigmoid", 1, "sigmoid", _sigmoid, laws=("increasing",)),
    Op("silu", 1, "silu", _silu),
    Op("relu", 1, "max", _relu, laws=("idempotent",)),
    Op("gelu", 1, "gelu", _gelu),
    Op("ceil", 1, "round", np.ceil, laws=("idempotent",)),
    Op("floor", 1, "round", np.floor, laws=("idempotent",)),
    Op("lt", 2, "compare", np.less),
    Op("le", 2, "compare", np.less_equal),
    Op("eq", 2, "compare", np.equal, laws=("commutative",)),
    Op("ge", 2, "compare", np.greater_equal),
    Op("gt", 2, "compare", np.greater),
    Op("ne", 2, "compare", np.not_equal, laws=("commutative",)),
    Op("select", 3, "select", lambda c, a, b: np.where(c != 0, a, b)),
)
OPS = {row.key: row for row in TABLE}  # by what `Apply.op` holds
CALLS = tuple(row.name for row in TABLE if not row.symbol)  # written as `name(...)`
REDUCTIONS = {row.reduction: row for row in TABLE if row.identity is not None}  # by the word, such as `sum`
REDUCE_OPS = {row.name: row for row in REDUCTIONS.values()}  # by what `Einsum.reduce_op` holds


def operation_classes(einsum: Einsum) -> dict[str, int]:
    """Operations per point of the iteration space, by class (SEMANTICS 1.6).

    A sum of products is one `mac` a point; another reduction is one operation of its own class a point, and a
    top-k one of class `topk`. Index arithmetic, guards, and operations on constants alone are free.
    """
    counts: Counter[str] = Counter()
    _count(einsum.expr, counts)
    counts["topk"] += einsum.topk is not None
    if einsum.reduced:
        if einsum.reduce_op == "add" and isinstance(einsum.expr, Apply) and einsum.expr.op == "*":
            counts["mul"] -= 1
            counts["mac"] += 1
        else:
            counts[REDUCE_OPS[einsum.reduce_op].op_class] += 1
    return {op_class: n for op_class, n in sorted(counts.items()) if n}


def _count(expr: Expr, counts: Counter[str]) -> None:
    if isinstance(expr, Apply) and not _constant(expr):
        counts[OPS[expr.op].op_class] += 1
        for arg in expr.args:
            _count(arg, counts)


def _constant(expr: Expr) -> bool:
    """Made of numbers and sizes alone, so known before the cascade runs."""
    return all(isinstance(node, Num | Apply) or (isinstance(node, Name) and node.name.isupper()) for node in walk(expr))


def is_view(einsum: Einsum) -> bool:
    """A mere renaming of coordinates, such as the partitioning `BK[m1,m0,e] = K[m1*M0+m0,e]`."""
    acts = einsum.reduced or einsum.guards or einsum.iterative or einsum.topk
    return isinstance(einsum.expr, Access) and not acts


def empty_init(einsum: Einsum) -> bool:
    """Whether the initial state does not exist: `init` is the identity of a union update (SEMANTICS 1.5)."""
    update = OPS[einsum.expr.op] if isinstance(einsum.expr, Apply) else None
    return update is not None and update.merge == UNION and einsum.init == update.identity
