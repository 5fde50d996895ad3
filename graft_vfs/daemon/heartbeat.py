"""A request after each round to a monitor that alerts on silence, such as healthchecks.io.

The URL itself is a secret, so it is never logged.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import urllib.error
import urllib.parse
import urllib.request

from graft_vfs.daemon.events import EventLog
from graft_vfs.errors import UsageError
from graft_vfs.version import __version__

_TIMEOUT_SECONDS = 10.0


def checked_url(url: str) -> str:
    """Return a valid heartbeat URL; raises UsageError."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname:
            return url
    raise UsageError(
        "the heartbeat's address is not an http:// or https:// URL",
        next_step="give the whole URL that the monitor shows",
    )


class Heartbeat:
    """Sends requests in its own thread, one at a time. Owner: the daemon."""

    def __init__(self, url: str, log: EventLog) -> None:
        self.failures = 0
        self._url = checked_url(url)
        self._log = log
        self._is_failing = False
        self._thread: threading.Thread | None = None

    def send(self) -> None:
        """Send one, unless the previous one is still running; a failure is only reported."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self._send, name="graft-heartbeat", daemon=True)
        with contextlib.suppress(RuntimeError):  # No thread can start any more.
            self._thread.start()

    def join(self) -> None:
        """Wait for the running request, at most for its timeout."""
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def _send(self) -> None:
        headers = {"User-Agent": f"graft-vfs/{__version__}"}
        try:
            request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 - checked
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310
                pass
        except urllib.error.HTTPError as error:
            self._note_failure(f"the monitor answered {error.code}")
            error.close()
        except urllib.error.URLError as error:
            self._note_failure(f"the monitor cannot be reached: {error.reason}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._note_failure(f"the monitor cannot be reached: {type(error).__name__}")
        else:
            if self._is_failing:
                self._log.note("heartbeat_recovered")
            self._is_failing = False

    def _note_failure(self, why: str) -> None:
        self.failures += 1
        if not self._is_failing:
            self._log.note("heartbeat_failed", "warning", error=why)
        self._is_failing = True
