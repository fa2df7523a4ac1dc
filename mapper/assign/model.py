"""The mixed-integer program of `mapper.assign`: variables, constraints by family, and what a solution decides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from mapper.assign.facts import Facts, Stored
from mapper.assign.solver import GAP, Violation, pyo

TINY = 1e-8  # a violation below this part of its measure is rounding
PRECEDENCE = 10.0  # price of data that comes late: what can be bought, more units, buffers or tiles, is named first


class Model:
    """Binding and order of a pipe. `rate`: tiles in `scale` seconds; `share[leaf, k]`: the rate if k is chosen, else 0.

    An elastic model has a slack for every constraint but the choice of one candidate; its rate is that of `within`.
    """

    def __init__(self, problem: Facts, elastic: bool = False, within: float = math.inf) -> None:
        self.problem, self.elastic = problem, elastic
        self.measure: dict[tuple[str, str], tuple[float, str]] = {}  # slack -> what one of it is worth, and its unit
        quickest = [min(c.length for c in found) for found in problem.candidates.values()]
        self.least = max((*quickest, *problem.ports.values()), default=0.0)  # no interval is below this
        self.scale = sum(quickest) or 1.0
        self.within = within
        self.pyomo = self._variables(self.scale / max(self.least, 1e-12 * self.scale))
        for family in (self._choice, self._units, self._ports, self._order, self._waits, self._buffers, self._memories):
            family()
        m = self.pyomo
        if elastic:
            m.rate.fix(self.scale / within if math.isfinite(within) else 0.0)
            price = {"precedence": PRECEDENCE}
            m.goal = pyo.Objective(expr=sum(price.get(family, 1.0) * s for (family, _), s in self.slacks.items()))
        else:
            m.goal = pyo.Objective(expr=-m.rate)

    def _variables(self, most: float) -> Any:
        m, p = pyo.ConcreteModel(), self.problem
        pairs = [(n, k) for n in p.leaves for k in range(len(p.candidates[n]))]
        if self.elastic and math.isfinite(self.within):
            most = max(most, self.scale / self.within)
        self.most = most
        m.rate = pyo.Var(bounds=(0, most))
        m.on = pyo.Var(pairs, within=pyo.Binary)
        m.share = pyo.Var(pairs, bounds=(0, most))
        m.offset = pyo.Var(p.leaves, bounds=(0, 1))
        m.stage = pyo.Var(p.leaves, within=pyo.Integers, bounds=(0, p.pipe.open - 1))
        m.rules = pyo.ConstraintList()
        m.slack = pyo.VarList(within=pyo.NonNegativeReals)
        self.slacks: dict[tuple[str, str], Any] = {}
        return m

    def at_most(self, interval: float) -> None:
        """Only what is no slower than this counts."""
        if interval:
            self.pyomo.rate.setlb(min(self.scale / interval * (1 - GAP), self.most))

    def _give(self, family: str, where: str, worth: float, unit: str) -> Any:
        """How far a constraint may be violated: not at all, or its slack, one of which is `worth` so many units."""
        if not self.elastic:
            return 0.0
        if (family, where) not in self.slacks:
            self.slacks[family, where] = self.pyomo.slack.add()
            self.measure[family, where] = (worth, unit)
        return self.slacks[family, where]

    def _late(self, family: str, where: str) -> Any:
        """The slack of a constraint on time."""
        cycles = self.within * self.problem.clock_hz if math.isfinite(self.within) else 0.0
        return self._give(family, where, cycles, "cycles")

    def busy(self, name: str, place: str) -> Any:
        """Intervals that a leaf keeps a unit or a port busy in a tile, as an expression."""
        return self._shared(name, [{**c.units, **c.ports}.get(place, 0.0) for c in self.problem.candidates[name]])

    def length(self, name: str) -> Any:
        """Intervals until every unit of a leaf is through with it."""
        return self._shared(name, [c.length for c in self.problem.candidates[name]])

    def _shared(self, name: str, took: Sequence[float]) -> Any:
        """Seconds of the chosen candidate in intervals."""
        return sum(self.pyomo.share[name, k] * (s / self.scale) for k, s in enumerate(took) if s)

    def start(self, name: str) -> Any:
        return self.pyomo.stage[name] + self.pyomo.offset[name]

    def _choice(self) -> None:
        """One candidate for each leaf, and the rate is its share."""
        m = self.pyomo
        for name, found in self.problem.candidates.items():
            m.rules.add(sum(m.on[name, k] for k in range(len(found))) == 1)
            m.rules.add(sum(m.share[name, k] for k in range(len(found))) == m.rate)
            for k in range(len(found)):
                m.rules.add(m.share[name, k] <= self.most * m.on[name, k])

    def _units(self) -> None:
        """A unit is busy for no more than the interval."""
        for unit in self.problem.units:
            busy = sum(self.busy(name, unit) for name in self.problem.leaves)
            self.pyomo.rules.add(busy <= 1 + self._late("unit", unit))

    def _ports(self) -> None:
        """So is a port of a memory."""
        p = self.problem
        own = (port for found in p.candidates.values() for c in found for port in c.ports)
        for port in dict.fromkeys((*p.ports, *own)):
            moved = self.pyomo.rate * (p.ports.get(port, 0.0) / self.scale)
            busy = moved + sum(self.busy(name, port) for name in p.leaves)
            self.pyomo.rules.add(busy <= 1 + self._late("bandwidth", port))

    def _order(self) -> None:
        """Of two leaves on a unit one is first in a step: through before the other begins, and the other before it
        begins again."""
        m, p = self.pyomo, self.problem
        using = lambda n, unit: [m.on[n, k] for k, c in enumerate(p.candidates[n]) if unit in c.units]
        pairs = [(a, b, u) for a, b in combinations(p.leaves, 2) for u in p.units if using(a, u) and using(b, u)]
        m.first = pyo.Var(list(dict.fromkeys((a, b) for a, b, _ in pairs)), within=pyo.Binary)
        for a, b, unit in pairs:
            apart = 2 - sum(using(a, unit)) - sum(using(b, unit))
            late = self._late("unit", unit) + apart
            m.rules.add(m.offset[b] - m.offset[a] + late >= self.busy(a, unit) - (1 - m.first[a, b]))
            m.rules.add(m.offset[a] - m.offset[b] + late >= self.busy(b, unit) - m.first[a, b])

    def _waits(self) -> None:
        """Data is made before it is read, in time and in the sequence of steps."""
        m, candidates = self.pyomo, self.problem.candidates
        for w in self.problem.waits:
            late = self._late("precedence", f"{w.before} before {w.after}")
            if w.before != w.after:
                m.rules.add(self.start(w.after) + w.steps + late >= self.start(w.before))
                m.rules.add(m.stage[w.after] + w.steps >= m.stage[w.before])
            if w.tiles is None:
                continue
            took = self.length(w.before) + m.rate * (w.moved / self.scale)
            if w.reads:
                took = took + self._shared(w.before, [c.write for c in candidates[w.before]])
                took = took + self._shared(w.after, [c.reads.get(w.before, 0.0) for c in candidates[w.after]])
            apart = self.start(w.after) - self.start(w.before) if w.before != w.after else 0
            m.rules.add(apart + w.tiles + late >= took)

    def _buffers(self) -> None:
        """No more tiles are open, and no more buffers of a tile's hold taken, than there are."""
        m, p = self.pyomo, self.problem
        more = self._give("open tiles", p.group.group.name, 1.0, "tiles")
        for name in p.leaves:
            m.rules.add(self.start(name) + self.length(name) <= p.pipe.open + more)
        for life in p.lives:
            more = self._give("buffers", life.where, 1.0, "buffers")
            for end in life.users:
                for begin in life.users:
                    taken = self.start(end) + self.length(end) - self.start(begin) if end != begin else self.length(end)
                    m.rules.add(taken + m.rate * (life.moved / self.scale) <= life.deep + more)

    def _memories(self) -> None:
        """The holds fit; how much one takes is up to its first user. Rows are scaled so that a byte is no rounding."""
        m = self.pyomo
        m.leads, m.one = pyo.VarList(within=pyo.Binary), pyo.Var(bounds=(1, 1))
        for memory, capacity in self.problem.capacity.items():
            holds = [stored for stored in self.problem.stored if stored.memory == memory]
            fixed = sum(max(s.nbytes.values()) for s in holds if len(set(s.nbytes.values())) == 1)
            free = [s for s in holds if len(set(s.nbytes.values())) > 1]
            scale = max((size for s in free for size in s.nbytes.values()), default=1.0)
            held = (fixed - capacity) / scale * m.one + sum(self._held(s, scale) for s in free)
            m.rules.add(held <= capacity / scale * self._give("memory", memory, capacity, "bytes"))

    def _held(self, stored: Stored, scale: float) -> Any:
        """Bytes of a hold over `scale`, as an expression."""
        m, candidates = self.pyomo, self.problem.candidates
        earlier, leads = 0, []
        for user in stored.users:
            right = [k for k in range(len(candidates[user])) if stored.below[user, k]]
            leads += [(user, k, earlier) for k in right]
            earlier = earlier + sum(m.on[user, k] for k in right)
        first = stored.users[0]
        leads += [(first, k, earlier) for k in range(len(candidates[first])) if not stored.below[first, k]]
        size, one = 0.0, 0
        for user, k, others in leads:
            lead = m.leads.add()
            m.rules.add(lead <= m.on[user, k])
            m.rules.add(lead >= m.on[user, k] - others)
            size, one = size + stored.nbytes[user, k] / scale * lead, one + lead
        m.rules.add(one == 1)
        return size

    def decisions(self) -> tuple[dict[str, int], dict[str, int], dict[str, float]]:
        """(candidate, stage, offset) of each leaf."""
        m, p = self.pyomo, self.problem
        chosen = {n: max(range(len(p.candidates[n])), key=lambda k, n=n: m.on[n, k].value) for n in p.leaves}
        stages = {n: round(m.stage[n].value) for n in p.leaves}
        return chosen, stages, {n: m.offset[n].value for n in p.leaves}

    def violations(self) -> Iterator[Violation]:
        """What a solved elastic model violates, the most severe first."""
        found = {key: slack.value or 0.0 for key, slack in self.slacks.items()}
        for key, slack in sorted(found.items(), key=lambda item: -item[1]):
            if slack > TINY:
                worth, unit = self.measure[key]
                yield Violation(*key, slack * worth, unit)
