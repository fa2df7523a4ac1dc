"""The state of a launched tile."""

from __future__ import annotations

from sim.nest import Shape

WAITING, READY, RUNNING, DONE, ABSENT = range(5)  # of a task in a tile


class Tile:
    """A launched tile: the state of each task, how many ends each waits for, and who waits for its ends."""

    __slots__ = ("cached", "index", "left", "need", "number", "shape", "state", "waiters")

    def __init__(self, number: int, index: tuple[int, ...], shape: Shape) -> None:
        self.number, self.index, self.shape = number, index, shape
        self.state = bytearray(ABSENT if v < 0 else WAITING for v in shape.variant)
        self.need = [0] * len(self.state)
        self.waiters: dict[int, list[tuple[Tile, int]]] = {}
        self.left = len(self.state) - self.state.count(ABSENT)
        self.cached: bytes | None = None
