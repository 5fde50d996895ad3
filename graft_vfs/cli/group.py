"""Declares commands, and turns failures into lines on standard error and an exit code.

Every declared error is one line `error: …` and, with a next step, one line `hint: …`. With `--json`
it is one line of JSON, also on standard error: `{"error": {"type", "message", "hint",
"exit_code"}}`. Only a bug of this program shows a traceback.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from graft_vfs.advice import Audience, Hint
from graft_vfs.cli import streams
from graft_vfs.cli.exit_codes import EXIT_CODES, INTERRUPTED, READER_GONE, exit_code
from graft_vfs.cli.interrupts import noticed_at_once
from graft_vfs.cli.output import Failure, echo, echo_failure
from graft_vfs.engine.config import empty_aws_variables
from graft_vfs.errors import GraftError, LocalStorageError


class Interrupted(Exception):  # noqa: N818 - it is no error, as KeyboardInterrupt is none
    """Ctrl-C, under a name for which click does not print an empty line."""


class UnknownCommandError(click.UsageError):
    """An unknown command, and similar names."""

    def __init__(self, message: str, next_step: str, context: click.Context) -> None:
        super().__init__(message, context)
        self.next_step = next_step


class _Program:
    """Marks a run of a process that does nothing else."""


_PROGRAM = _Program()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block, let Ctrl-C end the program without running the surrounding code.

    The surrounding code closes an engine, which waits for requests in flight: up to a minute if
    there is no answer. Exiting without that is like a crash, which leaves everything valid.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        context = click.get_current_context()
        if context.find_root().obj is _PROGRAM:
            _tell_interrupted(interrupt, as_json=bool(context.params.get("as_json")))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise


class GraftGroup(click.Group):
    """A group whose failures all have the same form."""

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Be a program; `main` and click's test runner are calls inside a larger one."""
        for name in empty_aws_variables():
            del os.environ[name]  # boto3 would use it as a value.
        with noticed_at_once():
            return super().__call__(*args, obj=_PROGRAM, **named)

    def make_context(self, *args: Any, **named: Any) -> click.Context:
        """Parse the arguments; prints the help or the version if requested."""
        with streams.watching_reader():
            return super().make_context(*args, **named)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was chosen; raises Interrupted for KeyboardInterrupt."""
        try:
            with streams.watching_reader():
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted from error

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
            if extra.get("obj") is _PROGRAM:
                streams.hold_closed()
            return super(GraftGroup, self).main(
                args,
                prog_name or "graft",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        if standalone_mode:
            words = sys.argv[1:] if args is None else args
            sys.exit(_exit_code_of(run, as_json="--json" in words))
        return run()


def _exit_code_of(run: Callable[[], Any], *, as_json: bool) -> int:
    """Run a command, print what failed, and return the exit code."""
    try:
        result = run()
    except streams.ReaderGone:
        streams.discard_output()
        return READER_GONE
    except (Interrupted, click.Abort) as interrupt:
        _tell_interrupted(interrupt.__cause__, as_json=as_json)
        return INTERRUPTED
    except (GraftError, OSError, click.ClickException) as error:
        failure = _failure(error)
        echo_failure(failure, as_json=as_json)
        return failure.exit_code
    return result if isinstance(result, int) else 0


def _failure(error: GraftError | OSError | click.ClickException) -> Failure:
    """Return the report of an error."""
    if isinstance(error, GraftError):
        step = error.next_step_for(Audience.CLI)
        return Failure(type(error).__name__, error.message, step, exit_code(error))
    if isinstance(error, OSError):
        # A path that an argument names, or standard output: this machine refused it.
        where = f"{error.filename}: " if error.filename else ""
        message, step = f"{where}{error.strerror or error}", "check the path and the disk"
        return Failure("LocalStorageError", message, step, EXIT_CODES[LocalStorageError])
    context = getattr(error, "ctx", None)
    path = context.command_path if isinstance(context, click.Context) else "graft"
    step = error.next_step if isinstance(error, UnknownCommandError) else f"see `{path} --help`"
    return Failure("UsageError", error.format_message(), step, error.exit_code)


def _tell_interrupted(interrupt: BaseException | None, *, as_json: bool) -> None:
    """Say that Ctrl-C ended the command, and what the interrupted verb has to add, if anything."""
    if sys.stderr.isatty():
        # The terminal has just shown ^C.
        echo("", err=True)
    message = "interrupted; earlier commits are safe"
    added = interrupt.args if isinstance(interrupt, KeyboardInterrupt) else ()
    step = added[0] if added else None
    echo_failure(Failure("Interrupted", message, step, INTERRUPTED), as_json=as_json)


CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}
"""Of each command, and not only of the first: a command keeps what its first context said."""


class GraftCommand(click.Command):
    """A command whose errors name its own tag in the next step."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see click.Command."""
        try:
            return super().invoke(ctx)
        except GraftError as error:
            tag = ctx.params.get("tag")
            if isinstance(tag, str) and isinstance(error.hint, Hint):
                error.hint = error.hint.filled(TAG=tag)
            raise


def command(name: str, *examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command, with examples that its help shows."""
    lines = "\n".join(f"  {example}" for example in examples)
    title = "Example" if len(examples) == 1 else "Examples"
    return click.command(
        name,
        cls=GraftCommand,
        epilog=f"\b\n{title}:\n{lines}",
        context_settings=CONTEXT_SETTINGS,
    )
