"""The facade of stepfall: `from stepfall import parse, load_machine, cost, simulate, ...`.

Names are imported when they are first used, so that importing the facade stays cheap. The packages below it have
short names that others use too (PyPI has an `arch` and an `einsum`); a guard refuses to work with foreign ones.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("einsum", "arch", "mapper", "sim", "gpu_backend", "studies")


def _guard(home: Path) -> None:
    """Raise ImportError unless each of our packages is found beside this file and is ours: its docstring says so."""
    for name in PACKAGES:
        expected = home / name / "__init__.py"
        spec = find_spec(name)
        found = spec.origin if spec and spec.origin else "nowhere"
        if found == "nowhere" or Path(found).resolve() != expected or "stepfall" not in expected.read_text("utf-8"):
            raise ImportError(
                f"another package named `{name}` stands in the way of stepfall's own: found {found}, "
                f"expected stepfall's {expected}; install stepfall in a clean environment (python3 -m venv)"
            )


_guard(Path(__file__).resolve().parent)

_MODULE_OF = {
    # what is computed
    "Cascade": "einsum.cascade",
    "Workload": "einsum.cascade",
    "InputError": "einsum.problems",
    "Problem": "einsum.problems",
    "parse": "einsum.parse",
    "show": "einsum.show",
    "bind": "einsum.bind",
    "load_cascade": "einsum.library",
    # where it can run
    "Machine": "arch.machine",
    "load_machine": "arch.read",
    # who does what, when, where the data stays, and what that costs
    "Mapping": "mapper.mapping",
    "Result": "mapper.result",
    "load_mapping": "mapper.yaml",
    "dump_mapping": "mapper.yaml",
    "check": "mapper.check",
    "cost": "mapper.cost",
    # what happens in time
    "simulate": "sim.run",
    # the command line
    "main": "studies.cli",
}
__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 (a table of names, not a literal list)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'stepfall' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if __name__ == "__main__":
    sys.exit(__getattr__("main")())  # type: ignore[operator]
