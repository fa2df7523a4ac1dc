"""YAML with places: a user file becomes plain data whose every key knows its line, checked against a pydantic model.

All problems of a file are reported at once, as `file:line: path: what (got x); did you mean y?`. Machine, mapping and
study files are all read here; pydantic and ruamel stay at this boundary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.scalarstring import LiteralScalarString
from ruamel.yaml.tag import Tag

from einsum.problems import InputError, Problem, suggest

HEADER = "stepfall"
TAG = "!"  # key under which `read` keeps a mapping's tag if asked to, and from which `render` writes it
WIDTH = 110  # of the lines that `render` writes
Place = tuple[str | int, ...]  # keys and list indices from the top of a document
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}
_WHAT = {
    "missing": "missing key",
    "extra_forbidden": "unknown key",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "string_type": "expected a text",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
}


class Strict(BaseModel):
    """Base of every boundary model: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)
    version: ClassVar[str] = ""  # `machine/1`, on the model of a whole document


Model = TypeVar("Model", bound=Strict)


def told_apart_by(**models: str) -> Discriminator:
    """Discriminator of a union: the key that a mapping has (`unit=...`; `for_` is the key `for`) names its model."""
    named = {key.rstrip("_"): model for key, model in models.items()}
    keys = ", ".join(named)

    def kind(data: Any) -> str | None:
        return next((named[key] for key in named if isinstance(data, dict) and key in data), None)

    return Discriminator(kind, "no_kind", f"needs one of the keys {keys}", {"keys": keys})


@dataclass
class Document:
    """Plain data of one file, the line of every key and list item, and the problems found so far."""

    file: str
    lines: tuple[str, ...]
    data: Any = None
    places: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, place: Place, what: str, got: object = "", hint: str = "") -> Problem:
        """A problem at the deepest known part of `place`."""
        return Problem(what, self.file, self.line(place), path=self.path(place), got=_brief(got), hint=hint)

    def line(self, place: Place) -> int:
        """The line of the deepest known part of `place`."""
        known = next((place[:n] for n in range(len(place), -1, -1) if place[:n] in self.places), ())
        return self.places.get(known, 1)

    def path(self, place: Place) -> str:
        """`root.buffer.capacity`: list items go by their name (the value of their first key) when they have one."""
        names: list[str] = []
        data: Any = self.data
        for step in place:
            data = data[step] if _holds(data, step) else None  # a key that is missing has no data
            if isinstance(step, str):
                names.append(step)
            elif isinstance(data, dict) and isinstance(first := name_of(data), str):
                names.append(first)
            elif not isinstance(data, dict) and names:
                names[-1] += f"[{step}]"
        return ".".join(names)


def read(text: str, file: str, tags: bool = False) -> Document:
    """YAML text as plain data with places; `tags` keeps `!Memory {...}` as `{"!": "Memory", ...}`."""
    document = Document(file, tuple(text.splitlines()))
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        raise InputError(_syntax_problem(error, document)) from None
    document.data = _Reader(document, yaml, tags).value(root, (), ()) if root is not None else None
    return document


def parse(text: str, file: str, model: type[Model]) -> tuple[Model, Document]:
    """Validate YAML text; `file` names it in problems."""
    document = read(text, file)
    return validated(document, model), document


def validated(document: Document, model: type[Model]) -> Model:
    """The model of a document; InputError with every problem found so far."""
    _check_header(document, model)
    try:
        found = model.model_validate(document.data)
    except ValidationError as error:
        problems = [_problem(document, model, e) for e in error.errors(include_url=False)]
        raise InputError([*document.problems, *problems]) from None
    if document.problems:
        raise InputError(document.problems)
    return found


@dataclass
class _Reader:
    """Turns composed nodes into plain data, noting places, repeated keys and anchors that contain themselves."""

    document: Document
    yaml: YAML
    tags: bool

    def value(self, node: Node, place: Place, inside: tuple[Node, ...]) -> Any:
        self.document.places.setdefault(place, node.start_mark.line + 1)
        if any(node is outer for outer in inside):
            self.document.problems.append(self.document.problem(place, "an anchor contains itself"))
            return None
        if isinstance(node, MappingNode):
            tag = {TAG: node.tag[1:]} if self.tags and node.tag.startswith("!") else {}
            return tag | dict(self._items(node, place, (*inside, node)))
        if isinstance(node, SequenceNode):
            return [self.value(item, (*place, i), (*inside, node)) for i, item in enumerate(node.value)]
        return self._scalar(node, place)

    def _items(self, node: MappingNode, place: Place, inside: tuple[Node, ...]) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = str(key_node.value) if isinstance(key_node, ScalarNode) else "?"
            if key in seen:
                what = f"key stands twice, first in line {seen[key]}"
                self.document.problems.append(Problem(what, self.document.file, line, path=key))
                continue
            seen[key] = line
            self.document.places[(*place, key)] = line
            yield key, self.value(value_node, (*place, key), inside)

    def _scalar(self, node: Node, place: Place) -> Any:
        if node.tag not in _SCALARS:
            self.document.problems.append(self.document.problem(place, "YAML tags are not used here", node.tag))
            return None
        if node.tag.endswith(("str", "timestamp")):
            return node.value
        return self.yaml.constructor.construct_object(node)


