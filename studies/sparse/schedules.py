"""Numbers of ours for the claims of methods whose savings follow from a schedule: Re-ttention, MANAR, VISOR."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from einsum.analysis import analyse
from einsum.bind import bind
from studies.layers import layer
from studies.models import model as load_model
from studies.sparse.claims import Key
from studies.sparse.counted import counted, macs

STEPS, FIRST, EVERY = 50, 15, 5  # diffusion steps; the first ones are full, then every fifth
SPARSITY = 0.969  # of a sparse step; source of all of these: Re-ttention
# CogVideoX-5B: 226 text tokens and 13 frames of 1350; 42 layers of 48 heads of 64 and a feed-forward block of 4 widths
VIDEO = dict(B=1, H=48, P=226 + 13 * 1350, M=226 + 13 * 1350, E=64, F=64)


def full_steps() -> tuple[bool, ...]:
    """Of each step whether its attention is full; the last step of each five behind the first ones is."""
    return tuple(step < FIRST or (step - FIRST + 1) % EVERY == 0 for step in range(STEPS))


def window() -> int:
    """The widest window whose pairs are at most what the sparsity leaves of all pairs."""
    share = lambda w: macs(counted("sparse-rettention", W=w, **VIDEO)) / macs(counted("attention-3pass", **VIDEO))
    return bisect_right(range(1, VIDEO["M"] + 1), 1 - SPARSITY, key=share)


def run_shares() -> tuple[float, ...]:
    """Multiply-accumulates of attention in each step over those of a full one."""
    dense, sparse = (macs(counted(name, W=window(), **VIDEO)) for name in ("attention-3pass", "sparse-rettention"))
    return tuple(1.0 if full else sparse / dense for full in full_steps())


def attention_share() -> float:
    """Of attention in the multiply-accumulates of a layer of the video model."""
    attention = macs(counted("attention-3pass", **VIDEO))
    width = VIDEO["H"] * VIDEO["E"]
    return attention / (attention + macs(counted("transformer-linear", T=VIDEO["P"], D=width, I=width, S=4 * width)))


def rettention() -> Iterator[tuple[Key, float]]:
    """What a run costs with full steps as they were; end to end the rest of a layer stays."""
    left = sum(run_shares()) / STEPS
    yield ("Re-ttention", "attention of a run", "50 steps, 96.9 % sparse"), 100 * left
    yield ("Re-ttention", "end-to-end latency saved", "CogVideoX"), 100 * (1 - left) * attention_share()


def manar() -> Iterator[tuple[Key, float]]:
    """Both ways through the concepts: tokens to concepts and concepts to tokens."""
    cost = lambda n: macs(counted("sparse-manar", B=1, H=8, P=n, M=n, E=64, F=64, C=128))
    yield ("MANAR", "growth as tokens double", "128 concepts"), cost(8192) / cost(4096)
    dense = macs(counted("attention-3pass", B=1, H=8, P=4096, M=4096, E=64, F=64))
    yield ("MANAR", "cost against dense attention", "4096 tokens, 128 concepts"), cost(4096) / dense


TEXT, IMAGE = 64, 729  # tokens; of an image, SigLIP at 384 pixels
VISION, CROSS = "Qwen3-0.6B", 4  # an example: the paper's sizes are not stated; cross layers beside the self layers


def visor_share(self_layers: int) -> float:
    """Multiply-accumulates that the image adds to those of text, over the same with image tokens in each layer."""
    model = load_model(VISION)

    def whole(tokens: int) -> int:
        cascade, sizes = layer(model, "prefill", 1, tokens)
        return macs(analyse(bind(cascade, sizes)))

    added = whole(TEXT + IMAGE) - whole(TEXT)
    sizes = dict(B=1, H=model.heads, P=TEXT, M=IMAGE, D=model.hidden, E=model.head_dim, F=model.head_dim)
    cross = macs(counted("sparse-visor", **sizes))
    return (self_layers * added + CROSS * cross) / (model.layers * added)


def visor() -> Iterator[tuple[Key, float]]:
    """A few layers take all tokens; a few cross layers hand the image to the text."""
    for layers in (3, 7):
        yield ("VISOR", "visual operations", f"{layers} of {load_model(VISION).layers} layers"), visor_share(layers)
