"""What a library cascade of some size costs, by `einsum.analysis`."""

from __future__ import annotations

from functools import cache

from einsum.analysis import Analysis, analyse
from einsum.bind import bind
from einsum.library import load


def counted(name: str, **sizes: int) -> Analysis:
    """The analysis of a library cascade; sizes that it does not have are left out."""
    return _counted(name, tuple(sorted(sizes.items())))


@cache
def _counted(name: str, sizes: tuple[tuple[str, int], ...]) -> Analysis:
    cascade = load(name)
    return analyse(bind(cascade, {size: n for size, n in sizes if size in cascade.free_sizes}))


def macs(analysis: Analysis, *einsums: str) -> int:
    """Multiply-accumulates, of all Einsums or of those named."""
    return sum(e.operations.get("mac", 0) for e in analysis.einsums if not einsums or e.name in einsums)


def elements(analysis: Analysis, *tensors: str) -> int:
    """Elements of inputs and outputs that are used at least once."""
    return sum(use.elements for use in analysis.tensors if use.name in tensors)


def nbytes(analysis: Analysis, *tensors: str) -> float:
    """Bytes of the same."""
    return sum(use.bytes for use in analysis.tensors if use.name in tensors)
