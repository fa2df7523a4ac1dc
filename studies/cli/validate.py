"""`stepfall validate` and `stepfall calibrate`: models of GPU kernels against measured ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from studies import report


def validate(data: Path | None, machine: str | None, out: Path, as_json: bool) -> None:
    """Print errors for each class of kernel, and write tables, every row and scatter figures to `out`."""
    from arch.read import load, presets
    from sim.gpu.figures import figures
    from studies import study as studies
    from studies.gpu.validate import validate as run

    given = None if machine is None else figures(load(machine))
    only = given.name if given is not None and data is None and machine in presets() else None
    report.check_place(out)
    answer = run(data, given, only)
    files = studies.write(answer, out)
    if as_json:
        tables = [table for table in answer.as_dict()["tables"] if table["printed"]]
        print(json.dumps(answer.as_dict() | {"tables": tables}, indent=1, allow_nan=False))
        return
    for table in (t for t in answer.tables if t.printed):
        report.print_table(table.title, table.columns, table.rows)
        print()
    for note in answer.notes:
        print(note)
    print(f"{len(files)} files in {out}; every row with its interval: {out / 'rows.csv'}")
    print(report.footer(answer.provenance))


def calibrate(machine: str, data: tuple[Path, ...], out: Path) -> None:
    """Fit a GPU's constants, print them, and write them and every residual to `out` as YAML."""
    from ruamel.yaml import YAML

    from arch.read import load
    from sim.gpu.figures import figures
    from studies.gpu import calibrate as fitting
    from studies.gpu.data import join, read, reference
    from studies.gpu.filters import usable

    f = figures(load(machine))
    report.check_place(out)
    points, _ = usable(join([read(path) for path in data]) if data else reference(), f)
    fit = fitting.calibrate(points, f)
    yaml = YAML()
    yaml.width = 200
    documents: dict[str, Any] = {f.name: fit.calibration.document(), f"{f.name}-residuals": fitting.document(fit)}
    with report.whole_directory(out) as folder:
        for name, document in documents.items():
            with (folder / f"{name}.yaml").open("w", encoding="utf-8") as stream:
                yaml.dump(document, stream)
    constants: dict[str, float] = documents[f.name]["constants"]
    offsets: dict[str, float] = documents[f.name]["launch_offset_us"]
    rows = [*((name, value, "1") for name, value in constants.items()), *((n, v, "us") for n, v in offsets.items())]
    report.print_table(f"{f.name}: fitted on {len(fit.points)} rows", ("constant", "value", "unit"), rows)
    print(f"constants and residuals in {out}")
