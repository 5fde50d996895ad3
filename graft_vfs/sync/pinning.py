"""Pins of what a verb reads for a long time from a log with retention.

A machine that may not write to the remote, or whose LSN is closed already, reads on without a pin:
what it needs is there for the grace period at least, or cached here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from graft_vfs.errors import ExpiredError, NoRemoteError, ReadOnlyError, StoreError
from graft_vfs.remote.pins import Pin, release_pin, renew_pin, write_pin
from graft_vfs.reports import Progress
from graft_vfs.store.base import ObjectStore
from graft_vfs.sync.headers import require_header
from graft_vfs.times import uptime_seconds
from graft_vfs.view.log_view import LogView
from graft_vfs.view.logs import Logs

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def pinned(logs: Logs, view: object, progress: Progress | None) -> Iterator[Progress | None]:
    """Keep the commits of a view on the remote while the block reads all of it.

    Yields the progress that the block has to report to: it renews the pin. No request if the log
    has no retention, or if all pages are cached; else three, and one for each 20 minutes.
    """
    keeper = _keeper(logs, view, progress) if isinstance(view, LogView) else None
    try:
        yield progress if keeper is None else keeper.report
    finally:
        if keeper is not None:
            release_pin(keeper.store, keeper.pin)


def _keeper(logs: Logs, view: LogView, progress: Progress | None) -> _Keeper | None:
    """Pin a view; None if that is not needed, or not possible."""
    cached, pages = view.pages_present()
    if cached == pages:
        return None
    try:
        if not require_header(logs, view.log_id, view.lsn).grace_seconds:
            return None
        store = logs.log(view.log_id).store
        return _Keeper(store, write_pin(store, view.log_id, view.lsn), progress)
    except (ExpiredError, ReadOnlyError, StoreError, NoRemoteError) as error:
        _logger.info("log %s is read without a pin: %s", view.log_id, error)
        return None


class _Keeper:
    """Renews a pin while a verb makes progress. Owner: the thread of the verb."""

    def __init__(self, store: ObjectStore, pin: Pin, progress: Progress | None) -> None:
        self.pin = pin
        self.store = store
        self._progress = progress
        self._renewed = uptime_seconds()

    def report(self, done: int, total: int) -> None:
        """Report progress, and renew the pin after a third of its time."""
        now = uptime_seconds()
        if now - self._renewed > self.pin.seconds / 3:
            try:
                self.pin = renew_pin(self.store, self.pin)
                self._renewed = now
            except StoreError as error:
                _logger.info("%s is not renewed yet: %s", self.pin.key, error)
        if self._progress is not None:
            self._progress(done, total)
