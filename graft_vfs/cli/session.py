"""The engine of one command, and the arguments that commands share."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import graft_vfs
from graft_vfs.advice import Audience, words
from graft_vfs.cli.completion import complete_tags
from graft_vfs.cli.group import interruptible
from graft_vfs.cli.output import echo_note, shorten_ids
from graft_vfs.engine.config import Config
from graft_vfs.errors import AlreadyExistsError, GraftError
from graft_vfs.local.files import storage_errors
from graft_vfs.tags import check_tag

# Raises InvalidTagError, which the group turns into lines and an exit code.
TAG = check_tag


tag_argument: Callable[[Callable[..., Any]], Callable[..., Any]] = click.argument(
    "tag", type=TAG, shell_complete=complete_tags
)
force_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--force", is_flag=True, help="Reuse an existing tag; its previous volume stays."
)


@contextlib.contextmanager
def opened(
    *,
    recovering: bool = False,
    warnings: logging.Handler | None = None,
    is_daemon: bool = False,
) -> Iterator[graft_vfs.Graft]:
    """Yield the engine that the configuration describes, and close it; see Graft.

    `warnings` gets the lines that are otherwise printed on standard error.
    """
    # Background work is for long-running programs, not for single commands.
    config = dataclasses.replace(Config.load(), autosync=0.0)
    if not is_daemon:
        config = dataclasses.replace(config, hydrate="lazy")
    with (
        logged(config.log_file, warnings),
        contextlib.closing(graft_vfs.Graft(config, recovering=recovering)) as engine,
        interruptible(),
    ):
        shorten_ids(lambda: {row.id for row in engine.catalog.volumes()} | engine.catalog.log_ids())
        yield engine


def declared(error: Exception, where: str) -> GraftError:
    """Return why SQL failed: the VFS's error, else SQLite's text, with its position."""
    if isinstance(error, GraftError):
        return error
    cause = error.__cause__
    return cause if isinstance(cause, GraftError) else GraftError(f"{where}: {error}")


def refuse_existing(engine: graft_vfs.Graft, tag: str, *, force: bool) -> None:
    """Raise AlreadyExistsError if the tag names a volume and `force` is false."""
    volume = engine.catalog.tag_volume(tag)
    if volume is not None and not force:
        raise AlreadyExistsError(
            f"tag {tag!r} exists already and names volume {volume}",
            next_step="choose another tag, or use --force: the old volume stays, "
            "and `graft switch` returns to it",
        )


class _Lines(logging.Handler):
    """Prints the engine's warnings as lines, like errors."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        context = click.get_current_context(silent=True)
        as_json = context is not None and bool(context.params.get("as_json"))
        echo_note(record.levelname.lower(), text_of(record), as_json=as_json)


def text_of(record: logging.LogRecord) -> str:
    """Return the text of a record, with errors in the words of the command line."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    shown = tuple(
        words(each, Audience.CLI) if isinstance(each, GraftError) else each for each in arguments
    )
    return str(record.msg) % shown if shown else record.getMessage()


@contextlib.contextmanager
def logged(log_file: Path | None, warnings: logging.Handler | None = None) -> Iterator[None]:
    """Inside the block, print the engine's warnings, or write all of its log to the log file.

    `warnings` gets them instead of standard error.
    """
    logger = logging.getLogger("graft_vfs")
    handler = warnings or _Lines(logging.WARNING)
    level = logger.level
    if log_file is not None:
        with storage_errors(log_file):
            log_file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(log_file, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
        handler.close()
