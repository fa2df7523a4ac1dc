"""The kernels that are checked by name: cascade, mapping, and sizes small enough to interpret in a moment.

Sizes that a tile does not divide are on purpose.
"""

from __future__ import annotations

HEADS = {"B": 1, "H": 2, "E": 32, "F": 32}
SQUARE = HEADS | {"P": 128, "M": 128}
RAGGED = HEADS | {"P": 100, "M": 130}
SHARED = {"B": 1, "G": 2, "R": 2, "E": 32, "F": 32, "P": 64, "M": 128}
FULL = {"B": 1, "H": 2, "P": 256, "M": 256, "E": 64, "F": 64}

KERNELS: dict[str, tuple[str, str, dict[str, int]]] = {  # name -> (cascade, mapping, sizes)
    "flash-attention": ("attention-1pass", "flash-attention", FULL),
    "flash-attention-causal": ("attention-1pass-causal", "flash-attention", FULL),
    "flash-attention-prefill": ("attention-1pass-causal-end", "flash-attention", HEADS | {"P": 64, "M": 160}),
    "flash-attention-window": ("attention-1pass-window", "flash-attention", RAGGED | {"W": 40}),
    "flash-attention-gqa": ("attention-1pass-gqa", "flash-attention", SHARED),
    "flash-attention-gqa-causal": ("attention-1pass-gqa-causal", "flash-attention", SHARED | {"P": 100, "M": 100}),
    "flash-attention-gqa-window": ("attention-1pass-gqa-window", "flash-attention", SHARED | {"P": 128, "W": 50}),
    "flash-attention-mqa": ("attention-1pass-mqa", "flash-attention", SQUARE),
    "flash-decode": ("attention-flashdecode", "gpu-decode", HEADS | {"P": 16, "M": 500}),
    "flash-decode-gqa": ("attention-flashdecode-gqa", "gpu-decode", SHARED | {"P": 16, "M": 512}),
    "mla-decode": ("mla-decode", "flash-attention", {"B": 2, "H": 20, "M": 200, "C": 64, "R": 32}),
    "attention-2pass": ("attention-2pass-recompute", "gpu-passes", RAGGED),
    "attention-2pass-causal": ("attention-2pass-recompute-causal", "gpu-passes", RAGGED),
    "attention-3pass": ("attention-3pass-recompute", "gpu-passes", RAGGED),
    "attention-3pass-causal": ("attention-3pass-recompute-causal", "gpu-passes", RAGGED),
    "attention-3pass-window": ("attention-3pass-recompute-window", "gpu-passes", SQUARE | {"W": 30}),
    "attention-3pass-gqa": ("attention-3pass-recompute-gqa", "gpu-passes", SHARED),
    "attention-3pass-deferred": ("attention-3pass-deferred-recompute", "gpu-passes", RAGGED),
    "attention-3pass-deferred-causal": ("attention-3pass-deferred-recompute-causal", "gpu-passes", SQUARE),
    "attention-naive": ("attention-naive-recompute", "gpu-passes", SQUARE),
    "attention-naive-causal": ("attention-naive-recompute-causal", "gpu-passes", RAGGED),
    "attention-rows": ("attention-3pass", "gpu-rows", RAGGED),
    "attention-rows-causal": ("attention-3pass-deferred-causal", "gpu-rows", RAGGED),
    "attention-unfused": ("attention-3pass", "gpu-unfused", RAGGED),
    "attention-unfused-causal": ("attention-3pass-causal", "gpu-unfused", RAGGED),
    "attention-naive-unfused": ("attention-naive", "gpu-unfused", SQUARE),
    "flash-attention-lengths": ("attention-1pass-lengths", "flash-attention", SQUARE | {"B": 2}),
    "gemm": ("gemm", "gpu-gemm", {"M": 100, "N": 130, "K": 150}),
    "grouped-gemm": ("grouped-gemm", "gpu-gemm", {"S": 200, "E": 3, "T": 64, "D": 96, "F": 64}),
    "swiglu": ("swiglu", "gpu-gemm", {"T": 70, "D": 96, "I": 128}),
    "softmax": ("softmax", "gpu-rows", {"T": 40, "N": 100}),
    "layer-norm": ("layer-norm", "gpu-rows", {"T": 40, "D": 100}),
    "rms-norm": ("rms-norm", "gpu-rows", {"T": 40, "D": 128}),
    "cross-entropy": ("cross-entropy", "gpu-rows", {"T": 40, "V": 100}),
}

GIVEN: dict[str, dict[str, tuple[int, ...]]] = {  # inputs that are lengths or places, which decide what exists
    "flash-attention-lengths": {"LEN": (50, 128)},
    "grouped-gemm": {"START": (0, 64, 128), "COUNT": (64, 64, 64)},
}
