"""Roofline and memory fit of a workload on a machine, against figures worked out by hand. SEMANTICS 2.2."""

import json
from dataclasses import replace

import pytest

from arch.machine import Machine, Memory, OpCost, Unit
from arch.read import load as load_machine
from einsum.analysis import analyse
from einsum.bind import bind
from einsum.library import load
from einsum.parse import parse
from einsum.problems import InputError
from studies.analyse import compute_seconds, footprint, judge, roofline

SIZES = {"B": 2, "H": 4, "P": 16, "M": 64, "E": 8, "F": 8, "M0": 16}


def machine(*units: Unit, capacity: float | None = None, **ports: float) -> Machine:
    ports = {"read_bytes_per_s": 1e9, "write_bytes_per_s": 1e9} | ports
    return Machine("m", 1e9, Memory("dram", units, capacity, **ports))


def unit(name: str, lanes: float = 1, **cycles: float) -> Unit:
    return Unit(name, 1e9, {c: OpCost(n, 0.0) for c, n in cycles.items()}, lanes)


def bound(name: str):
    cascade = load(name)
    return bind(cascade, {size: SIZES[size] for size in cascade.free_sizes})


def test_work_is_spread_over_units_as_well_as_can_be():
    """2000 mac on a or b, 1000 exp on b only: b does the exp, and both the mac, until they end together."""
    both = machine(unit("a", mac=1), unit("b", mac=1, exp=1))
    assert compute_seconds({"mac": 2000, "exp": 1000}, both) == pytest.approx(1500e-9, rel=1e-9)
    assert compute_seconds({"mac": 200, "exp": 1000}, both) == pytest.approx(1000e-9, rel=1e-9)
    assert compute_seconds({"mac": 2000}, machine(unit("a", lanes=4, mac=2))) == pytest.approx(1000e-9, rel=1e-9)
    assert compute_seconds({}, both) == 0


def test_an_operation_without_hardware_is_expanded():
    expanding = replace(unit("a", mac=1), expands={"exp": {"mac": 6}})
    assert compute_seconds({"mac": 100, "exp": 100}, machine(expanding)) == pytest.approx(700e-9, rel=1e-9)


def test_an_operation_that_no_unit_executes_is_the_users_mistake():
    with pytest.raises(InputError, match="m: no unit executes operation class exp"):
        compute_seconds({"exp": 1}, machine(unit("a", mac=1)))


def test_roofline_of_a_matrix_product():
    text = "tensor A[m,k]: bf16\ntensor B[k,n]: bf16\ntensor C[m,n]: bf16\nC[m,n] = A[m,k] * B[k,n]"
    analysis = analyse(bind(parse(text), {"M": 10, "N": 20, "K": 30}))
    line = roofline(analysis, machine(unit("a", mac=1)))
    assert line.compute_s == pytest.approx(6000e-9, rel=1e-9)
    assert line.memory_s == pytest.approx((300 + 600 + 200) * 2 / 1e9, rel=1e-9)
    assert (line.bound, line.seconds) == ("compute", line.compute_s)
    assert line.flops_per_s == pytest.approx(2e9, rel=1e-9)
    assert line.ridge == pytest.approx(2.0, rel=1e-9)
    apart = roofline(analysis, machine(unit("a", lanes=100, mac=1), shared_port=False))
    assert apart.bound == "memory" and apart.memory_s == pytest.approx(1.1e-6, rel=1e-9)


def test_footprint_by_kind():
    text = """
tensor X[b,p,d]: bf16
tensor WQ[d,e]: bf16
tensor K[b,m,e]: bf16
tensor POOL[n,s]: int8
tensor PT[b,j]: int32
Q[b,p,e] = X[b,p,d] * WQ[d,e]
S[b,p,m] = Q[b,p,e] * K[b,m,e]
T[b,p] = S[b,p,m] * POOL[PT[b,m//4],m%4]
"""
    workload = bind(parse(text), {"B": 2, "P": 3, "D": 5, "E": 7, "M": 8, "N": 6, "S": 4, "J": 2})
    found = footprint(workload, analyse(workload))
    assert found.weights == 5 * 7 * 2
    assert found.kv == 2 * 8 * 7 * 2 + 6 * 4 * 1 + 2 * 2 * 4
    assert found.inputs_outputs == 2 * 3 * 5 * 2 + 2 * 3 * 4
    assert found.unfused == (2 * 3 * 7 + 2 * 3 * 8) * 4  # Q until S is written
    assert found.fused == 0


def test_what_does_not_fit_unfused_fits_fused():
    """3-pass attention keeps B*H*P*M scores; 1-pass attention keeps a row's state."""
    three, one = bound("attention-3pass"), bound("attention-1pass")
    inputs = (16 * 8 + 64 * 8 + 64 * 8 + 16 * 8) * 8 * 2
    assert footprint(three, analyse(three)).fused == 2 * 8 * 16 * 64 * 4
    assert footprint(one, analyse(one)).fused == 8 * 16 * (1 + 1 + 8) * 4
    small = machine(unit("a", mac=1, exp=1, max=1, add=1, div=1, mul=1), capacity=inputs + 8 * 16 * 10 * 4)
    verdicts = {w.cascade.name: judge(w, analyse(w), small) for w in (three, one)}
    fits = {name: [(f.what, f.fits) for f in v.fits] for name, v in verdicts.items()}
    assert fits["attention-3pass"] == [("all, unfused", False), ("all, fused", False)]
    assert fits["attention-1pass"] == [("all, unfused", False), ("all, fused", True)]


@pytest.mark.parametrize("name", ["h100", "fusemax"])
def test_verdict_on_shipped_machines_prints_and_is_plain_data(name):
    workload = bound("attention-1pass")
    verdict = judge(workload, analyse(workload), load_machine(name))
    data = json.loads(json.dumps(verdict.as_dict(), allow_nan=False))
    assert data["roofline"]["seconds"] == max(data["roofline"]["compute_s"], data["roofline"]["memory_s"]) > 0
    assert all(fit["fits"] for fit in data["fits"])
    assert str(verdict).startswith(f"roofline on {name}: ")
