"""Ten thousand damaged texts: each parses, or is refused with a message that says where. SEMANTICS 1.2."""

import random

import pytest

from einsum.check import check
from einsum.library import load
from einsum.parse import parse
from einsum.problems import InputError
from einsum.random_cascade import random_cascade
from einsum.show import show

BATCHES, SIZE = 10, 1000
TEXTS = [show(random_cascade(seed, statements=2 + seed % 3)).replace("\n\n", "\n") for seed in range(40)] + [
    show(load(name)) for name in ("softmax", "layer-norm", "attention-3pass")
]
CHARACTERS = [*"[](),=|*/+-%:#@ \n1mM_.~\"'\\\t", "\u00e9", "\0", "\u2028", "\r"]
WORDS = [
    "inf",
    "-inf",
    "init",
    "and",
    "max",
    "sum[i]",
    "topk[i]",
    "tensor",
    "size",
    "cascade",
    "1e999",
    "9" * 400,
    "<=",
    "",
]


def mutated(rng):
    """A text with a few characters, words or lines damaged."""
    text = rng.choice(TEXTS)
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(5)
        at = rng.randrange(len(text) + 1)
        if kind == 0:
            text = text[:at] + rng.choice(CHARACTERS) + text[at + rng.randint(0, 1) :]
        elif kind == 1:
            text = text[:at] + text[at + rng.randint(1, 8) :]
        elif kind == 2:
            words = text.split(" ")
            words[rng.randrange(len(words))] = rng.choice(WORDS + words)
            text = " ".join(words)
        elif kind == 3:
            lines = text.split("\n")
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            text = "\n".join(lines)
        else:
            lines = text.split("\n")
            del lines[rng.randrange(len(lines))]
            text = "\n".join(lines)
    return text


@pytest.mark.parametrize("batch", range(BATCHES))
def test_mutated_text_parses_or_is_refused_with_its_place(batch):
    rng = random.Random(batch)
    refused = 0
    for _ in range(SIZE):
        text = mutated(rng)
        try:
            cascade = parse(text, "c")
        except InputError as error:
            refused += 1
            assert error.problems
            for problem in error.problems:
                assert problem.what and problem.line and problem.column, (text, str(error))
                assert problem.file == "c" and problem.line <= len(text.splitlines()) + 1, (text, str(error))
        except Exception as error:
            raise AssertionError(f"{text!r}") from error
        else:
            assert check(cascade) == []
            assert parse(show(cascade)) == cascade, text
    assert SIZE / 4 < refused < SIZE
