"""The example files beside the tests, and what they are read as."""

import itertools
from pathlib import Path

from arch.document import read as read_yaml, render
from arch.read import load
from mapper.exchange.formats import read

DATA = Path(__file__).parent / "data"
FILES = sorted(str(path.relative_to(DATA)) for path in DATA.glob("*/*.yaml"))
TEAAL_SIZES = {"M": 256, "N": 128, "K": 64, "N0": 32}


def imported(name, text=None):
    """Everything in one of the files, or in `text` in its place."""
    form = name.partition("/")[0]
    more = {"machine": load("systolic-128"), "sizes": TEAAL_SIZES} if form == "teaal" else {}
    return read({name: (DATA / name).read_text() if text is None else text}, name="example", **more)


def plain(name):
    return read_yaml((DATA / name).read_text(), name, tags=True).data


def text_of(data):
    return render(data)


def places(data, place=()):
    yield place
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*place, key))


def at(data, place):
    for step in place:
        data = data[step]
    return data


def walked(loops):
    """The iterations of (rank, count) loops, outermost first, as dictionaries of the loops' indices."""
    for index in itertools.product(*(range(n) for _, n in loops)):
        yield dict(enumerate(index))


def split_in(rng, number, parts):
    """`number` as a product of that many random factors."""
    factors = [1] * parts
    for prime in primes(number):
        factors[rng.integers(parts)] *= prime
    return factors


def primes(number):
    for p in range(2, number + 1):
        while number % p == 0:
            yield p
            number //= p
