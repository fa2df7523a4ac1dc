"""Cascades and machines as the files of other tools: plain data, and notes on what they have no place for."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from arch import units
from arch.document import TAG
from arch.machine import ROLES, Array, Machine, Memory, Node as MachineNode, Unit
from einsum.affine import affine
from einsum.cascade import Access, Apply, Cascade, Expr, Workload, walk
from einsum.ops import is_view
from einsum.problems import InputError, Problem
from einsum.show import show_einsum, show_expr
from mapper.exchange.machine import COMPUTE, MESH, PJ

Notes = list[Problem]


def refuse(what: str, path: str) -> InputError:
    """A problem of what cannot be written at all."""
    return InputError(Problem(what, path=path))


def product(expr: Expr) -> list[Access] | None:
    """The factors of a product of accesses; None for any other expression."""
    match expr:
        case Access():
            return [expr]
        case Apply("*", (left, right)):
            both = product(left), product(right)
            return None if both[0] is None or both[1] is None else both[0] + both[1]
    return None


def timeloop_problem(workload: Workload, notes: Notes) -> dict[str, Any]:
    """`problem:` of the one Einsum that computes; InputError unless it is a plain sum of products."""
    cascade = workload.cascade
    einsums = [e for e in cascade.einsums if not is_view(e)]
    factors = product(einsums[0].expr) if einsums else None
    if len(cascade.einsums) != 1 or factors is None or einsums[0].guards or einsums[0].reduce_op != "add":
        raise refuse("a Timeloop problem is one Einsum that sums a product", cascade.name)
    (einsum,) = einsums
    spaces, coefficients = [], {}
    for access in (*factors, einsum.output):
        projection = []
        for index in access.indices:
            form = affine(index, workload.sizes)
            if form is None or form.const or any(n < 1 for _, n in form.terms):
                raise refuse(f"not an index of Timeloop: {show_expr(index)}", access.tensor)
            coefficients |= {f"{rank.upper()}factor": n for rank, n in form.terms if n > 1}
            projection.append([[r.upper(), *([f"{r.upper()}factor"] if n > 1 else [])] for r, n in form.terms])
        spaces.append({"name": access.tensor, "projection": projection})
    spaces[-1]["read_write"] = True
    if len({workload.bits(t.name) for t in cascade.tensors}) > 1:
        notes.append(Problem("tensors of different types: data widths are the memories' there", path=cascade.name))
    own = [rank.upper() for rank in einsum.ranks]
    dimensions = sorted(own, key=[*dict(cascade.sizes), *own].index)
    shape: dict[str, Any] = {"name": cascade.name, "dimensions": dimensions, "data_spaces": spaces}
    if coefficients:
        shape["coefficients"] = [{"name": name, "default": n} for name, n in coefficients.items()]
    instance = {dimension: workload.sizes[dimension] for dimension in dimensions}
    return {"problem": {"version": "0.4", "shape": shape, "instance": instance}}


def accelforge_workload(workload: Workload, notes: Notes) -> dict[str, Any]:
    """`workload:` with the operands of each Einsum; operators have no place in it."""
    cascade, einsums = workload.cascade, []
    for einsum in cascade.einsums:
        factors = product(einsum.expr)
        plain = factors is not None and len(set(factors)) == len(factors) and einsum.reduce_op == "add"
        if not plain or einsum.guards or einsum.init is not None:
            notes.append(Problem(f"only its operands are kept: {show_einsum(einsum)}", path=einsum.name))
        accesses = [_access(access, cascade) for access in dict.fromkeys(einsum.reads)]
        accesses.append(_access(einsum.output, cascade) | {"output": True})
        copy = {"is_copy_operation": True} if is_view(einsum) else {}
        einsums.append({"name": einsum.name, **copy, "tensor_accesses": accesses})
    ranks = {rank.upper() for rank in _ranks(cascade)}
    order = dict.fromkeys((*(name for name, _ in cascade.sizes), *(rank.upper() for rank in _ranks(cascade))))
    sizes = {rank: workload.sizes[rank] for rank in order if rank in ranks}
    bits = {t.name: workload.bits(t.name) for t in cascade.tensors}
    return {"workload": {"rank_sizes": sizes, "bits_per_value": bits, "einsums": einsums}}


def _ranks(cascade: Cascade) -> Iterator[str]:
    yield from cascade.ranks
    yield from (rank for tensor in cascade.tensors for rank in tensor.ranks)


def _access(access: Access, cascade: Cascade) -> dict[str, Any]:
    ranks = [rank.upper() for rank in cascade.tensor[access.tensor].ranks]
    return {"name": access.tensor, "projection": dict(zip(ranks, map(show_expr, access.indices), strict=True))}


def teaal_einsum(workload: Workload, notes: Notes) -> dict[str, Any]:
    """`einsum:`; InputError for what is not made of `+ - *` and sums."""
    cascade, expressions = workload.cascade, []
    for einsum in cascade.einsums:
        odd = [n.op for n in walk(einsum.expr) if isinstance(n, Apply) and n.op not in ("+", "-", "*")]
        if odd or einsum.guards or einsum.init is not None or einsum.topk or einsum.reduce_op != "add":
            raise refuse(f"TeAAL has sums of `+ - *` only: {show_einsum(einsum)}", einsum.name)
        expressions.append(show_einsum(einsum))
    notes.append(Problem("sizes and types are those of the data there", path=cascade.name))
    declared = {t.name: [rank.upper() for rank in t.ranks] for t in cascade.tensors}
    return {"einsum": {"declaration": declared, "expressions": expressions}}


def timeloop_architecture(machine: Machine, word_bits: int, notes: Notes) -> dict[str, Any]:
    """`architecture:` of the levels down to the first unit that multiplies and adds, and an `ERT:` with energies."""
    path = machine.path(_mac_unit(machine).name)
    for node in machine.nodes():
        if node not in path:
            notes.append(Problem("Timeloop has one compute unit and the levels around it", path=node.name))
    _unsaid(machine, notes, "area_m2", "latency_s", "drain_s", "holds", "bypass", "lanes")
    attributes: dict[str, Any] = {"global_cycle_seconds": float(1 / machine.clock_hz)}
    if machine.technology_m:
        attributes["technology"] = units.show(machine.technology_m, "length").replace(" ", "")
    nodes, tables = [{TAG: "Container", "name": "system", "attributes": attributes}], []
    for node in path:
        energy = {}
        match node:
            case Memory():
                nodes.append(_timeloop_memory(node, machine, word_bits, notes))
                energy = {"read": node.read_energy_j, "write": node.write_energy_j, "update": node.write_energy_j}
            case Array():
                nodes.append({TAG: "Container", "name": node.name, "spatial": _mesh(node, notes)})
            case Unit():
                width = {"datawidth": word_bits}
                nodes.append({TAG: "Component", "name": node.name, "class": "intmac", "attributes": width})
                energy = {"compute": node.ops["mac"].energy_j}
        if energy:
            pj = {action: float(Fraction(repr(joules)) / PJ) for action, joules in energy.items()}
            actions = [{"name": action, "arguments": {}, "energy": value} for action, value in pj.items()]
            tables.append({"name": f"system.{node.name}[1..{machine.instances(node.name)}]", "actions": actions})
    return {"architecture": {"version": "0.4", "nodes": nodes}, "ERT": {"version": "0.4", "tables": tables}}


def _mac_unit(machine: Machine) -> Unit:
    found = [u for u in machine.units if "mac" in u.ops]
    if not found:
        raise refuse("no unit multiplies and adds", machine.name)
    return found[0]


def _timeloop_memory(m: Memory, machine: Machine, word_bits: int, notes: Notes) -> dict[str, Any]:
    words = lambda rate: rate * 8 / word_bits / machine.clock_hz
    width = m.access_bytes * 8
    attributes: dict[str, Any] = {"width": _plain(width), "datawidth": word_bits}
    if width % word_bits:
        what = f"an access is no multiple of a value of {word_bits} bits"
        notes.append(Problem(what, path=m.name, got=f"{width:g} bits"))
    if m.capacity_bytes is not None:
        attributes["depth"] = _plain(m.capacity_bytes * 8 / width)
    ports = {"shared_bandwidth": m.read_bytes_per_s} if m.shared_port else {}
    ports |= {} if m.shared_port else {"read_bandwidth": m.read_bytes_per_s, "write_bandwidth": m.write_bytes_per_s}
    attributes |= {key: _plain(words(rate)) for key, rate in ports.items() if rate is not None}
    kind = "DRAM" if m is machine.root else "storage"
    return {TAG: "Component", "name": m.name, "class": kind, "attributes": attributes}


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else number


def _mesh(array: Array, notes: Notes) -> dict[str, int]:
    if len(array.axes) > len(MESH):
        raise refuse(f"Timeloop's arrays have two axes, this one {len(array.axes)}", array.name)
    names = [a.name for a in array.axes] if all(a.name in MESH for a in array.axes) else MESH
    for axis, name in zip(array.axes, names, strict=False):
        if axis.name != name:
            notes.append(Problem(f"the axis is called {name} there", path=f"{array.name}.{axis.name}"))
        if not (axis.multicast and axis.reduce):
            notes.append(Problem("its network can multicast and reduce there", path=f"{array.name}.{axis.name}"))
    return {name: axis.size for axis, name in zip(array.axes, names, strict=False)}


_DEFAULT = {"area_m2": 0.0, "latency_s": 0.0, "drain_s": 0.0, "holds": None, "bypass": True, "lanes": 1}


def _unsaid(machine: Machine, notes: Notes, *fields: str) -> None:
    """Notes on what a format has no place for."""
    for node in machine.nodes():
        for field in fields:
            if (value := getattr(node, field, _DEFAULT[field])) != _DEFAULT[field]:
                notes.append(Problem(f"{field.partition('_')[0]} has no place there", path=node.name, got=str(value)))
        if isinstance(node, Unit):
            one = next(iter(node.ops.values()))
            odd = [c for c in (*node.ops, *node.expands) if c not in COMPUTE or node.ops[c] != one]
            if odd:
                notes.append(Problem("operation classes have no place there", path=node.name, got=", ".join(odd)))
    for field, value in (("power_cap", machine.power_cap_w), ("links", machine.links)):
        if value:
            notes.append(Problem(f"{field} has no place there", path=machine.name))


def accelforge_arch(machine: Machine, notes: Notes) -> dict[str, Any]:
    """`arch:`, children of a node after it, all but the last in forks."""
    _unsaid(machine, notes, "latency_s", "drain_s")
    if machine.technology_m:
        notes.append(Problem("technology has no place there", path=machine.name))
    nodes = _accelforge_nodes(machine.root, machine)
    nodes[0] |= {"leak_power": machine.static_power_w, "tensors": {"keep": "~Intermediates", "may_keep": "All"}}
    return {"arch": {"nodes": nodes}}


def _accelforge_nodes(node: MachineNode, machine: Machine) -> list[dict[str, Any]]:
    if isinstance(node, Unit):
        cost = node.ops.get("mac") or next(iter(node.ops.values()))
        latency = f"{cost.cycles!r} / {node.clock_hz!r}"
        lanes = {"n_parallel_instances": node.lanes} if node.lanes != 1 else {}
        action = {"name": "compute", "energy": cost.energy_j, "latency": latency}
        data = {TAG: "Compute", "name": node.name, "area": node.area_m2, "leak_power": 0}
        return [data | lanes | {"actions": [action]}]
    made = [_container(node) if isinstance(node, Array) else _accelforge_memory(node)]
    for i, child in enumerate(node.children):
        inner = _accelforge_nodes(child, machine)
        fork = i < len(node.children) - 1 and not isinstance(child, Unit)
        made += [{TAG: "Fork", "nodes": inner}] if fork else inner
    return made


def _container(array: Array) -> dict[str, Any]:
    reuse = lambda axis: [r for r in ROLES if (axis.reduce if r == "output" else axis.multicast)]
    fanouts = [{"name": a.name, "fanout": a.size, "may_reuse": " | ".join(reuse(a)) or "Nothing"} for a in array.axes]
    return {TAG: "Container", "name": array.name, "spatial": fanouts}


def _accelforge_memory(m: Memory) -> dict[str, Any]:
    bits, roles = m.access_bytes * 8, " | ".join(m.holds or ROLES)
    rates = (m.read_bytes_per_s, m.read_bytes_per_s if m.shared_port else m.write_bytes_per_s)
    data: dict[str, Any] = {TAG: "Memory", "name": m.name, "area": m.area_m2, "leak_power": 0}
    data["size"] = "inf" if m.capacity_bytes is None else _plain(m.capacity_bytes * 8)
    data |= {} if m.shared_port else {"total_latency": "max(read_latency, write_latency)"}
    data["actions"] = []
    for name, energy, rate in (("read", m.read_energy_j, rates[0]), ("write", m.write_energy_j, rates[1])):
        latency = f"{bits!r} / {8 * rate!r}" if rate else 0
        data["actions"].append({"name": name, "energy": energy, "bits_per_action": _plain(bits), "latency": latency})
    return data | {"tensors": {"may_keep": roles} if m.bypass else {"keep": roles}}
