"""The commands and their options. Each body imports what it needs, so that `stepfall --help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from einsum.problems import InputError, Problem, suggest
from studies.cli.inputs import parse_sizes

SIZE_HELP = "Sizes, such as M=65536,P=65536,B=64; may be repeated."
ROUTING_HELP = (
    "Which experts T tokens choose, K of E each: even, uniform, zipf:0.3, power:1.2, with a seed behind "
    "another colon, or a .npy file."
)
FILE = click.Path(dir_okay=False, path_type=Path)
POSITIVE = click.FloatRange(min=0, min_open=True)


class Commands(click.Group):
    """A group that answers an unknown command with the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            hint = suggest(args[0], self.commands)
            raise InputError(Problem("unknown command", path=ctx.command_path, got=args[0], hint=hint))
        return super().resolve_command(ctx, args)


def problem_of(error: click.UsageError) -> Problem:
    """A mistake in the command line that click found, as a `Problem`."""
    context = error.ctx
    path = context.command_path if context else "stepfall"
    match error:
        case click.NoSuchOption():
            known = [o for p in context.command.get_params(context) for o in p.opts] if context else []
            return Problem("unknown option", path=path, got=error.option_name, hint=suggest(error.option_name, known))
        case click.MissingParameter() if error.param:
            names = "/".join(error.param.opts) if isinstance(error.param, click.Option) else error.param.make_metavar
            return Problem(f"missing {names}", path=path)
        case _:
            return Problem(error.format_message().rstrip("."), path=path)


def _refuse_idle(options: dict[str, Any]) -> None:
    """InputError for options without the NAME that they are about: names alone would be listed and they ignored."""
    if options["name"] is None and any(value for value in options.values()):
        raise InputError(Problem("missing NAME", path=click.get_current_context().command_path))


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from mapper.result import provenance

        click.echo(f"stepfall {provenance().version}")
        ctx.exit()


