"""Quantity strings such as `16 MiB` or `940 MHz`, read exactly into SI floats and written back.

Own table, not `pint`: conversions are exact rationals (`400 GiB/s` is the nearest float, so files round-trip), every
refusal names the expected units, `cycles` stay cycles until a clock is known (pint reads them as an angle of 2 pi),
and nothing is imported that costs time.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from einsum.problems import suggest

_DECIMAL = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15}
_SMALL = {"f": -15, "p": -12, "n": -9, "u": -6, "m": -3, "": 0}
_BINARY = {"": 0, "Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4}


def _scaled(unit: str, prefixes: dict[str, int], factor: Fraction = Fraction(1)) -> dict[str, Fraction]:
    return {prefix + unit: factor * Fraction(10) ** exponent for prefix, exponent in prefixes.items()}


_SIZE = (
    {prefix + "B": Fraction(1024**power) for prefix, power in _BINARY.items()}
    | _scaled("B", _DECIMAL)
    | {prefix + "bit": Fraction(1024**power, 8) for prefix, power in _BINARY.items()}
    | _scaled("bit", _DECIMAL, Fraction(1, 8))
)

# dimension -> unit -> how many SI base units (B, B/s, s, Hz, J, W, m, m^2) it is
DIMENSIONS: dict[str, dict[str, Fraction]] = {
    "size": _SIZE,
    "bandwidth": {f"{unit}/s": scale for unit, scale in _SIZE.items()},
    "bytes per cycle": {"B/cycle": Fraction(1), "bit/cycle": Fraction(1, 8)},
    "time": _scaled("s", _SMALL),
    "cycles": {"cycles": Fraction(1), "cycle": Fraction(1)},
    "frequency": _scaled("Hz", _DECIMAL),
    "energy": _scaled("J", _SMALL),
    "energy per byte": _scaled("J/B", _SMALL) | _scaled("J/bit", _SMALL, Fraction(8)),
    "power": _scaled("W", _SMALL | _DECIMAL),
    "length": _scaled("m", _SMALL),
    "area": {"um^2": Fraction(1, 10**12), "mm^2": Fraction(1, 10**6), "m^2": Fraction(1), "nm^2": Fraction(1, 10**18)},
}
EXAMPLES = {
    "size": "16 MiB",
    "bandwidth": "400 GiB/s",
    "bytes per cycle": "128 B/cycle",
    "time": "2.4 us",
    "cycles": "256 cycles",
    "frequency": "940 MHz",
    "energy": "17.1645 pJ",
    "energy per byte": "3.9 pJ/bit",
    "power": "700 W",
    "length": "45 nm",
    "area": "1545 um^2",
}
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")


class Quantity(NamedTuple):
    """A number in the SI base unit of its dimension (cycles and bytes per cycle still need a clock)."""

    value: float
    dimension: str


class UnitError(ValueError):
    """Why a text is no quantity of the wanted dimensions; `hint` is the likely spelling."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


def parse(text: object, *dimensions: str) -> Quantity:
    """Read a quantity of one of `dimensions`; UnitError for a bare number, a wrong unit or a negative value."""
    expected = " or ".join(f"`{EXAMPLES[d]}`" for d in dimensions)
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise UnitError(f"expected a quantity such as {expected}")
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise UnitError(f"expected a quantity such as {expected}")
    number, unit = match.groups()
    if not unit:
        raise UnitError(f"needs a unit, such as {expected}")
    for dimension in dimensions:
        if unit in DIMENSIONS[dimension]:
            if number.startswith("-"):
                raise UnitError("must not be negative")
            return Quantity(float(Fraction(number) * DIMENSIONS[dimension][unit]), dimension)
    other = next((d for d, units in DIMENSIONS.items() if unit in units), None)
    if other is not None:
        raise UnitError(f"measures {other}, expected {' or '.join(dimensions)} such as {expected}")
    hint = suggest(unit, [u for d in dimensions for u in DIMENSIONS[d]])
    raise UnitError(f"unknown unit, expected a quantity such as {expected}", f"`{number} {hint}`" if hint else "")


def show(value: float, dimension: str) -> str:
    """The shortest text that `parse` reads back as exactly `value`, such as `16 MiB` for 16777216."""
    exact = Fraction(repr(float(value)))
    options = []
    for order, (unit, scale) in enumerate(DIMENSIONS[dimension].items()):
        number = _digits(exact / scale)
        if parse(f"{number} {unit}", dimension).value == value:
            outside = [not 1 <= exact / scale < end for end in (10000, 1000)]
            length = len(number) + 2 * unit.count("bit")  # bytes before bits
            options.append((outside[0], length, outside[1], order, f"{number} {unit}"))
    return min(options)[-1]


def brief(value: float, dimension: str) -> str:
    """`value` in the unit of `show`'s choice, to at most six digits: for people, not for files."""
    number, _, unit = show(value, dimension).partition(" ")
    return f"{float(number):.6g} {unit}"


def _digits(number: Fraction) -> str:
    """A rational as decimal text: exact when a float's shortest text says it, else 17 digits."""
    text = repr(float(number))
    return text.removesuffix(".0") if Fraction(text) == number else f"{float(number):.17g}"
