"""Every rewrite keeps what the oracle computes, and refuses where it does not apply. SEMANTICS 2.3 to 2.6."""

import numpy as np
import pytest

from einsum.bind import bind
from einsum.check import check
from einsum.library import load
from einsum.ops import is_view
from einsum.oracle import random_inputs, run_with_masks
from einsum.parse import parse
from einsum.passes import passes
from einsum.problems import InputError
from einsum.random_cascade import random_cascade
from einsum.rewrites.accept import random_sizes, same_values, stable
from einsum.rewrites.defer import defer
from einsum.rewrites.laws import LAWS, STABLE
from einsum.rewrites.online import online, split
from einsum.rewrites.partition import partition
from einsum.rewrites.shift import shift
from einsum.rewrites.tidy import common_subexpressions, dead_code, merge, rename
from einsum.show import show

NAMED = {
    "partition": lambda c: [lambda rank=rank: partition(c, rank) for rank in c.ranks],
    "common sub-expressions": lambda c: [lambda: common_subexpressions(c)],
    "dead code": lambda c: [lambda: dead_code(c, c.outputs[:1])],
    "merge": lambda c: [lambda name=e.name: merge(c, name) for e in c.einsums],
    "rename": lambda c: [lambda: rename(c, {e.name: f"{e.name}_NEW" for e in c.einsums if e.name not in c.outputs})],
    "defer": lambda c: [lambda name=e.name: defer(c, name) for e in c.einsums],
}


def equal(before, after, seed):
    """Same existence, and same values where they are finite."""
    for sizes in random_sizes((before, after), seed, 2):
        first, second = (bind(c, {n: sizes[n] for n in c.free_sizes}) for c in (before, after))
        inputs = random_inputs(first, seed, 0.5)
        here = run_with_masks(first, inputs)
        there = run_with_masks(second, {n: inputs[n] for n in after.inputs})
        for name in (n for n in before.outputs if n in after.tensor):
            np.testing.assert_array_equal(here[name].exists, there[name].exists, err_msg=name)
            finite = np.isfinite(here[name].value) & (np.abs(here[name].value) < 1e12)
            np.testing.assert_allclose(
                there[name].value[finite], here[name].value[finite], rtol=1e-6, atol=1e-9, err_msg=name
            )


@pytest.mark.parametrize("name", NAMED)
def test_random_cascades_keep_their_values(name):
    applied = 0
    with np.errstate(all="ignore"):
        for seed in range(120):
            cascade = random_cascade(seed)
            for rewrite in NAMED[name](cascade):
                try:
                    after = rewrite()
                except InputError:
                    continue
                applied += 1
                assert check(after) == []
                assert parse(show(after)) == after
                try:
                    equal(cascade, after, seed)
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}\n{show(cascade)}\n{show(after)}") from error
    assert applied > 10


ROWS = {  # statistics of rows X[t,d], each as text
    "log-sum-exp": "G[t] = max[d] Z[t,d]\nS[t,d] = exp(Z[t,d] - G[t])\nDS[t] = S[t,d]\nY[t] = log(DS[t]) + G[t]",
    "naive log-sum-exp": "S[t,d] = exp(Z[t,d])\nDS[t] = S[t,d]\nY[t] = log(DS[t])",
    "weighted softmax": "G[t] = max[d] Z[t,d]\nS[t,d] = exp(Z[t,d] - G[t])\nDS[t] = S[t,d]\n"
    "N[t] = S[t,d] * -abs(W[d]) / 3\nY[t] = N[t] / DS[t]",
    "variance": "N[t] = eq(Z[t,d], Z[t,d])\nSX[t] = Z[t,d]\nMU[t] = SX[t] / N[t]\nC[t,d] = Z[t,d] - MU[t]\n"
    "SS[t] = C[t,d] * C[t,d]\nY[t] = SS[t] / N[t]",
    "largest deviation": "SX[t] = Z[t,d]\nMU[t] = SX[t] / D\nY[t] = max[d] Z[t,d] - MU[t]",
    "powers of two": "G[t] = max[d] Z[t,d]\nS[t,d] = exp2(Z[t,d] - G[t])\nY[t] = W[d] * S[t,d]",
}
MASKS = {"all": "", "causal": "| d <= t", "lengths": "| d < LEN[t]", "mask": "| MASK[t,d]"}
DECLARED = {"lengths": "tensor LEN[t]: int32\n", "mask": "tensor MASK[t,d]: bool\n"}


