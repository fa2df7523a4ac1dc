"""What is wrong with a user's input, where, and what was probably meant.

Every reader of user input (cascade text, machine, mapping and study YAML, command line) collects `Problem`s
and raises them all at once as one `InputError`; the command line prints them and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: `file:line: path: what (got x); did you mean y?`, with the source line and a caret if known."""

    what: str
    file: str = ""
    line: int = 0  # 1-based; 0: unknown
    column: int = 0  # 1-based; 0: unknown
    path: str = ""  # place inside the document, such as `memories.buffer.capacity`
    got: str = ""
    hint: str = ""  # the suggestion alone, without "did you mean"
    source: str = ""  # the offending line of the input

    def __str__(self) -> str:
        place = self.file + (f":{self.line}" if self.line else "")
        text = ": ".join(part for part in (place, self.path, self.what) if part)
        text += f" (got {self.got})" if self.got else ""
        text += f"; did you mean {self.hint}?" if self.hint else ""
        if self.source and self.column:
            text += f"\n  {self.source.rstrip()}\n  {' ' * (self.column - 1)}^"
        return text


class InputError(ValueError):
    """One or more problems of a user's input, sorted by place."""

    def __init__(self, problems: Iterable[Problem] | Problem) -> None:
        found = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.problems = tuple(sorted(found, key=lambda p: (p.file, p.line, p.column)))
        super().__init__("\n".join(map(str, self.problems)))


def read_text(path: str | Path) -> str:
    """The text of a user's file; InputError when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(Problem(f"cannot read the file: {error.strerror}", str(path))) from None
    except UnicodeDecodeError:
        raise InputError(Problem("is not UTF-8 text", str(path))) from None


def suggest(name: str, options: Iterable[str]) -> str:
    """The option closest to `name`, or an empty string when none is close."""
    pool = sorted(options)
    folded = {option.lower(): option for option in reversed(pool)}
    close = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.5)
    return folded[close[0]] if close else ""
