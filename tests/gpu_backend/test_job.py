"""Job folders: planned here, run as they would on a GPU machine but for the GPU, and their records taken in."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from arch.read import load as load_machine
from einsum.library import load as load_cascade
from einsum.problems import InputError
from gpu_backend import campaign, job, record as record_module
from gpu_backend.record import RECORDS, newest, read, result, schema, take_in
from mapper import library_gpu
from studies import crosscheck
from studies.models import model as load_model

MACHINE = load_machine("h100")
CHOSEN = (
    "attention-1pass-causal_B32", "attention-2pass-recompute_B32", "attention-flashdecode-gqa",
    "fused-moe_Mixtral", "gemm_M1024", "mla-decode", "paged-decode",
)  # fmt: skip

LONG = {"B": 1, "H": 2, "P": 256, "M": 256, "E": 64, "F": 64}


def small_points():
    """One point of each family, timed at the sizes of its check."""
    every = campaign.points(MACHINE)
    chosen = [next(p for p in every if p.name.startswith(name)) for name in CHOSEN]
    return [replace(p, timed=p.small, energy=True, ncu=True) for p in chosen]


def mapped(name, sizes, generator, *tile, small=None):
    """A point of a generated kernel."""
    cascade = load_cascade(name)
    make = lambda sizes: job.generated(cascade, generator(cascade, MACHINE, sizes, *tile), MACHINE, sizes, "tile")
    return job.Point(name, MACHINE, lambda: make(sizes), lambda: make(small or sizes))


def environment():
    return {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}


def run(folder, *options):
    command = [sys.executable, str(folder / "run.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


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
    assert [r.name.startswith(name) for r, name in zip(records, CHOSEN, strict=True)] == [True] * len(CHOSEN)
    for record in records:
        for found in (record.check, record.timed_check):
            assert found is not None and 0 < found.error <= found.tolerance
        assert record.time is not None
        assert record.device.name == "dry" and record.energy is None and record.dram is None
        assert record.expected.issued_bytes >= record.expected.compulsory_bytes > 0
        assert record.expected.macs >= record.expected.useful_macs > 0
    rivals = {r.name.split("_")[0]: r.baselines for r in records if r.baselines}
    assert list(rivals) == ["attention-1pass-causal", "attention-2pass-recompute"]
    tile = rivals["attention-1pass-causal"]["triton tutorial"].tile
    assert tile is not None and "BLOCK_M=" in tile and "CAUSAL=1" in tile


def test_a_run_goes_on_where_it_was_broken_off(dry):
    files = sorted((dry / "records").glob("*.json"))
    before = {file: file.read_bytes() for file in files}
    files[0].unlink()
    done = run(dry, "--dry")
    assert done.returncode == 0 and done.stdout.count("\n") == 1  # one point
    assert all(file.read_bytes() == before[file] for file in files[1:]) and files[0].exists()


def test_a_killed_run_goes_on(tmp_path):
    folder, sizes = tmp_path / "job", dict.fromkeys("MNK", 128)
    points = [replace(mapped("gemm", sizes, library_gpu.gemm), name=f"point{i}") for i in range(3)]
    job.write(points, folder)
    killed = subprocess.Popen(
        [sys.executable, str(folder / "run.py"), "--dry"], env=environment(), stdout=subprocess.PIPE
    )
    with killed:
        assert killed.stdout is not None and killed.stdout.readline().startswith(b"point0")
        killed.kill()
    (kept,) = (folder / "records").glob("point0.json")
    before = kept.read_bytes()
    assert run(folder, "--dry").returncode == 0
    assert kept.read_bytes() == before
    assert {read(file).name for file in (folder / "records").glob("*.json")} == {"point0", "point1", "point2"}


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
    sizes = next(read(file).config.sizes for file in files if file.name.startswith("gemm"))
    found = newest("gemm", "gpu-gemm", sizes, tmp_path / "records")
    assert found is not None and found.taken_utc == "2026-02-01T00:00:00Z"
    assert result(found).latency_s == found.time.cold.median_s
    assert newest("gemm", "gpu-gemm", sizes | {"K": 1}, tmp_path / "records") is None


def test_records_stand_in_the_crosscheck_beside_their_own_closed_form(dry, tmp_path, monkeypatch):
    take_in(measured(dry, tmp_path / "job"), tmp_path / "records")
    monkeypatch.setattr(record_module, "RECORDS", tmp_path / "records")
    lines = list(crosscheck._measured())
    assert len(lines) == len(CHOSEN) and {line.verdict for line in lines} == {crosscheck.BOUND}
    assert {line.mapping for line in lines} >= {"by hand 16x64x128", "by hand 4x64", "gpu-gemm 64x64"}
    rival = next(line for line in lines if line.cascade == "attention-1pass-causal")
    assert any(note.startswith("triton tutorial takes ") for note in rival.notes)


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


@pytest.mark.parametrize("part", ["check", "timed"])
def test_a_kernel_with_wrong_values_has_no_times(tmp_path, part):
    folder = tmp_path / "job"
    job.write([mapped("gemm", dict.fromkeys("MNK", 192), library_gpu.gemm, small=dict.fromkeys("MNK", 128))], folder)
    point = json.loads((folder / "job.json").read_text())["points"][0]
    (kernel,) = point[part]["kernels"]
    file = folder / kernel["file"]
    file.write_text(file.read_text().replace("tl.dot(A, B, C)", "tl.dot(A, B, C) * 1.1"))
    assert run(folder, "--dry").returncode == 1
    record = read(next((folder / "records").glob("*.json")))
    assert record.time is None and (record.check if part == "check" else record.timed_check).error > 0.05
    assert (record.timed_check is None) == (part == "check")


STORE = "tl.store(AV_ptr + place, AV.to(AV_ptr.dtype.element_ty))"


@pytest.mark.parametrize(("old", "new"), [("numerator / denom", "numerator * denom"), (STORE, "pass")])
def test_a_rival_with_wrong_or_missing_values_is_left_out(tmp_path, old, new):
    folder = tmp_path / "job"
    job.write(small_points()[:1], folder)
    point = json.loads((folder / "job.json").read_text())["points"][0]
    file = folder / point["rival"]["kernels"][0]["file"]
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    done = run(folder, "--dry")
    assert done.returncode == 0 and "the values of triton tutorial are wrong" in done.stderr
    assert read(next((folder / "records").glob("*.json"))).baselines == {}


def test_planning_leaves_nothing_behind_when_it_fails(tmp_path):
    with pytest.raises(InputError, match="exists already"):
        job.write([], tmp_path)
    fitting, *_ = small_points()
    with pytest.raises(InputError, match="registers has"):
        job.write([fitting, mapped("attention-1pass", LONG, library_gpu.flash_attention, 256, 256)], tmp_path / "job")
    assert not list(tmp_path.iterdir())


def test_the_campaign_has_three_tiles_of_everything_and_distinct_names():
    points = campaign.points(MACHINE)
    names = [p.name for p in points]
    shapes = [name.rsplit("_", 1)[0] for name in names]
    assert len(names) >= 200 and len(set(names)) == len(names)
    assert {shapes.count(shape) for shape in shapes} == {3}
    assert sum(p.energy for p in points) >= 40 and sum(p.ncu for p in points) >= 20
    assert {name.split("_")[0] for name in names} == {
        "attention-1pass", "attention-1pass-causal", "attention-2pass-recompute", "attention-2pass-recompute-causal",
        "attention-3pass-recompute", "attention-3pass-recompute-causal", "attention-flashdecode-gqa", "mla-decode",
        "gemm", "paged-decode", "fused-moe",
    }  # fmt: skip


@pytest.mark.parametrize("name", campaign.EXPERTS)
def test_the_campaigns_experts_are_those_of_the_models(name):
    model = load_model(name)
    assert model.experts is not None
    assert campaign.EXPERTS[name] == (model.hidden, model.experts.width, model.experts.count, model.experts.chosen)


def test_indices_of_a_timed_run_are_given_not_drawn(tmp_path):
    point = mapped("attention-1pass-lengths", LONG | {"B": 2}, library_gpu.flash_attention)
    with pytest.raises(InputError, match="LEN: an index tensor has to be given"):
        job.write([point], tmp_path / "job")


def test_the_schema_is_up_to_date_and_every_record_is_valid():
    text = json.dumps(schema(), indent=2) + "\n"
    assert (RECORDS / "schema.json").read_text() == text, "run this file as a script to write it again"
    for file in RECORDS.glob("*_*.json"):
        read(file)


if __name__ == "__main__":
    (RECORDS / "schema.json").write_text(json.dumps(schema(), indent=2) + "\n")
