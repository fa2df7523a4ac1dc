"""Generated kernels compiled for sm_90a with no GPU: matrix instructions, work of an iteration, no spills."""

from dataclasses import replace

import pytest
from flash import build

from einsum.problems import InputError
from gpu_backend import sass
from gpu_backend.check import case, check
from gpu_backend.emit import emit
from gpu_backend.static import TARGETS, occupancy, profile


def test_flash_attention_compiles_to_wgmma_without_spills():
    workload, mapping = build("attention-1pass-causal", "bf16", {"P": 256, "M": 256})
    result = profile(*emit(workload, mapping))
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
    notes = profile(*emit(workload, mapping)).notes
    assert any("no wgmma" in note for note in notes)


def test_check_passes_and_prints_a_verdict():
    verdict = check("flash-attention", {"P": 128, "M": 128}, "fp16")
    assert verdict.passed
    text = str(verdict)
    assert "values    ok" in text and "counts    ok: all 32 equal the closed form" in text and "sm_90a" in text
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
    ("opcode", "macs"),
    [("HGMMA.64x64x16.F32", 64 * 64 * 16), ("HMMA.16816.F32", 4 * 16 * 8 * 16), ("FFMA", 0)],
)
def test_matrix_work_of_four_warps(opcode, macs):
    assert sass.macs((sass.Instruction("", opcode, ""),), warps=4) == macs


@pytest.mark.parametrize(
    ("opcode", "descriptor", "macs"),
    [
        ("UTCHMMA", 0x4110490, 64 * 64 * 16),  # bf16
        ("UTCHMMA", 0x8400010, 128 * 256 * 16),  # fp16
        ("UTCHMMA", 0x4100910, 64 * 64 * 8),  # tf32
        ("UTCQMMA", 0x4100010, 64 * 64 * 32),  # 8 bits
    ],
)
def test_a_blackwell_matrix_instruction_has_the_shape_that_its_descriptor_was_given(opcode, descriptor, macs):
    operands = "gdesc[UR4], gdesc[UR6], tmem[UR8], tmem[UR2], idesc[UR7], UPT"
    text = f"/*0000*/ UMOV UR7, {descriptor:#x} ;\n/*0010*/ UMOV UR9, 0x1 ;\n/*0020*/ {opcode} {operands} ;\n"
    assert sass.macs(sass.parse(text).instructions, warps=4) == macs


LONG = {  # kernels whose loops are too long to be unrolled
    "flash-attention": {"P": 512, "M": 512},
    "flash-attention-causal": {"P": 512, "M": 512},
    "attention-3pass": {"P": 512, "M": 4096, "E": 64, "F": 64},
    "gemm": {"M": 256, "N": 256, "K": 16384},
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("target", ["sm_80", "sm_90a", "sm_100a"])
def test_matrix_work_and_bytes_of_an_iteration_are_the_mappings(name, target):
    workload, mapping, _ = case(name, LONG[name])
    (kernel,) = emit(workload, mapping)
    result = profile(kernel, target)
    assert result.value("operations", place="main loop", detail="mac") == kernel.iteration_macs > 0
    assert result.value("bytes", place="main loop", detail="read") == kernel.iteration_bytes > 0
    assert result.total("spills") == 0 and result.notes == ()


def test_a_blackwell_gpu_gets_its_own_matrix_instructions():
    workload, mapping, _ = case("flash-attention", LONG["flash-attention"])
    (kernel,) = emit(workload, mapping)
    result = profile(kernel, "sm_100a")
    assert result.value("instructions", place="main loop", detail="UTCHMMA") == 2 * 64 // 16  # two products, k16 each
    assert result.value("bytes", place="main loop", detail="read") == kernel.iteration_bytes


@pytest.mark.parametrize("name", LONG)
def test_on_an_amd_gpu_too_where_each_wave_has_32_rows_of_its_own(name):
    workload, mapping, _ = case(name, LONG[name])
    kernel = replace(emit(workload, mapping)[0], num_warps=2)
    result = profile(kernel, "gfx942")
    assert result.value("operations", place="main loop", detail="mac") == kernel.iteration_macs > 0
    assert result.value("bytes", place="main loop", detail="read") == kernel.iteration_bytes > 0
    assert result.total("spills") == 0 and result.notes == ()


def test_an_amd_gpu_repeats_a_product_where_two_waves_share_rows_and_a_note_says_so():
    workload, mapping, _ = case("gemm", LONG["gemm"])
    (product,) = emit(workload, mapping)
    result = profile(product, "gfx942")
    assert result.value("operations", place="main loop", detail="mac") == product.iteration_macs
    assert result.value("bytes", place="main loop", detail="read") == product.iteration_bytes and result.notes == ()
    workload, mapping, _ = case("flash-attention", LONG["flash-attention"])
    (kernel,) = emit(workload, mapping)
    result = profile(kernel, "gfx942")
    assert result.value("operations", place="main loop", detail="mac") == 1.5 * kernel.iteration_macs
    assert any("matrix MACs" in note for note in result.notes)


def test_a_loop_that_is_unrolled_is_not_compared():
    workload, mapping, _ = case("gemm", {"M": 64, "N": 64, "K": 1024})
    assert any("unrolled" in note for note in profile(*emit(workload, mapping)).notes)


def test_an_unknown_target_is_named():
    workload, mapping, _ = case("softmax")
    with pytest.raises(InputError, match="no such target"):
        profile(*emit(workload, mapping), "sm_91")


@pytest.mark.parametrize(
    ("target", "registers", "shared", "warps", "expected"),
    [
        ("sm_90a", 32, 0, 4, 1.0),  # 64 warps of 32 * 32 registers
        ("sm_90a", 128, 0, 4, 0.25),  # 16 warps of 4096 registers
        ("sm_90a", 32, 100 * 1024, 4, 8 / 64),  # two programs fit the 228 KiB
        ("sm_80", 32, 100 * 1024, 4, 4 / 64),  # one fits the 164 KiB
        ("gfx942", 128, 0, 4, 0.5),  # 512 / 128 waves on each of 4 SIMDs, of 8
    ],
)
def test_occupancy_follows_registers_and_shared_memory(target, registers, shared, warps, expected):
    assert occupancy(TARGETS[target], registers, shared, warps) == expected
