"""Read AMD machine code as the compiler prints it: instructions, natural loops, instruction mix, matrix work."""

from __future__ import annotations

import re

from gpu_backend.sass import Code, Instruction, code

_INSTRUCTION = re.compile(r"^\s+([a-z]\w+)\s*(.*)")
_LABEL = re.compile(r"^(\.LBB\w+):")

MIX = {  # class -> pattern of opcodes; the first that matches
    "MFMA": "v_mfma", "exp": "v_exp_f32", "global load": "(global|buffer|flat)_load",
    "global store": "(global|buffer|flat)_store", "LDS read": "ds_(read|load)", "LDS write": "ds_(write|store)",
    "scratch": "scratch_", "fma": "v_(pk_)?fma", "max": "v_(pk_)?max", "mul": "v_(pk_)?mul_f",
    "add": "v_(pk_)?(add|sub)_f", "convert": "v_cvt", "barrier": "s_(waitcnt|barrier)", "branch": "s_c?branch",
}  # fmt: skip


def parse(text: str) -> Code:
    """Code from the assembly text of one kernel."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif (found := _INSTRUCTION.match(line)) and not found[1].startswith("."):
            instructions.append(Instruction("", found[1], found[2]))
    return code(instructions, lambda i: _successors(instructions, labels, i), macs)


def _successors(instructions: list[Instruction], labels: dict[str, int], i: int) -> list[int]:
    instruction = instructions[i]
    following = [i + 1] if i + 1 < len(instructions) else []
    name = instruction.operands.split()[0] if instruction.operands else ""
    target = [labels[name]] if name in labels else []
    if instruction.opcode == "s_branch":
        return target
    if instruction.opcode.startswith("s_cbranch"):
        return target + following
    return [] if instruction.opcode == "s_endpgm" else following


def macs(instructions: tuple[Instruction, ...], waves: int) -> int:
    """Multiply-accumulates of the matrix instructions as a block of `waves` executes them; each states a wave's."""
    total = 0
    for instruction in instructions:
        if shape := re.match(r"v_mfma_f32_(\d+)x(\d+)x(\d+)", instruction.opcode):
            total += int(shape[1]) * int(shape[2]) * int(shape[3]) * waves
    return total


def loaded_bytes(instructions: tuple[Instruction, ...], threads: int) -> int:
    """Bytes that a block of `threads` brings in from memory."""
    width = {"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16, "ushort": 2, "ubyte": 1, "short": 2}
    found = (re.match(r"(?:global|buffer|flat)_load_(\w+)", x.opcode) for x in instructions)
    return threads * sum(width.get(re.sub(r"^[us]?(short|byte)_.*", r"u\1", m[1]), 4) for m in found if m)
