"""A number of a YAML file: `16 MiB`, or with what is known of it, `{value: 16 MiB, source: ..., confidence: high}`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic_core import PydanticCustomError, core_schema

from arch import units
from einsum.problems import suggest

UNLIMITED = "unlimited"
WORDS = ("source", "confidence")
LARGEST = 1e15  # of a plain number: below it every whole number is exact
Confidence = Literal["high", "medium", "low"]  # a primary source; one secondary source or sources that differ; a guess


@dataclass(frozen=True, slots=True)
class Number:
    """A number of the file with its dimension, source and confidence; value None: unlimited."""

    value: float | None
    dimension: str
    source: str | None
    confidence: str | None


def _error(what: str, hint: str = "") -> PydanticCustomError:
    return PydanticCustomError("number", "{what}", {"what": what, "hint": hint})


def _split(given: Any) -> tuple[Any, str | None, str | None]:
    """`{value: x, source: y, confidence: z}` or a plain x."""
    if not isinstance(given, dict):
        return given, None, None
    for key in given:
        if key not in ("value", *WORDS):
            raise _error(f"unknown key `{key}` beside a number", suggest(str(key), ("value", *WORDS)))
    if "value" not in given:
        raise _error("missing key `value`")
    if "source" in given and not isinstance(given["source"], str):
        raise _error("expected a text as `source`")
    if given.get("confidence", "high") not in get_args(Confidence):
        raise _error(f"expected one of {', '.join(get_args(Confidence))} as `confidence`")
    return given["value"], given.get("source"), given.get("confidence")


class _Sourced:
    """Metadata of an annotated `Number`: how pydantic reads it, with or without its source, and its JSON schema."""

    schema: dict[str, Any]

    def read(self, given: Any) -> Number:
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        words = {"source": {"type": "string"}, "confidence": {"enum": list(get_args(Confidence))}}
        keys = {"value": self.schema, **words}
        full = {"type": "object", "properties": keys, "required": ["value"], "additionalProperties": False}
        return {"anyOf": [self.schema, full]}


class _Quantity(_Sourced):
    """A quantity of one of `dimensions`, read into SI."""

    def __init__(self, *dimensions: str, unlimited: bool = False) -> None:
        self.dimensions, self.unlimited = dimensions, unlimited
        examples = [units.EXAMPLES[d] for d in dimensions] + [UNLIMITED] * unlimited
        self.schema = {"type": "string", "description": " or ".join(dimensions), "examples": examples}

    def read(self, given: Any) -> Number:
        text, *words = _split(given)
        if self.unlimited and text == UNLIMITED:
            return Number(None, self.dimensions[0], *words)
        try:
            value, dimension = units.parse(text, *self.dimensions)
        except units.UnitError as error:
            raise _error(error.what, error.hint) from None
        return Number(value, dimension, *words)


class _Plain(_Sourced):
    """A positive number without a unit."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.schema = {"type": "integer", "minimum": 1} if whole else {"type": "number", "exclusiveMinimum": 0}

    def read(self, given: Any) -> Number:
        value, *words = _split(given)
        numeric = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        if not numeric or not 0 < value < LARGEST:
            raise _error(f"expected a positive {'whole ' if self.whole else ''}number")
        return Number(value, "count", *words)


Count = Annotated[Number, _Plain(whole=True)]
Rate = Annotated[Number, _Plain(whole=False)]
Size = Annotated[Number, _Quantity("size")]
SizeOrUnlimited = Annotated[Number, _Quantity("size", unlimited=True)]
Bandwidth = Annotated[Number, _Quantity("bandwidth", "bytes per cycle", unlimited=True)]
Time = Annotated[Number, _Quantity("time", "cycles")]
Energy = Annotated[Number, _Quantity("energy")]
AccessEnergy = Annotated[Number, _Quantity("energy", "energy per byte")]
EnergyPerByte = Annotated[Number, _Quantity("energy per byte")]
Area = Annotated[Number, _Quantity("area")]
Length = Annotated[Number, _Quantity("length")]
Power = Annotated[Number, _Quantity("power")]
Frequency = Annotated[Number, _Quantity("frequency")]
