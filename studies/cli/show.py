"""`stepfall show`: cascades, machines and mappings as text."""

from __future__ import annotations

from collections.abc import Iterable

from einsum.problems import InputError, Problem, suggest
from studies import report
from studies.cli.inputs import is_file, load

ATTENTION = {"B": 1, "H": 1, "E": 64, "F": 64, "M": 4096, "P": 4096}
# The cascade, machine and sizes that `show mapping NAME` makes a mapping for when none are given.
USUAL = {
    "flash-attention": ("attention-1pass", "h100", ATTENTION),
    "flash-attention-backward": ("backward-attention-recompute", "h100", ATTENTION),
    "flash-attention-persistent": ("attention-1pass-causal", "h100", ATTENTION),
    "flash-attention-tma": ("attention-1pass", "h100", ATTENTION),
    "flat": ("attention-3pass", "flat", ATTENTION),
    "fusemax-architecture": ("attention-1pass", "fusemax", ATTENTION),
    "fusemax-backward": ("backward-attention", "fusemax", ATTENTION),
    "fusemax-backward-recompute": ("backward-attention-recompute-causal", "fusemax", ATTENTION),
    "fusemax-binding": ("attention-1pass", "fusemax", ATTENTION),
    "fusemax-cascade": ("attention-1pass", "flat", ATTENTION),
    "fusemax-greedy": ("attention-1pass", "fusemax", ATTENTION),
    "fusemax-rows": ("backward-layer-norm", "fusemax", {"B": 16, "T": 256, "D": 1024}),
    "gpu-decode": ("attention-flashdecode", "h100", ATTENTION | {"P": 16}),
    "gpu-gemm": ("gemm", "h100", {"M": 4096, "N": 4096, "K": 4096}),
    "gpu-gemm-grouped": ("gemm", "h100", {"M": 4096, "N": 4096, "K": 4096}),
    "gpu-gemm-persistent-tma": ("gemm", "h100", {"M": 4096, "N": 4096, "K": 4096}),
    "gpu-moe": ("moe-grouped", "h100", {"T": 4096, "K": 8, "E": 128, "D": 4096, "I": 1536}),
    "gpu-passes": ("attention-3pass-recompute", "h100", ATTENTION),
    "gpu-row-blocks": ("backward-layer-norm", "h100", {"B": 264, "T": 64, "D": 1024}),
    "gpu-rows": ("softmax", "h100", {"T": 4096, "N": 1024}),
    "gpu-unfused": ("attention-3pass", "h100", ATTENTION | {"M": 1024}),
    "linear": ("transformer-linear", "fusemax", {"T": 4096, "D": 768, "I": 768, "S": 3072}),
    "tpu-rows": ("backward-cross-entropy", "tpu-v4i", {"T": 4096, "V": 32000}),
    "unfused": ("attention-3pass", "flat", ATTENTION),
}


def cascade(name: str | None, sizes: dict[str, int]) -> None:
    """Print a cascade, or the names of those that ship; with sizes also every tensor's extent."""
    from einsum import library
    from einsum.bind import bind
    from einsum.show import show

    if name is None:
        return _list(library.library())
    found = library.load(name)
    workload = bind(found, sizes) if sizes else None
    print(show(found), end="")
    if workload:
        rows = [
            (t.name, ", ".join(map(str, map(workload.extent, t.ranks))), workload.dtypes[t.name],
             workload.elements(t.name) * workload.bits(t.name) / 8)
            for t in found.tensors
        ]  # fmt: skip
        print()
        report.print_table("", ("tensor", "shape", "type", "bytes"), rows)
    return None


def machine(name: str | None, sources: bool, as_yaml: bool) -> None:
    """Print a machine as a tree or YAML, or the names of those that ship."""
    from arch import read
    from arch.show import dump, show

    if name is None:
        return _list(read.presets())
    found = read.load(name)
    print(dump(found) if as_yaml else show(found, sources), end="")
    return None


def mapping(name: str | None, cascade: str | None, machine: str | None, sizes: dict[str, int], as_yaml: bool) -> None:
    """Print a mapping as a loop nest or YAML, or the names of those that can be made."""
    from mapper import library
    from mapper.show import show
    from mapper.yaml import dump_mapping, load_mapping

    if name is None:
        return _list(library.names())
    if is_file(name):
        found = load_mapping(name)
    elif name in USUAL:
        usual_cascade, usual_machine, usual_sizes = USUAL[name]
        *_, found, _ = load(cascade or usual_cascade, machine or usual_machine, name, usual_sizes | sizes)
    else:
        raise InputError(Problem("no such mapping", got=name, hint=suggest(name, library.names())))
    print(dump_mapping(found) if as_yaml else show(found), end="")
    return None


def _list(names: Iterable[str]) -> None:
    print("\n".join(names))
