"""Files of other tools, read so that nothing gets lost in silence: every key that no converter asks for is a note.

docs/EXCHANGE.md lists what carries over, format by format.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from arch.document import TAG, Document, Place, read
from einsum.bind import evaluate_size
from einsum.parse import parse_expression
from einsum.problems import InputError, Problem

IGNORED = ("version", "arguments", TAG)  # keys that say nothing about hardware, work or schedule
NAME = re.compile(r"[A-Za-z_]\w*")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?")


@dataclass(eq=False)
class Source:
    """One foreign file, the places that were read, and what did not carry over."""

    document: Document
    used: set[Place] = field(default_factory=set)
    notes: list[Problem] = field(default_factory=list)

    def unread(self) -> Iterator[Problem]:
        """The topmost keys that nothing asked for."""
        for place in self.document.places:
            if place and place not in self.used and place[:-1] in self.used and place[-1] not in IGNORED:
                yield self.document.problem(place, "has no counterpart", View(self, place).brief())

    def lost(self) -> tuple[Problem, ...]:
        """Everything that did not carry over, in the order of the file; what recurs, once with all its lines."""
        found: dict[tuple[str, int, str], list[Problem]] = {}
        for problem in sorted((*self.notes, *self.unread()), key=lambda p: p.line):
            *around, key = problem.path.split(".")
            found.setdefault((key, len(around), problem.what), []).append(problem)
        return tuple(map(_together, found.values()))


def _together(same: list[Problem]) -> Problem:
    lines = dict.fromkeys(str(p.line) for p in same[1:])
    also = f", also in {'lines' if len(lines) > 1 else 'line'} {', '.join(lines)}" if lines else ""
    return replace(same[0], what=same[0].what + also)


def load(text: str, file: str) -> View:
    """The top of a foreign YAML file; InputError if it is none."""
    if "{%" in text or "{{" in text:
        line = next(i for i, row in enumerate(text.splitlines(), 1) if "{%" in row or "{{" in row)
        raise InputError(Problem("a Jinja template: render it first", file, line))
    document = read(text, file, tags=True)
    if document.problems:
        raise InputError(document.problems)
    if not isinstance(document.data, dict):
        raise InputError(Problem("expected keys and values", file, 1))
    return View(Source(document, {()}), ())


@dataclass(frozen=True)
class View:
    """A place of a foreign file."""

    source: Source
    place: Place

    @property
    def data(self) -> Any:
        data = self.source.document.data
        for step in self.place:
            data = data[step]
        return data

    @property
    def tag(self) -> str:
        return self.data.get(TAG, "") if isinstance(self.data, dict) else ""

    @property
    def line(self) -> int:
        return self.source.document.line(self.place)

    @property
    def where(self) -> tuple[str, int]:
        return self.source.document.file, self.line

    def brief(self) -> object:
        return "" if isinstance(self.data, dict | list) else self.data

    def problem(self, what: str, got: object = "", hint: str = "") -> Problem:
        return self.source.document.problem(self.place, what, got, hint)

    def fail(self, what: str, got: object = "", hint: str = "") -> InputError:
        return InputError(self.problem(what, got, hint))

    def note(self, what: str, got: object = "") -> None:
        """Something that does not carry over."""
        self.source.notes.append(self.problem(what, got))

    def __contains__(self, key: str) -> bool:
        return isinstance(self.data, dict) and key in self.data

    def _at(self, step: str | int) -> View:
        place = (*self.place, step)
        self.source.used.add(place)
        return View(self.source, place)

    def get(self, *keys: str) -> View | None:
        """The first of the keys that is there and not empty."""
        found = [self._at(key) for key in keys if key in self]
        return next((view for view in found if view.data is not None), None)

    def want(self, *keys: str) -> View:
        if (found := self.get(*keys)) is None:
            raise self.fail(f"missing key `{keys[0]}`")
        return found

    def items(self, only: Container[str] | None = None) -> Iterator[tuple[str, View]]:
        """Keys and their values; those that are not among `only` stay unread."""
        if not isinstance(self.data, dict):
            raise self.fail("expected keys and values", self.brief())
        yield from ((key, self._at(key)) for key in self.data if key not in IGNORED and (only is None or key in only))

    def listed(self) -> Iterator[View]:
        if not isinstance(self.data, list):
            raise self.fail("expected a list", self.brief())
        yield from (self._at(i) for i in range(len(self.data)))

    def each(self, key: str) -> Iterator[View]:
        """The items of the list under a key; none if it is not there."""
        return found.listed() if (found := self.get(key)) is not None else iter(())

    def pairs(self, *keys: str) -> Iterator[tuple[str, View]]:
        """Keys and values under the first of the keys; none if none is there."""
        return found.items() if (found := self.get(*keys)) is not None else iter(())

    def plain(self) -> Any:
        """The whole value, everything below it taken as read."""
        self.source.used |= {p for p in self.source.document.places if p[: len(self.place)] == self.place}
        return self.data

    def text(self) -> str:
        if isinstance(self.data, dict | list) or self.data is None:
            raise self.fail("expected a text")
        return str(self.data)

    def name(self) -> str:
        """A name that can be one here."""
        if not NAME.fullmatch(text := self.text()):
            raise self.fail("not a name here: letters, digits and _ only", text)
        return text

    def number(self) -> Fraction | None:
        """A number or an arithmetic expression, exactly; None: infinite."""
        text = self.text()
        if text.strip().lower() in ("inf", ".inf"):
            return None
        try:
            if NUMBER.fullmatch(text.strip()):
                return Fraction(text.strip())
            return evaluate_size(parse_expression(text), {})
        except (InputError, KeyError, TypeError, ZeroDivisionError, OverflowError):
            raise self.fail("expected a number or an expression of numbers", text) from None

    def whole(self) -> int:
        value = self.number()
        if value is None or value.denominator != 1 or value < 1:
            raise self.fail("expected a positive whole number", self.brief())
        return int(value)

    def inverse(self) -> float:
        """One over a positive finite number: a rate from a time."""
        value = self.number()
        if value is None or value <= 0:
            raise self.fail("expected a positive finite number", self.brief())
        return float(1 / value)

    def unit(self, scale: Fraction = Fraction(1)) -> float:
        """A finite number that is not negative, in a unit of `scale`."""
        value = self.number()
        if value is None or value < 0:
            raise self.fail("expected a finite number, not negative", self.brief())
        return float(value * scale)
