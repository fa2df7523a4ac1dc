"""The points of a measurement campaign on one Hopper GPU: attention, decoding and matrix products, three tiles each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from arch.machine import Machine
from einsum.library import load as load_cascade
from gpu_backend.job import Point
from mapper import library_gpu

TOKENS = 16384  # queries of a point, over batch and sequence
HEADS = 16
ATTENTION = {
    "attention-1pass": library_gpu.flash_attention,
    "attention-2pass-recompute": library_gpu.passes,
    "attention-3pass-recompute": library_gpu.passes,
}
TILES = {64: ((64, 64), (128, 64), (128, 128)), 128: ((64, 64), (128, 64), (128, 32))}  # by E: registers are few
SEQUENCES = (512, 2048, 8192, 32768)
SMALL = 256  # tokens of the check


def points(machine: Machine) -> tuple[Point, ...]:
    """Every point; of each family the first tile of the middle sizes has energy, and of some of them ncu's bytes."""
    return (*_attention(machine), *_decode(machine), *_latent(machine), *_products(machine))


def _attention(machine: Machine) -> Iterator[Point]:
    for stem, generator in ATTENTION.items():
        for variant in ("", "-causal"):
            for depth in (64, 128):
                for tokens in SEQUENCES:
                    sizes = {
                        "B": max(1, TOKENS // tokens),
                        "H": HEADS,
                        "P": tokens,
                        "M": tokens,
                        "E": depth,
                        "F": depth,
                    }
                    small = {"B": 1, "H": 2, "P": SMALL, "M": SMALL, "E": depth, "F": depth}
                    for tile in TILES[depth]:
                        made = partial(generator, block_m=tile[0], block_n=tile[1])
                        middle = tile == (64, 64) and tokens in (2048, 8192)
                        yield _point(stem + variant, machine, sizes, small, made, tile, middle, middle and depth == 128)


def _decode(machine: Machine) -> Iterator[Point]:
    for tokens in (2048, 8192, 32768):
        sizes = {"B": 8, "G": 8, "R": 4, "P": 16, "M": tokens, "E": 128, "F": 128}
        small = {"B": 1, "G": 2, "R": 2, "P": 16, "M": 512, "E": 128, "F": 128}
        for splits, keys in ((4, 64), (8, 64), (8, 32)):
            made = partial(library_gpu.decode, block_n=keys, splits=splits)
            first = (splits, keys) == (4, 64)
            yield _point("attention-flashdecode-gqa", machine, sizes, small, made, (splits, keys), first, first)


def _latent(machine: Machine) -> Iterator[Point]:
    for tokens in (2048, 8192, 32768):
        sizes = {"B": 128, "H": 16, "M": tokens, "C": 512, "R": 64}
        small = {"B": 2, "H": 16, "M": 256, "C": 512, "R": 64}
        for keys in (16, 32, 64):
            made = partial(library_gpu.flash_attention, block_n=keys)
            yield _point("mla-decode", machine, sizes, small, made, (16, keys), keys == 32, keys == 32)


def _products(machine: Machine) -> Iterator[Point]:
    for n in (1024, 2048, 4096, 8192):
        sizes, small = {"M": n, "N": n, "K": n}, {"M": SMALL, "N": SMALL, "K": SMALL}
        for tile in ((64, 64), (128, 128), (128, 256)):
            made = partial(library_gpu.gemm, block_m=tile[0], block_n=tile[1])
            yield _point("gemm", machine, sizes, small, made, tile, tile == (128, 128), tile == (128, 128))


def _point(cascade_name, machine, sizes, small, generator, tile, energy, ncu) -> Point:
    cascade = load_cascade(cascade_name)
    longest = "_".join(f"{name}{size}" for name, size in sizes.items())
    name = f"{cascade_name}_{longest}_{tile[0]}x{tile[1]}"
    mappings = generator(cascade, machine, sizes), generator(cascade, machine, small)
    return Point(name, cascade, mappings[0], machine, sizes, small, mappings[1], energy=energy, ncu=ncu)
