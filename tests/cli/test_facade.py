"""The facade: every name resolves, foreign packages are refused, nothing heavy is imported with it."""

import subprocess
import sys
from pathlib import Path

import pytest

import stepfall

ROOT = Path(stepfall.__file__).parent


def python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` with `paths` in front of the import path, from a folder of no importance."""
    setup = f"import sys; sys.path[:0] = {[str(p) for p in paths]!r}; "
    return subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True, check=False, cwd="/")


@pytest.mark.parametrize("name", stepfall.__all__)
def test_every_name_resolves(name: str):
    assert getattr(stepfall, name) is not None
    assert name in dir(stepfall)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stepfall.nothing  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("package", stepfall.PACKAGES)
def test_intruding_package_is_named(package: str, tmp_path: Path):
    intruder = tmp_path / package / "__init__.py"
    intruder.parent.mkdir()
    intruder.write_text('"""Somebody else\'s."""\n')
    done = python("import stepfall", tmp_path, ROOT)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: ")
    assert f"`{package}`" in message and str(intruder) in message and "clean environment" in message


def test_package_overwritten_in_place_is_named(tmp_path: Path):
    """Two distributions installed into one folder: the later one's `__init__.py` wins."""
    for name in stepfall.PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_bytes((ROOT / name / "__init__.py").read_bytes())
    (tmp_path / "stepfall.py").write_bytes((ROOT / "stepfall.py").read_bytes())
    assert python("import stepfall", tmp_path).returncode == 0
    (tmp_path / "arch" / "__init__.py").write_text('"""Somebody else\'s."""\n')
    done = python("import stepfall", tmp_path)
    assert done.returncode == 1
    assert "`arch`" in done.stderr.splitlines()[-1]


def test_importing_the_facade_imports_no_dependency():
    done = python("import stepfall; print(*sorted(m.split('.')[0] for m in sys.modules))", ROOT)
    heavy = {
        "numpy",
        "scipy",
        "networkx",
        "simpy",
        "pyomo",
        "pydantic",
        "ruamel",
        "lark",
        "rich",
        "matplotlib",
        "triton",
    }
    assert done.returncode == 0, done.stderr
    assert heavy.isdisjoint(done.stdout.split())
