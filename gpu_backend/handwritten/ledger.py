"""What kernels do, added up in closed form: a `Result` with the rows of a count (SEMANTICS 7.6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from arch.machine import Machine
from mapper.result import Result, Row

USEFUL = "useful"
COUNTED = ("programs", "bytes", "accesses", "lanes", "operations", "combines")


class Ledger:
    """Sums over the programs of all launches on a machine. `sizes`: bytes of an element of each tensor."""

    def __init__(self, sizes: Mapping[str, int], machine: Machine) -> None:
        self._sizes, self._machine = sizes, machine
        self._sector = int(machine.root.access_bytes)
        self._rows: Counter[tuple[str, str, str, str, str]] = Counter()  # quantity, Einsum, tensor, detail, boundary
        self.programs = 0

    def sectors(self, tensor: str, first: int, elements: int) -> int:
        """Those of neighbouring elements from `first` on."""
        size = self._sizes[tensor]
        return -(-(first + elements) * size // self._sector) - first * size // self._sector if elements else 0

    def move(self, way: str, tensor: str, lanes: int, active: int, distinct: int, sectors: int | None = None) -> None:
        """Loads (`read`) or stores (`write`) of blocks: lanes, those not masked off, distinct elements of the tensor,
        and sectors; these are by default those of whole, aligned rows."""
        size = self._sizes[tensor]
        once = "bytes", "", tensor, way, "distinct"
        self._rows["bytes", "", tensor, way, "issued"] += active * size
        self._rows[once] = max(self._rows[once], distinct * size)
        self._rows["accesses", "", tensor, way, ""] += active * size // self._sector if sectors is None else sectors
        self._rows["lanes", "", tensor, way, "issued"] += lanes
        self._rows["lanes", "", tensor, way, "useful"] += active

    def compute(self, variable: str, issued: int, useful: int | None = None, **operations: int) -> None:
        """Operations of each class at each of the issued points, and at the useful ones; `combines` are those of
        reductions. Without useful ones, as for arithmetic on indices, nothing is said of them."""
        for name, n in operations.items():
            quantity, detail = ("combines", "") if name == "combines" else ("operations", name)
            self._rows[quantity, variable, "", detail, "issued"] += n * issued
            if useful is not None:
                self._rows[quantity, variable, "", detail, "useful"] += n * useful

    def result(self, config: dict[str, object], outer: tuple[str, ...]) -> Result:
        """The rows, and a bound on the latency: the matrix work at the tensor units' peak, or every byte of the `outer`
        tensors once at the outermost memory's bandwidth."""
        root, unit = self._machine.root, self._machine.unit("tensor")
        rows = [Row("programs", self.programs)]
        for (quantity, variable, tensor, detail, boundary), n in self._rows.items():
            rows.append(Row(quantity, n, variable, tensor, root.name if tensor else "", detail, boundary))
        macs = sum(row.value for row in rows if row.detail == "mac" and row.boundary == "issued")
        moved = sum(row.value for row in rows if row.boundary == "distinct" and row.tensor in outer)
        rate = self._machine.instances(unit.name) * unit.lanes * unit.clock_hz
        assert root.read_bytes_per_s, "device memory has a bandwidth"
        rows.append(Row("latency", max(macs / rate, moved / root.read_bytes_per_s)))
        return Result("closed form", config, tuple(rows))


def differences(closed: Result, counted: Result) -> tuple[str, ...]:
    """One line for each counted quantity on which the two differ; empty when they are equal.

    Where the closed form says nothing of useful operations, as of arithmetic on indices, they are not compared.
    """
    left, right = numbers(closed), numbers(counted)
    silent = {key[1] for key in left if key[1]} - {key[1] for key in left if key[-1] == USEFUL}
    return tuple(
        f"{' '.join(filter(None, key))}: closed form {left.get(key, 0):.0f}, counted {right.get(key, 0):.0f}"
        for key in sorted({*left, *right})
        if left.get(key, 0) != right.get(key, 0) and not (key[-1] == USEFUL and key[1] in silent)
    )


def numbers(result: Result) -> dict[tuple[str, ...], float]:
    """What is compared, but for zeros."""
    return {row.key: row.value for row in result.rows if row.quantity in COUNTED and row.value}
