"""Boundary models of the mapping YAML: its keys, types and defaults (SEMANTICS 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError, core_schema

from arch.document import Strict, told_apart_by
from mapper.mapping import GUARD


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
    kept: bool = False


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
            raise ValueError(f"needs a tile size for each of {', '.join(self.ranks)}, not {len(self.tile)} of them")
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
