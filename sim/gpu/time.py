"""Closed form of a kernel's time: waves over SMs, pipes inside an SM, and the memories outside."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.gpu.constants import Constants
from sim.gpu.figures import Figures
from sim.gpu.kernels import Array, Kernels

# From the end of one kernel to the start of the next in a CUDA graph: RRZE-HPC/gpu-benches, H200, launch
# overhead in a graph; 0.9-1.1 us on L40 and A40.
NEXT_KERNEL_S = 1.26e-6


class Times(NamedTuple):
    """Seconds of kernels without their launch, and what they are made of."""

    seconds: Array
    compute: Array  # the busiest SM
    l2: Array
    hbm: Array
    extra: Array  # kernels beside: scattered stores, combination of splits


def pipes(k: Kernels, f: Figures, c: Constants) -> tuple[Array, Array]:
    """Cycles of a main-loop step's tensor work (or its operands' way from shared memory) and of its softmax."""
    tensor = np.maximum(k.flop / (f.flop_per_clock * k.rate * c.tensor_fraction), k.smem_bytes / f.smem_bytes_per_clock)
    softmax = k.exps / f.exp_per_clock * c.softmax_cycles
    return tensor, softmax


def step_cycles(k: Kernels, f: Figures, c: Constants) -> Array:
    """Cycles of a main-loop step on an SM: the busiest pipe, and what is exposed of the other."""
    tensor, softmax = pipes(k, f, c)
    return np.maximum(tensor, softmax) + c.softmax_exposed * np.minimum(tensor, softmax)


def busiest_cycles(k: Kernels, f: Figures, c: Constants) -> Array:
    """Cycles until the last SM is done, CTAs handed out as SMs become free.

    CTAs of one length make rounds. Unequal ones fill the SMs evenly but for the end, where on average half of a CTA
    that started late remains, at the share of its SM that it has; never less than the longest CTA.
    """
    step = step_cycles(k, f, c)
    tensor, softmax = pipes(k, f, c)
    drain = k.drained * (tensor + softmax)
    resident = np.minimum(k.per_sm, np.maximum(np.ceil(k.ctas / f.sms), 1))
    once = c.fill_cycles + drain
    equal = np.ceil(k.ctas / f.sms) * k.longest * step + np.ceil(k.ctas / (f.sms * resident)) * once
    mean = (k.steps * step + k.ctas * once / resident) / f.sms
    tail = np.where(k.ctas > f.sms, 0.5 * resident * k.last * step, 0.0)
    unequal = np.maximum(k.longest * step + once, mean + tail)
    return np.where(k.steps == k.ctas * k.longest, equal, unequal)


def times(k: Kernels, f: Figures, c: Constants) -> Times:
    """Seconds of each kernel: the norm of SM, L2 and HBM times, and the kernels beside."""
    power = k.steps * k.flop / (f.flop_per_s * k.rate * c.power_fraction)
    compute = np.maximum(busiest_cycles(k, f, c) / f.clock_hz, power)
    hbm = k.hbm_bytes / (f.hbm_bytes_per_s * c.hbm_fraction)
    l2 = k.l2_bytes / (f.l2_bytes_per_s * c.l2_fraction)
    parts = np.stack(np.broadcast_arrays(compute, l2, hbm))
    store = k.store_bytes / (f.hbm_bytes_per_s * c.hbm_fraction)
    combine = k.combine_bytes / (f.l2_bytes_per_s * c.l2_fraction)
    extra = store + combine + k.more_kernels * (NEXT_KERNEL_S + c.fill_cycles / f.clock_hz)
    greatest = np.maximum(parts.max(axis=0), 1e-30)
    seconds = greatest * np.linalg.norm(parts / greatest, c.overlap_order, axis=0) + extra
    return Times(seconds, compute, l2, hbm, extra)


def best(k: Kernels, f: Figures, c: Constants) -> tuple[Array, np.ndarray]:
    """Seconds under the fastest mapping of the leading axis, and its index: the stated guess of what libraries pick."""
    seconds = times(k, f, c).seconds
    choice = seconds.argmin(axis=0)
    return np.take_along_axis(seconds, choice[None], axis=0)[0], choice
