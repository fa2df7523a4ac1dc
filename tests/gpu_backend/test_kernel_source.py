"""The generated text: a golden for review, its file, and what is refused. Nothing here needs Triton."""

import ast
import itertools
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from flash import MACHINE

from arch.read import load as load_machine
from einsum.bind import bind
from einsum.cascade import Access, Apply
from einsum.library import load as load_cascade
from einsum.parse import parse
from einsum.problems import InputError
from gpu_backend import check as check_module, source
from gpu_backend.base2 import scaled_tensors
from gpu_backend.emit import emit
from gpu_backend.kernels import KERNELS
from gpu_backend.missing import FINITE, _value
from mapper.library import bound, make
from mapper.library_gpu import flash_attention, gemm
from mapper.mapping import Compute, Group, Hold, Loop, Mapping, Move, Seq

GOLDEN = Path(__file__).parent / "golden"
BACKWARD = "flash-attention-backward-causal"
SIZES = {"B": 1, "H": 2, "P": 200, "M": 200, "E": 64, "F": 64}


def flash(name="attention-1pass", sizes=SIZES, **changes):
    cascade = load_cascade(name)
    mapping = replace(flash_attention(cascade, MACHINE, sizes), **changes)
    return bound(mapping, cascade, sizes), mapping


def with_grid(mapping, **changes):
    grid = replace(mapping.groups[0].body[0], **changes)
    return replace(mapping, groups=(replace(mapping.groups[0], body=(grid,)),))


def with_keys(mapping, **changes):
    keys = replace(mapping.groups[0].body[0].body[0], **changes)
    return with_grid(mapping, body=(keys,))


@pytest.mark.parametrize(
    ("name", "sizes"), [("attention-1pass", SIZES | {"P": 4096, "M": 4096}), ("attention-1pass-causal", SIZES)]
)
def test_the_source_is_the_reviewed_one(name, sizes):
    text = emit(*flash(name, sizes))[0].source
    assert text == (GOLDEN / f"{name}.py.txt").read_text()
    ast.parse(text)


@pytest.mark.parametrize("name", ["attention-3pass-causal", "flash-decode", "grouped-gemm", BACKWARD])
def test_the_sources_of_other_structures_are_the_reviewed_ones(name):
    """Three tile loops in one kernel, two kernels with memory between them, gathered rows, loops either way."""
    cascade_name, mapping_name, sizes = KERNELS[name]
    mapping, workload = make(mapping_name, load_cascade(cascade_name), MACHINE, sizes)
    text = "\n\n".join(kernel.source for kernel in emit(workload, mapping))
    assert text == (GOLDEN / f"{name}.py.txt").read_text()
    ast.parse(text)


