"""The points of a measurement campaign on one Hopper GPU: attention, decoding, matrix products and experts, three tiles
each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from arch.machine import Machine
from einsum.library import load as load_cascade
from gpu_backend.handwritten.moe import TRAINED, Tiles, fused_moe
from gpu_backend.handwritten.paged import cache, paged_decode
from gpu_backend.job import Point, generated
from gpu_backend.routine import Routine
from mapper import library_gpu
from mapper.kernel_gpu import Sizes

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
PAGE = 16  # keys; vLLM's default
EXPERTS = {  # model -> hidden size, width, count and number chosen of its experts, as in its published configuration
    "Mixtral-8x7B": (4096, 14336, 8, 2),
    "Qwen3-30B-A3B": (2048, 768, 128, 8),
    "DeepSeek-V3": (7168, 2048, 256, 8),
}
EXPERT_TILES = {  # tokens -> rows, columns and depth of the blocks; few tokens fill few rows of an expert's blocks
    64: (Tiles(16, 64, 128), Tiles(16, 128, 64), Tiles(32, 128, 64)),
    512: (Tiles(16, 128, 64), Tiles(32, 128, 64), Tiles(64, 128, 64)),
    2048: (Tiles(64, 64, 64), Tiles(64, 128, 64), Tiles(128, 128, 64)),
    8192: (Tiles(64, 128, 64), Tiles(128, 64, 64), Tiles(128, 128, 64)),
}
SMALL_EXPERTS = {"T": 40, "D": 128, "F": 128, "E": 8, "K": 2}
Make = Callable[[Sizes], Routine]


def points(machine: Machine) -> tuple[Point, ...]:
    """Every point; of each family one tile of the middle sizes has energy, and of some of them ncu's bytes."""
    families = (_attention, _decode, _latent, _products, _paged, _experts)
    return tuple(point for family in families for point in family(machine))


def _attention(machine: Machine) -> Iterator[Point]:
    for stem, generator in ATTENTION.items():
        for variant in ("", "-causal"):
            for depth in (64, 128):
                for tokens in SEQUENCES:
                    batch, widths = max(1, TOKENS // tokens), {"E": depth, "F": depth}
                    sizes = {"B": batch, "H": HEADS, "P": tokens, "M": tokens, **widths}
                    small = {"B": 1, "H": 2, "P": SMALL, "M": SMALL, **widths}
                    for tile in TILES[depth]:
                        made = partial(generator, block_m=tile[0], block_n=tile[1])
                        middle = tile == (64, 64) and tokens in (2048, 8192)
                        make = _mapped(stem + variant, machine, made, tile)
                        yield _point(stem + variant, machine, sizes, small, make, tile, middle, middle and depth == 128)


def _decode(machine: Machine) -> Iterator[Point]:
    for tokens in (2048, 8192, 32768):
        sizes = {"B": 8, "G": 8, "R": 4, "P": 16, "M": tokens, "E": 128, "F": 128}
        small = {"B": 1, "G": 2, "R": 2, "P": 16, "M": 512, "E": 128, "F": 128}
        for splits, keys in ((4, 64), (8, 64), (8, 32)):
            made = partial(library_gpu.decode, block_n=keys, splits=splits)
            make = _mapped("attention-flashdecode-gqa", machine, made, (splits, keys))
            first = (splits, keys) == (4, 64)
            yield _point("attention-flashdecode-gqa", machine, sizes, small, make, (splits, keys), first, first)


def _latent(machine: Machine) -> Iterator[Point]:
    for tokens in (2048, 8192, 32768):
        sizes = {"B": 128, "H": 16, "M": tokens, "C": 512, "R": 64}
        small = {"B": 2, "H": 16, "M": 256, "C": 512, "R": 64}
        for keys in (16, 32, 64):
            made = partial(library_gpu.flash_attention, block_n=keys)
            make = _mapped("mla-decode", machine, made, (16, keys))
            yield _point("mla-decode", machine, sizes, small, make, (16, keys), keys == 32, keys == 32)


def _products(machine: Machine) -> Iterator[Point]:
    for n in (1024, 2048, 4096, 8192):
        sizes, small = {"M": n, "N": n, "K": n}, {"M": SMALL, "N": SMALL, "K": SMALL}
        for tile in ((64, 64), (128, 128), (128, 256)):
            made = partial(library_gpu.gemm, block_m=tile[0], block_n=tile[1])
            make, square = _mapped("gemm", machine, made, tile), tile == (128, 128)
            yield _point("gemm", machine, sizes, small, make, tile, square, square)


def _paged(machine: Machine) -> Iterator[Point]:
    def make(splits: int, keys: int, sizes: Sizes) -> Routine:
        lengths, pages = cache(sizes["B"], sizes["M"], PAGE, seed=0)
        every = {**sizes, "S": PAGE, "J": pages.shape[1], "NP": pages.size}
        return paged_decode(every, lengths, pages, machine, keys, splits)

    for tokens in (2048, 8192, 32768):
        sizes = {"B": 32, "G": 8, "R": 4, "M": tokens, "E": 128, "F": 128}
        small = {"B": 2, "G": 2, "R": 4, "M": 256, "E": 128, "F": 128}
        for tile in ((4, 64), (8, 64), (8, 32)):
            first = tile == (8, 64)
            yield _point("paged-decode", machine, sizes, small, partial(make, *tile), tile, first, first)


def _experts(machine: Machine) -> Iterator[Point]:
    def make(tiles: Tiles, sizes: Sizes) -> Routine:
        return fused_moe(sizes, TRAINED.draw(sizes["T"], sizes["E"], sizes["K"]), machine, tiles)

    for model, (hidden, width, count, chosen) in EXPERTS.items():
        for tokens, choices in EXPERT_TILES.items():
            sizes = {"T": tokens, "D": hidden, "F": width, "E": count, "K": chosen}
            for tiles in choices:
                middle = tiles == choices[1] and tokens in (64, 2048)
                name = f"fused-moe_{model}"
                tile = (tiles.rows, tiles.columns, tiles.depth)
                yield _point(name, machine, sizes, SMALL_EXPERTS, partial(make, tiles), tile, middle, middle)


def _mapped(name: str, machine: Machine, generator, tile: tuple[int, ...]) -> Make:
    """The kernels of a generated mapping, as a function of the sizes."""
    cascade, written = load_cascade(name), "x".join(map(str, tile))
    return lambda sizes: generated(cascade, generator(cascade, machine, sizes), machine, sizes, written)


def _point(
    name: str, machine: Machine, sizes: Sizes, small: Sizes, make: Make, tile: tuple[int, ...], energy: bool, ncu: bool
) -> Point:
    written = "_".join(f"{rank}{size}" for rank, size in sizes.items())
    whole = f"{name}_{written}_{'x'.join(map(str, tile))}"
    return Point(whole, machine, partial(make, sizes), partial(make, small), energy, ncu)
