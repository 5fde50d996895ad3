"""The file that SQLite reads and writes: one connection's view of a volume.

SQLite's page I/O arrives here, one Python call each, so this is the hot path: a transaction of one
row makes some 16 calls here, and eight to its journal.

The states of a file, and what may be believed in each. `L` is the lock level that SQLite was given.

    state   L           transaction  _staged    what holds
    OPEN    NONE        None         None       No snapshot is pinned; `snapshot` may be old.
    READER  SHARED      None         None       `snapshot` is pinned, and stays until OPEN.
    WRITER  ≥ RESERVED  set          its pages  The writer lock is held. `snapshot` is the newest,
                                                and what a rollback restores. SQLite hears every
                                                error, after which nothing is committed.
    SYNCED  ≥ RESERVED  set          None       SQLite has finished phase one, and may have told
                                                other databases to commit. All that may fail for
                                                want of space has been done.
    HOLDER  ≥ RESERVED  None         None       The writer lock is held without a transaction: that
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

    a  From WRITER and HOLDER pages of the transaction, which begins now in HOLDER: with EXCLUSIVE
       SQLite keeps its lock. From SYNCED those of a rollback, or with journal_mode=MEMORY those of
       the transaction after one whose commit was interrupted unseen.
    b  WRITER: the transaction is dropped. SQLite has rolled it back, or nothing was written.
    c  SYNCED: the transaction is committed, unless it was rolled back: `finish_commit`. So it is at
       the header of the next journal and at a pragma, which lead to HOLDER. It was committed before
       if all went well.
    d  xUnlock(NONE) leads on to OPEN, from every state.

    FCNTL_SYNC that fails, and PHASETWO that fails, lead to HOLDER: the transaction is dropped, and
    SQLite gets an I/O error or SQLITE_FULL. PHASETWO in WRITER commits as well: a transaction that
    has written nothing is not synced. A probe (a read of bytes 24..39) in WRITER means that SQLite
    has given up the transaction after an I/O error, and leads to HOLDER. All else leaves the state.

Independent of these: with locking_mode=EXCLUSIVE the writer lock is held in READER, too (methods on
the object stand in for xLock and xUnlock). In the child of a fork all work is refused (`abandon`).
When a commit cannot be finished that SQLite believes in, all reads and writes are refused.

With several databases in a transaction, SQLite goes through FCNTL_SYNC and xSync of each first. If
a super-journal names them, it ignores every error after that. So whatever may fail is done at
FCNTL_SYNC; see `_prepare`.

A signal's handler may raise at any call in these methods. An I/O error means that the transaction
was rolled back. A commit that was interrupted when its chunk was whole is finished, and what
interrupted it is raised as what it is, when SQLite gives back its last lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

import apsw

from graft_vfs.errors import GraftError, LocalStorageError, ReadOnlyError, StaleSnapshotError
from graft_vfs.ids import VolumeId
from graft_vfs.pager import moved
from graft_vfs.pager.interrupts import raise_behind
from graft_vfs.pager.journal import Journal
from graft_vfs.pager.snapshot_file import FORMATS, NONE, PRAGMA, RESERVED, SHARED, SnapshotFile
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
"""How often a commit is tried again that signal handlers interrupt, before it is an error."""


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

    def __init__(
        self,
        tag: str,
        volume: Volume,
        *,
        find: Callable[[VolumeId], Volume] | None = None,
        on_pragma: Callable[[SnapshotFile, str, str | None], str | None],
        on_close: Callable[[SnapshotFile], None],
    ) -> None:
        self.transaction: Transaction | None = None
        # The transaction's pages; None once SQLite has synced it: see `finish_commit`.
        self._staged: dict[int, bytes] | None = None
        # The journal that SQLite has begun for the present transaction.
        self.journal: Journal | None = None
        # A transaction that is committed with a super-journal, so that SQLite ignores errors.
        self._prepared: Transaction | None = None
        # What locking_mode was set to; see `set_exclusive`.
        self._is_exclusive = False
        # The log has room for this many pages, each in a chunk of its own.
        self._room = 0
        self._is_cache_doubtful = False
        self._lock = volume.open_writer_lock()
        super().__init__(tag, volume, find=find, on_pragma=on_pragma, on_close=on_close)

    @property
    def holds_writer_lock(self) -> bool:  # type: ignore[override]
        """Return True if no other connection can write now."""
        return self._level >= RESERVED or (self._is_exclusive and self.in_transaction)

    def move_to(self, volume: Volume) -> None:
        """Show another volume from the next transaction on; not inside one."""
        self._lock.close()
        self._lock = volume.open_writer_lock()
        super().move_to(volume)

    # Reading ----------------------------------------------------------------------------------

    def _probe(self) -> bytes:
        if self._level >= RESERVED and not self.finish_commit():
            # With locking_mode=EXCLUSIVE SQLite begins anew after an error, and asks whether
            # its cache is valid. What it had written is rolled back by now or, without a
            # journal, never will be.
            self._drop()
        probe = super()._probe()
        if self._is_cache_doubtful:
            # A version of the file that SQLite has never seen, this once.
            self._is_cache_doubtful, self._is_plain = False, not self._shift
            return bytes(byte ^ 0xFF for byte in probe.ljust(PROBE_BYTES, b"\0"))
        return probe

    def _doubt_cache(self) -> None:
        """Let SQLite forget its cached pages when it next looks whether the file has changed.

        For what Python raises before the first instruction of a method, where no `try` can stand:
        see `as_io_error`. With locking_mode=EXCLUSIVE SQLite does not look again.
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
        """Follow locking_mode: with EXCLUSIVE, SQLite keeps its snapshot from the first read on.

        So no other connection may write from then on, or this one could never write again. Raises
        StaleSnapshotError or WriterBusyError inside a transaction that may not go on like that.
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
                        "the volume has moved since this transaction began to read",
                        next_step="end the transaction, then set locking_mode",
                    )
                self._tagged.require(self.volume, newest)
            except BaseException:
                lock.release()
                raise
        self._is_exclusive = True
        # Replaced on the object, so that checking costs others nothing.
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
            if self._lock is not lock:  # The tag has moved, and the lock is the former volume's.
                VolumeFile.xUnlock(self, NONE)
                self._lock_exclusively(level)
        except GraftError as error:
            raise to_sqlite(error) from error
        except BaseException:
            if self._lock is lock:
                lock.release()
            raise

    def _unlock_exclusively(self, level: int) -> None:
        """Give the writer lock back with the snapshot, and lock as others do if asked for."""
        if level == NONE and not self._is_exclusive:
            self._lock_normally()
        VolumeFile.xUnlock(self, level)
        if level == NONE:
            self._lock.release()

    def _reserve(self) -> None:
        """Take the writer lock and begin a transaction on the newest snapshot."""
        # Before the lock is taken, so that it is given back also if Ctrl-C comes behind that.
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
        """Begin a transaction under the lock of the one before: locking_mode=EXCLUSIVE keeps it.

        What is written after a sync belongs to the same transaction: it is rolled back.
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
            # SQLite does not repeat an unlock, and others would wait for one that was not done.
            # It takes an error of the one after a commit for an error of the commit.
            self.raise_later(error)
            self.xUnlock(level)

    def raise_later(self, error: BaseException) -> None:
        """Raise what came too late to undo anything when SQLite gives back its last lock."""

        def unlock_and_raise(level: int) -> None:
            VolumeFile.xUnlock(self, level)
            if level == NONE:
                self.__dict__.pop("xUnlock", None)
                raise error

        if self._is_exclusive:  # No unlock will come.
            raise_behind(error)
        else:
            # Replaced on the object, so that checking costs nothing otherwise.
            self.__dict__.setdefault("xUnlock", unlock_and_raise)

    def _end_write(self) -> None:
        """Drop a transaction; after a rollback that went well its journal has been ended."""
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

        SQLite goes on without a word after a commit whose second phase was interrupted before the
        first instruction of a callback: it shows the pages as committed ones, and other databases
        of the transaction are committed. This is called where it shows that it has gone on: at its
        next unlock, journal or pragma. A rollback reads the journal; one of a journal in SQLite's
        own memory has written the snapshot's pages back. Without a journal it would look the same.
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
            # SQLite believes in pages that are lost, and with EXCLUSIVE never looks again.
            self.__dict__.update(xRead=_raising(error), xWrite=_raising(error))
            raise
        # It has not marked its pages as clean.
        self._doubt_cache()
        return True

    def _drop(self) -> None:
        """Forget the transaction, and give back the space that it took."""
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
            raise as_io_error(error) from error  # Rollbacks write, too.

    def xTruncate(self, size: int) -> None:
        """Set the size in bytes that the database has after the transaction."""
        if self.transaction is not None and self._page_size:
            self.transaction.truncate(size // self._page_size)

    def _prepare(self, super_journal: int) -> None:
        """Do what may fail at a commit, while SQLite still listens.

        `super_journal` is the address of its name, 0 without. With it, the pages are written, and
        COMMIT_PHASETWO writes 64 bytes into space that was allocated before. Without it, other
        databases may still take part (journal_mode OFF, MEMORY or WAL, synchronous=OFF), so there
        is room at least. Raises apsw.Error, and then the transaction is dropped.
        """
        transaction = self.transaction
        assert transaction is not None
        if self.journal is not None and self.journal.is_played:
            # A rollback syncs, too. One of a journal in SQLite's own memory is told below.
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
        # A statement that changes nothing (SET x = x) commits, too; it makes no LSN.
        if transaction.staged or not transaction.is_empty():
            if self._prepared is not transaction:
                # Perhaps on another branch: a push settles without the writer lock.
                self._adopt(transaction.commit(self.durability))
            else:
                self._commit_prepared(transaction)
        else:
            self._page_size = self.snapshot.page_size

    def _commit_prepared(self, transaction: Transaction) -> None:
        """Make a transaction visible whose pages are written; SQLite would not hear of an error."""
        self._adopt(transaction.commit(OFF))
        self._prepared = None
        if self.durability >= FULL:
            try:
                self.volume.branch_log.sync(self._end)
            except LocalStorageError:
                _logger.exception(
                    "volume %s: LSN %d is committed, but a power cut may lose it",
                    self.volume.id,
                    self.snapshot.lsn,
                )

    def _settle_commit(self, error: BaseException) -> None:
        """Finish a commit that an exception ended; what was raised last comes out after it.

        Undoing it would be too late: other databases of the transaction may be committed already.
        Raises apsw.Error if the disk does not let it be finished, or handlers raise all the time.
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
        """Prepare a commit at SYNC, commit at COMMIT_PHASETWO, answer pragmas and mmap_size."""
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
                # Mostly one database takes part, and there is room for a small commit already.
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
        """In the child of a fork: leave the transaction to the parent, and refuse all work.

        The lock is the parent's, too. To release it here would release it there; closing does not.
        """
        self._lock_normally()
        self._level = NONE
        self.transaction = self._staged = None
        self._lock.abandon()
        super().abandon()

    def xClose(self) -> None:
        """Give back locks and the snapshot."""
        self._lock_normally()
        # The journal leads back here, so that both would wait for the garbage collector.
        self.transaction = self.journal = None
        self._lock.close()
        super().xClose()
