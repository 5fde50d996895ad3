"""The engine of one command, and the arguments that commands share."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from graft_vfs.cli.output import echo, without_credentials
from graft_vfs.config import Config
from graft_vfs.engine import Graft, check_tag
from graft_vfs.errors import AlreadyExistsError
from graft_vfs.local.files import storage_errors

# Raises InvalidTagError, which the group turns into lines and an exit code.
TAG = check_tag

tag_argument: Callable[[Callable[..., Any]], Callable[..., Any]] = click.argument("tag", type=TAG)
force_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--force", is_flag=True, help="Take a tag that exists; the volume that it named stays."
)


@contextlib.contextmanager
def opened() -> Iterator[Graft]:
    """Yield the engine that the configuration describes, and close it."""
    # Hydrating in the background is for programs that go on; a command would end before it.
    config = dataclasses.replace(Config.load(), hydrate="lazy")
    with _warnings(config.log_file), contextlib.closing(Graft(config)) as engine:
        yield engine


def refuse_existing(engine: Graft, tag: str, *, force: bool) -> None:
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
        echo(f"{record.levelname.lower()}: {without_credentials(record.getMessage())}", err=True)


@contextlib.contextmanager
def _warnings(log_file: Path | None) -> Iterator[None]:
    """Send the engine's log to standard error, warnings only, or all of it to the log file."""
    logger = logging.getLogger("graft_vfs")
    handler: logging.Handler = _Lines(logging.WARNING)
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
