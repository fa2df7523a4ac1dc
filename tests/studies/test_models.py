"""Models: totals against the published tables to their digits, and Hugging Face configurations."""

import json
from dataclasses import fields

import pytest

from einsum.problems import InputError
from studies.hf_config import read_config
from studies.models import model, models, rows

TABLE = {row["model"]: row for row in rows("model_configs")}
CLASSIC = {row["model"]: row for row in rows("classic")}


def test_every_row_of_both_tables_is_a_model():
    assert models() == (*CLASSIC, *TABLE)
    assert len(TABLE) == 24
    assert {"BERT", "TrXL", "T5", "XLM"} < set(CLASSIC) and sum(name.startswith("GPT-3") for name in CLASSIC) == 8
    for name in models():
        assert model(name).name == model(name.upper()).name == name


def digits(value, text):
    """The value rounded to the digits that the table prints."""
    return f"{value:.{len(text.partition('.')[2])}f}"


@pytest.mark.parametrize("name", TABLE)
def test_totals_match_the_table_to_its_digits(name):
    row, m = TABLE[name], model(name)
    found = {
        "calc_total_B": m.parameters / 1e9,
        "calc_active_B": m.active_parameters / 1e9,
        "kv_elems_per_token_all_layers": m.kv_elements,
        "rho_topk_over_E": m.expert_share,
        "T_thres_95": m.saturation,
    }
    for column, value in found.items():
        if row[column] == "":
            assert value is None, column
        elif column in ("calc_total_B", "calc_active_B"):
            assert float(digits(value, "0.00")) == float(row[column]), column
        else:
            assert digits(value, row[column]) == row[column], column


@pytest.mark.parametrize("name", TABLE)
def test_dimensions_match_the_table(name):
    """Every other column is in the model as it stands in the table."""
    row, m = TABLE[name], model(name)
    e, latent = m.experts, m.latent
    found = {
        "model": m.name, "attn": m.attention, "hidden": m.hidden, "layers": m.layers, "dense_layers": m.dense_layers,
        "dense_ffn": m.ffn, "heads": m.heads, "kv_heads": m.kv_heads, "head_dim": m.head_dim or "",
        "q_lora": latent.queries if latent else "", "kv_lora": latent.keys if latent else "",
        "qk_nope": latent.nope if latent else "", "qk_rope": latent.rope if latent else "",
        "v_dim": latent.value if latent else "", "experts": e.count if e else 0, "topk": e.chosen if e else 0,
        "expert_ffn": e.width if e else 0, "shared_ffn_total": e.shared if e else 0, "vocab": m.vocab,
        "tied_emb": int(m.embedding == m.vocab * m.hidden), "score_func": e.score if e else "",
        "default_dtype": m.dtype, "source": m.source,
    }  # fmt: skip
    assert {column: str(value) for column, value in found.items()} == {column: row[column] for column in found}
    groups = (e.groups, e.best_groups, e.scale) if e else (1, 1, 1.0)
    assert groups == tuple(float(row[c] or 1) for c in ("n_groups", "topk_groups", "route_scale"))
    unused = {"shared_experts", "n_groups", "topk_groups", "route_scale"}
    computed = {"calc_total_B", "calc_active_B", "kv_elems_per_token_all_layers", "rho_topk_over_E", "T_thres_95"}
    assert set(row) == set(found) | unused | computed


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_models_are_as_large_as_published(name):
    """Within 3 %: biases and norms are left out, and the sources print two or three digits."""
    row, m = CLASSIC[name], model(name)
    assert m.hidden == m.heads * m.head_dim
    assert m.ffn == 4 * m.hidden
    if row["published_B"]:
        assert m.parameters / 1e9 == pytest.approx(float(row["published_B"]), rel=0.03)


def test_which_layers_have_experts():
    maverick, v3, qwen = model("Llama-4-Maverick"), model("DeepSeek-V3"), model("Qwen3-8B")
    assert [maverick.is_dense(i) for i in range(4)] == [True, False, True, False]
    assert [v3.is_dense(i) for i in range(5)] == [True, True, True, False, False]
    assert all(qwen.is_dense(i) for i in range(36))
    oss = model("GPT-OSS-20B")
    assert [oss.layer_window(i) for i in range(4)] == [128, 0, 128, 0]


def test_unknown_model():
    with pytest.raises(InputError) as caught:
        model("DeepSek-V3")
    assert str(caught.value) == "models: no such model (got DeepSek-V3); did you mean DeepSeek-V3?"


