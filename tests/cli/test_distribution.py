"""The wheel holds every file of every package and nothing else; the version is stated once and copied truly."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import stepfall

ROOT = Path(stepfall.__file__).parent
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


def test_readme_shows_commands_that_exist(stepfall_in):
    """Each `stepfall ...` line of the README parses: the command and its options exist."""
    lines = (ROOT / "README.md").read_text().replace("\\\n", " ").replace("$ ", "").splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith("stepfall ")]
    assert len(commands) >= 6
    for command in commands:
        assert stepfall_in(*command, "--help").code == 0, command
