"""Generated kernels compiled for sm_90a with no GPU: matrix instructions, work of an iteration, no spills."""

from dataclasses import replace

import pytest
from flash import build

from gpu_backend import sass
from gpu_backend.check import check
from gpu_backend.emit import emit
from gpu_backend.static import profile


def test_flash_attention_compiles_to_wgmma_without_spills():
    workload, mapping = build("attention-1pass-causal", "bf16", {"P": 256, "M": 256})
    result = profile(emit(workload, mapping))
    assert result.config["target"] == "sm_90a" and result.notes == ()
    assert result.total("spills") == 0 and 0 < result.value("registers") < 255
    assert result.value("operations", place="main loop", detail="mac") == 2 * 64**3  # BQK and SLNV of one tile
    # an HGMMA of a warpgroup is 64x64x16, so four for each product
    assert result.value("instructions", place="main loop", detail="HGMMA") == 8
    # 64x64 of SLN over 128 threads, and PRM's 64 rows, of which each of four lanes holds a copy
    assert result.value("instructions", place="main loop", detail="MUFU.EX2") == (64 * 64 + 4 * 64) / 128
    staged = 64 * 64 * 2 * (1 + 2 * 2)  # Q, and two buffers each of K and V
    assert result.value("footprint", place="smem") == staged


def test_fp32_has_no_wgmma_and_the_notes_say_so():
    workload, mapping = build("attention-1pass", "fp32", {"P": 64, "M": 64, "E": 16, "F": 16}, (32, 32))
    notes = profile(emit(workload, mapping)).notes
    assert any("no wgmma" in note for note in notes)


def test_check_passes_and_prints_a_verdict():
    verdict = check("flash-attention", {"P": 128, "M": 128}, "fp16")
    assert verdict.passed
    text = str(verdict)
    assert "values    ok" in text and "counts    ok: all 19 equal the closed form" in text and "sm_90a" in text
    wrong = replace(verdict, differences=("bytes K read: closed form 1, counted 2",))
    assert not wrong.passed and "bytes K read: closed form 1, counted 2" in str(wrong)
    assert not replace(verdict, error=1.0).passed


LOOPS = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0020*/                   FADD R1, R2, R3 ;
        /*0030*/                   FADD R1, R2, R3 ;
        /*0040*/                   FADD R1, R2, R3 ;
        /*0050*/                   FADD R1, R2, R3 ;
        /*0060*/              @!P0 BRA `(.L_x_1) ;
        /*0070*/                   FMUL R1, R2, R3 ;
.L_x_2:
        /*0080*/               @P1 BRA `(.L_x_0) ;
        /*0090*/                   EXIT ;
.L_x_1:
        /*00a0*/                   MUFU.EX2 R1, R2 ;
        /*00b0*/                   BRA `(.L_x_2) ;
.L_x_3:
        /*00c0*/                   BRA `(.L_x_3) ;
"""


def test_a_block_placed_out_of_line_belongs_to_its_loop_and_a_backward_branch_alone_is_none():
    code = sass.parse(LOOPS)
    assert code.loops == ((1, 2, 3, 4, 5, 6, 7, 8, 10, 11),)
    assert sass.mix(code.main_loop) == {"FADD": 4, "FMUL": 1, "HGMMA": 1, "MUFU.EX2": 1, "branch": 3}


@pytest.mark.parametrize(
    ("opcode", "flops"),
    [("HGMMA.64x64x16.F32", 2 * 64 * 64 * 16), ("HMMA.16816.F32", 4 * 2 * 16 * 8 * 16), ("FFMA", 0)],
)
def test_matrix_flops_of_four_warps(opcode, flops):
    assert sass.matrix_flops((sass.Instruction("", opcode, ""),), warps=4) == flops
