"""What there is to decide about a group of Einsums that share loops: SEMANTICS 8.

A group has a nest of loops over the ranks that it walks, once for each level of memory; a hold of a tensor stands at
one place of a level's loops; each Einsum has a unit, ranks spread over the axes above it, and an innermost rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from arch.machine import Axis, Machine, Memory, Unit
from einsum.affine import affine
from einsum.cascade import Access, Cascade, Einsum, Name, Workload, factors, rank_variables
from einsum.ops import is_view, operation_classes
from mapper.place import own_memory
from mapper.tile import dimensions, state_rank, storage, varying_ranks
from mapper.work import executes


@dataclass(frozen=True)
class Option:
    """One way to compute an Einsum's tile."""

    unit: str  # `a+b` where no unit alone executes every class
    spread: tuple[tuple[str, str], ...]  # (array.axis, rank), outermost axis first
    inner: str | None  # rank of the innermost temporal loop: what it does not vary stays at the unit meanwhile

    def over(self, rank: str) -> tuple[str, ...]:
        """The axes that a rank is spread over."""
        return tuple(axis for axis, r in self.spread if r == rank)


@dataclass(frozen=True)
class Use:
    """A tensor as the group's Einsums name it."""

    tensor: str
    storage: str
    kind: str  # input | output: from or to the root memory | inner: lives in the group
    users: tuple[str, ...]  # the Einsum that writes it first
    ranks: tuple[str, ...]  # along which its elements differ
    state: str | None
    written: bool
    roles: frozenset[str]


class Illegal(Exception):
    """These Einsums cannot share loops; says why."""