def rows(name, mask):
    weights = "tensor W[d]\n" if "W[" in ROWS[name] else ""
    head = f"tensor X[t,d]\n{weights}{DECLARED.get(mask, '')}"
    return parse(f"{head}Z[t,d] {MASKS[mask]} = X[t,d] * 0.5\n{ROWS[name]}")


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ROWS)
def test_one_pass_over_rows(name, mask):
    """Masked rows, rows without anything, ragged tiles: online and split compute the same, in one pass."""
    cascade = rows(name, mask)
    tiled = partition(shift(cascade, "S", "d") if "naive" in name else cascade, "d")
    for rewrite in (online, split):
        after = rewrite(tiled, "d")
        verdict = same_values(cascade, after, shapes=12)
        assert verdict, (verdict, show(after))
        assert passes(after, "d1").count == 1 < passes(tiled, "d1").count
        assert stable(after)
    assert not passes(online(tiled, "d"), "d1").live


def test_a_mean_over_the_wrong_count_is_refused_by_the_oracle():
    """With a mask the mean is not SX / D, and squares do not move with what is not the mean."""
    text = "SX[t] = Z[t,d]\nMU[t] = SX[t] / D\nC[t,d] = Z[t,d] - MU[t]\nY[t] = C[t,d] * C[t,d]"
    outcomes = []
    for mask in ("", "| MASK[t,d]"):
        head = "tensor X[t,d]\n" + ("tensor MASK[t,d]: bool\n" if mask else "")
        cascade = parse(f"{head}Z[t,d] {mask} = X[t,d] * 2\n{text}")
        outcomes.append(bool(same_values(cascade, online(partition(cascade, "d"), "d"))))
    assert outcomes == [True, False]


def test_raw_moments_are_refused_unless_asked_for_and_lose_digits():
    cascade = load("layer-norm")
    with pytest.raises(InputError, match="nothing in SS moves"):
        defer(cascade, "SS")
    raw = defer(cascade, "SS", LAWS)
    assert same_values(cascade, raw)
    assert stable(cascade) and not stable(raw)
    assert [law.name for law in LAWS if law not in STABLE] == ["raw moments"]


def test_naive_attention_is_refused_at_large_logits_and_shifted_is_not():
    naive = load("attention-naive")
    verdict = stable(naive)
    assert not verdict and "in float32 AV is off by inf with Q x1024" in verdict.why
    shifted = shift(naive, "SN", "m")
    assert stable(shifted) and same_values(naive, shifted)
    assert passes(shifted, "m").count == 3


