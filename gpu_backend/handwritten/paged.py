"""Decoding over a paged cache by hand: what it computes, its launches, what these do for given lengths and pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from arch.machine import Machine
from einsum.bind import bind
from einsum.cascade import Workload
from einsum.library import load as load_cascade
from einsum.problems import InputError, Problem
from gpu_backend.handwritten.ledger import Ledger
from gpu_backend.handwritten.text import arguments, check_type, kernel
from gpu_backend.kernel import Argument, Kernel
from gpu_backend.routine import BY_HAND, Routine
from mapper.kernel_gpu import power_of_two
from mapper.result import Result

FILE = "paged_kernels.py"
CASCADE = "attention-1pass-gqa-paged-lengths"
LEAST = 16  # side of a matrix product
PARTS = ("RM", "RD", "RNV")


def paged_decode(
    sizes: Mapping[str, int],
    lengths: np.ndarray,
    pages: np.ndarray,
    machine: Machine,
    keys: int = 64,
    splits: int = 4,
    dtype: str = "bf16",
) -> Routine:
    """The kernels for sizes B, G, R, E, F, M, S (keys of a page), NP (pages), J (pages of a request at most): lengths
    [b] in keys, `pages` [b,j]; tiles of `keys` keys dealt out to `splits` programs a request and head of keys.

    InputError unless blocks are powers of two, and lengths and pages are those of the cache.
    """
    check_type(dtype)
    cascade = load_cascade(CASCADE)
    types = {t.name: dtype for t in cascade.tensors if t.dtype == "bf16"}
    workload = bind(cascade, {**sizes, "P": 1, "M0": keys}, types)
    _check(workload, lengths, pages, splits)
    made = _Paged(workload, lengths.astype(np.int64), pages.astype(np.int64), splits)
    given = {"LEN": lengths, "PT": pages}
    return Routine(workload, BY_HAND, f"{splits}x{keys}", made.kernels(), made.closed(machine), given)


def cache(requests: int, keys: int, page: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths [b], from half of `keys` to all, and pages [b,j] of `page` keys, each of one request, in random order."""
    rng = np.random.default_rng(seed)
    each = -(-keys // page)
    lengths = rng.integers(keys // 2, keys, requests, endpoint=True)
    return lengths.astype(np.int32), rng.permutation(requests * each).reshape(requests, each).astype(np.int32)


def _check(workload: Workload, lengths: np.ndarray, pages: np.ndarray, splits: int) -> None:
    s = workload.sizes
    blocks = {"E": s["E"], "F": s["F"], "M0": s["M0"], "splits": splits}
    problems = [
        Problem("has to be a power of two, a side of a product at least 16", path=name, got=str(n))
        for name, n in blocks.items()
        if n != power_of_two(n) or (n < LEAST and name != "splits")
    ]
    if lengths.shape != (s["B"],) or lengths.min() < 1 or lengths.max() > min(s["M"], s["J"] * s["S"]):
        problems.append(Problem("each of B requests has at least one key and at most M, in J pages of S", path="LEN"))
    if pages.shape != (s["B"], s["J"]) or pages.min() < 0 or pages.max() >= s["NP"]:
        problems.append(Problem("each of B requests has J pages of the NP", path="PT"))
    if problems:
        raise InputError(problems)


class _Paged:
    """The two launches and what they do."""

    def __init__(self, workload: Workload, lengths: np.ndarray, pages: np.ndarray, splits: int) -> None:
        s = workload.sizes
        self.workload, self.lengths, self.pages, self.splits = workload, lengths, pages, splits
        self.b, self.g, self.r, self.e, self.f, self.keys = (s[name] for name in ("B", "G", "R", "E", "F", "M0"))
        self.rows = max(LEAST, power_of_two(self.r))
        self.heads = self.b * self.g * self.r
        self.programs = self.b * self.g * splits

    def kernels(self) -> tuple[Kernel, ...]:
        """Parts and their combination."""
        sizes, heads = self.workload.sizes, (self.b, self.g, self.r, self.splits)
        shapes = {"RM": heads, "RD": heads, "RNV": (*heads, self.f)}
        tensors = arguments(self.workload) | {n: Argument(n, "fp32", shape, False) for n, shape in shapes.items()}
        constants = {**sizes, "ROWS": self.rows, "SPLITS": self.splits}
        macs = self.rows * self.keys * (self.e + self.f)
        loaded = self.keys * ((self.e + self.f) * self.workload.bits("K") // 8 + 4)  # and the key's page
        make = partial(kernel, FILE, tensors)
        return (
            make("paged_parts", PARTS, constants, self.programs, iteration=(macs, loaded)),
            make("paged_combine", ("AV",), constants, self.heads),
        )

    def closed(self, machine: Machine) -> Result:
        """Counts of both launches."""
        workload = self.workload
        sizes = {name: workload.bits(name) // 8 for name in workload.dtypes}
        ledger = Ledger(sizes | dict.fromkeys(PARTS, 4), machine)
        ledger.programs = self.programs + self.heads
        self._loads(ledger)
        self._parts(ledger)
        self._combine(ledger)
        config = {"cascade": workload.cascade.name, "sizes": dict(workload.sizes)}
        return ledger.result(config, (*workload.cascade.inputs, *workload.cascade.outputs))

    def _tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        """Request and existing keys of each tile of one head of keys."""
        for b, length in enumerate(self.lengths):
            for start in range(0, int(length), self.keys):
                yield b, np.arange(start, min(start + self.keys, int(length)))

    def _loads(self, ledger: Ledger) -> None:
        """All programs of a request and head of keys together take each of its tiles once."""
        s = self.workload.sizes
        lanes, keys = int(self._count() * self.keys), int(self.lengths.sum()) * self.g
        cached, entries, rows = np.zeros(s["NP"] * s["S"], bool), 0, 0
        for b, m in self._tiles():
            first, last = int(m[0]) // s["S"], int(m[-1]) // s["S"]
            entries += ledger.sectors("PT", b * s["J"] + first, last - first + 1)
            places = self.pages[b, m // s["S"]] * s["S"] + m % s["S"]
            cached[places] = True
            rows += len(np.unique(places))
        ledger.move("read", "LEN", self.programs, self.programs, self.b, self.programs)
        listed = int((-(-self.lengths // s["S"])).sum())
        ledger.move("read", "PT", lanes, keys, listed, self.g * entries)
        queries = self.programs * self.e
        ledger.move("read", "Q", queries * self.rows, queries * self.r, self.heads * self.e)
        for tensor, width in (("KP", self.e), ("VP", self.f)):
            sectors = self.g * rows * ledger.sectors(tensor, 0, width)
            ledger.move("read", tensor, lanes * width, keys * width, int(cached.sum()) * self.g * width, sectors)

    def _count(self) -> int:
        """Tiles of all programs."""
        return self.g * int((-(-self.lengths // self.keys)).sum())

    def _parts(self, ledger: Ledger) -> None:
        rows, tiles = self._count() * self.rows, self._count() * self.r
        block, points = rows * self.keys, int(self.lengths.sum()) * self.g * self.r
        for product, width in (("QK", self.e), ("RNV", self.f)):
            ledger.compute(product, block * width, points * width, mac=1)
        ledger.compute("QK", block, points, mul=1)
        ledger.compute("RM", rows, tiles, max=1)
        ledger.compute("SLN", block, points, add=1, exp=1)
        ledger.compute("PRM", rows, tiles, add=1, exp=1)
        ledger.compute("RD", rows, tiles, mul=1, add=1)
        ledger.compute("RNV", rows * self.f, tiles * self.f, mul=1)
        for reduction in ("RM", "RD"):
            ledger.compute(reduction, block - rows, points - tiles, combines=1)
        lanes, parts = self.programs * self.rows, self.heads * self.splits
        part = np.arange(parts).reshape(-1, self.r, self.splits) // 8  # sector of a number of 4 bytes
        touched = (np.diff(part, axis=1) > 0).sum() + part.shape[0] * self.splits
        for tensor in ("RM", "RD"):
            ledger.move("write", tensor, lanes, parts, parts, int(touched))
        ledger.move("write", "RNV", lanes * self.f, parts * self.f, parts * self.f)

    def _combine(self, ledger: Ledger) -> None:
        parts = self.heads * self.splits
        for tensor in ("RM", "RD"):
            touched = sum(ledger.sectors(tensor, head * self.splits, self.splits) for head in range(self.heads))
            ledger.move("read", tensor, parts, parts, parts, touched)
        ledger.move("read", "RNV", parts * self.f, parts * self.f, parts * self.f)
        rest = parts - self.heads
        for reduction, width in (("GM", 1), ("SD", 1), ("AV", self.f)):
            ledger.compute(reduction, rest * width, rest * width, combines=1)
        ledger.compute("CM", parts, parts, add=1, exp=1)
        ledger.compute("SD", parts, parts, mul=1)
        ledger.compute("AV", parts * self.f, parts * self.f, mul=1)
        ledger.compute("AV", self.heads * self.f, self.heads * self.f, div=1)
        ledger.move("write", "AV", self.heads * self.f, self.heads * self.f, self.heads * self.f)