@dataclass(frozen=True)
class Group:
    """A group that can share loops. `names` stand in program order."""

    workload: Workload
    machine: Machine
    names: tuple[str, ...]

    @cached_property
    def facts(self) -> dict:
        """What prices find out about accesses, once a group."""
        return {}

    @cached_property
    def einsums(self) -> tuple[Einsum, ...]:
        return tuple(self.workload.cascade[n] for n in self.names)

    @cached_property
    def uses(self) -> dict[str, Use]:
        """Tensors in the order in which the group touches them."""
        found: dict[str, list[str]] = {}
        for e in self.einsums:
            for name in (*(a.tensor for a in e.reads), e.name):
                found.setdefault(name, []).append(e.name)
        return {t: self._use(t, tuple(dict.fromkeys(users))) for t, users in found.items()}

    def _use(self, tensor: str, users: tuple[str, ...]) -> Use:
        cascade, name = self.workload.cascade, storage(self.workload.cascade, tensor)
        written = tensor in self.names
        outside = [e for e in cascade.einsums if e.name not in self.names and not is_view(e)]
        read = any(storage(cascade, a.tensor) == name for e in outside for a in e.reads)
        kind = "input" if not written else "output" if read or name in cascade.outputs else "inner"
        if written:
            users = (tensor, *(u for u in users if u != tensor))
        roles = frozenset(role(cascade[u], tensor) for u in users)
        return Use(
            tensor, name, kind, users, varying_ranks(cascade, tensor), state_rank(cascade, tensor), written, roles
        )

    @cached_property
    def walked(self) -> tuple[str, ...]:
        """Ranks that the group's loops walk, those that every tensor has first.

        Of one Einsum every rank; of several those that at least two have, and that each Einsum either has or lacks
        after all that have it, so that it runs in the last iteration.
        """
        every = dict.fromkeys(r for e in self.einsums for r in e.ranks)
        ranks = [r for r in every if self.workload.extent(r) > 1 and self._can_walk(r)]
        return tuple(sorted(ranks, key=lambda r: r not in self.batch))

    @cached_property
    def batch(self) -> frozenset[str]:
        """Ranks that every tensor varies along, less the longest ones where units need them to be busy: a tile of one
        coordinate moves no more and holds the least."""
        shared = [r for r in self.einsums[0].ranks if all(r in e.ranks for e in self.einsums)]
        found = [r for r in shared if all(r in use.ranks for use in self.uses.values())]
        found.sort(key=self.workload.extent)
        while found and not all(self._busy(e, found) for e in self.einsums):
            found.pop()
        return frozenset(found)

    def _busy(self, e: Einsum, batch: Sequence[str]) -> bool:
        """Whether ranks beside these give every lane, and most of each axis above every unit, something to do."""
        left = {r: self.workload.extent(r) for r in e.ranks if r not in batch and r not in self.stepped}
        points = math.prod(left.values())
        for unit in (self.machine.unit(name) for pair in units_of(e, self.machine) for name in pair.split("+")):
            for _, axis in self.machine.axes(unit.name):
                able = [n for r, n in left.items() if r not in e.reduced or axis.reduce]
                if max(able, default=1) < min(axis.size, 8):
                    return False
            if points < unit.lanes:
                return False
        return True

    @cached_property
    def stepped(self) -> frozenset[str]:
        """Ranks walked one coordinate at a time: those that carry state, and those that count tiles of another rank (m1
        in m1*M0+m0), as only tiles without gaps move what all of them together touch."""
        every = (access for e in self.einsums for access in (*e.reads, e.output))
        counting = (rank for access in every for outer, _ in self._joined(access) for rank in outer)
        return frozenset((*(e.iterative for e in self.einsums if e.iterative), *counting))

    def _joined(self, access: Access) -> list[tuple[tuple[str, ...], str]]:
        """(ranks that count tiles, the rank inside the tiles) of each index that joins ranks; Illegal if tiles of an
        index overlap or leave gaps, or a rank stands in two indices."""
        found, used = [], []
        for form, ranks, _ in dimensions(self.workload, access):
            used += ranks
            terms = [(abs(f), r) for r, f in (form.terms if form else ()) if self.workload.extent(r) > 1]
            span = 1
            for factor, rank in sorted(terms):
                if factor != span:
                    raise Illegal(f"tiles of {access.tensor} overlap or leave gaps along {rank}")
                span *= self.workload.extent(rank)
            if len(terms) > 1:
                inner, *outer = (rank for _, rank in sorted(terms))
                found.append((tuple(outer), inner))
        if len(set(used)) < len(used):
            raise Illegal(f"a rank stands in two indices of {access.tensor}")
        return found

    def _can_walk(self, rank: str) -> bool:
        have = [e.name for e in self.einsums if rank in e.ranks]
        if len(self.einsums) > 1 and len(have) < 2:
            return False
        for e in self.einsums:
            if rank in e.reduced and any(rank in self.workload.cascade[r].ranks for r in self.readers(e.name)):
                return False
            if rank not in e.ranks and (not self.before(e.name) & set(have) or self.after(e.name) & set(have)):
                return False
        return True

    def readers(self, tensor: str) -> tuple[str, ...]:
        """Einsums of the group that read what another of them writes."""
        return tuple(e.name for e in self.einsums if any(a.tensor == tensor for a in e.reads))

    def before(self, name: str) -> set[str]:
        """Einsums of the group whose results an Einsum needs."""
        return self._closed(
            name, lambda n: [a.tensor for a in self.workload.cascade[n].reads if a.tensor in self.names]
        )

    def after(self, name: str) -> set[str]:
        """Einsums of the group that need an Einsum's result."""
        return self._closed(name, self.readers)

    @staticmethod
    def _closed(name: str, step) -> set[str]:
        found, todo = set(), [name]
        while todo:
            fresh = [n for n in step(todo.pop()) if n not in found]
            found.update(fresh)
            todo += fresh
        return found

    @cached_property
    def options(self) -> dict[str, tuple[Option, ...]]:
        """Every way to compute each Einsum; Illegal if there is none."""
        return {e.name: tuple(self._options(e)) for e in self.einsums}

    def _options(self, e: Einsum) -> Iterator[Option]:
        units = list(units_of(e, self.machine))
        if not units:
            needed = operation_classes(e)
            lacking = {u.name: [c for c in needed if not executes(u, c)] for u in self.machine.units}
            best = min(lacking, key=lambda name: len(lacking[name]))
            what = f"no unit executes {e.name}, which needs {', '.join(needed)}"
            raise Illegal(f"{what}; {best} lacks {', '.join(lacking[best])}")
        for unit in units:
            first = unit.split("+")[0]
            axes = [(f"{a}.{axis.name}", axis) for a, axis in self.machine.axes(first)]
            free = self._spreadable(e)
            wanted = [[r for r in free if r not in e.reduced or axis.reduce] for _, axis in axes]
            wanted = [
                [*ranks, *([None] if not ranks or not axis.multicast else [])]
                for ranks, (_, axis) in zip(wanted, axes, strict=True)
            ]
            inner = [r for r in e.ranks if self.workload.extent(r) > 1 and r not in self.stepped] or [None]
            fixed = {r for a in e.reads if self.stays(e, a, first) for r in rank_variables(a)}
            inner = [r for r in inner if r not in fixed] or inner
            for spread in dict.fromkeys(self._spread(axes, ranks) for ranks in product(*wanted)):
                yield from (Option(unit, spread, r) for r in (inner if spread or len(inner) > 1 else inner[:1]))

    def _spread(self, axes: list[tuple[str, Axis]], ranks: tuple[str | None, ...]) -> tuple[tuple[str, str], ...]:
        """Ranks over axes, without axes that have nothing left to do: those further in take all of the rank."""
        found = []
        for i, ((name, _), rank) in enumerate(zip(axes, ranks, strict=True)):
            inside = math.prod(
                axis.size for (_, axis), r in zip(axes[i + 1 :], ranks[i + 1 :], strict=True) if r == rank
            )
            if rank and self.workload.extent(rank) > inside:
                found.append((name, rank))
        return tuple(found)

    def stays(self, e: Einsum, access: Access, unit: str) -> bool:
        """Whether the register at a unit has to keep an operand (SEMANTICS 3.10): each element comes once a tile."""
        own = own_memory(self.machine, unit)
        return not own.bypass and own.holds is not None and is_registers(own) and role(e, access.tensor) in own.holds

    def _spreadable(self, e: Einsum) -> list[str]:
        """Ranks that may go over an axis: those that have tiles of several coordinates."""
        return [r for r in e.ranks if self.workload.extent(r) > 1 and r not in self.stepped | self.batch]

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """Memories above all units of the group, below the root, outermost first, without register files."""
        units = {u for options in self.options.values() for o in options for u in o.unit.split("+")}
        paths = [[n.name for n in self.machine.path(u)[1:-1] if isinstance(n, Memory)] for u in sorted(units)]
        shared = [m for m in paths[0] if all(m in p for p in paths)]
        return tuple(m for m in shared if not is_registers(self.machine.memory(m)))

    @cached_property
    def deep(self) -> frozenset[str]:
        """Axes above a level with another one inside: how many copies it gets must not depend on the tiles there."""
        above = (axes for m in self.levels[:-1] for axes in self.machine.axes(m))
        return frozenset(f"{array}.{axis.name}" for array, axis in above)

    @cached_property
    def registers(self) -> tuple[str, ...]:
        """Register files that can keep what passes between the Einsums of a tile."""
        units = {o.unit.split("+")[0] for options in self.options.values() for o in options}
        own = dict.fromkeys(own_memory(self.machine, u).name for u in sorted(units))
        roles = [use.roles for use in self.uses.values() if use.kind == "inner"]
        able = lambda m: is_registers(self.machine.memory(m)) and any(may_hold(self.machine, m, *r) for r in roles)
        return tuple(filter(able, own))

    @cached_property
    def carrier(self) -> str | None:
        """The rank of a loop of one iteration for holds around all others."""
        ranks = dict.fromkeys(r for e in self.einsums for r in e.ranks)
        shared = [r for r in ranks if self._can_walk(r) or all(r in e.ranks for e in self.einsums)]
        return min(shared, key=lambda r: any(r == e.iterative for e in self.einsums), default=None)

    @property
    def blocks(self) -> int:
        """Levels of loops: one inside each level's holds' place, and one around what registers keep."""
        return len(self.levels) + bool(self.registers)

    def check(self) -> None:
        """Illegal if the group cannot share loops, or the search does not cover it."""
        cascade = self.workload.cascade
        for e in self.einsums:
            for access in (*e.reads, e.output):
                for index in access.indices:
                    if affine(index, self.workload.sizes) is None:
                        raise Illegal(f"{e.name} reads {access.tensor} at places that data decides")
                for outer, inner in self._joined(access):
                    if inner in self.walked and not set(outer) <= set(self.walked):
                        raise Illegal(f"the group walks {inner} of {access.tensor} but not {', '.join(outer)}")
            if e.topk or (e.guards and any(isinstance(s, Access) for g in e.guards for s in (g.left, g.right))):
                raise Illegal(f"what {e.name} computes depends on data")
            state = e.iterative
            if state and self.workload.extent(state) > 1 and state not in self.walked:
                raise Illegal(f"{e.name} carries state along {state}, which the group cannot walk")
            for other in cascade.einsums if state else ():
                if other.name not in self.names and any(
                    a.tensor == e.name and not final(a, state, cascade) for a in other.reads
                ):
                    raise Illegal(f"{other.name} reads the running {e.name}, so it shares its loops")
        stores = [use.storage for use in self.uses.values()]
        if len(self.names) > 1 and len(set(stores)) < len(stores):
            raise Illegal("a tensor is read in two ways")
        if len(self.names) == 1 and any(use.kind == "inner" for use in self.uses.values()):
            raise Illegal(f"nothing reads {self.names[0]}")
        if self.carrier is None:
            raise Illegal("they have no rank in common")
        for use in self.uses.values():
            carried = use.written and cascade[use.tensor].iterative
            if carried and carried == self.carrier:
                raise Illegal(f"{use.tensor} is carried along {carried}, and no loop over another rank could hold it")
            registers = self.registers if use.kind == "inner" else ()
            able = any(may_hold(self.machine, m, *use.roles) for m in self.levels + registers)
            if (use.kind == "inner" or carried) and not able:
                raise Illegal(f"no memory above all of them may hold {use.tensor}")


