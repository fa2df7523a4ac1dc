"""Tiles that a copy engine moves: values, exact counts, TMA instructions, and what it cannot move (SEMANTICS 7.1.2)."""

from dataclasses import replace
from functools import partial

import pytest
from flash import MACHINE, mutant, small_gpu

from einsum.library import load as load_cascade
from einsum.parse import parse
from einsum.problems import InputError
from gpu_backend.check import TOLERANCE, oracle_case, relative_error, retyped
from gpu_backend.compare import differences
from gpu_backend.count import count
from gpu_backend.emit import emit
from gpu_backend.limits import plans
from gpu_backend.static import profile
from mapper.check import check as check_mapping
from mapper.cost import cost
from mapper.kernel_gpu import Kernel, mapped
from mapper.library import bound
from mapper.library_gpu import decode, flash_attention, gemm, rows
from mapper.mapping import Move, Seq

HEADS = {"B": 2, "H": 2, "E": 32, "F": 32}
FLASH, GEMM = partial(flash_attention, tma=True), partial(gemm, tma=True)


def made(name, generator, sizes, dtype="bf16", machine=MACHINE):
    cascade = load_cascade(name)
    mapping = generator(cascade, machine, sizes)
    return retyped(bound(mapping, cascade, sizes), mapping, dtype)


def body(mapping, change):
    """The mapping with the leaves of its first group changed."""
    group, grid = mapping.groups[0], mapping.groups[0].body[0]
    inner = grid.body[0]
    changed = lambda seq: Seq(tuple(change(seq.body)))
    inside = changed(inner) if isinstance(inner, Seq) else replace(inner, body=(changed(inner.body[0]),))
    return replace(mapping, groups=(replace(group, body=(replace(grid, body=(inside,)),)), *mapping.groups[1:]))


def with_move(mapping, *moves):
    return body(mapping, lambda leaves: (*(x for x in leaves if not isinstance(x, Move)), *moves))


def verify(workload, mapping, machine=MACHINE):
    """The kernels, after values and counts are found right."""
    check_mapping(mapping, workload, machine)
    kernels = emit(workload, mapping, machine)
    inputs, exact = oracle_case(workload, 3)
    outputs, counted = count(kernels, inputs)
    tolerance = max(TOLERANCE[workload.dtypes[t]] for t in (*workload.cascade.inputs, *workload.cascade.outputs))
    for output in workload.cascade.outputs:
        assert relative_error(outputs[output], exact[output]) <= tolerance
    found = differences(cost(mapping, workload, machine), counted, plans(workload, mapping, machine), "hbm")
    assert found == ()
    return kernels


CASES = {
    "ragged": ("attention-1pass", FLASH, HEADS | {"P": 100, "M": 130}),
    "causal": ("attention-1pass-causal", FLASH, HEADS | {"P": 130, "M": 130}),
    "causal, queries at the end": ("attention-1pass-causal-end", FLASH, HEADS | {"P": 60, "M": 150}),
    "grouped heads": (
        "attention-1pass-gqa", FLASH, {"B": 1, "G": 2, "R": 2, "E": 32, "F": 32, "P": 64, "M": 100},
    ),
    "products": ("gemm", GEMM, {"M": 100, "N": 144, "K": 160}),
    "two products and what follows": ("swiglu", GEMM, {"T": 70, "D": 96, "I": 128}),
    "products in groups": ("gemm", partial(gemm, group=2, tma=True), {"M": 300, "N": 144, "K": 64}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "e4m3"])
@pytest.mark.parametrize("name", CASES)
def test_values_equal_the_oracle_and_counts_the_closed_form(name, dtype):
    workload, mapping = made(*CASES[name], dtype)
    for kernel in verify(workload, mapping):
        assert "tl.load" not in kernel.source and "tl.store" not in kernel.source
        assert "tl.arange" not in kernel.source or name not in ("products", "products in groups")


def test_a_persistent_program_makes_its_descriptors_once():
    machine = small_gpu(3)
    generator = partial(flash_attention, fill="sorted", tma=True)
    workload, mapping = made("attention-1pass-causal", generator, HEADS | {"P": 130, "M": 130}, machine=machine)
    (kernel,) = verify(workload, mapping, machine)
    head, loop, inside = kernel.source.partition("for tile in")
    assert loop and head.count("make_tensor_descriptor") == 4 and "make_tensor" not in inside
    assert kernel.grid == (3,) and profile(kernel).notes == ()


def test_a_descriptors_zeros_are_masked_where_another_value_has_to_stand():
    """Softmax of whole rows: past a row's end the maximum needs -inf, and a descriptor brings 0."""
    sizes = {"T": 40, "N": 104}
    workload, mapping = made("softmax", rows, sizes)
    check_mapping(moved := with_moves(mapping, "X", "Y"), workload, MACHINE)
    (kernel,) = verify(workload, moved)
    line = 'X = tl.where((t[:, None] < T) & (n[None, :] < N), X.to(tl.float32), float("-inf"))'
    assert line in kernel.source
    inputs, exact = oracle_case(workload, 3)
    outputs, _ = count(mutant(kernel, f"{line}\n", "pass\n"), inputs)
    assert relative_error(outputs["Y"], exact["Y"]) > TOLERANCE["bf16"]


def with_moves(mapping, read, written):
    """A mapping of whole rows with its input and its output moved by the copy engine."""
    return with_move(mapping, Move(read, "hbm", "smem"), Move(written, "registers", "hbm"))


