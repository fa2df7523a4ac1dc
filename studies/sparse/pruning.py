"""Numbers of ours for the claims of methods that drop tokens, heads and values: SpAtten, Keyformer, ZipVL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from studies.models import model as load_model
from studies.sparse.claims import Key
from studies.sparse.counted import counted, elements, macs, nbytes

GIB = 2**30


@dataclass(frozen=True)
class Schedule:
    """A model under SpAtten: what each layer keeps, and how its keys and values are stored."""

    name: str
    tokens: tuple[float, ...]  # of all tokens, by layer
    values: float  # of the tokens kept
    heads: tuple[int, ...]  # by layer
    high: int  # bits of a key that are read at once
    low: int  # bits that rows without a large probability read behind them
    again: float  # part of the rows that do

    @property
    def full_heads(self) -> int:
        return self.heads[0]

    def kept(self, length: int) -> tuple[int, ...]:
        """Tokens by layer."""
        return tuple(round(share * length) for share in self.tokens)


# Source: SpAtten's repository. Whether values are read in parts is not stated: they are read whole.
SCHEDULES = (
    Schedule("GPT-2 small", (0.9, 0.7, *[0.2] * 4, *[0.1] * 6), 0.2, (12,) * 12, 6, 4, 0.07),
    Schedule(
        "GPT-2 medium",
        (1, 1, 0.9, 0.8, 0.8, *[0.6] * 6, *[0.3] * 13),
        0.3,
        (*[16] * 16, *[13] * 6, *[10] * 2),
        12,
        0,
        0.0,
    ),
)
LENGTH, HEAD = 992 + 16, 64  # tokens in the middle of generating 32 after 992; elements of a head of GPT-2


@dataclass(frozen=True, slots=True)
class Read:
    """What one step of all layers reads and computes: elements of keys and values, their bits, multiply-accumulates."""

    elements: float
    bits: float
    macs: float


def spatten_step(schedule: Schedule, heads: tuple[int, ...]) -> Read:
    """A decoding step under a schedule with that many heads a layer."""
    total = [0.0, 0.0, 0.0]
    kept = (LENGTH, *schedule.kept(LENGTH))
    for (before, now), (all_heads, left) in zip(pairwise(kept), pairwise((heads[0], *heads)), strict=True):
        sizes = dict(M=before, N=now, H=all_heads, G=left, C=round(schedule.values * now), P=1, E=HEAD, F=HEAD)
        found = counted("sparse-spatten-layer", **sizes)
        keys, low, values = (elements(found, name) for name in ("KH", "KL", "V"))
        total[0] += keys + values
        total[1] += keys * schedule.high + low * schedule.low * schedule.again
        total[1] += values * (schedule.high + schedule.low)
        total[2] += macs(found, "QKH", "AV") + schedule.again * macs(found, "QKL")
    return Read(*total)


def spatten_dense(schedule: Schedule, bits: int) -> Read:
    """The same step that prunes nothing, of elements of so many bits."""
    found = counted("attention-3pass", B=1, H=schedule.full_heads, P=1, M=LENGTH, E=HEAD, F=HEAD)
    layers = len(schedule.tokens)
    read = layers * elements(found, "K", "V")
    return Read(read, read * bits, layers * macs(found))


def spatten() -> Iterator[tuple[Key, float]]:
    """Reductions of a decoding step; those of elements and operations are of the heads that are kept, as published."""
    for schedule in SCHEDULES:
        dense = spatten_dense(schedule, 12)
        of_tokens = spatten_step(schedule, (schedule.full_heads,) * len(schedule.heads))
        whole = spatten_step(schedule, schedule.heads)
        yield ("SpAtten", "keys and values read", schedule.name), dense.elements / of_tokens.elements
        yield ("SpAtten", "multiply-accumulates", schedule.name), dense.macs / of_tokens.macs
        for bits, against in ((32, "fp32"), (12, "12 bits")):
            read = spatten_dense(schedule, bits).bits
            yield ("SpAtten", f"DRAM bits against {against}", schedule.name), read / whole.bits
    for comparators, text in ((1, "1 comparator"), (16, "16 comparators")):
        yield ("SpAtten", "cycles to find 64 of 1024", text), quick_select(1024, 64) / comparators


def quick_select(n: int, k: int) -> float:
    """Comparisons that finding the k-th of n needs on average (Knuth, Mathematical Analysis of Algorithms, 1971)."""
    h = [0.0]
    for i in range(1, n + 1):
        h.append(h[-1] + 1 / i)
    return 2 * (n + 3 + (n + 1) * h[n] - (n + 3 - k) * h[n + 1 - k] - (k + 2) * h[k])


PROMPTS, SEQUENCES = (512, 1024, 2048, 4096), 4  # prompts, which as many new tokens follow; sequences of the figures
MODEL = "GPT-3-6.7B"  # MPT-7B has its dimensions, and 0.1 % fewer parameters


@dataclass(frozen=True, slots=True)
class Steps:
    """Bytes of a step, a mean over the generation: cache read, cache written, scores read and written."""

    read: float
    written: float
    scores: float


def keyformer_steps(prompt: int) -> tuple[Steps, Steps]:
    """(whole cache, half of the prompt kept) of all layers, generating as many tokens as the prompt has.

    The whole cache is appended to by writing it anew, as the kept one is: its tokens move up.
    """
    model = load_model(MODEL)
    sizes = dict(B=SEQUENCES, H=model.heads, E=model.head_dim, F=model.head_dim)
    ends = [counted("attention-3pass", P=1, M=m, **sizes) for m in (prompt + 1, 2 * prompt)]
    whole = model.layers * sum(nbytes(end, "K", "V") for end in ends) / 2  # linear in M, so the ends' mean is the mean
    kept = counted("sparse-keyformer", M=prompt // 2 + 1, N=prompt // 2, W=prompt // 8, **sizes)
    of = lambda *tensors: model.layers * nbytes(kept, *tensors)
    return Steps(whole, whole, 0), Steps(of("K", "V"), of("KN", "VN"), of("S", "Z", "SN"))


def keyformer() -> Iterator[tuple[Key, float]]:
    """A step takes as long as its bytes: weights once for all sequences, and the cache."""
    model = load_model(MODEL)
    weights = 2.0 * model.parameters
    yield ("Keyformer", "weights", "MPT-7B"), weights / GIB
    for tokens in (*PROMPTS, 8192, 16384):
        cache = counted(
            "attention-3pass", B=SEQUENCES, H=model.heads, P=1, M=tokens, E=model.head_dim, F=model.head_dim
        )
        yield ("Keyformer", "cache of 4 sequences", str(tokens)), model.layers * nbytes(cache, "K", "V") / GIB
    for prompt in PROMPTS:
        whole, kept = keyformer_steps(prompt)
        if prompt > PROMPTS[0]:
            slow = weights + whole.read + whole.written
            fast = weights + kept.read + kept.written + kept.scores
            yield ("Keyformer", "speedup at half the cache", f"{prompt}+{prompt}"), slow / fast
        moved = (kept.read + kept.written) / (whole.read + whole.written)
        yield ("Keyformer", "cache traffic against the whole cache", str(prompt)), moved
        scores = kept.scores / (whole.read + whole.written)
        yield ("Keyformer", "score overhead against the whole cache", str(prompt)), scores


def zipvl() -> Iterator[tuple[Key, float]]:
    """Attention among the kept tokens over attention among all; what the probing queries cost comes on top."""
    sizes = dict(B=1, H=32, M=4096, E=128, F=128, R=64)
    dense = macs(counted("attention-3pass", P=4096, **sizes))
    for share in (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)):
        found = counted("sparse-zipvl", N=int(share * 4096), **sizes)
        yield ("ZipVL", "attention in prefill", f"p/n = {share}"), macs(found, "QK", "SNV") / dense
