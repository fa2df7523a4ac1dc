"""A program as text: the nest, then each task with what it waits for."""

from __future__ import annotations

from sim.program import Affine, Bound, Dep, Extreme, Program, Table, Task, When


def show(program: Program) -> str:
    """The program, one loop, task, resource or slot a line; durations in ticks."""
    lines = [f"program {program.name}: window {program.window}, {program.ticks_per_second:g} ticks per second"]
    for depth, loop in enumerate(program.loops):
        lines.append(f"{'  ' * depth}for {loop.name} in [{_bound(loop.start)}, {_bound(loop.stop)})")
    indent = "  " * len(program.loops)
    lines += [indent + _task(task) for task in program.tasks]
    for resource in program.resources:
        entries = (f"{name}[-{stage}]" if stage else name for name, stage in resource.order or ())
        order = f"order {', '.join(entries)}" if resource.order else "oldest tile first"
        lines.append(f"resource {resource.name}: {order}")
    lines += [f"slot {slot.name}: {slot.count}" for slot in program.slots]
    return "\n".join(lines)


def _bound(bound: Bound) -> str:
    match bound:
        case Affine(constant, terms, divisor, table):
            parts = [f"{c}*{name}" if c != 1 else name for name, c in terms]
            total = " + ".join([*parts, *([_bound(table)] if table else []), str(constant)])
            return f"({total}) // {divisor}" if divisor != 1 else total
        case Extreme(op, bounds):
            return f"{op}({', '.join(map(_bound, bounds))})"
        case Table(loop, values):
            return f"{list(values)}[{loop}]"
        case _:
            return str(bound)


def _task(task: Task) -> str:
    text = f"{task.name} on {task.resource or '-'}: {task.ticks}"
    for variant in task.variants:
        text += f", {variant.ticks} if {_when(variant.when)}"
    text += f" if {_when(task.when)}" if task.when else ""
    for word, items in (("after", map(_dep, task.deps)), ("takes", task.acquires), ("gives", task.releases)):
        listed = ", ".join(items)
        text += f"; {word} {listed}" if listed else ""
    return text


def _when(when: tuple[When, ...]) -> str:
    return " and ".join(f"{w.loop} {w.at}" if isinstance(w.at, str) else f"{w.loop} == {w.at}" for w in when)


def _dep(dep: Dep) -> str:
    carried = ",".join(f"{name}-{d}" if d >= 0 else f"{name}+{-d}" for name, d in dep.carried)
    return dep.task + (f"[{carried}]" if carried else "") + (f"[launched-{dep.launched}]" if dep.launched else "")
