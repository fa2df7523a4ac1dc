"""What runs a job's kernels: a GPU through torch, and for dry runs the CPU through stepfall's interpreter.

Part of a job folder.
"""

from __future__ import annotations

import importlib.util
import platform
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
SAMPLES, WARM_S, GRAPHS = 100, 0.2, 20
FLUSHED = 256 * 2**20  # bytes that are written to evict the L2 cache
ENERGY_S, IDLE_S = 5.0, 3.0


class Gpu:
    """A CUDA device through torch."""

    refusals: tuple[type[Exception], ...] = (Exception,)  # that a point may end with; the run goes on

    def __init__(self) -> None:
        self.torch, self.triton = import_module("torch"), import_module("triton")
        self.flush = self.torch.empty(FLUSHED, dtype=self.torch.int8, device="cuda")
        self.math: Any = self.torch
        self._functions: dict[str, Any] = {}
        # descriptors of what copy engines move lie in memory that a launch asks for
        self.triton.set_allocator(lambda size, *_: self.torch.empty(size, dtype=self.torch.int8, device="cuda"))
        try:
            self.nvml = import_module("pynvml")
            self.nvml.nvmlInit()
            self.handle = self.nvml.nvmlDeviceGetHandleByIndex(0)
        except Exception:  # without NVML there are no clocks and no energy, and the record says so
            self.nvml = None

    def _dtype(self, name: str):
        names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "tf32": "float32", "int32": "int32",
                 "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}  # fmt: skip
        return getattr(self.torch, names[name])

    def upload(self, array: np.ndarray, dtype: str):
        return self.torch.from_numpy(np.ascontiguousarray(array)).to("cuda").to(self._dtype(dtype))

    def draw(self, spec: dict, seed: int):
        """Normal numbers, made in place: the largest tensors fill a third of the memory."""
        generator = self.torch.Generator(device="cuda").manual_seed(seed)
        drawn = self._dtype("bf16" if spec["dtype"] in ("e4m3", "e5m2") else spec["dtype"])
        values = self.torch.randn(spec["shape"], device="cuda", generator=generator, dtype=drawn)
        return values.mul_(spec["spread"]).to(self._dtype(spec["dtype"]))

    def empty(self, spec: dict):
        initial = 0 if spec["dtype"] == "int32" else float("nan")
        return self.torch.full(spec["shape"], initial, dtype=self._dtype(spec["dtype"]), device="cuda")

    def choice(self, launches: list[dict]) -> list[dict]:
        """Those among which a rival's fastest is looked for."""
        return launches

    def release(self) -> None:
        """Give back what the last point's tensors took."""
        self.torch.cuda.empty_cache()

    def plain(self, tensor):
        """An array of `self.math`."""
        return tensor

    def wide(self, array):
        return array.float()

    def arange(self, n: int):
        return self.torch.arange(n, device="cuda")

    def index(self, numbers: np.ndarray):
        return self.torch.from_numpy(numbers.astype(np.int64)).to("cuda")

    def whole(self, array) -> np.ndarray:
        """Whole numbers, on the host."""
        return array.cpu().numpy().astype(np.int64)

    def download(self, tensor) -> np.ndarray:
        return tensor.double().cpu().numpy()

    def launch(self, kernel: dict, tensors: dict) -> None:
        if kernel["file"] not in self._functions:
            self._functions[kernel["file"]] = load(kernel)
        options = {"num_warps": kernel["num_warps"], "num_stages": kernel["num_stages"]}
        arguments = [tensors[name] for name in kernel["arguments"]]
        self._functions[kernel["file"]][tuple(kernel["grid"])](*arguments, **kernel["constants"], **options)

    def cold(self, run, samples: int = SAMPLES, warm_s: float = WARM_S) -> list[float]:
        """Seconds of single runs after the L2 cache was filled with something else."""
        event, end = (lambda: self.torch.cuda.Event(enable_timing=True)), time.perf_counter() + warm_s
        while time.perf_counter() < end:
            run(0)
            self.torch.cuda.synchronize()
        pairs = [(event(), event()) for _ in range(samples)]
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
        causal = point["baseline"] == "causal attention"
        attention = self.torch.nn.functional.scaled_dot_product_attention

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

    refusals = ()

    def __init__(self) -> None:
        from gpu_backend import interpret

        self._interpret, self.nvml, self.math = interpret, None, np

    def upload(self, array: np.ndarray, dtype: str):
        return self._tensor(array.shape, dtype, self._interpret.stored(array, dtype))

    def draw(self, spec: dict, seed: int):
        random = np.random.default_rng(seed)
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

    def choice(self, launches: list[dict]) -> list[dict]:
        return [launches[0], launches[-1]]

    def release(self) -> None:
        pass

    def plain(self, tensor):
        return self.download(tensor)

    def wide(self, array):
        return array

    def arange(self, n: int):
        return np.arange(n)

    def index(self, numbers: np.ndarray):
        return numbers

    def whole(self, array) -> np.ndarray:
        return array.astype(np.int64)

    def cold(self, run, samples: int = SAMPLES, warm_s: float = WARM_S) -> list[float]:
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
