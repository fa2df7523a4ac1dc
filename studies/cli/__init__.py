"""stepfall's command line: `main` runs a command and turns every user's mistake into a message and exit code 2."""

from __future__ import annotations

import os
import sys

from einsum.problems import InputError, Problem

OK, USER_ERROR, INTERRUPTED = 0, 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run a command line (`sys.argv` by default) and return the exit code: 0, 2 for a mistake, 130 if interrupted."""
    import click

    from studies.cli.app import commands, problem_of

    try:
        code = commands.main(argv, prog_name="stepfall", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else error)
        return OK
    except InputError as error:
        _complain(error.problems)
        return USER_ERROR
    except click.UsageError as error:
        _complain((problem_of(error),))
        return USER_ERROR
    except MemoryError as error:
        _complain((Problem(f"sizes too large for this machine's memory: {error}"),))
        return USER_ERROR
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _complain(problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
