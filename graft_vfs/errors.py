"""Every error that graft_vfs declares, grouped by what a handler would do.

    GraftError
    ├── UsageError                   the call is wrong; change it
    │   ├── InvalidIdError           text or bytes that are no id
    │   ├── InvalidTagError          a tag with NUL, empty, or over 512 characters
    │   ├── NotFoundError            no such tag, volume, ref, log or LSN
    │   ├── AlreadyExistsError       a name that is taken
    │   ├── NoRemoteError            a verb that needs a remote, without one
    │   ├── PageSizeError            a size SQLite does not know, or another than the volume's
    │   └── ReadOnlyError            a write to a view of the past or a `mode=ro` connection
    │       └── TagRemovedError      a write under a tag that was removed meanwhile
    ├── ConfigError                  graft.toml, a GRAFT_… variable or a URI parameter is wrong
    ├── BusyError                    try again later
    │   ├── WriterBusyError          another connection writes to the volume
    │   ├── StaleSnapshotError       the volume moved after this transaction began to read
    │   └── ReentryError             called in the middle of what this thread is doing already
    ├── ConflictError                another writer was first; fetch and decide
    │   ├── DivergedError            both sides have commits that the other lacks
    │   └── HistoryMismatchError     the remote does not have the history that is known here
    ├── CommitOutcomeUnknownError    a claim was sent and no answer tells how it ended
    ├── StoreError                   the remote store did not do its part
    │   ├── StoreUnavailableError    unreachable, timed out, or answered 5xx
    │   ├── StoreDeniedError         credentials missing, refused, or without permission
    │   ├── BucketMissingError       the bucket does not exist
    │   ├── ObjectMissingError       a key that should be there is not
    │   └── UnsafeStoreError         the store ignores create-only conditions
    ├── DamageError                  bytes that are not what they must be
    │   ├── CorruptObjectError       a remote object
    │   ├── CorruptLogError          a local branch log
    │   ├── CorruptCatalogError      the local catalog
    │   └── FutureVersionError       a format version newer than this program
    ├── LocalStorageError            the local disk refused
    │   ├── DiskFullError            no space, quota or file size left
    │   ├── AccessDeniedError        the owner or the permissions do not allow it
    │   └── MovedError               files were moved or replaced while they were open here
    └── ForkedProcessError           a connection was carried across os.fork()

Messages say what happened; `next_step` says what to do; neither ever carries a credential.
"""

from __future__ import annotations

_RESTORE_OBJECT = "try again; if it stays, restore the object from a replica or a backup"


class GraftError(Exception):
    """Root of all declared errors. `str()` gives the cause, then the next step."""

    def __init__(self, message: str, *, next_step: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}; {self.next_step}" if self.next_step else self.message


class UsageError(GraftError):
    """The call is wrong; change it."""


class InvalidIdError(UsageError):
    """Text or bytes that are no id of the type asked for."""


class InvalidTagError(UsageError):
    """A tag that is empty, holds NUL, or has more than 512 characters."""


class NotFoundError(UsageError):
    """No such tag, volume, ref, log or LSN."""


class AlreadyExistsError(UsageError):
    """A name that is taken."""


class NoRemoteError(UsageError):
    """A verb that needs a remote, on an engine or a volume without one."""


class PageSizeError(UsageError):
    """A page size that SQLite does not know, or another than the volume's."""


class ReadOnlyError(UsageError):
    """A write to a view of the past or to a read-only connection."""


class TagRemovedError(ReadOnlyError):
    """A write by a connection whose tag was removed while it was open (SQLITE_READONLY)."""


class ConfigError(GraftError):
    """graft.toml, a GRAFT_… variable or a URI parameter is wrong."""


class BusyError(GraftError):
    """Another user of the resource is in the way; try again later."""


class WriterBusyError(BusyError):
    """Another connection writes to the volume (SQLITE_BUSY)."""


class StaleSnapshotError(BusyError):
    """The volume moved after this transaction began to read (SQLITE_BUSY_SNAPSHOT)."""


class ReentryError(BusyError):
    """A signal handler or finalizer called in the middle of what its own thread is doing."""


class ConflictError(GraftError):
    """Another writer was first. Nothing was lost; decide what to do."""


class DivergedError(ConflictError):
    """The volume and its remote log both have commits that the other lacks."""


class HistoryMismatchError(ConflictError):
    """The remote does not have the commits of a log that this machine knows."""


class CommitOutcomeUnknownError(GraftError):
    """A claim was sent and no answer tells whether it landed; its record is kept."""

    retry_after_seconds: float | None = None
    """How long a store that throttles asked to be left alone, 0 if it did not say; else None."""
    was_answered = False
    """Whether there was an answer, which proves nothing: reading the key tells more."""
    late_share = 0.0
    """Which share of the time that the store has for a verb went by, if no answer came in time.
    Whoever asks again does so until the shares make 1."""


class StoreError(GraftError):
    """The remote store did not do its part."""


class StoreUnavailableError(StoreError):
    """The store is unreachable, timed out, or answered with a server error."""

    retry_after_seconds: float | None = None
    """How long a store that throttles asked to be left alone, 0 if it did not say; else None."""
    was_late = False
    """Whether the answer, or its end, did not come in time."""


class StoreDeniedError(StoreError):
    """Credentials are missing, refused, or lack a permission."""


class BucketMissingError(StoreError):
    """The bucket does not exist."""


class ObjectMissingError(StoreError):
    """A key is absent from the store."""

    def __init__(self, key: str, *, next_step: str | None = None) -> None:
        super().__init__(f"the remote has no object {key!r}", next_step=next_step)
        self.key = key


class UnsafeStoreError(StoreError):
    """The store ignores create-only conditions, so pushing to it could lose commits."""


class DamageError(GraftError):
    """Bytes are not what they must be."""


class CorruptObjectError(DamageError):
    """A remote object is foreign, damaged, truncated or oversized.

    `is_foreign` says that it never was an object of ours, such as a README.
    """

    def __init__(
        self, message: str, *, next_step: str = _RESTORE_OBJECT, is_foreign: bool = False
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.is_foreign = is_foreign


class CorruptLogError(DamageError):
    """A local branch log is damaged before its tail."""


class CorruptCatalogError(DamageError):
    """The local catalog is not a usable database."""


class FutureVersionError(DamageError):
    """A format version newer than this program reads."""


class LocalStorageError(GraftError):
    """The local disk refused a read or a write."""


class DiskFullError(LocalStorageError):
    """There is no space left, by the disk, a quota or a limit of file sizes (SQLITE_FULL)."""


class AccessDeniedError(LocalStorageError):
    """The owner or the permissions of a file or its file system do not allow it."""


class MovedError(LocalStorageError):
    """Files of the data directory were moved or replaced while this process had them open."""


class ForkedProcessError(GraftError):
    """A connection, engine or volume was carried across os.fork()."""
