"""Variants of attention: changes to any cascade that computes AV from Q, K and V through scores QK (SEMANTICS 1.10).

Heads and masks apply to its backward cascades too: what queries share has the sum of their gradients, what is hidden
has none.

A variant is text added to a cascade's text, or other ranks for its tensors, so that each is written once for all ways
to compute the softmax.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from einsum.cascade import DEFAULT_DTYPE, Access, Apply, Cascade, Einsum, Expr, Name, rank_variables, walk
from einsum.compose import Ranks, reindexed, renamed
from einsum.parse import parse
from einsum.show import show, show_einsum, show_expr, show_guard

Change = Callable[[Cascade], Cascade]
_SCORES = re.compile(r"B?QK\d*")


@dataclass(frozen=True)
class Variant:
    """A change and the sentence that it adds to the cascade's description; of one `group` a cascade takes one."""

    change: Change
    doc: str
    group: str = ""


def vary(cascade: Cascade, names: tuple[str, ...], table: Mapping[str, Variant] | None = None) -> Cascade:
    """The cascade with variants (of attention, or another table's) applied in order; its name gets theirs appended."""
    for name in names:
        variant = (table or VARIANTS)[name]
        doc = f"{cascade.doc}\n{variant.doc}"
        cascade = replace(variant.change(cascade), name=f"{cascade.name}-{name}", doc=doc)
    return cascade


def split(
    name: str, stems: tuple[str, ...], table: Mapping[str, Variant] | None = None
) -> tuple[str, tuple[str, ...]] | None:
    """`attention-1pass-gqa-causal` -> its stem and variants (of attention, or another table's); None if these are
    unknown, out of order or exclusive."""
    table = table or VARIANTS
    for stem in sorted((s for s in stems if name == s or name.startswith(f"{s}-")), key=len, reverse=True):
        rest, found = name.removeprefix(stem), []
        for variant in table:
            if rest == f"-{variant}" or (rest.startswith(f"-{variant}-") and not _longer(rest, variant, table)):
                found.append(variant)
                rest = rest.removeprefix(f"-{variant}")
        groups = [table[v].group for v in found if table[v].group]
        if not rest and len(set(groups)) == len(groups):
            return stem, tuple(found)
    return None


def _longer(rest: str, variant: str, table: Iterable[str]) -> bool:
    """Whether the rest of a name begins with a variant whose name goes on where this one ends."""
    return any(v.startswith(f"{variant}-") and (f"{rest}-").startswith(f"-{v}-") for v in table)


def stated(cascade: Cascade, statements: Iterable[str], declare: str = "") -> Cascade:
    """The cascade with other statements and more declarations, as text."""
    head, _ = show(replace(cascade, doc="")).split("\n\n", 1)
    return parse("\n".join((head, declare, *statements)))


def _around(cascade: Cascade, declare: str, first: str, last: str = "") -> Cascade:
    """The cascade with more declarations, and statements in front and at the end."""
    return stated(cascade, (first, *map(show_einsum, cascade.einsums), last), declare)


def _key(cascade: Cascade) -> Expr:
    """The key's coordinate as the scores spell it: `m`, or `m1*M0+m0` behind the partitioning of K."""
    if "BK" not in cascade:
        return Name("m")
    view = cascade["BK"].expr
    assert isinstance(view, Access), "BK is a view of K"
    return view.indices[cascade.tensor["K"].ranks.index("m")]


def _products(cascade: Cascade) -> tuple[str, ...]:
    """The Einsums that first bring queries and keys together."""
    keys = set(rank_variables(_key(cascade)))
    both = {e.name for e in cascade.einsums if "p" in e.output_ranks and keys & set(e.output_ranks)}
    return tuple(e.name for e in cascade.einsums if e.name in both and not both & {a.tensor for a in e.reads})


def _guard(text: str, declare: str = "") -> Change:
    """A guard on the products of queries and keys; KEY stands for the key's coordinate."""

    def change(cascade: Cascade) -> Cascade:
        guard = text.replace("KEY", f"({show_expr(_key(cascade))})")
        guarded = _products(cascade)
        statements = (_with_guard(e, guard) if e.name in guarded else show_einsum(e) for e in cascade.einsums)
        return stated(cascade, statements, declare)

    return change


def _with_guard(einsum: Einsum, guard: str) -> str:
    left, right = show_einsum(einsum).split(" = ", 1)
    return f"{left} {'and' if einsum.guards else '|'} {guard} = {right}"


def _scores(raw: str, text: str, declare: str = "") -> Change:
    """Scores made of raw ones by more statements; the raw ones get the letter `raw` in front of their name.

    In both texts NEW and RAW stand for the scores, RANKS for their ranks, HEADS and KEYS for those of the head and of
    the key, KEY for the key's coordinate, TAG for the number behind the name of scores that are computed again, WHERE
    for the guards of the products: what is added to a union needs them.
    """

    def change(cascade: Cascade) -> Cascade:
        statements, declared = [], []
        for e in cascade.einsums:
            if not _SCORES.fullmatch(e.name):
                statements.append(show_einsum(e))
                continue
            words = _words(cascade, e, raw)
            statements.append(show_einsum(replace(e, output=replace(e.output, tensor=raw + e.name))))
            statements.append(_filled(text, words))
            declared += _filled(declare, words).splitlines()
        return stated(cascade, statements, "\n".join(dict.fromkeys(declared)))

    return change