def _sizes(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    return parse_sizes(values)


size_option = click.option("--size", "sizes", multiple=True, callback=_sizes, metavar="NAME=N,...", help=SIZE_HELP)
routing_option = click.option("--routing", metavar="TEXT|FILE", help=ROUTING_HELP)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def commands() -> None:
    """Simulate cascades of Einsums on accelerators and explore their designs."""


@commands.command()
@click.option("--cascade", required=True, metavar="NAME|FILE", help="What is computed.")
@click.option("--machine", required=True, metavar="NAME|FILE", help="Where it runs.")
@click.option("--mapping", required=True, metavar="NAME|FILE", help="Who computes what, when.")
@size_option
@routing_option
@click.option("--trace", type=FILE, help="Write a trace of the first tiles that ui.perfetto.dev opens.")
@click.option("--why", is_flag=True, help="Print the bottleneck: its circuit, and what 1% more of each thing gains.")
@json_option
def run(**options: Any) -> None:
    """Cost a mapping in closed form, simulate it, and print both side by side."""
    from studies.cli import run as command

    command.run(**options)


@commands.command("map")
@click.option("--cascade", required=True, metavar="NAME|FILE", help="What is computed.")
@click.option("--machine", required=True, metavar="NAME|FILE", help="Where it runs.")
@size_option
@routing_option
@click.option("--dtype", metavar="TYPE", help="Element type of every tensor in memory; by default as the cascade says.")
@click.option("--objective", default="latency", show_default=True, help="latency, energy, edp or pareto.")
@click.option("--tiling", default="divisors", show_default=True, help="divisors of a rank, or ragged tiles too.")
@click.option("--buffers", default=1, show_default=True, type=click.IntRange(1, 8), help="Buffers of each hold.")
@click.option("--simulate", type=click.IntRange(1), metavar="N", help="Least simulated latency, by N runs a group.")
@click.option("--buys", is_flag=True, help="Print what a machine 10% better in one thing gains when mapped anew.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write the mappings there as YAML.")
@json_option
def map_(**options: Any) -> None:
    """Search the best mapping of a cascade on a machine; print it with a proof of how good it is."""
    from studies.cli import map as command

    command.map_(**options)


@commands.command()
@click.option("--cascade", required=True, metavar="NAME|FILE", help="What is computed.")
@click.option("--machine", required=True, metavar="NAME|FILE", help="Where it runs.")
@click.option("--mapping", required=True, metavar="NAME|FILE", help="Whose pipes are bound and ordered.")
@size_option
@click.option("--within", type=POSITIVE, metavar="CYCLES", help="From tile to tile at most; else say what is missing.")
@click.option("--keep-units", is_flag=True, help="Choose the order alone.")
@click.option("--seconds", type=click.FloatRange(min=0), help="For each pipe; then the best so far, with its gap.")
@click.option("--out", type=FILE, help="Write the mapping there as YAML.")
@json_option
def bind(**options: Any) -> None:
    """Choose units and order of the Einsums in a mapping's pipes for the least time between tiles, with proof."""
    from studies.cli import bind as command

    command.bind(**options)


@commands.command("import")
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--from", "form", metavar="FORMAT", help="timeloop, accelforge, teaal or zigzag; by default by its keys.")
@click.option("--name", metavar="NAME", help="Of what is made; by default the first file's.")
@click.option("--machine", metavar="NAME|FILE", help="Our machine in place of theirs; TeAAL's mappings need one.")
@size_option
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write files there instead.")
def import_(**options: Any) -> None:
    """Read the files of another tool as a cascade, a machine and a mapping; say what does not carry over."""
    from studies.cli import exchange as command

    command.bring_in(**options)


@commands.command()
@click.option("--to", "form", required=True, metavar="FORMAT", help="timeloop, accelforge or teaal.")
@click.option("--cascade", metavar="NAME|FILE", help="What is computed.")
@click.option("--machine", metavar="NAME|FILE", help="Where it runs.")
@click.option("--mapping", metavar="NAME|FILE", help="Who computes what, when; needs both of the others.")
@size_option
@click.option("--out", type=FILE, help="Write a file instead.")
def export(**options: Any) -> None:
    """Print a cascade, a machine and a mapping in the format of another tool; say what does not carry over."""
    from studies.cli import exchange as command

    command.send_out(**options)


@commands.group(cls=Commands)
def show() -> None:
    """Print a cascade, a machine or a mapping, or list those that ship with stepfall."""


@show.command("cascade")
@click.argument("name", required=False, metavar="[NAME|FILE]")
@size_option
def show_cascade(**options: Any) -> None:
    """Print a cascade; with --size also what it computes and moves. Without a name: list the cascades."""
    from studies.cli import show as command

    _refuse_idle(options)
    command.cascade(**options)


@show.command("machine")
@click.argument("name", required=False, metavar="[NAME|FILE]")
@click.option("--sources", is_flag=True, help="Say where every number is from.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the YAML that reads back as this machine.")
def show_machine(**options: Any) -> None:
    """Print a machine. Without a name: list the machines."""
    from studies.cli import show as command

    _refuse_idle(options)
    command.machine(**options)


@show.command("mapping")
@click.argument("name", required=False, metavar="[NAME|FILE]")
@click.option("--cascade", metavar="NAME|FILE", help="The cascade to map, if not the mapping's usual one.")
@click.option("--machine", metavar="NAME|FILE", help="The machine to map to, if not the mapping's usual one.")
@size_option
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the YAML that reads back as this mapping.")
def show_mapping(**options: Any) -> None:
    """Print a mapping as a loop nest. Without a name: list the mappings."""
    from studies.cli import show as command

    _refuse_idle(options)
    command.mapping(**options)


@commands.command()
@click.argument("name", required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where tables, figures and summary go; out/NAME by default."
)
@click.option("--accounting", metavar="NAME", help="Energies of fusemax: as-published, corrected or own.")
@click.option("--scope", metavar="NAME", help="How much of mapper: quick or all.")
@json_option
def study(**options: Any) -> None:
    """Print a study's tables, figures and errors against published numbers. Without a name: list the studies."""
    from studies.cli import study as command

    _refuse_idle(options)
    command.study(**options)


@commands.group(cls=Commands)
def gpu() -> None:
    """Kernels for GPUs, generated from a cascade and a mapping."""


dtype_option = click.option("--dtype", metavar="TYPE", help="Element type in memory in place of bf16.")


@gpu.command()
@click.argument("name", required=False)
@dtype_option
@json_option
def check(**options: Any) -> int:
    """Generate a kernel, check values and counts, and compile it, without a GPU. Without a name: list the kernels."""
    from studies.cli import gpu as command

    _refuse_idle(options)
    return command.check(**options)


def mapped(command: Any) -> Any:
    """The options that name a mapped cascade."""
    for option in (
        size_option,
        click.option("--mapping", required=True, metavar="NAME|FILE", help="Who computes what, when."),
        click.option("--machine", default="h100", show_default=True, metavar="NAME|FILE", help="Where it runs."),
        click.option("--cascade", required=True, metavar="NAME|FILE", help="What is computed."),
    ):
        command = option(command)
    return command


@gpu.command()
@mapped
@dtype_option
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write one file a kernel there instead.")
def emit(**options: Any) -> None:
    """Print the Triton kernels of a mapped cascade, in launch order. Needs no Triton."""
    from studies.cli import gpu as command

    command.emit(**options)


@gpu.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--only", default="", help="Points whose name contains this.")
def plan(**options: Any) -> None:
    """Write a folder that measures kernels on a GPU machine with numpy, torch and triton: `python run.py` in it."""
    from studies.cli import gpu as command

    command.plan(**options)


@gpu.command()
@click.argument("folder", type=click.Path(path_type=Path))
def record(**options: Any) -> None:
    """Take in the measurements of a folder that `plan` wrote, after `run.py` has run in it."""
    from studies.cli import gpu as command

    command.record(**options)


@commands.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
def crosscheck(**options: Any) -> int:
    """Hold closed form, counted and compiled kernels, simulation and measurements against each other.

    NAMES are cascades that are simulated and kernels that `stepfall gpu check` lists; all by default.
    """
    from studies.cli import crosscheck as command

    return command.crosscheck(**options)


@commands.command()
@click.option(
    "--machine", metavar="NAME|FILE", help="Only this GPU; with --data, the one that no machine is named after."
)
@click.option("--data", type=FILE, help="Measured kernels in the columns of studies/reference/gpu, in place of those.")
@click.option("--out", default="out/validate", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@json_option
def validate(**options: Any) -> None:
    """Predict measured GPU kernels; print the errors, those of simpler models, and the noise of measuring."""
    from studies.cli import validate as command

    command.validate(**options)


@commands.command()
@click.option("--machine", default="h100", show_default=True, metavar="NAME|FILE", help="The GPU.")
@click.option(
    "--data", multiple=True, type=FILE, help="Measured kernels, in place of those that ship; may be repeated."
)
@click.option("--out", default="out/calibrate", show_default=True, type=click.Path(file_okay=False, path_type=Path))
def calibrate(**options: Any) -> None:
    """Fit a GPU's physical constants to half of its measured kernels; write them and every residual as YAML."""
    from studies.cli import validate as command

    command.calibrate(**options)


@commands.command()
@click.argument("cascade", metavar="NAME|FILE")
@size_option
@click.option("--machine", metavar="NAME|FILE", help="Also a roofline, and whether everything fits.")
@click.option("--svg", type=FILE, help="Draw the graph of Einsums into a file.")
@json_option
def analyse(**options: Any) -> None:
    """Count operations, bytes, passes and live tensors of a cascade; needs no machine."""
    from studies.cli import analyse as command

    command.analyse(**options)


@commands.command()
@click.argument("cascade", metavar="NAME|FILE")
@click.option("--passes", "wanted", type=click.IntRange(min=1), default=1, show_default=True, help="Passes to reach.")
@click.option("--rank", help="The rank to walk; by default the one with the most passes.")
@click.option("--parallel", is_flag=True, help="Tiles side by side (Flash-Decoding), not one after another.")
@click.option("--allow", multiple=True, metavar="LAW", help="Also use a law that loses digits, such as 'raw moments'.")
@json_option
def derive(**options: Any) -> None:
    """Rewrite a cascade until it needs few passes; `attention` stands for attention-3pass."""
    from studies.cli import derive as command

    command.derive(**options)


@commands.command()
@click.argument("name", required=False)
@click.option("--config", type=FILE, help="Read the model from a Hugging Face config.json.")
@click.option("--prefill", type=click.IntRange(min=1), metavar="LENGTH", help="Print a layer in prefill.")
@click.option("--decode", type=click.IntRange(min=1), metavar="LENGTH", help="Print a layer in decode.")
@click.option("--batch", type=click.IntRange(min=1), help="Requests of that layer; by default 1.")
@click.option("--layer", "index", type=click.IntRange(min=0), help="Which layer; by default 0.")
@click.option("--queries", type=click.IntRange(min=1), help="New tokens in decode; by default 1.")
@click.option("--source", type=click.IntRange(min=1), help="Tokens of the encoder that the layer attends to.")
@click.option("--attention", metavar="NAME", help="Cascade of its attention; by default attention-3pass.")
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="More of attention, such as paged.")
@json_option
def models(**options: Any) -> None:
    """Print models and their totals, one model, or a layer of one as a cascade. Without a name: list the models."""
    from studies.cli import models as command

    command.models(**options)
