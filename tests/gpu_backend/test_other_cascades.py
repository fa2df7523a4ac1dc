"""Generation follows the cascade: other layouts, constants, and kernels that are not attention."""

import math
from dataclasses import replace

import pytest
from flash import MACHINE, build

from einsum.bind import bind
from einsum.library import load as load_cascade
from einsum.parse import parse
from einsum.show import show
from gpu_backend.check import TOLERANCE, oracle_case, relative_error
from gpu_backend.compare import differences
from gpu_backend.count import count
from gpu_backend.emit import emit
from gpu_backend.limits import plans
from gpu_backend.static import compiled
from mapper.check import check as check_mapping
from mapper.cost import cost
from mapper.mapping import Compute, Group, Hold, Loop, Mapping, Seq


def verify(workload, mapping, output):
    """The source, after values and counts are found right."""
    check_mapping(mapping, workload, MACHINE)
    (kernel,) = emit(workload, mapping)
    inputs, exact = oracle_case(workload, seed=6)
    outputs, counted = count((kernel,), inputs)
    assert relative_error(outputs[output], exact[output]) <= TOLERANCE[workload.dtypes[output]]
    assert differences(cost(mapping, workload, MACHINE), counted, plans(workload, mapping), "hbm") == ()
    return kernel.source


def rewritten(name, *changes):
    """A library cascade's workload and mapping after replacements in its text."""
    workload, mapping = build(name, "fp16", {"P": 100, "M": 130})
    text = show(load_cascade(name))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    sizes = {k: v for k, v in workload.sizes.items() if k in workload.cascade.free_sizes}
    return bind(parse(text), sizes, dict(mapping.dtypes)), mapping


def test_other_storage_orders_are_transposed_on_the_way():
    changes = [("K[b,h,m,e]", "K[h,e,b,m]"), ("K[b,h,m1*M0+m0,e]", "K[h,e,b,m1*M0+m0]"),
               ("V[b,h,m,f]", "V[b,f,h,m]"), ("V[b,h,m1*M0+m0,f]", "V[b,f,h,m1*M0+m0]"),
               ("AV[b,h,p,f]", "AV[f,h,b,p]")]  # fmt: skip
    source = verify(*rewritten("attention-1pass", *changes), "AV")
    assert "tl.dot(Q, BK)" in source and "tl.trans(BV)" in source and "tl.trans(AV)" in source


def test_logits_with_ranks_in_another_order_give_the_same_kernel():
    changes = [("BQK[b,h,m1,m0,p]", "BQK[b,p,m0,m1,h]"), ("SLN[b,h,m1,m0,p]", "SLN[m0,p,b,h,m1]")]
    plain, reordered = (emit(*rewritten("attention-1pass-causal", *c))[0].source for c in ([], changes))
    assert [x for x in plain.splitlines() if "#" not in x] == [x for x in reordered.splitlines() if "#" not in x]


def test_a_constant_factor_of_the_logits_is_folded_with_log2_e():
    scaled = ("Q[b,h,p,e] * BK[b,h,m1,m0,e]", "Q[b,h,p,e] * BK[b,h,m1,m0,e] * 0.125")
    source = emit(*rewritten("attention-1pass", scaled))[0].source
    assert f"tl.dot(Q, tl.trans(BK)) * {0.125 * math.log2(math.e)!r}\n" in source


def grid_mapping(cascade, units, hold, inner=None):
    """Blocks of 16 along p for each program; the Einsums of `inner` (rank, names) in a tile loop, the rest after it."""
    leaf = {name: Compute(name, unit) for name, unit in units.items()}
    loops = (Loop((inner[0],), (16,), body=(Seq(tuple(leaf[n] for n in inner[1])),)),) if inner else ()
    rest = tuple(leaf[n] for n in units if not inner or n not in inner[1])
    held = tuple(Hold(t, m) for t, m in hold.items())
    grid = Loop(("p",), (16,), over="sm.sm", holds=held, body=(*loops, *((Seq(rest),) if rest else ())))
    return Mapping("by-hand", cascade.name, "h100", (Group("g", (grid,)),))


SOFTMAX = """cascade softmax
tensor X[p,m]
GM[p] = max[m] X[p,m]
SN[p,m] = exp(X[p,m] - GM[p])
SD[p] = SN[p,m]
A[p,m] = SN[p,m] / SD[p]
"""


def test_softmax_of_whole_rows_without_a_tile_loop():
    cascade = parse(SOFTMAX)
    units = {"GM": "fma", "SN": "fma+mufu", "SD": "fma", "A": "mufu"}
    mapping = grid_mapping(cascade, units, {"X": "smem", "GM": "registers", "SN": "registers", "SD": "registers"})
    source = verify(bind(cascade, {"P": 40, "M": 32}), mapping, "A")
    assert "for " not in source and "tl.exp2((X - GM[:, None]) * 1.44" in source  # X is an input: nothing to fold into


def test_an_element_wise_cascade_in_a_tile_loop_with_both_ranks_cut_off():
    cascade = parse("cascade c\ntensor X[p,m]\ntensor W[m]\nY[p,m] = max(X[p,m] * W[m], 0) - W[m]\n")
    mapping = grid_mapping(cascade, {"Y": "fma"}, {}, ("m", ("Y",)))
    loop = mapping.groups[0].body[0].body[0]
    held = replace(loop, holds=(Hold("X", "smem"), Hold("W", "smem")))
    grid = replace(mapping.groups[0].body[0], body=(held,))
    mapping = replace(mapping, groups=(Group("g", (grid,)),))
    workload = bind(cascade, {"P": 40, "M": 72})
    source = verify(workload, mapping, "Y")
    assert "for m_tile in tl.range(0, M_TILES):" in source


@pytest.mark.parametrize("causal", ["", "-causal"])
def test_transposed_layouts_compile(causal):
    changes = [("K[b,h,m,e]", "K[b,h,e,m]"), ("K[b,h,m1*M0+m0,e]", "K[b,h,e,m1*M0+m0]")]
    assert "wgmma" in compiled(*emit(*rewritten(f"attention-1pass{causal}", *changes))).asm["ptx"]
