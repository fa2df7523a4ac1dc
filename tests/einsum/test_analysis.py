"""The analysis equals what an interpreter of single points counts: points, operations, elements. SEMANTICS 2.1."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from test_scalar_interpreter import SMALL, UNION, Interpreter

from einsum.analysis import analyse, walked_ranks
from einsum.bind import bind
from einsum.cascade import Access, Apply, walk
from einsum.library import library, load
from einsum.ops import OPS, is_view, operation_classes
from einsum.oracle import random_inputs
from einsum.parse import parse
from einsum.passes import passes
from einsum.random_cascade import random_cascade
from einsum.show import show

SIZES = {"B": 2, "H": 2, "P": 7, "M": 10, "E": 4, "F": 3, "M0": 4, "M2": 2}


NAMES = [stem + end for stem in ("attention-3pass", "attention-2pass", "attention-1pass") for end in ("", "-causal")]


class Counting(Interpreter):
    """Walks every point of every Einsum, and follows every value back to the elements that it came from."""

    def points(self, einsum):
        ranks = [range(self.workload.extent(rank)) for rank in einsum.ranks]
        for at in product(*ranks):
            point = dict(zip(einsum.ranks, at, strict=True))
            if all(self.holds(guard, point) for guard in einsum.guards) and self.computed(einsum, point):
                yield point

    def computed(self, einsum, point):
        """A state that nothing is added to is carried along, not computed."""
        expr = einsum.expr
        if einsum.iterative and isinstance(expr, Apply) and expr.op in UNION:
            cascade = self.workload.cascade
            states = [isinstance(a, Access) and a.tensor in cascade and cascade[a.tensor].iterative for a in expr.args]
            if sum(map(bool, states)) == 1:
                expr = einsum.expr.args[1 if states[0] else 0]
        return self.value(expr, point) is not None

    def operations(self):
        counts = Counter()
        for einsum in self.workload.cascade.einsums:
            points = sum(1 for _ in self.points(einsum))
            counts.update({c: n * points for c, n in operation_classes(einsum).items() if n * points})
        return counts

    def elements(self):
        """Input -> coordinates that some point needs of an Einsum that is no view, or a view that nobody reads."""
        read = {name: set() for name in self.workload.cascade.inputs}
        for einsum in self.workload.cascade.einsums:
            if not is_view(einsum) or einsum.name in self.workload.cascade.outputs:
                for point in self.points(einsum):
                    self.follow(einsum.expr, point, read)
        return read

    def follow(self, expr, point, read):
        if isinstance(expr, Apply):
            for arg in expr.args:
                self.follow(arg, point, read)
        elif isinstance(expr, Access) and self.value(expr, point) is not None:
            at = tuple(int(self.value(index, point)) for index in expr.indices)
            if expr.tensor in read:
                read[expr.tensor].add(at)
            elif is_view(view := self.workload.cascade[expr.tensor]):
                self.follow(view.expr, dict(zip(view.output_ranks, at, strict=True)), read)


def compare(workload, seed):
    """Assert equality where the analysis has no doubt and a bound elsewhere; how many of each."""
    counting = Counting(workload, random_inputs(workload, seed))
    analysis = analyse(workload)
    cascade = workload.cascade
    outcomes = Counter()
    with np.errstate(all="ignore"):
        for work in analysis.einsums:
            expected = sum(1 for _ in counting.points(cascade[work.name]))
            outcomes["exact" if not work.doubt else "bound"] += 1
            assert work.points == expected if not work.doubt else work.points >= expected, (work, expected)
        if not any(work.doubt for work in analysis.einsums):
            outcomes["operations"] += 1
            assert {c: n for c, n in analysis.operations.items() if n} == counting.operations()
        elements = counting.elements()
        guards = [side for e in cascade.einsums for g in e.guards for side in (g.left, g.right)]
        guarding = {node.tensor for side in guards for node in walk(side) if isinstance(node, Access)}
        for use in analysis.tensors:
            if use.role == "input" and workload.dtypes[use.name] not in ("int32", "bool") and use.name not in guarding:
                expected = len(elements[use.name])
            elif use.role == "output" and not cascade[use.name].iterative:
                shape = [range(workload.extent(rank)) for rank in cascade[use.name].output_ranks]
                expected = sum(counting.point(use.name, at) is not None for at in product(*shape))
            else:
                continue
            outcomes["exact tensor" if not use.doubt else "bounded tensor"] += 1
            assert use.elements == expected if not use.doubt else use.elements >= expected, (use, expected)
            assert use.bytes == use.elements * workload.bits(use.name) / 8
    return outcomes


@pytest.mark.parametrize("batch", range(4))
def test_random_cascades(batch):
    outcomes = Counter()
    for seed in range(50 * batch, 50 * batch + 50):
        cascade = random_cascade(seed)
        sizes = SMALL if seed % 3 else {"I": 2, "J": 4, "K": 3, "W": 1, "T0": 3}
        workload = bind(cascade, {name: sizes[name] for name in cascade.free_sizes})
        try:
            outcomes += compare(workload, seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}\n{show(cascade)}") from error
    assert min(outcomes.values()) > 1 and len(outcomes) == 5
    assert outcomes["exact"] > outcomes["bound"] / 2


@pytest.mark.parametrize("name", NAMES)
def test_attention(name):
    cascade = load(name)
    workload = bind(cascade, {size: SIZES[size] for size in cascade.free_sizes})
    assert compare(workload, 1)["exact"] >= 1


SPARSE = {"B": 1, "H": 2, "P": 2, "M": 6, "E": 2, "F": 2, "M0": 2, "N": 2, "L": 2, "G": 1, "C": 2, "W": 1, "R": 1,
          "D": 2}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in library() if name.startswith("sparse-")])
def test_sparse_attention(name):
    """What is chosen by data is bounded by how much is kept: no less than what happens."""
    cascade = load(name)
    workload = bind(cascade, {size: SPARSE[size] for size in cascade.free_sizes})
    assert sum(compare(workload, 1).values()) >= len(workload.cascade.outputs) + 6


def test_a_coordinate_set_by_data_counts_once():
    """Either side of the guard; two ranks set by each other count once for all points of one of them."""
    head = "tensor X[i,j]\ntensor N[i]: int32\ntensor O[j]: int32\n"
    text = "A[i,j] | N[i] == j = X[i,j]\nB[i,j] | j+1 == N[i] = X[i,j]\nC[i,j] | i == O[j] and j == N[i] = X[i,j]\n"
    outcomes = Counter()
    for seed in range(20):
        workload = bind(parse(head + text), {"I": 3, "J": 4})
        outcomes += compare(workload, seed)
        assert [work.points for work in analyse(workload).einsums] == [3, 3, 4]
    assert outcomes["bound"] == 60


def test_a_gather_touches_no_more_elements_than_it_has_points():
    text = "tensor K[m,e]\ntensor AT[n]: int32\ntensor Q[e]\nG[n,e] = K[AT[n],e]\nY[n] = Q[e] * G[n,e]\n"
    for direct in (text, text.replace("G[n,e] = K[AT[n],e]\n", "").replace("G[n,e]", "K[AT[n],e]")):
        workload = bind(parse(direct), {"M": 9, "N": 2, "E": 3})
        used = {use.name: (use.elements, bool(use.doubt)) for use in analyse(workload).tensors}
        assert used["K"] == (6, True) and used["Q"] == (3, True)
        compare(workload, 3)


GUARDS = {
    "window": "p - m < 3 and m <= p",
    "queries at the end": "m + P <= p + M",
    "never": "m + 2 < M - M",
    "equal": "m == p",
}


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("p", [1, 5, 9])
def test_guarded_attention_touches_only_the_keys_it_needs(guard, p):
    text = show(load("attention-3pass")).replace("QK[b,h,p,m] =", f"QK[b,h,p,m] | {GUARDS[guard]} =")
    workload = bind(parse(text), {"B": 1, "H": 1, "P": p, "M": 6, "E": 2, "F": 2})
    compare(workload, 1)
    used = {use.name: use.elements for use in analyse(workload).tensors if not use.doubt}
    if guard == "queries at the end" and p == 1:
        assert used["K"] == 12
    if guard == "window" and p == 1:
        assert used["K"] == used["Q"] == 2


def test_keys_read_through_a_partition():
    text = "tensor K[m]\nsize M1 = ceil(M / M0)\nBK[m1,m0] = K[m1*M0+m0]\nS[m1] | m0 < 2 = BK[m1,m0]\n"
    (key, total) = analyse(bind(parse(text), {"M": 10, "M0": 4})).tensors
    assert (key.name, key.elements, key.doubt) == ("K", 6, "")
    assert (total.role, total.elements) == ("output", 3)


def test_tensors_put_side_by_side():
    """A union of two that exist on either side of C exists everywhere; the halves of K are read in parts."""
    text = (
        "tensor A[i]\ntensor K[e]\nC[i,e] | e < 3 = A[i] * K[e]\nD[i,e] | e >= 3 = A[i] + K[e]\n"
        "Y[i,e] = C[i,e] + D[i,e]\n"
    )
    workload = bind(parse(text), {"I": 2, "E": 5})
    compare(workload, 1)
    assert {e.name: (e.points, e.doubt) for e in analyse(workload).einsums} == {
        "C": (6, ""),
        "D": (4, ""),
        "Y": (10, ""),
    }
    apart = parse(text.replace("e >= 3", "e >= 4"))
    assert [e.doubt for e in analyse(bind(apart, {"I": 2, "E": 5})).einsums][2].startswith("operands of a union")


def test_rows_of_a_table_at_the_end_of_it():
    text = (
        "tensor X[p]\ntensor COS[m]\ntensor SIN[m]\nY[p] = X[p] * COS[M-P+p] + X[p] * SIN[2]\nZ[p] = X[p] / COS[M-P+p]"
    )
    workload = bind(parse(text), {"P": 2, "M": 9})
    compare(workload, 1)
    uses = {use.name: (use.elements, use.doubt) for use in analyse(workload).tensors}
    assert uses["COS"] == (2, "") and uses["SIN"] == (1, "") and uses["X"] == (2, "")


def test_flops_and_intensity_of_a_matrix_product():
    workload = bind(
        parse("tensor A[m,k]: bf16\ntensor B[k,n]: bf16\nC[m,n] = A[m,k] * B[k,n]"), {"M": 4, "N": 6, "K": 8}
    )
    analysis = analyse(workload)
    assert analysis.operations == {"mac": 192}
    assert analysis.flops == 384
    assert analysis.compulsory_bytes == (32 + 48) * 2 + 24 * 4
    assert analysis.intensity == 384 / 256


def test_report_of_three_pass_attention():
    workload = bind(load("attention-3pass"), {"B": 1, "H": 2, "P": 8, "M": 16, "E": 4, "F": 4})
    assert (
        str(analyse(workload))
        == """\
