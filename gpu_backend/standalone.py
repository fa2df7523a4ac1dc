"""Measure kernels on a GPU: run in a job folder, where this file is `run.py`. Needs numpy, torch and triton alone.

For each point of job.json: correctness first, against stored results of the float64 oracle; then time with a cold L2
cache and in a graph of launches over rotating inputs, clocks, energy above idle, and DRAM bytes if ncu is installed.
One JSON record a point goes to records/; points with a record are left out, so that a run may be broken off and
started again. `--dry` goes the same way on the CPU with stepfall's interpreter in place of the GPU; `--ncu NAME` is
what ncu runs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
SAMPLES, WARM_S, GRAPHS = 100, 0.2, 20
FLUSHED = 256 * 2**20  # bytes that are written to evict the L2 cache
ROTATED = 200 * 2**20  # bytes of inputs that a graph rotates over, above any L2 cache
ENERGY_S, IDLE_S, MAX_SETS = 5.0, 3.0, 16
DRAM = {"read": "dram__bytes_read.sum", "write": "dram__bytes_write.sum"}


class Gpu:
    """A CUDA device through torch."""

    def __init__(self) -> None:
        self.torch, self.triton = import_module("torch"), import_module("triton")
        self.flush = self.torch.empty(FLUSHED, dtype=self.torch.int8, device="cuda")
        self._functions: dict[str, Any] = {}
        try:
            self.nvml = import_module("pynvml")
            self.nvml.nvmlInit()
            self.handle = self.nvml.nvmlDeviceGetHandleByIndex(0)
        except Exception:  # without NVML there are no clocks and no energy, and the record says so
            self.nvml = None

    def _dtype(self, name: str):
        names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "tf32": "float32", "int32": "int32"}
        return getattr(self.torch, names[name])

    def upload(self, array: np.ndarray, dtype: str):
        return self.torch.from_numpy(np.ascontiguousarray(array)).to("cuda").to(self._dtype(dtype))

    def draw(self, spec: dict, seed: int):
        generator = self.torch.Generator(device="cuda").manual_seed(seed)
        if "below" in spec:
            shape = (spec["shape"],)
            return self.torch.randint(spec["below"], *shape, device="cuda", generator=generator, dtype=self.torch.int32)
        values = self.torch.randn(spec["shape"], device="cuda", generator=generator)
        return (values * spec["spread"]).to(self._dtype(spec["dtype"]))

    def empty(self, spec: dict):
        return self.torch.full(spec["shape"], float("nan"), dtype=self._dtype(spec["dtype"]), device="cuda")

    def download(self, tensor) -> np.ndarray:
        return tensor.double().cpu().numpy()

    def launch(self, kernel: dict, tensors: dict) -> None:
        if kernel["file"] not in self._functions:
            self._functions[kernel["file"]] = load(kernel)
        options = {"num_warps": kernel["num_warps"], "num_stages": kernel["num_stages"]}
        arguments = [tensors[name] for name in kernel["arguments"]]
        self._functions[kernel["file"]][tuple(kernel["grid"])](*arguments, **kernel["constants"], **options)

    def cold(self, run) -> list[float]:
        """Seconds of single runs after the L2 cache was filled with something else."""
        event, end = (lambda: self.torch.cuda.Event(enable_timing=True)), time.perf_counter() + WARM_S
        while time.perf_counter() < end:
            run(0)
            self.torch.cuda.synchronize()
        pairs = [(event(), event()) for _ in range(SAMPLES)]
        for i, (start, stop) in enumerate(pairs):
            self.flush.zero_()
            start.record()
            run(i)
            stop.record()
        self.torch.cuda.synchronize()
        return [start.elapsed_time(stop) / 1e3 for start, stop in pairs]

    def graph(self, run, sets: int):
        """A graph of one run over each set of inputs, to be replayed without gaps between launches."""
        stream = self.torch.cuda.Stream()
        with self.torch.cuda.stream(stream):
            for i in range(sets):
                run(i)
            stream.synchronize()
            made = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(made, stream=stream):
                for i in range(sets):
                    run(i)
        return made.replay

    def replayed(self, replay, sets: int) -> list[float]:
        """Seconds a run in replays of a graph."""
        event, found = (lambda: self.torch.cuda.Event(enable_timing=True)), []
        for _ in range(GRAPHS + 3):
            start, stop = event(), event()
            start.record()
            replay()
            stop.record()
            self.torch.cuda.synchronize()
            found.append(start.elapsed_time(stop) / 1e3 / sets)
        return found[3:]

    def _read(self, name: str, *arguments):
        """What NVML answers; None where the device does not support it."""
        try:
            return getattr(self.nvml, name)(self.handle, *arguments)
        except Exception:
            return None

    def state(self) -> dict | None:
        if self.nvml is None:
            return None
        power = self._read("nvmlDeviceGetPowerUsage")
        return {
            "sm_hz": _times(self._read("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM), 1e6),
            "memory_hz": _times(self._read("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_MEM), 1e6),
            "power_w": _times(power, 1e-3),
            "temperature_c": self._read("nvmlDeviceGetTemperature", self.nvml.NVML_TEMPERATURE_GPU),
            "throttle_reasons": self._read("nvmlDeviceGetCurrentClocksThrottleReasons"),
        }

    def _tick(self, between) -> tuple[float, float]:
        """(joules, seconds) at the next step of the energy counter, which moves every tenth of a second or so."""
        first = self._read("nvmlDeviceGetTotalEnergyConsumption")
        while (now := self._read("nvmlDeviceGetTotalEnergyConsumption")) == first:
            between()
        assert now is not None, "asked only where it is supported"
        return now / 1e3, time.perf_counter()

    def energy(self, replay, sets: int) -> dict | None:
        """Joules a run over at least ENERGY_S of replays, and above those of an idle device; None if unsupported."""
        if self.nvml is None or self._read("nvmlDeviceGetTotalEnergyConsumption") is None:
            return None
        self.torch.cuda.synchronize()
        time.sleep(2)
        joules, start = self._tick(lambda: time.sleep(1e-3))
        time.sleep(IDLE_S)
        later, end = self._tick(lambda: time.sleep(1e-3))
        idle_w, runs = (later - joules) / (end - start), 0

        def work() -> None:
            nonlocal runs
            replay()
            self.torch.cuda.synchronize()
            runs += sets

        self._tick(work)
        joules, start = self._tick(work)
        runs = 0
        while time.perf_counter() - start < ENERGY_S:
            work()
        later, end = self._tick(work)
        window, spent = end - start, later - joules
        return {"window_s": window, "runs": runs, "idle_w": idle_w, "run_j": spent / runs,
                "run_above_idle_j": (spent - idle_w * window) / runs}  # fmt: skip

    def device(self) -> dict:
        found = self.torch.cuda.get_device_properties(0)
        return {"name": found.name, "sms": found.multi_processor_count, "l2_bytes": found.L2_cache_size,
                "capability": f"{found.major}.{found.minor}", "driver": self._driver()}  # fmt: skip

    def _driver(self) -> str:
        return str(self.nvml.nvmlSystemGetDriverVersion()) if self.nvml else ""

    def software(self) -> dict:
        return {"python": platform.python_version(), "torch": self.torch.__version__, "triton": self.triton.__version__}

    def baselines(self, point: dict) -> dict:
        """name -> run(tensors) of torch's own kernels for the same tensors."""
        if point["baseline"] is None:
            return {}
        causal, attention = (
            point["baseline"] == "causal attention",
            self.torch.nn.functional.scaled_dot_product_attention,
        )

        def eager(x: dict):
            scores = x["Q"] @ x["K"].transpose(-1, -2)
            if causal:
                hidden = self.torch.ones(scores.shape[-2:], dtype=self.torch.bool, device="cuda").triu(1)
                scores = scores.masked_fill(hidden, float("-inf"))
            return self.torch.softmax(scores, -1) @ x["V"]

        fused = lambda x: attention(x["Q"], x["K"], x["V"], is_causal=causal, scale=1.0)
        return {"torch eager": eager, "torch sdpa": fused}


