"""Which format a set of files is in, and all of it at once: a cascade, a machine, and a mapping of one to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping as Dict
from dataclasses import dataclass, replace

from arch.document import render
from arch.machine import Machine
from einsum.bind import bind
from einsum.cascade import Cascade, Workload
from einsum.problems import InputError, Problem, suggest
from mapper.check import check
from mapper.exchange import (
    machine as machines,
    machine_accelforge,
    machine_zigzag,
    mapping as mappings,
    mapping_accelforge,
    mapping_teaal,
    workload as workloads,
    write,
    write_mapping,
)
from mapper.exchange.source import View, load
from mapper.mapping import Mapping

Tops = Dict[str, View]  # top-level key -> the file that it stands in


@dataclass(frozen=True)
class Format:
    """The top-level keys of a tool's workload, machine and mapping, and their readers."""

    keys: tuple[str, str, str]
    cascade: Callable[[Tops, str], tuple[Cascade, workloads.Imported]] | None = None
    machine: Callable[[Tops, str], Machine] | None = None
    mapping: Callable[[Tops, mappings.Made, str], Mapping] | None = None


def _top(tops: Tops, key: str) -> View:
    return tops[key].want(key)


def _maybe(tops: Tops, key: str) -> View | None:
    return _top(tops, key) if key in tops else None


def _word_bits(tops: Tops) -> int | None:
    return machines.word_bits(_maybe(tops, "architecture"))


def _teaal(tops: Tops, made: mappings.Made, name: str) -> Mapping:
    return mapping_teaal.teaal(_top(tops, "mapping"), _maybe(tops, "bindings"), made, name)


FORMATS = {
    "timeloop": Format(
        ("problem", "architecture", "mapping"),
        lambda tops, name: workloads.timeloop(
            _top(tops, "problem"), name, machines.word_bits(_maybe(tops, "architecture"))
        ),
        lambda tops, name: machines.timeloop(_top(tops, "architecture"), name, _maybe(tops, "ERT")),
        lambda tops, made, name: mappings.timeloop(_top(tops, "mapping"), made, name),
    ),
    "accelforge": Format(
        ("workload", "arch", "mapping"),
        lambda tops, name: workloads.accelforge(_top(tops, "workload"), name),
        lambda tops, name: machine_accelforge.accelforge(_top(tops, "arch"), name),
        lambda tops, made, name: mapping_accelforge.accelforge(_top(tops, "mapping"), made, name),
    ),
    "teaal": Format(
        ("einsum", "", "mapping"),
        lambda tops, name: workloads.teaal(_top(tops, "einsum"), name),
        mapping=lambda tops, made, name: mapping_teaal.teaal(
            _top(tops, "mapping"), _maybe(tops, "bindings"), made, name
        ),
    ),
    "zigzag": Format(("", "memories", ""), machine=lambda tops, name: machine_zigzag.zigzag(tops["memories"], name)),
}
WRITTEN = ("accelforge", "teaal", "timeloop")
_BLOCK = frozenset(
    {"nodes", "einsums", "mapping", "expressions", "data_spaces", "tables", "tensor_accesses", "declaration"}
)


@dataclass(frozen=True)
class Imported:
    """What files said, and what of it did not carry over."""

    cascade: Cascade | None = None
    machine: Machine | None = None
    mapping: Mapping | None = None
    lost: tuple[Problem, ...] = ()


def format_of(tops: Tops, given: str | None = None) -> Format:
    """The format that has one of the top-level keys, or the one that is named."""
    if given is not None and given not in FORMATS:
        raise InputError(Problem("unknown format", got=given, hint=suggest(given, FORMATS)))
    found = [name for name, form in FORMATS.items() if any(key in tops for key in form.keys[:2])]
    if len(found) != 1 or given not in (None, found[0]):
        names = ", ".join(key for form in FORMATS.values() for key in form.keys[:2] if key)
        raise InputError(Problem(f"no such file, or files of several formats: expected some of the keys {names}"))
    return FORMATS[found[0]]


