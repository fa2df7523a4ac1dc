"""`stepfall models`: models, their totals, and their layers as cascades."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from einsum.problems import InputError, Problem
from studies import report
from studies.models import Model, model as shipped, models as names

COLUMNS = ("model", "attention", "layers", "hidden", "heads", "KV heads", "experts", "parameters", "active",
           "KV elements a token")  # fmt: skip


def models(
    name: str | None, config: Path | None, as_json: bool, prefill: int | None, decode: int | None, **options: Any
) -> None:
    """Print all models, one model, or a layer of one with a length for `prefill` or `decode`."""
    if name and config:
        raise InputError(Problem("give a model's name or a config, not both", path="models", got=name))
    if prefill and decode:
        raise InputError(Problem("give --prefill or --decode, not both", path="models"))
    found = _read(config) if config else shipped(name) if name else None
    given = {option: value for option, value in options.items() if value not in (None, ())}
    if prefill or decode:
        if found is None:
            raise InputError(Problem("missing NAME or --config", path="models"))
        return _layer(found, "prefill" if prefill else "decode", prefill or decode or 0, as_json, given)
    if given:
        raise InputError(Problem("options of a layer need --prefill or --decode", path="models", got=", ".join(given)))
    return _one(found, as_json) if found else _list(as_json)


def _read(config: Path) -> Model:
    from studies.hf_config import read_config

    return read_config(config)


def _totals(m: Model) -> dict[str, Any]:
    return {
        "attention": m.attention,
        "parameters": m.parameters,
        "active_parameters": m.active_parameters,
        "kv_elements": m.kv_elements,
        "dense_layers": m.dense_layers,
        "expert_share": m.expert_share,
        "saturation": m.saturation,
    }


def _list(as_json: bool) -> None:
    every = [shipped(name) for name in names()]
    if as_json:
        print(json.dumps([asdict(m) | _totals(m) for m in every], indent=1, allow_nan=False))
        return
    rows = [(m.name, m.attention, m.layers, m.hidden, m.heads, m.kv_heads, m.experts.count if m.experts else None,
             m.parameters / 1e9, m.active_parameters / 1e9, m.kv_elements) for m in every]  # fmt: skip
    report.print_table("parameters in 1e9, without biases and norms", COLUMNS, rows)


def _one(m: Model, as_json: bool) -> None:
    data = asdict(m) | _totals(m)
    if as_json:
        print(json.dumps(data, indent=1, allow_nan=False))
        return
    nested = {f"{part} {key}": value for part in ("latent", "experts") for key, value in (data.pop(part) or {}).items()}
    rows = [(key.replace("_", " "), str(value)) for key, value in (data | nested).items()]
    report.print_table("", ("quantity", "value"), rows)


def _layer(m: Model, mode: str, length: int, as_json: bool, given: dict[str, Any]) -> None:
    from einsum.show import show
    from studies.layers import layer

    cascade, sizes = layer(m, mode, given.pop("batch", 1), length, **given)
    if as_json:
        print(json.dumps({"cascade": show(cascade), "sizes": sizes}, indent=1))
        return
    print(f"# --size {','.join(f'{name}={value}' for name, value in sizes.items())}")
    print(show(cascade), end="")
