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

from graft_vfs.advice import Audience, Hint, Worded, words

_RESTORE_OBJECT = "try again; if it stays, restore the object from a replica or a backup"


class GraftError(Worded, Exception):
    """Root of all declared errors. `str()` gives the cause, then the next step.

    How to see it: its subclasses say what happened.
    Next step: handle the subclass.
    """

    def __init__(self, message: str, *, next_step: str | Hint | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = next_step

    @property
    def next_step(self) -> str | None:
        """What to do next, as Python says it."""
        return self.next_step_for(Audience.PYTHON)

    def next_step_for(self, audience: Audience) -> str | None:
        """Return what to do next in the words of an audience."""
        return None if self.hint is None else words(self.hint, audience)

    def words(self, audience: Audience) -> str:
        """Return the cause, then the next step in the words of an audience."""
        step = self.next_step_for(audience)
        return f"{self.message}; {step}" if step else self.message


def summary(error: Exception) -> str:
    """Return a text to keep: the cause, and the next step if it reads the same for everyone."""
    return (
        error.message
        if isinstance(error, GraftError) and isinstance(error.hint, Hint)
        else str(error)
    )


class UsageError(GraftError):
    """The call is wrong.

    How to see it: the text quotes the call.
    Next step: change the call as the text says.
    """


class InvalidIdError(UsageError):
    """The text or the bytes are not an id.

    How to see it: the text quotes the id.
    Next step: copy the id from `graft volumes` or `graft remote ls`.
    """


class InvalidTagError(UsageError):
    """The tag is empty, too long, or contains NUL.

    How to see it: the text says which rule is broken.
    Next step: use 1 to 512 characters.
    """


class NotFoundError(UsageError):
    """No such tag, volume, ref, log or LSN.

    How to see it: `graft tags`, `graft volumes`, `graft remote ls`, `graft log TAG`.
    Next step: `graft tags`, `graft remote ls`, `graft log`.
    """


class AlreadyExistsError(UsageError):
    """The name is taken.

    How to see it: `graft tags`; for a file, `ls`.
    Next step: choose another, or `--force`.
    """


class NoRemoteError(UsageError):
    """The verb needs a remote.

    How to see it: `graft doctor` says that none is configured.
    Next step: add `[remote]` to graft.toml.
    """


class PageSizeError(UsageError):
    """A page size SQLite does not know, or another than the volume's.

    How to see it: `PRAGMA page_size`.
    Next step: keep the page size, or make a new volume and copy into it.
    """


class ReadOnlyError(UsageError):
    """A write to a view of the past or with `mode=ro`, or to a read-only data directory.

    How to see it: the URI of the connection; permissions of the data directory.
    Next step: open the tag without `lsn`, `as_of` and `mode=ro`.
    """


class TagRemovedError(ReadOnlyError):
    """A write by a connection whose tag was removed while it was open (`SQLITE_READONLY`).

    Nothing was written, and reading goes on.

    How to see it: `graft tags`, `graft volumes`; the text names the volume.
    Next step: `graft switch TAG VOLUME` gives the volume its tag back; or open another tag.
    """


class ConfigError(GraftError):
    """graft.toml or a variable is wrong.

    How to see it: `graft doctor` names the file that was read.
    Next step: the text names the source and the key.
    """


class BusyError(GraftError):
    """Another process or connection is in the way.

    How to see it: `PRAGMA busy_timeout`.
    Next step: try again, or set a busy timeout.
    """


class WriterBusyError(BusyError):
    """Another connection writes to the volume.

    How to see it: `SQLITE_BUSY`; a connection inside a transaction that wrote.
    Next step: try again, or set a busy timeout.
    """


class StaleSnapshotError(BusyError):
    """The volume moved after this transaction began to read.

    How to see it: `SQLITE_BUSY_SNAPSHOT`; a transaction that read first and then wrote.
    Next step: roll back and run it again; `BEGIN IMMEDIATE` avoids it.
    """


class ReentryError(BusyError):
    """A signal handler or finalizer did what its own thread was in the middle of.

    That is fetching a page, or writing to the catalog.

    How to see it: `SQLITE_LOCKED`; no busy handler is called, because its thread could not go
    on.
    Next step: run it again outside the handler; close connections explicitly.
    """


class ConflictError(GraftError):
    """Another client was first; nothing is lost.

    How to see it: the subclass says who was first.
    Next step: see `DivergedError` and `HistoryMismatchError`.
    """


class DivergedError(ConflictError):
    """The volume and its log both have commits that the other lacks.

    How to see it: `graft fetch TAG`, then `graft status TAG`: both counts are above 0.
    Next step: fork or export the local state, then clone the log again.
    """


class HistoryMismatchError(ConflictError):
    """The remote does not have the newest commit of a log that this machine knows.

    Causes are a wrong bucket or prefix, a disk that is not mounted, a restored backup, or a
    replaced history.

    How to see it: the text says which; nothing was sent.
    Next step: check the `[remote]` table and the mount; `graft fsck LOG --repair` puts missing
    commits back; clone the log again if its history was replaced.
    """


class CommitOutcomeUnknownError(GraftError):
    """A push was sent and no answer says how it ended.

    How to see it: `graft status TAG` says that a push has not been settled.
    Next step: push again: the same bytes are sent, so that it counts once.
    """

    retry_after_seconds: float | None = None
    """How long a store that throttles asked to be left alone, 0 if it did not say; else None."""
    was_answered = False
    """Whether there was an answer, which proves nothing: reading the key tells more."""
    late_share = 0.0
    """Which share of the time that the store has for a verb went by, if no answer came in time.
    A caller that asks again does so until the shares make 1."""


class StoreError(GraftError):
    """The remote store did not do its part.

    How to see it: `graft doctor`; the text has the request and the error code.
    Next step: do what the text says.
    """


class StoreUnavailableError(StoreError):
    """The store is unreachable, timed out, or answered with a server error.

    How to see it: `graft doctor`.
    Next step: check the endpoint and the network; try again.
    """

    retry_after_seconds: float | None = None
    """How long a store that throttles asked to be left alone, 0 if it did not say; else None."""
    was_late = False
    """Whether the answer, or its end, did not come in time."""


class StoreDeniedError(StoreError):
    """Credentials are missing, refused, or lack a permission.

    How to see it: `graft doctor`; a 403 may hide an absent object.
    Next step: check them against the policy in `graft help s3`.
    """


class BucketMissingError(StoreError):
    """The bucket does not exist, or the directory is no remote, as when a disk is not mounted.

    How to see it: `graft doctor`.
    Next step: mount it, create it, or correct its name; `graft remote init` makes a directory a
    remote.
    """


class ObjectMissingError(StoreError):
    """An object that should be there is not.

    How to see it: the text names its key; ask the store for it.
    Next step: restore it from a replica or a backup.
    """

    def __init__(self, key: str, *, next_step: str | Hint | None = None) -> None:
        super().__init__(f"the remote has no object {key!r}", next_step=next_step)
        self.key = key


class UnsafeStoreError(StoreError):
    """The store ignores or does not support create-only writes.

    How to see it: `graft doctor` runs the same probe.
    Next step: use another store; pushing to this one could lose commits.
    """


class DamageError(GraftError):
    """Bytes fail verification; they are never returned as pages.

    How to see it: `graft audit TAG`, `PRAGMA integrity_check`.
    Next step: see `CorruptObjectError`, `CorruptLogError`, `CorruptCatalogError` and
    `FutureVersionError`.
    """


class CorruptObjectError(DamageError):
    """A remote object is foreign, damaged or truncated.

    `is_foreign` says that it never was an object of ours, such as a README.

    How to see it: the text names the object and what is wrong with it.
    Next step: try again; then restore the object.
    """

    def __init__(
        self, message: str, *, next_step: str | Hint = _RESTORE_OBJECT, is_foreign: bool = False
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.is_foreign = is_foreign


class CorruptLogError(DamageError):
    """A local branch log is damaged before its tail.

    How to see it: the text names the file.
    Next step: clone again, or restore the data directory; pushed commits are on the remote.
    """


class CorruptCatalogError(DamageError):
    """The local catalog is damaged, missing although volumes exist, or older than they are.

    How to see it: `graft doctor`, `graft adopt`.
    Next step: put `catalog.db` back together with its `-wal`, or run `graft adopt`: no commit
    is lost.
    """


class FutureVersionError(DamageError):
    """Written by a newer version.

    How to see it: `graft --version` has the format that this program reads.
    Next step: upgrade graft-vfs.
    """


class LocalStorageError(GraftError):
    """The local disk refused.

    How to see it: the text has the system's reason; `ulimit -n`.
    Next step: see `DiskFullError`, `AccessDeniedError` and `MovedError`; what was committed is
    not lost.
    """


class DiskFullError(LocalStorageError):
    """No space is left on the disk, in a quota, or below a limit of file sizes (`SQLITE_FULL`).

    How to see it: `df`, `df -i`, `ulimit -f`.
    Next step: free space or raise the limit.
    """


class AccessDeniedError(LocalStorageError):
    """Owner, permissions or a read-only file system do not allow it (`SQLITE_IOERR_ACCESS`).

    How to see it: `ls -l` on the path in the text.
    Next step: correct owner and permissions.
    """


class MovedError(LocalStorageError):
    """Files of the data directory were moved, removed or replaced while they were open.

    The result code is `SQLITE_IOERR_VNODE`; nothing was committed.

    How to see it: the text names the file.
    Next step: close the connection and open it again; restore backups while no process has the
    data directory open.
    """


class ForkedProcessError(GraftError):
    """A connection or engine was carried across `os.fork()`.

    How to see it: a worker made by `os.fork()`, or by multiprocessing with "fork".
    Next step: open it in the child.
    """
