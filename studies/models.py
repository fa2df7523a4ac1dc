"""Language models by their dimensions: those that ship with stepfall, and totals of parameters and of the KV cache.

Totals leave out biases and the gains of norms, as the tables do that they are compared with.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from einsum.problems import InputError, Problem, suggest

GATES = {  # how a model's table calls its gate -> the library's gate, and whether its weights are renormalised
    "softmax": ("softmax-topk",),
    "softmax_topk_renorm": ("softmax-topk", "renorm"),
    "topk_then_softmax": ("topk-softmax",),
    "sigmoid": ("topk-sigmoid",),
    "sigmoid+bias": ("sigmoid-topk",),
}
ACTIVE_SHARE = 0.95  # of the experts that a batch must activate for `saturation`


@dataclass(frozen=True, slots=True)
class Latent:
    """Latent attention (MLA): elements of the compressed queries (0: not compressed) and keys, and of each head."""

    queries: int
    keys: int
    nope: int
    rope: int
    value: int


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: `count` gated blocks of `width`, `chosen` for each token, beside `shared` width for all.

    `score` (of GATES) says how weights come of logits; a token chooses among the experts of its `best_groups` of
    `groups`, and its weights are multiplied by `scale`.
    """

    count: int
    chosen: int
    width: int
    shared: int = 0
    score: str = "softmax"
    first_dense: int = 0  # leading layers without experts
    step: int = 1  # of the layers every step-th has experts
    groups: int = 1
    best_groups: int = 1
    scale: float = 1.0

    @property
    def block(self) -> str:
        """The library's cascade of the block."""
        gate, *renorm = GATES[self.score]
        words = {"groups": self.best_groups < self.groups, "renorm": renorm, "scaled": self.scale != 1,
                 "shared": self.shared}  # fmt: skip
        return "-".join(("moe", gate, *(word for word, has in words.items() if has)))


@dataclass(frozen=True)
class Model:
    """A transformer. Widths are in elements."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int  # of a dense layer
    vocab: int
    embedding: int  # parameters of embeddings and head
    latent: Latent | None = None
    experts: Experts | None = None
    gated: bool = True  # feed-forward block with a gate
    activation: str = "silu"  # silu | gelu | relu
    norm: str = "rms"  # rms | layer
    post_norm: bool = False  # norms behind the residual sums
    positions: str = "rope"  # rope | learned | bias | relative
    qk_norm: bool = False
    causal: bool = True
    cross_layers: int = 0  # the last layers, which attend to an encoder, made of the others, as well
    window: int = 0  # positions that a layer with a sliding window sees; 0: there is none
    full_every: int = 0  # of the layers every full_every-th has no window; 0: none
    dtype: str = "bf16"
    source: str = ""

    @property
    def attention(self) -> str:
        """MHA, GQA, MQA or MLA."""
        if self.latent:
            return "MLA"
        return "MHA" if self.kv_heads == self.heads else "MQA" if self.kv_heads == 1 else "GQA"

    def is_dense(self, layer: int) -> bool:
        """Whether layer 0, 1, ... has no experts."""
        return self.experts is None or layer < self.experts.first_dense or (layer + 1) % self.experts.step != 0

    def has_cross(self, layer: int) -> bool:
        """Whether the layer attends to an encoder's output."""
        return layer >= self.layers - self.cross_layers

    def layer_window(self, layer: int) -> int:
        """Positions that the layer sees; 0: all."""
        full = self.full_every and (layer + 1) % self.full_every == 0
        return 0 if full else self.window

    @property
    def dense_layers(self) -> int:
        return sum(map(self.is_dense, range(self.layers)))

    @property
    def attention_parameters(self) -> int:
        """Of one layer's self-attention, with the projections of queries, keys, values and output."""
        h = self.hidden
        if (m := self.latent) is not None:
            queries = self.heads * (m.nope + m.rope) * (m.queries or h) + h * m.queries
            keys = h * (m.keys + m.rope) + m.keys * self.heads * (m.nope + m.value)
            return queries + keys + self.heads * m.value * h
        relative = self.heads if self.positions == "relative" else 0
        return h * self.head_dim * (2 * self.heads + 2 * self.kv_heads + relative)

    def layer_parameters(self, layer: int, active: bool = False) -> int:
        """Of one layer; with `active` only of the experts that a token uses."""
        products = 3 if self.gated else 2
        attention = self.attention_parameters * (1 + self.has_cross(layer))
        if self.is_dense(layer) or self.experts is None:
            return attention + products * self.hidden * self.ffn
        e = self.experts
        used = (e.chosen if active else e.count) * e.width + e.shared
        return attention + products * self.hidden * used + self.hidden * e.count

    def _parameters(self, active: bool) -> int:
        return self.embedding + sum(self.layer_parameters(layer, active) for layer in range(self.layers))

    @property
    def parameters(self) -> int:
        """Weights of all layers, routers, embeddings and head."""
        return self._parameters(active=False)

    @property
    def active_parameters(self) -> int:
        """Parameters less those of the experts that a token does not use."""
        return self._parameters(active=True)

    @property
    def kv_elements(self) -> int:
        """Elements of keys and values of one token in the self-attention of all layers."""
        if self.latent:
            return (self.latent.keys + self.latent.rope) * self.layers
        return 2 * self.kv_heads * self.head_dim * self.layers

    @property
    def expert_share(self) -> float | None:
        """Experts that a token uses, of all."""
        return self.experts.chosen / self.experts.count if self.experts else None

    @property
    def saturation(self) -> int | None:
        """Tokens that activate 95 % of the experts when each token picks its experts at random (MoESD, 2025)."""
        share = self.expert_share
        return math.ceil(math.log(1 - ACTIVE_SHARE, 1 - share)) if share else None


