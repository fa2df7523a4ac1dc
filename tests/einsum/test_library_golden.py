"""Pass and operation counts of the whole library as golden text, and the formulas behind some of them.

Where existence depends on data, operations are the analysis's upper bounds (SEMANTICS 2.1).

`python tests/einsum/test_library_golden.py` writes the golden text anew.
"""

from pathlib import Path

import pytest

from einsum.analysis import analyse
from einsum.bind import bind
from einsum.library import library, load
from einsum.passes import passes
from einsum.variants import VARIANTS

GOLDEN = Path(__file__).parent / "golden" / "library.txt"
SIZES = {"B": 2, "H": 8, "G": 4, "R": 2, "P": 32, "M": 64, "E": 16, "F": 8, "M0": 8, "M2": 4, "N": 12, "NP": 16,
         "C": 24, "S": 16, "J": 4, "W": 8, "L": 64, "PS": 8, "MS": 8, "KEEP": 6, "T": 16, "D": 32, "I": 48, "K": 20,
         "V": 40, "CAP": 6, "KJ": 2}  # fmt: skip
DEVICES = {"P": 4}  # in a mixture of experts P is the number of devices
FIBER = {"sparse-block-topk-decode": "n", "backward-layer-norm": "d", "backward-cross-entropy": "v",
         "softmax": "n",
         "layer-norm": "d", "layer-norm-stats": "d", "rms-norm": "d", "mlp": "i", "swiglu": "i", "cross-entropy": "v",
         "gemm": "k", "grouped-gemm": "d", "transformer-linear": "d"}  # fmt: skip


def line(name):
    cascade = load(name)
    rank = FIBER.get(name) or _expert_fiber(name) or ("m1" if "m1" in cascade.ranks else "m")
    sizes = SIZES | (DEVICES if name.startswith("moe-") else {})
    analysis = analyse(bind(cascade, {size: sizes[size] for size in cascade.free_sizes}))
    operations = " ".join(f"{op_class} {count}" for op_class, count in analysis.operations.items())
    return f"{name}: {passes(cascade, rank).count} over {rank}; {operations}"


def _expert_fiber(name):
    return "e" if name.startswith("gate-") else "d" if name.startswith("moe-") else ""


@pytest.mark.parametrize("name", library())
def test_pass_and_operation_counts(name):
    assert line(name) in GOLDEN.read_text(encoding="utf-8").splitlines()


def test_golden_text_has_no_other_lines():
    assert [text.split(":")[0] for text in GOLDEN.read_text(encoding="utf-8").splitlines()] == list(library())


BASE = {  # operations of attention by class, worked out by hand; q: queries of all heads, m: keys, t: tiles, s: parts
    "attention-naive": lambda q, m, e, f, t, s: dict(mac=q * m * (e + f), exp=q * m, add=q * m, div=q * m),
    "attention-3pass": lambda q, m, e, f, t, s: dict(
        mac=q * m * (e + f), max=q * m, exp=q * m, add=2 * q * m, div=q * m
    ),
    "attention-3pass-deferred": lambda q, m, e, f, t, s: dict(
        mac=q * m * (e + f), max=q * m, exp=q * m, add=2 * q * m, div=q * f
    ),
    "attention-2pass": lambda q, m, e, f, t, s: dict(
        mac=q * m * (e + f) + q * t, max=q * m + q * t, exp=q * m + q * t, add=2 * q * m + q * t, mul=q * m, div=q * m
    ),
    "attention-1pass": lambda q, m, e, f, t, s: dict(
        mac=q * m * (e + f), max=q * m + q * t, exp=q * m + q * t, add=2 * q * m + q * t * (1 + 1 + f),
        mul=q * t * (1 + f), div=q * f,
    ),
    "attention-flashdecode": lambda q, m, e, f, t, s: dict(
        mac=q * m * (e + f) + q * s * (1 + f), max=q * m + q * t + q * s, exp=q * m + q * t + q * s,
        add=2 * q * m + q * t * (1 + 1 + f) + q * s, mul=q * t * (1 + f), div=q * f,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BASE)
def test_operations_by_hand(name):
    q, m, e, f, tiles, parts = 2 * 8 * 32, 64, 16, 8, 8, 4
    cascade = load(name)
    analysis = analyse(bind(cascade, {size: SIZES[size] for size in cascade.free_sizes}))
    assert analysis.operations == dict(sorted(BASE[name](q, m, e, f, tiles, parts).items()))


@pytest.mark.parametrize("name", BASE)
def test_absorbed_latent_attention_counts_by_hand(name):
    """Scores over C + R and values over C elements for each pair, and the two products with the weights."""
    b, h, p, m, n, c, r, f = 2, 8, 32, 64, 12, 24, 2, 8
    macs = {kind: counts(f"{name}-{kind}")["mac"] - counts(name)["mac"] for kind in ("mla", "mla-absorbed")}
    assert macs["mla-absorbed"] - _combined(name, c - f) == b * h * p * (m * (c + r + c) + c * n + c * f - m * (16 + f))
    assert macs["mla"] == b * h * (m * c * (n + f) + p * m * (n + r - 16))


@pytest.mark.parametrize("stem", BASE)
def test_variants_keep_the_passes_but_for_topk(stem):
    """Masks, heads, pages and latent vectors change no pass; a top-k needs all scores before any is used."""
    rank = "m1" if "m1" in load(stem).ranks else "m"
    base = passes(load(stem), rank).count
    for variant in VARIANTS:
        assert passes(load(f"{stem}-{variant}"), rank).count == base + (variant == "topk"), variant


def counts(name):
    cascade = load(name)
    return analyse(bind(cascade, {size: SIZES[size] for size in cascade.free_sizes})).operations


def _combined(name, more):
    """Flash-Decoding combines its parts by macs over the values' elements."""
    return 2 * 8 * 32 * 4 * more if "flashdecode" in name else 0


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("\n".join(map(line, library())) + "\n", encoding="utf-8")
