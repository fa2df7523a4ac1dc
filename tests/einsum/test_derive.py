"""Derivations: FlashAttention, Flash-Decoding, Welford, log-sum-exp, and what is refused. SEMANTICS 2.7."""

import json
import random

import numpy as np
import pytest

from einsum.alike import alike, known_as
from einsum.analysis import analyse
from einsum.bind import bind
from einsum.derive import derive
from einsum.library import load
from einsum.oracle import random_inputs, run
from einsum.parse import parse
from einsum.passes import passes
from einsum.problems import InputError
from einsum.rewrites.laws import DISTRIBUTE, LAWS, STABLE, TRANSPORT, Law, usable
from einsum.rewrites.tidy import rename
from einsum.show import show

WRONG = Law("wrong", TRANSPORT, "exp(x - g)", "s * c", "sum", (("c", "exp(h - g)"),))


@pytest.fixture(scope="module")
def one_pass():
    return derive(load("attention-3pass"), 1)


def test_attention_from_three_passes(one_pass):
    assert [step.rewrite for step in one_pass.steps] == ["defer AV", "partition m", "online m1"]
    assert [step.passes for step in one_pass.steps] == [2, 2, 1]
    assert [step.laws for step in one_pass.steps] == [
        ("division distributes over sum",),
        (),
        ("exponentials rescale",),
    ]
    assert one_pass.stability < 1e-4


@pytest.mark.parametrize("source", ["attention-3pass", "attention-naive"])
def test_the_derived_cascade_is_the_library_one(source):
    ours, theirs = derive(load(source), 1).result, load("attention-1pass")
    names = alike(ours, theirs)
    assert names is not None and known_as(ours) == ("attention-1pass", names)
    renamed = rename(ours, names)
    assert passes(renamed, "m1").count == passes(theirs, "m1").count == 1
    assert passes(renamed, "m1").levels == passes(theirs, "m1").levels
    for sizes in ({"P": 7, "M": 10, "M0": 4}, {"P": 64, "M": 256, "M0": 16}):
        bound = {"B": 2, "H": 3, "E": 4, "F": 5} | sizes
        a, b = (analyse(bind(cascade, bound)) for cascade in (renamed, theirs))
        assert a.operations == b.operations
        assert {work.name: work for work in a.einsums} == {work.name: work for work in b.einsums}
        footprint = lambda found: sorted((x.tensor, x.why, x.growth, x.elements, x.bytes) for x in found.live)
        assert footprint(a) == footprint(b) and len(footprint(a)) == 3


VARIANTS = ("alibi", "blocks", "causal", "causal-end", "gqa", "lengths", "mla-absorbed", "paged", "softcap", "window")


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_derive_to_the_variants_of_the_library(variant):
    """Masks, shared heads, pages and caps pass through: the laws only look at the reduction."""
    found = derive(load(f"attention-3pass-{variant}"), 1)
    assert [step.rewrite.split()[0] for step in found.steps] == ["defer", "partition", "online"]
    assert alike(found.result, load(f"attention-1pass-{variant}")) is not None


def test_values_of_derived_and_written_attention_agree_on_200_shapes(one_pass):
    rng = random.Random(0)
    cascades = (load("attention-3pass"), one_pass.result, load("attention-1pass"))
    for seed in range(200):
        sizes = {name: rng.randint(1, 5) for name in "BHEF"} | {name: rng.randint(1, 19) for name in "PM"}
        sizes["M0"] = rng.randint(1, 6)
        workloads = [bind(c, {name: sizes[name] for name in c.free_sizes}) for c in cascades]
        inputs = random_inputs(workloads[0], seed)
        first, *others = (run(workload, inputs)["AV"] for workload in workloads)
        for other in others:
            np.testing.assert_allclose(other, first, rtol=1e-12, atol=1e-12)


def test_naive_attention_needs_the_maximum():
    found = derive(load("attention-naive"), 1)
    assert [step.rewrite for step in found.steps] == ["shift SN", "defer AV", "partition m", "online m1"]
    assert found.refused[0] == "defer AV: in float32 AV is off by inf with Q x1024"
    without = tuple(law for law in STABLE if law.name != "softmax is shift-invariant")
    with pytest.raises(InputError, match=r"no chain of 6 rewrites leads to 1 stable pass.*off by inf"):
        derive(load("attention-naive"), 1, laws=without)


def test_flash_decoding():
    found = derive(load("attention-3pass"), 1, parallel=True)
    assert [step.rewrite for step in found.steps] == ["defer AV", "partition m", "split m1"]
    assert not [e.name for e in found.result.einsums if e.iterative]
    assert passes(found.result, "m1").live == {"LGM": ("m1",), "LSD": ("m1",), "LNAV": ("m1",)}


