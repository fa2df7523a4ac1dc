"""FlashAttention's workloads and mappings for the tests of this folder."""

from dataclasses import replace

from arch.read import load as load_machine, loads
from einsum.library import load as load_cascade
from gpu_backend.kernel import Kernel
from mapper.library import bound
from mapper.library_gpu import flash_attention

MACHINE = load_machine("h100")


def build(name, dtype, sizes, blocks=(64, 64)):
    """(workload, mapping) with inputs and outputs of `dtype`; B=1, H=2, E=F=64 unless `sizes` says otherwise."""
    cascade = load_cascade(name)
    sizes = {"B": 1, "H": 2, "E": 64, "F": 64} | sizes
    mapping = flash_attention(cascade, MACHINE, sizes, *blocks)
    types = dict(mapping.dtypes) | dict.fromkeys(("Q", "K", "V", "AV"), dtype)
    mapping = replace(mapping, dtypes=tuple(types.items()))
    return bound(mapping, cascade, sizes), mapping


def mutant(kernel: Kernel, old: str, new: str) -> tuple[Kernel]:
    """The kernel with one place of its source changed."""
    assert kernel.source.count(old) == 1, old
    return (replace(kernel, source=kernel.source.replace(old, new)),)


def small_gpu(sms: int):
    """The H100 with fewer SMs, so that a program has several tiles at sizes that are interpreted in a moment."""
    return loads(f"stepfall: machine/1\nname: small\nlike: h100\nchanges: {{sm.axes.sm.size: {sms}}}\n")
