"""A layer of a model as a cascade: norms, projections, attention and feed-forward block, for prefill or decode.

The statements between the pieces of the library stand here as text in the notation of docs/SEMANTICS.md section 1.
Biases are left out, as in the totals of `studies.models`. A rotary embedding is a map: the element and its partner,
half a head away, times tables of cosines and of sines; the sines of the first half of a head are negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from einsum.cascade import Cascade
from einsum.compose import joined, renamed
from einsum.library import load
from einsum.parse import parse
from einsum.problems import InputError, Problem, suggest
from einsum.show import show
from einsum.variants import VARIANTS
from studies.models import Experts, Latent, Model

MODES = ("prefill", "decode")
EXPERT_WEIGHTS = ("WR", "W1", "W2", "W3", "WS1", "WS2", "WS3")
OWN = ("gqa", "mqa", "mla", "mla-absorbed", "causal", "causal-end", "window", "bias", "relative")


def layer(
    model: Model,
    mode: str,
    batch: int,
    length: int,
    *,
    index: int = 0,
    queries: int = 1,
    source: int = 0,
    attention: str = "attention-3pass",
    variants: Sequence[str] = (),
) -> tuple[Cascade, dict[str, int]]:
    """Layer `index` of a model and the sizes that follow from the model and the arguments.

    Prefill: X holds `length` tokens of each of `batch` requests. Decode: X holds the last `queries` of `length`
    tokens; the cache K, V (of latent attention K alone) holds all of them, and what the step appends to it are the
    outputs KN, VN (latent: LN, RN). A layer with a window keeps that many positions. A layer that attends to an
    encoder needs the encoder's length as `source` (rank t). `attention` is any attention of the library and `variants`
    more of its variants, such as `paged`; their sizes (M0, page size S, ...) are the caller's to add. Y is the layer's
    output.
    Raises `InputError` for arguments that do not fit the model.
    """
    _check(model, mode, batch, length, index, queries, source, variants)
    window = model.layer_window(index)
    keys = min(length, window) if window and mode == "decode" else length
    made = _Layer(model, mode, index, attention, tuple(variants), keys, queries if mode == "decode" else length)
    cascade = joined(f"{model.name}-layer{index}-{mode}", made.parts(), made.doc())
    sizes = made.sizes() | {"B": batch, "T": source}
    return cascade, {name: sizes[name] for name in cascade.free_sizes if sizes.get(name)}


def _check(
    model: Model, mode: str, batch: int, length: int, index: int, queries: int, source: int, variants: Sequence[str]
) -> None:
    path = f"layer of {model.name}"
    problems = []
    if mode not in MODES:
        problems.append(Problem("mode is prefill or decode", path=path, got=mode, hint=suggest(mode, MODES)))
    if not 0 <= index < model.layers:
        problems.append(Problem(f"the model has layers 0 to {model.layers - 1}", path=path, got=str(index)))
    elif model.has_cross(index) and source < 1:
        problems.append(Problem(f"layer {index} attends to an encoder: give its length as source", path=path))
    if batch < 1 or length < 1 or not 1 <= queries <= length:
        got = f"{batch}, {length}, {queries}"
        problems.append(Problem("batch, length and queries are positive, queries at most length", path=path, got=got))
    for name in variants:
        allowed = [v for v in VARIANTS if v not in OWN]
        if name not in allowed:
            problems.append(Problem("not a variant to choose", path=path, got=name, hint=suggest(name, allowed)))
    if "lengths" in variants and mode == "decode" and (queries > 1 or model.positions in ("bias", "relative")):
        what = "requests of several lengths need one query each and positions that are not relative"
        problems.append(Problem(what, path=path, got="lengths"))
    if mode == "decode" and queries > 1 and model.layer_window(index):
        problems.append(Problem("a layer with a window decodes one query", path=path, got=str(queries)))
    if "paged" in variants and mode == "prefill":
        problems.append(Problem("pages hold a cache, which only decode reads", path=path, got="paged"))
    if mode == "decode" and not model.causal:
        problems.append(Problem("an encoder has no decode", path=path, got=mode))
    if problems:
        raise InputError(problems)


@dataclass(frozen=True)
class _Layer:
    """One layer; its methods make the parts in program order. Names of tensors link the parts."""

    model: Model
    mode: str
    index: int
    attention: str
    variants: tuple[str, ...]
    keys: int
    queries: int

    @property
    def encoder(self) -> bool:
        """A layer in which every token sees all: of an encoder, alone or in front of a decoder."""
        return not self.model.causal or (self.model.cross_layers > 0 and not self.model.has_cross(self.index))

    @property
    def heads(self) -> tuple[str, str]:
        """Ranks of query heads and of key heads, each with a comma behind it."""
        return {"MHA": ("h,", "h,"), "GQA": ("g,r,", "g,"), "MQA": ("h,", ""), "MLA": ("h,", "")}[self.model.attention]

    def doc(self) -> str:
        m = self.model
        experts = f", {e.chosen} of {e.count} experts" if (e := self.experts) else ""
        return (
            f"Layer {self.index} of {m.name}, {self.mode}: {m.attention}, {'gated ' * m.gated}{m.activation}{experts}."
        )

    @property
    def experts(self) -> Experts | None:
        return None if self.model.is_dense(self.index) else self.model.experts

    def sizes(self) -> dict[str, int]:
        """Sizes of all ranks that a layer can have; of which it has is for the cascade to say."""
        m = self.model
        found = {"P": self.queries, "M": self.keys, "L": self.keys, "W": m.layer_window(self.index)}
        found |= {"D": m.hidden, "I": m.ffn, "H": m.heads, "E": m.head_dim, "F": m.head_dim}
        if m.attention == "GQA":
            found |= {"G": m.kv_heads, "R": m.heads // m.kv_heads}
        if (latent := m.latent) is not None:
            found |= {"U": latent.queries, "C": latent.keys, "N": latent.nope, "R": latent.rope, "F": latent.value}
        if (e := self.experts) is not None:
            found |= {"I": e.width, "X": e.count, "XK": e.chosen, "XV": e.shared, "XJ": e.groups, "XKJ": e.best_groups}
        return found

    def parts(self) -> tuple[Cascade, ...]:
        """The whole layer from X to Y."""
        if self.model.post_norm:
            attend = [*self._attend("X"), self._sum("S1", "X", "O"), self._norm("1", "S1", "Y1")]
            return (*attend, self._feed_forward("Y1", "Z"), self._sum("S2", "Y1", "Z"), self._norm("2", "S2", "Y"))
        parts = [self._norm("1", "X", "X1"), *self._attend("X1"), self._sum("Y1", "X", "O")]
        last = "Y1"
        if self.model.has_cross(self.index):
            parts += [self._norm("3", "Y1", "X3"), *self._cross("X3"), self._sum("Y3", "Y1", "O3")]
            last = "Y3"
        return (*parts, self._norm("2", last, "X2"), self._feed_forward("X2", "Z"), self._sum("Y", last, "Z"))

    def _norm(self, tag: str, source: str, target: str) -> Cascade:
        return self._row_norm(tag, source, target, ("b", "p"), "d", self.model.norm)

    def _row_norm(
        self, tag: str, source: str, target: str, rows: tuple[str, ...], rank: str, norm: str = "rms"
    ) -> Cascade:
        """A norm of the library over `rank` for each point of `rows`."""
        piece = load(f"{norm}-norm")
        names = {t.name: f"{t.name}{tag}" for t in piece.tensors} | {"X": source, "Y": target, "G": f"GN{tag}"}
        return renamed(piece, names | {"B": f"BN{tag}"}, {"t": rows, "d": (rank,)})

    def _sum(self, target: str, left: str, right: str) -> Cascade:
        return _text(f"{target}[b,p,d] = {left}[b,p,d] + {right}[b,p,d]", f"{target}[b,p,d]", f"{left}[b,p,d]",
                     f"{right}[b,p,d]")  # fmt: skip

    def _feed_forward(self, source: str, target: str) -> Cascade:
        if self.experts:
            return self._mixture(self.experts, source, target)
        piece = load("swiglu" if self.model.gated else "mlp")
        usual = "silu" if self.model.gated else "gelu"
        piece = parse(show(piece).replace(f"{usual}(", f"{self.model.activation}("))
        return renamed(piece, {"X": source, "Y": target, "A": "FA", "U": "FU"}, {"t": ("b", "p")})

    def _mixture(self, experts: Experts, source: str, target: str) -> Cascade:
        """Experts are rank x; other ranks and sizes of the block's own begin with X, its tensors with F. FSCALE is the
        model's scale of the weights of a choice."""
        piece = load(experts.block)
        piece = replace(parse(show(piece).replace("silu(", f"{self.model.activation}(")), doc="")
        own = {t.name: t.name if t.name in EXPERT_WEIGHTS else f"F{t.name}" for t in piece.tensors}
        ranks = {"t": ("b", "p"), "e": ("x",)} | {r: (f"x{r}",) for r in ("k", "v", "j", "q", "kj")}
        return renamed(piece, own | {"X": source, "Y": target}, ranks)

    def _attend(self, source: str) -> list[Cascade]:
        """From the layer's input to the output projection O."""
        made = self._latent(source) if self.model.latent else self._projections(source)
        q = self.heads[0]
        out = _text(f"O[b,p,d] = AV[b,{q}p,f] * WO[{q}f,d]", "O[b,p,d]", f"AV[b,{q}p,f]", f"WO[{q}f,d]")
        return [*made, replace(load(self._attention_name()), doc=""), out]

    def _attention_name(self) -> str:
        m, decode = self.model, self.mode == "decode"
        chosen = set(self.variants)
        if m.latent:
            chosen.add("mla-absorbed" if decode else "mla")
        elif m.attention != "MHA":
            chosen.add(m.attention.lower())
        if decode and self.queries > 1:
            chosen.add("causal-end")
        elif not decode and not self.encoder:
            chosen.add("window" if m.layer_window(self.index) else "causal")
        if m.positions in VARIANTS:
            chosen.add(m.positions)
        return "-".join((self.attention, *(v for v in VARIANTS if v in chosen)))

    def _projections(self, source: str) -> list[Cascade]:
        """Queries, keys and values of multi-head, grouped and multi-query attention, scaled and placed."""
        m, (q, k) = self.model, self.heads
        at, (key, value) = ("p", ("KN", "VN")) if self.mode == "decode" else ("m", ("K", "V"))
        made = _text(
            f"QP[b,{q}p,e] = {source}[b,p,d] * WQ[d,{q}e]\n"
            f"KP0[b,{k}{at},e] = {source}[b,{at},d] * WK[d,{k}e]\n"
            f"{value}[b,{k}{at},f] = {source}[b,{at},d] * WV[d,{k}f]",
            f"{source}[b,p,d]", f"WQ[d,{q}e]", f"WK[d,{k}e]", f"WV[d,{k}f]", f"QP[b,{q}p,e]", f"KP0[b,{k}{at},e]",
            f"{value}[b,{k}{at},f]", size="" if at == "p" else "M = P",
        )  # fmt: skip
        scale = "(1 / sqrt(E))"
        match m.positions:
            case "bias":
                return [renamed(made, {"QP": "Q", "KP0": key})]
            case "learned":
                return [renamed(made, {"KP0": key}), self._placed("Q", "QP", f"b,{q}", "p", "e", scale)]
            case "relative":
                return [renamed(made, {"KP0": key}), self._relative(scale)]
        parts, query, raw = [made], "QP", "KP0"
        if m.qk_norm:
            rows = lambda heads, rank: tuple(f"b,{heads}{rank}".split(","))
            parts.append(self._row_norm("Q", query, "QH", rows(q, "p"), "e"))
            parts.append(self._row_norm("K", raw, "KH", rows(k, at), "e"))
            query, raw = "QH", "KH"
        return [*parts, self._placed("Q", query, f"b,{q}", "p", "e", scale), self._placed(key, raw, f"b,{k}", at, "e")]

    def _placed(self, target: str, source: str, before: str, at: str, e: str, scale: str = "1") -> Cascade:
        """Rotary embedding, if the model has one, and scale of queries or keys at positions `at`."""
        out, value = f"{target}[{before}{at},{e}]", f"{source}[{before}{at},{e}]"
        tensors = [out, value]
        if self.model.positions == "rope":
            end = "LEN[b]" if "lengths" in self.variants else "M"
            position = f"p+{end}-P,{e}" if at == "p" and self.mode == "decode" else f"{at},{e}"
            partner = f"{source}[{before}{at},({e}+{e.upper()}//2)%{e.upper()}]"
            value = f"({value} * COS[{position}] + {partner} * SIN[{position}])"
            tensors += [f"COS[m,{e}]: fp32", f"SIN[m,{e}]: fp32"] + ["LEN[b]: int32"] * ("LEN" in position)
        return _text(f"{out} = {value}" + (f" * {scale}" if scale != "1" else ""), *tensors)

    def _relative(self, scale: str) -> Cascade:
        """Transformer-XL: learned additions to the queries, for contents and for distances, and keys of distances."""
        return _text(
            f"Q[b,h,p,e] = (QP[b,h,p,e] + UC[h,e]) * {scale}\nQV[b,h,p,e] = (QP[b,h,p,e] + UD[h,e]) * {scale}\n"
            "KD[h,l,e] = DIST[l,d] * WD[d,h,e]",
            "QP[b,h,p,e]", "UC[h,e]", "UD[h,e]", "DIST[l,d]", "WD[d,h,e]", "Q[b,h,p,e]", "QV[b,h,p,e]", "KD[h,l,e]",
        )  # fmt: skip

    def _latent(self, source: str) -> list[Cascade]:
        """Queries, latent vectors and rotary keys of latent attention; in decode the cache is an input."""
        latent: Latent = self.model.latent  # pyright: ignore[reportAssignmentType]
        decode = self.mode == "decode"
        at, (content, rotary) = ("p", ("LN", "RN")) if decode else ("m", ("L", "KR"))
        parts = []
        row, down = f"{source}[b,p,d]", "d"
        if latent.queries:
            parts = [_text(f"CQ0[b,p,u] = {row} * WDQ[d,u]", "CQ0[b,p,u]", row, "WDQ[d,u]"),
                     self._row_norm("Q", "CQ0", "CQ", ("b", "p"), "u")]  # fmt: skip
            row, down = "CQ[b,p,u]", "u"
        x = f"{source}[b,{at},d]"
        scale = "(1 / sqrt(N + R))"
        return [
            *parts,
            _text(f"QN0[b,h,p,n] = {row} * WUQ[{down},h,n]\nQN[b,h,p,n] = QN0[b,h,p,n] * {scale}\n"
                  f"QR0[b,h,p,r] = {row} * WQR[{down},h,r]",
                  row, f"WUQ[{down},h,n]", f"WQR[{down},h,r]", "QN0[b,h,p,n]", "QN[b,h,p,n]", "QR0[b,h,p,r]"),
            _text(f"L0[b,{at},c] = {x} * WDKV[d,c]\nKR0[b,{at},r] = {x} * WKR[d,r]", f"{source}[b,p,d]", "WDKV[d,c]",
                  "WKR[d,r]", f"L0[b,{at},c]", f"KR0[b,{at},r]", size="" if decode else "M = P"),
            self._row_norm("L", "L0", content, ("b", at), "c"),
            self._placed("QR", "QR0", "b,h,", "p", "r", scale),
            self._placed(rotary, "KR0", "b,", at, "r"),
        ]  # fmt: skip

    def _cross(self, source: str) -> list[Cascade]:
        """Attention to the T outputs ENC of an encoder; tensors of the self-attention with a 3 behind their names."""
        x = f"{source}[b,p,d]"
        made = _text(
            f"Q3[b,h,p,e] = {x} * WQ3[d,h,e]\n"
            "K3[b,h,t,e] = ENC[b,t,d] * WK3[d,h,e]\nV3[b,h,t,f] = ENC[b,t,d] * WV3[d,h,f]",
            x, "ENC[b,t,d]", "WQ3[d,h,e]", "WK3[d,h,e]", "WV3[d,h,f]", "Q3[b,h,p,e]", "K3[b,h,t,e]", "V3[b,h,t,f]",
        )  # fmt: skip
        inner = load(self.attention)
        ranks: Mapping[str, tuple[str, ...]] = {r: (r.replace("m", "t"),) for r in inner.ranks if r.startswith("m")}
        inner = renamed(inner, {t.name: f"{t.name}3" for t in inner.tensors}, ranks)
        out = _text("O3[b,p,d] = AV3[b,h,p,f] * WO3[h,f,d]", "O3[b,p,d]", "AV3[b,h,p,f]", "WO3[h,f,d]")
        return [made, replace(inner, doc=""), out]


def _text(statements: str, *tensors: str, size: str = "") -> Cascade:
    """A cascade of statements and declared tensors, of type bf16 where they name none."""
    declared = (f"tensor {tensor}" + ("" if ":" in tensor else ": bf16") for tensor in dict.fromkeys(tensors))
    return parse("\n".join((*declared, f"size {size}" if size else "", statements)))
