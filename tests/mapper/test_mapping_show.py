"""Mappings as the loop nests that a person would draw."""

from arch.read import load as load_machine
from einsum.library import load as load_cascade
from mapper.library import make
from mapper.mapping import Compute, Group, Hold, Loop, Mapping, Move, Phase, Phases, Pipe, Seq
from mapper.show import show

SIZES = {"B": 1, "H": 2, "M": 512, "P": 512, "E": 4, "F": 4}


def test_flash_attention():
    mapping, _ = make("flash-attention", load_cascade("attention-1pass-causal"), load_machine("h100"), SIZES)
    lines = show(mapping).splitlines()
    assert lines[0].startswith("mapping flash-attention: attention-1pass-causal on h100 (M0=64, BQK in fp32, ")
    assert lines[1:10] == [
        "group attention",
        "  parallel-for (b, h, p) by (1, 1, 64) over sm.sm, dynamic",
        "    hold Q in smem",
        "    hold RM in registers",
        "    hold RD in registers",
        "    hold RNV in registers",
        "    for m1, while the guard holds",
        "      hold BK in smem, 2 deep",
        "      hold BV in smem, 2 deep",
    ]
    assert lines[-1] == "        AV on mufu, at the last m1: parallel-for p by 16 over subcore.quad"


def test_every_field():
    loops = (Loop(("e",), (1,)), Loop(("p",), (1,), over="a.col"))
    pipe = Pipe(
        (Compute("QK", "pe", (("mufu", 0.25),), 1, (("m1", "last"),), loops), Move("Q", "dram", "buffer", "dma", 2)),
        open=3,
        ahead=2,
        schedule=Phases((Phase(("QK",), "pe"), Phase(("AV", "RD")))),
    )
    held = Hold("K", "buffer", 2, 0.5, "a.col", "sharded", "f", ("QK",), "V", True)
    inner = Loop(("m1",), (4,), extent=(3, 2), offset="d", combine="atomic", holds=(held,), body=(pipe,))
    grid = Loop(("b", "p"), (1, 64), over="sm.sm", fill="sorted", extent="guard", body=(inner,))
    groups = (Group("one", (grid,)), Group("two", (Seq((Compute("AV", "pe"),)),), ("one",), 0.5))
    assert (
        show(Mapping("all", "c", "m", groups, (("M0", 4),), (("*", "bf16"), ("K", "fp8"))))
        == """\
mapping all: c on m (M0=4, everything in bf16, K in fp8)
group one
  parallel-for (b, p) by (1, 64) over sm.sm, sorted, while the guard holds
    for m1 by 4, (3, 2) times, rotated by d, combined by atomic
      hold K in buffer, 2 deep, 0.5 of it, sharded over a.col, along f, for QK, in place of V, kept between groups
      pipe, 3 open, 2 ahead, phases
        phase 1: QK, then drain pe
        phase 2: AV RD
        QK on pe and 0.25 on mufu, 1 behind, at the last m1: for e, parallel-for p over a.col
        move Q from dram to buffer by dma, 2 behind
group two after one on 0.5 of the machine
  seq
    AV on pe
"""
    )


def test_static_order():
    mapping, _ = make("fusemax-binding", load_cascade("attention-1pass"), load_machine("fusemax"), SIZES)
    lines = show(mapping).splitlines()
    at = lines.index("            pipe, 2 open, 4 ahead, static order")
    assert lines[at + 1 : at + 4] == [
        "              order pe_2d: SLN SLD SLNV BQK LM",
        "              order pe_1d: RM PRM SPD SPNV RD RNV AV",
        "              BQK on pe_2d: for e, parallel-for p over array_2d.col, parallel-for m0 over array_2d.row",
    ]
