"""The words of a head file where a store to its mapping could kill the process.

On btrfs, each store may need a new block; on xfs, so does a store to a file with a reflink copy;
see `mapping`. On these, and with `mmap = "off"`, the words are stored by calls. Loads still use a
mapping, unless it is off.

A call may fail, but announcing a commit that is already in the log must not fail the commit. So a
word that cannot be stored is skipped with a warning, and WRITING stays 1. While it is 1, END is
read as 0, which is not the end of any log, so every process reads the log itself.
"""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path

from graft_vfs.errors import LocalStorageError
from graft_vfs.local.files import storage_error, write_fully

_logger = logging.getLogger(__name__)

_WORD = struct.Struct("=Q")
WORDS_BYTES = 64
END = 0
BOOT = 3
WRITING = 4


class CalledWords:
    """The words of one head file; owned by its HeadFile, used by every thread."""

    __slots__ = ("_descriptor", "_is_unpublished", "_mapped", "_path")

    def __init__(self, path: Path, mapped: memoryview | None, *, writable: bool) -> None:
        """Open the file; loads use `mapped` if given. Raises OSError."""
        self._descriptor = -1
        self._path = path
        self._mapped = mapped
        self._is_unpublished = False
        flags = os.O_RDWR if writable else os.O_RDONLY
        self._descriptor = os.open(path, flags | os.O_CLOEXEC)

    def __getitem__(self, number: int) -> int:
        """Return a word; END is 0 while a commit is being written, or could not be published."""
        words = self._mapped if self._mapped is not None else self._read()
        if number == END and words[WRITING]:
            return 0
        return words[number]

    def _read(self) -> memoryview:
        try:
            data = os.pread(self._descriptor, WORDS_BYTES, 0)
        except OSError as error:
            raise storage_error(self._path, error) from error
        if len(data) < WORDS_BYTES:
            raise LocalStorageError(
                f"{self._path} has {len(data)} bytes: another program has truncated it",
                next_step="end all processes that have the volume open, and open it again; no "
                "commit is lost",
            )
        return memoryview(data).cast("Q")

    def __setitem__(self, number: int, value: int) -> None:
        """Store a word. Raises LocalStorageError, except for the words that publish a commit."""
        publishes = number == BOOT or (number == END and value) or (number == WRITING and not value)
        if number == WRITING and value:
            self._is_unpublished = False
        elif publishes and self._is_unpublished:
            return
        try:
            write_fully(self._descriptor, _WORD.pack(value), number * _WORD.size)
        except OSError as error:
            failure = storage_error(self._path, error)
            if not publishes:
                raise failure from error
            self._is_unpublished = True
            _logger.warning("a commit is not announced in the head file: %s", failure)

    def __del__(self) -> None:
        """Close the file together with the last user of its words."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
