"""Partial holds, users, holds in place and in step, and running values: by hand and by enumeration."""

import itertools
import random

import pytest

from arch.read import load as load_machine
from einsum.bind import bind
from einsum.library import load as load_cascade
from einsum.parse import parse
from einsum.problems import InputError
from mapper.baselines import FlatChoice, flat, flat_choice, gemm_tiles
from mapper.check import check
from mapper.cost import cost
from mapper.library import bound, make
from mapper.mapping import Compute, Group, Hold, Loop, Mapping, Seq

PRODUCT = parse("cascade product\ntensor A[m,k]: bf16\ntensor B[n,k]: bf16\nZ[m,n] = A[m,k] * B[n,k]\n")
SIZES = {"B": 2, "H": 3, "E": 64, "F": 64, "M": 1024, "P": 512}


def product(tm, tk, part=1.0):
    """Z held in the buffer over a loop of m, accumulated over a loop of k; B held over k, a part of it."""
    grid = (Loop(("m",), (1,), over="array_2d.col"), Loop(("n",), (1,), over="array_2d.row"))
    leaf = Compute("Z", "pe_2d", loops=(Loop(("k",), (1,)), *grid))
    inner = Loop(("k",), (tk,), holds=(Hold("B", "buffer", part=part),), body=(Seq((leaf,)),))
    outer = Loop(("m",), (tm,), holds=(Hold("Z", "buffer"),), body=(inner,))
    return Mapping("product", "product", "flat", (Group("all", (outer,)),), dtypes=(("*", "bf16"),))


def costed(mapping, cascade, sizes, machine="flat"):
    device = load_machine(machine)
    workload = bound(mapping, cascade, sizes)
    check(mapping, workload, device)
    return cost(mapping, workload, device)


def test_partial_results_equal_enumeration():
    """What a loop around accumulates is written every time and read back every time but the first; each instance
    reads its running value for all operations but those that begin one."""
    draw = random.Random("partial results")
    for _ in range(12):
        m, n, k = draw.randint(1, 40), draw.randint(1, 20), draw.randint(1, 40)
        tm, tk = draw.choice([2, 4, 8]), draw.choice([1, 3, 8])
        result = costed(product(tm, tk), PRODUCT, {"M": m, "N": n, "K": k})
        written = back = running = 0
        seen = set()
        for first, start in itertools.product(range(0, m, tm), range(0, k, tk)):
            for i, j in itertools.product(range(first, min(m, first + tm)), range(n)):
                written, back = written + 1, back + ((i, j) in seen)
                for _ in range(start, min(k, start + tk)):
                    running += (i, j) in seen
                    seen.add((i, j))
        assert result.total("bytes", einsum="Z", tensor="Z", place="buffer", detail="write") == 2 * written
        assert result.total("bytes", einsum="Z", tensor="Z", place="buffer", detail="read") == 2 * back
        reads = result.total("accesses", einsum="Z", place="regs_2d", detail="read by operations")
        assert reads == 2 * m * n * k + running


def test_a_partial_hold_spills_to_the_next_memory_out():
    """Three quarters are brought in; of every access a quarter is one of the next memory out too."""
    sizes = {"M": 16, "N": 8, "K": 32}
    whole, part = costed(product(4, 8), PRODUCT, sizes), costed(product(4, 8, part=0.75), PRODUCT, sizes)
    at = {"tensor": "B", "place": "dram", "detail": "read"}
    brought, used = whole.total("bytes", **at), whole.total("bytes", tensor="B", place="buffer", detail="read")
    assert part.total("bytes", einsum="", **at) == 0.75 * brought
    assert part.total("bytes", einsum="Z", **at) == 0.25 * used
    assert part.total("bytes", tensor="B", place="buffer", detail="read") == used
    footprints = [r.total("footprint", tensor="B") for r in (whole, part)]
    assert footprints[1] == 0.75 * footprints[0]


def test_users_of_a_hold():
    """+Cascade: the scores pass through the lanes' registers to the buffer, where only SLN looks for them."""
    mapping, workload = make("fusemax-cascade", load_cascade("attention-1pass"), load_machine("flat"), SIZES)
    result = cost(mapping, workload, load_machine("flat"))
    tiles = result.value("tiles")
    rows = lambda **key: result.total("accesses", place="buffer", **key) / tiles
    assert rows(tensor="BQK", detail="write") == rows(tensor="BQK", detail="read") == 256
    assert rows(einsum="SLN", tensor="BQK") == 256
    assert rows(einsum="LM") == rows(einsum="SLD") == 0
    assert rows(einsum="SLNV", tensor="SLN", detail="read") == 256
    assert result.total("footprint", tensor="BQK", place="regs_1d") == 2