def final(access: Access, state: str | None, cascade: Cascade) -> bool:
    """Whether the access reads only the last value of a state."""
    pairs = zip(cascade.tensor[access.tensor].ranks, access.indices, strict=True)
    return all(index == Name(rank.upper()) for rank, index in pairs if rank == state)


def is_registers(memory: Memory) -> bool:
    """A memory with nothing but units below it: loops private to an Einsum say what stays there."""
    return all(isinstance(child, Unit) for child in memory.children)


def may_hold(machine: Machine, memory: str, *roles: str) -> bool:
    """Whether a memory may hold a tensor that its users see in these roles (SEMANTICS 3.10)."""
    allowed = machine.memory(memory).holds
    return allowed is None or set(roles) <= set(allowed)


def role(e: Einsum, tensor: str) -> str:
    """The role in which an Einsum sees a tensor (SEMANTICS 3.10)."""
    if e.name == tensor:
        return "output"
    if "mac" in operation_classes(e):
        named = [f.tensor for f in factors(e.expr) if isinstance(f, Access)]
        return "weight" if tensor in named[1:] else "input"
    return "input"


def units_of(e: Einsum, machine: Machine) -> Iterator[str]:
    """Units that execute an Einsum; pairs under the same arrays where none does alone."""
    classes = operation_classes(e)
    alone = [u for u in machine.units if all(executes(u, c) for c in classes)]
    yield from (u.name for u in alone)
    for first in machine.units if not alone else ():
        for second in machine.units:
            both = all(executes(first, c) or executes(second, c) for c in classes)
            some = any(executes(first, c) for c in classes)
            if first is not second and both and some and machine.axes(first.name) == machine.axes(second.name):
                yield f"{first.name}+{second.name}"
