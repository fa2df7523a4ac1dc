"""The facade of stepfall: `from stepfall import parse, load_machine, cost, simulate, ...`.

Names are imported when they are first used, so that importing the facade stays cheap. The packages below it have
short names that others use too (PyPI has an `arch` and an `einsum`); a guard refuses to work with foreign ones.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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

_SOURCE_OF = {  # name -> module:attribute
    # what is computed
    "Cascade": "einsum.cascade:Cascade",
    "InputError": "einsum.problems:InputError",
    "Problem": "einsum.problems:Problem",
    "Routing": "einsum.occupancy:Routing",
    "Workload": "einsum.cascade:Workload",
    "analyse": "einsum.analysis:analyse",
    "bind": "einsum.bind:bind",
    "cascades": "einsum.library:library",
    "derive": "einsum.derive:derive",
    "load_cascade": "einsum.library:load",
    "parse": "einsum.parse:parse",
    "passes": "einsum.passes:passes",
    "read_routing": "einsum.occupancy:read",
    "show_cascade": "einsum.show:show",
    # models made of it
    "Model": "studies.models:Model",
    "layer": "studies.layers:layer",
    "load_model": "studies.models:model",
    "load_model_config": "studies.hf_config:read_config",
    "models": "studies.models:models",
    # where it can run
    "Machine": "arch.machine:Machine",
    "load_machine": "arch.read:load",
    "machines": "arch.read:presets",
    "show_machine": "arch.show:show",
    # who does what, when, where the data stays, and what that costs
    "Mapping": "mapper.mapping:Mapping",
    "Provenance": "mapper.result:Provenance",
    "Result": "mapper.result:Result",
    "check_mapping": "mapper.check:check",
    "cost": "mapper.cost:cost",
    "dump_mapping": "mapper.yaml:dump_mapping",
    "load_mapping": "mapper.yaml:load_mapping",
    "make_mapping": "mapper.library:make",
    "mappings": "mapper.library:names",
    "search": "mapper.search.answer:search",
    "SearchSpace": "mapper.search.solve:Space",
    "show_mapping": "mapper.show:show",
    "sweep": "mapper.search.sweep:sweep",
    # what happens in time
    "Bottleneck": "sim.bottleneck:Bottleneck",
    "bottleneck": "sim.bottleneck:bottleneck",
    "simulate": "sim.run:simulate",
    # the command line
    "main": "studies.cli:main",
}
__all__ = list(_SOURCE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _SOURCE_OF:
        raise AttributeError(f"module 'stepfall' has no attribute {name!r}")
    module, attribute = _SOURCE_OF[name].split(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if __name__ == "__main__":
    sys.exit(__getattr__("main")())
