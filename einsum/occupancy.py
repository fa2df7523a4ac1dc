"""The occupancy of data-dependent ranks: which experts each token chooses, as an array or drawn from a distribution.

A routing decides how long the ragged ranks of a mixture of experts are (SEMANTICS 1.12). The cascades of the library
name what follows from it: IDS, PLACE, TOKEN, START and COUNT.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from einsum.cascade import Cascade
from einsum.problems import InputError, Problem, suggest

KINDS = ("even", "uniform", "zipf", "power")
SPEC = re.compile(r"(?P<kind>[a-z]+)(:(?P<skew>[0-9.]+))?(:(?P<seed>[0-9]+))?")
TOP = 0.8  # the most popular expert's weight before normalising, of the tokens (AIConfigurator's generator)


@dataclass(frozen=True, eq=False)
class Routing:
    """The distinct experts [t,k] that each token chose, of `experts`."""

    chosen: np.ndarray
    experts: int

    def __post_init__(self) -> None:
        found = np.sort(self.chosen, axis=-1)
        whole = found.ndim == 2 and found.size > 0 and np.issubdtype(found.dtype, np.integer)
        if not whole or found.min() < 0 or found.max() >= self.experts or (found[:, 1:] == found[:, :-1]).any():
            what = f"a routing gives each token the same number of distinct experts, 0 to {self.experts - 1}"
            raise InputError(Problem(what, path="routing", got=f"{found.dtype} array of shape {found.shape}"))

    @property
    def tokens(self) -> int:
        return self.chosen.shape[0]

    @property
    def choices(self) -> int:
        """Experts of a token, K."""
        return self.chosen.shape[1]

    @cached_property
    def counts(self) -> np.ndarray:
        """Tokens of each expert."""
        return np.bincount(self.chosen.reshape(-1), minlength=self.experts)

    @property
    def active(self) -> int:
        """Experts with at least one token."""
        return int((self.counts > 0).sum())

    @property
    def max_over_mean(self) -> float:
        """The busiest expert's tokens over the average."""
        return float(self.counts.max() / self.counts.mean())

    @property
    def gini(self) -> float:
        """Gini coefficient of the experts' tokens: 0 if all have as many, (E-1)/E if one has all."""
        ranks = np.arange(1, self.experts + 1)
        return float((2 * ranks - self.experts - 1) @ np.sort(self.counts) / (self.experts * self.counts.sum()))

    def loads(self, devices: int) -> np.ndarray:
        """Pairs of token and choice on each device; device p has experts [p*E/P, (p+1)*E/P)."""
        return self.counts.reshape(devices, -1).sum(axis=1)

    def part(self, device: int, devices: int) -> np.ndarray:
        """Tokens of each expert on one device."""
        return self.counts.reshape(devices, -1)[device]

    def sent(self, devices: int) -> np.ndarray:
        """Rows [from,to] that devices send each other; device p has tokens [p*T/P, (p+1)*T/P). A token goes once to
        each other device that has any of its experts."""
        home = np.arange(self.tokens) * devices // self.tokens
        goes = np.zeros((self.tokens, devices), bool)
        np.put_along_axis(goes, self.chosen * devices // self.experts, True, axis=1)
        rows = np.zeros((devices, devices), np.int64)
        np.add.at(rows, home, goes)
        np.fill_diagonal(rows, 0)
        return rows

    @cached_property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """What the library's cascades name: IDS[t,k], PLACE[t,k] among the expert's tokens, TOKEN[s] of the pairs
        sorted by expert, START[e] and COUNT[e]."""
        pairs = self.chosen.reshape(-1).astype(np.int64)
        order = np.argsort(pairs, kind="stable")
        start = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        place = np.empty_like(pairs)
        place[order] = np.arange(pairs.size) - start[pairs[order]]
        return {
            "IDS": self.chosen,
            "PLACE": place.reshape(self.chosen.shape),
            "TOKEN": order // self.choices,
            "START": start,
            "COUNT": self.counts,
        }

    def given(self, cascade: Cascade) -> dict[str, np.ndarray]:
        """The inputs of a cascade that the routing decides; InputError if there are none."""
        found = {name: value for name, value in self.tensors.items() if name in cascade.inputs}
        if not found:
            what = f"{cascade.name} has no input that a routing decides: {', '.join(self.tensors)}"
            raise InputError(Problem(what, path="routing"))
        return found


@dataclass(frozen=True)
class Occupancy:
    """How tokens choose experts. `even`: in turn, by strides, so that all experts have as many tokens and those of a
    token lie apart. Else each token draws
    distinct experts with probabilities in proportion to weights: `uniform`; `zipf`, i**-skew for i = 1, 2, ..., the
    experts in random order, so that blocks of them on devices are alike; `power`, drawn from a power law of exponent
    skew between 1 and 0.8 T."""

    kind: str = "uniform"
    skew: float = 0.0
    seed: int = 0

    def __str__(self) -> str:
        skew = f":{self.skew:g}" if self.kind in ("zipf", "power") else ""
        return f"{self.kind}{skew}" + (f":{self.seed}" if self.seed else "")

    def draw(self, tokens: int, experts: int, chosen: int) -> Routing:
        """The routing of `tokens` tokens that choose `chosen` of `experts` each; the same for the same seed."""
        if chosen > experts:
            raise InputError(Problem(f"a token cannot choose {chosen} distinct experts", path="E", got=str(experts)))
        if self.kind == "even":
            turn = np.arange(tokens * chosen).reshape(tokens, chosen) % experts
            return Routing((turn * _stride(experts, chosen) % experts).astype(np.int32), experts)
        # the largest of log-weights with Gumbel noise are a draw without replacement
        noise = np.random.default_rng(self.seed).gumbel(size=(tokens, experts))
        scores = noise + self._log_weights(tokens, experts)
        return Routing(np.argsort(-scores, axis=1)[:, :chosen].astype(np.int32), experts)

    def _log_weights(self, tokens: int, experts: int) -> np.ndarray:
        """Of each expert, from random numbers of their own."""
        rng = np.random.default_rng([self.seed, 1])
        if self.kind == "power":  # by the inverse of the bounded distribution function
            drawn, power, top = rng.random(experts), 1 - self.skew, max(2.0, TOP * tokens)
            return np.log1p(drawn * (top**power - 1)) / power if power else drawn * np.log(top)
        return -(self.skew if self.kind == "zipf" else 0) * np.log(1 + rng.permutation(experts))


def _stride(experts: int, chosen: int) -> int:
    """The first number from E/K on that shares no factor with E, so that its multiples visit every expert."""
    return next(step for step in range(max(1, experts // chosen), 2 * experts + 2) if math.gcd(step, experts) == 1)


def routed(
    cascade: Cascade, sizes: Mapping[str, int], text: str
) -> tuple[dict[str, int], dict[str, np.ndarray], Routing]:
    """The sizes of a cascade, the inputs that a routing decides, and the routing, from sizes with T, K and E (SEMANTICS
    1.12). InputError for what is missing."""
    if missing := [name for name in "TKE" if name not in sizes]:
        raise InputError(Problem(f"a routing needs the size {name}", path="routing") for name in missing)
    routing = read(text, sizes["T"], sizes["E"], sizes["K"])
    own = {n: size for n, size in sizes.items() if n not in "TK" or n in cascade.free_sizes}
    if "C" in cascade.free_sizes:
        own.setdefault("C", int(routing.counts.max()))
    return own, routing.given(cascade), routing


def read(text: str, tokens: int, experts: int, chosen: int) -> Routing:
    """The routing that a text names: `even`, `uniform[:SEED]`, `zipf:SKEW[:SEED]`, `power:EXPONENT[:SEED]`, or a .npy
    file with an array [t,k]. InputError if it is none of these or does not have the sizes."""
    if text.endswith(".npy"):
        return _from_file(Path(text), tokens, experts, chosen)
    return parse(text).draw(tokens, experts, chosen)


def parse(text: str) -> Occupancy:
    """The distribution that a text names. Raises InputError."""
    match = SPEC.fullmatch(text)
    kind = match["kind"] if match else text.partition(":")[0]
    what = "a routing is even, uniform[:SEED], zipf:SKEW[:SEED], power:EXPONENT[:SEED] or a .npy file"
    if match is None or kind not in KINDS:
        raise InputError(Problem(what, path="routing", got=text, hint=suggest(kind, KINDS)))
    if kind in ("zipf", "power"):
        if match["skew"] is None:
            raise InputError(Problem(f"{kind} needs an exponent, such as {kind}:0.3", path="routing", got=text))
        return Occupancy(kind, _number(match["skew"], text), int(match["seed"] or 0))
    if match["seed"] is not None or not (match["skew"] or "0").isdigit():
        raise InputError(Problem(what, path="routing", got=text))
    return Occupancy(kind, 0.0, int(match["skew"] or 0))


def _number(skew: str, text: str) -> float:
    try:
        return float(skew)
    except ValueError:
        raise InputError(Problem("not a number", path="routing", got=text)) from None


def _from_file(path: Path, tokens: int, experts: int, chosen: int) -> Routing:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(Problem(f"cannot read an array: {error}", file=str(path))) from error
    if array.shape != (tokens, chosen):
        what = f"must have shape (T, K) = ({tokens}, {chosen})"
        raise InputError(Problem(what, file=str(path), got=str(array.shape)))
    return Routing(array, experts)


def expected_active(experts: int, chosen: int, tokens: float) -> float:
    """Experts that `tokens` tokens activate on average if each draws `chosen` distinct ones at random: E(1-(1-K/E)^t)
    (MoESD, 2025, N(t))."""
    return experts * (1 - (1 - chosen / experts) ** tokens)


def capacity(factor: float, tokens: int, experts: int, chosen: int) -> int:
    """Tokens that an expert keeps: ceil(factor*T*K/E) (GShard, ICLR 2021)."""
    return math.ceil(factor * tokens * chosen / experts)
