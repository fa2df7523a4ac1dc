"""A machine file that names another machine: `like: h100`, and what differs from it (SEMANTICS 3.12).

Keys of its own stand in place of those of the other file; `changes` puts values at paths such as `hbm.capacity`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from arch.document import Document, Place, name_of, read
from arch.number import UNLIMITED
from einsum.problems import InputError, suggest

Find = Callable[[str], tuple[str, str]]  # a machine's name or path -> (text, file)
OWN = ("changes", "name", "doc")  # not taken over


def expand(document: Document, find: Find, seen: tuple[str, ...] = ()) -> None:
    """Put the other machine's data, changed, into a document with `like`; InputError with every path that it lacks."""
    own = document.data
    if not isinstance(own, dict) or not isinstance(like := own.get("like"), str):
        return
    if like in seen:
        raise InputError(document.problem(("like",), "machines that are like each other", like))
    base = read(*find(like))
    expand(base, find, (*seen, like))
    if not isinstance(base.data, dict):
        raise InputError(document.problem(("like",), "not a machine", like))
    merged = {k: v for k, v in base.data.items() if k not in OWN}
    merged |= {key: _sourced(value, document.file) if key not in OWN else value for key, value in own.items()}
    changes = own.get("changes")
    changes = changes if isinstance(changes, dict) else {}
    targets = {path: _place(merged, path) for path in changes}
    for path, place in targets.items():
        if place is None:
            names = [n for _, node in _nodes(merged) if isinstance(n := name_of(node), str)]
            name = path.partition(".")[0]
            hint = "" if name in names else suggest(name, names)
            document.problems.append(document.problem(("changes", path), f"{like} has no such place", path, hint))
            continue
        _at(merged, place[:-1])[place[-1]] = _sourced(changes[path], document.file)
        document.places[place] = document.line(("changes", path))
    document.data = merged


def _sourced(value: Any, file: str) -> Any:
    """A number without a source has this file as its own: the source around it in the other file is not its own."""
    source = f"stated in {file}"
    if isinstance(value, dict) and "value" in value:
        return {"source": source, **value}
    quantity = isinstance(value, int | float) and not isinstance(value, bool)
    quantity |= isinstance(value, str) and (value[:1].isdigit() or value == UNLIMITED)
    return {"value": value, "source": source} if quantity else value


def _place(data: Any, path: str) -> Place | None:
    """Where a path such as `sm.axes.sm.size` stands, or would if its last key is new; None: nowhere."""
    name, *steps = path.split(".")
    found = next((place for place, node in _nodes(data) if place and name_of(node) == name), None)
    if found is None or not steps:
        return None
    for i, step in enumerate(steps):
        at = _at(data, found)
        if isinstance(at, list):
            known = next((j for j, item in enumerate(at) if isinstance(item, dict) and name_of(item) == step), None)
        else:
            known = step if isinstance(at, dict) and (step in at or i == len(steps) - 1) else None
        if known is None:
            return None
        found = (*found, known)
    return found


def _at(data: Any, place: Place) -> Any:
    for step in place:
        data = data[step]
    return data


def _nodes(data: Any, place: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every mapping in the tree and the links with its place, parents first."""
    if isinstance(data, dict):
        yield place, data
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        if place or key in ("root", "links"):
            yield from _nodes(value, (*place, key))