def read(
    texts: Dict[str, str],
    given: str | None = None,
    name: str = "imported",
    sizes: Dict[str, int] | None = None,
    machine: Machine | None = None,
) -> Imported:
    """Everything in the files (name -> text), which are one specification. `machine` takes the place of theirs.

    InputError at the first place of a file that cannot be read. A mapping that cannot be costed is still given, with
    the reasons among what did not carry over.
    """
    views = [load(text, file) for file, text in texts.items()]
    tops: dict[str, View] = {}
    for view in views:
        for key in view.data:
            if key in tops:
                raise View(view.source, (key,)).fail(f"stands in {tops[key].source.document.file} too", key)
            tops[key] = view
    form = format_of(tops, given)
    of_work, of_machine, of_mapping = (key in tops for key in form.keys)
    made = form.machine(tops, name) if form.machine and of_machine and machine is None else None
    cascade, names = form.cascade(tops, name) if form.cascade and of_work else (None, None)
    mapping, trouble, target = None, (), machine or made
    if form.mapping and of_mapping:
        if cascade is None or names is None or target is None:
            raise _top(tops, "mapping").fail(
                f"a mapping needs its workload (`{form.keys[0]}:`) and its machine beside it"
            )
        workload = _bound(cascade, sizes or {}, _top(tops, form.keys[0]), form is FORMATS["teaal"])
        mapping = form.mapping(tops, mappings.Made(workload, target, names, sizes or {}), name)
        trouble = _costed(mapping, workload, target)
    lost = tuple(p for view in views for p in view.source.lost())
    return Imported(cascade, made, mapping, (*lost, *trouble))


def _bound(cascade: Cascade, sizes: Dict[str, int], view: View, partitioned: bool) -> Workload:
    """The workload; TeAAL's partitions have sizes of their own besides."""
    try:
        return bind(cascade, {n: size for n, size in sizes.items() if not partitioned or n in cascade.free_sizes})
    except InputError as error:
        problems = [view.problem(f"{p.what}, in the file or by --size", p.got, p.hint) for p in error.problems]
        raise InputError(problems) from None


def _costed(mapping: Mapping, workload: Workload, machine: Machine) -> tuple[Problem, ...]:
    """Why the mapping cannot be costed here, each at its place in the foreign file."""
    try:
        check(mapping, workload, machine)
    except InputError as error:
        return tuple(replace(p, what=f"cannot be costed: {p.what}") for p in error.problems)
    return ()


def written(
    form: str,
    workload: Workload | None = None,
    machine: Machine | None = None,
    mapping: Mapping | None = None,
) -> tuple[str, tuple[Problem, ...]]:
    """One file with what is given, and what had no place in it; InputError for what cannot be written at all."""
    if form not in WRITTEN:
        what = f"cannot be written, only {', '.join(WRITTEN)}"
        raise InputError(Problem(what, got=form, hint=suggest(form, WRITTEN)))
    notes: write.Notes = []
    data = {}
    if workload is not None:
        writers = {"timeloop": write.timeloop_problem, "accelforge": write.accelforge_workload}
        data |= writers.get(form, write.teaal_einsum)(workload, notes)
    if machine is not None and form == "teaal":
        raise InputError(Problem("machines and mappings cannot be written for TeAAL", got=machine.name))
    if machine is not None and form == "timeloop":
        bits = max((workload.bits(t.name) for t in workload.cascade.tensors), default=8) if workload else 8
        data |= write.timeloop_architecture(machine, bits, notes)
    elif machine is not None:
        data |= write.accelforge_arch(machine, notes)
    if mapping is not None and workload is not None and machine is not None:
        writer = write_mapping.timeloop_mapping if form == "timeloop" else write_mapping.accelforge_mapping
        data |= writer(mapping, workload, machine, notes)
    return render(data, _BLOCK), tuple(dict.fromkeys(notes))
