"""Measurement records: their schema, taking them in from a job folder, and finding the newest of a mapping."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from einsum.problems import InputError, Problem
from mapper.result import Result, Row

RECORDS = Path(__file__).with_name("records")
SCHEMA = "stepfall-record/1"


class Strict(BaseModel):
    """Neither unknown fields nor NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Config(Strict):
    """What was measured."""

    cascade: str
    mapping: str
    tile: str
    machine: str
    dtype: str
    sizes: dict[str, int]


class Device(Strict):
    """The GPU."""

    name: str
    sms: int
    l2_bytes: int
    capability: str
    driver: str


class Software(Strict):
    """Versions."""

    python: str
    torch: str
    triton: str


class Check(Strict):
    """Largest error over the largest value of the result: of the float64 oracle's at small sizes, of a plain fp32
    computation's at the timed sizes."""

    error: float
    tolerance: float


class Samples(Strict):
    """Seconds of one run of all the kernels of a point."""

    samples: int = Field(gt=0)
    median_s: float = Field(gt=0)
    low_s: float = Field(gt=0)
    high_s: float = Field(gt=0)
    first_half_s: float = Field(gt=0)
    second_half_s: float = Field(gt=0)


class Rival(Samples):
    """What others compute from the same tensors, with a cold L2 cache; its tile if one was chosen."""

    tile: str | None = None


class Time(Strict):
    """Single runs with a cold L2 cache, and runs in a graph over rotating inputs."""

    cold: Samples
    graph: Samples


class State(Strict):
    """What NVML says at one moment; None where the device does not."""

    sm_hz: float | None
    memory_hz: float | None
    power_w: float | None
    temperature_c: float | None
    throttle_reasons: int | None


class Clocks(Strict):
    """Before and after the timed runs."""

    before: State | None
    after: State | None


class Energy(Strict):
    """Of one run, from NVML's energy counter over a window of seconds."""

    window_s: float
    runs: int
    idle_w: float
    run_j: float
    run_above_idle_j: float


class Dram(Strict):
    """Bytes of one run, from ncu."""

    read: float
    write: float


class Expected(Strict):
    """The closed form when the job was planned."""

    issued_bytes: float
    compulsory_bytes: float
    macs: float
    useful_macs: float
    latency_s: float
    energy_j: float | None


class Record(Strict):
    """One measured point; without `time` its values were wrong."""

    schema_: Literal["stepfall-record/1"] = Field(alias="schema")
    name: str = Field(pattern=r"^[\w.-]+$")
    config: Config
    taken_utc: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    device: Device
    software: Software
    sources_sha256: list[str]
    check: Check
    timed_check: Check | None = None  # where there is a plain computation to compare with
    expected: Expected
    time: Time | None = None
    clocks: Clocks | None = None
    energy: Energy | None = None
    dram: Dram | None = None
    baselines: dict[str, Rival] = Field(default_factory=dict)


def schema() -> dict[str, object]:
    """The JSON schema of a record."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Record.model_json_schema(by_alias=True)}


def read(file: Path) -> Record:
    """A record from a file; InputError with every problem."""
    try:
        return Record.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise InputError(
            Problem(e["msg"], str(file), path=".".join(map(str, e["loc"])), got=str(e["input"])[:40])
            for e in error.errors()
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(f"cannot read: {error}", str(file))) from None


def take_in(folder: Path, target: Path = RECORDS) -> tuple[Path, ...]:
    """Copy the valid records of a job folder to those of the project; InputError, and nothing copied, if any is not.

    Dry runs and points whose values are wrong are no measurements.
    """
    files = sorted((folder / "records").glob("*.json"))
    if not files:
        raise InputError(Problem("no records: run `python run.py` in it on a GPU machine first", got=str(folder)))
    found, problems = [], []
    for file in files:
        try:
            record = read(file)
        except InputError as error:
            problems += error.problems
            continue
        if record.device.name == "dry":
            problems.append(Problem("a dry run measures nothing", str(file)))
        elif record.time is None or wrong(record):
            problems.append(Problem("its values are wrong", str(file), got=f"error {worst(record):.1e}"))
        found.append((file, record))
    if problems:
        raise InputError(problems)
    target.mkdir(exist_ok=True)
    return tuple(_copied(file, record, target) for file, record in found)


def wrong(record: Record) -> bool:
    """Whether any of its values is."""
    return any(check.error > check.tolerance for check in _checks(record))


def worst(record: Record) -> float:
    """The larger error of its checks."""
    return max(check.error for check in _checks(record))


def _checks(record: Record) -> tuple[Check, ...]:
    return (record.check, record.timed_check) if record.timed_check else (record.check,)


def _copied(file: Path, record: Record, target: Path) -> Path:
    """Named by point, device and time, so that records pile up; written whole or not at all."""
    device = "-".join(record.device.name.split()).lower()
    taken = record.taken_utc.replace(":", "").replace("-", "")
    destination = target / f"{record.name}_{device}_{taken}.json"
    with tempfile.NamedTemporaryFile("w", dir=target, suffix=".part", delete=False, encoding="utf-8") as part:
        part.write(json.dumps(json.loads(file.read_text(encoding="utf-8")), indent=1, allow_nan=False) + "\n")
    return Path(part.name).replace(destination)


def newest(cascade: str, mapping: str, sizes: dict[str, int], folder: Path = RECORDS) -> Record | None:
    """The newest record of a mapped cascade at these sizes; None if it was never measured."""
    records = [read(file) for file in sorted(folder.glob("*_*.json"))]
    same = [r for r in records if (r.config.cascade, r.config.mapping, r.config.sizes) == (cascade, mapping, sizes)]
    return max(same, key=lambda r: r.taken_utc, default=None)


def result(record: Record) -> Result:
    """A record's measurements as a `Result`."""
    rows = []
    if record.time:
        cold = record.time.cold
        rows.append(Row("latency", cold.median_s, low=cold.low_s, high=cold.high_s))
    if record.energy:
        rows.append(Row("energy", record.energy.run_above_idle_j, detail="above idle"))
    if record.dram:
        rows += [Row("bytes", n, place="hbm", detail=side) for side, n in record.dram.model_dump().items()]
    software = f"torch {record.software.torch}, triton {record.software.triton}"
    notes = [f"{record.device.name}, {record.taken_utc}, {software}"]
    if record.time:
        ours = record.time.cold.median_s
        notes += [f"{name} takes {rival.median_s / ours:.2f} of its time" for name, rival in record.baselines.items()]
    return Result("measured", record.config.model_dump(), tuple(rows), notes=tuple(notes))
