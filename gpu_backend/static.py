"""Compile a generated kernel for sm_90a with no GPU and read what the compiler made of it (SEMANTICS 7.8).

Triton's wheel holds the compiler, the assembler and the disassembler. Registers, spills, shared memory and the main
loop's instruction mix become a `Result`; where they contradict the mapping (spills, no wgmma) a note says so.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from gpu_backend import sass, source
from gpu_backend.interpret import TRITON
from gpu_backend.kernel import Kernel
from mapper.result import Result, Row

CAPABILITY = 90  # Triton compiles capability 90 as sm_90a, which has wgmma
ALIGNED = 16  # bytes; what allocators give, and what a launch would specialise on


def compiled(kernel: Kernel) -> CompiledKernel:
    """The kernel compiled for sm_90a; its cache lies beside the generated sources."""
    function = source.load(kernel)
    signature = {f"{a.name}_ptr": f"*{TRITON[a.dtype]}" for a in kernel.arguments}
    signature |= {name: "constexpr" for name, _ in kernel.constants}
    attributes = {(i,): [["tt.divisibility", ALIGNED]] for i in range(len(kernel.arguments))}
    options = {"num_warps": kernel.num_warps, "num_stages": kernel.num_stages, "enable_fp_fusion": True}
    with knobs.cache.scope():
        knobs.cache.dir = str(source.cache_dir() / "triton")
        text = ASTSource(function, signature, dict(kernel.constants), attributes)
        return triton.compile(text, target=GPUTarget("cuda", CAPABILITY, 32), options=options)


def profile(kernel: Kernel) -> Result:
    """Registers, spills and shared memory of the compiled kernel, and the instruction mix of its main loop.

    Row `operations` at place `main loop` is the matrix multiply-accumulates of one iteration by the whole program.
    """
    code = compiled(kernel)
    with tempfile.TemporaryDirectory() as folder:
        registers, spilled = _assembled(code, Path(folder))
        listing = sass.parse(_disassembled(code, Path(folder)))
    loop = listing.main_loop
    macs = sass.matrix_flops(loop, kernel.num_warps) // 2
    rows = [Row("registers", registers), Row("footprint", code.metadata.shared, place="smem")]
    rows += [Row("spills", n, detail=direction) for direction, n in spilled.items()]
    rows.append(Row("operations", macs, place="main loop", detail="mac", boundary="issued"))
    for place, instructions in (("kernel", listing.instructions), ("main loop", loop)):
        rows += [Row("instructions", n, place=place, detail=name) for name, n in sass.mix(instructions).items()]
    config = {
        "kernel": kernel.name,
        "target": _target(code),
        "num_warps": kernel.num_warps,
        "num_stages": kernel.num_stages,
        "triton": triton.__version__,
    }
    result = Result("compiled", config, tuple(rows))
    return replace(result, notes=tuple(_notes(result)))


def _notes(result: Result) -> list[str]:
    """Where the compiler contradicts the model."""
    notes = []
    if spilled := result.total("spills"):
        notes.append(f"registers spill: {spilled:g} bytes a thread")
    if not result.total("instructions", place="main loop", detail="HGMMA"):
        notes.append("no wgmma in the main loop: the tensor cores are not fed at their full rate")
    return notes


def _assembled(code: CompiledKernel, folder: Path) -> tuple[int, dict[str, int]]:
    """(registers a thread, spilled bytes a thread), which the assembler reports when it is asked as Triton asks it."""
    from triton.backends.nvidia.compiler import get_ptxas

    (folder / "kernel.ptx").write_text(code.asm["ptx"])
    options = ["-v", "-lineinfo", "--regAllocOptLevel=2", f"--gpu-name={_target(code)}"]
    command = [get_ptxas(CAPABILITY).path, *options, "kernel.ptx", "-o", "kernel.o"]
    report = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stderr
    used = re.search(r"Used (\d+) registers", report)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert used and spills, report
    return int(used[1]), {"read": int(spills[2]), "write": int(spills[1])}


def _target(code: CompiledKernel) -> str:
    found = re.search(r"\.target (sm_\w+)", code.asm["ptx"])
    assert found, "PTX without a target"
    return found[1]


def _disassembled(code: CompiledKernel, folder: Path) -> str:
    (folder / "kernel.cubin").write_bytes(code.asm["cubin"])
    command = [knobs.nvidia.nvdisasm.path, "-c", "kernel.cubin"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