class Dry(Gpu):
    """The CPU in a GPU's place, to try everything but the GPU; its times mean nothing."""

    def __init__(self) -> None:
        from gpu_backend import interpret

        self._interpret, self.nvml = interpret, None

    def upload(self, array: np.ndarray, dtype: str):
        return self._tensor(array.shape, dtype, self._interpret.stored(array, dtype))

    def draw(self, spec: dict, seed: int):
        random = np.random.default_rng(seed)
        if "below" in spec:
            return self.upload(random.integers(spec["below"], size=spec["shape"]), "int32")
        return self.upload(random.standard_normal(spec["shape"]) * spec["spread"], spec["dtype"])

    def empty(self, spec: dict):
        return self._tensor(tuple(spec["shape"]), spec["dtype"], None)

    def _tensor(self, shape, dtype: str, values):
        from gpu_backend.kernel import Argument

        argument = Argument("", dtype, tuple(shape), values is None)
        tensor = self._interpret.HostTensor(argument, values)
        tensor.stored_type = dtype
        return tensor

    def download(self, tensor) -> np.ndarray:
        return self._interpret.values(tensor.array, tensor.stored_type)

    def launch(self, kernel: dict, tensors: dict) -> None:
        arguments = [tensors[name] for name in kernel["arguments"]]
        self._interpret.launch_one(load(kernel), arguments, kernel["constants"], tuple(kernel["grid"]))

    def cold(self, run) -> list[float]:
        start = time.perf_counter()
        run(0)
        return [time.perf_counter() - start]

    def graph(self, run, sets: int):
        return lambda: run(0)

    def replayed(self, replay, sets: int) -> list[float]:
        start = time.perf_counter()
        replay()
        return [time.perf_counter() - start]

    def device(self) -> dict:
        return {"name": "dry", "sms": 0, "l2_bytes": 0, "capability": "", "driver": ""}

    def software(self) -> dict:
        import triton

        return {"python": platform.python_version(), "torch": "", "triton": triton.__version__}

    def baselines(self, point: dict) -> dict:
        return {}


