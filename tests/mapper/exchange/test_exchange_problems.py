"""Mistakes are located in the foreign file, and nothing of it is dropped in silence."""

import copy

import pytest
from exchange_files import DATA, FILES, at, imported, places, plain, text_of

from einsum.problems import InputError
from einsum.show import show
from mapper.exchange.formats import read
from mapper.yaml import dump_mapping

TIMELOOP, ACCELFORGE, FUSED, TEAAL, ZIGZAG = (
    f"{name}.yaml" for name in ("timeloop/gemm", "accelforge/gemm", "accelforge/fused", "teaal/gemm", "zigzag/small")
)


def lost(name, text=None):
    return [str(problem) for problem in imported(name, text).lost]


def test_what_each_example_loses():
    assert lost(TIMELOOP) == [
        "timeloop/gemm.yaml:32: architecture.nodes.buffer.attributes.n_banks: has no counterpart (got 4)",
        "timeloop/gemm.yaml:33: architecture.nodes.buffer.constraints: has no counterpart",
        "timeloop/gemm.yaml:45: architecture.nodes.MAC.attributes.multiplier_width: has no counterpart (got 16)",
    ]
    assert lost(ACCELFORGE) == [
        "accelforge/gemm.yaml:37: arch.nodes.Vector.enabled: has no counterpart (got len(All) == 2)"
    ]
    assert lost(FUSED) == []
    assert [problem.path for problem in imported(TEAAL).lost] == [
        "mapping.rank-order",
        "format",
        "bindings.Z.scratchpad.bindings.Z.rank",
        "bindings.Z.scratchpad.bindings.Z.format",
        "bindings.Z.scratchpad.bindings.B",
    ]
    assert [problem.what for problem in imported(ZIGZAG).lost] == [
        "which port of a memory serves what is not kept",
        "it has no clock: 1 GHz, so that times are in cycles of 1 ns",
        "areas are in units of the user's own there",
    ]


@pytest.mark.parametrize("name", FILES)
def test_no_key_is_dropped_in_silence(name):
    """A key that no format has, anywhere in the file, is a note, a problem, or a name that comes out in the end."""
    data, tried = plain(name), 0
    gone = {p.path.rpartition(".")[2] for p in imported(name).lost if "counterpart" in p.what} | {"ports"}
    for place in list(places(data)):
        if not isinstance(at(data, place), dict) or gone & set(
            place
        ):  # what is in there went with it, and that was said
            continue
        spoilt = copy.deepcopy(data)
        at(spoilt, place)["zzz"] = 7
        tried += 1
        try:
            made = imported(name, text_of(spoilt))
            said = [*map(str, made.lost), show(made.cascade) if made.cascade else ""]
        except InputError:
            continue
        assert any("zzz" in line.lower() for line in said), (place, said)
    assert tried > 5


@pytest.mark.parametrize("name", FILES)
def test_no_mistake_is_a_crash(name):
    """Each value in turn left out or replaced by what cannot stand there: a located problem, or it can be read."""
    data = plain(name)
    for i, place in enumerate(list(places(data))[1::2]):
        spoilt, value = copy.deepcopy(data), (None, "?x", [], {}, -1)[i % 5]
        if value is None or place[-1] == "!":
            del at(spoilt, place[:-1])[place[-1]]
        else:
            at(spoilt, place[:-1])[place[-1]] = value
        try:
            imported(name, text_of(spoilt))
        except InputError as error:
            assert all(p.file == name and p.line for p in error.problems) or "no such file" in str(error), error


