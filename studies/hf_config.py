"""A `Model` from the `config.json` of a Hugging Face model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from einsum.problems import InputError, Problem, read_text, suggest
from studies.models import Experts, Latent, Model

NAMES = {  # what a model calls its dimensions, by the class of its configuration
    "hidden": ("hidden_size", "n_embd", "d_model", "emb_dim"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "kv_n_heads"),
    "head_dim": ("head_dim", "d_kv"),
    "ffn": ("intermediate_size_mlp", "intermediate_size", "n_inner", "d_ff", "ffn_dim", "ffn_hidden_size"),
    "vocab": ("vocab_size", "n_words"),
    "learned": ("max_position_embeddings", "n_positions"),
    "activation": ("hidden_act", "activation_function", "dense_act_fn"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "chosen": ("num_experts_per_tok", "moe_top_k"),
    "width": ("moe_intermediate_size", "intermediate_size", "ffn_hidden_size"),
}
PARTS = ("text_config", "attn_config", "ffn_config")  # objects inside the file whose entries count as its own
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu",
               "relu": "relu"}  # fmt: skip
DECODER: dict[str, Any] = {}  # what `Model` takes for granted
CLASSIC = {"gated": False, "norm": "layer", "positions": "learned"}
FAMILIES: dict[str, dict[str, Any]] = {  # model_type -> traits that the file does not hold
    **dict.fromkeys(("llama", "mistral", "qwen2"), DECODER),
    "qwen3": {"qk_norm": True},
    "gpt2": CLASSIC,
    "opt": CLASSIC,
    "bert": CLASSIC | {"post_norm": True, "causal": False},
    "xlm": CLASSIC | {"post_norm": True, "causal": False},
    "t5": {"gated": False, "positions": "bias"},
}
MIXTURES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("mixtral", "dbrx", "qwen2_moe", "olmoe", "gpt_oss", "llama4_text", "deepseek_v2", "deepseek_v3",
                     "kimi_k2"), DECODER),
    "qwen3_moe": {"qk_norm": True},
}  # fmt: skip
UNSAID = {"gpt2": "gelu", "xlm": "gelu", "dbrx": "silu", "t5": "relu"}  # activation where the file has none
SCORES = {"llama4_text": "sigmoid", "gpt_oss": "topk_then_softmax", "deepseek_v3": "sigmoid+bias",
          "kimi_k2": "sigmoid+bias", **dict.fromkeys(("mixtral", "dbrx"), "softmax_topk_renorm")}  # fmt: skip
SPLIT_WIDTH = ("gpt_oss", "mixtral", "olmoe", "dbrx", "llama4_text")  # their intermediate_size is an expert's


def read_config(path: str | Path) -> Model:
    """The model that a `config.json` describes. Raises `InputError` with everything that is missing or unknown."""
    file = str(path)
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(Problem(f"is not JSON: {error.msg}", file, error.lineno, error.colno)) from None
    if not isinstance(data, dict):
        raise InputError(Problem("must hold a JSON object", file))
    for part in PARTS:
        data = data | data[part] if isinstance(data.get(part), dict) else data
    kind, known = str(data.get("model_type", "")), FAMILIES | MIXTURES
    if kind not in known:
        what = f"unknown model_type; known are {', '.join(known)}"
        raise InputError(Problem(what, file, path="model_type", got=kind, hint=suggest(kind, known)))
    config = _Config(data, file, kind)
    made = config.model(known[kind])
    if config.problems:
        raise InputError(config.problems)
    return made


@dataclass
class _Config:
    """The entries of a file; a missing or wrong one becomes a problem and counts as 1."""

    data: Mapping[str, Any]
    file: str
    kind: str
    problems: list[Problem] = field(default_factory=list)

    def number(self, *names: str, default: int | None = None) -> int:
        """The first entry there is: a positive whole number, or `default` where none is given."""
        found = next(((name, self.data[name]) for name in names if self.data.get(name) is not None), None)
        if found is None and default is not None:
            return default
        if found is None:
            self.problems.append(Problem(f"missing {' or '.join(names)}", self.file))
            return 1
        name, value = found
        if not isinstance(value, int) or isinstance(value, bool) or value < 0 or (value == 0 and default is None):
            self.problems.append(Problem("must be a positive whole number", self.file, path=name, got=str(value)))
            return 1
        return value

    def model(self, family: Mapping[str, Any]) -> Model:
        n = lambda what, default=None: self.number(*NAMES[what], default=default)
        hidden, heads, vocab = n("hidden"), n("heads"), n("vocab")
        traits: dict[str, Any] = {**family, "activation": self._activation(), **self._windows()}
        layers = n("layers")
        if self.kind == "t5":
            traits["cross_layers"] = self.number("num_decoder_layers", default=layers)
            layers += traits["cross_layers"]
            traits["gated"] = str(self.data.get("feed_forward_proj", "relu")).startswith("gated")
        tied = bool(self.data.get("tie_word_embeddings", True))
        table = vocab * (1 if tied else 2)
        if traits.get("positions") == "learned":
            table += n("learned") + self.number("type_vocab_size", default=0)
        ffn = n("ffn", 4 * hidden if self.kind in ("gpt2", "xlm") else None)
        dtype = DTYPES.get(str(self.data.get("torch_dtype", self.data.get("dtype"))), "bf16")
        latent = self._latent() if "kv_lora_rank" in self.data else None
        return Model(
            str(self.data.get("_name_or_path") or Path(self.file).parent.name or self.kind), hidden, layers, heads,
            n("kv_heads", heads), 0 if latent else n("head_dim", hidden // heads), ffn, vocab, hidden * table, latent,
            self._experts(layers) if self.kind in MIXTURES else None, source=self.file, dtype=dtype, **traits,
        )  # fmt: skip

    def _activation(self) -> str:
        given = next((str(self.data[a]) for a in NAMES["activation"] if a in self.data), UNSAID.get(self.kind, "silu"))
        if given not in ACTIVATIONS:
            hint = suggest(given, ACTIVATIONS)
            self.problems.append(Problem("unknown activation", self.file, got=given, hint=hint))
        return ACTIVATIONS.get(given, "silu")

    def _windows(self) -> dict[str, int]:
        """A window, and which layers have none; `layer_types` must repeat with one full layer at the period's end."""
        window, types = self.data.get("sliding_window"), self.data.get("layer_types")
        if not window or self.data.get("use_sliding_window") is False:
            return {}
        if not types and self.data.get("max_window_layers"):
            self.problems.append(Problem("a window in the last layers alone is not known", self.file,
                                         path="max_window_layers"))  # fmt: skip
        if not types:
            return {"window": int(window)}
        period = types.index("full_attention") + 1 if "full_attention" in types else 0
        full = [bool(period) and (i + 1) % period == 0 for i in range(len(types))]
        if full != [t == "full_attention" for t in types]:
            self.problems.append(Problem("the layers without a window do not stand at a fixed distance", self.file,
                                         path="layer_types"))  # fmt: skip
        return {"window": int(window), "full_every": period}

    def _latent(self) -> Latent:
        n = self.number
        queries = n("q_lora_rank", default=0)
        return Latent(queries, n("kv_lora_rank"), n("qk_nope_head_dim"), n("qk_rope_head_dim"), n("v_head_dim"))

    def _experts(self, layers: int) -> Experts:
        n = self.number
        width = n(*(NAMES["width"][1:] if self.kind in SPLIT_WIDTH else NAMES["width"]))
        shared = n("shared_expert_intermediate_size", default=0) or n("n_shared_experts", default=0) * width
        if self.kind == "llama4_text":
            shared = width
        if self.data.get("mlp_only_layers") or self.data.get("moe_layer_freq", 1) != 1:
            path = "mlp_only_layers" if self.data.get("mlp_only_layers") else "moe_layer_freq"
            self.problems.append(Problem("this choice of layers without experts is not known", self.file, path=path))
        step = n("interleave_moe_layer_step", "decoder_sparse_step", default=1)
        renorm = self.data.get("norm_topk_prob", self.kind == "qwen3_moe")
        score = SCORES.get(self.kind, "softmax_topk_renorm" if renorm else "softmax")
        first = n("first_k_dense_replace", default=0)
        return Experts(
            n(*NAMES["experts"]), n(*NAMES["chosen"]), width, shared, score, min(first, layers), step,
            n("n_group", default=1), n("topk_group", default=1), float(self.data.get("routed_scaling_factor", 1)),
        )  # fmt: skip
