"""The JSON schemas for editors: up to date with the types, and true to the files that ship."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from arch import read
from einsum.library import load as load_cascade
from mapper import yaml as mapping_yaml
from mapper.library import make

FOLDER = Path(__file__).parents[2] / "docs" / "schema"
SCHEMAS = {"machine": read.schema, "mapping": mapping_yaml.schema}
ANNOTATIONS = {"$schema", "$defs", "title", "description", "examples", "default"}
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list}
SIZES = {"B": 1, "H": 2, "M": 512, "P": 512, "E": 4, "F": 4}


def text(kind):
    return json.dumps(SCHEMAS[kind](), indent=2) + "\n"


@pytest.mark.parametrize("kind", SCHEMAS)
def test_shipped_schema_is_up_to_date(kind):
    assert (FOLDER / f"{kind}.json").read_text() == text(kind), "run this file as a script to write it again"


def valid(data, schema, root):
    """Whether the data satisfies the schema; KeyError for a keyword that this small validator does not know."""
    checks = {
        "$ref": lambda v: valid(data, root["$defs"][v.rpartition("/")[2]], root),
        "anyOf": lambda v: any(valid(data, option, root) for option in v),
        "oneOf": lambda v: sum(valid(data, option, root) for option in v) == 1,
        "const": lambda v: data == v,
        "enum": lambda v: data in v,
        "type": lambda v: data is None if v == "null" else is_a(data, TYPES[v]),
        "pattern": lambda v: not isinstance(data, str) or re.search(v, data) is not None,
        "minimum": lambda v: not is_a(data, (int, float)) or data >= v,
        "maximum": lambda v: not is_a(data, (int, float)) or data <= v,
        "exclusiveMinimum": lambda v: not is_a(data, (int, float)) or data > v,
        "minItems": lambda v: not isinstance(data, list) or len(data) >= v,
        "minProperties": lambda v: not isinstance(data, dict) or len(data) >= v,
        "required": lambda v: not isinstance(data, dict) or set(v) <= set(data),
        "properties": lambda v: not isinstance(data, dict) or all(valid(data[k], v[k], root) for k in v if k in data),
        "items": lambda v: not isinstance(data, list) or all(valid(item, v, root) for item in data),
        "additionalProperties": lambda v: not isinstance(data, dict) or others(data, schema, v, root),
    }
    return all(checks[keyword](value) for keyword, value in schema.items() if keyword not in ANNOTATIONS)


def is_a(data, types):
    return isinstance(data, types) and (types is bool or not isinstance(data, bool))


def others(data, schema, allowed, root):
    rest = [value for key, value in data.items() if key not in schema.get("properties", {})]
    return not rest if allowed is False else allowed is True or all(valid(value, allowed, root) for value in rest)


def shipped(kind):
    safe = YAML(typ="safe")
    if kind == "machine":
        return [safe.load(path) for path in sorted(read.PRESETS.glob("*.yaml"))]
    made = [
        make(name, load_cascade("attention-1pass"), read.load(machine), SIZES)[0]
        for name, machine in (
            ("fusemax-binding", "fusemax"),
            ("fusemax-architecture", "fusemax"),
            ("flash-attention", "h100"),
        )
    ]
    return [safe.load(mapping_yaml.dump_mapping(mapping)) for mapping in made]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_shipped_files_satisfy_the_schema_and_misspelt_keys_do_not(kind):
    schema = SCHEMAS[kind]()
    files = shipped(kind)
    assert len(files) >= 2
    for data in files:
        assert valid(data, schema, schema)
        for place in keys(data):
            assert not valid(misspelt(data, place), schema, schema), place


def keys(data, place=()):
    """Places of every key of the models: not of the dictionaries whose keys are the user's."""
    if isinstance(data, dict):
        free = place and place[-1] in ("ops", "sizes", "dtypes", "order", "expands", "at", "exp", "dtypes", "changes")
        for key, value in data.items():
            if not free:
                yield (*place, key)
            if key != "changes":  # any part of the other machine's file
                yield from keys(value, (*place, key))
    elif isinstance(data, list):
        for i, item in enumerate(data):
            yield from keys(item, (*place, i))


def misspelt(data, place):
    first, *rest = place
    if isinstance(data, list):
        return [misspelt(item, rest) if i == first else item for i, item in enumerate(data)]
    if rest:
        return {key: misspelt(value, rest) if key == first else value for key, value in data.items()}
    return {key + "x" if key == first else key: value for key, value in data.items()}


if __name__ == "__main__":
    for kind in SCHEMAS:
        (FOLDER / f"{kind}.json").write_text(text(kind))
