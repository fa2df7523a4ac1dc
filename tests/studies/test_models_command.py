"""`stepfall models`: the list, one model, a layer as text that other commands read."""

import json

import pytest

import stepfall
from studies.layers import layer
from studies.models import model, models


@pytest.fixture
def run(capsys):
    def command(*argv):
        code = stepfall.main(["models", *map(str, argv)])
        return code, *capsys.readouterr()

    return command


def test_list(run):
    code, out, _ = run()
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:]] == list(models())
    data = json.loads(run("--json")[1])
    assert [entry["name"] for entry in data] == list(models())
    assert [entry["parameters"] for entry in data] == [model(name).parameters for name in models()]


def test_one_model(run):
    _, out, _ = run("deepseek-v3")
    shown = dict(line.rsplit(maxsplit=1) for line in out.splitlines()[1:] if "source" not in line)
    assert shown["kv elements"] == "35136" and shown["latent keys"] == "512" and shown["experts count"] == "256"
    data = json.loads(run("deepseek-v3", "--json")[1])
    assert data["saturation"] == 95 and data["latent"]["rope"] == 64


def test_a_configuration(run, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 10,
                                "num_attention_heads": 2, "intermediate_size": 12}))  # fmt: skip
    data = json.loads(run("--config", path, "--json")[1])
    assert data["parameters"] == 10 * 8 + 2 * (4 * 8 * 8 + 3 * 8 * 12)
    code, out, _ = run("--config", path, "--decode", 5)
    assert code == 0 and "size" in out


def test_a_layer_is_text_that_reads_back(run, tmp_path):
    options = ("--decode", 64, "--batch", 3, "--layer", 1, "--variant", "paged", "--attention", "attention-2pass")
    code, out, _ = run("Qwen3-4B", *options)
    cascade, sizes = layer(
        model("Qwen3-4B"), "decode", 3, 64, index=1, variants=("paged",), attention="attention-2pass"
    )
    assert code == 0
    path = tmp_path / "layer.cascade"
    path.write_text(out)
    assert stepfall.load_cascade(path) == cascade
    assert out.splitlines()[0] == "# --size " + ",".join(f"{name}={size}" for name, size in sizes.items())
    assert json.loads(run("Qwen3-4B", *options, "--json")[1])["sizes"] == sizes


MISTAKES = {
    ("BRT",): "no such model (got BRT); did you mean BERT?",
    ("BERT", "--config", "x.json"): "a model's name or a config, not both",
    ("BERT", "--prefill", "3", "--decode", "3"): "--prefill or --decode, not both",
    ("--prefill", "3"): "missing NAME or --config",
    ("BERT", "--batch", "3"): "options of a layer need --prefill or --decode (got batch)",
    ("BERT", "--decode", "3"): "an encoder has no decode",
    ("--config", "no.json"): "no.json: cannot read the file",
}


@pytest.mark.parametrize("argv", MISTAKES, ids=" ".join)
def test_mistakes(argv, run):
    code, out, error = run(*argv)
    assert (code, out) == (2, "")
    assert MISTAKES[argv] in error and error.startswith("error: ") and "Traceback" not in error
