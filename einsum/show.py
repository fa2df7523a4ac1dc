"""`Cascade` -> text, such that `parse(show(c)) == c`."""

from __future__ import annotations

from einsum.cascade import DEFAULT_DTYPE, Access, Apply, Cascade, Einsum, Expr, Guard, Name, Num, Tensor
from einsum.ops import OPS, REDUCE_OPS

_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "neg": 3}  # tighter with a larger number


def show(cascade: Cascade) -> str:
    """The text of a cascade: its doc as comments, header, declarations, sizes, one line for each statement."""
    lines = [f"# {line}".rstrip() for line in cascade.doc.splitlines()]
    lines.append(f"cascade {cascade.name}")
    lines += [_declaration(t) for t in cascade.tensors if t.name not in cascade or t.dtype != DEFAULT_DTYPE]
    lines += [f"size {name} = {show_expr(definition)}" for name, definition in cascade.sizes]
    lines += ["", *map(show_einsum, cascade.einsums)]
    return "\n".join(lines) + "\n"


def show_einsum(einsum: Einsum) -> str:
    """One statement on one line."""
    guards = " | " + " and ".join(map(show_guard, einsum.guards)) if einsum.guards else ""
    reduction = ""
    if einsum.reduced and einsum.reduce_op != "add":
        reduction = f"{REDUCE_OPS[einsum.reduce_op].reduction}[{','.join(einsum.reduced)}] "
    init = f" init {_number(einsum.init)}" if einsum.init is not None else ""
    value = show_expr(einsum.expr)
    if einsum.topk:
        value = f"topk[{','.join(einsum.topk.ranks)}]({value}, {show_expr(einsum.topk.count)})"
    return f"{show_expr(einsum.output)}{guards} = {reduction}{value}{init}"


def show_guard(guard: Guard) -> str:
    """`m <= p`, or the access of a boolean tensor."""
    left, right = show_expr(guard.left, ""), show_expr(guard.right, "")
    return left if guard.relation == "true" else f"{left} {guard.relation} {right}"


def show_expr(expr: Expr, space: str = " ") -> str:
    """An expression; indices are set without spaces."""
    match expr:
        case Num(value):
            return _number(value)
        case Name(name):
            return name
        case Access(tensor, indices):
            return f"{tensor}[{','.join(show_expr(index, '') for index in indices)}]"
        case Apply("neg", (arg,)):
            inside = show_expr(arg, space)
            return f"-({inside})" if isinstance(arg, Num) or _binding(arg) < _BINDS["neg"] else f"-{inside}"
        case Apply(op, (left, right)) if OPS[op].symbol:
            first, second = show_expr(left, space), show_expr(right, space)
            first = f"({first})" if _binding(left) < _BINDS[op] else first
            second = f"({second})" if _binding(right) <= _BINDS[op] else second
            return f"{first}{space}{op}{space}{second}"
        case Apply(op, args):
            return f"{op}({f',{space}'.join(show_expr(arg, space) for arg in args)})"


def _declaration(tensor: Tensor) -> str:
    dtype = f": {tensor.dtype}" if tensor.dtype != DEFAULT_DTYPE else ""
    return f"tensor {tensor.name}[{','.join(tensor.ranks)}]{dtype}"


def _binding(expr: Expr) -> int:
    return _BINDS.get(expr.op, 4) if isinstance(expr, Apply) else 4


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
