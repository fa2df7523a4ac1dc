"""Measure kernels on a GPU: run in a job folder. Needs numpy, torch and triton alone.

For each point of job.json: correctness first, at small sizes against stored results of the float64 oracle and at the
timed sizes against `reference.py`; then time with a cold L2 cache and in a graph of launches over rotating inputs,
clocks, energy above idle, DRAM bytes if ncu is installed, and the times of what others compute from the same tensors.
One JSON record a point goes to records/; points with a record are left out, so that a run may be broken off and
started again. `--dry` goes the same way on the CPU with stepfall's interpreter in place of the GPU; `--ncu NAME` is
what ncu runs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import reference
from devices import FOLDER, SAMPLES, WARM_S, Dry, Gpu

ROTATED = 200 * 2**20  # bytes of inputs that a graph rotates over, above any L2 cache
SINGLE = 8 * ROTATED  # a run over so many bytes leaves next to nothing of them in the cache for the next
MAX_SETS = 16
TUNED, TUNED_S = 10, 0.02  # samples, and seconds of warm-up, in the choice of a rival's tile
DRAM = {"read": "dram__bytes_read.sum", "write": "dram__bytes_write.sum"}
BITS = {"e4m3": 8, "e5m2": 8, "bf16": 16, "fp16": 16, "fp32": 32, "tf32": 32, "int32": 32}
INFINITE = 1e30  # JSON has no infinity


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
    """Sets of tensors that together do not fit the L2 cache; what decides which work is done is the same in all."""
    size = sum(int(np.prod(s["shape"])) * BITS[s["dtype"]] // 8 for s in part["tensors"].values())
    count = 1 if dry or size > SINGLE else max(2, min(MAX_SETS, -(-ROTATED // size)))
    given = dict(np.load(FOLDER / part["given"])) if part["given"] else {}

    def made(name: str, spec: dict, seed: int):
        if name in given:
            return gpu.upload(given[name], spec["dtype"])
        return gpu.draw(spec, seed) if spec["role"] == "input" else gpu.empty(spec)

    return [{n: made(n, s, 1000 * i + j) for j, (n, s) in enumerate(part["tensors"].items())} for i in range(count)]


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


def tried(gpu: Gpu, run, samples: int = SAMPLES, warm_s: float = WARM_S) -> list[float]:
    """Seconds of cold runs; none where the device refuses, for want of memory, registers or shared memory."""
    try:
        return gpu.cold(run, samples, warm_s)
    except gpu.refusals as error:
        sys.stderr.write(f"left out: {type(error).__name__}: {str(error)[:200]}\n")
        return []


def others(gpu: Gpu, point: dict, sets: list[dict], chosen: dict) -> dict:
    """Times of what others compute from the same tensors: torch's own kernels, and the rival."""
    torch_runs = {name: lambda i, step=step: step(sets[i % len(sets)]) for name, step in gpu.baselines(point).items()}
    found = {name: summary(samples) for name, run in torch_runs.items() if (samples := tried(gpu, run))}
    return found | (rival(gpu, point, sets, chosen) if point["rival"] else {})


def rival(gpu: Gpu, point: dict, sets: list[dict], chosen: dict) -> dict:
    """Times of the rival's fastest tile; nothing if none fits, or if its values are wrong.

    `chosen` remembers the launch for a shape.
    """
    launches, shape = gpu.choice(point["rival"]["kernels"]), json.dumps(point["rival"])
    results = {n: gpu.empty(spec) for n, spec in point["rival"]["tensors"].items() if spec["role"] == "stored"}
    step = lambda launch: lambda i: gpu.launch(launch, sets[i % len(sets)] | results)
    if shape not in chosen:
        timed = [(samples, launch) for launch in launches if (samples := tried(gpu, step(launch), TUNED, TUNED_S))]
        chosen[shape] = min(timed, key=lambda pair: statistics.median(pair[0]))[1] if timed else None
    if chosen[shape] is None:
        return {}
    step(chosen[shape])(0)
    if reference_error(gpu, point, sets[0] | results) > point["check"]["tolerance"]:
        sys.stderr.write(f"{point['name']}: the values of {point['rival']['name']} are wrong\n")
        return {}
    return {point["rival"]["name"]: summary(gpu.cold(step(chosen[shape]))) | {"tile": tile_of(chosen[shape])}}


def tile_of(launch: dict) -> str:
    """A launch's constants and what it asks of the compiler."""
    options = launch["constants"] | {name: launch[name] for name in ("num_warps", "num_stages")}
    return ", ".join(f"{name}={value}" for name, value in options.items())


def reference_error(gpu: Gpu, point: dict, tensors: dict) -> float:
    """The largest error of what lies in the tensors, at the timed sizes."""
    return min(reference.error(gpu, point["reference"], tensors), INFINITE)


def measure(gpu: Gpu, point: dict, chosen: dict, dry: bool) -> dict:
    """The record of a point; its times are left out if its values are wrong at small sizes or at the timed ones."""
    error, part, tolerance = check(gpu, point["check"]), point["timed"], point["check"]["tolerance"]
    record = {
        "schema": "stepfall-record/1",
        "name": point["name"],
        "config": point["config"],
        "taken_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": gpu.device(),
        "software": gpu.software(),
        "sources_sha256": [hashlib.sha256((FOLDER / k["file"]).read_bytes()).hexdigest() for k in part["kernels"]],
        "check": {"error": min(error, INFINITE), "tolerance": tolerance},
        "expected": part["expected"],
    }
    if error > tolerance:
        return record
    tensors = sets_of(gpu, part, dry)

    def run(i: int) -> None:
        for kernel in part["kernels"]:
            gpu.launch(kernel, tensors[i % len(tensors)])

    if point["reference"]:
        run(0)
        error = reference_error(gpu, point, tensors[0])
        record["timed_check"] = {"error": error, "tolerance": tolerance}
        if error > tolerance:
            return record
    before, times = gpu.state(), {"cold": summary(gpu.cold(run))}
    replay = gpu.graph(run, len(tensors))
    times["graph"] = summary(gpu.replayed(replay, len(tensors)))
    record |= {"time": times, "clocks": {"before": before, "after": gpu.state()}}
    if point["energy"]:
        record["energy"] = gpu.energy(replay, len(tensors))
    if point["ncu"] and not dry:
        record["dram"] = dram(point["name"])
    record["baselines"] = others(gpu, point, tensors, chosen)
    return record


def recorded(gpu: Gpu, point: dict, file: Path, chosen: dict, dry: bool) -> bool:
    """Measure a point and write its record, whole or not at all; whether its values are right."""
    try:
        record = measure(gpu, point, chosen, dry)
    except gpu.refusals as error:
        sys.stderr.write(f"{point['name']}: {type(error).__name__}: {str(error)[:500]}\n")
        return False
    part = file.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(file)
    cold = record["time"]["cold"]["median_s"] if "time" in record else float("nan")
    worst = max(record[name]["error"] for name in ("check", "timed_check") if name in record)
    sys.stdout.write(f"{point['name']}: error {worst:.1e}, {1e6 * cold:.1f} us\n")
    sys.stdout.flush()
    return "time" in record


def main() -> int:
    """Measure every point that has no record yet; 1 if the values of any are wrong, or the device refused it."""
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
    right, chosen = True, {}
    for point in (p for p in job["points"] if options.only in p["name"]):
        file = FOLDER / "records" / f"{point['name']}.json"
        if not file.exists():
            right &= recorded(gpu, point, file, chosen, options.dry)
            gpu.release()
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
