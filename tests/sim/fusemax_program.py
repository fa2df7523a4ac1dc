"""FuseMax's tile as a program written by hand: compute only, no memory (MICRO 2024; cycles of E, F and 256 lanes)."""

from sim.program import TICKS_PER_CYCLE, Dep, Loop, Program, Resource, Task, When

CYCLE = TICKS_PER_CYCLE
ON_2D = (("SLN", 1), ("SLD", 1), ("SLNV", 1), ("BQK", 0), ("LM", 0))
ON_1D = tuple((name, 1) for name in ("RM", "PRM", "SPD", "SPNV", "RD", "RNV", "AV"))


def fusemax(m1, p1, heads=1, p2=1, e=64, f=64, window=2, static=True) -> Program:
    """The nest heads, p2, m1, p1 with `window` tiles open; the paper's static order, or oldest tile first."""
    leaves = [  # name, unit, cycles, reads in the tile, state read from the m1 before
        ("BQK", "pe_2d", e, "", ""),
        ("LM", "pe_2d", 1, "BQK", ""),
        ("RM", "pe_1d", 1, "LM", "RM"),
        ("SLN", "pe_2d", 7, "BQK RM", ""),
        ("SLD", "pe_2d", 1, "SLN", ""),
        ("PRM", "pe_1d", 7, "RM", "RM"),
        ("SPD", "pe_1d", 1, "PRM", "RD"),
        ("SLNV", "pe_2d", f, "SLN", ""),
        ("SPNV", "pe_1d", f, "PRM", "RNV"),
        ("RD", "pe_1d", 1, "SLD SPD", ""),
        ("RNV", "pe_1d", f, "SLNV SPNV", ""),
        ("AV", "pe_1d", f, "RNV RD", ""),
    ]
    tasks = []
    for name, unit, cycles, reads, state in leaves:
        deps = [Dep(a) for a in reads.split()] + [Dep(a, carried=(("m1", 1),)) for a in state.split()]
        when = (When("m1", "last"),) if name == "AV" else ()
        tasks.append(Task(name, unit, cycles * CYCLE, tuple(deps), when))
    units = (Resource("pe_2d", ON_2D if static else None), Resource("pe_1d", ON_1D if static else None))
    loops = (Loop("bh", heads), Loop("p2", p2), Loop("m1", m1), Loop("p1", p1))
    return Program("fusemax", loops, tuple(tasks), units, window, CYCLE * 940e6)
