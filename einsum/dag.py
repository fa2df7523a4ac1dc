"""The graph of a cascade as text and as SVG: inputs first, every Einsum in a layer behind all that it reads."""

from __future__ import annotations

from xml.sax.saxutils import escape

from einsum.cascade import Cascade
from einsum.show import show_einsum

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 130, 40, 24, 52, 16  # of a node, between nodes, around all: SVG user units
_STYLE = (
    "text{font:13px sans-serif;text-anchor:middle;dominant-baseline:central}"
    "rect{fill:#fff;stroke:#333}rect.input{fill:#e8f0fe}rect.output{fill:#e6f4ea}"
    "path{fill:none;stroke:#777;marker-end:url(#arrow)}path.state{stroke:#c5221f;stroke-dasharray:5 3}"
)
_ARROW = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" style="fill:#777;stroke:none"/></marker>'
)


def edges(cascade: Cascade) -> tuple[tuple[str, str, bool], ...]:
    """(tensor read, tensor written, whether a later statement writes it: a state), each once, in program order."""
    place = {e.name: i for i, e in enumerate(cascade.einsums)}
    found = ((a.tensor, e.name, place.get(a.tensor, -1) >= place[e.name]) for e in cascade.einsums for a in e.reads)
    return tuple(dict.fromkeys(found))


def layers(cascade: Cascade) -> tuple[tuple[str, ...], ...]:
    """Tensors by layer: inputs, then each Einsum one behind the latest tensor that it waits for."""
    at = dict.fromkeys(cascade.inputs, 0)
    forward = [(source, target) for source, target, state in edges(cascade) if not state]
    for einsum in cascade.einsums:
        at[einsum.name] = 1 + max((at[source] for source, target in forward if target == einsum.name), default=0)
    return tuple(tuple(t for t, layer in at.items() if layer == n) for n in range(max(at.values()) + 1))


def dag_text(cascade: Cascade) -> str:
    """A line for each tensor: its layer, what it waits for (`state` where it carries one), and its statement."""
    lines = []
    for number, names in enumerate(layers(cascade)):
        for name in names:
            reads = [source + " (state)" * state for source, target, state in edges(cascade) if target == name]
            arrow = f" <- {', '.join(reads)}" if reads else ""
            text = f"   {show_einsum(cascade[name])}" if name in cascade else ""
            lines.append((f"{number}  {name}{arrow}", text))
    width = max(len(head) for head, _ in lines)
    return "\n".join((head.ljust(width) + text).rstrip() for head, text in lines) + "\n"


def dag_svg(cascade: Cascade) -> str:
    """A drawing from top to bottom; dashed edges carry state to the next iteration."""
    rows = _ordered(cascade)
    widest = max(map(len, rows))
    left = {len(row): (widest - len(row)) * (WIDTH + GAP_X) / 2 + MARGIN for row in rows}
    place = {
        name: (left[len(row)] + i * (WIDTH + GAP_X), MARGIN + n * (HEIGHT + GAP_Y))
        for n, row in enumerate(rows)
        for i, name in enumerate(row)
    }
    size = (2 * MARGIN + widest * (WIDTH + GAP_X) - GAP_X, 2 * MARGIN + len(rows) * (HEIGHT + GAP_Y) - GAP_Y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]:g} {size[1]:g}" width="{size[0]:g}">',
        f"<title>{escape(cascade.name)}</title><style>{_STYLE}</style><defs>{_ARROW}</defs>",
        *(_edge(place[source], place[target], state) for source, target, state in edges(cascade)),
        *(_node(cascade, name, x, y) for name, (x, y) in place.items()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _ordered(cascade: Cascade) -> list[list[str]]:
    """The layers, each sorted by the mean place of what its tensors read, so that few edges cross."""
    place: dict[str, float] = {}
    rows = []
    for names in layers(cascade):
        sources = {n: [place[s] for s, t, _ in edges(cascade) if t == n and s in place] for n in names}
        mean = {n: sum(found) / len(found) if found else 0.0 for n, found in sources.items()}
        row = sorted(names, key=lambda n: mean[n])
        place |= {name: (i + 0.5) / len(row) for i, name in enumerate(row)}
        rows.append(row)
    return rows


def _edge(source: tuple[float, float], target: tuple[float, float], state: bool) -> str:
    if state:  # from the side of the later statement back up to the earlier one
        x0, y0 = source[0] + WIDTH, source[1] + HEIGHT / 2
        x1, y1 = target[0] + WIDTH, target[1] + HEIGHT / 2
        bend = max(x0, x1) + GAP_X
        return f'<path class="state" d="M{x0:g} {y0:g}C{bend:g} {y0:g} {bend:g} {y1:g} {x1:g} {y1:g}"/>'
    x0, y0 = source[0] + WIDTH / 2, source[1] + HEIGHT
    x1, y1 = target[0] + WIDTH / 2, target[1]
    return f'<path d="M{x0:g} {y0:g}C{x0:g} {y0 + GAP_Y / 2:g} {x1:g} {y1 - GAP_Y / 2:g} {x1:g} {y1:g}"/>'


def _node(cascade: Cascade, name: str, x: float, y: float) -> str:
    kind = "input" if name not in cascade else "output" if name in cascade.outputs else "inner"
    ranks = ",".join(cascade.tensor[name].ranks)
    statement = escape(show_einsum(cascade[name]) if name in cascade else f"{name}[{ranks}]")
    return (
        f"<g><title>{statement}</title>"
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
        f'<text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2:g}">{escape(name)}[{escape(ranks)}]</text></g>'
    )
