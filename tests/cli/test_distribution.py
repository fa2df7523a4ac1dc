"""The wheel is complete, the version is copied truly, and the README's examples work."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import stepfall

ROOT = Path(stepfall.__file__).parent
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_wheel_holds_every_file_of_every_package(tmp_path: Path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [p.relative_to(ROOT) for name in stepfall.PACKAGES for p in (ROOT / name).rglob("*") if p.is_file()]
    wanted = {p.as_posix() for p in files if "__pycache__" not in p.parts}
    assert packed == wanted | {"stepfall.py"}
    assert {Path(name).suffix for name in packed} >= {".py", ".lark", ".cascade", ".yaml", ".csv"}


def test_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_commands_of_the_readme_exist(stepfall_in):
    """Each `stepfall ...` line parses: the command and its options exist."""
    lines = README.replace("\\\n", " ").replace("$ ", "").splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith("stepfall ")]
    assert len(commands) >= 6
    for command in commands:
        assert stepfall_in(*command, "--help").code == 0, command


def test_session_of_the_readme_is_what_happens(stepfall_in):
    ((command, said),) = re.findall(r"^\$ stepfall (.*)\n((?:error: .*\n)+)", README, re.MULTILINE)
    answer = stepfall_in(*command.split())
    assert (answer.code, answer.err) == (2, said)


def test_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(example, {})
    bound, run, energy = map(float, capsys.readouterr().out.split())
    assert 0 < bound <= run and energy > 0