GRIDS = {  # golden -> (cascade, generator, sizes)
    "gemm-persistent-grouped-tma": (
        "gemm", partial(gemm, fill="cyclic", group=8, tma=True), {"M": 4096, "N": 4096, "K": 4096},
    ),
    "attention-1pass-causal-persistent-tma": (
        "attention-1pass-causal", partial(flash_attention, fill="sorted", tma=True), SIZES | {"H": 64},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRIDS)
def test_the_sources_of_persistent_grids_and_copied_tiles_are_the_reviewed_ones(name):
    cascade_name, generator, sizes = GRIDS[name]
    cascade = load_cascade(cascade_name)
    mapping = generator(cascade, MACHINE, sizes)
    (kernel,) = emit(bound(mapping, cascade, sizes), mapping, MACHINE)
    assert kernel.source == (GOLDEN / f"{name}.py.txt").read_text() and kernel.grid == (132,)
    ast.parse(kernel.source)


def test_line_labels_point_at_assignments_of_that_name():
    (kernel,) = emit(*flash("attention-1pass-causal"))
    lines = kernel.source.splitlines()
    for number, label in kernel.lines:
        assert lines[number - 1].strip().startswith((f"{label} = ", f"{label}_next = ", f"tl.store({label}_ptr"))
    einsums = {e.name for e in load_cascade("attention-1pass").einsums}
    assert einsums <= {label for _, label in kernel.lines}


def test_warps_and_stages_come_from_the_mapping():
    (kernel,) = emit(*flash())
    assert (kernel.num_warps, kernel.num_stages, kernel.grid) == (4, 2, (8,))
    cascade = load_cascade("attention-1pass")
    deeper = flash_attention(cascade, MACHINE, SIZES, 128, 64, stages=3)
    (kernel,) = emit(bound(deeper, cascade, SIZES), deeper)
    assert (kernel.num_warps, kernel.num_stages, kernel.grid) == (8, 3, (4,))


@pytest.mark.parametrize(("rows", "warps"), [(64, 1), (32, 2), (8, 8), (4, 16)])
def test_a_block_is_dealt_out_to_as_many_warps_as_the_loop_over_them_has_iterations(rows, warps):
    workload, mapping = flash()
    deal = Loop(("p",), (rows,), over="subcore.quad", fill="cyclic")

    def dealt(leaf):
        return replace(leaf, loops=(deal,)) if leaf.loops else leaf

    (keys,) = mapping.groups[0].body[0].body
    assert emit(workload, with_keys(mapping, body=(Seq(tuple(map(dealt, keys.body[0].body))),)))[0].num_warps == warps


@pytest.mark.parametrize("deep", [1, 2, 4])
def test_stages_are_the_buffers_of_the_deepest_hold_of_the_tile_loop(deep):
    workload, mapping = flash()
    (keys,) = mapping.groups[0].body[0].body
    holds = tuple(replace(h, deep=deep if h.tensor == "BK" else 1) for h in keys.holds)
    assert emit(workload, with_keys(mapping, holds=holds))[0].num_stages == deep


def test_the_logits_and_their_maxima_are_held_in_base_2():
    assert scaled_tensors(load_cascade("attention-1pass")) == {"BQK", "LM", "RM"}
    assert scaled_tensors(load_cascade("attention-3pass")) == {"QK", "GM"}
    shared = "cascade c\ntensor X[i]\nY[i] = X[i] * X[i]\nZ[i] = exp(Y[i]) + Y[i]\n"  # Y is read outside exp as well
    assert scaled_tensors(parse(shared)) == frozenset()


def test_kernels_can_run_here():
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: no kernel is interpreted, counted or compiled (pip install '.[gpu]')")


def test_arithmetic_on_missing_points_agrees_with_numbers():
    samples = {FINITE: (-3.5, 0.25, 7.0)}
    functions = {"+": np.add, "-": np.subtract, "*": np.multiply, "max": np.maximum, "min": np.minimum}
    held, sides = (0.0, 2.0, np.inf, -np.inf, FINITE), (Access("L", ()), Access("R", ()))
    for op, left, right in itertools.product(functions, held, held):
        with np.errstate(invalid="ignore"):
            real = [functions[op](a, b) for a in samples.get(left, (left,)) for b in samples.get(right, (right,))]
        found = _value(Apply(op, sides), dict(zip(sides, (left, right), strict=True)))
        if found == FINITE:
            assert np.isfinite(real).all(), (op, left, right)
        elif found is not None:
            assert all(r == found for r in real), (op, left, right)
        else:
            assert not np.isfinite(real).all(), (op, left, right)


def test_the_file_is_written_once_and_whole(tmp_path):
    (kernel,) = emit(*flash())
    file = source.path(kernel, tmp_path)
    assert file.read_text() == kernel.source and [file] == list(tmp_path.iterdir())
    stamp = file.stat().st_mtime_ns
    assert source.path(kernel, tmp_path) == file and file.stat().st_mtime_ns == stamp
    assert source.path(replace(kernel, source=kernel.source + "\n"), tmp_path) != file


def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("killed")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="killed"):
        source.path(emit(*flash())[0], tmp_path)
    assert not list(tmp_path.glob("*.py"))


