"""`stepfall import` and `stepfall export`: files of other tools in and out, and what does not carry over."""

from __future__ import annotations

import sys
from pathlib import Path

from einsum.problems import InputError, Problem, read_text
from studies import report
from studies.cli.inputs import load


def bring_in(
    files: tuple[Path, ...],
    form: str | None,
    name: str | None,
    machine: str | None,
    sizes: dict[str, int],
    out: Path | None,
) -> None:
    """Print a cascade, a machine and a mapping, or write each to a file in `out` and print the files' names."""
    from arch.read import load as load_machine
    from arch.show import dump
    from einsum.show import show
    from mapper.exchange.formats import read
    from mapper.yaml import dump_mapping

    texts = {str(file): read_text(file) for file in files}
    title = name or files[0].name.partition(".")[0]
    made = read(texts, form, title, sizes, load_machine(machine) if machine else None)
    named = {
        f"{title}.cascade": show(made.cascade) if made.cascade else "",
        f"{title}-machine.yaml": dump(made.machine) if made.machine else "",
        f"{title}-mapping.yaml": dump_mapping(made.mapping) if made.mapping else "",
    }
    if out is not None:
        with report.whole_directory(out) as folder:
            for file, text in named.items():
                if text:
                    (folder / file).write_text(text, encoding="utf-8")
    for file, text in named.items():
        if text:
            print(out / file if out is not None else f"# {file}\n{text}")
    _tell(made.lost)


def send_out(
    form: str, cascade: str | None, machine: str | None, mapping: str | None, sizes: dict[str, int], out: Path | None
) -> None:
    """Print one file with the cascade, the machine and the mapping, or write it to `out`."""
    from arch.read import load as load_machine
    from einsum.bind import bind
    from einsum.library import load as load_cascade
    from mapper.exchange.formats import written

    if mapping is not None:
        if cascade is None or machine is None:
            raise InputError(Problem("a mapping needs --cascade and --machine", path="stepfall export"))
        _, target, mapped, workload = load(cascade, machine, mapping, sizes)
        text, lost = written(form, workload, target, mapped)
    elif cascade is None and machine is None:
        raise InputError(Problem("missing --cascade, --machine or all with --mapping", path="stepfall export"))
    else:
        bound = bind(load_cascade(cascade), sizes) if cascade is not None else None
        text, lost = written(form, bound, load_machine(machine) if machine is not None else None)
    if out is None:
        print(text, end="")
    else:
        with report.whole_file(out) as path:
            path.write_text(text, encoding="utf-8")
        print(out)
    _tell(lost)


def _tell(lost: tuple[Problem, ...]) -> None:
    for problem in lost:
        print(f"not carried over: {problem}", file=sys.stderr)
