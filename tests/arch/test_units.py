"""Quantity strings: exact values, refusals that say what was expected, and text that reads back."""

import pytest
from hypothesis import given, strategies as st

from arch.units import DIMENSIONS, EXAMPLES, UnitError, brief, parse, show


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("940 MHz", "frequency", 940e6),
        ("400 GiB/s", "bandwidth", 400 * 2**30),
        ("16 MiB", "size", 16 * 2**20),
        ("80 GB", "size", 80e9),
        ("4096 bit", "size", 512),
        ("128 B/cycle", "bytes per cycle", 128),
        ("17.1645 pJ", "energy", 17.1645e-12),
        ("3.9 pJ/bit", "energy per byte", 31.2e-12),
        ("256 cycles", "cycles", 256),
        ("1545 um^2", "area", 1545e-12),
        ("84.20 mm^2", "area", 84.2e-6),
        ("45 nm", "length", 45e-9),
        ("700 W", "power", 700),
        ("2.4 us", "time", 2.4e-6),
        (" 1e3B ", "size", 1000),
    ],
)
def test_value_in_si(text, dimension, value):
    assert parse(text, dimension) == (value, dimension)


@pytest.mark.parametrize(
    ("text", "dimensions", "message", "hint"),
    [
        (16, ["size"], "needs a unit, such as `16 MiB`", ""),
        ("16", ["time", "cycles"], "needs a unit, such as `2.4 us` or `256 cycles`", ""),
        ("16 MHz", ["size"], "measures frequency, expected size such as `16 MiB`", ""),
        ("16 mib", ["size"], "unknown unit, expected a quantity such as `16 MiB`", "`16 MiB`"),
        ("940 Mhz", ["frequency"], "unknown unit, expected a quantity such as `940 MHz`", "`940 MHz`"),
        ("3 qqq", ["size"], "unknown unit, expected a quantity such as `16 MiB`", ""),
        ("-3 B", ["size"], "must not be negative", ""),
        ("many", ["power"], "expected a quantity such as `700 W`", ""),
        (True, ["power"], "expected a quantity such as `700 W`", ""),
        (None, ["power"], "expected a quantity such as `700 W`", ""),
        ("nan W", ["power"], "expected a quantity such as `700 W`", ""),
    ],
)
def test_refusals(text, dimensions, message, hint):
    with pytest.raises(UnitError) as error:
        parse(text, *dimensions)
    assert (error.value.what, error.value.hint) == (message, hint)


@given(st.sampled_from(sorted(DIMENSIONS)), st.floats(0, 1e18))
def test_shown_text_reads_back_exactly(dimension, value):
    assert parse(show(value, dimension), dimension).value == value


@pytest.mark.parametrize("dimension", EXAMPLES)
def test_examples_are_shown_as_written(dimension):
    if dimension != "energy per byte":  # the same energy is shorter by the byte
        assert show(parse(EXAMPLES[dimension], dimension).value, dimension) == EXAMPLES[dimension]


def test_brief_keeps_the_unit_and_six_digits():
    assert brief(256 / 940e6, "time") == "272.34 ns"
    assert brief(400 * 2**30, "bandwidth") == "400 GiB/s"
