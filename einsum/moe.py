"""Mixtures of experts from the library's texts: variants of gates and of experts, and layers made of both.

A gate makes A, the choice, and W, its weights, from logits L; experts read both (SEMANTICS 1.10.9).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from einsum.cascade import Access, Cascade, Einsum, Name
from einsum.compose import joined
from einsum.parse import parse
from einsum.show import show, show_einsum, show_expr
from einsum.variants import Change, Variant, split, stated, vary

GATE, LAYER, EXPERTS = "gate-", "moe-", "moe-experts"
ADDS_UP = ("gate-topk-softmax", "gate-sigmoid-topk")  # gates whose weights add up to 1 as they are
ROUTER = """
tensor X[t,d]: bf16
tensor WR[d,e]: bf16
tensor L[t,e]: bf16
L[t,e] = X[t,d] * WR[d,e]"""


def names(stems: tuple[str, ...]) -> tuple[str, ...]:
    """Each gate and the experts with each variant that they take, and the layer of each gate."""
    gates = _gates(stems)
    varied = (f"{gate}-{v}" for gate in gates for v in GATES if (gate, v) not in REFUSED)
    return (*varied, *(f"{EXPERTS}-{v}" for v in BEHIND), *(gate.replace(GATE, LAYER) for gate in gates))


def load(name: str, stems: tuple[str, ...], text: Callable[[str], Cascade]) -> Cascade | None:
    """A gate or the experts with variants, or a layer: `moe-`, the gate's name, its variants, those of the experts.

    None for other names; `text` loads one of the stems.
    """
    if found := split(name, (EXPERTS,), BEHIND):
        return vary(text(EXPERTS), found[1], BEHIND)
    layer = name.startswith(LAYER)
    found = split(name.replace(LAYER, GATE, 1), _gates(stems), GATES | BEHIND) if layer else None
    found = found or split(name, _gates(stems), GATES)
    if found is None or any((found[0], v) in REFUSED for v in found[1]):
        return None
    gate = vary(text(found[0]), tuple(v for v in found[1] if v in GATES), GATES)
    if not layer:
        return gate
    experts = vary(text(EXPERTS), tuple(v for v in found[1] if v in BEHIND), BEHIND)
    return joined(name, (parse(ROUTER), gate, experts), f"{gate.doc}\n{experts.doc}")


def _gates(stems: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(stem for stem in stems if stem.startswith(GATE))


def _with(text: str, raw: str, declare: str = "") -> Change:
    """More statements for the result of a gate (W) or the experts (Y), which they read under the name `raw`."""
    result = text.splitlines()[-1].partition("[")[0]

    def change(cascade: Cascade) -> Cascade:
        lines = (_named(e, raw) if e.name == result else show_einsum(e) for e in cascade.einsums)
        return stated(cascade, (*lines, text), declare)

    return change


def _named(einsum: Einsum, name: str) -> str:
    return show_einsum(replace(einsum, output=replace(einsum.output, tensor=name)))


def _groups(cascade: Cascade) -> Cascade:
    """The choice among the experts of the best groups alone; a group is worth what its best ones add up to."""
    lines: list[str] = []
    for e in cascade.einsums:
        if e.topk:
            assert isinstance(e.expr, Access), "a gate chooses by the values of a tensor"
            best = GROUP_SUM if "BIAS" in cascade.tensor else GROUP_MAX
            lines.append((best + GROUPS).replace("VALUE", e.expr.tensor))
            e = replace(e, expr=replace(e.expr, tensor="BM"))
        lines.append(show_einsum(e))
    return stated(cascade, lines, "tensor AJ[t,j]: bool\nsize Q = E / J")


def _dynamic(cascade: Cascade) -> Cascade:
    """The count of the top-k that chooses experts is a tensor."""
    of_token = lambda topk: replace(topk, count=Access("KT", (Name("t"),)))
    made = (replace(e, topk=of_token(e.topk)) if e.name == "A" else e for e in cascade.einsums)
    return stated(cascade, map(show_einsum, made), "tensor KT[t]: int32")


def _capacity(cascade: Cascade) -> Cascade:
    lines = (show_einsum(e).replace("A[t,e]", "AC[t,e]") for e in cascade.einsums)
    return stated(cascade, (CAPACITY, *lines), "tensor PL[t,e]: int32")


def _widths(cascade: Cascade) -> Cascade:
    lines = (re.sub(r"^(UG?\[e,t,i\])", r"\1 | i < WIDTH[e]", show_einsum(e)) for e in cascade.einsums)
    return stated(cascade, lines, "tensor WIDTH[e]: int32")


def _parallel(cascade: Cascade) -> Cascade:
    """Ranks p and e0 for the rank e of whatever belongs to an expert; what belongs to a token keeps its own."""
    spread = lambda line: re.sub(r"\[e\b", "[p,e0", line).replace("[t,e]", "[t,p*E0+e0]")
    head, _ = show(replace(cascade, doc="")).split("\n\n", 1)
    head = re.sub(r"\[e\b", "[p,e0", head) + "\ntensor XP[p,t,d]: bf16\nsize E0 = E / P"
    lines: list[str] = []
    for e in cascade.einsums:
        line = show_einsum(e) if e.output_ranks == ("t", "e") else spread(show_einsum(e))
        if e.name == "XE":
            chosen = show_expr(e.guards[0].left)
            lines += [spread(f"NP[p,t] = {chosen}"), "XP[p,t,d] | NP[p,t] > 0 = X[t,d]"]
            line = line.replace("= X[t,d]", "= XP[p,t,d]")
        elif e.reduced == ("e",):
            lines.append(line.replace(f"{e.name}[t,d]", "YP[p,t,d]"))
            line = f"{e.name}[t,d] = YP[p,t,d]"
        lines.append(line)
    return parse("\n".join((head, *lines)))


GROUP_SUM = """VALUEG[t,j,q] = VALUE[t,j*Q+q]
AQ[t,j,q] = topk[q](VALUEG[t,j,q], 2)
GJ[t,j] = AQ[t,j,q] * VALUEG[t,j,q]
"""
GROUP_MAX = """VALUEG[t,j,q] = VALUE[t,j*Q+q]
GJ[t,j] = max[q] VALUEG[t,j,q]
"""
GROUPS = """AJ[t,j] = topk[j](GJ[t,j], KJ)
BM[t,e] | AJ[t,e//Q] = VALUE[t,e]"""
CAPACITY = """PL[t+1,e] = PL[t,e] + A[t,e] init 0
AC[t,e] | PL[t+1,e] <= CAP = A[t,e]"""
SHARED_WEIGHTS = """tensor WS1[d,v]: bf16
tensor WS3[d,v]: bf16
tensor WS2[v,d]: bf16
tensor HS[t,v]: bf16"""
SHARED = """US[t,v] = X[t,d] * WS1[d,v]
UGS[t,v] = X[t,d] * WS3[d,v]
HS[t,v] = silu(US[t,v]) * UGS[t,v]
YS[t,d] = HS[t,v] * WS2[v,d]
Y[t,d] = YR[t,d] + YS[t,d]"""
GATES: dict[str, Variant] = {  # in the order in which a name takes them
    "groups": Variant(
        _groups,
        "Groups (DeepSeek-V2, V3, 2024): experts j*Q to j*Q+Q-1 are group j; a token chooses among its KJ best groups.",
    ),
    "renorm": Variant(
        _with("WS[t] = WC[t,e]\nW[t,e] = WC[t,e] / WS[t]", "WC"), "The weights of the chosen are made to add up to 1."
    ),
    "scaled": Variant(_with("W[t,e] = SCALE[] * WU[t,e]", "WU", "tensor SCALE[]"), "The weights are scaled."),
    "dynamic": Variant(_dynamic, "Token t takes KT[t] experts (DynaMoE, 2025)."),
}
BEHIND: dict[str, Variant] = {
    "capacity": Variant(
        _capacity,
        "Capacity (GShard, ICLR 2021): an expert keeps its first CAP tokens and drops the others.",
    ),
    "widths": Variant(
        _widths, "Experts differ in width: WIDTH[e] of the hidden elements; 0 skips the block (Duo-LLM, 2024)."
    ),
    "shared": Variant(
        _with(SHARED, "YR", SHARED_WEIGHTS), "Shared experts, of V hidden elements together, see every token."
    ),
    "parallel": Variant(
        _parallel,
        "Expert parallel: device p has experts p*E0 to p*E0+E0-1; a token's row XP goes once to each device that has\n"
        "any of its experts, and comes back as the sum YP of their results.",
    ),
}
REFUSED = {(gate, "renorm") for gate in ADDS_UP}