def _words(cascade: Cascade, scores: Einsum, raw: str) -> Mapping[str, str]:
    """What the words of `_scores` stand for; none is the beginning of a later one."""
    keys = rank_variables(_key(cascade))
    heads = [rank for rank in scores.output_ranks if rank not in ("b", "p", *keys)]
    index = f"[{','.join(scores.output_ranks)}]"
    guards = " and ".join(map(show_guard, cascade[_products(cascade)[0]].guards))
    return {
        "NEW": scores.name + index,
        "RAW": raw + scores.name + index,
        "RANKS": index,
        "HEADS": ",".join(heads),
        "WHERE": f"| {guards}" if guards else "",
        "TAG": scores.name.lstrip("BQK"),
        "KEYS": ",".join(keys),
        "KEY": f"({show_expr(_key(cascade))})",
    }


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, by in words.items():
        text = text.replace(word, by)
    return text


def _key_side(cascade: Cascade) -> set[str]:
    """K, V and what is made of them alone."""
    found = {"K", "V"}
    for e in cascade.einsums:
        if e.reads and {a.tensor for a in e.reads} <= found:
            found.add(e.name)
    return found


def _heads(queries: Ranks, keys: Ranks) -> Change:
    """Other heads for queries and for keys; gradients of keys and values are summed over the queries' heads, last."""

    def change(cascade: Cascade) -> Cascade:
        gradients = tuple(cascade.tensor[name] for name in ("DV", "DK") if name in cascade)
        parts = {t.name: f"P{t.name}" for t in gradients}
        apart = renamed(cascade, parts)
        key_side = _key_side(apart)
        made = reindexed(apart, lambda tensor: keys if tensor in key_side else queries)
        if not gradients:
            return made
        wide = tuple(replace(t, dtype=DEFAULT_DTYPE) if t.name in parts.values() else t for t in made.tensors)
        shared = {t.name: ",".join(r for rank in t.ranks for r in keys.get(rank, (rank,))) for t in gradients}
        declare = "\n".join(f"tensor {t.name}[{shared[t.name]}]: {t.dtype}" for t in gradients)
        ranks = {name: ",".join(made.tensor[part].ranks) for name, part in parts.items()}
        last = "\n".join(f"{name}[{shared[name]}] = {part}[{ranks[name]}]" for name, part in parts.items())
        return _around(replace(made, tensors=wide), declare, "", last)

    return change


def _paged(cascade: Cascade) -> Cascade:
    """Whatever is kept for each key lies in pages: a pool for it, and a view of the pool through the page table."""
    pools, views = ["tensor PT[b,j]: int32"], []
    for name in cascade.inputs:
        tensor = cascade.tensor[name]
        if {"b", "m"} <= set(tensor.ranks):
            page = {"b": "np", "m": "s"}
            pools.append(f"tensor {name}P[{','.join(page.get(r, r) for r in tensor.ranks)}]: {tensor.dtype}")
            place = {"b": "PT[b,m//S]", "m": "m%S"}
            index = ",".join(place.get(r, r) for r in tensor.ranks)
            views.append(f"{name}[{','.join(tensor.ranks)}] = {name}P[{index}]")
    return _around(cascade, "\n".join(pools), "\n".join(views))


def _latent(cascade: Cascade) -> Cascade:
    """Keys and values of every head expanded from the latent vectors."""
    declare = """
tensor QN[b,h,p,n]: bf16
tensor QR[b,h,p,r]: bf16
tensor L[b,m,c]: bf16
tensor KR[b,m,r]: bf16
tensor WUK[h,c,n]: bf16
tensor WUV[h,c,f]: bf16
tensor KN[b,h,m,n]: bf16
size E = N + R"""
    first = """
Q[b,h,p,e] = QN[b,h,p,e] + QR[b,h,p,e-N]
KN[b,h,m,n] = L[b,m,c] * WUK[h,c,n]
K[b,h,m,e] = KN[b,h,m,e] + KR[b,m,e-N]
V[b,h,m,f] = L[b,m,c] * WUV[h,c,f]"""
    return _around(cascade, declare, first)


def _absorbed(cascade: Cascade) -> Cascade:
    """One head of keys, the cache of latent and rotary parts; its latent part is the value as well."""
    one_head = VARIANTS["mqa"].change(cascade)
    inner = renamed(one_head, {"AV": "AL"}, {"f": ("c",)})
    declare = """
tensor QN[b,h,p,n]: bf16
tensor QR[b,h,p,r]: bf16
tensor WUK[h,c,n]: bf16
tensor WUV[h,c,f]: bf16
tensor QL[b,h,p,c]: bf16
tensor AV[b,h,p,f]: bf16
size E = C + R"""
    first = """
QL[b,h,p,c] = QN[b,h,p,n] * WUK[h,c,n]
Q[b,h,p,e] = QL[b,h,p,e] + QR[b,h,p,e-C]
V[b,m,c] = K[b,m,c]"""
    return _around(inner, declare, first, "AV[b,h,p,f] = AL[b,h,p,c] * WUV[h,c,f]")


