"""The YAML of a mapping, read into the tree and written back equal (SEMANTICS 4.1).

A body is a flat list: a loop (`- for: m1`) encloses every item after it in its list, unless it has a `body` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError, core_schema

from arch.document import Document, Place as FilePlace, Strict, json_schema, parse, render, told_apart_by
from einsum.problems import read_text
from mapper.mapping import (
    GUARD,
    Compute,
    Group,
    Hold,
    Key,
    Loop,
    Mapping,
    Move,
    Node,
    Order,
    Phase,
    Phases,
    Pipe,
    Schedule,
    Seq,
)

_HOLD = ("deep", "part", "over", "spread", "along", "inplace")  # fields of a hold that are written if not at default
_BLOCK = frozenset({"groups", "body", "pipe", "seq"})  # keys whose lists stand one item a line


class _OneOrMore:
    """Metadata of a tuple that the file may write as one value or a list of them."""

    def __init__(self, item: Callable[[Any], bool], what: str, schema: dict[str, Any]) -> None:
        self.item, self.what, self.schema = item, what, schema

    def read(self, given: Any) -> tuple[Any, ...]:
        values = given if isinstance(given, list) and given else [given]
        if not all(self.item(v) for v in values):
            raise PydanticCustomError("one_or_more", "{what}", {"what": f"expected {self.what} or a list of them"})
        return tuple(values)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [self.schema, {"type": "array", "items": self.schema, "minItems": 1}]}


def _whole(given: Any, least: int) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= least


def _extent(given: Any) -> str | tuple[int, ...]:
    if given == GUARD:
        return GUARD
    if isinstance(given, list) and all(_whole(n, 0) for n in given):
        return tuple(given)
    what = "expected `guard`, or a list with a count for each iteration of the loop around"
    raise PydanticCustomError("extent", "{what}", {"what": what})


_RANK = _OneOrMore(lambda v: isinstance(v, str), "a rank", {"type": "string"})
_TILE = _OneOrMore(lambda v: _whole(v, 1), "a positive whole number", {"type": "integer", "minimum": 1})
_COUNTS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
Ranks = Annotated[tuple[str, ...], _RANK]
Tiles = Annotated[tuple[int, ...], _TILE]
Extent = Annotated[
    str | tuple[int, ...], PlainValidator(_extent), WithJsonSchema({"anyOf": [{"const": GUARD}, _COUNTS]})
]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


class HoldModel(Strict):
    """A memory keeps the part of a tensor that one iteration of the loop touches."""

    tensor: str
    memory: str = Field(alias="in")
    deep: Positive = 1
    part: Annotated[float, Field(gt=0, le=1)] = 1.0
    over: str | None = None
    spread: Literal["replicated", "sharded", "multicast"] = "replicated"
    along: str | None = None
    users: list[str] = Field(default_factory=list)
    inplace: str | None = None


NodeModel = Annotated[
    Annotated["LoopModel", Tag("LoopModel")]
    | Annotated["ComputeModel", Tag("ComputeModel")]
    | Annotated["PipeModel", Tag("PipeModel")]
    | Annotated["SeqModel", Tag("SeqModel")]
    | Annotated["MoveModel", Tag("MoveModel")],
    told_apart_by(for_="LoopModel", compute="ComputeModel", pipe="PipeModel", seq="SeqModel", move="MoveModel"),
]


class LoopModel(Strict):
    """A loop over one rank, or over the product of several, the last fastest."""

    ranks: Ranks = Field(alias="for")
    tile: Tiles | None = None
    over: str | None = None
    fill: Literal["block", "cyclic", "dynamic", "sorted"] = "block"
    extent: Extent | None = None
    offset: str | None = None
    combine: Literal["network", "atomic", "workspace"] | None = None
    hold: list[HoldModel] = Field(default_factory=list)
    body: list[NodeModel] | None = None

    @model_validator(mode="after")
    def _one_tile_a_rank(self) -> LoopModel:
        if self.tile is not None and len(self.tile) != len(self.ranks):
            raise ValueError(f"{len(self.ranks)} ranks need as many tile sizes, not {len(self.tile)}")
        return self


class ComputeModel(Strict):
    """An Einsum on a unit, with the loops that belong to it alone, outermost first."""

    compute: str
    unit: str = Field(alias="on")
    shares: dict[str, float] = Field(default_factory=dict)
    stage: NotNegative = 0
    at: dict[str, Literal["first", "last"]] = Field(default_factory=dict)
    loops: list[LoopModel] = Field(default_factory=list)


class MoveModel(Strict):
    """A transfer as an actor of its own."""

    move: str
    source: str = Field(alias="from")
    target: str = Field(alias="to")
    unit: str | None = Field(alias="on", default=None)
    stage: NotNegative = 0
    at: dict[str, Literal["first", "last"]] = Field(default_factory=dict)


class PhaseModel(Strict):
    """Leaves that run together until all have ended, and a unit that drains then."""

    leaves: list[str]
    drain: str | None = None


class PipeModel(Strict):
    """Leaves overlapped across iterations; oldest first unless `order` or `phases` says otherwise."""

    pipe: list[NodeModel]
    open: Positive = 2
    ahead: NotNegative = 1
    order: dict[str, list[str]] | None = None
    phases: list[PhaseModel] | None = None

    @model_validator(mode="after")
    def _one_schedule(self) -> PipeModel:
        if self.order is not None and self.phases is not None:
            raise ValueError("`order` and `phases` are two schedules: keep one")
        return self


class SeqModel(Strict):
    """One after another."""

    seq: list[NodeModel]


class GroupModel(Strict):
    """A fused group."""

    name: str
    after: list[str] = Field(default_factory=list)
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    body: list[NodeModel]


class MappingModel(Strict):
    """A cascade placed on a machine: `stepfall: mapping/1`."""

    version: ClassVar[str] = "mapping/1"
    stepfall: str
    name: str
    doc: str = ""
    cascade: str
    machine: str
    sizes: dict[str, Positive] = Field(default_factory=dict)
    dtypes: dict[str, str] = Field(default_factory=dict)
    groups: list[GroupModel]


for _model in (LoopModel, PipeModel, SeqModel):
    _model.model_rebuild(force=True)  # they refer to one another


def load_mapping(path: str | Path) -> Mapping:
    """The mapping in a YAML file; InputError with every problem of the file."""
    return loads(read_text(path), str(path))


def loads(text: str, file: str = "<mapping>") -> Mapping:
    """A mapping from YAML text; `file` names it in problems. Legality is `mapper.check`'s."""
    model, document = parse(text, file, MappingModel)
    builder = _Builder(document)
    return Mapping(
        name=model.name,
        cascade=model.cascade,
        machine=model.machine,
        groups=tuple(builder.group(g, i) for i, g in enumerate(model.groups)),
        sizes=tuple(model.sizes.items()),
        dtypes=tuple(model.dtypes.items()),
        doc=model.doc.strip(),
        places=builder.places,
    )