def test_some_tensors_of_a_kernel_may_be_moved_and_others_loaded():
    workload, mapping = made("attention-1pass-causal", flash_attention, HEADS | {"P": 100, "M": 130})
    (kernel,) = verify(workload, with_move(mapping, Move("BK", "hbm", "smem")))
    assert "BK_desc.load([b.to(tl.int32), h.to(tl.int32), m1 * M0, 0]).reshape(M0, E)" in kernel.source
    assert "BV = tl.load(" in kernel.source and "tl.store(" in kernel.source


def test_only_the_kernel_whose_group_has_the_move_uses_a_descriptor():
    sizes = {"B": 1, "H": 2, "E": 32, "F": 32, "P": 16, "M": 500}
    workload, mapping = made("attention-flashdecode", decode, sizes)
    parts, combine = verify(workload, with_move(mapping, Move("BK", "hbm", "smem")))
    assert parts.source.count("_desc.load") == 1 and "_desc" not in combine.source


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "e4m3"])
def test_a_hopper_gpu_gets_tma_instructions(dtype):
    workload, mapping = made("gemm", GEMM, {"M": 256, "N": 256, "K": 4096}, dtype)
    (kernel,) = emit(workload, mapping)
    result = profile(kernel)
    assert result.value("instructions", place="main loop", detail="UTMALDG") >= 2
    assert result.value("instructions", place="kernel", detail="UTMASTG") >= 1
    kinds = {row.detail for row in result.select("instructions", place="kernel")}
    assert not kinds & {"LDG", "LDGSTS"}
    loaded = emit(*made("gemm", gemm, {"M": 256, "N": 256, "K": 4096}, dtype))
    assert not profile(*loaded).select("instructions", detail="UTMALDG")


@pytest.mark.parametrize("target", ["sm_80", "gfx942"])
def test_a_gpu_without_a_copy_engine_gets_ordinary_loads(target):
    workload, mapping = made("attention-1pass-causal", FLASH, {"B": 1, "H": 2, "P": 256, "M": 256, "E": 64, "F": 64})
    (kernel,) = emit(workload, mapping)
    result = profile(kernel, target)
    assert result.value("operations", place="main loop", detail="mac") >= kernel.iteration_macs
    assert not {row.detail for row in result.select("instructions")} & {"UTMALDG", "UTMASTG"}


TWO = """cascade c
tensor X[t,k]
tensor W[k,n]
tensor I[t]: int32
Y[t,n] = X[{index},k] * W[k,n]
"""


def product(index="t", **sizes):
    """A matrix product with rows of X picked by an index, all moved by the copy engine."""
    text = TWO if "I[" in index else TWO.replace("tensor I[t]: int32\n", "")
    cascade = parse(text.format(index=index))
    kernel = Kernel("c", ("Y",), {"t": 32, "n": 32}, ("k", 32))
    sizes = {"T": 64, "K": 64, "N": 64} | sizes
    mapping = mapped("c", cascade, MACHINE, (kernel,), {})
    return bound(mapping, cascade, sizes), mapping


@pytest.mark.parametrize(
    ("index", "sizes", "move", "reason"),
    [
        ("I[t]", {}, Move("X", "hbm", "smem"), "no index comes from a tensor"),
        ("t", {"N": 66}, Move("W", "hbm", "smem"), "steps along k by a multiple of 16 bytes (got 264)"),
        ("t", {"N": 66}, Move("Y", "registers", "hbm"), "steps along t by a multiple of 16 bytes (got 264)"),
        ("2*t", {}, Move("X", "hbm", "smem"), "an index has one rank of a block, by itself"),
        ("t", {}, Move("W", "hbm", "smem", unit="fma"), "only what the copy engine moves"),
        ("t", {}, Move("W", "smem", "registers"), "only what the copy engine moves"),
        ("t", {}, Move("V", "hbm", "smem"), "c neither loads nor stores it in device memory"),
    ],
)
def test_what_no_descriptor_moves_is_refused(index, sizes, move, reason):
    workload, mapping = product(index, **sizes)
    with pytest.raises(InputError) as error:
        emit(workload, with_move(mapping, move))
    assert reason in str(error.value)


def test_short_rows_and_too_many_ranks_are_refused():
    cascade = parse("cascade c\ntensor X[t,n]\nY[t,n] = X[t,n] + 1\n")
    mapping = mapped("c", cascade, MACHINE, (Kernel("c", ("Y",), {"t": 16, "n": 4}),), {})
    workload, mapping = retyped(bound(mapping, cascade, {"T": 32, "N": 64}), mapping, "bf16")
    workload = replace(workload, dtypes=workload.dtypes | {"X": "bf16"})
    with pytest.raises(InputError, match=r"the rows of a descriptor's tile have at least 16 bytes \(got 8\)"):
        emit(workload, with_move(mapping, Move("X", "hbm", "smem")))
    cascade = parse("cascade c\ntensor X[a,b,c,d,t,n]\nY[a,b,c,d,t,n] = X[a,b,c,d,t,n] + 1\n")
    grid = dict.fromkeys("abcd", 1) | {"t": 16, "n": 16}
    mapping = mapped("c", cascade, MACHINE, (Kernel("c", ("Y",), grid),), {})
    workload = bound(mapping, cascade, dict.fromkeys("ABCDTN", 16))
    with pytest.raises(InputError, match=r"a descriptor has at most 5 ranks \(got 6\)"):
        emit(workload, with_move(mapping, Move("X", "hbm", "smem")))


def test_a_store_that_a_length_cuts_off_is_refused():
    sizes = {"S": 200, "E": 3, "T": 64, "D": 96, "F": 64}
    workload, mapping = made("grouped-gemm", gemm, sizes)
    with pytest.raises(InputError, match="a descriptor stores whole tiles, whatever a length leaves out"):
        emit(workload, with_move(mapping, Move("Y", "registers", "hbm", at=(("d", "last"),))))
