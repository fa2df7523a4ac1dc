"""Compile a generated kernel for a GPU that is not there and read what the compiler made of it (SEMANTICS 7.8).

Triton's wheel holds the compilers, the assembler and the disassembler. Registers, spills, shared memory, occupancy and
the instruction mix of each loop become a `Result`; where they contradict the mapping (spills, no wgmma, other matrix
work in an iteration) a note says so.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from arch.machine import Machine
from arch.occupancy import residency, resident_programs
from arch.read import load as load_machine
from einsum.problems import InputError, Problem, suggest
from gpu_backend import amdgcn, sass, source
from gpu_backend.interpret import TRITON
from gpu_backend.kernel import Kernel
from mapper.result import Result, Row

ALIGNED = 16  # bytes; what allocators give, and what a launch would specialise on


@dataclass(frozen=True, slots=True)
class Target:
    """A GPU to compile for, and the machine whose SM (compute unit) says what is resident at once."""

    backend: str
    arch: int | str  # Triton compiles capability 90 as sm_90a and 100 as sm_100a
    preset: str

    @property
    def machine(self) -> Machine:
        return load_machine(self.preset)


TARGETS = {
    "sm_80": Target("cuda", 80, "a100-80"),
    "sm_90a": Target("cuda", 90, "h100"),
    "sm_100a": Target("cuda", 100, "b200"),
    "gfx942": Target("hip", "gfx942", "mi300x"),
}
HOPPER = "sm_90a"


def compiled(kernel: Kernel, target: str = HOPPER) -> CompiledKernel:
    """The kernel compiled for a target; its cache lies beside the generated sources."""
    gpu = _target(target)
    function = source.load(kernel)
    warp = residency(gpu.machine).warp_threads
    signature = {f"{a.name}_ptr": f"*{TRITON[a.dtype]}" for a in kernel.arguments}
    signature |= {name: "constexpr" for name, _ in kernel.constants}
    attributes = {(i,): [["tt.divisibility", ALIGNED]] for i in range(len(kernel.arguments))}
    options = {"num_warps": kernel.num_warps, "num_stages": kernel.num_stages, "enable_fp_fusion": True}
    with knobs.cache.scope():
        knobs.cache.dir = str(source.cache_dir() / "triton")
        text = ASTSource(function, signature, dict(kernel.constants), attributes)
        return triton.compile(text, target=GPUTarget(gpu.backend, gpu.arch, warp), options=options)


def profile(kernel: Kernel, target: str = HOPPER) -> Result:
    """Registers, spills, shared memory and occupancy of the compiled kernel, and the instruction mix of its loops.

    Rows `operations` and `bytes` at place `main loop` are the matrix multiply-accumulates of one iteration, and the
    bytes that it loads, of the whole program.
    """
    gpu, built = _target(target), compiled(kernel, target)
    with tempfile.TemporaryDirectory() as folder:
        read = _nvidia if gpu.backend == "cuda" else _amd
        registers, spilled, code = read(built, gpu, Path(folder))
    tools, loop = (sass if gpu.backend == "cuda" else amdgcn), code.main_loop
    rows = [Row("registers", registers), Row("footprint", built.metadata.shared, place="smem")]
    rows += [Row("spills", n, detail=direction) for direction, n in spilled.items()]
    rows.append(Row("occupancy", occupancy(gpu, registers, built.metadata.shared, kernel.num_warps)))
    rows.append(Row("operations", code.macs(loop, kernel.num_warps), "", "", "main loop", "mac", "issued"))
    loaded = tools.loaded_bytes(loop, kernel.num_warps * residency(gpu.machine).warp_threads)
    rows.append(Row("bytes", loaded, place="main loop", detail="read", boundary="issued"))
    places = [("kernel", code.instructions), ("main loop", loop)]
    places += [(f"loop {i + 1}", body) for i, body in enumerate(code.inner_loops)]
    for place, instructions in places:
        counted = sass.mix(instructions, tools.MIX).items()
        rows += [Row("instructions", n, place=place, detail=name) for name, n in counted]
    config = {
        "kernel": kernel.name,
        "target": target,
        "num_warps": kernel.num_warps,
        "num_stages": kernel.num_stages,
        "triton": triton.__version__,
    }
    result = Result("compiled", config, tuple(rows))
    return replace(result, notes=tuple(_notes(result, kernel)))


def occupancy(gpu: Target, registers: int, shared: int, warps: int) -> float:
    """Warps that are resident on an SM at once, over those that it has room for."""
    machine = gpu.machine
    return resident_programs(machine, registers, shared, warps) * warps / residency(machine).warps


def _target(name: str) -> Target:
    if name not in TARGETS:
        raise InputError(Problem("no such target", path="target", got=name, hint=suggest(name, TARGETS)))
    return TARGETS[name]


def _notes(result: Result, kernel: Kernel) -> Iterator[str]:
    """Where the compiler contradicts the model."""
    if spilled := result.total("spills"):
        yield f"registers spill: {spilled:g} bytes a thread"
    if not kernel.iteration_macs:
        return
    target, macs = result.config["target"], result.total("operations", place="main loop", detail="mac")
    if target == HOPPER and not result.total("instructions", place="kernel", detail="HGMMA"):
        yield "no wgmma: the tensor cores are not fed at their full rate"
    if not result.select("instructions", place="main loop"):
        yield "the compiler unrolled the tile loop: there is no iteration to compare"
    elif macs != kernel.iteration_macs:
        yield f"the main loop has {macs:.0f} matrix MACs, an iteration of the mapping {kernel.iteration_macs}"


def _nvidia(built: CompiledKernel, gpu: Target, folder: Path) -> tuple[int, dict[str, int], sass.Code]:
    """(registers a thread, spilled bytes a thread, code); the assembler reports when it is asked as Triton asks it."""
    from triton.backends.nvidia.compiler import get_ptxas

    found = re.search(r"\.target (sm_\w+)", built.asm["ptx"])
    assert found, "PTX without a target"
    (folder / "kernel.ptx").write_text(built.asm["ptx"])
    options = ["-v", "-lineinfo", "--regAllocOptLevel=2", f"--gpu-name={found[1]}"]
    command = [get_ptxas(int(gpu.arch)).path, *options, "kernel.ptx", "-o", "kernel.o"]
    report = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stderr
    used = re.search(r"Used (\d+) registers", report)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert used and spills, report
    (folder / "kernel.cubin").write_bytes(built.asm["cubin"])
    command = [knobs.nvidia.nvdisasm.path, "-c", "kernel.cubin"]
    listing = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    return int(used[1]), {"read": int(spills[2]), "write": int(spills[1])}, sass.parse(listing)


def _amd(built: CompiledKernel, gpu: Target, folder: Path) -> tuple[int, dict[str, int], sass.Code]:
    """The same from the assembly text, which states its registers; a spilled register is 4 bytes each way."""
    text = built.asm["amdgcn"]
    count = {name: int(n) for name, n in re.findall(r"\.(vgpr_count|vgpr_spill_count):\s*(\d+)", text)}
    spilled = 4 * count["vgpr_spill_count"]
    return count["vgpr_count"], {"read": spilled, "write": spilled}, amdgcn.parse(text)
