"""Read disassembled NVIDIA machine code (SASS): instructions, natural loops, instruction mix, matrix FLOPs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import networkx as nx

_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][A-Za-z0-9_.]*)\s*([^;]*);")
_LABEL = re.compile(r"^\s*(\.L_x?_?\w+):")
TF32 = 2  # among the types that a descriptor of UTCHMMA names
_SPIN_WAIT = 6  # a loop of at most so many instructions waits for a barrier and computes nothing

MIX = {  # class -> pattern of opcodes; the first that matches
    "HGMMA": "[HQ]GMMA", "UTCHMMA": "UTC[HQ]MMA", "HMMA": "HMMA", "MUFU.EX2": r"MUFU\.EX2", "MUFU": "MUFU",
    "FFMA": "FFMA", "FMUL": "FMUL", "FADD": "FADD", "FMNMX": "FMNMX", "FSETP/FSEL": "FS(ETP|EL)", "F2F": "F2F",
    "UTMALDG": "UTMALDG", "UTMASTG": "UTMASTG", "LDGSTS": "LDGSTS", "LDG": "LDG(?!DEPBAR)", "STG": "STG",
    "LDS/LDSM": "LDS", "STS/STSM": "STS", "LDL": "LDL", "STL": "STL", "SHFL": "SHFL",
    "barrier": "(BAR|WARPGROUP|WARPSYNC|SYNCS|DEPBAR|LDGDEPBAR)", "branch": "(BRA|EXIT|CALL|RET|BSSY|BSYNC)",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Instruction:
    """One machine instruction; `predicate` is empty where it is unconditional."""

    predicate: str
    opcode: str
    operands: str


Work = Callable[[tuple[Instruction, ...], int], int]


@dataclass(frozen=True)
class Code:
    """A kernel's instructions, its natural loops as sorted instruction numbers, largest first, and how to count the
    multiply-accumulates of instructions as a number of warps executes them."""

    instructions: tuple[Instruction, ...]
    loops: tuple[tuple[int, ...], ...]
    macs: Work

    @property
    def inner_loops(self) -> tuple[tuple[Instruction, ...], ...]:
        """The bodies of the innermost loops, in the order of the code."""
        inner = [x for x in self.loops if not any(set(y) < set(x) for y in self.loops)]
        return tuple(tuple(self.instructions[i] for i in indices) for indices in sorted(inner))

    @property
    def main_loop(self) -> tuple[Instruction, ...]:
        """The innermost loop with the most matrix work; without any, the longest innermost loop; () without a loop."""
        return max(self.inner_loops, key=lambda body: (self.macs(body, 4), len(body)), default=())


def parse(text: str) -> Code:
    """Code from nvdisasm's text. Loops are found by dominators: a backward branch alone may be a spin-wait."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            instructions.append(Instruction(found[2] or "", found[3], _described(found[4], instructions)))
    return code(instructions, lambda i: _successors(instructions, labels, i), macs)


def _described(operands: str, before: list[Instruction]) -> str:
    """Operands of a Blackwell matrix instruction with its descriptor, which a register holds, written out."""
    if not (found := re.search(r"idesc\[(UR\d+)\]", operands)):
        return operands
    moves = (x.operands for x in reversed(before) if x.opcode == "UMOV" and x.operands.startswith(f"{found[1]},"))
    value = next(moves, f"{found[1]}, ?").split(", ")[1].strip()
    return operands.replace(found[0], f"idesc[{value}]")


