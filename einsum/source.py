"""The text of a cascade: its statements, and the place of every node made from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from einsum.problems import Problem

CLOSER = {"(": ")", "[": "]"}
_EQUALS = re.compile(r"(?<![<>=!])=(?!=)")
_BEGINS = re.compile(r"\s*(?:(?:cascade|tensor|size)\b|\w+\s*\[.*(?<![<>=!])=(?!=))")
_WRITES = re.compile(r"\s*(?:tensor\s+|size\s+)?(\w+)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement without comments; longer than a line where a bracket is open at the line's end."""

    text: str
    line: int  # of its first character, 1-based


@dataclass
class Source:
    """Text, its file name, where its nodes stand, and the tensors and sizes of statements that could not be read."""

    text: str = ""
    file: str = ""
    broken: set[str] = field(default_factory=set)
    _places: dict[int, tuple[Any, int, int]] = field(default_factory=dict)

    def mark(self, node: Any, line: int, column: int) -> Any:
        """Remember where `node` stands (the object, not its value) and return it."""
        self._places[id(node)] = (node, line, column)
        return node

    def at(self, line: int, column: int, what: str, *, path: str = "", got: str = "", hint: str = "") -> Problem:
        lines = self.text.splitlines()
        source = lines[line - 1] if 0 < line <= len(lines) else ""
        return Problem(what, self.file, line, column, path, got, hint, source)

    def problem(self, node: Any, what: str, *, path: str = "", got: str = "", hint: str = "") -> Problem:
        """A problem at `node`, without a place if the node was not read from text."""
        _, line, column = self._places.get(id(node), (None, 0, 0))
        return self.at(line, column, what, path=path, got=got, hint=hint)

    def doc(self) -> str:
        """The comment lines that the text begins with."""
        taken = []
        for line in self.text.strip().splitlines():
            if not line.startswith("#"):
                break
            taken.append(line[1:].strip())
        return "\n".join(taken)

    def statements(self) -> tuple[list[Statement], list[Problem]]:
        """Split the text into statements; a bracket that is missing or closes nothing is a problem of its own."""
        lines = [line.split("#", 1)[0] for line in self.text.splitlines()]
        found: list[Statement] = []
        problems: list[Problem] = []
        start = 0
        while start < len(lines):
            end, problem = self._extent(lines, start)
            text = "\n".join(lines[start:end])
            if problem is not None:
                problems.append(problem)
                self.note_broken(text)
                while end < len(lines) and not _BEGINS.match(lines[end]):
                    end += 1
            elif text.strip():
                found.append(Statement(text, start + 1))
            start = end
        return found, problems

    def note_broken(self, text: str) -> None:
        """Remember what a statement that cannot be read would have defined, so that its readers are not blamed."""
        if match := _WRITES.match(text):
            self.broken.add(match[1])

    def _extent(self, lines: list[str], start: int) -> tuple[int, Problem | None]:
        """(line after the statement that begins at `start`, its bracket problem)."""
        opened: list[tuple[str, int, int]] = []
        for number in range(start, len(lines)):
            if number > start and _BEGINS.match(lines[number]):
                return number, self._missing(opened[-1])
            equals = {match.start() for match in _EQUALS.finditer(lines[number])}
            for column, char in enumerate(lines[number], 1):
                if column - 1 in equals and opened:
                    return number + 1, self._missing(opened[-1])
                if char in CLOSER:
                    opened.append((char, number + 1, column))
                elif char in CLOSER.values():
                    if not opened:
                        return number + 1, self.at(number + 1, column, f"`{char}` closes nothing")
                    if CLOSER[opened[-1][0]] != char:
                        return number + 1, self._missing(opened[-1])
                    opened.pop()
            if not opened:
                return number + 1, None
        return len(lines), self._missing(opened[-1])

    def _missing(self, opener: tuple[str, int, int]) -> Problem:
        char, line, column = opener
        return self.at(line, column, f"`{char}` is never closed: `{CLOSER[char]}` is missing")
