"""The types of a cascade: expressions, Einsums, the cascade itself, and a cascade bound to sizes.

Text is the source of truth (`einsum.parse`, `einsum.show`); docs/SEMANTICS.md section 1 numbers the rules.
By convention a rank variable is lower case (`m1`) and its size is the same name in upper case (`M1`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

DTYPE_BITS = {
    "fp64": 64, "fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "fp8": 8, "e4m3": 8, "e5m2": 8, "int32": 32, "int8": 8,
    "bool": 8,
}  # fmt: skip
DEFAULT_DTYPE = "fp32"  # of a tensor that the text declares no type for


@dataclass(frozen=True, slots=True)
class Num:
    """A constant; may be infinite."""

    value: float


@dataclass(frozen=True, slots=True)
class Name:
    """A rank variable (lower case, `m1`) or a size symbol (upper case, `M1`) used as a number."""

    name: str


@dataclass(frozen=True, slots=True)
class Access:
    """`K[b,h,m1*M0+m0,e]`: a tensor at an index expression per rank. An index may itself hold an `Access` (gather)."""

    tensor: str
    indices: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation of the table in `einsum.ops` applied to expressions. In an index: `+ - * // %` and `ceil`."""

    op: str
    args: tuple[Expr, ...]


Expr = Num | Name | Access | Apply


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition on the points of an Einsum: `left relation right`, or a boolean tensor (relation `true`)."""

    left: Expr
    relation: str = "true"  # < <= == >= > != true
    right: Expr = Num(0)


@dataclass(frozen=True, slots=True)
class TopK:
    """Data-dependent populate (SEMANTICS 1.8): along `ranks` the `count` largest points of the expression are 1."""

    ranks: tuple[str, ...]
    count: Expr


@dataclass(frozen=True)
class Einsum:
    """One statement. `name` is the tensor that it writes; `ranks` is its iteration space, outputs' ranks first."""

    output: Access
    expr: Expr
    reduce_op: str = "add"  # an operation with an identity; meaningless when `reduced` is empty
    reduced: tuple[str, ...] = ()  # rank variables reduced away, in order of first use
    guards: tuple[Guard, ...] = ()
    init: float | None = None  # value of the iterative rank's coordinate 0
    line: int = field(default=0, compare=False)
    topk: TopK | None = None

    @property
    def name(self) -> str:
        return self.output.tensor

    @cached_property
    def output_ranks(self) -> tuple[str, ...]:
        """Rank variables of the left-hand side; `m1` for the iterative index `m1+1`."""
        return rank_variables(self.output)

    @cached_property
    def ranks(self) -> tuple[str, ...]:
        return self.output_ranks + self.reduced

    @cached_property
    def iterative(self) -> str | None:
        """The rank that carries state: the `r` of an output index `r+1`; None for a plain Einsum."""
        for index in self.output.indices:
            if isinstance(index, Apply) and index.op == "+" and index.args[1] == Num(1):
                return index.args[0].name if isinstance(index.args[0], Name) else None
        return None

    @cached_property
    def reads(self) -> tuple[Access, ...]:
        """Every access of the right-hand side and of the guards, in order, gathers inside indices included."""
        return tuple(a for expr in self.right for a in walk(expr) if isinstance(a, Access))

    @property
    def right(self) -> tuple[Expr, ...]:
        """Every expression but the left-hand side: the value, the count of a top-k, both sides of each guard."""
        count = (self.topk.count,) if self.topk else ()
        return (self.expr, *count, *(side for guard in self.guards for side in (guard.left, guard.right)))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A declared tensor: its rank variables in storage order, and its element type."""

    name: str
    ranks: tuple[str, ...]
    dtype: str = DEFAULT_DTYPE


@dataclass(frozen=True)
class Cascade:
    """A DAG of Einsums in program order. `tensors` holds declared and derived tensors, inputs first."""

    name: str
    tensors: tuple[Tensor, ...]
    einsums: tuple[Einsum, ...]
    sizes: tuple[tuple[str, Expr], ...] = ()  # defined sizes, such as M1 = ceil(M / M0)
    doc: str = field(default="", compare=False)

    def __getitem__(self, name: str) -> Einsum:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @cached_property
    def _by_name(self) -> dict[str, Einsum]:
        return {e.name: e for e in self.einsums}

    @cached_property
    def tensor(self) -> dict[str, Tensor]:
        return {t.name: t for t in self.tensors}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Tensors that no Einsum writes."""
        return tuple(t.name for t in self.tensors if t.name not in self)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Tensors that no Einsum reads."""
        read = {a.tensor for e in self.einsums for a in e.reads}
        return tuple(e.name for e in self.einsums if e.name not in read)

    @cached_property
    def ranks(self) -> tuple[str, ...]:
        """Every rank variable, in order of first use."""
        return tuple(dict.fromkeys(r for e in self.einsums for r in e.ranks))

    @cached_property
    def free_sizes(self) -> tuple[str, ...]:
        """Size symbols that a binding must give, sorted: those of ranks and expressions less the defined ones."""
        used = {r.upper() for r in (*self.ranks, *(r for t in self.tensors for r in t.ranks))}
        for e in self.einsums:
            for expr in (e.output, *e.right):
                used |= {n.name for n in walk(expr) if isinstance(n, Name) and n.name.isupper()}
        for _, definition in self.sizes:
            used |= {n.name for n in walk(definition) if isinstance(n, Name)}
        return tuple(sorted(used - {name for name, _ in self.sizes}))


@dataclass(frozen=True)
class Workload:
    """A cascade with every size a number and every tensor a type; made by `einsum.bind.bind`.

    `given` are inputs whose values are known, such as lengths: the occupancy of ragged ranks (SEMANTICS 1.12).
    """

    cascade: Cascade
    sizes: Mapping[str, int]  # every size symbol, defined ones included
    dtypes: Mapping[str, str]  # every tensor
    given: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)

    def extent(self, rank: str) -> int:
        """Number of coordinates of a rank variable."""
        return self.sizes[rank.upper()]

    def bits(self, tensor: str) -> int:
        """Bits of one element."""
        return DTYPE_BITS[self.dtypes[tensor]]

    def elements(self, tensor: str) -> int:
        """Elements of a whole tensor; an iterative rank counts its coordinates once (the state is overwritten)."""
        count = 1
        for rank in self.cascade.tensor[tensor].ranks:
            count *= self.extent(rank)
        return count


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and everything inside it, outermost first, left to right."""
    yield expr
    if isinstance(expr, Access):
        for index in expr.indices:
            yield from walk(index)
    elif isinstance(expr, Apply):
        for arg in expr.args:
            yield from walk(arg)


def rank_variables(expr: Expr) -> tuple[str, ...]:
    """Rank variables (lower-case names) inside an expression, in order of first use."""
    return tuple(dict.fromkeys(n.name for n in walk(expr) if isinstance(n, Name) and not n.name.isupper()))


def factors(expr: Expr) -> tuple[Expr, ...]:
    """The factors of a product; an expression that is none is its own only one."""
    if isinstance(expr, Apply) and expr.op == "*":
        return tuple(factor for arg in expr.args for factor in factors(arg))
    return (expr,)
