"""State that groups of one kernel hand over: legal only where it is there, free of traffic, and kept in files."""

from dataclasses import replace

import pytest
from flash import MACHINE

from einsum.library import load as load_cascade
from einsum.problems import InputError
from gpu_backend.emit import emit
from mapper.check import check
from mapper.cost import cost
from mapper.handover import chains
from mapper.library import bound, make
from mapper.mapping import Hold
from mapper.show import show
from mapper.yaml import dump_mapping, loads

SIZES = {"B": 1, "H": 2, "P": 128, "M": 128, "E": 32, "F": 32}


def passes():
    return make("gpu-passes", load_cascade("attention-3pass-recompute"), MACHINE, SIZES)


def with_hold(mapping, group, change):
    """The mapping with the holds of one group's grid changed: old hold -> new one, or None to drop it."""
    grid = mapping.groups[group].body[0]
    holds = tuple(h for h in map(change, grid.holds) if h is not None)
    changed = replace(mapping.groups[group], body=(replace(grid, holds=holds),))
    return replace(mapping, groups=(*mapping.groups[:group], changed, *mapping.groups[group + 1 :]))


def test_three_passes_are_one_kernel_that_leaves_nothing_in_memory_but_its_result():
    mapping, workload = passes()
    assert [[g.name for g in chain] for chain in chains(mapping)] == [["pass1", "pass2", "pass3"]]
    (kernel,) = emit(workload, mapping)
    assert [a.name for a in kernel.arguments] == ["Q", "K", "V", "AV"]
    closed = cost(mapping, workload, MACHINE)
    whole, blocks = 2 * 128 * 32 * 2, 2  # bytes of each tensor, thread blocks a head
    moved = {"Q": whole, "K": 3 * blocks * whole, "V": blocks * whole, "AV": whole}
    for tensor in workload.cascade.tensor:
        assert closed.total("bytes", tensor=tensor, place="hbm", boundary="issued") == moved.get(tensor, 0)


def test_kept_holds_survive_a_file_and_are_shown():
    mapping, _ = passes()
    assert loads(dump_mapping(mapping), "f.yaml") == mapping
    assert "GM in registers, kept between groups" in show(mapping)


@pytest.mark.parametrize(
    ("group", "change", "reason"),
    [
        (1, lambda h: None if h.tensor == "GM" else h, "GM is kept, but the next group does not take it over"),
        (0, lambda h: replace(h, kept=False), "GM is kept, but the group before does not hand it over"),
        (1, lambda h: replace(h, memory="smem") if h.tensor == "GM" else h, "the group before does not hand it over"),
        (0, lambda h: None if h.tensor == "Q" else h, "Q is kept, but the group before does not hand it over"),
        (1, lambda h: replace(h, kept=h.tensor != "GM"), "GM is kept by pass1 and not taken over by pass2"),
    ],
)  # fmt: skip
def test_what_is_kept_has_to_be_there(group, change, reason):
    mapping, workload = passes()
    with pytest.raises(InputError) as error:
        check(with_hold(mapping, group, change), workload, MACHINE)
    assert reason in str(error.value)


def test_a_grid_of_other_tiles_takes_nothing_over():
    mapping, workload = passes()
    grid = mapping.groups[1].body[0]
    second = replace(mapping.groups[1], body=(replace(grid, tile=(1, 1, 32)),))
    with pytest.raises(InputError, match="GM is kept, but the next group does not take it over"):
        check(replace(mapping, groups=(mapping.groups[0], second, mapping.groups[2])), workload, MACHINE)


def test_a_kept_hold_inside_the_grid_is_refused():
    mapping, workload = passes()
    grid = mapping.groups[0].body[0]
    keys = replace(grid.body[0], holds=(*grid.body[0].holds, Hold("K", "l2", kept=True)))
    first = replace(mapping.groups[0], body=(replace(grid, body=(keys,)),))
    with pytest.raises(InputError, match="it has to stand on the outermost loop, a spatial one"):
        check(replace(mapping, groups=(first, *mapping.groups[1:])), workload, MACHINE)


def test_groups_that_keep_nothing_are_kernels_of_their_own_and_hand_over_through_memory():
    mapping, workload = passes()
    apart = mapping
    for group in range(3):
        apart = with_hold(apart, group, lambda h: replace(h, kept=False))
    check(apart, workload, MACHINE)
    names = [[a.name for a in kernel.arguments] for kernel in emit(bound(apart, workload.cascade, SIZES), apart)]
    assert names == [["Q", "K", "GM"], ["Q", "K", "GM", "SD"], ["Q", "K", "V", "GM", "SD", "AV"]]
