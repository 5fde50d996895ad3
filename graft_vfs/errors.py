"""Every error that graft_vfs declares, grouped by what a handler would do.

    GraftError
    ├── UsageError                   the call is wrong; change it
    │   ├── InvalidIdError           text or bytes that are not an id
    │   ├── InvalidTagError          a tag with NUL, empty, or over 512 characters
    │   ├── NotFoundError            no such tag, volume, ref, log or LSN
    │   ├── AlreadyExistsError       a name that is taken
    │   ├── NoRemoteError            a verb that needs a remote, without one
    │   ├── PageSizeError            an invalid size, or not the volume's
    │   └── ReadOnlyError            a write to a view of the past or a `mode=ro` connection
    │       └── TagRemovedError      a write under a tag that was removed while it was open
    ├── ConfigError                  graft.toml, a GRAFT_… variable or a URI parameter is wrong
    ├── BusyError                    try again later
    │   ├── WriterBusyError          another connection writes to the volume
    │   ├── StaleSnapshotError       the volume changed after this transaction's first read
    │   └── ReentryError             called while the same thread is already doing it
    ├── ConflictError                another writer was first; fetch and decide
    │   ├── DivergedError            both sides have commits that the other lacks
    │   ├── ExpiredError             the remote's retention has deleted what is needed
    │   ├── RevertConflictError      later commits changed again what a revert would undo
    │   └── HistoryMismatchError     the remote lacks the history that is known locally
    ├── CommitOutcomeUnknownError    a claim was sent and no response shows how it ended
    ├── StoreError                   the remote store failed
    │   ├── StoreUnavailableError    unreachable, timed out, or answered 5xx
    │   ├── StoreDeniedError         credentials missing, refused, or without permission
    │   ├── BucketMissingError       the bucket does not exist
    │   ├── ObjectMissingError       a required object is missing
    │   └── UnsafeStoreError         the store ignores create-only conditions
    ├── DamageError                  bytes fail verification
    │   ├── CorruptObjectError       a remote object
    │   ├── CorruptLogError          a local branch log
    │   ├── CorruptCatalogError      the local catalog
    │   └── FutureVersionError       a format version newer than this program
    ├── LocalStorageError            the local disk failed or refused
    │   ├── DiskFullError            no space, quota or file size left
    │   ├── AccessDeniedError        the owner or the permissions do not allow it
    │   └── MovedError               files were moved or replaced while they were open
    └── ForkedProcessError           a connection was carried across os.fork()

Messages say what happened; `next_step` says what to do; neither ever contains a credential.
"""

from __future__ import annotations

from graft_vfs.advice import Audience, Hint, Worded, words

_RESTORE_OBJECT = "try again; if that fails, restore the object from a replica or a backup"


