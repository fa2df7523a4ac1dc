"""Which columns a table of measured kernels has, and what each means; a table is recognised by its header.

Shapes have one set of names for every table: `SHAPES` lists them per kind of kernel. All are counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ATTENTION = ("batch", "queries", "keys", "heads", "kv_heads", "dim", "causal")
SHAPES: Mapping[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "prefill": ATTENTION,
    "encoder": ATTENTION,  # attention that is not causal
    "decode": ATTENTION,
    "mla-prefill": ATTENTION,
    "mla-decode": ATTENTION,
    "moe": ("tokens", "hidden", "inter", "topk", "experts", "tp", "ep"),
    "rowwise": ("m", "n"),  # softmax, norms, activations: `source` says which
    "fa2": ATTENTION,
    "fa3": ATTENTION,
    "fa4": ATTENTION,
    "energy": ("batch", "queries"),
}
DTYPES = {  # spelling in a table -> ours; fp8_block has a scale for each block
    "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16",
    "fp32": "fp32", "fp8": "fp8", "fp8_block": "fp8-block", "float8": "fp8", "nvfp4": "fp4", "fp4": "fp4",
}  # fmt: skip
WIDTH = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8-block": 1.0,
    "fp4": 0.5625,
}  # bytes an element; fp4 has an 8-bit scale for each 16
PUBLISHED_KERNELS = {"FlashAttention-2": "fa2", "FlashAttention-3": "fa3", "FA4": "fa4", "FlashAttention-4": "fa4"}


@dataclass(frozen=True, slots=True)
class Schema:
    """How one kind of table is read. A table is of this schema if it has every column in `needs`.

    `columns` maps a name of ours to a column of the table, `fixed` gives what the table does not say. Seconds are
    the column `seconds_of` times `scale`, or `work / column` where the table gives a rate.
    """

    kind: str
    needs: tuple[str, ...]
    columns: Mapping[str, str]
    seconds_of: str
    scale: float
    fixed: Mapping[str, str | float] = field(default_factory=dict)
    rate: bool = False  # the column is in elements a second (m x n of them)
    absent: Mapping[str, float] = field(default_factory=dict)  # what an empty field of a size means

    @property
    def read(self) -> tuple[str, ...]:
        """Every column that is read."""
        return tuple(dict.fromkeys((*self.columns.values(), self.seconds_of)))


_AIC = {"gpu": "system", "framework": "framework", "source": "kernel_source"}
_HEADS = {"batch": "batch_size", "heads": "num_heads", "dim": "head_dim"}
_PAPER = {"gpu": "gpu", "dtype": "dtype", "batch": "batch", "queries": "seqlen", "keys": "seqlen", "dim": "head_dim"}
SCHEMAS = (  # the first whose `needs` a header has
    Schema(
        "decode",
        ("num_key_value_heads", "step", "head_dim"),
        _AIC | _HEADS | {"dtype": "attn_dtype", "kv_dtype": "kv_cache_dtype", "kv_heads": "num_key_value_heads"}
        | {"keys": "step"},
        "latency_ms", 1e-3, {"queries": 1.0, "causal": 0.0},
    ),
    Schema(
        "prefill",
        ("num_key_value_heads", "isl", "head_dim"),
        _AIC | _HEADS | {"dtype": "attn_dtype", "kv_dtype": "kv_cache_dtype", "kv_heads": "num_key_value_heads"}
        | {"queries": "isl", "keys": "isl"},
        "latency_ms", 1e-3, {"causal": 1.0},
    ),
    Schema(
        "mla",
        ("mla_dtype", "step"),
        _AIC | {"variant": "op_name", "dtype": "mla_dtype", "kv_dtype": "kv_cache_dtype"}
        | {"batch": "batch_size", "heads": "num_heads", "queries": "isl", "keys": "step"},
        "latency_ms", 1e-3, {"kv_heads": 1.0, "dim": 576.0, "causal": 1.0},
    ),
    Schema(
        "encoder",
        ("isl", "attn_dtype", "head_dim"),
        _AIC | _HEADS | {"dtype": "attn_dtype", "queries": "isl", "keys": "isl", "kv_heads": "num_heads"},
        "latency_ms", 1e-3, {"causal": 0.0},
    ),
    Schema(
        "moe",
        ("moe_dtype", "num_tokens", "num_experts"),
        _AIC | {"dtype": "moe_dtype", "tokens": "num_tokens", "hidden": "hidden_size", "inter": "inter_size"}
        | {"topk": "topk", "experts": "num_experts", "tp": "moe_tp_size", "ep": "moe_ep_size"}
        | {"variant": "distribution"},
        "latency_ms", 1e-3,
    ),
    Schema(
        "gemm",
        ("gemm_dtype", "m", "n", "k"),
        {"gpu": "system", "framework": "framework", "dtype": "gemm_dtype", "m": "m", "n": "n", "k": "k"},
        "latency_ms", 1e-3, {"source": "gemm"},
    ),
    Schema(
        "gemm",
        ("gpu", "M", "N", "K", "latency_ms"),
        {"gpu": "gpu", "m": "M", "n": "N", "k": "K"},
        "latency_ms", 1e-3, {"dtype": "fp16", "framework": "LLMCompass", "source": "gemm"},
    ),
    Schema(
        "rowwise",
        ("op", "M", "N", "gelements_per_s"),
        {"gpu": "gpu", "source": "op", "m": "M", "n": "N"},
        "gelements_per_s", 1e9, {"dtype": "fp16", "framework": "LLMCompass"}, rate=True, absent={"n": 1.0},
    ),
    Schema(
        "published",
        ("pass", "kernel", "ms_derived", "seqlen"),
        _PAPER | {"source": "kernel", "variant": "pass", "heads": "heads", "kv_heads": "heads", "causal": "causal"},
        "ms_derived", 1e-3, {"framework": "paper"},
    ),
    Schema(
        "published",
        ("impl", "dir", "nheads", "seqlen"),
        _PAPER | {"source": "impl", "variant": "dir", "heads": "nheads", "kv_heads": "nheads", "causal": "causal"},
        "ms", 1e-3, {"framework": "paper"},
    ),
    Schema(
        "energy",
        ("energy_J_per_iter", "time_ms_per_iter", "freq"),
        {"gpu": "set", "source": "model", "variant": "attn", "dtype": "dtype", "batch": "batch", "queries": "seq"},
        "time_ms_per_iter", 1e-3, {"framework": "EnergAIzer"}, absent={"queries": 1.0},
    ),
)  # fmt: skip


def kind_of(schema: Schema, source: str, variant: str) -> str:
    """The kind of kernel of a row, since tables of papers and of MLA have several; empty: one that has no model."""
    if schema.kind == "published":
        return PUBLISHED_KERNELS.get(source, "")
    if schema.kind == "mla":
        return "mla-decode" if "generation" in variant else "mla-prefill"
    return schema.kind