def models() -> tuple[str, ...]:
    """Names of the models that ship with stepfall, in the order of their tables."""
    return tuple(_shipped())


def model(name: str) -> Model:
    """A model by its name, capitals or not. Raises `InputError`."""
    known = {n.lower(): m for n, m in _shipped().items()}
    if name.lower() not in known:
        raise InputError(Problem("no such model", path="models", got=name, hint=suggest(name, models())))
    return known[name.lower()]


def rows(table: str) -> list[dict[str, str]]:
    """Rows of a table of `reference/models`; its first line states the source."""
    text = files("studies").joinpath(f"reference/models/{table}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()[1:]))


@lru_cache(maxsize=1)
def _shipped() -> Mapping[str, Model]:
    found = [*map(_classic, rows("classic")), *map(_recent, rows("model_configs"))]
    return {m.name: m for m in found}


def _whole(row: Mapping[str, str]) -> Mapping[str, int]:
    return {name: int(value) if value.isdigit() else 0 for name, value in row.items()}


def _classic(row: Mapping[str, str]) -> Model:
    n = _whole(row)
    table = n["hidden"] * (n["vocab"] * (2 - n["tied_emb"]) + n["learned_positions"])
    return Model(
        row["model"], n["hidden"], n["layers"], n["heads"], n["heads"], n["head_dim"], n["ffn"], n["vocab"],
        n["embedding"] or table, gated=False, activation=row["activation"], norm=row["norm"],
        post_norm=bool(n["post_norm"]), positions=row["positions"], causal=bool(n["causal"]),
        cross_layers=n["cross_layers"], source=row["source"],
    )  # fmt: skip


def _recent(row: Mapping[str, str]) -> Model:
    """A row of model_configs.csv: decoders with a gated feed-forward block, RMS norms and rotary positions."""
    n = _whole(row)
    latent = experts = None
    if row["attn"] == "MLA":
        latent = Latent(n["q_lora"], n["kv_lora"], n["qk_nope"], n["qk_rope"], n["v_dim"])
    if n["experts"]:
        alternate = 2 * n["dense_layers"] == n["layers"]
        experts = Experts(n["experts"], n["topk"], n["expert_ffn"], n["shared_ffn_total"], row["score_func"],
                          0 if alternate else n["dense_layers"], 2 if alternate else 1, n["n_groups"] or 1,
                          n["topk_groups"] or 1, float(row["route_scale"]))  # fmt: skip
    window, full_every = (128, 2) if row["model"].startswith("GPT-OSS") else (0, 0)
    return Model(
        row["model"], n["hidden"], n["layers"], n["heads"], n["kv_heads"], n["head_dim"], n["dense_ffn"], n["vocab"],
        n["hidden"] * n["vocab"] * (2 - n["tied_emb"]), latent, experts, qk_norm=row["model"].startswith("Qwen3"),
        window=window, full_every=full_every, dtype=row["default_dtype"], source=row["source"],
    )  # fmt: skip
