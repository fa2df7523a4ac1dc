"""How many programs (thread blocks) an SM keeps resident at once: SEMANTICS 3.11."""

from __future__ import annotations

from arch.machine import Array, Machine, Residency

REGISTER_BYTES = 4


def residency(machine: Machine) -> Residency:
    """What an SM of the machine keeps resident; LookupError if it is no GPU."""
    found = next((n.residency for n in machine.nodes() if isinstance(n, Array) and n.residency), None)
    if found is None:
        raise LookupError(f"{machine.name} says nothing of resident programs")
    return found


def resident_programs(machine: Machine, registers: int, shared_bytes: float, warps: int) -> int:
    """Programs of `warps` warps that are resident on an SM at once, given a thread's registers and a program's shared
    memory; 0 if one does not fit. Warps are bound to a sub-core, so that its registers hold whole warps."""
    of, memory, unit = residency(machine), machine.memory, machine.instances
    step, shared_step = of.register_step, of.shared_step_bytes
    each = max(step, -(-registers * of.warp_threads // step) * step)
    capacity = memory("registers").capacity_bytes or 0
    by_registers = capacity // REGISTER_BYTES // each * (unit("registers") // unit("smem"))
    program = -(-(shared_bytes + of.reserved_shared_bytes) // shared_step) * shared_step
    by_shared = (memory("smem").capacity_bytes or 0) // program if program else of.programs
    return int(min(min(by_registers, of.warps) // warps, by_shared, of.programs))
