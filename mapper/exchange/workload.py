"""Workloads of other tools as cascades: Timeloop problems, AccelForge workloads, TeAAL declarations.

Each becomes the text of a cascade, a statement for a place of the file, so that the one parser checks it and its
problems are reported where the statement came from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from einsum.cascade import Cascade
from einsum.parse import parse
from einsum.problems import InputError
from mapper.exchange.source import View

TYPES = {8: "fp8", 16: "bf16", 32: "fp32", 64: "fp64"}  # bits of a value -> element type
_ACCESS = re.compile(r"(\w+)(?:\((\w+)\))?\[([^\]]*)\]")  # AccelForge: `K(weight)[b, M=p]`, `M:p` in older versions
_BOUND = re.compile(r"\s*0\s*<=\s*(\w+)\s*<\s*(\d+)\s*")
_OLD_SUM = re.compile(r"sum\([\w,\s]*\)\.\((.*)\)")  # TeAAL's former `sum(K).(...)`


@dataclass
class Imported:
    """A cascade in the making: its statements, and which of its Einsums and ranks a foreign name means."""

    name: str
    lines: list[tuple[str, View]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)  # rank -> size
    einsums: dict[str, str] = field(default_factory=dict)
    ranks: dict[str, str] = field(default_factory=dict)
    aliases: set[str] = field(default_factory=set)  # other names of tensors

    def rank(self, name: str, view: View) -> str:
        """The rank variable for a foreign name of a dimension."""
        lower = name.lower()
        if not re.fullmatch(r"[a-z]\w*", lower):
            raise view.fail("not a name of a rank here: a letter, then letters, digits and _", name)
        if self.ranks.setdefault(lower, name) != name:
            raise view.fail(f"{name} and {self.ranks[lower]} are one rank here, where case makes no difference", name)
        return lower

    def add(self, text: str, view: View) -> None:
        self.lines.append((text, view))

    def tensor(self, name: str, ranks: list[str], bits: int | None, view: View) -> None:
        """Declare a tensor, once."""
        if any(text.startswith(f"tensor {name}[") for text, _ in self.lines):
            return
        if bits is not None and bits not in TYPES:
            known = min((b for b in TYPES if b >= bits), default=64)
            view.note(f"no element type of {bits} bits: {name} takes {TYPES[known]}")
            bits = known
        self.add(f"tensor {name}[{','.join(ranks)}]" + (f": {TYPES[bits]}" if bits else ""), view)

    def cascade(self, top: View) -> Cascade:
        """The cascade; InputError with every problem at the place that the statement came from."""
        sizes = [(f"size {rank.upper()} = {n}", top) for rank, n in self.sizes.items()]
        lines = [(f"cascade {self.name}", top), *self.lines, *sizes]
        try:
            return parse("\n".join(text for text, _ in lines))
        except InputError as error:
            found = [(lines[p.line - 1][1] if p.line else top, p) for p in error.problems]
            places = [(view.problem(p.what, p.got, p.hint), p) for view, p in found]
            raise InputError(replace(at, path=at.path or p.path) for at, p in places) from None


def timeloop(problem: View, name: str, bits: int | None = None) -> tuple[Cascade, Imported]:
    """Timeloop v4 `problem:`: one Einsum, the product of what it reads, in values of `bits`."""
    shape, made = problem.want("shape"), Imported(name)
    for view in shape.want("dimensions").listed():
        made.rank(view.text(), view)
    if (title := shape.get("name")) is not None and re.fullmatch(r"[A-Za-z0-9][\w.-]*", title.text()):
        made.name = title.text()
    instance = problem.want("instance")
    coefficients = {v.want("name").text(): v for v in shape.each("coefficients")}
    values = {n: (instance.get(n) or v.get("default") or instance.want(n)).whole() for n, v in coefficients.items()}
    for dimension in made.ranks.values():
        if dimension in instance:
            made.sizes[dimension.lower()] = instance.want(dimension).whole()
    accesses = [_data_space(view, made, values, bits) for view in shape.want("data_spaces", "data-spaces").listed()]
    outputs = [text for text, output in accesses if output]
    inputs = [text for text, output in accesses if not output]
    if len(outputs) != 1 or not inputs:
        raise shape.fail(f"one data space must be read_write and others not: {len(outputs)} of {len(accesses)} are")
    made.add(f"{outputs[0]} = {' * '.join(inputs)}", shape)
    return made.cascade(problem), made


def _data_space(view: View, made: Imported, values: dict[str, int], bits: int | None) -> tuple[str, bool]:
    """The access of a data space, and whether it is written; declares its tensor."""
    indices, ranks = [], []
    for dimension in view.want("projection").listed():
        terms = []
        for term in dimension.listed():
            rank, *factor = [part.text() for part in term.listed()] or [""]
            if rank.lower() not in made.ranks or any(name not in values for name in factor):
                raise term.fail("unknown dimension or coefficient", " ".join((rank, *factor)))
            terms.append((rank.lower(), values[factor[0]] if factor else 1))
        if not terms:
            raise dimension.fail("no dimension in an index")
        indices.append("+".join(rank if n == 1 else f"{n}*{rank}" for rank, n in terms))
        ranks.append(terms[0][0] if indices[-1] == terms[0][0] else _window(terms, made, view))
    name, written = view.want("name").name(), view.get("read_write")
    made.tensor(name, ranks, bits, view)
    return f"{name}[{','.join(indices)}]", written is not None and written.text().lower() in ("true", "1")


def _window(terms: list[tuple[str, int]], made: Imported, view: View) -> str:
    """A rank as long as the greatest index `2*p+r` needs, defined as a size of its own."""
    rank = "_".join(rank if n == 1 else f"{rank}{n}" for rank, n in terms) + ("_" if len(terms) == 1 else "")
    size = " + ".join(f"{n} * ({r.upper()} - 1)" if n > 1 else f"{r.upper()} - 1" for r, n in terms)
    line = f"size {rank.upper()} = {size} + 1"
    if all(text != line for text, _ in made.lines):
        made.add(line, view)
    return rank


def accelforge(workload: View, name: str) -> tuple[Cascade, Imported]:
    """AccelForge `workload:`. Verbose Einsums have no operators: operands are multiplied and summed, one is copied."""
    made = Imported(name)
    for rank, size in workload.pairs("rank_sizes"):
        made.sizes[made.rank(rank, size)] = size.whole()
    for rank, bound in workload.pairs("iteration_space_shape", "shape"):
        if match := _BOUND.fullmatch(bound.text()):
            made.sizes[made.ranks.setdefault(rank.lower(), rank).lower()] = int(match[2])
        else:
            bound.note("only bounds such as `0 <= m < 128` carry over", bound.text())
    default = _bits(workload)
    written: set[str] = set()
    for einsum in workload.want("einsums").listed():
        _einsum(einsum, made, default, written)
    cascade = made.cascade(workload)
    for name in default:
        if name not in ("All", *cascade.tensor, *made.aliases):
            workload.want("bits_per_value").note("no tensor has this name", name)
    return cascade, made


def _bits(workload: View) -> dict[str, int]:
    """Tensor (or `All`) -> bits of a value; other set expressions are notes."""
    bits: dict[str, int] = {}
    for names, value in workload.pairs("bits_per_value"):
        if all(re.fullmatch(r"\w+", part.strip()) for part in names.split("|")):
            bits |= {part.strip(): value.whole() for part in names.split("|")}
        else:
            value.note("set expressions other than names joined by | do not carry over", names)
    return bits


def _einsum(view: View, made: Imported, default: dict[str, int], written: set[str]) -> None:
    """One Einsum: a text, `einsum:` with a text, or a list of accesses."""
    text, copies = view if isinstance(view.data, str) else view.get("einsum"), "is_copy_operation" in view
    accesses, bits = _accesses(view, made, default)
    if text is not None:
        found = _ACCESS.findall(text.text().partition("=")[0]), _ACCESS.findall(_right(text))
        if len(found[0]) != 1 or not found[1]:
            raise text.fail("expected `OUT[ranks] = A[ranks] * ...`", text.text())
        for i, (tensor, alias, inside) in enumerate((*found[0], *found[1])):
            made.aliases.add(alias)
            if alias in default:
                bits.setdefault(tensor, default[alias])
            pairs = [re.split(r"[=:]", p) if re.search("[=:]", p) else [p.upper(), p] for p in inside.split(",")]
            accesses.append((tensor, [(rank.strip(), index.strip()) for rank, index in pairs], i == 0))
    outputs = [access for access in accesses if access[2]]
    inputs = [access for access in accesses if not access[2]]
    if len(outputs) != 1 or not inputs:
        raise view.fail(f"needs one output and at least one input, it has {len(outputs)} and {len(inputs)}")
    name, projection, _ = outputs[0]
    for tensor, pairs, output in accesses:
        for rank, index in pairs:
            _same_size(made, made.ranks.setdefault(rank.lower(), rank).lower(), index)
        ranks = [index if output else rank.lower() for rank, index in pairs]
        if tensor not in written or output:
            made.tensor(tensor, ranks, bits.get(tensor, default.get(tensor, default.get("All"))), view)
    written.add(name)
    show = lambda tensor, pairs: f"{tensor}[{','.join(index for _, index in pairs)}]"
    right = " * ".join(show(tensor, pairs) for tensor, pairs, _ in inputs)
    if text is not None:
        by_order = iter(inputs)
        right = _ACCESS.sub(lambda _: show(*next(by_order)[:2]), _right(text))
    elif len(inputs) == 1 and sorted(i for _, i in inputs[0][1]) == sorted(i for _, i in projection) and not copies:
        view.note("has one operand and no operator, so it is a copy here and computes nothing")
    made.einsums[title.text() if (title := view.get("name")) else name] = name
    made.add(f"{show(name, projection)} = {right}", view)


def _right(text: View) -> str:
    """The right side: after the first `=` outside of brackets."""
    match = re.match(r"[^\]]*\]\s*=(.*)", text.text(), re.S)
    return match[1].strip() if match else ""


def _accesses(
    view: View, made: Imported, default: dict[str, int]
) -> tuple[list[tuple[str, list[tuple[str, str]], bool]], dict]:
    """(tensor, (rank, index) pairs, whether it is written) of the verbose form; bits of each tensor."""
    found, bits = [], {}
    if isinstance(view.data, str):
        return found, bits
    view.get("is_copy_operation")  # which is what one operand means here
    for access in view.each("tensor_accesses"):
        name = access.want("name").name()
        if (width := access.get("bits_per_value")) is not None:
            bits[name] = width.whole()
        if (projection := access.get("projection")) is not None:
            if isinstance(projection.data, list):
                pairs = [(i.text().upper(), i.text()) for i in projection.listed()]
            else:
                pairs = [(rank, i.text()) for rank, i in projection.items()]
            output = access.get("output")
            found.append((name, pairs, bool(output is not None and output.data)))
    for alias, tensors in view.pairs("renames"):
        made.aliases.add(alias)
        if alias in default:
            bits.setdefault(tensors.text(), default[alias])
    return found, bits


def _same_size(made: Imported, rank: str, index: str) -> None:
    """A rank and the variable that alone indexes it are equally long; either may have been given."""
    if re.fullmatch(r"[a-z]\w*", index):
        for one, other in ((rank, index), (index, rank)):
            if one in made.sizes:
                made.sizes.setdefault(other, made.sizes[one])


def teaal(einsum: View, name: str) -> tuple[Cascade, Imported]:
    """TeAAL `einsum:`: declared tensors and expressions of `+ - *`; sizes and types are those of the data there."""
    made = Imported(name)
    for tensor, ranks in einsum.want("declaration").items():
        made.tensor(tensor, [made.rank(rank.text(), rank) for rank in ranks.listed()], None, ranks)
    for expression in einsum.want("expressions").listed():
        left, _, right = expression.text().partition("=")
        if "take(" in right:
            raise expression.fail("take() has no counterpart: nothing is sparse here", expression.text())
        if old := _OLD_SUM.fullmatch(right.strip()):
            right = old[1]
        made.add(f"{left.strip()} = {right.strip()}", expression)
        made.einsums[left.partition("[")[0].strip()] = left.partition("[")[0].strip()
    return made.cascade(einsum), made
