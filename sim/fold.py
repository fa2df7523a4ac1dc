"""Exact folding by state recurrence: skip whole periods of a loop once the machine's state repeats.

The engine is deterministic and time-invariant. If its state relative to now and to the current indices is the same
at two starts of iterations of one loop, under the same outer indices, everything between them repeats until the
loop ends. Then the loop's index, the clock's offset and all counts advance by whole periods. Nothing is
extrapolated: the answer is the full run's, tick for tick and count for count. Rules 6.10 to 6.13.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass

from sim.engine import Engine
from sim.nest import Cursor, Evaluate, evaluator
from sim.outcome import Cause, Run
from sim.program import Program, loops_of

MEMORY = 8192  # states remembered for each loop; a longer period is not found, and the run stays exact


@dataclass(frozen=True, slots=True)
class Seen:
    """Where the engine was when a state was first met."""

    index: int
    clock: int  # ticks
    tiles: int
    counts: list[list[int]]
    stalls: list[dict[Cause, int]]
    free: list[int]


class Recurrence:
    """The hook of `Engine` that skips periods. Skips once the first `whole` tiles have ended."""

    def __init__(self, program: Program, whole: int = 0) -> None:
        self._whole = whole
        self._seen: list[dict[Hashable, Seen]] = [{} for _ in program.loops]
        _, self._plain_from = repeats(program)
        self._inner = [_inner_bounds(program, d) for d in range(len(program.loops))]
        self._alike: list[tuple[list[int], range]] = [([], range(0))] * len(program.loops)  # by loop: where bounds are

    def __call__(self, engine: Engine) -> None:
        cursor = engine.cursor
        d = cursor.changed
        for inner in self._seen[d + 1 :]:
            inner.clear()
        oldest = next(iter(engine.open.values()), None)
        whole = (oldest.number if oldest else engine.launched) >= self._whole
        if d < 0 or self._inner[d] is None or not whole:
            return
        index = cursor.at[d]
        left = self._until(cursor, d) - 1 - index
        # all open tiles were launched after the oldest: if it has the outer indices of the next launch, all have
        apart = oldest is not None and oldest.index[:d] != tuple(cursor.at[:d])
        if left < 1 or apart or index < self._plain_from[d]:
            return
        seen, key = self._seen[d], (self.key(engine), self._inner[d] and _relative(engine))
        then = seen.get(key)
        if then is None:
            if len(seen) >= MEMORY:
                seen.clear()
            seen[key] = _now(engine, index)
        elif times := min(left // (index - then.index), _times_until_scarce(engine, then)):
            self.skip(engine, d, then, times)

    def _until(self, cursor: Cursor, d: int) -> int:
        """The index of loop d from which on inner bounds have other values than now. What was seen with others is
        forgotten."""
        inner, at = self._inner[d], list(cursor.at)
        if not inner:
            return cursor.stop[d]
        outer, alike = self._alike[d]
        if outer != at[:d] or at[d] not in alike:
            begin, values = at[d], [bound(at) for bound in inner]
            while at[d] < cursor.stop[d] and [bound(at) for bound in inner] == values:
                at[d] += 1
            alike = range(begin, at[d])
            self._alike[d] = at[:d], alike
            self._seen[d].clear()
        return alike.stop

    def key(self, engine: Engine) -> Hashable:
        """What has to come back for the future to repeat."""
        return state(engine)

    def skip(self, engine: Engine, d: int, then: Seen, times: int) -> None:
        """Skip `times` periods of loop d, each as from `then` until now."""
        _skip(engine, d, then, times)


def repeats(program: Program) -> tuple[list[bool], list[int]]:
    """Of each loop: whether its iterations may repeat, and from which index on. Rule 6.11."""
    inner = [
        {n for loop in program.loops[d + 1 :] for b in (loop.start, loop.stop) for n in loops_of(b)}
        for d in range(len(program.loops))
    ]
    named = [w for t in program.tasks for w in (*t.when, *(w for v in t.variants for w in v.when))]
    # an iteration that a condition names is unlike its neighbours: states count only after the last such index
    plain_from = [
        max((w.at + 1 for w in named if w.loop == loop.name and isinstance(w.at, int)), default=0)
        for loop in program.loops
    ]
    return [loop.name not in names for loop, names in zip(program.loops, inner, strict=True)], plain_from


def _inner_bounds(program: Program, d: int) -> tuple[Evaluate, ...] | None:
    """The bounds inside loop d that depend on it; None if one depends also on a loop inside. Rule 6.11."""
    found, inside = [], {loop.name for loop in program.loops[d + 1 :]}
    for bound in (b for loop in program.loops[d + 1 :] for b in (loop.start, loop.stop)):
        names = set(loops_of(bound))
        if program.loops[d].name in names:
            if names & inside:
                return None
            found.append(evaluator(bound, program.depth))
    return tuple(found)


def _relative(engine: Engine) -> Hashable:
    """Where the open tiles lie, seen from the next launch."""
    return tuple(tuple(i - j for i, j in zip(t.index, engine.cursor.at, strict=True)) for t in engine.open.values())


def run(program: Program, trace_tiles: int = 0) -> Run:
    """Simulate with folding; the first `trace_tiles` tiles are run whole and traced. Raises Deadlock."""
    return Engine(program, Recurrence(program, trace_tiles), trace_tiles).run()


def run_full(program: Program, trace_tiles: int = 0) -> Run:
    """Simulate every tile one by one. Raises Deadlock."""
    return Engine(program, None, trace_tiles).run()


def state(engine: Engine) -> Hashable:
    """All that the future depends on, relative to the time and the tile number of the next launch.

    Indices follow from numbers, since the nest inside the loop is the same in each of its iterations, and where
    static orders stand follows from the tasks' states. Of a slot with plenty left it does not say how many.
    """
    now, number = engine.now, engine.launched
    tiles = []
    for tile in engine.open.values():
        if tile.cached is None:
            tile.cached = bytes(tile.state)
        tiles.append((tile.number - number, tile.shape.number, tile.cached))
    running = tuple(e and (e[0] - number, e[1], e[2] - now) for e in engine.running)
    latent = tuple(sorted((n - number, k, end - now) for n, k, end in engine.latent))
    plenty = 2 * engine.program.window
    return tuple(tiles), running, latent, tuple(min(n, plenty) for n in engine.free)


def _now(engine: Engine, index: int) -> Seen:
    return Seen(
        index,
        engine.now + engine.offset,
        engine.launched + engine.skipped,
        [list(n) for n in engine.counts],
        [dict(s) for s in engine.stalls],
        list(engine.free),
    )


def _times_until_scarce(engine: Engine, then: Seen) -> int:
    """For how many periods every plentiful slot stays so. A level above zero never decides anything, so that levels
    may drift from period to period; even if all of a period's takings came first, none may reach zero."""
    times = sys.maxsize
    for s, (free, before) in enumerate(zip(engine.free, then.free, strict=True)):
        if free == before:
            continue
        takers = (k for k, acquires in enumerate(engine.acquires) if s in acquires)
        taken = sum(sum(engine.counts[k]) - sum(then.counts[k]) for k in takers)
        if min(free, before) <= taken:
            return 0
        if free < before:
            times = min(times, 1 + (free - taken - 1) // (before - free))
    return times


def _skip(engine: Engine, d: int, then: Seen, times: int) -> None:
    """Advance loop d by `times` periods, and the clock and every count with it."""
    distance = times * (engine.cursor.at[d] - then.index)
    engine.offset += times * (engine.now + engine.offset - then.clock)
    engine.skipped += times * (engine.launched + engine.skipped - then.tiles)
    for counts, before in zip(engine.counts, then.counts, strict=True):
        counts[:] = [n + times * (n - b) for n, b in zip(counts, before, strict=True)]
    for stalls, before in zip(engine.stalls, then.stalls, strict=True):
        stalls.update({cause: n + times * (n - before.get(cause, 0)) for cause, n in stalls.items()})
    engine.free[:] = [n + times * (n - b) for n, b in zip(engine.free, then.free, strict=True)]
    engine.cursor.at[d] += distance
    engine.by_index.clear()
    for tile in engine.open.values():
        tile.index = (*tile.index[:d], tile.index[d] + distance, *tile.index[d + 1 :])
        engine.by_index[tile.index] = tile
