"""`stepfall study`: run a study, print its tables, write its files."""

from __future__ import annotations

import json
from pathlib import Path

from studies import report, study as studies


def study(name: str | None, out: Path | None, as_json: bool, **options: str | None) -> None:
    """Print a study's tables or its JSON, or the names of all studies; with `out` write its files too.

    `options` are the study's own; those that are None were not given.
    """
    from rich.console import Console

    if name is None:
        print("\n".join(studies.names()))
        return
    if out:
        report.check_place(out)
    with Console(stderr=True).status("") as status:  # shown on a terminal only
        answer = studies.run(name, status.update, **{option: value for option, value in options.items() if value})
    files = studies.write(answer, out) if out else ()
    if as_json:
        print(json.dumps(answer.as_dict(), indent=1, allow_nan=False))
        return
    for table in (t for t in answer.tables if t.printed):
        report.print_table(table.title, table.columns, table.rows)
        print()
    for note in answer.notes:
        print(note)
    if files:
        figures = [str(file) for file in files if file.suffix == ".png"]
        print(f"written to {out}: {len(files)} files; figures: {', '.join(figures) or 'none'}")
    print(report.footer(answer.provenance))
