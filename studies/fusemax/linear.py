"""End to end: the matrix products around attention, which the designs of one machine share."""

from __future__ import annotations

from dataclasses import dataclass

from mapper.library import make
from mapper.result import Result
from studies.fusemax.designs import Case, Compared, load_cascade, load_machine
from studies.fusemax.published import layer

FILES = {"flat": "end2end-flat", "fusemax": "end2end-proposal"}  # machine -> the artifact's file


@dataclass(frozen=True)
class Layer(Compared):
    """The products of one layer on one machine, by both methods."""

    machine: str
    model: str
    length: str
    case: Case
    results: tuple[Result, Result]  # in the order of METHODS

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.length

    @property
    def config(self) -> str:
        return f"linear layers on {self.machine} {self.model} {self.length}"

    def values(self, method: str) -> dict[str, float]:
        """The artifact's columns, ours, without energy: bytes and seconds."""
        result = self.result(method)
        return {"traffic": result.total("bytes", place="dram"), "latency": result.latency_s}


def linear(machine: str, model: str, length: str) -> Layer:
    """The layer, solved by both methods."""
    case = case_of(machine, model, length)
    return Layer(machine, model, length, case, case.solve())


def case_of(machine: str, model: str, length: str) -> Case:
    """The six products: T tokens of the whole batch, D features, I of all heads, S of the feed-forward layer."""
    row = {k: int(v) for k, v in layer(model, length).items() if v.isdigit()}
    sizes = {"T": row["B"] * row["P"], "D": row["D"], "I": row["E"] * row["H"], "S": row["S"]}
    cascade, device = load_cascade("transformer-linear"), load_machine(machine)
    return Case(*make("linear", cascade, device, sizes), device)
