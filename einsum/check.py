"""Well-formedness of a cascade (SEMANTICS 1.2), run by `einsum.parse` and after every rewrite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from einsum.cascade import (
    DTYPE_BITS,
    Access,
    Apply,
    Cascade,
    Einsum,
    Expr,
    Guard,
    Name,
    Num,
    Tensor,
    rank_variables,
    walk,
)
from einsum.graph import components, is_loop
from einsum.ops import CALLS, OPS, REDUCE_OPS, REDUCTIONS
from einsum.problems import Problem, suggest
from einsum.source import Source

INDEX_OPS = ("+", "-", "*", "//", "%", "ceil", "neg")
INTEGER_DTYPES = ("int32", "int8")


def check(cascade: Cascade, source: Source | None = None) -> list[Problem]:
    """Every mistake of the cascade, located if `source` knows where its nodes stand; empty when it is well formed."""
    checker = _Checker(cascade, source or Source())
    problems = [*checker.tensors(), *checker.statements(), *checker.sizes()]
    if not problems and not checker.source.broken:
        problems += [*checker.order()] or [*checker.loops()]
        problems += checker.unused()
    return problems


def declared_form(tensor: Tensor) -> str:
    """`K[b,h,m,e]`: the tensor with its ranks in order."""
    return f"{tensor.name}[{','.join(tensor.ranks)}]"


@dataclass(frozen=True)
class _Checker:
    cascade: Cascade
    source: Source

    def tensors(self) -> Iterator[Problem]:
        """Declarations."""
        seen: set[str] = set()
        for tensor in self.cascade.tensors:
            if tensor.name in seen:
                yield self.source.problem(tensor, f"tensor {tensor.name} is declared twice")
            seen.add(tensor.name)
            if tensor.name in REDUCTIONS:
                yield self.source.problem(tensor, "a tensor cannot have the name of a reduction", got=tensor.name)
            if tensor.dtype not in DTYPE_BITS:
                hint = suggest(tensor.dtype, DTYPE_BITS)
                yield self.source.problem(tensor, "unknown type", path=tensor.name, got=tensor.dtype, hint=hint)
            for rank in tensor.ranks:
                if not rank.islower():
                    what = "a rank variable is lower case"
                    yield self.source.problem(tensor, what, path=tensor.name, got=rank, hint=rank.lower())
            for rank in sorted(r for r in dict.fromkeys(tensor.ranks) if tensor.ranks.count(r) > 1):
                yield self.source.problem(tensor, f"rank {rank} occurs twice", path=tensor.name)

    def statements(self) -> Iterator[Problem]:
        """Every Einsum by itself."""
        first: dict[str, Einsum] = {}
        if not self.cascade.einsums and not self.source.broken:
            yield self.source.at(1, 1, "the cascade has no statement that computes anything")
        for einsum in self.cascade.einsums:
            if einsum.name in first:
                line = first[einsum.name].line
                what = f"{einsum.name} is defined twice" + (f", first in line {line}" if line else "")
                yield self.source.problem(einsum, what)
                continue
            first[einsum.name] = einsum
            statement = _Statement(self.cascade, self.source, einsum)
            yield from statement.output()
            for expr in einsum.right:
                yield from statement.expression(expr)
            yield from statement.guards()
            yield from statement.topk()
            yield from statement.ranks()

    def sizes(self) -> Iterator[Problem]:
        """Defined sizes."""
        accesses = [access for e in self.cascade.einsums for access in (e.output, *e.reads)]
        known = {rank.upper() for tensor in self.cascade.tensors for rank in tensor.ranks}
        known |= {n.name for access in accesses for n in walk(access) if isinstance(n, Name) and n.name.isupper()}
        names = [name for name, _ in self.cascade.sizes]
        known |= set(names)
        for position, entry in enumerate(self.cascade.sizes):
            name, definition = entry
            if not name.isupper():
                yield self.source.problem(entry, "a size is upper case", got=name, hint=name.upper())
            if name in names[:position]:
                yield self.source.problem(entry, f"size {name} is defined twice")
            for node in walk(definition):
                if isinstance(node, Access):
                    yield self.source.problem(node, "a size cannot depend on a tensor", path=name, got=node.tensor)
                elif isinstance(node, Apply) and node.op not in (*INDEX_OPS, "/", "floor"):
                    yield self.source.problem(node, "not an operation on sizes", path=name, got=node.op)
                elif isinstance(node, Name) and node.name not in known and not self.source.broken:
                    hint = suggest(node.name, known - {name})
                    yield self.source.problem(node, "unknown size", path=name, got=node.name, hint=hint)
        yield from self._size_cycles()

    def _size_cycles(self) -> Iterator[Problem]:
        settled: set[str] = set()
        waiting = list(self.cascade.sizes)
        defined = {name for name, _ in waiting}
        while waiting:
            names = [{n.name for n in walk(d) if isinstance(n, Name)} & defined - settled for _, d in waiting]
            ready = [entry for entry, needs in zip(waiting, names, strict=True) if not needs]
            if not ready:
                cycle = ", ".join(name for name, _ in waiting)
                yield self.source.problem(waiting[0], f"sizes that need each other: {cycle}")
                return
            settled |= {name for name, _ in ready}
            waiting = [entry for entry in waiting if entry not in ready]

    def order(self) -> Iterator[Problem]:
        """A tensor is read after the statement that writes it, or as the state of an earlier coordinate."""
        place = {e.name: i for i, e in enumerate(self.cascade.einsums)}
        for i, einsum in enumerate(self.cascade.einsums):
            for access in einsum.reads:
                if place.get(access.tensor, -1) < i:
                    continue
                writer = self.cascade[access.tensor]
                if writer.iterative in einsum.output_ranks and _step(access, writer) == "earlier":
                    continue
                if writer is einsum:
                    what = f"{einsum.name} reads itself; only an earlier coordinate of an iterative rank can be read"
                else:
                    what = f"{writer.name} is read before it is written" + f" in line {writer.line}" * (writer.line > 0)
                yield self.source.problem(access, what, path=einsum.name)

    def loops(self) -> Iterator[Problem]:
        """Einsums that feed each other carry one iterative rank, which all of them keep."""
        for component in filter(is_loop, components(self.cascade)):
            rank = next(e.iterative for e in component if e.iterative)
            names = {e.name for e in component}
            astray = [e for e in component if (e.iterative or rank) != rank or rank not in e.output_ranks]
            for einsum in astray:
                cycle = " -> ".join((*sorted(names), min(names)))
                what = f"cycle {cycle}, but {einsum.name} does not step along {rank}"
                yield self.source.problem(einsum, what, path=einsum.name)
            for einsum in component:
                if einsum.topk and rank in einsum.topk.ranks:
                    what = f"topk chooses along {rank}, which its cycle steps along"
                    yield self.source.problem(einsum, what, path=einsum.name)
            for einsum, access in ((e, a) for e in component for a in e.reads if not astray):
                if access.tensor in names and _step(access, self.cascade[access.tensor], rank) == "other":
                    what = f"inside its cycle {access.tensor} is read at {rank} or an earlier coordinate only"
                    yield self.source.problem(access, what, path=einsum.name)

    def unused(self) -> Iterator[Problem]:
        read = {a.tensor for e in self.cascade.einsums for a in e.reads}
        for tensor in self.cascade.tensors:
            if tensor.name not in read and tensor.name not in self.cascade:
                yield self.source.problem(tensor, f"tensor {tensor.name} is declared but never used")


@dataclass(frozen=True)
class _Statement:
    """The checks of one Einsum."""

    cascade: Cascade
    source: Source
    einsum: Einsum

    def problem(self, node: object, what: str, got: str = "", hint: str = "") -> Problem:
        return self.source.problem(node, what, path=self.einsum.name, got=got, hint=hint)

    def output(self) -> Iterator[Problem]:
        """The left-hand side and `init`."""
        einsum = self.einsum
        steps = 0
        for index in einsum.output.indices:
            match index:
                case Name(name) if name.islower():
                    continue
                case Apply("+", (Name(), Num(1))):
                    steps += 1
                case _:
                    yield self.problem(index, "an index on the left is a rank variable, or `r+1` for an iterative rank")
        if steps > 1:
            yield self.problem(einsum.output, "only one rank can be iterative")
        if steps and einsum.init is None:
            what = f"iterative rank {einsum.iterative} needs an initial value, such as `init 0`"
            yield self.problem(einsum.output, what)
        if einsum.init is not None and not steps:
            yield self.problem(einsum.output, "init without an iterative rank `r+1` on the left")
        yield from self._indices(einsum.output)

    def expression(self, expr: Expr) -> Iterator[Problem]:
        """Tensors, operations and names of a value."""
        if isinstance(expr, Access):
            yield from self._access(expr)
        elif isinstance(expr, Name):
            yield from self._name(expr)
        elif isinstance(expr, Apply):
            yield from self._operation(expr)
            for arg in expr.args:
                yield from self.expression(arg)

    def _operation(self, expr: Apply) -> Iterator[Problem]:
        if expr.op not in OPS:
            yield self.problem(expr, "no such operation", expr.op, suggest(expr.op, CALLS))
        elif len(expr.args) != (count := OPS[expr.op].arity):
            yield self.problem(expr, f"{expr.op} takes {count} argument{'s' * (count > 1)}", str(len(expr.args)))

    def _name(self, name: Name) -> Iterator[Problem]:
        tensor = self.cascade.tensor.get(name.name)
        if tensor is not None:
            yield self.problem(name, f"tensor {name.name} needs its indices", name.name, declared_form(tensor))
        elif not (name.name.islower() or name.name.isupper()):
            what = "a rank variable is lower case and a size upper case"
            yield self.problem(name, what, name.name, suggest(name.name, self.cascade.tensor))

    def _access(self, access: Access) -> Iterator[Problem]:
        tensors = self.cascade.tensor
        if access.tensor in tensors:
            yield from self._indices(access)
        elif access.tensor not in self.source.broken:
            hint = suggest(access.tensor, tensors.keys() - {self.einsum.name})
            yield self.problem(access, "unknown tensor", access.tensor, hint)
        for index in access.indices:
            yield from self._index(index)

    def _index(self, index: Expr, rounded: bool = False) -> Iterator[Problem]:
        match index:
            case Access(name):
                yield from self._access(index)
                tensor = self.cascade.tensor.get(name)
                if tensor is not None and tensor.dtype not in INTEGER_DTYPES:
                    what = f"{name} is an index, so its type must be an integer"
                    yield self.problem(index, what, tensor.dtype, "int32")
            case Num(value) if not float(value).is_integer():
                yield self.problem(index, "an index is a whole number", str(value))
            case Name():
                yield from self._name(index)
            case Apply(op, args):
                if op not in INDEX_OPS and not (op == "/" and rounded):
                    yield self.problem(index, "not an operation on indices", op, "//" if op == "/" else "")
                for arg in args:
                    yield from self._index(arg, rounded=op == "ceil")

    def _indices(self, access: Access) -> Iterator[Problem]:
        """Number and order of the indices against the declaration."""
        tensor = self.cascade.tensor[access.tensor]
        form = declared_form(tensor)
        if len(access.indices) != len(tensor.ranks):
            what = f"{tensor.name} has {len(tensor.ranks)} rank{'s' * (len(tensor.ranks) != 1)}"
            yield self.problem(access, what, f"{len(access.indices)} indices", form)
            return
        for index, rank in zip(access.indices, tensor.ranks, strict=True):
            stepped = index.args[0] if isinstance(index, Apply) and access is self.einsum.output else index
            if isinstance(stepped, Name) and stepped.name != rank and stepped.name in tensor.ranks:
                what = f"index {stepped.name} stands at the place of rank {rank} of {tensor.name}"
                yield self.problem(index, what, hint=form)
                return

    def guards(self) -> Iterator[Problem]:
        for guard in self.einsum.guards:
            yield from self._guard(guard)

    def _guard(self, guard: Guard) -> Iterator[Problem]:
        if guard.relation == "true" and isinstance(guard.left, Access):
            tensor = self.cascade.tensor.get(guard.left.tensor)
            if tensor is not None and tensor.dtype != "bool":
                what = f"{tensor.name} is a guard, so its type must be bool"
                yield self.problem(guard.left, what, tensor.dtype, "bool")
        for side in (guard.left, guard.right):
            for node in walk(side):
                if isinstance(node, Name) and node.name.islower() and node.name not in self.einsum.ranks:
                    what = f"rank variable {node.name} is bound on neither side of the statement"
                    yield self.problem(node, what, hint=suggest(node.name, self.einsum.ranks))

    def topk(self) -> Iterator[Problem]:
        """A top-k chooses along ranks of the left, reduces none, carries no state, and its count is a whole number."""
        einsum, topk = self.einsum, self.einsum.topk
        if topk is None:
            return
        for rank in einsum.reduced:
            yield self.problem(einsum, f"topk keeps every rank of its operand, but {rank} is not on the left")
        for rank in topk.ranks:
            if rank not in einsum.output_ranks or topk.ranks.count(rank) > 1:
                hint = suggest(rank, einsum.output_ranks)
                yield self.problem(einsum, "topk chooses along ranks of the left-hand side, each once", rank, hint)
        for rank in rank_variables(topk.count):
            if rank not in einsum.output_ranks or rank in topk.ranks:
                yield self.problem(topk.count, f"the count of a topk cannot depend on rank {rank}")
        if einsum.iterative:
            yield self.problem(einsum, "a topk carries no state: its left-hand side cannot be iterative")
        yield from self._index(topk.count)

    def ranks(self) -> Iterator[Problem]:
        """Every rank of the left is used on the right; every reduced rank is a rank of some tensor."""
        einsum = self.einsum
        used = set(rank_variables(einsum.expr))
        guarded = {r for g in einsum.guards for side in (g.left, g.right) for r in rank_variables(side)}
        constant = not any(isinstance(node, Access) for node in walk(einsum.expr))
        for rank in einsum.output_ranks:
            if rank not in used | guarded and not constant:
                what = f"rank {rank} of the left-hand side is not used on the right"
                yield self.problem(einsum.output, what, hint=suggest(rank, einsum.reduced))
        known = {rank for tensor in self.cascade.tensors for rank in tensor.ranks}
        for rank in einsum.reduced:
            if rank not in known and not self.source.broken:
                node = next(n for n in walk(einsum.expr) if n == Name(rank))
                what = f"rank variable {rank} is unbound: no tensor has such a rank"
                yield self.problem(node, what, hint=suggest(rank, known))
        if einsum.reduce_op not in REDUCE_OPS:
            yield self.problem(einsum, "cannot reduce", einsum.reduce_op, suggest(einsum.reduce_op, REDUCE_OPS))


def _step(access: Access, writer: Einsum, rank: str | None = None) -> str:
    """Where an access reads along the iterative rank, seen from the coordinate written: `earlier`, `now` or `other`."""
    rank = rank or writer.iterative
    state = writer.iterative is not None
    for written, index in zip(writer.output.indices, access.indices, strict=True):
        if rank in rank_variables(written):
            match index:
                case Name(name) if name == rank:
                    return "earlier" if state else "now"
                case Apply("-", (Name(name), Num() | Name())) if name == rank:
                    return "earlier"
                case Apply("+", (Name(name), Num(1))) if name == rank and state:
                    return "now"
    return "other"
