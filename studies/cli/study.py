"""`stepfall study`: run a study, print its tables, write its files."""

from __future__ import annotations

import json
from pathlib import Path

from studies import report, study as studies


def study(name: str | None, out: Path | None, as_json: bool, **options: str | None) -> None:
    """Write a study's files to `out` (`out/NAME` by default) and print its tables or its JSON; or list all studies.

    `options` are the study's own; those that are None were not given.
    """
    from rich.console import Console

    if name is None:
        print("\n".join(studies.names()))
        return
    out = out or Path("out", name)
    report.check_place(out)
    with Console(stderr=True).status("") as status:  # shown on a terminal only
        answer = studies.run(name, status.update, **{option: value for option, value in options.items() if value})
    files = studies.write(answer, out)
    if as_json:
        print(json.dumps(answer.as_dict(), indent=1, allow_nan=False))
        return
    for table in (t for t in answer.tables if t.printed):
        report.print_table(table.title, table.columns, table.rows)
        print()
    for note in answer.notes:
        print(note)
    figures = [file.name for file in files if file.suffix == ".png"]
    print(f"{len(files)} files in {out}; figures there: {', '.join(figures) or 'none'}")
    print(report.footer(answer.provenance))