@pytest.mark.parametrize(
    ("name", "passes_before", "wanted"),
    [("layer-norm", 3, 2), ("cross-entropy", 2, 1), ("softmax", 3, 2), ("attention-3pass-causal", 3, 1)],
)
def test_other_cascades_of_the_library(name, passes_before, wanted):
    found = derive(load(name), wanted)
    assert found.passes == passes_before
    assert passes(found.result, f"{found.rank}1").count == wanted
    assert parse(show(found.result)) == found.result


def test_welford_comes_by_its_row_alone():
    """Without the row there is no chain; with raw moments allowed there is a shorter one, which loses digits."""
    row = next(law for law in LAWS if law.given == "sum(x) / n" and law.kind == TRANSPORT)
    with pytest.raises(InputError, match="fewest found: 3"):
        derive(load("layer-norm"), 2, laws=tuple(law for law in STABLE if law is not row))
    welford = derive(load("layer-norm"), 2)
    assert welford.steps[-1].laws == (row.name,) and welford.stability < 1e-3
    raw = derive(load("layer-norm"), 2, laws=usable(allow=("raw moments",)))
    assert [step.laws for step in raw.steps] == [("raw moments",)] and raw.stability > 1e-2


def test_exponentials_come_by_their_row_alone():
    for name in ("attention-3pass", "cross-entropy"):
        with pytest.raises(InputError, match="no chain"):
            derive(load(name), 1, laws=tuple(law for law in STABLE if law.name != "exponentials rescale"))


def test_a_new_law_is_a_row():
    """Sums of deviations x - g need another sum besides; a row that counts with `n` makes them one pass."""
    text = "tensor X[t,d]\nSX[t] = X[t,d]\nMU[t] = SX[t] / D\nY[t] = 3 * (X[t,d] - MU[t])\n"
    with pytest.raises(InputError, match="no chain"):
        derive(parse(text), 1)
    row = Law("deviations move with the mean", TRANSPORT, "w * (x - g)", "s + c", "sum",
              (("c", "w * (n * (g - h))"),), given="sum(x) / n")  # fmt: skip
    assert passes(derive(parse(text), 1, laws=(*STABLE, row)).result, "d1").count == 1


def test_a_wrong_law_is_caught_by_the_oracle():
    right = next(law for law in STABLE if law.name == "exponentials rescale")
    with pytest.raises(InputError, match="online m1 by `wrong`: AV differs by"):
        derive(load("attention-3pass"), 1, laws=(WRONG, *(law for law in STABLE if law is not right)))
    both = derive(load("attention-3pass"), 1, laws=(WRONG, *STABLE))
    assert any("by `wrong`" in reason for reason in both.refused)
    assert alike(both.result, load("attention-1pass"))


def test_a_wrong_distribution_is_caught_by_the_oracle():
    wrong = Law("wrong", DISTRIBUTE, "x / g", "sum(x) * g", "sum")
    laws = tuple(law for law in STABLE if law.name != "division distributes over sum")
    with pytest.raises(InputError, match="defer AV by `wrong`: AV differs by"):
        derive(load("attention-3pass"), 1, laws=(wrong, *laws))


def test_names_of_tensors_do_not_matter(one_pass):
    names = {"QK": "A1", "GM": "ZZ", "SN": "B", "SD": "X7", "A": "QK", "AV": "AV"}
    scrambled = derive(rename(load("attention-3pass"), names), 1)
    assert alike(scrambled.result, one_pass.result)


def test_it_prints_every_step_and_is_plain_data(one_pass):
    text = str(one_pass)
    assert text.splitlines()[0] == "attention-3pass: 3 passes over m"
    for line in ("1. defer AV (division distributes over sum): 2 passes", "2. partition m: 2 passes",
                 "3. online m1 (exponentials rescale): 1 pass",
                 "  + RGM[b,h,p,m1+1] = max(RGM[b,h,p,m1], LGM[b,h,p,m1]) init -inf"):  # fmt: skip
        assert line in text
    data = json.loads(json.dumps(one_pass.as_dict(), allow_nan=False))
    assert parse(data["result"]) == one_pass.result
    assert [step["passes"] for step in data["steps"]] == [2, 2, 1]


def test_nothing_to_do():
    found = derive(load("attention-1pass"), 1)
    assert found.steps == () and found.result is found.source


def test_laws_print_as_equations():
    assert list(map(str, LAWS))[4:5] == ["division distributes over sum: sum(x / g) = sum(x) / g"]
    rescale = next(law for law in LAWS if law.name == "exponentials rescale")
    assert str(rescale) == (
        "exponentials rescale: with s = sum(exp(x - g)), the same for h in place of g is s * c, c = exp(g - h)"
    )


def test_unlike_cascades():
    assert alike(load("attention-3pass"), load("attention-1pass")) is None
    changed = show(load("attention-1pass")).replace("init 0", "init 1")
    assert alike(parse(changed), load("attention-1pass")) is None
    assert alike(load("attention-1pass-causal"), load("attention-1pass")) is None
