"""Credentials from a shared file, read again when the file changes.

boto3 reads the credentials of a profile only once, so rotating them by rewriting the file would
require a restart of every program. So the files are checked before each request is signed, with two
calls of stat(2). boto3 handles credentials that renew themselves and those in variables.

This module imports botocore, so it is imported when the first client is made.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from botocore.session import Session

_logger = logging.getLogger("graft_vfs.store.s3")

_FROM_FILES = frozenset({"shared-credentials-file", "config-file"})


def reread_when_changed(session: Any) -> bool:
    """Make a botocore session sign with its files' current credentials; others are unchanged.

    Returns whether there are any credentials.
    """
    found = session.get_credentials()
    if found is not None and type(found) is Credentials and found.method in _FROM_FILES:
        session._credentials = _FileCredentials(session, found)  # noqa: SLF001 - as boto3 users do
    return found is not None


class _FileCredentials(Credentials):
    """The credentials of a profile. Thread rule: any thread."""

    def __init__(self, session: Session, found: Credentials) -> None:
        super().__init__(found.access_key, found.secret_key, found.token, found.method)
        self._profile = session.profile
        self._paths = [
            Path(str(session.get_config_variable(name))).expanduser()
            for name in ("credentials_file", "config_file")
        ]
        self._lock = threading.Lock()
        self._seen = self._look()

    def get_frozen_credentials(self) -> Any:
        """Return the files' credentials as of the last successful read."""
        with self._lock:
            seen = self._look()
            if seen != self._seen and self._reread():
                self._seen = seen
            return super().get_frozen_credentials()

    def _look(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                status = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def _reread(self) -> bool:
        """Read the files' credentials; False if they are incomplete, as during a write."""
        try:
            found = Session(profile=self._profile).get_credentials()
        except (BotoCoreError, ValueError) as error:
            _logger.debug("the credentials cannot be read again yet: %s", type(error).__name__)
            return False
        if type(found) is not Credentials or found.method not in _FROM_FILES:
            return False
        self.access_key, self.secret_key, self.token = (
            found.access_key,
            found.secret_key,
            found.token,
        )
        return True
