"""Generated source on disk: a content-addressed file, written atomically, loaded as a module.

Triton reads a kernel's source from its file, and so do tracebacks and profilers; text given to `exec` has none.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from gpu_backend.kernel import Kernel


@cache
def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/stepfall` or `~/.cache/stepfall`; a new private directory where neither can be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "stepfall"
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return folder
    except (OSError, RuntimeError):  # RuntimeError: no home is known
        return Path(tempfile.mkdtemp(prefix="stepfall-"))


def path(kernel: Kernel, folder: Path | None = None) -> Path:
    """The file of the kernel's source, written if it is not there yet. A killed run leaves no half-written file."""
    folder = folder or cache_dir() / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(kernel.source.encode()).hexdigest()[:16]
    file = folder / f"{kernel.name}_{digest}.py"
    if not file.exists():
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False) as part:
            part.write(kernel.source)
        Path(part.name).replace(file)
    return file


def load(kernel: Kernel, folder: Path | None = None) -> Any:
    """The kernel's `triton.jit` function, imported from its file (once for each file)."""
    file = path(kernel, folder)
    name = f"stepfall_kernels.{file.stem}"
    if getattr(sys.modules.get(name), "__file__", None) != str(file):
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return getattr(sys.modules[name], kernel.name)
