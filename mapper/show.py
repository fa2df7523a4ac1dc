"""A mapping as the loop nest that a person would draw."""

from __future__ import annotations

from collections.abc import Iterator

from mapper.mapping import Compute, Hold, Loop, Mapping, Move, Node, Order, Phases, Pipe, Seq

STEP = "  "


def show(mapping: Mapping) -> str:
    """Indented text: loops with their holds, pipes with their schedules, leaves with their units and private loops."""
    facts = [f"{name}={size}" for name, size in mapping.sizes]
    facts += [f"{'everything' if tensor == '*' else tensor} in {dtype}" for tensor, dtype in mapping.dtypes]
    title = f"mapping {mapping.name}: {mapping.cascade} on {mapping.machine}"
    lines = [f"{title} ({', '.join(facts)})" if facts else title]
    for group in mapping.groups:
        after = f" after {', '.join(group.after)}" if group.after else ""
        share = f" on {group.share:g} of the machine" if group.share != 1 else ""
        lines.append(f"group {group.name}{after}{share}")
        lines += _body(group.body, STEP)
    return "\n".join(lines) + "\n"


def _body(body: tuple[Node, ...], indent: str) -> Iterator[str]:
    for node in body:
        yield from _node(node, indent)


def _node(node: Node, indent: str) -> Iterator[str]:
    match node:
        case Loop():
            yield indent + loop_text(node)
            for hold in node.holds:
                yield f"{indent}{STEP}hold {_hold(hold)}"
            yield from _body(node.body, indent + STEP)
        case Seq():
            yield f"{indent}seq"
            yield from _body(node.body, indent + STEP)
        case Pipe():
            yield f"{indent}pipe, {node.open} open, {node.ahead} ahead, {_policy(node)}"
            yield from (f"{indent}{STEP}{line}" for line in _schedule(node))
            yield from _body(node.body, indent + STEP)
        case Compute():
            shares = "".join(f" and {share:g} on {unit}" for unit, share in node.shares)
            head = f"{indent}{node.einsum} on {node.unit}{shares}{_timing(node)}"
            yield head + (f": {', '.join(map(loop_text, node.loops))}" if node.loops else "")
        case Move():
            by = f" by {node.unit}" if node.unit else ""
            yield f"{indent}move {node.tensor} from {node.source} to {node.target}{by}{_timing(node)}"


def loop_text(loop: Loop) -> str:
    """One loop without its body: `parallel-for p by 64 over sm.sm, dynamic`."""
    word = "for" if loop.over is None else "parallel-for"
    tile = "" if all(t == 1 for t in loop.tile) else " by " + _listed(map(str, loop.tile))
    text = f"{word} {_listed(loop.ranks)}{tile}" + (f" over {loop.over}" if loop.over else "")
    if loop.fill != "block":
        text += f", {loop.fill}"
    if loop.extent is not None:
        text += (
            ", while the guard holds" if isinstance(loop.extent, str) else f", {_listed(map(str, loop.extent))} times"
        )
    text += f", rotated by {loop.offset}" if loop.offset else ""
    return text + (f", combined by {loop.combine}" if loop.combine else "")


def _listed(items) -> str:
    texts = list(items)
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"


def _hold(h: Hold) -> str:
    text = f"{h.tensor} in {h.memory}"
    text += f", {h.deep} deep" if h.deep != 1 else ""
    text += f", {h.part:g} of it" if h.part != 1 else ""
    text += f", {h.spread} over {h.over}" if h.over else ""
    text += f", along {h.along}" if h.along else ""
    text += f", for {' '.join(h.users)}" if h.users else ""
    text += f", in place of {h.inplace}" if h.inplace else ""
    return text + (", kept between groups" if h.kept else "")


def _timing(node: Compute | Move) -> str:
    behind = f", {node.stage} behind" if node.stage else ""
    return behind + "".join(f", at the {side} {rank}" for rank, side in node.at)


def _policy(pipe: Pipe) -> str:
    return {Order: "static order", Phases: "phases"}.get(type(pipe.schedule), "oldest first")


def _schedule(pipe: Pipe) -> Iterator[str]:
    match pipe.schedule:
        case Order(units):
            for unit, leaves in units:
                yield f"order {unit}: {' '.join(leaves)}"
        case Phases(phases):
            for i, phase in enumerate(phases, 1):
                yield f"phase {i}: {' '.join(phase.leaves)}" + (f", then drain {phase.drain}" if phase.drain else "")
