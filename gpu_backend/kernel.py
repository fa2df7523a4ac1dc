"""A generated kernel as plain data: source text, arguments, constants, launch grid."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Argument:
    """A tensor in device memory, dense and row-major in the cascade's storage order."""

    name: str
    dtype: str  # of einsum.cascade.DTYPE_BITS
    shape: tuple[int, ...]
    output: bool


@dataclass(frozen=True)
class Kernel:
    """One launch. The function takes the arguments' pointers in order, then every constant as `tl.constexpr`.

    `lines` says which Einsum (or which tensor, for a load) a source line belongs to, so that an interpreted kernel
    can be counted by Einsum. `num_warps` and `num_stages` are what the launch asks of the compiler.
    """

    name: str  # of the function
    source: str
    arguments: tuple[Argument, ...]
    constants: tuple[tuple[str, int], ...]
    grid: tuple[int, ...]
    lines: tuple[tuple[int, str], ...]  # (1-based source line, Einsum or variable of a load)
    loads: tuple[tuple[str, str], ...] = ()  # (variable, tensor in memory)
    num_warps: int = 4
    num_stages: int = 2
    iteration_macs: int = 0  # matrix multiply-accumulates in an iteration of the tile loop that has the most
    iteration_bytes: int = 0  # that this iteration loads

    def __str__(self) -> str:
        return self.source
