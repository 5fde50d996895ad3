"""Messages of local commits, beside the branch file, until a push publishes them.

A file of JSON lines, `{"lsn": 3, "message": "November"}`, ascending. It is replaced as a whole, and
written after the commit: a crash between the two loses the message and nothing else. Local LSNs are
never used twice, so a line that a push has published is of no commit any more; the next message
leaves it out.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from graft_vfs.local import layout
from graft_vfs.local.files import fsync_directory, storage_errors
from graft_vfs.local.ownership import create
from graft_vfs.pages import LocalLsn

_logger = logging.getLogger(__name__)


class Messages:
    """The messages of one volume's local commits. Thread rule: writers hold the writer lock."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / layout.MESSAGES
        self._new = directory / layout.NEW_MESSAGES

    def add(self, lsn: LocalLsn, message: str, *, first: LocalLsn) -> None:
        """Give a commit a message; those of commits before `first` go. Durable on return.

        Raises LocalStorageError.
        """
        with storage_errors(self._path):
            kept = {at: text for at, text in self._parsed() if at >= first} | {lsn: message}
            parts = ({"lsn": at, "message": kept[at]} for at in sorted(kept))
            lines = "".join(json.dumps(part) + "\n" for part in parts)
            descriptor = create(self._new, os.O_WRONLY | os.O_TRUNC)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            self._new.replace(self._path)
            fsync_directory(self._path.parent)

    def within(self, first: LocalLsn, last: LocalLsn) -> list[tuple[LocalLsn, str]]:
        """Return the messages of commits first..last (inclusive), oldest first."""
        return [(lsn, message) for lsn, message in self._read() if first <= lsn <= last]

    def joined(self, first: LocalLsn, last: LocalLsn, bytes_max: int) -> str:
        """Return the messages of commits first..last as one text, each on a line of its own.

        Of more than `bytes_max`, the oldest are left out.
        """
        found, size = [], 0
        for _, message in reversed(self.within(first, last)):
            size += len(message.encode()) + 1
            if size > bytes_max + 1:
                break
            found.append(message)
        return "\n".join(reversed(found))

    def _read(self) -> list[tuple[LocalLsn, str]]:
        """Read the file; without it, or if it cannot be read, there are no messages."""
        try:
            return self._parsed()
        except OSError as error:
            _logger.warning("%s: messages of local commits cannot be read: %s", self._path, error)
            return []

    def _parsed(self) -> list[tuple[LocalLsn, str]]:
        """Read the file; what is no message in it is left out. Raises OSError."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                fields = json.loads(line)
                lsn, message = LocalLsn(int(fields["lsn"])), str(fields["message"])
                message.encode()  # What is not Unicode would fail each push.
                found.append((lsn, message))
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                _logger.warning("%s: a line is no message: %s", self._path, error)
        return found
