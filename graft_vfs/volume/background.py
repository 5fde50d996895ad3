"""Hydration in the background: it keeps the pages of volumes cached, and lets readers pass.

One thread for an engine hydrates one volume after another, with two requests under way at most, and
begins no request while a reader waits for the remote. A volume that moved meanwhile is hydrated
again, from what is cached by then. Without a remote it waits for the next sync that succeeds.

Crash here: what has arrived is cached.
"""

from __future__ import annotations

import logging
import threading
import weakref

from graft_vfs.errors import GraftError
from graft_vfs.ids import VolumeId
from graft_vfs.view.foreground import Foreground
from graft_vfs.view.log_view import LogView

_logger = logging.getLogger(__name__)


class BackgroundHydration:
    """The views to hydrate, and the thread that does it.

    Owner: the open volumes. Thread rule: any thread.
    """

    def __init__(self, foreground: Foreground) -> None:
        self._foreground = foreground
        self._lock = threading.RLock()
        self._wanted: dict[VolumeId, LogView] = {}
        self._failed: dict[VolumeId, LogView] = {}
        self._finished: weakref.WeakSet[LogView] = weakref.WeakSet()
        self._current: LogView | None = None
        self._thread: threading.Thread | None = None
        self._is_running = False
        self._is_over = False

    def want(self, volume: VolumeId, view: LogView) -> None:
        """Hydrate a view, in place of an older one of its volume, unless that was done."""
        with self._lock:
            if self._is_over or view is self._current or view in self._finished:
                return
            self._failed.pop(volume, None)
            self._wanted[volume] = view
            if not self._is_running:
                self._is_running = True
                self._thread = threading.Thread(target=self._run, name="graft-hydrate", daemon=True)
                self._thread.start()

    def try_again(self, volume: VolumeId) -> None:
        """Hydrate a volume again if that failed: its remote has answered."""
        with self._lock:
            view = self._failed.get(volume)
            if view is not None:
                self.want(volume, view)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._current = None
                if self._is_over or not self._wanted:
                    self._is_running = False
                    return
                volume, view = next(iter(self._wanted.items()))
                del self._wanted[volume]
                self._current = view
            self._hydrate(volume, view)

    def _hydrate(self, volume: VolumeId, view: LogView) -> None:
        def goes_on() -> bool:
            self._foreground.let_pass(lambda: self._is_over)
            with self._lock:
                return not self._is_over and volume not in self._wanted

        try:
            pages = view.hydrate(goes_on=goes_on)
        except GraftError as error:
            with self._lock:
                self._failed[volume] = view
            if not self._is_over:
                _logger.warning("hydrating volume %s in the background: %s", volume, error)
            return
        with self._lock:
            if volume not in self._wanted:
                self._finished.add(view)
        if pages:
            _logger.info("volume %s: hydrated %d pages in the background", volume, pages)

    def expect_end(self) -> None:
        """Begin no more requests, because the engine is closing."""
        with self._lock:
            self._is_over = True
        self._foreground.wake()

    def join(self) -> None:
        """Wait until nothing is left to hydrate."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
