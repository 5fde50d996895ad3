"""How commands are declared, and how a failure becomes lines on standard error and an exit code.

Every declared error is one line `error: …` and, with a next step, one line `hint: …`. Only a bug of
this program shows a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from graft_vfs.cli.exit_codes import INTERRUPTED, exit_code
from graft_vfs.cli.output import echo_error, echo_graft_error
from graft_vfs.errors import GraftError


class GraftGroup(click.Group):
    """A group whose failures look the same, whoever finds them."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; in standalone mode, exit with its code."""

        def run() -> Any:
            return super(GraftGroup, self).main(
                args,
                prog_name or "graft",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        if standalone_mode:
            sys.exit(_exit_code_of(run))
        return run()


def _exit_code_of(run: Callable[[], Any]) -> int:
    """Run a command, print what failed, and return the exit code.

    click itself ends the process quietly if the reader of standard output has gone.
    """
    try:
        result = run()
    except GraftError as error:
        echo_graft_error(error)
        return exit_code(error)
    except click.Abort:
        echo_error("interrupted; what was committed before is safe", None)
        return INTERRUPTED
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if isinstance(context, click.Context) else "graft"
        echo_error(error.format_message(), f"see `{path} --help`")
        return error.exit_code
    return result if isinstance(result, int) else 0


def command(name: str, *examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command, with examples that its help shows."""
    lines = "\n".join(f"  {example}" for example in examples)
    title = "Example" if len(examples) == 1 else "Examples"
    return click.command(name, epilog=f"\b\n{title}:\n{lines}")