class GraftError(Worded, Exception):
    """Base of all declared errors. `str()` gives the cause, then the next step.

    How to see it: the subclass says what happened.
    Next step: handle the subclass.
    """

    def __init__(self, message: str, *, next_step: str | Hint | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = next_step

    @property
    def next_step(self) -> str | None:
        """What to do next, in Python's terms."""
        return self.next_step_for(Audience.PYTHON)

    def next_step_for(self, audience: Audience) -> str | None:
        """Return what to do next, in an audience's terms."""
        return None if self.hint is None else words(self.hint, audience)

    def words(self, audience: Audience) -> str:
        """Return the cause, then the next step in an audience's terms."""
        step = self.next_step_for(audience)
        return f"{self.message}; {step}" if step else self.message


def summary(error: Exception) -> str:
    """Return a text to store: the cause, and the next step if it is the same for every audience."""
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
    """The text or bytes are not an id.

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
    """The name is taken: of a tag, of a file, or of another log on the remote.

    How to see it: `graft tags`, `graft remote ls`; for a file, `ls`.
    Next step: choose another name, `--as NAME` for a push, or use `--force`.
    """


class NoRemoteError(UsageError):
    """The verb needs a remote.

    How to see it: `graft doctor` reports that no remote is configured.
    Next step: add `[remote]` to graft.toml.
    """


class PageSizeError(UsageError):
    """The page size is invalid, or not the volume's.

    How to see it: `PRAGMA page_size`.
    Next step: keep the page size, or copy the data into a new volume.
    """


class ReadOnlyError(UsageError):
    """A write to a view of the past, with `mode=ro`, or to a read-only data directory.

    How to see it: the connection's URI; the data directory's permissions.
    Next step: open the tag without `lsn`, `as_of` and `mode=ro`.
    """


class TagRemovedError(ReadOnlyError):
    """A write by a connection whose tag was removed while it was open (`SQLITE_READONLY`).

    Nothing was written, and reads still work.

    How to see it: `graft tags`, `graft volumes`; the text names the volume.
    Next step: `graft switch TAG VOLUME` restores the tag; or open another tag.
    """


class ConfigError(GraftError):
    """graft.toml or a variable is wrong.

    How to see it: `graft doctor` names the file that was read.
    Next step: correct the source and key that the text names.
    """


class BusyError(GraftError):
    """Another process or connection is using it.

    How to see it: `PRAGMA busy_timeout`.
    Next step: try again, or set a busy timeout.
    """


class WriterBusyError(BusyError):
    """Another connection writes to the volume.

    How to see it: `SQLITE_BUSY`; another connection inside a write transaction.
    Next step: try again, or set a busy timeout.
    """


class StaleSnapshotError(BusyError):
    """The volume changed after this transaction's first read.

    How to see it: `SQLITE_BUSY_SNAPSHOT`; a transaction that reads first and then writes.
    Next step: roll back and run it again; `BEGIN IMMEDIATE` avoids it.
    """


class ReentryError(BusyError):
    """A signal handler or finalizer repeated what its own thread was already doing.

    Examples are fetching a page and writing to the catalog.

    How to see it: `SQLITE_LOCKED`; no busy handler is called, because the interrupted work
    cannot continue while it waits.
    Next step: run it again outside the handler; close connections explicitly.
    """


class ConflictError(GraftError):
    """Another client or a later commit was first; nothing is lost.

    How to see it: the subclass says who was first.
    Next step: see `DivergedError`, `HistoryMismatchError` and `RevertConflictError`.
    """


class DivergedError(ConflictError):
    """The volume and its log both have commits that the other lacks.

    How to see it: after `graft fetch TAG`, `graft status TAG` shows both counts above 0.
    Next step: `graft rebase TAG`; or fork or export the local state, then clone the log again.
    """


class ExpiredError(ConflictError):
    """The log's retention has deleted commits that this machine still needs.

    It was away for longer than the log keeps commits and than its grace period. Local commits are
    still here.

    How to see it: the text names the LSN, and the newest that may be deleted.
    Next step: export local changes; then clone the log again.
    """


class RevertConflictError(ConflictError):
    """A commit cannot be undone, because later commits changed the same rows or tables again.

    How to see it: `graft revert TAG COMMIT --dry-run` lists all of them. Nothing was written.
    Next step: change these rows with SQL, or put the state before the commit on top.
    """


class HistoryMismatchError(ConflictError):
    """The remote lacks the newest commit of a log that this machine knows.

    Causes are a wrong bucket or prefix, a disk that is not mounted, a restored backup, or a
    replaced history.

    How to see it: the text names the commit; nothing was sent.
    Next step: check the `[remote]` table and the mount; `graft fsck LOG --repair` puts missing
    commits back; clone the log again if its history was replaced.
    """


class CommitOutcomeUnknownError(GraftError):
    """A push was sent, and no response shows whether it landed.

    How to see it: `graft status TAG` reports an unsettled push.
    Next step: push again; the same bytes are sent, so the push lands only once.
    """

    retry_after_seconds: float | None = None
    """How long a store that throttles asked to be left alone, 0 if it did not say; else None."""
    was_answered = False
    """Whether there was a response that proves nothing; then read the key."""
    late_share = 0.0
    """The fraction of the store's total timeout that passed, if no response came in time.
    A caller that retries does so until the fractions add up to 1."""


class StoreError(GraftError):
    """The remote store failed.

    How to see it: `graft doctor`; the text names the request and the error code.
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
    """Whether the response, or part of it, timed out."""


class StoreDeniedError(StoreError):
    """Credentials are missing, refused, or lack a permission.

    How to see it: `graft doctor`; a 403 may hide an absent object.
    Next step: compare them with the policy in `graft help s3`.
    """


class BucketMissingError(StoreError):
    """The bucket does not exist, or the directory is not a remote (is the disk mounted?).

    How to see it: `graft doctor`.
    Next step: mount it, create it, or correct its name; `graft remote init` turns a directory into
    a remote.
    """


class ObjectMissingError(StoreError):
    """A required object is missing.

    How to see it: the text names its key; look for it in the store.
    Next step: restore it from a replica or a backup.
    """

    def __init__(self, key: str, *, next_step: str | Hint | None = None) -> None:
        super().__init__(f"the remote has no object {key!r}", next_step=next_step)
        self.key = key


class UnsafeStoreError(StoreError):
    """The store ignores or does not support create-only writes.

    How to see it: `graft doctor`, which runs the same probe.
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

    `is_foreign` is true if it never was a graft-vfs object, such as a README.

    How to see it: the text names the object and what is wrong with it.
    Next step: try again; if that fails, restore the object.
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
    Next step: restore `catalog.db` together with its `-wal`, or run `graft adopt`: no commit
    is lost.
    """


class FutureVersionError(DamageError):
    """The bytes were written by a newer version.

    How to see it: `graft --version` shows the format version that this program reads.
    Next step: upgrade graft-vfs.
    """


class LocalStorageError(GraftError):
    """The local disk failed or refused.

    How to see it: the text gives the system's reason; `ulimit -n`.
    Next step: see `DiskFullError`, `AccessDeniedError` and `MovedError`; no commit is lost.
    """


class DiskFullError(LocalStorageError):
    """The disk, a quota or a file size limit is full (`SQLITE_FULL`).

    How to see it: `df`, `df -i`, `ulimit -f`.
    Next step: free space or raise the limit.
    """


class AccessDeniedError(LocalStorageError):
    """Owner, permissions or a read-only file system forbid it (`SQLITE_IOERR_ACCESS`).

    How to see it: `ls -l` on the path in the text.
    Next step: correct owner and permissions.
    """


class MovedError(LocalStorageError):
    """Files of the data directory were moved, removed or replaced while they were open.

    The result code is `SQLITE_IOERR_VNODE`; nothing was committed.

    How to see it: the text names the file.
    Next step: close the connection and open it again; restore backups only while no process has
    the data directory open.
    """


class ForkedProcessError(GraftError):
    """A connection or engine was carried across `os.fork()`.

    How to see it: a worker made by `os.fork()`, or by multiprocessing with "fork".
    Next step: open it in the child.
    """
