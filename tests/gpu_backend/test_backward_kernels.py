"""Backward kernels against derivatives of the forward cascades in float64, on what the forward kernels leave in memory.

The derivative is taken through the oracle's run of the forward cascade: with a step i*h in an input the imaginary part
of the result is h times the derivative (complex step).
"""

from dataclasses import replace

import numpy as np
import pytest
from flash import MACHINE

from einsum.bind import bind
from einsum.library import load as load_cascade
from einsum.oracle import run
from einsum.problems import InputError
from gpu_backend.check import TOLERANCE, case, oracle_case, relative_error, retyped
from gpu_backend.compare import differences
from gpu_backend.count import count
from gpu_backend.emit import emit
from gpu_backend.interpret import stored, values
from gpu_backend.limits import plans
from mapper.check import check as check_mapping
from mapper.cost import cost
from mapper.library import bound
from mapper.library_gpu import backward_attention, flash_attention, row_blocks, rows

STEP = 1e-100
ATTENTION = {"B": 1, "H": 2, "P": 40, "M": 40, "E": 16, "F": 32}


def gradients(name, sizes, inputs, output, upstream, wanted):
    """d(sum of output * upstream) by each element of the wanted inputs."""
    cascade = load_cascade(name)
    workload, found = bind(cascade, {size: sizes[size] for size in cascade.free_sizes}), {}
    for tensor in wanted:
        found[tensor] = np.zeros(inputs[tensor].shape)
        for at in np.ndindex(*inputs[tensor].shape):
            shifted = inputs | {tensor: inputs[tensor].astype(complex)}
            shifted[tensor][at] += 1j * STEP
            found[tensor][at] = (run(workload, shifted, np.complex128)[output] * upstream).sum().imag / STEP
    return found


def mapped(name, generator, sizes, dtype, *blocks):
    """(workload, mapping) with `dtype` in place of bf16."""
    cascade = load_cascade(name)
    mapping = generator(cascade, MACHINE, sizes, *blocks)
    return retyped(bound(mapping, cascade, sizes), mapping, dtype)


def kernel_outputs(workload, mapping, inputs):
    """What the kernels store, in the types of memory, after their counts are found right."""
    check_mapping(mapping, workload, MACHINE)
    outputs, counted = count(emit(workload, mapping, MACHINE), inputs)
    assert differences(cost(mapping, workload, MACHINE), counted, plans(workload, mapping, MACHINE), "hbm") == ()
    return outputs


def rounded(shape, dtype, seed):
    return values(stored(np.random.default_rng(seed).standard_normal(shape) * 0.5, dtype), dtype)


def heads_of(inputs, h):
    return {name: x[:, h : h + 1] for name, x in inputs.items()}


@pytest.mark.parametrize(("mask", "dtype"), [("", "bf16"), ("-causal", "fp16"), ("-window", "bf16")])
def test_attention(mask, dtype):
    """The forward kernel's result and log-sum-exp go into the backward kernels, in three tiles of each rank."""
    sizes = ATTENTION | ({"W": 20} if mask == "-window" else {})
    forward = mapped(f"attention-1pass{mask}-lse", flash_attention, sizes, dtype, 16, 16)
    inputs, _ = oracle_case(forward[0], 1, None)
    kept = kernel_outputs(*forward, inputs)
    upstream = rounded(kept["AV"].shape, dtype, 2)
    backward = mapped(f"backward-attention-recompute{mask}", backward_attention, sizes, dtype, 16, 16)
    ours = kernel_outputs(*backward, inputs | kept | {"DAV": upstream})
    for h in range(sizes["H"]):
        one = (f"attention-3pass{mask}", sizes | {"H": 1}, heads_of(inputs, h), "AV", upstream[:, h : h + 1])
        for tensor, exact in gradients(*one, ("Q", "K", "V")).items():
            assert relative_error(ours[f"D{tensor}"][:, h : h + 1], exact) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_cross_entropy(dtype):
    """Rows of three blocks of columns, the last one cut off; labels in all of them."""
    sizes = {"T": 10, "V": 300}
    forward = mapped("cross-entropy", rows, sizes, dtype)
    labels = np.arange(10) * 30
    inputs, _ = oracle_case(forward[0], 3, {"LABEL": labels})
    kept, upstream = kernel_outputs(*forward, inputs), rounded((10,), "fp32", 4)
    backward = mapped("backward-cross-entropy", rows, sizes, dtype)
    ours = kernel_outputs(*backward, inputs | {"LSE": kept["LSE"], "DLOSS": upstream})["DL"]
    row = {"T": 1, "V": 300}
    for t in range(10):
        one = {"L": inputs["L"][t : t + 1], "LABEL": labels[t : t + 1]}
        exact = gradients("cross-entropy", row, one, "LOSS", upstream[t], ("L",))["L"]
        assert np.abs(ours[t] - exact[0]).max() <= TOLERANCE[dtype] * np.abs(exact).max()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize(("blocks", "columns"), [(3, 20), (2, 32)])
