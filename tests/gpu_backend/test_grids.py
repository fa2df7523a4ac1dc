"""Launch grids: persistent programs, longest tiles first, groups of tiles for the L2 cache (SEMANTICS 7.1.1)."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from flash import MACHINE, small_gpu

from einsum.library import load as load_cascade
from einsum.parse import parse
from einsum.problems import InputError
from gpu_backend.check import TOLERANCE, case, oracle_case, relative_error
from gpu_backend.compare import differences
from gpu_backend.count import count
from gpu_backend.emit import emit
from gpu_backend.grid import coordinates, launch_grid
from gpu_backend.limits import plans
from gpu_backend.static import profile
from mapper.check import check as check_mapping
from mapper.cost import cost
from mapper.library import bound
from mapper.library_gpu import flash_attention, gemm, passes
from mapper.mapping import Loop
from mapper.nest import nest
from mapper.yaml import dump_mapping, loads

HEADS = {"B": 1, "H": 2, "E": 32, "F": 32}
SMS = 3
SMALL_GPU = small_gpu(SMS)


def made(name, generator, sizes):
    cascade = load_cascade(name)
    mapping = generator(cascade, SMALL_GPU, sizes)
    return bound(mapping, cascade, sizes), mapping


def refilled(mapping, fill, **changes):
    """Every group's grid with another fill."""
    grids = [(group, group.body[0]) for group in mapping.groups]
    return replace(mapping, groups=tuple(replace(g, body=(replace(grid, fill=fill, **changes),)) for g, grid in grids))


