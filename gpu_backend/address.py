"""Index vectors, masks and addresses of a kernel, as text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from einsum.cascade import Access, Apply, Cascade, Expr, Guard, Name, Num, rank_variables
from einsum.problems import InputError
from einsum.show import show_expr
from gpu_backend.plan import Plan, refusal, stored_ranks
from gpu_backend.writer import Writer


class Addresses:
    """Writes index vectors to a kernel's source as they are needed, and makes addresses and masks from them."""

    def __init__(self, plan: Plan, out: Writer) -> None:
        self._plan, self._out = plan, out
        self._names: dict[Expr, str] = {}  # compound index -> the variable that holds it

    def pointer(self, access: Access) -> tuple[str, tuple[str, ...]]:
        """Address text of a tile of a dense row-major tensor, and its block axes in storage order.

        The part that is one number a program comes first, so that wide arithmetic stays out of the vectors.
        """
        ranks = stored_ranks(self._plan.workload.cascade, access.tensor)
        self.name(access)
        axes = self.axes(access)
        strides = [tuple(r.upper() for r in ranks[i + 1 :]) for i in range(len(ranks))]
        texts: list[str] = []
        base, position = "", 0
        while position < len(ranks) and not self._plan.axes(access.indices[position]):
            index = self.text(access.indices[position])
            base = f"({base} * {ranks[position].upper()} + {index})" if base else index
            position += 1
        if base:
            texts.append(_times(base, strides[position - 1]))
        for index, stride in zip(access.indices[position:], strides[position:], strict=True):
            texts.append(_times(self._aligned(index, axes), stride))
        return " + ".join([f"{access.tensor}_ptr", *texts]), axes

    def name(self, access: Access) -> None:
        """Give each compound index of an access a variable."""
        for index, rank in zip(access.indices, stored_ranks(self._plan.workload.cascade, access.tensor), strict=True):
            self._name(index, rank)

    def axes(self, access: Access) -> tuple[str, ...]:
        """Block axes of a loaded or stored tile, in storage order."""
        return tuple(dict.fromkeys(axis for index in access.indices for axis in self._plan.axes(index)))

    def mask(self, conditions: tuple[Guard, ...], axes: tuple[str, ...]) -> str:
        """The conditions, aligned to block axes and joined; empty without any."""
        texts = [f"{self._aligned(c.left, axes)} {c.relation} {self._aligned(c.right, axes)}" for c in conditions]
        return texts[0] if len(texts) == 1 else " & ".join(f"({t})" for t in texts)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is named inside is forgotten at the end: the variables of a loop belong to its iterations."""
        outside = dict(self._names)
        yield
        self._names = outside

    def _name(self, index: Expr, rank: str) -> None:
        """Give a compound index (`m1*M0+m0`) the name of the tensor's rank that it walks, once."""
        if not isinstance(index, Apply) or index in self._names:
            return
        taken = {*self._names.values(), *_variables(self._plan.workload.cascade)}
        name = next(n for n in (rank, *(f"{rank}_{i}" for i in range(2, len(taken) + 3))) if n not in taken)
        self._out(f"{name} = {self.text(index)}", unless_unused=name)
        self._names[index] = name

    def _aligned(self, index: Expr, axes: tuple[str, ...]) -> str:
        text = self.text(index)
        loose = isinstance(index, Apply) and index not in self._names
        return align(f"({text})" if loose else text, self._plan.axes(index), axes)

    def text(self, index: Expr) -> str:
        """An index in terms of the kernel's variables."""
        if index in self._names:
            return self._names[index]
        match index:
            case Name(name):
                return name
            case Access():
                return next((load.name for load in self._plan.loads if load.read == index), index.tensor)
            case Num(value):
                return str(int(value))
            case Apply("+" | "-" | "*" as op, (left, right)):
                texts = [f"({self.text(x)})" if _sum(x) else self.text(x) for x in (left, right)]
                return f"{texts[0]} {op} {texts[1]}"
        raise InputError(refusal(show_expr(index), "an index that is not affine"))


def align(text: str, own: tuple[str, ...], axes: tuple[str, ...]) -> str:
    """A value with block axes `own`, turned and broadcast to `axes`."""
    ordered = tuple(a for a in axes if a in own)
    if ordered != own:
        order = ", ".join(str(own.index(a)) for a in ordered)
        text = f"tl.trans({text})" if len(own) == 2 else f"tl.permute({text}, {order})"
    if not own or ordered == axes:
        return text
    return f"{text}[{', '.join(':' if a in own else 'None' for a in axes)}]"


def _sum(index: Expr) -> bool:
    return isinstance(index, Apply) and index.op != "*"


def _times(text: str, stride: tuple[str, ...]) -> str:
    if not stride:
        return text
    return f"{text} * {stride[0] if len(stride) == 1 else '(' + ' * '.join(stride) + ')'}"


def _variables(cascade: Cascade) -> tuple[str, ...]:
    """Names that the kernel uses for rank variables and values."""
    ranks = dict.fromkeys(r for e in cascade.einsums for r in (*e.ranks, *rank_variables(e.output)))
    return (*ranks, *(t.name for t in cascade.tensors))
