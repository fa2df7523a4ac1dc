"""Job folders: planned here, run as they would on a GPU machine but for the GPU, and their records taken in."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from arch.read import load as load_machine
from einsum.problems import InputError
from gpu_backend import campaign, job
from gpu_backend.record import RECORDS, newest, read, result, schema, take_in

MACHINE = load_machine("h100")
CHOSEN = ("attention-1pass-causal_B32", "attention-2pass-recompute_B32", "attention-flashdecode-gqa", "gemm_M1024")


def small_points():
    """One point of each family, timed at the sizes of its check."""
    every = campaign.points(MACHINE)
    chosen = [next(p for p in every if p.name.startswith(name)) for name in CHOSEN]
    return [replace(p, sizes=p.small, mapping=p.small_mapping, energy=True, ncu=True) for p in chosen]


def run(folder, *options):
    root = str(Path(__file__).parents[2])
    command = [sys.executable, str(folder / "run.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": root, "PATH": ""})


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """A folder after a dry run."""
    folder = tmp_path_factory.mktemp("jobs") / "job"
    assert job.write(small_points(), folder) == len(CHOSEN)
    done = run(folder, "--dry")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_dry_run_checks_every_point_and_writes_valid_records(dry):
    records = [read(file) for file in sorted((dry / "records").glob("*.json"))]
    assert [r.name.split("_B")[0].split("_M")[0] for r in records] == [
        "attention-1pass-causal", "attention-2pass-recompute", "attention-flashdecode-gqa", "gemm",
    ]  # fmt: skip
    for record in records:
        assert 0 < record.check.error <= record.check.tolerance and record.time is not None
        assert record.device.name == "dry" and record.energy is None and record.dram is None
        assert record.expected.issued_bytes >= record.expected.compulsory_bytes > 0


def test_a_run_goes_on_where_it_was_broken_off(dry):
    files = sorted((dry / "records").glob("*.json"))
    before = {file: file.read_bytes() for file in files}
    files[0].unlink()
    done = run(dry, "--dry")
    assert done.returncode == 0 and done.stdout.count("\n") == 1  # one point
    assert all(file.read_bytes() == before[file] for file in files[1:]) and files[0].exists()


def test_a_dry_run_is_not_taken_in(dry, tmp_path):
    with pytest.raises(InputError, match="a dry run measures nothing"):
        take_in(dry, tmp_path)
    assert not list(tmp_path.iterdir())


def measured(dry, folder, **changes):
    """A job folder whose records claim to be of a GPU."""
    (folder / "records").mkdir(parents=True)
    for file in (dry / "records").glob("*.json"):
        data = json.loads(file.read_text()) | changes
        data["device"]["name"] = "NVIDIA H100"
        (folder / "records" / file.name).write_text(json.dumps(data))
    return folder


def test_records_are_taken_in_and_the_newest_is_found(dry, tmp_path):
    for taken in ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"):
        files = take_in(measured(dry, tmp_path / taken, taken_utc=taken), tmp_path / "records")
    assert len(files) == len(CHOSEN) and len(list((tmp_path / "records").iterdir())) == 2 * len(CHOSEN)
    sizes = read(files[-1]).config.sizes
    found = newest("gemm", "gpu-gemm", sizes, tmp_path / "records")
    assert found is not None and found.taken_utc == "2026-02-01T00:00:00Z"
    assert result(found).latency_s == found.time.cold.median_s
    assert newest("gemm", "gpu-gemm", sizes | {"K": 1}, tmp_path / "records") is None


def test_wrong_values_and_unknown_fields_are_refused(dry, tmp_path):
    wrong = measured(dry, tmp_path / "wrong", check={"error": 1.0, "tolerance": 0.1})
    with pytest.raises(InputError, match="its values are wrong"):
        take_in(wrong, tmp_path / "records")
    odd = measured(dry, tmp_path / "odd", speed=1.0)
    with pytest.raises(InputError, match=r"speed: Extra inputs are not permitted"):
        take_in(odd, tmp_path / "records")
    with pytest.raises(InputError, match="no records"):
        take_in(tmp_path)
    assert not (tmp_path / "records").exists()


def test_a_kernel_with_wrong_values_has_no_times(dry, tmp_path):
    folder = tmp_path / "job"
    point = small_points()[-1]
    job.write([point], folder)
    data = json.loads((folder / "job.json").read_text())
    (kernel,) = data["points"][0]["check"]["kernels"]
    file = folder / kernel["file"]
    file.write_text(file.read_text().replace("tl.dot(A, B, C)", "tl.dot(A, B, C) * 1.1"))
    assert run(folder, "--dry").returncode == 1
    assert read(next((folder / "records").glob("*.json"))).time is None


def test_planning_leaves_nothing_behind_when_it_fails(tmp_path):
    with pytest.raises(InputError, match="exists already"):
        job.write([], tmp_path)
    fitting, *_ = small_points()
    too_large = replace(
        fitting, mapping=campaign.library_gpu.flash_attention(fitting.cascade, MACHINE, fitting.sizes, 256, 256)
    )
    with pytest.raises(InputError, match="registers has"):
        job.write([fitting, too_large], tmp_path / "job")
    assert not list(tmp_path.iterdir())


def test_the_campaign_has_three_tiles_of_everything_and_distinct_names():
    points = campaign.points(MACHINE)
    names = [p.name for p in points]
    assert len(set(names)) == len(names) and len(names) % 3 == 0
    assert sum(p.energy for p in points) >= 30 and sum(p.ncu for p in points) >= 20
    assert {p.cascade.name for p in points} >= {
        "attention-1pass",
        "attention-2pass-recompute-causal",
        "mla-decode",
        "gemm",
    }


def test_the_schema_is_up_to_date_and_every_record_is_valid():
    text = json.dumps(schema(), indent=2) + "\n"
    assert (RECORDS / "schema.json").read_text() == text, "run this file as a script to write it again"
    for file in RECORDS.glob("*_*.json"):
        read(file)


if __name__ == "__main__":
    (RECORDS / "schema.json").write_text(json.dumps(schema(), indent=2) + "\n")
