"""Mappings written to YAML read back equal, and every node knows its line."""

import pytest
from hypothesis import given, settings, strategies as st

from arch.read import load as load_machine
from einsum.library import load as load_cascade
from einsum.problems import InputError
from mapper.library import make
from mapper.mapping import (
    COMBINES,
    FILLS,
    GUARD,
    SPREADS,
    Compute,
    Greedy,
    Group,
    Hold,
    Loop,
    Mapping,
    Move,
    Order,
    Phase,
    Phases,
    Pipe,
    Seq,
)
from mapper.random_mapping import random_case
from mapper.sites import holds, of_type, sites
from mapper.yaml import dump_mapping, load_mapping, loads

words = st.sampled_from(
    ["m1", "p", "e", "BQK", "pe_2d", "sm.sm", "fma+mufu", "yes", "on", "null", "1", "1e3", "*", "a: b"]
)
maybe = st.none() | words
whole = st.integers(1, 2**40)
part = st.floats(0, 1, exclude_min=True)
names = st.lists(words, max_size=3).map(tuple)
ats = st.dictionaries(words, st.sampled_from(["first", "last"]), max_size=2).map(lambda d: tuple(d.items()))
held = st.builds(Hold, words, words, whole, part, maybe, st.sampled_from(SPREADS), maybe, names, maybe, st.booleans())
extents = st.none() | st.just(GUARD) | st.lists(st.integers(0, 9), max_size=3).map(tuple)


@st.composite
def loops(draw, bodies):
    ranks = draw(st.lists(words, min_size=1, max_size=3).map(tuple))
    tile = draw(st.lists(whole, min_size=len(ranks), max_size=len(ranks)).map(tuple))
    fill, combine = draw(st.sampled_from(FILLS)), draw(st.none() | st.sampled_from(COMBINES))
    kept = draw(st.lists(held, max_size=2).map(tuple))
    return Loop(ranks, tile, draw(maybe), fill, draw(extents), draw(maybe), combine, kept, draw(bodies))


shares = st.dictionaries(words, part, max_size=2).map(lambda d: tuple(d.items()))
private = st.lists(loops(st.just(())), max_size=2).map(tuple)
computes = st.builds(Compute, words, words, shares, st.integers(0, 3), ats, private)
moves = st.builds(Move, words, words, words, maybe, st.integers(0, 3), ats)
orders = st.dictionaries(words, names, max_size=2).map(lambda d: Order(tuple(d.items())))
phases = st.lists(st.builds(Phase, names, st.none() | st.sampled_from(["pe_2d", "on"])), max_size=2)
schedules = st.just(Greedy()) | orders | phases.map(lambda p: Phases(tuple(p)))


def bodies(nodes):
    return st.lists(nodes, max_size=3).map(tuple)


nodes = st.recursive(
    computes | moves,
    lambda inner: (
        loops(bodies(inner))
        | st.builds(Seq, bodies(inner))
        | st.builds(Pipe, bodies(inner), st.integers(1, 9), st.integers(0, 9), schedules)
    ),
    max_leaves=6,
)
groups = st.builds(Group, words, bodies(nodes), names, part)
mappings = st.builds(
    Mapping,
    words,
    words,
    words,
    st.lists(groups, max_size=2).map(tuple),
    st.dictionaries(words, whole, max_size=2).map(lambda d: tuple(d.items())),
    st.dictionaries(words, words, max_size=2).map(lambda d: tuple(d.items())),
    st.sampled_from(["", "one line", "two\nlines: {of} #text"]),
)


@settings(max_examples=60)
@given(mappings)
def test_any_mapping_reads_back_equal(mapping):
    again = loads(dump_mapping(mapping))
    assert again == mapping
    assert again.doc == mapping.doc


@pytest.mark.parametrize("seed", range(10))
def test_random_legal_mappings_read_back_equal(seed):
    mapping, _, _ = random_case(seed, load_cascade("attention-1pass"), load_cascade("attention-1pass-causal"))
    assert loads(dump_mapping(mapping)) == mapping


def test_a_loop_encloses_what_follows_it_unless_it_has_a_body():
    text = """\
stepfall: mapping/1
name: n
cascade: c
machine: m
groups:
  - name: g
    body:
      - for: a
        body:
          - {compute: X, on: u}
      - {for: b}
      - {compute: Y, on: u}
"""
    inner = tuple(Loop((rank,), (1,), body=(Compute(einsum, "u"),)) for rank, einsum in (("a", "X"), ("b", "Y")))
    mapping = loads(text)
    assert mapping.groups[0].body == inner
    assert dump_mapping(mapping) == text


def test_every_node_knows_its_line(tmp_path):
    sizes = {"B": 1, "H": 2, "M": 512, "P": 512, "E": 4, "F": 4}
    made, _ = make("fusemax-binding", load_cascade("attention-1pass"), load_machine("fusemax"), sizes)
    path = tmp_path / "binding.yaml"
    path.write_text(dump_mapping(made))
    mapping, lines = load_mapping(path), path.read_text().splitlines()
    line = lambda key: lines[mapping.places[key][1] - 1]
    assert {file for file, _ in mapping.places.values()} == {str(path)}
    for site in of_type(sites(mapping), Compute):
        assert f"compute: {site.node.einsum}" in line(site.key)
    for site in of_type(sites(mapping), Loop):
        assert f"for: {site.node.ranks[0]}" in line(site.key)
        for (key, _), hold in holds(site.at, site.node):
            assert f"tensor: {hold.tensor}," in line(key)
    assert ["- pipe:" in line(site.key) for site in of_type(sites(mapping), Pipe)] == [True]


def test_bad_file_lists_every_problem():
    text = """\
stepfall: mapping/1
name: n
cascade: c
machine: m
sizes: {M0: many}
groups:
  - name: g
    body:
      - {fro: b}
      - {for: p, tile: 0, fil: block}
      - {for: m1, extent: most, fill: cylic, hold: [{tensor: K, inn: buffer, deep: 0}]}
      - {compute: AV, unit: pe, at: {m1: lst}}
"""
    with pytest.raises(InputError) as error:
        loads(text, "f.yaml")
    assert (
        str(error.value)
        == """\
f.yaml:5: sizes.M0: expected a whole number (got many)
f.yaml:9: groups.g.body.b: needs one of the keys for, compute, pipe, seq, move (got fro); did you mean for?
f.yaml:10: groups.g.body.p.tile: expected a positive whole number or a list of them (got 0)
f.yaml:10: groups.g.body.p.fil: unknown key (got fil); did you mean fill?
f.yaml:11: groups.g.body.m1.fill: expected one of block, cyclic, dynamic, sorted (got cylic); did you mean cyclic?
f.yaml:11: groups.g.body.m1.extent: expected `guard`, or a list with a count for each iteration of the loop around \
(got most)
f.yaml:11: groups.g.body.m1.hold.K: missing key `in`
f.yaml:11: groups.g.body.m1.hold.K.deep: must be greater than 0 (got 0)
f.yaml:11: groups.g.body.m1.hold.K.inn: unknown key (got inn); did you mean in?
f.yaml:12: groups.g.body.AV: missing key `on`
f.yaml:12: groups.g.body.AV.at.m1: expected one of first, last (got lst); did you mean last?
f.yaml:12: groups.g.body.AV.unit: unknown key (got unit)"""
    )