SORTED = partial(flash_attention, fill="sorted")
CASES = {  # cascade, generator, sizes, tiles
    "sorted causal": ("attention-1pass-causal", SORTED, HEADS | {"P": 200, "M": 200}, 2 * 4),
    "sorted with queries at the end": ("attention-1pass-causal-end", SORTED, HEADS | {"P": 130, "M": 200}, 2 * 3),
    "sorted without a guard": ("attention-1pass", SORTED, HEADS | {"P": 100, "M": 130}, 2 * 2),
    "cyclic causal": (
        "attention-1pass-causal", partial(flash_attention, fill="cyclic"), HEADS | {"P": 200, "M": 200}, 2 * 4,
    ),
    "fewer tiles than SMs": ("attention-1pass", SORTED, HEADS | {"P": 64, "M": 64}, 2),
    "cyclic products": ("gemm", partial(gemm, fill="cyclic"), {"M": 300, "N": 130, "K": 150}, 5 * 3),
    "products in groups": ("gemm", partial(gemm, group=2), {"M": 300, "N": 200, "K": 70}, 5 * 4),
    "fewer products than a group": ("gemm", partial(gemm, group=8), {"M": 100, "N": 70, "K": 64}, 2 * 2),
    "cyclic products in groups": (
        "gemm", partial(gemm, group=4, fill="cyclic"), {"M": 400, "N": 130, "K": 64}, 7 * 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values_and_counts_do_not_depend_on_the_grid_but_programs_do(name):
    cascade, generator, sizes, tiles = CASES[name]
    workload, mapping = made(cascade, generator, sizes)
    check_mapping(mapping, workload, SMALL_GPU)
    kernels = emit(workload, mapping, SMALL_GPU)
    inputs, exact = oracle_case(workload, 8)
    outputs, counted = count(kernels, inputs)
    for output in workload.cascade.outputs:
        assert relative_error(outputs[output], exact[output]) <= TOLERANCE["bf16"]
    closed = cost(mapping, workload, SMALL_GPU)
    assert differences(closed, counted, plans(workload, mapping, SMALL_GPU), "hbm") == ()
    persistent = mapping.groups[0].body[0].fill in ("cyclic", "sorted")
    assert counted.value("programs") == (min(tiles, SMS) if persistent else tiles)
    plain = replace(mapping, groups=tuple(replace(g, body=(ungrouped(g.body[0]),)) for g in mapping.groups))
    assert [(r.key, r.value) for r in cost(plain, workload, SMALL_GPU).rows] == [(r.key, r.value) for r in closed.rows]


def ungrouped(grid):
    """The grid's loop with every rank once and any program first."""
    tiles = dict(zip(grid.ranks, grid.tile, strict=True))
    return replace(grid, ranks=tuple(tiles), tile=tuple(tiles.values()), fill="dynamic")


@pytest.mark.parametrize("fill", ["cyclic", "sorted"])
def test_groups_that_hand_state_over_make_their_passes_in_one_persistent_program(fill):
    workload, mapping = made("attention-3pass-recompute-causal", passes, HEADS | {"P": 200, "M": 200})
    mapping = refilled(mapping, fill)
    check_mapping(mapping, workload, SMALL_GPU)
    (kernel,) = emit(workload, mapping, SMALL_GPU)
    inputs, exact = oracle_case(workload, 9)
    outputs, counted = count((kernel,), inputs)
    assert relative_error(outputs["AV"], exact["AV"]) <= TOLERANCE["bf16"] and counted.value("programs") == SMS
    found = differences(cost(mapping, workload, SMALL_GPU), counted, plans(workload, mapping, SMALL_GPU), "hbm")
    assert found == () and kernel.source.count("for tile in") == 1


def test_a_batch_of_products_walks_the_groups_of_each_by_itself():
    cascade = parse("cascade c\ntensor X[b,m,k]: bf16\ntensor W[b,k,n]: bf16\nY[b,m,n] = X[b,m,k] * W[b,k,n]\n")
    sizes = {"B": 2, "M": 200, "N": 100, "K": 64}
    mapping = gemm(cascade, SMALL_GPU, sizes, group=2, fill="cyclic")
    workload = bound(mapping, cascade, sizes)
    check_mapping(mapping, workload, SMALL_GPU)
    (kernel,) = emit(workload, mapping, SMALL_GPU)
    inputs, exact = oracle_case(workload, 9)
    outputs, counted = count((kernel,), inputs)
    assert relative_error(outputs["Y"], exact["Y"]) <= TOLERANCE["bf16"] and "b = rest.to(tl.int64)" in kernel.source
    found = differences(cost(mapping, workload, SMALL_GPU), counted, plans(workload, mapping, SMALL_GPU), "hbm")
    assert found == () and counted.value("programs") == SMS


def test_names_that_number_tiles_are_refused():
    cascade = parse("cascade c\ntensor X[tile,k]: bf16\ntensor W[k,n]: bf16\nY[tile,n] = X[tile,k] * W[k,n]\n")
    sizes = {"TILE": 64, "N": 64, "K": 64}
    mapping = gemm(cascade, MACHINE, sizes)
    with pytest.raises(InputError, match="tile: no kernel can be generated: a kernel has a variable of this name"):
        emit(bound(mapping, cascade, sizes), mapping)


def walked(grid) -> list[dict[str, int]]:
    """The coordinates of every tile, in the order of their numbers, by running the generated lines."""
    found = []
    minimum = type("tl", (), {"minimum": staticmethod(min)})
    for tile in range(grid.tiles):
        names = {"tile": tile, "tl": minimum}
        for loop in grid.loops:
            names |= {f"{loop.rank.upper()}_TILES": loop.count, loop.rank.upper(): loop.count}
        if grid.group:
            names[f"{grid.group[0].upper()}_GROUP"] = grid.group[1]
        exec("\n".join(coordinates(replace(grid, persistent=True), wide=False)), names)
        found.append({x.rank: names[x.rank if x.tile == 1 else f"{x.rank}_tile"] for x in grid.loops})
    return found


def test_groups_are_walked_as_the_loops_say():
    sizes = {"S": 500, "T": 64, "E": 3, "D": 64, "F": 200}
    workload = bound(gemm(load_cascade("grouped-gemm"), MACHINE, sizes), load_cascade("grouped-gemm"), sizes)
    loop = Loop(("e", "s", "f", "t", "s"), (1, 128, 64, 16, 32), over="sm.sm")
    workload = replace(workload, sizes=workload.sizes | {"S": 300})
    ranks = replace(loop, ranks=("e", "s", "f", "t"), tile=(1, 32, 64, 16))
    grid = launch_grid(loop, [nest((ranks,), workload)], None)
    by_hand = [
        {"e": e, "s": s, "f": f, "t": t}
        for e in range(3) for group in range(0, 10, 4) for f in range(4) for t in range(4)
        for s in range(group, min(group + 4, 10))
    ]  # fmt: skip
    assert walked(grid) == by_hand


def test_sorted_tiles_are_walked_with_their_work_descending():
    workload, mapping = made("attention-1pass-causal", SORTED, HEADS | {"P": 500, "M": 300, "B": 2})
    (plan,) = plans(workload, mapping, SMALL_GPU)
    reached = [math.ceil(min(300, (x["p"] + 1) * 64) / 64) for x in walked(plan.grid)]
    assert reached == sorted(reached, reverse=True) and reached[0] > reached[-1]
    assert len({tuple(x.values()) for x in walked(plan.grid)}) == plan.grid.tiles == 2 * 2 * 8


def test_work_that_rises_and_falls_has_no_longest_tile_first():
    sizes = HEADS | {"P": 320, "M": 230, "W": 100}
    workload, mapping = made("attention-1pass-window", SORTED, sizes)
    with pytest.raises(InputError, match="the work of tiles along p rises and falls"):
        emit(workload, mapping, SMALL_GPU)
    rising = made("attention-1pass-window", SORTED, sizes | {"M": 320})
    assert emit(*rising, SMALL_GPU)[0].grid == (SMS,)


def test_what_no_grid_walks_is_refused():
    workload, mapping = made("gemm", partial(gemm, group=2), {"M": 300, "N": 200, "K": 70})
    for ranks, tile in ((("m", "m", "n"), (128, 64, 64)), (("m", "n", "m", "n"), (128, 128, 64, 64))):
        with pytest.raises(InputError, match="one rank is walked in groups of tiles, like m, n, m"):
            emit(workload, refilled(mapping, "dynamic", ranks=ranks, tile=tile))
    with pytest.raises(InputError, match="a persistent grid fills the instances of a machine: name the machine"):
        emit(workload, refilled(mapping, "cyclic"))
    workload, mapping = made("attention-1pass-causal", SORTED, HEADS | {"P": 200, "M": 200})
    grouped = refilled(mapping, "sorted", ranks=("b", "p", "h", "p"), tile=(1, 128, 1, 64))
    with pytest.raises(InputError, match="`fill: sorted` orders tiles by the one rank that decides their work"):
        emit(workload, grouped, SMALL_GPU)


def test_groups_of_tiles_survive_a_file():
    _, mapping = made("gemm", partial(gemm, group=4), {"M": 300, "N": 200, "K": 70})
    grid = mapping.groups[0].body[0]
    assert (grid.ranks, grid.tile) == (("m", "n", "m"), (256, 64, 64))
    assert loads(dump_mapping(mapping), "f.yaml") == mapping


def test_a_group_whose_tiles_do_not_fill_it_is_refused_by_the_mapping():
    workload, mapping = made("gemm", partial(gemm, group=2), {"M": 300, "N": 200, "K": 70})
    with pytest.raises(InputError, match="the tile of m does not divide the one around it: 64 inside 96"):
        check_mapping(refilled(mapping, "dynamic", tile=(96, 64, 64)), workload, MACHINE)


def test_a_mutant_that_walks_a_tile_twice_fails_counts():
    workload, mapping = made("gemm", partial(gemm, fill="cyclic"), {"M": 300, "N": 130, "K": 64})
    (kernel,) = emit(workload, mapping, SMALL_GPU)
    assert "tl.num_programs(0)):" in kernel.source
    twice = replace(kernel, source=kernel.source.replace("tl.num_programs(0)):", "tl.num_programs(0) - 1):"))
    inputs, exact = oracle_case(workload, 8)
    outputs, counted = count((twice,), inputs)
    assert relative_error(outputs["C"], exact["C"]) <= TOLERANCE["bf16"]
    assert differences(cost(mapping, workload, SMALL_GPU), counted, plans(workload, mapping, SMALL_GPU), "hbm")


@pytest.mark.parametrize(
    ("name", "generator", "sizes"),
    [
        ("attention-1pass-causal", SORTED, {"B": 1, "H": 2, "P": 2048, "M": 2048, "E": 64, "F": 64}),
        ("gemm", partial(gemm, group=8, fill="cyclic"), {"M": 2048, "N": 2048, "K": 8192}),
    ],
)
def test_a_persistent_kernel_keeps_its_inner_loop(name, generator, sizes):
    workload, mapping = made(name, generator, sizes)
    (kernel,) = emit(workload, mapping, SMALL_GPU)
    result = profile(kernel)
    assert kernel.grid == (SMS,) and result.notes == ()
    assert result.value("operations", place="main loop", detail="mac") == kernel.iteration_macs > 0
    assert result.value("bytes", place="main loop", detail="read") == kernel.iteration_bytes > 0


def test_the_tiles_of_an_h100_are_walked_by_its_132_SMs():
    workload, mapping, machine = case("gemm", {"M": 2048, "N": 2048, "K": 64})
    (kernel,) = emit(workload, refilled(mapping, "cyclic"), machine)
    assert kernel.grid == (132,) and np.prod([2048 // 64] * 2) > 132
