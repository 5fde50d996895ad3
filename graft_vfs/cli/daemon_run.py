"""Runs `graft sync`: signals, log lines, the exit code."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from graft_vfs.cli import streams
from graft_vfs.cli.exit_codes import OTHER, READER_GONE, exit_code
from graft_vfs.cli.output import echo, without_credentials
from graft_vfs.cli.session import opened, text_of
from graft_vfs.cli.stopping import StopSignals
from graft_vfs.daemon.daemon import Daemon, Left
from graft_vfs.daemon.endpoint import Endpoint, parse_address
from graft_vfs.daemon.events import EventLog
from graft_vfs.engine.autosync import Clock
from graft_vfs.errors import GraftError


@dataclass(frozen=True, slots=True)
class Run:
    """The arguments of `graft sync`; times in seconds, `every` is None for one round."""

    tags: tuple[str, ...]
    every: float | None
    push_only: bool
    metrics: str | None
    heartbeat: str | None
    grace: float
    as_json: bool


def run(what: Run) -> int:
    """Sync, and return the exit code."""
    address = None if what.metrics is None else parse_address(what.metrics)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals()) if what.every else None
        lines = _Lines(signals)
        log = EventLog(lines.write, as_json=what.as_json, clock=Clock())
        daemon = Daemon(
            stack.enter_context(opened(warnings=_Warnings(log), is_daemon=what.every is not None)),
            log,
            tags=what.tags,
            interval_seconds=what.every,
            push_only=what.push_only,
            heartbeat=what.heartbeat,
        )
        if signals is None or what.every is None:
            left, is_busy = daemon.run_once(), False
        else:
            endpoint = None if address is None else Endpoint(address, daemon.metrics)
            if endpoint is not None:
                stack.callback(endpoint.close)
            daemon.start(None if endpoint is None else endpoint.url)
            while (number := signals.wait(what.every)) is None:
                daemon.look()
            left, is_busy = daemon.close(what.grace, signal=number.name)
        if is_busy:
            # Closing the engine would wait for its requests. Exiting without that is like a crash,
            # which leaves everything valid.
            os._exit(READER_GONE if lines.is_cut else _code_of(left))
    if lines.is_cut:
        raise streams.ReaderGone
    return _code_of(left)


def _code_of(left: Sequence[Left]) -> int:
    """Return the common exit code of all volumes that are not in sync."""
    codes = {
        exit_code(each.error) if isinstance(each.error, GraftError) else OTHER for each in left
    }
    return 0 if not codes else codes.pop() if len(codes) == 1 else OTHER


class _Lines:
    """Writes lines to standard output; if the pipe is closed, the daemon ends."""

    def __init__(self, signals: StopSignals | None) -> None:
        self.is_cut = False
        self._signals = signals

    def write(self, line: str) -> None:
        """Write one line. On a full disk it is lost, and syncing continues."""
        try:
            echo(without_credentials(line))
        except BrokenPipeError:
            if not self.is_cut and self._signals is not None:
                self._signals.wake()
            self.is_cut = True
        except OSError:
            pass


class _Warnings(logging.Handler):
    """Makes an event of each warning of the engine."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Note one record."""
        error = record.exc_info[1] if record.exc_info else None
        why = "" if error is None else f": {type(error).__name__}: {error}"
        self._log.note("warning", "warning", message=text_of(record) + why)