def _logsumexp(cascade: Cascade) -> Cascade:
    """LSE of a query's scores: the logarithm of the denominator, and the maximum where one was subtracted."""
    quotients = (x for e in cascade.einsums for x in walk(e.expr) if isinstance(x, Apply) and x.op == "/")
    denominator = next(x.args[1] for x in quotients if isinstance(x.args[1], Access) and x.args[1].tensor in _MAXIMUM)
    assert isinstance(denominator, Access)
    text = f"LSE[{','.join(rank_variables(denominator))}] = log({show_expr(denominator)})"
    maximum = _MAXIMUM[denominator.tensor]
    shifted = f" + {show_expr(replace(denominator, tensor=maximum))}" if maximum in cascade else ""
    return _around(cascade, "", "", text + shifted)


_MAXIMUM = {"SD": "GM", "RD": "RM"}  # denominator -> the maximum that its exponentials are relative to
RELATIVE = """PQKTAGRANKS WHERE = QV[b,HEADS,p,e] * KD[HEADS,p+M-P-KEY,e]
NEW WHERE = RAW + PQKTAGRANKS"""
TOPK = """TOPTAGRANKS = topk[KEYS](RAW, KEEP)
NEW | TOPTAGRANKS = RAW"""
VARIANTS: dict[str, Variant] = {  # in the order in which a name takes them
    "gqa": Variant(
        _heads({"h": ("g", "r")}, {"h": ("g",)}),
        "Grouped queries (Ainslie et al., EMNLP 2023): R query heads share a key head; query head h is g*R + r.",
        "heads",
    ),
    "mqa": Variant(_heads({}, {"h": ()}), "One key head for all query heads (Shazeer 2019).", "heads"),
    "mla": Variant(
        _latent,
        "Latent attention (DeepSeek-V2, 2024): keys and values of all heads are expanded from latent vectors L, and\n"
        "rotary parts appended; outside of a tensor nothing exists, so that a sum with a shifted index appends.",
        "heads",
    ),
    "mla-absorbed": Variant(
        _absorbed,
        "Latent attention (DeepSeek-V2, 2024), absorbed: queries are taken into the latent space, so that the cache K\n"
        "(C latent and R rotary elements) is read as it is, by all heads.",
        "heads",
    ),
    "paged": Variant(_paged, "Paged (vLLM, SOSP 2023): page table PT maps block m//S of request b to one of NP pages."),
    "causal": Variant(_guard("KEY <= p"), "Causal: query p sees the keys m <= p.", "order"),
    "causal-end": Variant(
        _guard("KEY + P <= p + M"), "Causal, the queries being the last P of M positions (chunked prefill).", "order"
    ),
    "window": Variant(
        _guard("KEY <= p and KEY > p - W"), "Sliding window (Beltagy et al. 2020): the last W keys up to p.", "order"
    ),
    "lengths": Variant(_guard("KEY < LEN[b]", "tensor LEN[b]: int32"), "Ragged: request b has LEN[b] keys."),
    "blocks": Variant(
        _guard("MASK[p//PS,KEY//MS]", "tensor MASK[pb,mb]: bool\nsize PB = ceil(P / PS)\nsize MB = ceil(M / MS)"),
        "Block-sparse (Child et al. 2019): MASK says which blocks of PS queries by MS keys are computed.",
    ),
    "softcap": Variant(
        _scores("U", "NEW = CAP[] * tanh(RAW / CAP[])", "tensor CAP[]"), "Scores within +-CAP (Gemma 2, 2024)."
    ),
    "alibi": Variant(
        _scores("C", "NEW = RAW - SLOPE[HEADS] * (p - KEY)", "tensor SLOPE[HEADS]"),
        "Linear bias by distance (ALiBi, Press et al., ICLR 2022), a slope for each head.",
    ),
    "bias": Variant(
        _scores("N", "NEW WHERE = RAW + BIAS[HEADS,p,KEY]", "tensor BIAS[HEADS,p,m]"),
        "A bias for each pair of positions and each head (T5, 2020).",
    ),
    "relative": Variant(
        _scores("N", RELATIVE, "tensor QV[b,HEADS,p,e]: bf16\ntensor KD[HEADS,l,e]: bf16"),
        "Scores of distances beside those of contents (Transformer-XL, 2019): KD is a key for each distance, QV the\n"
        "query for them; query p is the last but P-1-p of the M positions. A key behind the query has no distance.",
    ),
    "topk": Variant(
        _scores("A", TOPK, "tensor TOPTAGRANKS: bool"),
        "Each query sees its KEEP largest scores only (Gupta et al. 2021).",
    ),
    "lse": Variant(_logsumexp, "LSE, the log-sum-exp of each query's scores, is kept for the backward pass."),
}
BACKWARD = ("gqa", "mqa", "causal", "causal-end", "window", "lengths", "blocks")  # those that backward cascades take