REFUSED = {
    "no such rank": (lambda: partition(load("attention-3pass"), "mm"), "no such rank (got mm; did you mean m?)"),
    "rank taken": (
        lambda: partition(parse("tensor X[m]\ntensor Y[m1]\nA[m,m1] = X[m] * Y[m1]"), "m"),
        "rank m cannot be cut: m1 exists already",
    ),
    "cut state": (lambda: partition(load("attention-1pass"), "m1"), "cannot be cut: RM steps"),
    "merge a reduction": (lambda: merge(load("attention-3pass"), "SD"), "SD is no map"),
    "merge an output": (lambda: merge(load("attention-3pass-deferred"), "AV"), "AV is an output"),
    "unknown": (lambda: merge(load("attention-3pass"), "SS"), "no such statement (got SS; did you mean"),
    "rename to a taken name": (lambda: rename(load("attention-3pass"), {"GM": "QK"}), "the same name (got QK)"),
    "dead input": (lambda: dead_code(load("attention-3pass"), ["K"]), "no statement writes"),
    "defer nothing": (lambda: defer(load("attention-3pass"), "QK"), "nothing in QK moves"),
    "defer a map": (lambda: defer(load("attention-3pass"), "SN"), "SN is no reduction"),
    "shift a reduction": (lambda: shift(load("attention-3pass"), "SD", "m"), "SD is no map along m"),
    "shift what stays": (
        lambda: shift(parse("tensor X[p,m]\nS[p,m] = exp(X[p,m])\nY[p] = S[p,m]"), "S", "m"),
        "the factor exp(g) does not cancel in Y",
    ),
    "shift through tanh": (
        lambda: shift(parse("tensor X[p,m]\nS[p,m] = exp(X[p,m])\nY[p,m] = tanh(S[p,m])"), "S", "m"),
        "does not pass through tanh",
    ),
    "online without tiles": (lambda: online(load("attention-3pass"), "m"), "not partitioned (got m)"),
    "online twice": (
        lambda: online(load("attention-1pass"), "m"),
        "already carries a state or reduces a part of rank m",
    ),
    "nothing to carry": (lambda: online(partition(load("gemm"), "k"), "k"), "no reduction over k needs another"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_preconditions(case):
    rewrite, expected = REFUSED[case]
    with pytest.raises(InputError) as caught:
        rewrite()
    assert expected in str(caught.value)


def test_common_subexpressions_and_dead_code():
    text = "tensor X[i]\nA[i] = exp(X[i])\nB[i] = exp(X[i])\nC[i] = A[i] * B[i]\nD[i] = C[i] + B[i]\nE[i] = B[i] / 2\n"
    assert show(dead_code(common_subexpressions(parse(text)), ["D"])).splitlines()[3:] == [
        "A[i] = exp(X[i])",
        "C[i] = A[i] * A[i]",
        "D[i] = C[i] + A[i]",
    ]


def test_merge_writes_a_map_out():
    merged = merge(load("attention-3pass"), "A")
    assert show(merged).splitlines()[-1] == "AV[b,h,p,f] = SN[b,h,p,m] / SD[b,h,p] * V[b,h,m,f]"
    assert same_values(load("attention-3pass"), merged)


def test_partition_bounds_what_would_run_over_the_end():
    """A union with a constant exists behind the last coordinate, so the last tile needs a guard; a product does not."""
    text = "tensor X[m]\ntensor Y[m]\nA[] = X[m] * Y[m]\nB[] = max(X[m], 0) + Y[m]\nC[] = max(X[m], 3)\n"
    shown = show(partition(parse(text), "m")).splitlines()
    assert shown[-3:] == [
        "A[] = BX[m1,m0] * BY[m1,m0]",
        "B[] | m1*M0+m0 < M = max(BX[m1,m0], 0) + BY[m1,m0]",
        "C[] | m1*M0+m0 < M = max(BX[m1,m0], 3)",
    ]


def test_a_partitioned_output_is_put_together_again():
    after = partition(load("softmax"), "n")
    assert show(after).splitlines()[-1] == "Y[t,n] = BY[t,n//N0,n%N0]"
    assert is_view(after["Y"])
    assert same_values(load("softmax"), after)


def test_partition_bounds_what_reads_a_state_that_always_exists():
    """An initial value that is no identity exists behind the end of the rank too."""
    text = "tensor X[i,j]\nS[j+1,i] = S[j,i] * X[i,j] init 0.5\nY[] = prod[i,j] S[j,i] * 2\n"
    after = partition(parse(text), "i")
    assert show(after).splitlines()[-1] == "Y[] | i1*I0+i0 < I = prod[j,i1,i0] S[j,i1,i0] * 2"
    assert same_values(parse(text), after)


def test_partition_reads_pages_through_a_view_of_their_view():
    after = partition(load("attention-3pass-paged"), "m")
    assert after["K"] == load("attention-3pass-paged")["K"]
    assert (
        show(after)
        .splitlines()[after.einsums.index(after["BK"]) - len(after.einsums)]
        .startswith("BK[b,h,m1,m0,e] = K")
    )
    assert same_values(load("attention-3pass-paged"), after)