@pytest.mark.parametrize("resident", [("QK", "A"), ("Q", "AV")])
def test_flat_tile_by_hand(resident):
    """Bytes of one tile of 256 rows: scores on chip, or out and back a row at a time."""
    choice = FlatChoice(256, resident)
    result = costed(flat(load_cascade("attention-3pass"), load_machine("flat"), SIZES, choice),
                    load_cascade("attention-3pass"), SIZES)  # fmt: skip
    tiles, m, p, e, f = 2 * 3 * 2, 1024, 256, 64, 64
    assert result.value("tiles") == tiles
    dram = lambda tensor: result.total("bytes", tensor=tensor, place="dram") / tiles / 2
    on_chip = "QK" in resident
    assert dram("Q") == p * e * (1 if "Q" in resident else m // 256)
    assert [dram("K"), dram("V"), dram("AV")] == [m * e, m * f, p * f]
    assert [dram("QK"), dram("A")] == ([0, 0] if on_chip else [2 * p * m] * 2)
    footprint = lambda tensor: result.total("footprint", tensor=tensor, place="buffer")
    assert footprint("QK") == (2 * p * m if on_chip else 4 * 2 * m)
    assert footprint("A") == 0
    assert footprint("SN") == (0 if on_chip else 2 * m)
    assert result.total("footprint", tensor="SN", place="regs_1d") == 2


def test_flat_chooses_rows_that_fit():
    """Sixteen Mi words hold 256 rows of 64 Ki keys and no operands: a little is spilled."""
    machine = load_machine("flat")
    assert flat_choice(machine, SIZES).rows == 512
    choice = flat_choice(machine, SIZES | {"M": 2**16, "P": 2**16})
    assert (choice.rows, choice.part) == (256, pytest.approx(2**24 / (2**24 + 4 * 256 * 128)))


def test_a_unit_beside_another_takes_its_classes_at_once():
    """The subtraction occupies the lane, the exponential the unit behind it; operands are read once."""
    mapping, workload = make("flat", load_cascade("attention-3pass"), load_machine("flat"), SIZES)
    result = cost(mapping, workload, load_machine("flat"))
    busy = {row.place: row.value for row in result.select("busy", einsum="SN")}
    assert busy["pe_1d"] == busy["exp_1d"] == result.total("busy", einsum="A", place="pe_1d")
    points = 2 * 3 * 1024 * 512
    assert result.total("accesses", einsum="SN", detail="read by operations") == 2 * points


def test_utilization_counts_idle_instances():
    """A product of 64 features keeps a quarter of the columns busy: its time is longer, its utilization is not."""
    sizes = {"B": 1, "H": 1, "E": 64, "F": 64, "M": 1024, "P": 1024}
    cascade, machine = load_cascade("attention-3pass"), load_machine("flat")
    for stationary in (("output", "output"), ("weight", "weight")):
        result = costed(flat(cascade, machine, sizes, FlatChoice(1024, stationary=stationary)), cascade, sizes)
        macs = 1024 * 1024 * 128
        assert result.value("utilization", place="pe_2d") == pytest.approx(macs / 65536 / 940e6 / result.latency_s)


@pytest.mark.parametrize("sizes", [(512, 768, 64), (1024, 256, 128), (2048, 1024, 512)])
def test_gemm_tiles_equal_search(sizes):
    """The least traffic of all tiles that fit, by trying each."""
    m, n, k = sizes
    words = k * 1280
    fits = [
        (a, b) for a in range(256, m + 1, 256) for b in range(256, n + 1, 256) if m % a == n % b == 0 and a + b <= 1280
    ]
    traffic = lambda a, b: m * k + k * n * (m // a if b < n else 1)
    assert traffic(*gemm_tiles(m, n, k, 256, words)) == min(traffic(a, b) for a, b in fits)


def test_linear_layers_read_what_the_tiles_say():
    """One product by hand: the first operand once, the second once a tile of rows, as it does not fit."""
    cascade, sizes = load_cascade("transformer-linear"), {"T": 65536, "D": 2048, "I": 2048, "S": 8192}
    mapping, _ = make("linear", cascade, load_machine("fusemax"), sizes)
    result = costed(mapping, cascade, sizes, "fusemax")
    mt, nt = gemm_tiles(65536, 2048, 8192, 256, 2**23)
    assert nt < 2048
    assert result.total("bytes", tensor="G", place="dram") == 2 * 65536 * 8192
    assert result.total("bytes", tensor="W2", place="dram") == 2 * 2048 * 8192 * 65536 / mt
    assert result.total("bytes", tensor="FFN2", place="dram") == 2 * 65536 * 2048


def test_mistakes_in_holds_are_reported():
    cascade, machine = load_cascade("attention-3pass"), load_machine("flat")
    wrong = (Hold("QK", "buffer", users=("AV",)), Hold("A", "buffer", inplace="SN"))
    leaves = tuple(Compute(n, "pe_2d" if n in ("QK", "AV") else "pe_1d") for n in ("QK", "GM", "SN", "SD", "A", "AV"))
    mapping = Mapping(
        "wrong", cascade.name, "flat", (Group("g", (Loop(("b",), (1,), holds=wrong, body=(Seq(leaves),)),)),)
    )
    with pytest.raises(InputError) as found:
        check(mapping, bind(cascade, SIZES), machine)
    assert "AV is no user of QK" in str(found.value)
    assert "no hold of this loop keeps SN, whose buffers A takes over" in str(found.value)
