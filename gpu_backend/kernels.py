"""The kernels that are checked by name: cascade, mapping, and sizes small enough to interpret in a moment.

Sizes that a tile does not divide are on purpose.
"""

from __future__ import annotations

HEADS = {"B": 1, "H": 2, "E": 32, "F": 32}
SQUARE = HEADS | {"P": 128, "M": 128}
RAGGED = HEADS | {"P": 100, "M": 130}
SHARED = {"B": 1, "G": 2, "R": 2, "E": 32, "F": 32, "P": 64, "M": 128}
GROUPS = {"S": 200, "E": 3, "T": 64, "D": 96, "F": 64}
FULL = {"B": 1, "H": 2, "P": 256, "M": 256, "E": 64, "F": 64}

KERNELS: dict[str, tuple[str, str, dict[str, int]]] = {  # name -> (cascade, mapping, sizes)
    "flash-attention": ("attention-1pass", "flash-attention", FULL),
    "flash-attention-causal": ("attention-1pass-causal", "flash-attention", FULL),
    "flash-attention-cross": ("attention-1pass", "flash-attention", HEADS | {"B": 2, "P": 48, "M": 200}),
    "flash-attention-wide": ("attention-1pass", "flash-attention", FULL | {"H": 1, "P": 64, "M": 128, "E": 128}),
    "flash-attention-prefill": ("attention-1pass-causal-end", "flash-attention", HEADS | {"P": 64, "M": 160}),
    "flash-attention-window": ("attention-1pass-window", "flash-attention", RAGGED | {"W": 40}),
    "flash-attention-bias": ("attention-1pass-bias", "flash-attention", SQUARE),
    "flash-attention-bias-causal": ("attention-1pass-causal-bias", "flash-attention", RAGGED),
    "flash-attention-lengths": ("attention-1pass-lengths", "flash-attention", SQUARE | {"B": 2}),
    "flash-attention-gqa": ("attention-1pass-gqa", "flash-attention", SHARED),
    "flash-attention-gqa-causal": ("attention-1pass-gqa-causal", "flash-attention", SHARED | {"P": 100, "M": 100}),
    "flash-attention-gqa-lengths": ("attention-1pass-gqa-lengths", "flash-attention", SHARED | {"B": 2}),
    "flash-attention-gqa-prefill": ("attention-1pass-gqa-causal-end", "flash-attention", SHARED | {"P": 50, "M": 170}),
    "flash-attention-gqa-window": ("attention-1pass-gqa-window", "flash-attention", SHARED | {"P": 128, "W": 50}),
    "flash-attention-persistent": ("attention-1pass-causal", "flash-attention-persistent", RAGGED | {"B": 3}),
    "flash-attention-tma": ("attention-1pass-causal", "flash-attention-tma", RAGGED),
    "flash-attention-mqa": ("attention-1pass-mqa", "flash-attention", SQUARE),
    "flash-attention-mqa-causal": ("attention-1pass-mqa-causal", "flash-attention", RAGGED),
    "flash-attention-mqa-window": ("attention-1pass-mqa-window", "flash-attention", SQUARE | {"W": 70}),
    "flash-decode": ("attention-flashdecode", "gpu-decode", HEADS | {"P": 16, "M": 500}),
    "flash-decode-empty-parts": ("attention-flashdecode", "gpu-decode", HEADS | {"P": 16, "M": 100}),
    "flash-decode-speculative": ("attention-flashdecode-causal-end", "gpu-decode", HEADS | {"P": 16, "M": 500}),
    "flash-decode-gqa": ("attention-flashdecode-gqa", "gpu-decode", SHARED | {"P": 16, "M": 512}),
    "flash-decode-mqa": ("attention-flashdecode-mqa", "gpu-decode", HEADS | {"P": 16, "M": 450}),
    "mla-decode": ("mla-decode", "flash-attention", {"B": 2, "H": 20, "M": 200, "C": 64, "R": 32}),
    "mla-decode-long": ("mla-decode", "flash-attention", {"B": 1, "H": 16, "M": 500, "C": 64, "R": 16}),
    "attention-2pass": ("attention-2pass-recompute", "gpu-passes", RAGGED),
    "attention-2pass-causal": ("attention-2pass-recompute-causal", "gpu-passes", RAGGED),
    "attention-2pass-window": ("attention-2pass-recompute-window", "gpu-passes", SQUARE | {"W": 30}),
    "attention-2pass-gqa": ("attention-2pass-recompute-gqa", "gpu-passes", SHARED),
    "attention-3pass": ("attention-3pass-recompute", "gpu-passes", RAGGED),
    "attention-3pass-causal": ("attention-3pass-recompute-causal", "gpu-passes", RAGGED),
    "attention-3pass-prefill": ("attention-3pass-recompute-causal-end", "gpu-passes", HEADS | {"P": 64, "M": 160}),
    "attention-3pass-window": ("attention-3pass-recompute-window", "gpu-passes", SQUARE | {"W": 30}),
    "attention-3pass-bias": ("attention-3pass-recompute-bias", "gpu-passes", SQUARE),
    "attention-3pass-gqa": ("attention-3pass-recompute-gqa", "gpu-passes", SHARED),
    "attention-3pass-gqa-causal": ("attention-3pass-recompute-gqa-causal", "gpu-passes", SHARED),
    "attention-3pass-mqa": ("attention-3pass-recompute-mqa", "gpu-passes", RAGGED),
    "attention-3pass-deferred": ("attention-3pass-deferred-recompute", "gpu-passes", RAGGED),
    "attention-3pass-deferred-causal": ("attention-3pass-deferred-recompute-causal", "gpu-passes", SQUARE),
    "attention-3pass-deferred-gqa": ("attention-3pass-deferred-recompute-gqa", "gpu-passes", SHARED),
    "attention-naive": ("attention-naive-recompute", "gpu-passes", SQUARE),
    "attention-naive-causal": ("attention-naive-recompute-causal", "gpu-passes", RAGGED),
    "attention-naive-gqa": ("attention-naive-recompute-gqa", "gpu-passes", SHARED),
    "attention-rows": ("attention-3pass", "gpu-rows", RAGGED),
    "attention-rows-causal": ("attention-3pass-deferred-causal", "gpu-rows", RAGGED),
    "attention-rows-window": ("attention-3pass-window", "gpu-rows", RAGGED | {"W": 30}),
    "attention-rows-lengths": ("attention-3pass-lengths", "gpu-rows", SQUARE | {"B": 2}),
    "attention-rows-naive": ("attention-naive", "gpu-rows", RAGGED),
    "attention-unfused": ("attention-3pass", "gpu-unfused", RAGGED),
    "attention-unfused-causal": ("attention-3pass-causal", "gpu-unfused", RAGGED),
    "attention-unfused-window": ("attention-3pass-window", "gpu-unfused", SQUARE | {"W": 30}),
    "attention-unfused-gqa": ("attention-3pass-gqa", "gpu-unfused", SHARED),
    "attention-naive-unfused": ("attention-naive", "gpu-unfused", SQUARE),
    "gemm": ("gemm", "gpu-gemm", {"M": 100, "N": 130, "K": 150}),
    "gemm-grouped": ("gemm", "gpu-gemm-grouped", {"M": 600, "N": 130, "K": 64}),
    "gemm-persistent-tma": ("gemm", "gpu-gemm-persistent-tma", {"M": 100, "N": 144, "K": 160}),
    "gemm-even": ("gemm", "gpu-gemm", {"M": 128, "N": 128, "K": 256}),
    "gemm-thin": ("gemm", "gpu-gemm", {"M": 16, "N": 256, "K": 320}),
    "grouped-gemm": ("grouped-gemm", "gpu-gemm", GROUPS),
    "grouped-gemm-ragged": ("grouped-gemm", "gpu-gemm", GROUPS | {"T": 128, "S": 300, "D": 100, "F": 160}),
    "mlp": ("mlp", "gpu-gemm", {"T": 70, "D": 96, "I": 128}),
    "swiglu": ("swiglu", "gpu-gemm", {"T": 70, "D": 96, "I": 128}),
    "softmax": ("softmax", "gpu-rows", {"T": 40, "N": 100}),
    "softmax-wide": ("softmax", "gpu-rows", {"T": 20, "N": 500}),
    "layer-norm": ("layer-norm", "gpu-rows", {"T": 40, "D": 100}),
    "layer-norm-even": ("layer-norm", "gpu-rows", {"T": 50, "D": 256}),
    "rms-norm": ("rms-norm", "gpu-rows", {"T": 40, "D": 128}),
    "rms-norm-ragged": ("rms-norm", "gpu-rows", {"T": 30, "D": 200}),
    "cross-entropy": ("cross-entropy", "gpu-rows", {"T": 40, "V": 100}),
    "gate-softmax-topk": ("gate-softmax-topk", "gpu-rows", {"T": 40, "E": 64, "K": 8}),
    "gate-topk-softmax": ("gate-topk-softmax", "gpu-rows", {"T": 40, "E": 60, "K": 4}),
    "gate-sigmoid-topk": ("gate-sigmoid-topk", "gpu-rows", {"T": 40, "E": 256, "K": 8}),
}

GIVEN: dict[str, dict[str, tuple[int, ...]]] = {  # inputs that are lengths or places, which decide what exists
    "flash-attention-lengths": {"LEN": (50, 128)},
    "flash-attention-gqa-lengths": {"LEN": (50, 128)},
    "attention-rows-lengths": {"LEN": (50, 128)},
    "grouped-gemm": {"START": (0, 64, 128), "COUNT": (64, 64, 64)},
    "grouped-gemm-ragged": {"START": (0, 130, 140), "COUNT": (127, 0, 65)},
}