def _check_header(document: Document, model: type[Strict]) -> None:
    """Refuse another kind or version before its keys are called unknown."""
    data = document.data
    if not isinstance(data, dict) or HEADER not in data:
        raise InputError(document.problem((), f"the first key must be `{HEADER}: {model.version}`"))
    if data[HEADER] == model.version:
        return
    kind, _, number = str(data[HEADER]).partition("/")
    expected, _, own = model.version.partition("/")
    if kind == expected and number.isdigit() and int(number) > int(own):
        what = f"written for a newer version of stepfall, this one reads {model.version}"
    else:
        what = f"expected a {expected} file, `{HEADER}: {model.version}`"
    raise InputError(document.problem((HEADER,), what, data[HEADER]))


def _syntax_problem(error: MarkedYAMLError, document: Document) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = min(mark.line, len(document.lines) - 1) if mark else 0
    source = document.lines[line] if document.lines else ""
    column = mark.column + 1 if mark and mark.line == line else len(source) + 1
    what = f"not valid YAML: {error.problem or error.context}"
    return Problem(what, document.file, line + 1, column, source=source)


def _problem(document: Document, model: type[Strict], error: ErrorDetails) -> Problem:
    """pydantic's error in our words, at the line of the offending key."""
    kind, context = error["type"], error.get("ctx", {})
    place = tuple(_place(document.data, error["loc"]))
    what = _WHAT.get(kind) or error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if kind == "missing":
        return document.problem(place, f"missing key `{error['loc'][-1]}`")
    if kind == "extra_forbidden":
        key = str(error["loc"][-1])
        return document.problem((*place[:-1], key), what, key, suggest(key, _fields(model, error["loc"][:-1])))
    if kind == "literal_error":
        options = [o.strip("'") for o in context["expected"].replace(" or ", ", ").split(", ")]
        what, hint = f"expected one of {', '.join(options)}", suggest(str(error["input"]), options)
        return document.problem(place, what, error["input"], hint)
    if kind == "no_kind":
        keys = list(error["input"]) if isinstance(error["input"], dict) else []
        hints = [suggest(str(key), context["keys"].split(", ")) for key in keys]
        return document.problem(place, what, ", ".join(map(str, keys)), next(filter(None, hints), ""))
    got = "" if isinstance(error["input"], dict) else error["input"]
    return document.problem(place, what, got, context.get("hint", ""))


def _place(data: Any, loc: tuple[str | int, ...]) -> Iterator[str | int]:
    """The steps of pydantic's `loc` that exist in the data; the others are tags of unions or missing keys."""
    for step in loc:
        if _holds(data, step):
            data = data[step]
            yield step


def _holds(data: Any, step: str | int) -> bool:
    if isinstance(data, dict):
        return step in data
    return isinstance(data, list) and isinstance(step, int) and step < len(data)


def name_of(data: dict[str, Any]) -> Any:
    """The value of its first key, by which a list item goes."""
    return next((value for key, value in data.items() if key != TAG), None)


def _fields(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Keys of the model that stands at `loc`, for suggestions."""
    at: list[type[BaseModel]] = [model]
    for step in loc:
        tagged = [m for m in at if m.__name__ == step]
        fields = [f for m in at for name, f in m.model_fields.items() if step in (name, f.alias)]
        at = tagged or [m for f in fields for m in _models(f.annotation)] or at
    return [f.alias or name for m in at for name, f in m.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _brief(got: object) -> str:
    """What was found, on one short line."""
    words = {"True": "true", "False": "false", "None": "nothing"}
    text = " ".join(got.split()) if isinstance(got, str) else words.get(repr(got), repr(got))
    return text if len(text) <= 60 else text[:57] + "..."


def json_schema(model: type[Strict]) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a document, for editors."""
    kind = model.version.partition("/")[0]
    made = model.model_json_schema()
    made["properties"][HEADER] = {"const": model.version, "description": "kind and version of this file"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": f"stepfall {kind}"}


def render(data: dict[str, Any], block: frozenset[str] = frozenset()) -> str:
    """YAML text of plain data: what fits a line is written in flow style, except the values of the keys in `block`."""
    yaml = YAML()
    yaml.width = 10_000
    yaml.brace_single_entry_mapping_in_flow_sequence = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = StringIO()
    yaml.dump(_styled(data, block, 0, 10_000), out)
    return out.getvalue()


def _styled(data: Any, block: frozenset[str], indent: int, used: int) -> Any:
    """The data for ruamel: `used` columns of the line are taken before it, `indent` by the lines below it."""
    if isinstance(data, str):
        return LiteralScalarString(data) if "\n" in data else data
    if not isinstance(data, dict | list | tuple):
        return data
    flow = used + len(str(data)) <= WIDTH and not _has_block(data, block)
    if isinstance(data, dict):
        inner = {k: (indent + 2, WIDTH if k in block else indent + len(k) + 2) for k in data}
        made: Any = CommentedMap((k, _styled(v, block, *inner[k])) for k, v in data.items() if k != TAG)
        if TAG in data:
            made.yaml_set_ctag(Tag(suffix=TAG + data[TAG]))
    else:
        made = CommentedSeq(_styled(v, block, indent + 2, indent + 2) for v in data)
    if flow:
        made.fa.set_flow_style()
    return made


def _has_block(data: Any, block: frozenset[str]) -> bool:
    if isinstance(data, dict):
        return any(k in block or _has_block(v, block) for k, v in data.items())
    return isinstance(data, list | tuple) and any(_has_block(v, block) for v in data)
