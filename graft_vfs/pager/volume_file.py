"""The file that SQLite reads and writes: one connection's view of a volume.

SQLite's page I/O arrives here, one Python call each, so this is the hot path: a one-row transaction
makes about 16 calls to this file, and eight to its journal.

The states of a file, and the invariants of each. `L` is SQLite's lock level.

    state   L           transaction  _staged    what holds
    OPEN    NONE        None         None       No snapshot is pinned; `snapshot` may be stale.
    READER  SHARED      None         None       `snapshot` is pinned, and kept until OPEN.
    WRITER  ≥ RESERVED  set          its pages  The writer lock is held. `snapshot` is the newest,
                                                and a rollback restores it. Every error reaches
                                                SQLite, and then nothing is committed.
    SYNCED  ≥ RESERVED  set          None       SQLite has finished phase one, and other databases
                                                may already be committed. Everything that may fail
                                                for lack of space is done.
    HOLDER  ≥ RESERVED  None         None       The writer lock is held without a transaction: it
                                                was committed or dropped, or has not begun.
                                                `snapshot` is the newest.

                    xLock(SHARED)        xLock(RESERVED)
             OPEN ----------------> READER ----------> WRITER <----------.
              ^                     |   ^               |   | xWrite (a)  |
              |   xUnlock(NONE)     |   | xUnlock       |   '-------------|
              '---------------------'   | (b, c, d)     | FCNTL_SYNC      | xWrite (a)
                                        |               v                 |
                                        |<----------- SYNCED -------------|
                                        |               | PHASETWO, (c)   |
                                        |               v                 |
                                        '------------ HOLDER -------------'

    a  In WRITER and HOLDER: pages of the transaction. In HOLDER the transaction begins now, because
       with EXCLUSIVE SQLite keeps its lock. In SYNCED: pages of a rollback or, with
       journal_mode=MEMORY, of the transaction after one whose commit was silently interrupted.
    b  WRITER: the transaction is dropped. SQLite has rolled it back, or nothing was written.
    c  SYNCED: the transaction is committed, unless it was rolled back: `finish_commit`. The same
       happens at the next journal's header and at a pragma, which lead to HOLDER. Normally it is
       already committed by then.
    d  xUnlock(NONE) leads to OPEN from every state.

    A failed FCNTL_SYNC or PHASETWO leads to HOLDER: the transaction is dropped, and SQLite gets an
    I/O error or SQLITE_FULL. PHASETWO in WRITER also commits: SQLite does not sync a transaction
    that has written nothing. A probe (a read of bytes 24..39) in WRITER means that SQLite has
    abandoned the transaction after an I/O error, and leads to HOLDER. Other calls do not change the
    state.

Independently of this: with locking_mode=EXCLUSIVE the writer lock is also held in READER (methods
on the object replace xLock and xUnlock). In a forked child all work is refused (`abandon`). If
SQLite considers a transaction committed and the commit cannot be completed, all reads and writes
are refused.

With several databases in a transaction, SQLite first calls FCNTL_SYNC and xSync of each. If a
super-journal names them, it ignores every error after that. So everything that may fail is done at
FCNTL_SYNC; see `_prepare`.

A signal handler may raise at any call in these methods. An I/O error means that the transaction was
rolled back. If a commit is interrupted after its chunk is complete, it is completed, and the
exception is raised unchanged when SQLite releases its last lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

import apsw

from graft_vfs.errors import GraftError, LocalStorageError, ReadOnlyError, StaleSnapshotError
from graft_vfs.pager import moved
from graft_vfs.pager.interrupts import raise_behind
from graft_vfs.pager.journal import Journal
from graft_vfs.pager.snapshot_file import FORMATS, NONE, PRAGMA, RESERVED, SHARED
from graft_vfs.pager.sqlite_errors import as_io_error, to_sqlite
from graft_vfs.pager.tagged_file import TaggedFile
from graft_vfs.sqlite_format.header import PAGE_FORMAT, PROBE_BYTES
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.transaction import FULL, OFF, Transaction
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)

_COMMIT_PHASETWO = apsw.SQLITE_FCNTL_COMMIT_PHASETWO
_SYNC = apsw.SQLITE_FCNTL_SYNC

_FINISH_ATTEMPTS = 100
"""How often a commit that signal handlers interrupt is retried before it is an error."""


def _raising(error: apsw.Error) -> Callable[..., NoReturn]:
    def refuse(*_: object) -> NoReturn:
        raise apsw.IOError(f"{error}; close the connection and open it again")

    return refuse


def _restores_snapshot(transaction: Transaction) -> bool:
    try:
        return transaction.restores_snapshot()
    except GraftError:
        return False


class VolumeFile(TaggedFile):
    """A volume as SQLite's main database file, to read and write."""

    __slots__ = (
        "_is_cache_doubtful",
        "_is_exclusive",
        "_lock",
        "_prepared",
        "_room",
        "_staged",
        "journal",
        "transaction",
    )

    read_only = False

    def _set_up(self) -> None:
        self.transaction: Transaction | None = None
        # The transaction's pages; None once SQLite has synced it: see `finish_commit`.
        self._staged: dict[int, bytes] | None = None
        # The journal of the current transaction, once SQLite has begun it.
        self.journal: Journal | None = None
        # The transaction commits with a super-journal, so SQLite ignores errors.
        self._prepared: Transaction | None = None
        # The last setting of locking_mode; see `set_exclusive`.
        self._is_exclusive = False
        # The log has allocated space for this many pages, each in a separate chunk.
        self._room = 0
        self._is_cache_doubtful = False
        self._lock = self.volume.open_writer_lock()

    @property
    def holds_writer_lock(self) -> bool:  # type: ignore[override]
        """Return True if other connections are currently unable to write."""
        return self._level >= RESERVED or (self._is_exclusive and self.in_transaction)

    def move_to(self, volume: Volume) -> None:
        """Show another volume from the next transaction on; not inside one."""
        self._lock.close()
        self._lock = volume.open_writer_lock()
        super().move_to(volume)

    # Reading ----------------------------------------------------------------------------------

    def _probe(self) -> bytes:
        if self._level >= RESERVED and not self.finish_commit():
            # With locking_mode=EXCLUSIVE, SQLite restarts after an error and checks whether its
            # cache is valid. By then its writes are rolled back or, without a journal, never will
            # be.
            self._drop()
        probe = super()._probe()
        if self._is_cache_doubtful:
            # This once, a version of the file that SQLite has never seen.
            self._is_cache_doubtful, self._is_plain = False, not self._shift
            return bytes(byte ^ 0xFF for byte in probe.ljust(PROBE_BYTES, b"\0"))
        return probe

    def _doubt_cache(self) -> None:
        """Make SQLite drop its cached pages when it next checks whether the file has changed.

        This handles exceptions before the first instruction of a method, which cannot be caught:
        see `as_io_error`. With locking_mode=EXCLUSIVE, SQLite does not check again.
        """
        self._is_cache_doubtful, self._is_plain = True, False

    def _image(self, page: int) -> bytes:
        transaction = self.transaction
        if transaction is not None:
            image = transaction.read(page)
            if image is not None:
                return moved.shifted(image, self._shift) if page == 1 and self._shift else image
            if page > max(1, transaction.page_count):
                return b""
        return self.read_snapshot_page(page)

    # Locks ------------------------------------------------------------------------------------

    def set_exclusive(self, is_exclusive: bool) -> None:
        """Apply locking_mode: with EXCLUSIVE, SQLite keeps its snapshot after the first read.

        So other connections must not write after that, or this one could never write again. Inside
        a transaction that cannot continue in this mode, raises StaleSnapshotError or
        WriterBusyError.
        """
        lock = self._lock
        if is_exclusive == self._is_exclusive:
            return
        if not is_exclusive:
            self._is_exclusive = False
            if not self.in_transaction:
                self._lock_normally()
            return
        if self._level == SHARED:
            self.volume.keep_writers_out(lock)
            try:
                newest = self.volume.begin()
                if newest.counter != self.snapshot.counter:
                    raise StaleSnapshotError(
                        "the volume has changed since this transaction's first read",
                        next_step="end the transaction, then set locking_mode",
                    )
                self._tagged.require(self.volume, newest)
            except BaseException:
                lock.release()
                raise
        self._is_exclusive = True
        # Replaced on the object, so that other connections pay nothing for the check.
        self.__dict__.update(xLock=self._lock_exclusively, xUnlock=self._unlock_exclusively)

    def _lock_normally(self) -> None:
        for method in ("xLock", "xUnlock"):
            self.__dict__.pop(method, None)

    def _lock_exclusively(self, level: int) -> None:
        """Take the writer lock with the snapshot."""
        lock = self._lock
        if level != SHARED:
            VolumeFile.xLock(self, level)
            return
        try:
            self.volume.keep_writers_out(lock)
            VolumeFile.xLock(self, level)
            if self._lock is not lock:  # The tag has moved, and the lock is the previous volume's.
                VolumeFile.xUnlock(self, NONE)
                self._lock_exclusively(level)
        except GraftError as error:
            raise to_sqlite(error) from error
        except BaseException:
            if self._lock is lock:
                lock.release()
            raise

    def _unlock_exclusively(self, level: int) -> None:
        """Release the writer lock with the snapshot; return to normal locking if requested."""
        if level == NONE and not self._is_exclusive:
            self._lock_normally()
        VolumeFile.xUnlock(self, level)
        if level == NONE:
            self._lock.release()

    def _reserve(self) -> None:
        """Take the writer lock and begin a transaction on the newest snapshot."""
        # Before taking the lock, so that it is released even if Ctrl-C follows.
        self._level = RESERVED
        lock = self._lock
        try:
            transaction = self.volume.begin_write(self.snapshot, lock)
            if transaction.snapshot is not self.snapshot:
                self._tagged.require(self.volume, transaction.snapshot)
                self._take(transaction.snapshot)
        except GraftError as error:
            if not self._is_exclusive:
                lock.release()
            self._level = SHARED
            raise to_sqlite(error) from error
        self.transaction = transaction
        self._staged = transaction.staged

    def _take(self, snapshot: Snapshot) -> None:
        super()._take(snapshot)
        self._room = 0

    def _begin_another_write(self) -> tuple[Transaction, dict[int, bytes]]:
        """Begin a transaction under the previous one's lock, as locking_mode=EXCLUSIVE keeps it.

        Writes after a sync belong to the same transaction, which is being rolled back.
        """
        if self._level < RESERVED:
            raise ReadOnlyError("a page was written outside a transaction")
        transaction = self.transaction
        if transaction is None:
            self.volume.reclaim()
            self._adopt(self.volume.begin())
            self._room = 0
            self.transaction = transaction = Transaction(self.volume, self.snapshot)
        self._staged = staged = transaction.staged
        return transaction, staged

    def xUnlock(self, level: int) -> None:
        """Drop an uncommitted transaction and the writer lock, and at NONE the snapshot."""
        try:
            if self._level >= RESERVED:
                if self.transaction is not None:
                    self._end_write()
                self._lock.release()
            if level == NONE:
                self._unpin(self)
            self._level = level
        except BaseException as error:  # noqa: BLE001 - it is raised later
            # SQLite does not repeat an unlock, and other connections would wait if it were not
            # done. It treats an error of the unlock after a commit as an error of the commit.
            self.raise_later(error)
            self.xUnlock(level)

    def raise_later(self, error: BaseException) -> None:
        """When SQLite releases its last lock, raise an exception that came too late for an undo."""

        def unlock_and_raise(level: int) -> None:
            VolumeFile.xUnlock(self, level)
            if level == NONE:
                self.__dict__.pop("xUnlock", None)
                raise error

        if self._is_exclusive:  # No unlock will follow.
            raise_behind(error)
        else:
            # Replaced on the object, so that the check costs nothing otherwise.
            self.__dict__.setdefault("xUnlock", unlock_and_raise)

    def _end_write(self) -> None:
        """Drop a transaction; after a successful rollback, its journal is ended."""
        transaction = self.transaction
        if transaction is None or self.finish_commit():
            return
        if transaction.staged or (self.journal is not None and self.journal.is_hot()):
            self._doubt_cache()
        self._drop()

    def end_synced(self) -> None:
        """Commit or drop a transaction that SQLite has synced, before the next one begins."""
        if self.transaction is not None and self._staged is None and not self.finish_commit():
            self._drop()

    def finish_commit(self) -> bool:
        """Commit what SQLite has synced and not rolled back; False if there is nothing to commit.

        If phase two of a commit is interrupted before the first instruction of a callback, SQLite
        silently continues: it treats the pages as committed, and other databases of the transaction
        are committed. This method is called when SQLite is known to have continued: at its next
        unlock, journal or pragma. A rollback is recognised because it reads the journal or, with
        a journal in SQLite's memory, because it has written the snapshot's pages back. Without a
        journal, a rollback looks the same.
        """
        transaction, journal = self.transaction, self.journal
        if transaction is None or self._staged is not None:
            return False
        if journal is not None:
            if journal.is_played:
                return False
        elif self.journal_mode != "memory" or _restores_snapshot(transaction):
            return False
        transaction.cut_to_header()
        try:
            self.xFileControl(_COMMIT_PHASETWO, 0)
        except apsw.Error as error:
            # SQLite uses pages that are lost, and with EXCLUSIVE never checks again.
            self.__dict__.update(xRead=_raising(error), xWrite=_raising(error))
            raise
        # SQLite has not marked its pages as clean.
        self._doubt_cache()
        return True

    def _drop(self) -> None:
        """Drop the transaction, and release its space."""
        if self.transaction is not None:
            self.transaction.abandon()
        self.transaction = self._staged = self.journal = self._prepared = None
        self._page_size = self.snapshot.page_size

    # Writing ----------------------------------------------------------------------------------

    def xWrite(self, data: bytes, offset: int) -> None:
        """Stage one page."""
        try:
            transaction, staged = self.transaction, self._staged
            size = len(data)
            if transaction is None or staged is None:
                transaction, staged = self._begin_another_write()
            if size != self._page_size:
                transaction.set_page_size(size)
                self._page_size = size
            if not offset and data[PAGE_FORMAT] != FORMATS[size]:
                data = transaction.as_kept(data)
            page = offset // size + 1
            if not offset and self._shift:
                data = moved.shifted(data, -self._shift)
            staged[page] = data
            if page > transaction.page_count:  # noqa: PLR1730 - max() costs more
                transaction.page_count = page
            if len(staged) >= transaction.staged_max:
                transaction.make_room()
                self._room = 0
        except GraftError as error:
            raise to_sqlite(error) from error
        except BaseException as error:
            raise as_io_error(error) from error  # Rollbacks write too.

    def xTruncate(self, size: int) -> None:
        """Set the database's size in bytes after the transaction."""
        if self.transaction is not None and self._page_size:
            self.transaction.truncate(size // self._page_size)

    def _prepare(self, super_journal: int) -> None:
        """Do everything that may fail in a commit, while SQLite still handles errors.

        `super_journal` is the address of its name, 0 if there is none. If there is one, the pages
        are written, and COMMIT_PHASETWO writes 64 bytes into allocated space. Otherwise other
        databases may still take part (journal_mode OFF, MEMORY or WAL, synchronous=OFF), so at
        least space is allocated. If it raises apsw.Error, the transaction is dropped.
        """
        transaction = self.transaction
        assert transaction is not None
        if self.journal is not None and self.journal.is_played:
            # A rollback syncs too. With a journal in SQLite's memory, it is recognised below.
            self._staged = None
            return
        try:
            transaction.thin()
            if not super_journal:
                self._room = transaction.reserve()
            elif not transaction.is_empty():
                transaction.prepare(self.durability)
                self._prepared = transaction
            self._staged = None
        except LocalStorageError as error:
            is_rollback = not super_journal and _restores_snapshot(transaction)
            self._drop()
            if not is_rollback:
                raise to_sqlite(error) from error
        except BaseException as error:
            self._drop()
            raise as_io_error(error) from error

    def _commit(self, transaction: Transaction) -> None:
        """Commit, unless nothing changes; raises LocalStorageError."""
        # A statement that changes nothing (SET x = x) also commits; it creates no LSN.
        if transaction.staged or not transaction.is_empty():
            if self._prepared is not transaction:
                # Possibly on another branch: a push settles without the writer lock.
                self._adopt(transaction.commit(self.durability))
            else:
                self._commit_prepared(transaction)
        else:
            self._page_size = self.snapshot.page_size

    def _commit_prepared(self, transaction: Transaction) -> None:
        """Publish a transaction whose pages are written; SQLite would ignore an error."""
        self._adopt(transaction.commit(OFF))
        self._prepared = None
        if self.durability >= FULL:
            try:
                self.volume.branch_log.sync(self._end)
            except LocalStorageError:
                _logger.exception(
                    "%s: LSN %d is committed, but a power cut may lose it",
                    self.volume.catalog.title(self.volume.id),
                    self.snapshot.lsn,
                )

    def _settle_commit(self, error: BaseException) -> None:
        """Complete a commit that an exception interrupted; the last exception is raised after it.

        It is too late for an undo: other databases of the transaction may already be committed.
        Raises apsw.Error if the disk prevents completion, or if handlers keep raising.
        """
        for _ in range(_FINISH_ATTEMPTS):
            try:
                transaction = self.transaction
                if transaction is not None:
                    if self.volume.settle_commit(transaction, self.durability):
                        self._adopt(self.volume.snapshot)
                    else:
                        self._commit(transaction)
                    self._drop()
                self.raise_later(error)
                return
            except GraftError as failure:
                self._drop()
                is_disk = isinstance(failure, LocalStorageError)
                raise (to_sqlite if is_disk else as_io_error)(failure) from error
            except BaseException as another:  # noqa: BLE001 - it is raised later
                error = another
        self._drop()
        raise as_io_error(error) from error

    # The rest ---------------------------------------------------------------------------------

    def xFileControl(self, op: int, pointer: int) -> bool:
        """Prepare a commit at SYNC, commit at COMMIT_PHASETWO, handle pragmas and mmap_size."""
        try:
            if op == _COMMIT_PHASETWO:
                transaction = self.transaction
                if transaction is not None:
                    self._commit(transaction)
                    self.transaction = self._staged = self.journal = None
                return True
        except LocalStorageError as error:
            self._drop()
            raise to_sqlite(error) from error
        except BaseException as error:
            if op != _COMMIT_PHASETWO:
                raise
            self._settle_commit(error)
            return True
        if op == _SYNC:
            staged = self._staged
            if staged is not None:
                # Usually there is only one database, and space for a small commit is already
                # allocated.
                room = self._room - len(staged)
                if pointer or room < 0:
                    self._prepare(pointer)
                else:
                    self._room = room
                    self._staged = None
            return True
        if op == PRAGMA:
            self.finish_commit()
        return super().xFileControl(op, pointer)

    def abandon(self) -> None:
        """In a forked child: leave the transaction to the parent, and refuse all work.

        The lock is also the parent's. Releasing it here would release it there; closing does not.
        """
        self._lock_normally()
        self._level = NONE
        self.transaction = self._staged = None
        self._lock.abandon()
        super().abandon()

    def xClose(self) -> None:
        """Release locks and the snapshot."""
        self._lock_normally()
        # The journal refers back to this object; break the cycle, so that both are freed at once.
        self.transaction = self.journal = None
        self._lock.close()
        super().xClose()