def schema() -> dict[str, Any]:
    """JSON schema of the mapping YAML, for editors."""
    return json_schema(MappingModel)


class _Builder:
    """Makes the tree and notes the line of each of its nodes."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.places: dict[Key, tuple[str, int]] = {}

    def _note(self, key: Key, place: FilePlace) -> None:
        self.places[key] = (self.document.file, self.document.line(place))

    def group(self, m: GroupModel, i: int) -> Group:
        self._note((i,), ("groups", i))
        return Group(m.name, self._body(m.body, ("groups", i, "body"), 0, (i,)), tuple(m.after), m.share)

    def _body(self, items: Sequence[Strict], place: FilePlace, start: int, key: Key) -> tuple[Node, ...]:
        nodes: list[Node] = []
        for i in range(start, len(items)):
            item, here = items[i], (*key, len(nodes))
            if isinstance(item, LoopModel) and item.body is None:
                inner = self._body(items, place, i + 1, here)
                return (*nodes, self._loop(item, (*place, i), here, inner))
            nodes.append(self._node(item, (*place, i), here))
        return tuple(nodes)

    def _node(self, m: Strict, place: FilePlace, key: Key) -> Node:
        match m:
            case LoopModel():
                return self._loop(m, place, key, self._body(m.body or (), (*place, "body"), 0, key))
            case ComputeModel():
                self._note(key, place)
                loops = tuple(
                    self._loop(loop, (*place, "loops", i), (*key, "loops", i), ()) for i, loop in enumerate(m.loops)
                )
                return Compute(m.compute, m.unit, tuple(m.shares.items()), m.stage, tuple(m.at.items()), loops)
            case MoveModel():
                self._note(key, place)
                return Move(m.move, m.source, m.target, m.unit, m.stage, tuple(m.at.items()))
            case PipeModel():
                self._note(key, place)
                return Pipe(self._body(m.pipe, (*place, "pipe"), 0, key), m.open, m.ahead, _schedule(m))
            case SeqModel():
                self._note(key, place)
                return Seq(self._body(m.seq, (*place, "seq"), 0, key))
        raise TypeError(m)

    def _loop(self, m: LoopModel, place: FilePlace, key: Key, body: tuple[Node, ...]) -> Loop:
        self._note(key, place)
        holds = []
        for i, h in enumerate(m.hold):
            self._note((*key, "holds", i), (*place, "hold", i))
            users = tuple(h.users)
            holds.append(Hold(h.tensor, h.memory, h.deep, h.part, h.over, h.spread, h.along, users, h.inplace))
        tile = m.tile or (1,) * len(m.ranks)
        return Loop(m.ranks, tile, m.over, m.fill, m.extent, m.offset, m.combine, tuple(holds), body)


def _schedule(m: PipeModel) -> Schedule:
    if m.order is not None:
        return Order(tuple((unit, tuple(leaves)) for unit, leaves in m.order.items()))
    if m.phases is not None:
        return Phases(tuple(Phase(tuple(p.leaves), p.drain) for p in m.phases))
    return Pipe(()).schedule


def dump_mapping(mapping: Mapping) -> str:
    """YAML text such that `loads(dump_mapping(m))` equals m."""
    data: dict[str, Any] = {"stepfall": MappingModel.version, "name": mapping.name}
    data |= {"doc": mapping.doc} if mapping.doc else {}
    data |= {"cascade": mapping.cascade, "machine": mapping.machine}
    data |= {"sizes": dict(mapping.sizes)} if mapping.sizes else {}
    data |= {"dtypes": dict(mapping.dtypes)} if mapping.dtypes else {}
    data["groups"] = [_dump_group(group) for group in mapping.groups]
    return render(data, _BLOCK)


def _dump_group(g: Group) -> dict[str, Any]:
    after = {"after": list(g.after)} if g.after else {}
    return {"name": g.name, **after, **_changed(g, Group("", ()), "share"), "body": _dump_body(g.body)}


def _dump_body(body: tuple[Node, ...]) -> list[dict[str, Any]]:
    items = []
    for i, node in enumerate(body):
        item = _dump_node(node)
        if isinstance(node, Loop) and i == len(body) - 1:
            return [*items, item, *_dump_body(node.body)]
        items.append(item | {"body": _dump_body(node.body)} if isinstance(node, Loop) else item)
    return items


def _dump_node(node: Node) -> dict[str, Any]:
    match node:
        case Loop():
            return _dump_loop(node)
        case Compute():
            shares = {"shares": dict(node.shares)} if node.shares else {}
            loops = {"loops": [_dump_loop(loop) for loop in node.loops]} if node.loops else {}
            return {"compute": node.einsum, "on": node.unit, **shares, **_timing(node), **loops}
        case Move():
            unit = {"on": node.unit} if node.unit is not None else {}
            return {"move": node.tensor, "from": node.source, "to": node.target, **unit, **_timing(node)}
        case Seq():
            return {"seq": _dump_body(node.body)}
        case Pipe():
            return {"pipe": _dump_body(node.body), "open": node.open, "ahead": node.ahead, **_dump_schedule(node)}


def _dump_loop(loop: Loop) -> dict[str, Any]:
    one = len(loop.ranks) == 1
    data: dict[str, Any] = {"for": loop.ranks[0] if one else list(loop.ranks)}
    if any(t != 1 for t in loop.tile):
        data["tile"] = loop.tile[0] if one else list(loop.tile)
    data |= _changed(loop, Loop((), ()), "over", "fill", "extent", "offset", "combine")
    if isinstance(loop.extent, tuple):
        data["extent"] = list(loop.extent)
    if loop.holds:
        data["hold"] = [_dump_hold(h) for h in loop.holds]
    return data


def _dump_hold(h: Hold) -> dict[str, Any]:
    return {"tensor": h.tensor, "in": h.memory} | _changed(h, Hold("", ""), *_HOLD) | (
        {"users": list(h.users)} if h.users else {}
    )


def _timing(node: Compute | Move) -> dict[str, Any]:
    return ({"stage": node.stage} if node.stage else {}) | ({"at": dict(node.at)} if node.at else {})


def _dump_schedule(pipe: Pipe) -> dict[str, Any]:
    match pipe.schedule:
        case Order(units):
            return {"order": {unit: list(leaves) for unit, leaves in units}}
        case Phases(phases):
            listed = [{"leaves": list(p.leaves), **({"drain": p.drain} if p.drain else {})} for p in phases]
            return {"phases": listed}
    return {}


def _changed(node: Any, default: Any, *fields: str) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    return {f: getattr(node, f) for f in fields if getattr(node, f) != getattr(default, f)}