CONFIGS = {
    "Llama-3.1-405B": {
        "model_type": "llama", "hidden_size": 16384, "num_hidden_layers": 126, "num_attention_heads": 128,
        "num_key_value_heads": 8, "intermediate_size": 53248, "vocab_size": 128256, "tie_word_embeddings": False,
        "hidden_act": "silu", "max_position_embeddings": 131072, "torch_dtype": "bfloat16",
    },
    "Qwen3-0.6B": {
        "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "head_dim": 128,
        "num_key_value_heads": 8, "intermediate_size": 3072, "vocab_size": 151936, "tie_word_embeddings": True,
        "hidden_act": "silu", "sliding_window": None, "use_sliding_window": False,
    },
    "Mixtral-8x7B": {
        "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "tie_word_embeddings": False,
        "num_local_experts": 8, "num_experts_per_tok": 2, "hidden_act": "silu", "sliding_window": None,
    },
    "Qwen2-57B-A14B": {
        "model_type": "qwen2_moe", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "moe_intermediate_size": 2560, "vocab_size": 151936,
        "shared_expert_intermediate_size": 20480, "num_experts": 64, "num_experts_per_tok": 8, "decoder_sparse_step": 1,
        "tie_word_embeddings": False, "hidden_act": "silu", "sliding_window": 65536, "use_sliding_window": False,
    },
    "DeepSeek-V3": {
        "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
        "num_key_value_heads": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048, "vocab_size": 129280,
        "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
        "moe_layer_freq": 1, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "tie_word_embeddings": False, "hidden_act": "silu", "scoring_func": "sigmoid",
        "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5,
    },
    "DeepSeek-V2-Lite": {
        "model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16,
        "num_key_value_heads": 16, "intermediate_size": 10944, "moe_intermediate_size": 1408, "vocab_size": 102400,
        "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
        "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "tie_word_embeddings": False, "hidden_act": "silu",
    },
    "GPT-OSS-20B": {
        "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64,
        "head_dim": 64, "num_key_value_heads": 8, "intermediate_size": 2880, "vocab_size": 201088,
        "tie_word_embeddings": False, "num_local_experts": 32, "num_experts_per_tok": 4, "hidden_act": "silu",
        "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 12,
    },
    "Llama-4-Maverick": {
        "model_type": "llama4", "tie_word_embeddings": False, "text_config": {
            "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
            "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "vocab_size": 202048, "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
            "hidden_act": "silu",
        },
    },
    "DBRX": {
        "model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40, "vocab_size": 100352,
        "tie_word_embeddings": False, "attn_config": {"kv_n_heads": 8, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    },
    "BERT": {
        "model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2,
        "hidden_act": "gelu",
    },
    "GPT-3-125M": {
        "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 2048, "vocab_size": 50257,
        "activation_function": "gelu_new",
    },
    "T5": {
        "model_type": "t5", "d_model": 512, "num_layers": 6, "num_heads": 8, "d_kv": 64, "d_ff": 2048,
        "vocab_size": 32128, "feed_forward_proj": "relu",
    },
    "XLM": {
        "model_type": "xlm", "emb_dim": 2048, "n_layers": 12, "n_heads": 16, "n_words": 30145,
        "max_position_embeddings": 512,
    },
}  # fmt: skip


def written(folder, name, config):
    path = folder / name / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_gives_the_same_model_as_the_table(name, tmp_path):
    """Every field but the file's type of numbers, and the feed-forward width where no layer is dense."""
    found, known = read_config(written(tmp_path, name, CONFIGS[name])), model(name)
    skipped = {"dtype", "source"} | ({"ffn"} if known.dense_layers == 0 else set())
    different = {f.name for f in fields(known) if getattr(found, f.name) != getattr(known, f.name)}
    assert different <= skipped
    assert (found.parameters, found.active_parameters) == (known.parameters, known.active_parameters)


WRONG = {
    "unknown family": ({"model_type": "qwen4"}, ["model_type: unknown model_type"]),
    "no family": ({"hidden_size": 4}, ["model_type: unknown model_type"]),
    "several at once": (
        {"model_type": "llama", "hidden_size": "4096", "num_hidden_layers": 0, "hidden_act": "geluu"},
        ["activation (got geluu); did you mean gelu?", "hidden_size: must be a positive whole number (got 4096)",
         "num_hidden_layers: must be", "missing num_attention_heads", "missing vocab_size",
         "missing intermediate_size_mlp"],
    ),
    "windows without a period": (
        {"model_type": "mistral", "hidden_size": 4, "num_hidden_layers": 3, "num_attention_heads": 1, "vocab_size": 8,
         "intermediate_size": 8, "sliding_window": 2,
         "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        ["layer_types: the layers without a window do not stand at a fixed distance"],
    ),
    "single dense layers": (
        CONFIGS["Qwen2-57B-A14B"] | {"mlp_only_layers": [3]}, ["mlp_only_layers: this choice of layers without"],
    ),
    "experts in every second layer": (
        CONFIGS["DeepSeek-V3"] | {"moe_layer_freq": 2}, ["moe_layer_freq: this choice of layers without experts"],
    ),
    "windows in the last layers": (
        CONFIGS["Qwen3-0.6B"] | {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 20},
        ["max_window_layers: a window in the last layers alone is not known"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_in_a_configuration(name, tmp_path):
    config, expected = WRONG[name]
    path = written(tmp_path, "some", config)
    with pytest.raises(InputError) as caught:
        read_config(path)
    said = str(caught.value)
    assert len(caught.value.problems) == len(expected)
    assert all(line.startswith(f"{path}: ") for line in said.splitlines())
    for part in expected:
        assert part in said


def test_files_that_are_no_configuration(tmp_path):
    (tmp_path / "bad.json").write_text("{\n 'a': 1}", encoding="utf-8")
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    for name, what in (("bad.json", "2:2: is not JSON"), ("list.json", "JSON object"), ("no.json", "cannot read")):
        with pytest.raises(InputError) as caught:
            read_config(tmp_path / name)
        assert what.replace("2:2", "2") in str(caught.value)
