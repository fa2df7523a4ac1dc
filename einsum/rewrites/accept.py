"""A rewrite counts only when the oracle agrees: the same values before and after, on random shapes (SEMANTICS 2.6)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from einsum.bind import bind
from einsum.cascade import Cascade, Workload
from einsum.oracle import random_inputs, run_with_masks
from einsum.problems import InputError, Problem

SHAPES = 4  # random shapes on which a rewrite is tried
TOLERANCE = 1e-9  # relative, in float64, between two orders of the same operations
STRESS = 1024.0  # inputs scaled and shifted by this when stability is tried
STRESS_TOLERANCE = 2e-3  # relative, of float32 against float64, on inputs that float32 holds exactly


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the oracle says of a cascade: the greatest relative error seen, and why it is refused; empty: accepted."""

    error: float
    why: str = ""

    def __bool__(self) -> bool:
        return not self.why


def same_values(before: Cascade, after: Cascade, seed: int = 0, shapes: int = SHAPES) -> Verdict:
    """Whether every output of `before` has the same existence and values in `after`, in float64."""
    worst = 0.0
    missing = [name for name in before.outputs if name not in after]
    if missing:
        return Verdict(np.inf, f"the output {missing[0]} is gone")
    for number, sizes in enumerate(random_sizes((before, after), seed, shapes)):
        first, second = (bind(c, {n: sizes[n] for n in c.free_sizes}) for c in (before, after))
        inputs = random_inputs(first, seed + number)
        here = run_with_masks(first, inputs)
        there = run_with_masks(second, {name: inputs[name] for name in after.inputs})
        for name in before.outputs:
            if here[name].value.shape != there[name].value.shape:
                return Verdict(np.inf, f"{name} has another shape")
            if (here[name].exists != there[name].exists).any():
                return Verdict(np.inf, f"other points of {name} exist for {_shown(sizes)}")
            error = difference(there[name].value, here[name].value)
            worst = max(worst, error)
            if not error <= TOLERANCE:
                return Verdict(error, f"{name} differs by {error:.2g} for {_shown(sizes)}")
    return Verdict(worst)


def stable(cascade: Cascade, seed: int = 0) -> Verdict:
    """Whether float32 gives what float64 does on inputs that are large or far from 0 (logits x1000)."""
    worst = 0.0
    for sizes in random_sizes((cascade,), seed, 2):
        workload = bind(cascade, {n: sizes[n] for n in cascade.free_sizes})
        for what, inputs in _stressed(workload, seed):
            exact = run_with_masks(workload, inputs)
            single = run_with_masks(workload, inputs, np.float32)
            for name in cascade.outputs:
                error = difference(single[name].value, exact[name].value)
                worst = max(worst, error)
                if not error <= STRESS_TOLERANCE:
                    return Verdict(error, f"in float32 {name} is off by {error:.2g} with {what}")
    return Verdict(worst)


def difference(values: np.ndarray, reference: np.ndarray) -> float:
    """Greatest difference, relative to the reference or to 1 if that is larger; infinite if one is not finite."""
    if not (np.isfinite(values).all() and np.isfinite(reference).all()):
        return np.inf
    if not values.size:
        return 0.0
    scale = np.maximum(np.abs(reference), 1.0)
    return float(np.max(np.abs(values.astype(np.float64) - reference) / scale))


def random_sizes(cascades: tuple[Cascade, ...], seed: int, count: int) -> Iterator[dict[str, int]]:
    """`count` small bindings of all free sizes that every cascade accepts, the first ones ragged."""
    rng = random.Random(seed)
    names = sorted({name for cascade in cascades for name in cascade.free_sizes})
    found = 0
    for _ in range(100 * count):
        sizes = {name: rng.randint(2, 3) if name[-1] == "0" else rng.randint(1, 7) for name in names}
        try:
            for cascade in cascades:
                bind(cascade, {name: sizes[name] for name in cascade.free_sizes})
        except InputError:
            continue
        yield sizes
        found += 1
        if found == count:
            return
    raise InputError(Problem("no small sizes are accepted", path=cascades[0].name))


def _stressed(workload: Workload, seed: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Inputs on a grid of 1/8 without 0, one of them at a time scaled or shifted: sums of products stay exact."""
    inputs = random_inputs(workload, seed)
    real = [name for name, values in inputs.items() if values.dtype.kind == "f"]
    on_grid = lambda values: np.where(np.abs(values) < 1 / 16, 1.0, np.round(values * 8)) / 8
    grid = {name: on_grid(values) if name in real else values for name, values in inputs.items()}
    for name in real:
        yield f"{name} x{STRESS:g}", grid | {name: grid[name] * STRESS}
        yield f"{name} +{STRESS:g}", grid | {name: grid[name] + STRESS}


def _shown(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
