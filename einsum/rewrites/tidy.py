"""Rewrites that change no value: dead code, common sub-expressions, merging, renaming (SEMANTICS 2.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from einsum.cascade import Access, Cascade, Einsum
from einsum.compose import renamed
from einsum.problems import suggest
from einsum.rewrites.terms import inlined, is_map, plain, rebuilt, refuse, renamed_tensor


def dead_code(cascade: Cascade, keep: Iterable[str]) -> Cascade:
    """Without the statements that no tensor in `keep` needs. InputError if one of them is not written."""
    needed = list(dict.fromkeys(keep))
    for name in needed:
        if name not in cascade:
            raise refuse(cascade, "no statement writes the tensor to keep", name)
    for name in needed:  # grows while it is walked
        needed += [a.tensor for a in cascade[name].reads if a.tensor in cascade and a.tensor not in needed]
    return rebuilt(cascade, (e for e in cascade.einsums if e.name in needed))


def common_subexpressions(cascade: Cascade) -> Cascade:
    """Statements that compute the same tensor computed once, by the first of them; outputs keep their names."""
    einsums = list(cascade.einsums)
    while pair := _twins(einsums, cascade):
        first, second = pair
        einsums = [renamed_tensor(e, second.name, first.name) for e in einsums if e is not second]
    return rebuilt(cascade, einsums)


def _twins(einsums: list[Einsum], cascade: Cascade) -> tuple[Einsum, Einsum] | None:
    seen: dict[tuple[Einsum, str], Einsum] = {}
    for einsum in einsums:
        key = (renamed_tensor(einsum, einsum.name, ""), cascade.tensor[einsum.name].dtype)
        first = seen.setdefault(key, einsum)
        if first is not einsum and einsum.name not in cascade.outputs:
            return first, einsum
    return None


def merge(cascade: Cascade, name: str) -> Cascade:
    """The map `name` written out in every statement that reads it.

    InputError unless it is a map without reduction, guard or state, is no output, and is read by plain ranks only.
    """
    if name not in cascade:
        raise refuse(cascade, "no such statement", name + hint(cascade, name))
    reads = [a for e in cascade.einsums for a in e.reads if a.tensor == name]
    if not is_map(cascade[name]):
        raise refuse(cascade, f"{name} is no map: it has a reduction, a guard, a state or a choice")
    if not reads or not all(plain(a, cascade) for a in reads):
        raise refuse(cascade, f"{name} is an output, or not read at its own ranks")
    if any(isinstance(side, Access) and side.tensor == name for e in cascade.einsums for g in e.guards
           for side in (g.left, g.right)):  # fmt: skip
        raise refuse(cascade, f"{name} stands in a guard")
    rest = (e for e in cascade.einsums if e.name != name)
    return rebuilt(cascade, (replace(e, expr=inlined(e.expr, cascade, (name,))) for e in rest))


def rename(cascade: Cascade, names: Mapping[str, str]) -> Cascade:
    """Other names for written tensors. InputError for an unknown one, or for a name that is taken."""
    for name in names:
        if name not in cascade:
            raise refuse(cascade, "no such statement", name + hint(cascade, name))
    after = [names.get(t.name, t.name) for t in cascade.tensors]
    if taken := next((name for name in after if after.count(name) > 1), ""):
        raise refuse(cascade, "two tensors would have the same name", taken)
    return renamed(cascade, names)


def hint(cascade: Cascade, name: str) -> str:
    """The statement that was probably meant."""
    close = suggest(name, [e.name for e in cascade.einsums])
    return f"; did you mean {close}?" if close else ""


def tidied(cascade: Cascade, keep: Iterable[str]) -> Cascade:
    """Dead code and common sub-expressions removed."""
    return dead_code(common_subexpressions(cascade), keep)
