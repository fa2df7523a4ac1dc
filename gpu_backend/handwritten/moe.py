"""A mixture of experts by hand: what it computes, its launches, and what these do for a given routing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from arch.machine import Machine
from einsum.bind import bind
from einsum.cascade import Workload
from einsum.occupancy import Occupancy, Routing
from einsum.parse import parse
from einsum.problems import InputError, Problem
from gpu_backend.handwritten.ledger import Ledger
from gpu_backend.handwritten.text import arguments, check_type, kernel
from gpu_backend.kernel import Argument, Kernel
from gpu_backend.routine import BY_HAND, Routine
from mapper.kernel_gpu import power_of_two
from mapper.result import Result

CASCADE = """# Mixture of experts, SwiGLU: choice k of token t is expert IDS[t,k] with weight G[t,k].
cascade fused-moe
tensor X[t,d]: bf16
tensor IDS[t,k]: int32
tensor G[t,k]: fp32
tensor W1[e,d,f]: bf16
tensor W3[e,d,f]: bf16
tensor W2[e,f,d]: bf16
tensor H[t,k,f]: bf16
tensor Y[t,k,d]: bf16
tensor O[t,d]: bf16

U[t,k,f] = X[t,d] * W1[IDS[t,k],d,f]
UG[t,k,f] = X[t,d] * W3[IDS[t,k],d,f]
H[t,k,f] = silu(U[t,k,f]) * UG[t,k,f]
YE[t,k,d] = H[t,k,f] * W2[IDS[t,k],f,d]
Y[t,k,d] = G[t,k] * YE[t,k,d]
O[t,d] = Y[t,k,d]
"""
FILE = "moe_kernels.py"
I_TILE = 1024  # pairs that counting and sorting take at a time
T_TILE = 4  # tokens of a program that combines
TRAINED = Occupancy("zipf", 0.3)  # a trained model's choices: the busiest of 128 experts has 3 times the average


@dataclass(frozen=True)
class Tiles:
    """ROWS of a block of pairs, columns, depth of an iteration, and blocks side by side that share weights in L2."""

    rows: int = 64
    columns: int = 64
    depth: int = 64
    group: int = 8
    stages: int = 3

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}x{self.depth}"

    @property
    def warps(self) -> int:
        """Eight where a block has as many rows as two warp groups take."""
        return 8 if self.rows >= 128 else 4


def fused_moe(
    sizes: Mapping[str, int], routing: Routing, machine: Machine, tiles: Tiles = Tiles(), dtype: str = "bf16"
) -> Routine:
    """The kernels for sizes T, D, E, F, K and a routing.

    InputError unless D and F are whole tiles and the routing has the sizes, and for an element type that the kernels do
    not take.
    """
    check_type(dtype)
    names = ("X", "W1", "W3", "W2", "H", "Y", "O")
    workload = bind(parse(CASCADE), sizes, dict.fromkeys(names, dtype))
    _check(sizes, routing, tiles)
    made = _Moe(workload, routing, tiles)
    return Routine(workload, BY_HAND, str(tiles), made.kernels(), made.closed(machine), routing.given(workload.cascade))


def _check(sizes: Mapping[str, int], routing: Routing, tiles: Tiles) -> None:
    problems = [
        Problem(f"has to be a multiple of the tile {tile}", path=rank, got=str(sizes[rank]))
        for rank in ("D", "F")
        for tile in sorted({tiles.columns, tiles.depth})
        if sizes[rank] % tile
    ]
    if (routing.tokens, routing.choices, routing.experts) != (sizes["T"], sizes["K"], sizes["E"]):
        problems.append(Problem("the routing is of other sizes T, K, E", path="IDS"))
    if problems:
        raise InputError(problems)


class _Moe:
    """The launches and, from the number of pairs of each expert, what they do."""

    def __init__(self, workload: Workload, routing: Routing, tiles: Tiles) -> None:
        s = workload.sizes
        self.workload, self.tiles, self.ids = workload, tiles, routing.chosen.reshape(-1).astype(np.int64)
        self.t, self.d, self.e, self.f, self.k = (s[name] for name in "TDEFK")
        self.pairs = self.t * self.k
        self.of_expert = routing.counts
        self.blocks_of = -(-self.of_expert // tiles.rows)
        self.blocks = int(self.blocks_of.sum())
        used = min(self.e, self.pairs)
        self.most = (self.pairs + used * (tiles.rows - 1)) // tiles.rows  # blocks that any routing may need
        self.i_tile = min(I_TILE, power_of_two(self.pairs))
        self.up, self.down = self.f // tiles.columns, self.d // tiles.columns  # tiles of columns

    def kernels(self) -> tuple[Kernel, ...]:
        """The five launches."""
        t, tensors = self.tiles, self._tensors()
        shared = {
            "T": self.t, "D": self.d, "E": self.e, "F": self.f, "K": self.k, "PAIRS": self.pairs, "ROWS": t.rows,
            "BLOCKS": self.most, "GROUP": t.group, "I_TILE": self.i_tile, "E_TILE": power_of_two(self.e),
            "BLOCKS_TILE": power_of_two(self.most), "T_TILE": T_TILE,
        }  # fmt: skip
        up = shared | {"F_TILE": t.columns, "D_TILE": t.depth}
        down = shared | {"D_TILE": t.columns, "F_TILE": t.depth}
        product, element = t.rows * t.columns * t.depth, self.workload.bits("X") // 8
        loaded = lambda weights: (t.rows + weights * t.columns) * t.depth * element
        make = partial(kernel, FILE, tensors)
        return (
            make("moe_count", ("N",), shared, self.e),
            make("moe_sort", ("SORTED", "OWNER"), shared, self.e),
            make("moe_up", ("H",), up, self.most * self.up, t.warps, t.stages, (2 * product, loaded(2))),
            make("moe_down", ("Y",), down, self.most * self.down, t.warps, t.stages, (product, loaded(1))),
            make("moe_combine", ("O",), down, -(-self.t // T_TILE) * self.down),
        )

    def _tensors(self) -> dict[str, Argument]:
        scratch = {"N": self.e, "SORTED": self.most * self.tiles.rows, "OWNER": self.most}
        return arguments(self.workload) | {name: Argument(name, "int32", (n,), False) for name, n in scratch.items()}

    def closed(self, machine: Machine) -> Result:
        """Counts of all launches."""
        sizes = {name: self.workload.bits(name) // 8 for name in self.workload.dtypes}
        ledger = Ledger(sizes | dict.fromkeys(("N", "SORTED", "OWNER"), 4), machine)
        self._count(ledger)
        self._sort(ledger)
        self._products(ledger)
        self._combine(ledger)
        config = {"cascade": self.workload.cascade.name, "sizes": dict(self.workload.sizes)}
        return ledger.result(config, (*self.workload.cascade.inputs, *self.workload.cascade.outputs))

    def _ids(self, ledger: Ledger) -> int:
        """Every expert's program reads all choices, a tile at a time; the tiles' lanes."""
        tiles = -(-self.pairs // self.i_tile)
        lanes = self.e * tiles * self.i_tile
        starts = range(0, self.pairs, self.i_tile)
        touched = sum(ledger.sectors("IDS", i, min(self.i_tile, self.pairs - i)) for i in starts)
        ledger.move("read", "IDS", lanes, self.e * self.pairs, self.pairs, self.e * touched)
        return lanes

    def _count(self, ledger: Ledger) -> None:
        ledger.programs += self.e
        self._ids(ledger)
        ledger.compute("N", self.e * (self.i_tile - 1), combines=1)
        ledger.move("write", "N", self.e, self.e, self.e, self.e)

    def _sort(self, ledger: Ledger) -> None:
        """A tile of choices leaves each expert a run of neighbouring places; so does the padding."""
        ledger.programs += self.e
        e_tile, most_tile = power_of_two(self.e), power_of_two(self.most)
        ledger.move("read", "N", self.e * e_tile, self.e**2, self.e, self.e * ledger.sectors("N", 0, self.e))
        for sum_of_blocks in ("first", "last"):
            ledger.compute(sum_of_blocks, self.e * (e_tile - 1), combines=1)
        lanes = self._ids(ledger)
        ledger.compute("place", lanes - lanes // self.i_tile, combines=1)
        owned = placed = 0
        for e, blocks in enumerate(self.blocks_of):
            first = int(self.blocks_of[:e].sum())
            owned += ledger.sectors("OWNER", first, int(blocks) if e < self.e - 1 else self.most - first)
            places = np.searchsorted(np.flatnonzero(self.ids == e), range(0, self.pairs + self.i_tile, self.i_tile))
            ends = first * self.tiles.rows + np.array([*places, blocks * self.tiles.rows])
            placed += sum(ledger.sectors("SORTED", a, b - a) for a, b in pairwise(map(int, ends)))
        ledger.move("write", "OWNER", self.e * most_tile, self.most, self.most, owned)
        rows = self.blocks * self.tiles.rows
        ledger.move("write", "SORTED", lanes + self.e * self.tiles.rows, rows, rows, placed)

    def _products(self, ledger: Ledger) -> None:
        """Rows are those of whole blocks; what is loaded and stored of them are the pairs."""
        rows, weights, used = self.blocks * self.tiles.rows, self.d * self.f, int((self.of_expert > 0).sum())
        for columns, names in ((self.up, ("W1", "W3")), (self.down, ("W2",))):
            ledger.programs += self.most * columns
            ledger.move("read", "OWNER", self.most * columns, self.most * columns, self.most, self.most * columns)
            ledger.move("read", "SORTED", rows * columns, rows * columns, rows)
            for name in names:
                ledger.move("read", name, self.blocks * weights, self.blocks * weights, used * weights)
        ledger.move("read", "X", rows * self.up * self.d, self.pairs * self.up * self.d, self.t * self.d)
        ledger.move("write", "H", rows * self.f, self.pairs * self.f, self.pairs * self.f)
        ledger.move("read", "H", rows * self.down * self.f, self.pairs * self.down * self.f, self.pairs * self.f)
        ledger.move("read", "G", rows * self.down, self.pairs * self.down, self.pairs, self.down * self._gathered())
        ledger.move("write", "Y", rows * self.d, self.pairs * self.d, self.pairs * self.d)
        for product in ("U", "UG", "Y"):
            ledger.compute(product, rows * weights, self.pairs * weights, mac=1)
        ledger.compute("H", rows * self.f, self.pairs * self.f, mul=2, exp=1, add=1, div=1)
        ledger.compute("Y", rows * self.d, self.pairs * self.d, mul=1)

    def _gathered(self) -> int:
        """Sectors of the weights of the pairs of each block."""
        found, sector = 0, 8  # weights of 4 bytes
        for e in np.flatnonzero(self.of_expert):
            pairs = np.flatnonzero(self.ids == e)
            for start in range(0, len(pairs), self.tiles.rows):
                found += len(np.unique(pairs[start : start + self.tiles.rows] // sector))
        return found

    def _combine(self, ledger: Ledger) -> None:
        programs = -(-self.t // T_TILE)
        padded, tokens = programs * T_TILE * self.d, self.t * self.d
        ledger.programs += programs * self.down
        ledger.move("read", "Y", padded * self.k, tokens * self.k, tokens * self.k)
        ledger.compute("total", padded * self.k, tokens * self.k, add=1)
        ledger.move("write", "O", padded, tokens, tokens)
