"""The YAML of a mapping, read into the tree and written back equal (SEMANTICS 4.1).

A body is a flat list: a loop (`- for: m1`) encloses every item after it in its list, unless it has a `body` of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arch.document import Document, Place as FilePlace, Strict, json_schema, parse, render
from einsum.problems import read_text
from mapper.mapping import (
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
from mapper.model import ComputeModel, GroupModel, LoopModel, MappingModel, MoveModel, PipeModel, SeqModel

# written if not at default
_HOLD = ("deep", "part", "over", "spread", "along", "inplace", "kept")
_BLOCK = frozenset({"groups", "body", "pipe", "seq"})  # keys whose lists stand one item a line


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
            spread = (h.over, h.spread, h.along)
            holds.append(Hold(h.tensor, h.memory, h.deep, h.part, *spread, users, h.inplace, h.kept))
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
    return (
        {"tensor": h.tensor, "in": h.memory}
        | _changed(h, Hold("", ""), *_HOLD)
        | ({"users": list(h.users)} if h.users else {})
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