attention-3pass: B=1, E=4, F=4, H=2, M=16, P=8
operations: add 512, div 256, exp 256, mac 2048, max 256
flops: 5376; compulsory bytes: 768; flops per byte: 7

einsum  points  operations
QK      1024    mac 1024
GM      256     max 256
SN      256     add 256, exp 256
SD      256     add 256
A       256     div 256
AV      1024    mac 1024

tensor  role    elements  bytes
Q       input   64        128
K       input   128       256
V       input   128       256
AV      output  64        128

rank e: 1 pass (Q 1, K 1)
  pass 1: QK, GM, SN, SD, A, AV

rank m: 3 passes (K 3, V 1)
  pass 1: QK, GM
  pass 2: SN, SD
  pass 3: A, AV

live tensor  while walking  why             grows with  size     bytes
QK           m              between passes  M           B*H*P*M  1024
SN           m              between passes  M           B*H*P*M  1024
"""
    )


def test_what_one_pass_attention_keeps_does_not_grow_with_the_keys():
    for m in (16, 1024):
        workload = bind(load("attention-1pass"), {"B": 1, "H": 2, "P": 8, "M": m, "E": 4, "F": 4, "M0": 8})
        analysis = analyse(workload)
        assert [(x.tensor, x.why, x.growth, x.size, x.elements) for x in analysis.live] == [
            ("RM", "state", "1", "B*H*P", 16),
            ("RD", "state", "1", "B*H*P", 16),
            ("RNV", "state", "1", "B*H*P*F", 64),
        ]


def test_walked_ranks_are_the_outermost_parts():
    assert walked_ranks(load("attention-1pass")) == ("e", "m1")
    assert walked_ranks(load("attention-3pass")) == ("e", "m")


def test_every_operation_has_a_class():
    assert all(row.op_class for row in OPS.values())
    assert all(isinstance(node.op, str) for node in walk(load("attention-3pass")["A"].expr) if isinstance(node, Apply))


def test_passes_through_views_of_what_is_computed():
    """A view in between changes no level, whether it names a state or a map."""
    head = "tensor X[k,i]\nS[k+1,i] = S[k,i] + X[k,i] init 0\nG[k] = max[i] X[k,i]\nE[k,i] = X[k,i] - G[k]\n"
    direct = parse(head + "Y[k] = E[k,i] * S[k,i]\n")
    viewed = parse(head + "V[i,k] = E[k,i]\nW[k,i] = S[k,i]\nY[k] = V[i,k] * W[k,i]\n")
    for rank in ("i", "k"):
        one, other = passes(direct, rank), passes(viewed, rank)
        assert (one.levels, one.inputs, one.count) == (other.levels, other.inputs, other.count)
    assert passes(viewed, "i").count == 2


def test_a_gather_or_a_distance_is_no_partition():
    assert walked_ranks(load("attention-3pass-paged")) == ("e", "m")
    assert walked_ranks(load("attention-1pass-relative")) == ("e", "m1")
    assert passes(load("attention-3pass-relative"), "m").fiber == ("m",)
    blocks = parse("tensor K[m]\ntensor Q[i]\ntensor AT[n]: int32\nY[n] = Q[i] * K[AT[n]*I+i]")
    assert passes(blocks, "i").fiber == ("i",)