def test_layer_norm(blocks, columns, dtype):
    """Ragged columns and rows, and whole ones."""
    sizes = {"B": blocks, "T": 10, "D": columns}
    every = {"T": blocks * 10, "D": columns}
    forward = mapped("layer-norm-stats", rows, every, dtype)
    inputs, _ = oracle_case(forward[0], 5, None)
    kept, upstream = kernel_outputs(*forward, inputs), rounded((blocks * 10, columns), dtype, 6)
    in_blocks = lambda x: x.reshape(blocks, 10, *x.shape[1:])
    taken = {"G": inputs["G"], "X": in_blocks(inputs["X"]), "DY": in_blocks(upstream)}
    taken |= {name: in_blocks(kept[name]) for name in ("MU", "R")}
    ours = kernel_outputs(*mapped("backward-layer-norm", row_blocks, sizes, dtype, 4), taken)
    exact = gradients("layer-norm", every, inputs, "Y", upstream, ("X", "G", "B"))
    for tensor, gradient in exact.items():
        assert relative_error(ours[f"D{tensor}"].reshape(gradient.shape), gradient) <= TOLERANCE[dtype]


MUTANTS = {  # what is wrong with the kernel of DK and DV: (source, replacement, whether values are, counts that differ)
    "queries before the diagonal": (
        "tl.range(tl.maximum(0, (m_tile * 64 + 0) // 64), P_TILES)", "tl.range(0, P_TILES)", False,
        {"bytes Q read", "bytes DAV read", "operations DA mac"},
    ),
    "no mask": ("A = tl.where(m[:, None] <= p[None, :], A, 0.0)", "A = A + 0.0", True, {"operations A add"}),
    "DELTA forgotten": ("DQK = A * (DA - DELTA[None, :])", "DQK = A * DA", True, {"operations DQK add"}),
    "gradients rounded too early": ("DK = tl.dot(DQK.to", "DQK = DQK.to(tl.float8e5); DK = tl.dot(DQK.to", True, set()),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fails(name):
    old, new, wrong, differ = MUTANTS[name]
    workload, mapping, machine = case("flash-attention-backward-causal")
    inputs, exact = oracle_case(workload, 7, None)
    delta, keys, queries = emit(workload, mapping)
    assert old in keys.source
    broken = (delta, replace(keys, source=keys.source.replace(old, new)), queries)
    outputs, counted = count(broken, inputs)
    error = max(relative_error(outputs[name], exact[name]) for name in workload.cascade.outputs)
    assert wrong == (error > TOLERANCE["bf16"])
    found = differences(cost(mapping, workload, machine), counted, plans(workload, mapping), "hbm")
    assert differ <= {line.split(":")[0] for line in found}


def test_keys_that_no_query_sees_are_refused_as_their_gradients_would_not_exist():
    workload, mapping, _ = case("flash-attention-backward-causal", {"P": 100, "M": 130})
    with pytest.raises(InputError, match=r"D[VK]: no kernel can be generated: a result without any point"):
        emit(workload, mapping)


def test_the_two_loops_of_attention_skip_the_same_tiles():
    """Causal: the loop over queries starts, and that over keys ends, at the diagonal; both run as many tiles."""
    workload, mapping, machine = case("flash-attention-backward-causal", {"P": 192, "M": 192})
    closed = cost(mapping, workload, machine)
    pairs = 2 * 6 * 64 * 64  # of 2 heads, 6 of 9 tiles
    for scores in ("QK", "QK2"):
        assert closed.value("operations", einsum=scores, detail="mac", boundary="issued") == pairs * 32
    for tensor, nbytes in (("K", 2), ("LSE", 4)):  # K: for its own block once, and for each tile of queries
        elements = {"K": 2 * (192 + 6 * 64) * 32, "LSE": 2 * (192 + 6 * 64)}[tensor]
        assert closed.total("bytes", tensor=tensor, place="hbm", boundary="issued") == elements * nbytes
