"""Text -> `Cascade`. SEMANTICS 1.1 describes the notation; `grammar.lark` is its grammar.

Every mistake is collected and raised in one `InputError`, each with its line, column and a caret.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from einsum.cascade import (
    Access,
    Apply,
    Cascade,
    Einsum,
    Expr,
    Guard,
    Name,
    Num,
    Tensor,
    TopK,
    rank_variables,
)
from einsum.check import check
from einsum.ops import REDUCTIONS
from einsum.problems import InputError, Problem, suggest
from einsum.source import Source, Statement

if TYPE_CHECKING:
    from lark import Lark, Tree

KEYWORDS = ("cascade", "tensor", "size")
LARGEST_WHOLE = 1e15  # from here on a number is a float
_EXPECTED = (  # the first terminal that the grammar allows says it best
    ("NUMBER", "a tensor, a rank, a number or `(`"),
    ("SUM", "an operator or the end of the expression"),
    ("EQUAL", "`=`, or `|` and a guard"),
    ("LSQB", "`[` and the ranks"),
    ("RSQB", "`]`, or `,` and a rank"),
    ("COLON", "`:` and a type, or the end of the statement"),
    ("NAME", "a name"),
    ("CASCADE", "the cascade's name"),
    ("$END", "the end of the statement"),
)


def parse(text: str, file: str = "<cascade>") -> Cascade:
    """Read a cascade; `file` names it in messages. Raises `InputError` with every mistake of the text."""
    source = Source(text, file)
    statements, problems = source.statements()
    builder = _Builder(source, problems)
    for statement in statements:
        builder.add(statement)
    cascade = builder.cascade()
    problems += check(cascade, source)
    if problems:
        raise InputError(problems)
    return cascade


def parse_expression(text: str) -> Expr:
    """An expression by itself, unchecked: names stand for anything. Raises `InputError` if it cannot be read."""
    source = Source(f"X[] = {text}", "<expression>")
    builder = _Builder(source, [])
    builder.add(Statement(source.text, 1))
    if builder.problems:
        raise InputError(builder.problems)
    return builder.einsums[0].expr


@lru_cache(maxsize=1)
def _grammar() -> Lark:
    from lark import Lark

    return Lark.open("grammar.lark", rel_to=__file__, parser="lalr", propagate_positions=True)


@dataclass
class _Builder:
    """Turns the trees of single statements into the parts of a cascade."""

    source: Source
    problems: list[Problem]
    name: str = "cascade"
    declared: list[Tensor] = field(default_factory=list)
    einsums: list[Einsum] = field(default_factory=list)
    sizes: list[tuple[str, Expr]] = field(default_factory=list)
    line: int = 0  # lines of the text before the statement being built
    before: int = 0  # problems before it

    def add(self, statement: Statement) -> None:
        """Read one statement; one that cannot be read becomes a problem and leaves no part behind."""
        from lark.exceptions import UnexpectedInput

        self.line = statement.line - 1
        self.before = len(self.problems)
        try:
            tree: Tree = _grammar().parse(statement.text).children[0]  # pyright: ignore[reportAssignmentType]
            getattr(self, f"_{tree.data}")(tree)  # _header, _tensor, _size, _einsum
        except UnexpectedInput as error:
            self.problems.append(self._syntax(error, statement))
        if len(self.problems) > self.before:
            self.source.note_broken(statement.text)

    def cascade(self) -> Cascade:
        """The parts put together: undeclared tensors get their ranks from the statement that writes them."""
        written = {e.name: e for e in self.einsums}
        known = {t.name: t for t in self.declared}
        derived = [self._derived(e) if name not in known else known[name] for name, e in written.items()]
        inputs = [t for t in self.declared if t.name not in written or t is not known[t.name]]
        doc = self.source.doc()
        return Cascade(self.name, (*inputs, *derived), tuple(self.einsums), tuple(self.sizes), doc)

    def _derived(self, einsum: Einsum) -> Tensor:
        ranks = tuple(v for index in einsum.output.indices for v in rank_variables(index))
        return self._copy_place(einsum.output, Tensor(einsum.name, ranks))

    def _copy_place(self, node: Any, to: Any) -> Any:
        problem = self.source.problem(node, "")
        return self.source.mark(to, problem.line, problem.column)

    def _mark(self, tree: Any, node: Any) -> Any:
        """Remember where the tree or token stands, for the node made of it."""
        at = getattr(tree, "meta", tree)
        return self.source.mark(node, self.line + at.line, at.column)

    def _problem(self, tree: Any, what: str, got: str = "", hint: str = "", path: str = "") -> None:
        at = getattr(tree, "meta", tree)
        self.problems.append(self.source.at(self.line + at.line, at.column, what, got=got, hint=hint, path=path))

    def _header(self, tree: Tree) -> None:
        if self.declared or self.einsums or self.sizes:
            self._problem(tree, "the header `cascade NAME` comes before every other statement")
        self.name = str(tree.children[0])

    def _tensor(self, tree: Tree) -> None:
        tokens = [c for c in tree.children if not hasattr(c, "data")]
        ranks = tuple(str(r) for part in tree.find_data("ranks") for r in part.children)
        dtype = (str(tokens[1]),) if len(tokens) > 1 else ()
        self.declared.append(self._mark(tokens[0], Tensor(str(tokens[0]), ranks, *dtype)))

    def _size(self, tree: Tree) -> None:
        name, expr = tree.children
        self.sizes.append(self._mark(name, (str(name), self._expr(expr))))

    def _einsum(self, tree: Tree) -> None:
        parts = {part.data: part for part in tree.children[1:]}
        topk, expr_tree = self._topk(tree.children[-1])
        expr_tree = expr_tree or next(p for p in tree.children[1:] if p.data not in ("guards", "reduction", "init"))
        output, expr = self._expr_access(tree.children[0]), self._expr(expr_tree)
        guards = tuple(self._guard(g) for g in parts["guards"].children) if "guards" in parts else ()
        init = self._init(parts["init"]) if "init" in parts else None
        kept = rank_variables(output)
        reduced = tuple(v for v in rank_variables(expr) if v not in kept)
        reduce_op = self._reduction(parts["reduction"], kept, reduced, output) if "reduction" in parts else "add"
        if len(self.problems) == self.before:
            line = self.line + tree.meta.line
            einsum = Einsum(output, expr, reduce_op if reduced else "add", reduced, guards, init, line, topk)
            self.einsums.append(self._mark(tree, einsum))

    def _topk(self, tree: Tree) -> tuple[TopK | None, Tree | None]:
        """The populate of a right-hand side and the tree of the values that it chooses from; None if it has none."""
        if tree.data != "topk":
            return None, None
        _, ranks, values, count = tree.children
        return TopK(tuple(map(str, ranks.children)), self._expr(count)), values

    def _reduction(self, tree: Tree, kept: tuple[str, ...], reduced: tuple[str, ...], output: Access) -> str:
        """Name of the reduction, whose listed ranks must be those that are on the right only."""
        word, listed = str(tree.children[0]), tree.children[1].children
        if word not in REDUCTIONS:
            if word in {t.name for t in self.declared} | {e.name for e in self.einsums}:
                self._problem(listed[-1], f"an operator is missing behind {word}[...]", path=output.tensor)
            else:
                what = f"not a reduction ({', '.join(REDUCTIONS)})"
                self._problem(tree, what, word, suggest(word, REDUCTIONS), output.tensor)
            return "add"
        missing = [rank for rank in reduced if rank not in map(str, listed)]
        before = len(self.problems)
        for rank in listed:
            if rank in kept:
                self._problem(rank, f"rank {rank} is reduced but stands on the left too", path=output.tensor)
            elif rank not in reduced:
                hint = suggest(str(rank), missing) or "".join(missing[:1])
                self._problem(rank, f"reduced rank {rank} is not used on the right", hint=hint, path=output.tensor)
        if missing and len(self.problems) == before:
            what = f"rank {missing[0]} is neither on the left nor reduced"
            self._problem(tree, what, hint=f"{word}[{','.join(reduced)}]", path=output.tensor)
        return REDUCTIONS[word].name

    def _guard(self, tree: Tree) -> Guard:
        left = self._expr(tree.children[0])
        if len(tree.children) == 1:
            if not isinstance(left, Access):
                self._problem(tree, "a guard is a comparison such as `m <= p`, or a tensor of type bool")
            return Guard(left)
        return Guard(left, str(tree.children[1]), self._expr(tree.children[2]))

    def _init(self, tree: Tree) -> float:
        value = self._expr(tree.children[0])
        if not isinstance(value, Num):
            self._problem(tree.children[0], "init is a number, such as 0 or -inf")
            return math.nan
        return value.value

    def _expr(self, tree: Tree) -> Expr:
        return getattr(self, f"_expr_{tree.data}")(tree)

    def _expr_number(self, tree: Tree) -> Expr:
        text = str(tree.children[0])
        value = float(text)
        if math.isinf(value):
            self._problem(tree, "the number is too large", got=text if len(text) < 20 else f"{len(text)} digits")
        return self._mark(tree, Num(int(text) if text.isdigit() and value < LARGEST_WHOLE else value))

    def _expr_name(self, tree: Tree) -> Expr:
        text = str(tree.children[0])
        return self._mark(tree, Num(math.inf) if text == "inf" else Name(text))

    def _expr_group(self, tree: Tree) -> Expr:
        return self._expr(tree.children[0])

    def _expr_minus(self, tree: Tree) -> Expr:
        inner = tree.children[1]
        value = self._expr(inner)
        if isinstance(value, Num) and inner.data in ("number", "name"):
            return self._mark(tree, Num(-value.value))
        return self._mark(tree, Apply("neg", (value,)))

    def _expr_infix(self, tree: Tree) -> Expr:
        left, symbol, right = tree.children
        return self._mark(symbol, Apply(str(symbol), (self._expr(left), self._expr(right))))

    def _expr_access(self, tree: Tree) -> Access:
        name, *indices = tree.children
        return self._mark(tree, Access(str(name), tuple(map(self._expr, indices))))

    def _expr_call(self, tree: Tree) -> Expr:
        name, *args = tree.children
        return self._mark(tree, Apply(str(name), tuple(map(self._expr, args))))

    def _syntax(self, error: Any, statement: Statement) -> Problem:
        """A plain sentence for what lark could not read."""
        token = getattr(error, "token", None)
        ended = token is not None and token.type == "$END"
        lines = statement.text.rstrip().split("\n")
        line, column = (len(lines), len(lines[-1]) + 1) if ended else (error.line, error.column)
        got = "the end of the statement" if ended else f"`{token or lines[line - 1][column - 1]}`"
        words = " ".join([*lines[: line - 1], lines[line - 1][: column - 1]]).split()
        hint = suggest(words[0], KEYWORDS) if len(words) == 1 else ""
        if hint:
            return self.source.at(statement.line, 1, "no such statement", got=words[0], hint=hint)
        allowed = set(getattr(error, "accepts", None) or getattr(error, "allowed", None) or ())
        expected = [text for terminal, text in _EXPECTED if terminal in allowed]
        what = f"expected {expected[0]}" if expected else "a statement cannot begin like this"
        return self.source.at(self.line + line, column, what, got=got)
