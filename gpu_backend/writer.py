"""A line writer that owns indentation and remembers which Einsum each line belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class Writer:
    """Collects source lines, each with the label that it was given."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, str, str]] = []  # (text, label, the variable that has to be used below)
        self._depth = 0

    def __call__(self, line: str = "", label: str = "", unless_unused: str = "") -> None:
        """Append one line at the current depth; `unless_unused` names a variable that it assigns: without a use of it
        further down the line is left out."""
        self._lines.append(("    " * self._depth + line if line else "", label, unless_unused))

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Append `head` and indent what is written inside."""
        self(head)
        self._depth += 1
        yield
        self._depth -= 1

    def finished(self) -> tuple[str, tuple[tuple[int, str], ...]]:
        """The source, and (1-based line number, label) of each labelled line."""
        kept: list[tuple[str, str]] = []
        used: set[str] = set()
        for line, label, name in reversed(self._lines):
            if not name or name in used:
                kept.append((line, label))
                used.update(re.findall(r"\w+", line.partition("#")[0]))
        kept.reverse()
        labels = tuple((number, label) for number, (_, label) in enumerate(kept, 1) if label)
        return "\n".join(line for line, _ in kept) + "\n", labels
