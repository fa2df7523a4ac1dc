"""Element types that numpy lacks, as codes: bf16 and the two 8-bit formats (OCP 8-bit Floating Point Specification).

e4m3 has no infinity and one NaN for each sign, e5m2 has both. What is too large for an 8-bit type becomes its largest
number, as NVIDIA's conversions do (`cvt.rn.satfinite`).
"""

from __future__ import annotations

from functools import cache

import numpy as np

CODES = {"bf16": np.uint16, "e4m3": np.uint8, "e5m2": np.uint8}
MANTISSA = {"e4m3": 3, "e5m2": 2}  # bits
BIAS = {"e4m3": 7, "e5m2": 15}
SIGN, NAN = 0x80, 0x7F  # of an 8-bit code; e5m2 has other NaNs too


def widen(codes: np.ndarray, dtype: str = "bf16") -> np.ndarray:
    """What codes mean, as float32."""
    if dtype == "bf16":
        return (codes.astype(np.uint32) << 16).view(np.float32)
    return _meanings(dtype)[codes]


def narrow(values: np.ndarray, dtype: str = "bf16") -> np.ndarray:
    """Codes of values, rounded to nearest even; NaN stays NaN."""
    if dtype != "bf16":
        return _nearest(np.asarray(values), dtype)
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, np.uint16(0x7FC0), rounded)


@cache
def _meanings(dtype: str) -> np.ndarray:
    """The values of all 256 codes."""
    code = np.arange(256)
    bits, exponent = MANTISSA[dtype], (code & NAN) >> MANTISSA[dtype]
    fraction = (code & ((1 << bits) - 1)) / (1 << bits)
    scale = 2.0 ** (np.maximum(exponent, 1) - BIAS[dtype])
    values = np.where(exponent > 0, 1 + fraction, fraction) * scale
    if dtype == "e5m2":
        values[exponent == 31] = np.where(fraction[exponent == 31] > 0, np.nan, np.inf)
    values[(code & NAN) == NAN] = np.nan
    return np.where(code & SIGN, -values, values).astype(np.float32)


def _nearest(values: np.ndarray, dtype: str) -> np.ndarray:
    """The code whose value is nearest, of two equally near ones the even code. Codes of one sign are in order."""
    positive = _meanings(dtype)[:SIGN]
    finite = positive[np.isfinite(positive)].astype(np.float64)
    size = np.minimum(np.abs(values.astype(np.float64)), finite[-1])
    above = np.searchsorted(finite, size)  # the first that is not smaller; of NaN one past the end
    above = np.minimum(above, len(finite) - 1)
    below = np.maximum(above - 1, 0)
    up, down = finite[above] - size, size - finite[below]
    code = np.where((down < up) | ((down == up) & (below % 2 == 0)), below, above)
    code = np.where(np.isnan(values), NAN, code)
    return (code | np.where(np.signbit(values), SIGN, 0)).astype(np.uint8)
