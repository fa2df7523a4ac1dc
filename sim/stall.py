"""Why a resource of the engine is idle, and who waits for what when nothing can go on. Rule 6.9."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from sim.outcome import Cause
from sim.tile import READY, RUNNING, WAITING, Tile

if TYPE_CHECKING:
    from sim.engine import Engine


def cause(engine: Engine, r: int) -> Cause:
    """Why resource r is idle: what the task that it should run next waits for."""
    ordered = engine.orders[r]
    instance = engine.turn(r) if ordered else _oldest(engine, r)
    if instance is None:
        return ("drained" if engine.cursor.done else "window"), ""
    number, k = instance
    if number not in engine.open:
        return "window", ""
    if ordered and any(engine.ready_count[j] and engine.slots_free(j) for j, _ in ordered):
        return "order", engine.program.tasks[k].name
    return _blocker(engine, engine.open[number], k)


def explain(engine: Engine) -> str:
    """Who waits for what, at most six of them."""
    lines, tasks = [], engine.program.tasks
    for tile in engine.open.values():
        for k, state in enumerate(tile.state):
            if state < RUNNING:
                kind, name = _blocker(engine, tile, k)
                why = f"{kind} {name}" if name else f"its turn on {tasks[k].resource}"
                lines.append(f"{tasks[k].name} of tile {tile.index} waits for {why}")
    more = f"; and {len(lines) - 6} more" if len(lines) > 6 else ""
    now = engine.now + engine.offset
    return f"{engine.program.name}: deadlock at tick {now}: " + "; ".join(lines[:6]) + more


def _blocker(engine: Engine, tile: Tile, k: int) -> Cause:
    unmet = engine.unmet(tile, k)
    if unmet:
        return "dependency", engine.program.tasks[unmet[0][1]].name
    taken = (s for s in engine.acquires[k] if not engine.free[s])
    return "slot", next((engine.program.slots[s].name for s in taken), "")


def _oldest(engine: Engine, r: int) -> tuple[int, int] | None:
    """The oldest task of an open tile that resource r has not started."""
    queue = engine.pending[r]
    while queue:
        number, k = queue[0]
        tile = engine.open.get(number)
        if tile is not None and tile.state[k] in (READY, WAITING):
            return number, k
        heapq.heappop(queue)
    return None
