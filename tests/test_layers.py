"""The layers hold, and the check of them bites."""

import subprocess
import sys
from pathlib import Path

from stepfall import PACKAGES

ROOT = Path(__file__).parent.parent
LINT = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(no_cache=True))"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True, check=False)


def plant(folder: Path, imports: dict[str, str]) -> None:
    """Packages with our names and our contracts, where a package imports what `imports` says."""
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"import {imports[name]}\n" if name in imports else "")


def test_layers_hold():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_downward_imports_are_allowed(tmp_path: Path):
    plant(tmp_path, {"studies": "sim", "sim": "mapper", "gpu_backend": "mapper", "mapper": "arch", "arch": "einsum"})
    assert lint(tmp_path).returncode == 0


def test_upward_and_sideways_imports_are_found(tmp_path: Path):
    for upper, lower in (("mapper", "arch"), ("arch", "einsum"), ("sim", "mapper"), ("sim", "gpu_backend"),
                         ("gpu_backend", "sim"), ("studies", "sim"), ("studies", "gpu_backend")):  # fmt: skip
        folder = tmp_path / f"{lower}-{upper}"
        folder.mkdir()
        plant(folder, {lower: upper})
        done = lint(folder)
        assert done.returncode == 1, (upper, lower)
        assert f"{lower} is not allowed to import {upper}" in done.stdout
