"""How many elements of each input tensor are read at least once (SEMANTICS 2.1.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from einsum.affine import Affine, affine
from einsum.cascade import Access, Einsum, Workload, rank_variables, walk
from einsum.domain import Domain, Space, access_domain, binding, count, project
from einsum.ops import is_view


@dataclass(frozen=True, slots=True)
class _Read:
    """Elements of a tensor that one reader touches: `forms` over the tensor's ranks, if they say exactly which."""

    elements: int
    doubt: str = ""
    forms: tuple[Affine, ...] | None = None


def touched(workload: Workload, found: dict[str, Space]) -> dict[str, tuple[int, str]]:
    """Input tensor -> (elements read at points that take part, why they may be fewer); `found` is of `spaces`.

    A view reads what its readers read of it. Index and guard tensors are read whole.
    """
    reads: dict[str, list[_Read]] = {}
    for einsum in reversed(workload.cascade.einsums):
        if is_view(einsum):
            access = einsum.reads[0]
            through = _through_view(einsum, access, _joined(einsum.name, reads, workload), found, workload)
            reads.setdefault(access.tensor, []).append(through)
            rest = einsum.reads[1:]
        else:
            values = _values(einsum)
            for access in values:
                reads.setdefault(access.tensor, []).append(_direct(einsum, access, found, workload))
            rest = [a for a in einsum.reads if not any(a is value for value in values)]
        for access in rest:
            reads.setdefault(access.tensor, []).append(_Read(workload.elements(access.tensor), forms=()))
    joined = {name: _joined(name, reads, workload) for name in workload.cascade.inputs}
    return {name: (read.elements, read.doubt) for name, read in joined.items()}


def _values(einsum: Einsum) -> list[Access]:
    """Accesses of the expression that are values, not part of an index."""
    inner = {id(n) for a in walk(einsum.expr) if isinstance(a, Access) for i in a.indices for n in walk(i)}
    return [a for a in walk(einsum.expr) if isinstance(a, Access) and id(a) not in inner]


def _joined(name: str, reads: dict[str, list[_Read]], workload: Workload) -> _Read:
    """All that is read of a tensor: exact if every reader reads the same, or one reads everything."""
    found = reads.get(name, [])
    whole = workload.elements(name)
    if any(read.elements == whole and not read.doubt for read in found):
        return _Read(whole, forms=())
    if not found:
        return _Read(whole, "" if name in workload.cascade.outputs else "it is not read", ())
    first = found[0]
    same = all(read.forms is not None and set(read.forms) == set(first.forms or ()) for read in found)
    if same or len(found) == 1:
        return next((read for read in found if not read.doubt), first)
    return _Read(min(whole, sum(read.elements for read in found)), f"several readers of {name}")


def _direct(einsum: Einsum, access: Access, found: dict[str, Space], workload: Workload) -> _Read:
    """What an Einsum's access reads at the points that take part."""
    inside = found[einsum.name].inside
    own = access_domain(access, workload, found)
    domain = Domain(binding((*inside.forms, *own.forms), workload), inside.doubt or own.doubt)
    indices = [affine(index, workload.sizes) for index in access.indices]
    names = [rank for form in indices if form for rank, _ in form.terms]
    outer = project(domain, [r for r in einsum.ranks if r not in names], workload)
    forms = _onto(access, indices, outer.forms, workload)
    if forms is None:
        ranks = rank_variables(access)
        places = count(ranks, project(domain, [r for r in einsum.ranks if r not in ranks], workload).forms, workload)
        most = min(workload.elements(access.tensor), places)
        return _Read(most, f"the indices of {access.tensor} in {einsum.name}")
    return _Read(count(workload.cascade.tensor[access.tensor].ranks, forms, workload), outer.doubt, forms)


def _onto(
    access: Access, indices: Sequence[Affine | None], forms: Iterable[Affine], workload: Workload
) -> tuple[Affine, ...] | None:
    """The forms over the tensor's own ranks, if each index is a constant or one rank of its own plus a constant."""
    renamed: dict[str, Affine] = {}
    bounds = []
    for rank, index in zip(workload.cascade.tensor[access.tensor].ranks, indices, strict=True):
        here = Affine(0, ((rank, 1),))
        if index is None or len(index.terms) > 1 or (index.terms and index.terms[0][1] != 1):
            return None
        last = 0
        if index.terms:
            name = index.terms[0][0]
            if name in renamed:
                return None
            renamed[name] = here + Affine(-index.const)
            last = workload.extent(name) - 1
        bounds += [Affine(index.const) + here.scaled(-1), here + Affine(-index.const - last)]
    return binding((*(form.renamed(renamed) for form in forms), *bounds), workload)


def _through_view(view: Einsum, access: Access, read: _Read, found: dict[str, Space], workload: Workload) -> _Read:
    """What a view's readers touch of the tensor that it renames: as many elements as points, if none meet."""
    whole = workload.elements(access.tensor)
    inside = found[view.name].inside
    indices = [affine(index, workload.sizes) for index in access.indices]
    if read.forms is None or not _injective(view.output_ranks, indices, workload):
        return _Read(min(whole, read.elements), read.doubt or f"the view {view.name} may name an element twice")
    within = binding((*read.forms, *inside.forms), workload)
    elements = count(view.output_ranks, within, workload)
    return _Read(elements, read.doubt or inside.doubt, _onto(access, indices, within, workload))


def _injective(ranks: Sequence[str], forms: Sequence[Affine | None], workload: Workload) -> bool:
    """Whether different points have different indices: each rank in one form, factors larger than what is below."""
    seen: list[str] = []
    for form in forms:
        if form is None:
            return False
        below = 0
        for rank, factor in sorted(form.terms, key=lambda term: abs(term[1])):
            if abs(factor) <= below:
                return False
            below += abs(factor) * (workload.extent(rank) - 1)
            seen.append(rank)
    return sorted(seen) == sorted(ranks)
