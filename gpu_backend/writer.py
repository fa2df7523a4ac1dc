"""A line writer that owns indentation and remembers which Einsum each line belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Writer:
    """Collects source lines. `lines` maps 1-based line numbers to the label given with the line."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._depth = 0
        self.lines: list[tuple[int, str]] = []

    def __call__(self, line: str = "", label: str = "") -> None:
        """Append one line at the current depth."""
        self._text.append("    " * self._depth + line if line else "")
        if label:
            self.lines.append((len(self._text), label))

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Append `head` and indent what is written inside."""
        self(head)
        self._depth += 1
        yield
        self._depth -= 1

    @property
    def text(self) -> str:
        return "\n".join(self._text) + "\n"