def code(instructions: list[Instruction], successors: Callable[[int], list[int]], work: Work) -> Code:
    """Code with the loops of its control flow."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(instructions)))
    for i in range(len(instructions)):
        graph.add_edges_from((i, j) for j in successors(i))
    loops = [x for x in _natural_loops(graph) if len(x) > _SPIN_WAIT]
    return Code(tuple(instructions), tuple(sorted(loops, key=lambda x: (-len(x), x))), work)


def _successors(instructions: list[Instruction], labels: dict[str, int], i: int) -> list[int]:
    instruction = instructions[i]
    root = instruction.opcode.split(".")[0]
    # `@P0 BRA x` and `BRA P0, x` are both conditional
    conditional = bool(instruction.predicate) or bool(re.match(r"^!?U?P\d+,", instruction.operands))
    following = [i + 1] if i + 1 < len(instructions) else []
    if root in ("BRA", "JMP", "BRX", "BRXU", "JMX"):
        targets = [labels[t] for t in re.findall(r"(\.L\w+)", instruction.operands) if t in labels]
        indirect = root not in ("BRA", "JMP") and not targets
        return targets + (following if conditional or indirect or ".DIV" in instruction.opcode else [])
    if root in ("EXIT", "RET", "KILL"):
        return following if conditional else []
    return following


def _natural_loops(graph: nx.DiGraph) -> list[tuple[int, ...]]:
    """Bodies of the back edges' loops, those with the same header merged."""
    if not graph:
        return []
    reached = graph.subgraph({0} | nx.descendants(graph, 0))
    dominator = {node: above for node, above in nx.immediate_dominators(reached, 0).items() if above is not None}
    bodies: dict[int, set[int]] = {}
    for tail, header in sorted(reached.edges):
        if reached.in_degree(header) > 1 and _dominates(dominator, header, tail):
            body, waiting = {header, tail}, [tail]
            while waiting:
                node = waiting.pop()
                fresh = [] if node == header else [p for p in reached.predecessors(node) if p not in body]
                body.update(fresh)
                waiting += fresh
            bodies.setdefault(header, set()).update(body)
    return [tuple(sorted(body)) for _, body in sorted(bodies.items())]


def _dominates(dominator: dict[int, int], header: int, node: int) -> bool:
    while node != header and dominator.get(node, node) != node:
        node = dominator[node]
    return node == header


def mix(instructions: tuple[Instruction, ...], classes: Mapping[str, str] = MIX) -> dict[str, int]:
    """Instructions by class; those of no class are `other`."""
    name = lambda opcode: next((n for n, pattern in classes.items() if re.match(f"U?{pattern}", opcode)), "other")
    return dict(sorted(Counter(name(x.opcode) for x in instructions).items()))


def macs(instructions: tuple[Instruction, ...], warps: int) -> int:
    """Multiply-accumulates of the matrix instructions as a block of `warps` executes them.

    HGMMA, of 8-bit types QGMMA, states the shape that a warpgroup (4 warps) computes, HMMA a warp's m16n8k<K> as
    168<K>. A UTCHMMA, of 8-bit types UTCQMMA, computes for the whole
    block the shape in its descriptor (PTX ISA, tcgen05 instruction descriptor: N / 8 from bit 17, M / 16 from bit 24,
    the type of the left factor from bit 7), with 32 bytes along K.
    """
    total = 0
    for instruction in instructions:
        if shape := re.match(r"[HQ]GMMA\.(?:SP\.)?(\d+)x(\d+)x(\d+)", instruction.opcode):
            total += int(shape[1]) * int(shape[2]) * int(shape[3]) * warps // 4
        elif shape := re.match(r"HMMA\.168(\d+)", instruction.opcode):
            total += 16 * 8 * int(shape[1]) * warps
        elif shape := re.match(r"UTC([HQ])MMA.*idesc\[(0x\w+)\]", f"{instruction.opcode} {instruction.operands}"):
            bits = int(shape[2], 16)
            element = 1 if shape[1] == "Q" else 4 if bits >> 7 & 7 == TF32 else 2
            total += (bits >> 24 & 31) * 16 * (bits >> 17 & 63) * 8 * 32 // element
    return total


def loaded_bytes(instructions: tuple[Instruction, ...], threads: int) -> int:
    """Bytes that a block of `threads` brings in from memory, each thread the width that its loads state.

    What a copy engine brings (UTMALDG) is data and is not counted.
    """
    loads = [x.opcode for x in instructions if re.match(r"(LDGSTS|LDG)\.", x.opcode)]
    widths = [re.search(r"\.(128|64|U16|U8)\b", opcode) for opcode in loads]
    return threads * sum({"128": 16, "64": 8, "U16": 2, "U8": 1}[w[1]] if w else 4 for w in widths)