def _times(value, factor: float):
    return None if value is None else value * factor


def load(kernel: dict):
    """The kernel's function, from its file."""
    spec = importlib.util.spec_from_file_location(Path(kernel["file"]).stem, FOLDER / kernel["file"])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, kernel["function"])


def check(gpu: Gpu, part: dict) -> float:
    """Largest error of the small kernels over the largest value of the oracle's results."""
    data = np.load(FOLDER / part["data"])
    inputs = [name for name, spec in part["tensors"].items() if spec["role"] == "input"]
    tensors = {n: gpu.upload(data[n], s["dtype"]) if n in inputs else gpu.empty(s) for n, s in part["tensors"].items()}
    for kernel in part["kernels"]:
        gpu.launch(kernel, tensors)
    worst = 0.0
    for name in part["outputs"]:
        found, exact = gpu.download(tensors[name]), data[name]
        if not np.isfinite(found).all():
            return float("inf")
        worst = max(worst, float(np.abs(found - exact).max() / np.abs(exact).max()))
    return worst


def sets_of(gpu: Gpu, part: dict, dry: bool) -> list[dict]:
    """Sets of tensors that together do not fit the L2 cache."""
    bits = {"bf16": 16, "fp16": 16, "fp32": 32, "tf32": 32, "int32": 32}
    size = sum(int(np.prod(s["shape"])) * bits[s["dtype"]] // 8 for s in part["tensors"].values())
    count = 1 if dry else max(2, min(MAX_SETS, -(-ROTATED // size)))
    draw = lambda name, spec, seed: gpu.draw(spec, seed) if spec["role"] == "input" else gpu.empty(spec)
    return [{n: draw(n, s, 1000 * i + j) for j, (n, s) in enumerate(part["tensors"].items())} for i in range(count)]


def summary(samples: list[float]) -> dict:
    """Median and spread of seconds; the medians of both halves tell drift, such as throttling."""
    ordered, middle = sorted(samples), len(samples) // 2
    at = lambda part: ordered[round(part * (len(ordered) - 1))]
    return {"samples": len(samples), "median_s": statistics.median(samples), "low_s": at(0.25), "high_s": at(0.75),
            "first_half_s": statistics.median(samples[:middle] or samples),
            "second_half_s": statistics.median(samples[middle:])}  # fmt: skip


def dram(name: str) -> dict | None:
    """DRAM bytes of one run from a separate run under ncu; None where ncu is not installed or not allowed."""
    if shutil.which("ncu") is None:
        return None
    command = ["ncu", "--clock-control", "none", "--cache-control", "all", "--replay-mode", "kernel", "--csv",
               "--page", "raw", "--print-units", "base", "--metrics", ",".join(DRAM.values()),
               sys.executable, str(FOLDER / "run.py"), "--ncu", name]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout[done.stdout.find('"ID"') :].splitlines()
    rows = [row for row in csv.DictReader(lines) if row.get("ID", "").isdigit()]
    if done.returncode or not rows:
        return None
    return {side: sum(float(row[metric].replace(",", "")) for row in rows) for side, metric in DRAM.items()}


def measure(gpu: Gpu, point: dict, dry: bool) -> dict:
    """The record of a point; its times are left out if its values are wrong."""
    error, part = check(gpu, point["check"]), point["timed"]
    record = {
        "schema": "stepfall-record/1",
        "name": point["name"],
        "config": point["config"],
        "taken_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": gpu.device(),
        "software": gpu.software(),
        "sources_sha256": [hashlib.sha256((FOLDER / k["file"]).read_bytes()).hexdigest() for k in part["kernels"]],
        "check": {"error": min(error, 1e30), "tolerance": point["check"]["tolerance"]},
        "expected": part["expected"],
    }
    if error > point["check"]["tolerance"]:
        return record
    tensors = sets_of(gpu, part, dry)

    def run(i: int) -> None:
        for kernel in part["kernels"]:
            gpu.launch(kernel, tensors[i % len(tensors)])

    before, times = gpu.state(), {"cold": summary(gpu.cold(run))}
    replay = gpu.graph(run, len(tensors))
    times["graph"] = summary(gpu.replayed(replay, len(tensors)))
    record |= {"time": times, "clocks": {"before": before, "after": gpu.state()}}
    if point["energy"]:
        record["energy"] = gpu.energy(replay, len(tensors))
    if point["ncu"] and not dry:
        record["dram"] = dram(point["name"])
    record["baselines"] = {
        name: summary(gpu.cold(lambda i, step=step: step(tensors[i % len(tensors)])))
        for name, step in gpu.baselines(point).items()
    }
    return record


def main() -> int:
    """Measure every point that has no record yet; 1 if the values of any are wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--dry", action="store_true", help="the CPU in the GPU's place; records are marked dry")
    parser.add_argument("--only", default="", help="points whose name contains this")
    parser.add_argument("--ncu", metavar="NAME", help="launch the kernels of one point once, under ncu")
    options = parser.parse_args()
    job = json.loads((FOLDER / "job.json").read_text(encoding="utf-8"))
    gpu = Dry() if options.dry else Gpu()
    if options.ncu:
        part = next(point["timed"] for point in job["points"] if point["name"] == options.ncu)
        (tensors,) = sets_of(gpu, part, dry=True)
        for kernel in part["kernels"]:
            gpu.launch(kernel, tensors)
        return 0
    (FOLDER / "records").mkdir(exist_ok=True)
    wrong = 0
    for point in (p for p in job["points"] if options.only in p["name"]):
        file = FOLDER / "records" / f"{point['name']}.json"
        if file.exists():
            continue
        record = measure(gpu, point, options.dry)
        wrong += "time" not in record
        part = file.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(file)
        cold = record["time"]["cold"]["median_s"] if "time" in record else float("nan")
        sys.stdout.write(f"{point['name']}: error {record['check']['error']:.1e}, {1e6 * cold:.1f} us\n")
        sys.stdout.flush()
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
