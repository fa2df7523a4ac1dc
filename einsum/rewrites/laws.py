"""The laws that derivations work from: one row each, written in the language of cascades (SEMANTICS 2.4).

In a pattern `x`, `y` and `w` vary along the reduced rank and `g`, `k` and `n` do not. A new algorithm for another
reduction comes by adding its row; no rewrite knows a tensor by its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from einsum.cascade import Expr
from einsum.parse import parse_expression

REGROUP, DISTRIBUTE, TRANSPORT, SHIFT = "regroup", "distribute", "transport", "shift"


@dataclass(frozen=True)
class Law:
    """`term` may be replaced by `result`, by the kind of law:

    regroup: anywhere. distribute: under the reduction, whose remaining parts are written `sum(...)`.
    transport: `s`, the reduction of `term` with an old `g`, becomes `result`, the reduction with its successor `h`.
    shift: `term` is `result` times `scale`, for the `g` that `given` says.
    """

    name: str
    kind: str
    term: str
    result: str
    reduction: str = ""  # the word, such as sum
    lets: tuple[tuple[str, str], ...] = ()  # names in `result` and what they stand for
    given: str = ""  # what `g` must be; `n` is then the number of points of the old `s`
    scale: str = ""
    unstable: str = ""  # why the law is refused unless it is asked for by name

    @cached_property
    def pattern(self) -> Expr:
        return parse_expression(self.term)

    @cached_property
    def replacement(self) -> Expr:
        return parse_expression(self.result)

    def __str__(self) -> str:
        wrap = lambda text: f"{self.reduction}({text})" if self.reduction else text
        if self.kind == TRANSPORT:
            carried = self.result
            for name, text in self.lets:
                carried += f", {name} = {text}"
            where = f" for g = {self.given}" if self.given else ""
            return f"{self.name}: with s = {wrap(self.term)}, the same for h in place of g is {carried}{where}"
        scale = f" * {self.scale} with g = {self.given}" if self.scale else ""
        return f"{self.name}: {wrap(self.term)} = {self.result}{scale}"


LAWS = (
    Law("a product divides late", REGROUP, "(x / g) * y", "(x * y) / g"),
    Law("quotients gather", REGROUP, "(x / g) / k", "x / (g * k)"),
    Law("differences gather", REGROUP, "(x - g) - k", "x - (g + k)"),
    Law("a factor moves out", REGROUP, "(x * g) * y", "(x * y) * g"),
    Law("division distributes over sum", DISTRIBUTE, "x / g", "sum(x) / g", "sum"),
    Law("multiplication distributes over sum", DISTRIBUTE, "x * g", "sum(x) * g", "sum"),
    Law("subtraction distributes over max", DISTRIBUTE, "x - g", "max(x) - g", "max"),
    Law("exponentials rescale", TRANSPORT, "exp(x - g)", "s * c", "sum", (("c", "exp(g - h)"),)),
    Law("powers of two rescale", TRANSPORT, "exp2(x - g)", "s * c", "sum", (("c", "exp2(g - h)"),)),
    Law("a maximum shifts", TRANSPORT, "x - g", "s + d", "max", (("d", "g - h"),)),
    Law("squares move with the mean", TRANSPORT, "(x - g) * (x - g)", "s + c", "sum",
        (("d", "g - h"), ("c", "n * d * d")), given="sum(x) / n"),
    Law("raw moments", DISTRIBUTE, "(x - g) * (x - g)", "sum(x * x) - n * g * g", "sum", given="sum(x) / n",
        unstable="it subtracts large numbers that are nearly equal, which cancel in fp32"),
    Law("softmax is shift-invariant", SHIFT, "exp(x)", "exp(x - g)", given="max(x)", scale="exp(g)"),
)  # fmt: skip


def usable(laws: tuple[Law, ...] = LAWS, allow: tuple[str, ...] = ()) -> tuple[Law, ...]:
    """The laws without those that lose digits, unless they are allowed by name."""
    return tuple(law for law in laws if not law.unstable or law.name in allow)


STABLE = usable()