MISTAKES = {
    (TIMELOOP, "target: buffer\n  type: temporal", "target: bufer\n  type: temporal"): (
        ":70: mapping.bufer.target: no such level (got bufer); did you mean buffer?"
    ),
    (TIMELOOP, "factors: [M=4, N=4, K=2]", "factors: [M=4, N=4, K=3]"): (
        ":63: mapping.DRAM: the factors of K do not divide its size of 128 (got 3)"
    ),
    (TIMELOOP, "factors: [M=4, N=4, K=2]", "factors: [M=2, N=4, K=2]"): (
        ":62: mapping: the factors of M multiply to 32, its size is 64"
    ),
    (TIMELOOP, "projection: [[[K]], [[N]]]", "projection: [[[K]], [[Q]]]"): (
        "unknown dimension or coefficient (got Q)"
    ),
    (TIMELOOP, "target: registers\n  type: temporal", "target: buffer\n  type: temporal"): (
        ":83: mapping.buffer.target: a second temporal directive for this level (got buffer)"
    ),
    (TIMELOOP, "class: DRAM", "klass: DRAM"): ("missing key `class`"),
    (TIMELOOP, "keep: [C]", "keep: [D]"): "unknown name, expected one of C, A, B (got D)",
    (TIMELOOP, "  nodes:", "  subtree:"): "an architecture of Timeloop v3: convert it to v4 (`nodes`) first",
    (ACCELFORGE, "component: Register}", "component: Registr}"): (
        ":70: mapping.nodes.component: unknown name, expected one of MainMemory, Buffer, Register (got Registr); "
        "did you mean Register?"
    ),
    (ACCELFORGE, "size: 256", "size: depth * 8"): (
        ":45: arch.nodes.Register.size: expected a number or an expression of numbers (got depth * 8)"
    ),
    (ACCELFORGE, "C[m, n] = A(input)[m, k] *", "C[m, n] = A(input)[m, k] ** *"): "accelforge/gemm.yaml:",
    (ACCELFORGE, "name: row, component", "name: rows, component"): "Array has no such fanout (got rows)",
    (ACCELFORGE, "- !Compute {einsum: C", "- !Toll {einsum: C"): "a branch ends without !Compute",
    (TEAAL, "uniform_shape(64)", "uniform_occupancy(A.64)"): (
        "only uniform_shape(N) carries over: other partitions depend on the data (got uniform_occupancy(A.64))"
    ),
    (TEAAL, "A[k, m] * B[k, n]", "take(A[k, m], B[k, n], 0)"): "take() has no counterpart: nothing is sparse here",
    (ZIGZAG, "served_dimensions: [D1, D2]", "served_dimensions: [D2]"): "no memory serves D1",
}


@pytest.mark.parametrize(("name", "good", "bad"), MISTAKES)
def test_mistakes_are_located(name, good, bad):
    text = (DATA / name).read_text()
    assert good in text
    with pytest.raises(InputError) as found:
        imported(name, text.replace(good, bad))
    assert MISTAKES[name, good, bad] in str(found.value)
    assert all(p.file == name and p.line > 1 for p in found.value.problems)


def test_templates_tags_and_files_of_nobody():
    for text, what in (
        ("problem:\n  {% set x = 1 %}\n", "f:2: a Jinja template: render it first"),
        ("- 1\n", "f:1: expected keys and values"),
        ("a: 1\n", "no such file, or files of several formats"),
        ("problem: {}\nworkload: {}\n", "no such file, or files of several formats"),
        ("a: [1\n", "f:1: not valid YAML"),
    ):
        with pytest.raises(InputError) as found:
            read({"f": text})
        assert what in str(found.value)


def test_a_storage_that_nobody_uses_is_said():
    text = (DATA / FUSED).read_text().replace("tensors: [U], component: Buffer", "tensors: [U, X], component: Buffer")
    (lost,) = imported(FUSED, text).lost
    assert lost.what == "no Einsum inside has X, so Buffer need not hold it" and lost.line == 73


def test_a_mapping_needs_its_machine():
    text = (DATA / TIMELOOP).read_text().partition("architecture:")[0] + "mapping: []\n"
    with pytest.raises(InputError, match="a mapping needs its workload"):
        imported(TIMELOOP, text)


def test_partial_sums_that_leave_the_chip_are_said_not_to_be_costed():
    """k outside of m: C is written and read again for each k, which no hold can say here; the rest is imported."""
    text = (DATA / TIMELOOP).read_text().replace("permutation: [K, M, N] # inner", "permutation: [M, K, N] # inner")
    made = imported(TIMELOOP, text)
    what = "groups.C.C: cannot be costed: the loop over k accumulates C: a loop around that one must hold it"
    assert f"timeloop/gemm.yaml:62: {what}" in map(str, made.lost)
    assert "for: k" in dump_mapping(made.mapping)