@pytest.mark.parametrize("home", ["empty", "a file"])
def test_the_cache_works_with_an_empty_home_and_without_one(home, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    place = tmp_path / "home"
    place.mkdir() if home == "empty" else place.write_text("in the way")
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setattr(source.tempfile, "tempdir", str(tmp_path))
    folder = source.cache_dir.__wrapped__()
    assert folder.is_dir() and (folder == place / ".cache" / "stepfall") == (home == "empty")


def test_without_triton_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(check_module, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        check_module.check("flash-attention")
    assert str(caught.value) == "triton is not installed: pip install 'stepfall[gpu]'"


def test_another_triton_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(check_module, "find_spec", lambda name: True)
    monkeypatch.setattr(check_module, "version", lambda name: "3.8.0")
    with pytest.raises(InputError) as caught:
        check_module.check("flash-attention")
    assert str(caught.value) == "kernels are checked with triton 3.9.*: pip install 'stepfall[gpu]' (got 3.8.0)"


def test_an_unknown_kernel_is_named_before_anything_is_needed(monkeypatch):
    monkeypatch.setattr(check_module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"got flash-atention\); did you mean flash-attention"):
        check_module.check("flash-atention")


def refused(workload, mapping) -> str:
    with pytest.raises(InputError) as caught:
        emit(workload, mapping)
    assert all("no kernel can be generated" in str(p) for p in caught.value.problems)
    return str(caught.value)


def test_a_mapping_of_another_shape_is_refused_with_the_reason():
    workload, mapping = flash()
    grid = mapping.groups[0].body[0]
    keys = grid.body[0]
    leaf = keys.body[0].body[0]
    others = keys.body[0].body[1:]
    reasons = {
        "the outermost loop, and no other, is spatial": with_grid(mapping, over=None),
        "a persistent grid fills the instances of a machine": with_grid(mapping, fill="cyclic"),
        "at most one temporal loop": with_grid(mapping, body=(Loop(("m1",), (2,), body=(keys,)),)),
        "offset, combine and listed extents": with_keys(mapping, combine="atomic"),
        "a block of p has 2^k coordinates (got 96)": with_grid(mapping, tile=(1, 1, 96)),
        "a tile is held whole": with_keys(mapping, holds=(Hold("BK", "smem", part=0.5),)),
        "between device memory and the chip": with_keys(mapping, body=(Move("K", "smem", "registers"), *keys.body)),
        "shares, stages and static orders": with_keys(mapping, body=(Seq((replace(leaf, stage=1), *others)),)),
        "every Einsum is computed once (got 2 times)": with_keys(mapping, body=(Seq((leaf, leaf, *others)),)),
        "it is read before the mapping computes it": with_keys(mapping, body=(Seq((*others, leaf)),)),
        "a rank private to an Einsum is one block": with_keys(
            mapping, body=(Seq((replace(leaf, loops=(Loop(("e",), (1,)),)), *others)),)
        ),
    }
    for reason, broken in reasons.items():
        assert reason in refused(workload, broken)


def test_fusemax_mappings_are_refused():
    cascade, machine = load_cascade("attention-1pass"), load_machine("fusemax")
    sizes = {"B": 1, "H": 1, "P": 1024, "M": 1024, "E": 64, "F": 64}
    mapping, workload = make("fusemax-binding", cascade, machine, sizes)
    assert "shares, stages and static orders" in refused(workload, mapping)


@pytest.mark.parametrize(
    ("sizes", "types", "reason"),
    [
        ({"E": 80}, {}, "rank e: no kernel can be generated: a block has 2^k coordinates (got 80)"),
        ({"E": 8}, {}, "a side of a matrix product has at least 16 coordinates (got e: 8)"),
        ({"P": 2**26, "E": 32}, {}, "one program's slice stays below 2147483648 elements"),
        ({}, {"K": "fp8"}, "element types are bf16, fp16, fp32, tf32, e4m3, e5m2, int32 (got fp8)"),
        ({}, {"Q": "fp16"}, "the factors of a matrix product have one element type"),
    ],
)
def test_sizes_and_types_that_no_kernel_takes_are_refused(sizes, types, reason):
    cascade = load_cascade("attention-1pass")
    sizes = SIZES | sizes
    mapping = flash_attention(cascade, MACHINE, sizes)
    mapping = replace(mapping, dtypes=tuple((dict(mapping.dtypes) | types).items()))
    assert reason in refused(bound(mapping, cascade, sizes), mapping)


def one_einsum(text: str):
    """A cascade of one Einsum over p in blocks of 16."""
    cascade = parse("cascade c\n" + text)
    grid = Loop(("p",), (16,), over="sm.sm", body=(Compute("Y", "fma"),))
    return bind(cascade, {"P": 32, "M": 32}), Mapping("m", "c", "h100", (Group("g", (grid,)),))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tensor X[p,m]\nY[p] = prod[m] X[p,m]\n", "reductions are sum, max, min (got prod)"),
        ("tensor X[p,m]\nY[p,m] = tanh(X[p,m])\n", "(got tanh)"),
        ("tensor X[p,m]\nY[m] = X[p,m]\n", "it reduces over p, which is split over programs"),
        ("tensor X[p,m]\nY[p] | m < p = max[m] X[p,m]\n", "a result without any point, which would not be a number"),
        ("tensor X[p,m]\ntensor Z[p,m]: bool\nY[p] | Z[p,m] = max[m] X[p,m]\n", "guards are affine inequalities"),
        ("tensor X[p]\ntensor W[m]\nY[p,m] = 2 * W[m] + X[p]\n", "needs an Einsum of its own (got 2 * W[m])"),
        ("tensor X[p,m]\nY[p,m] | m <= p = X[p,m] + 1\n", "an output with points that do not exist"),
        ("tensor X[p,m]\nY[p,m] = eq(X[p,m], 1)\n", "eq compares a coordinate with an int32 element (got"),
        ("tensor X[p,m]\ntensor L[p]\nY[p,m] = X[p,m] * eq(m, L[p])\n", "an int32 element (got eq(m, L[p]))"),
    ],
)
def test_cascades_that_no_kernel_computes_are_refused(text, reason):
    assert reason in refused(*one_einsum(text))


def test_a_reduction_that_would_see_missing_points_is_refused_rather_than_wrong():
    guarded_reduction = "tensor X[p,m]\nY[p] | m <= p = max[m] X[p,m]\n"
    assert "a reduction over points that do not exist" in refused(*one_einsum(guarded_reduction))
