"""The file that SQLite reads and writes: one connection's view of a volume.

SQLite's page I/O arrives here, one Python call each, so this is the hot path: a transaction of one
row makes some 16 calls here, and eight to its journal. Attributes that mirror the snapshot exist so
that reading a page costs two dictionary look-ups and a slice.

The order at a commit is: xWrite of each page, FCNTL_SYNC, xSync, then the end of the journal,
xTruncate if the database shrank, FCNTL_COMMIT_PHASETWO, xUnlock. The transaction is committed at
COMMIT_PHASETWO; an unlock without it drops what was staged. SQLite names the methods.

With several databases in a transaction, SQLite goes through FCNTL_SYNC and xSync of each first. If
a super-journal names them, it ignores every error after that. So whatever may fail is done at
FCNTL_SYNC; see `_prepare`.

A signal's handler may raise at any call in these methods. An I/O error means that the transaction
was rolled back. A commit that was interrupted when its chunk was whole is finished; what
interrupted it is raised as what it is, when SQLite gives back its last lock.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import apsw

from graft_vfs.advice import Audience
from graft_vfs.errors import (
    ForkedProcessError,
    GraftError,
    LocalStorageError,
    ReadOnlyError,
    StaleSnapshotError,
    UsageError,
)
from graft_vfs.ids import VolumeId
from graft_vfs.local.mapping import View, forget_resident
from graft_vfs.pager import moved
from graft_vfs.pager.interrupts import raise_behind
from graft_vfs.pager.journal import Journal
from graft_vfs.pager.sqlite_errors import as_io_error, to_sqlite
from graft_vfs.pager.tagged import Tagged
from graft_vfs.pager.unread import empty_once
from graft_vfs.pages import PAGE_SIZES
from graft_vfs.view.remote_view import Located
from graft_vfs.volume.context import Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.transaction import FULL, OFF, Transaction, page_format
from graft_vfs.volume.volume import Volume

if TYPE_CHECKING:
    from graft_vfs.local.branch_file import WriterLock

# A connection that is still open at the interpreter's end is closed by the last garbage collection.
# That may free APSW first, and SQLite would then call methods here by names that are gone: a crash.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(apsw))

_logger = logging.getLogger(__name__)

_NONE = apsw.SQLITE_LOCK_NONE
_SHARED = apsw.SQLITE_LOCK_SHARED
_RESERVED = apsw.SQLITE_LOCK_RESERVED
_COMMIT_PHASETWO = apsw.SQLITE_FCNTL_COMMIT_PHASETWO
_SYNC = apsw.SQLITE_FCNTL_SYNC
_MMAP_SIZE = apsw.SQLITE_FCNTL_MMAP_SIZE
_PRAGMA = apsw.SQLITE_FCNTL_PRAGMA

_HEADER_BYTES_MAX = 65536
_FILE_HEADER_BYTES = 100
_READS_RESIDENT_MAX = 8192
"""After so many reads the mapped pages are let go, so that a scan does not fill memory."""

_FINISH_ATTEMPTS = 100
"""How often a commit is tried again that handlers of signals interrupt, before it is an error."""
_CHARACTERISTICS = (
    # A journal's name and order matter to nobody, because no journal is ever recovered from.
    apsw.SQLITE_IOCAP_SAFE_APPEND
    | apsw.SQLITE_IOCAP_SEQUENTIAL
    # Keeps SQLite from writing the neighbours of a page with it.
    | apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE
    # Lets a connection in TRUNCATE or PERSIST mode keep its journal open between transactions.
    | apsw.SQLITE_IOCAP_UNDELETABLE_WHEN_OPEN
)

_FORMATS = {size: page_format(size) for size in PAGE_SIZES}


def _refuse_in_child(*_: object) -> NoReturn:
    raise to_sqlite(
        ForkedProcessError(
            "this connection belongs to the parent process",
            next_step="open an engine and its connections after os.fork()",
        )
    )


def _raising(error: apsw.Error) -> Callable[..., NoReturn]:
    def refuse(*_: object) -> NoReturn:
        raise apsw.IOError(f"{error}; close the connection and open it again")

    return refuse


def _restores_snapshot(transaction: Transaction) -> bool:
    try:
        return transaction.restores_snapshot()
    except GraftError:
        return False


class VolumeFile:
    """A volume as SQLite's main database file.

    Owner: one SQLite pager. Thread rule: as its connection. With `fixed` the file shows that
    snapshot for ever and takes no writes. `find` opens the volume that the tag names when another
    process has moved the tag; without it the file stays with its volume.
    """

    # APSW looks for each method on the object first. So there is a dictionary only while it holds
    # methods that stand in for those of the class.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_empty_page_size",
        "_end",
        "_fixed",
        "_is_cache_doubtful",
        "_is_exclusive",
        "_is_plain",
        "_level",
        "_located",
        "_lock",
        "_offset_of",
        "_on_close",
        "_on_pragma",
        "_page_size",
        "_pin",
        "_prepared",
        "_read_only",
        "_reads_left",
        "_room",
        "_shift",
        "_staged",
        "_tagged",
        "_unpin",
        "_view",
        "durability",
        "journal",
        "journal_mode",
        "snapshot",
        "transaction",
        "volume",
    )

    def __init__(
        self,
        tag: str,
        volume: Volume,
        *,
        read_only: bool = False,
        fixed: Snapshot | None = None,
        find: Callable[[VolumeId], Volume] | None = None,
        on_pragma: Callable[[VolumeFile, str, str | None], str | None],
        on_close: Callable[[VolumeFile], None],
    ) -> None:
        self._tagged = Tagged(tag, find)
        self.transaction: Transaction | None = None
        self.durability = FULL
        self.journal_mode = "delete"
        self._fixed = fixed
        self._read_only = read_only or fixed is not None or not volume.writable
        self._on_pragma = on_pragma
        self._on_close = on_close
        self._lock: WriterLock | None = None if self._read_only else volume.open_writer_lock()
        self._level = _NONE
        # The journal that SQLite has begun for the present transaction.
        self.journal: Journal | None = None
        # A transaction that is committed with a super-journal, so that SQLite ignores errors.
        self._prepared: Transaction | None = None
        # What locking_mode was set to; see `set_exclusive`.
        self._is_exclusive = False
        # So many pages have room in the log, each in a chunk of its own.
        self._room = 0
        # Set when a pragma moves the connection; see the module `moved`.
        self._shift = 0
        self._is_cache_doubtful = False
        # Neither of the two is set: one look for the hot path.
        self._is_plain = True
        self._empty_page_size = _HEADER_BYTES_MAX
        # The transaction's pages; None once SQLite has synced it: see `finish_commit`.
        self._staged: dict[int, bytes] | None = None
        # One more for the file's header, which SQLite reads when it opens the file.
        self._reads_left = _READS_RESIDENT_MAX + 1
        self.snapshot: Snapshot
        self._page_size = 0
        self._end = 0
        self._view: View
        self._offset_of: Callable[[int], int | None]
        self._located: Callable[[int], Located | None]
        self._use(volume)
        self._adopt(fixed or self._newest())

    def _use(self, volume: Volume) -> None:
        self.volume = volume
        self._pin, self._unpin = volume.pins.add, volume.pins.discard

    def _adopt(self, snapshot: Snapshot) -> None:
        """Show a snapshot."""
        self.snapshot = snapshot
        self._page_size = snapshot.page_size
        self._end = snapshot.end[0]
        self._view = snapshot.view
        self._offset_of = snapshot.branch.index.get
        self._located = snapshot.remote.located.get

    @property
    def read_only(self) -> bool:
        """Tell whether writes are refused."""
        return self._read_only

    @property
    def in_transaction(self) -> bool:
        """Tell whether SQLite holds a lock, and so a snapshot, now."""
        return self._level != _NONE

    @property
    def holds_writer_lock(self) -> bool:
        """Return True if no other connection can write now."""
        return self._level >= _RESERVED or (self._is_exclusive and self.in_transaction)

    def move_to(self, volume: Volume) -> None:
        """Show another volume from the next transaction on; not inside one."""
        assert not self.in_transaction
        if self._lock is not None:
            self._lock.close()
            self._lock = volume.open_writer_lock()
        self._use(volume)
        self._tagged.branch = None
        self._shift = moved.new_shift()
        self._is_plain = False
        self._empty_page_size = self._page_size or moved.DEFAULT_PAGE_SIZE
        self._adopt(self._newest())

    # Where the tag points ----------------------------------------------------------------------

    @property
    def tag(self) -> str:
        """The tag that the connection was opened under."""
        return self._tagged.tag

    @property
    def opened(self) -> Opened:
        """The volume that the connection shows, with its tag: what a verb is done to."""
        return Opened(self.tag, self.volume)

    def follow_tag(self) -> None:
        """Show the volume that the tag names now; nothing inside a transaction."""
        if self._fixed is None and not self.in_transaction:
            self._leave_if_moved()

    def _newest(self) -> Snapshot:
        """Return the newest snapshot of the volume that the tag names, having moved there.

        Not inside a transaction. A tag that was removed names none: then the snapshot is one that
        the volume does not have, so that each transaction comes here and asks again.
        """
        while True:
            snapshot = self._begin_somewhere()
            if self._tagged.names(self.volume, snapshot):
                return snapshot
            if not self._leave_if_moved():
                self._tagged.branch = None
                return snapshot.copy()

    def _begin_somewhere(self) -> Snapshot:
        """Begin; a volume that was replaced because it is damaged keeps nobody from the new one."""
        try:
            return self.volume.begin()
        except GraftError:
            if not self._leave_if_moved():
                raise
            return self.volume.begin()

    def _leave_if_moved(self) -> bool:
        """Move to the volume that the tag names, pinned there if it was here; False if to none."""
        former = self.volume
        volume = self._tagged.other_than(former)
        if volume is None:
            return False
        is_pinned = self in former.pins
        self.move_to(volume)
        if is_pinned:
            former.pins.discard(self)
            self._pin(self)
        return True

    def prepare(self) -> str:
        """Show an empty file until the next unlock; only before anything was read. See `unread`."""
        if self._reads_left < _READS_RESIDENT_MAX or self.in_transaction:
            raise UsageError(
                "preparing is for a connection that has read nothing yet",
                next_step="leave it out, or run it first after opening",
            )
        self._use(empty_once(self, self._fixed))
        self._fixed = None
        # An empty file is shown wherever the tag points.
        self._tagged.branch = self.snapshot.branch
        return "The next look at the volume shows an empty database."

    def show(self, volume: Volume, fixed: Snapshot | None) -> None:
        """Show the volume, or its fixed snapshot, behind `prepare`."""
        self._use(volume)
        self._tagged.branch = None
        self._fixed = fixed
        if fixed is not None:
            self._adopt(fixed)

    # Reading ----------------------------------------------------------------------------------

    def xRead(self, amount: int, offset: int) -> bytes | memoryview:
        """Return `amount` bytes at `offset`: a page, or the part of page 1 that SQLite probes."""
        size = self._page_size
        self._reads_left -= 1
        if amount == size and offset and self._reads_left:
            page = offset // size + 1
            transaction = self.transaction
            if transaction is None or not transaction.has(page):
                at = self._offset_of(page)
                try:
                    if at is None:
                        located = self._located(page)
                        if located is not None:
                            view, at = located
                            return view[at : at + size]
                    elif 0 <= at < self._end:
                        return self._view[at : at + size]
                except GraftError as error:  # A view that is not mapped reads by calls.
                    raise to_sqlite(error) from error
        elif offset == 24 and amount == 16 and self._level == _SHARED and self._is_plain:
            try:
                return self.snapshot.probe()
            except GraftError as error:
                raise to_sqlite(error) from error
        return self._read(amount, offset)

    def _read(self, amount: int, offset: int) -> bytes | memoryview:
        try:
            if self._reads_left <= 0:
                self._reads_left = _READS_RESIDENT_MAX - 1
                self.snapshot.forget_resident()
                forget_resident(self.volume.log.view)
            self._follow()
            size = self._page_size or self._empty_page_size
            if amount == _FILE_HEADER_BYTES and not offset and self._level == _NONE:
                return self._file_header()
            page, start = divmod(offset, size)
            is_probe = (amount, offset) == (16, 24)
            if is_probe and self._level >= _RESERVED and not self.finish_commit():
                # With locking_mode=EXCLUSIVE SQLite begins anew after an error, and asks whether
                # its cache is valid. What it had written is rolled back by now or, without a
                # journal, never will be.
                self._drop()
            image = self._image(page + 1)
            if self._is_cache_doubtful and is_probe:
                return self._unknown_probe(image)
            return image if len(image) == amount else image[start : start + amount]
        except GraftError as error:
            raise to_sqlite(error) from error

    def _file_header(self) -> bytes:
        """Return what SQLite asks for when it opens a file, of which it believes the page size.

        Everything else it learns from page 1 in its first transaction. So opening reads no page,
        and neither damage nor a remote that is away keeps a volume from being opened.
        """
        if not self.snapshot.page_count:
            return b""
        return bytes(16) + _FORMATS[self._page_size] + bytes(_FILE_HEADER_BYTES - 20)

    def _doubt_cache(self) -> None:
        """Let SQLite forget its cached pages when it next looks whether the file has changed.

        For what Python raises before the first instruction of a method, where no `try` can stand:
        see `as_io_error`. With locking_mode=EXCLUSIVE SQLite does not look again.
        """
        self._is_cache_doubtful, self._is_plain = True, False

    def _unknown_probe(self, first_page: bytes) -> bytes:
        """Return a version of the file that SQLite has never seen, this once."""
        self._is_cache_doubtful, self._is_plain = False, not self._shift
        return bytes(byte ^ 0xFF for byte in first_page[24:40].ljust(16, b"\0"))

    def _follow(self) -> None:
        """Outside a lock show the newest snapshot: SQLite looks at a file when it opens it."""
        if self._level == _NONE and self._fixed is None:
            self._adopt(self._newest())

    def _image(self, page: int) -> bytes:
        """Return a page as this connection is to see it now; empty beyond the end."""
        transaction = self.transaction
        if transaction is not None:
            image = transaction.read(page)
            if image is not None:
                return moved.shifted(image, self._shift) if page == 1 and self._shift else image
            if page > max(1, transaction.page_count):
                return b""
        return self.read_snapshot_page(page)

    def read_snapshot_page(self, page: int) -> bytes:
        """Return a page as it was before the transaction; empty beyond the end."""
        snapshot = self.snapshot
        if page > snapshot.page_count:
            is_shown_empty = page == 1 and self._shift
            if not is_shown_empty:
                return b""
            image = moved.empty_first_page(self._empty_page_size, snapshot.counter)
        else:
            image = snapshot.read(page)
        return moved.shifted(image, self._shift) if page == 1 and self._shift else image

    def xFileSize(self) -> int:
        """Return the size in bytes that the database has in this view."""
        transaction = self.transaction
        if transaction is not None:
            count = transaction.page_count
        else:
            if self._level == _NONE:
                self._follow()
            count = self.snapshot.page_count
        if count:
            return count * self._page_size
        return self._empty_page_size if self._shift else 0

    # Locks ------------------------------------------------------------------------------------

    def set_exclusive(self, is_exclusive: bool) -> None:
        """Follow locking_mode: with EXCLUSIVE, SQLite keeps its snapshot from the first read on.

        So no other connection may write from then on, or this one could never write again. Raises
        StaleSnapshotError or WriterBusyError inside a transaction that may not go on like that.
        """
        lock = self._lock
        if lock is None or is_exclusive == self._is_exclusive:
            return
        if not is_exclusive:
            self._is_exclusive = False
            if not self.in_transaction:
                self._lock_normally()
            return
        if self._level == _SHARED:
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
        assert lock is not None
        if level != _SHARED:
            VolumeFile.xLock(self, level)
            return
        try:
            self.volume.keep_writers_out(lock)
            VolumeFile.xLock(self, level)
            if self._lock is not lock:  # The tag has moved, and the lock is the former volume's.
                VolumeFile.xUnlock(self, _NONE)
                self._lock_exclusively(level)
        except GraftError as error:
            raise to_sqlite(error) from error
        except BaseException:
            if self._lock is lock:
                lock.release()
            raise

    def _unlock_exclusively(self, level: int) -> None:
        """Give the writer lock back with the snapshot, and lock as others do if asked for."""
        if level == _NONE and not self._is_exclusive:
            self._lock_normally()
        VolumeFile.xUnlock(self, level)
        if level == _NONE and self._lock is not None:
            self._lock.release()

    def xLock(self, level: int) -> None:
        """Take a snapshot at SHARED and the writer lock at RESERVED; more needs nothing more."""
        if level == _SHARED:
            if self._fixed is None:
                # The pin comes first, so that no commit forgets an image that the snapshot has.
                self._pin(self)
                try:
                    snapshot = self.volume.begin()
                    if snapshot is not self.snapshot:
                        self._take(snapshot)
                except GraftError as error:
                    self._begin_elsewhere(error)
            else:
                self.volume.look_at(self.snapshot)
        elif level == _RESERVED:
            # Before the lock is taken, so that it is given back also if Ctrl-C comes behind that.
            self._level = level
            lock = self._lock
            try:
                if lock is None:
                    raise ReadOnlyError("this connection is read-only")
                transaction = self.volume.begin_write(self.snapshot, lock)
                if transaction.snapshot is not self.snapshot:
                    self._tagged.require(self.volume, transaction.snapshot)
                    self._take(transaction.snapshot)
            except GraftError as error:
                if lock is not None and not self._is_exclusive:
                    lock.release()
                self._level = _SHARED
                raise to_sqlite(error) from error
            self.transaction = transaction
            self._staged = transaction.staged
        self._level = level

    def _take(self, snapshot: Snapshot) -> None:
        """Show a snapshot that others made; outside a transaction from where the tag points."""
        if snapshot.branch is not self._tagged.branch and self._level == _NONE:
            snapshot = self._newest()
        self._adopt(snapshot)
        self._room = 0

    def _begin_elsewhere(self, error: GraftError) -> None:
        """Begin where the tag points, after a failure here; raises that if it points nowhere else.

        Nothing is pinned if it raises.
        """
        try:
            if not self._leave_if_moved():
                raise error
            self._take(self._newest())
        except GraftError as failure:
            self._unpin(self)
            raise to_sqlite(failure) from failure

    def _begin_another_write(self) -> tuple[Transaction, dict[int, bytes]]:
        """Begin a transaction under the lock of the one before: locking_mode=EXCLUSIVE keeps it.

        What is written after a sync belongs to the same transaction: it is rolled back.
        """
        if self._level < _RESERVED:
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
            lock = self._lock
            if self._level >= _RESERVED and lock is not None:
                if self.transaction is not None:
                    self._end_write()
                lock.release()
            if level == _NONE:
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
            if level == _NONE:
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

    # Says that somebody writes: SQLite asks only to learn if a journal is hot; none ever is.
    xCheckReservedLock = True.__bool__  # noqa: N815 - SQLite's name

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
            if not offset and data[16:20] != _FORMATS[size]:
                data = transaction.as_kept(data)
            page = offset // size + 1
            if not offset and self._shift:
                data = moved.shifted(data, -self._shift)
            staged[page] = data
            if page > transaction.page_count:  # noqa: PLR1730 - max() costs more
                transaction.page_count = page
            if len(staged) >= transaction.staged_max:
                transaction.spill()
                self._room = 0
        except GraftError as error:
            raise to_sqlite(error) from error
        except BaseException as error:
            raise as_io_error(error) from error  # Rollbacks write, too.

    def xTruncate(self, size: int) -> None:
        """Set the size in bytes that the database has after the transaction."""
        if self.transaction is not None and self._page_size:
            self.transaction.truncate(size // self._page_size)

    # Does nothing, without Python code that a signal could interrupt: what the transaction must
    # survive is decided at its commit.
    xSync: Any = callable  # noqa: N815

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
            return  # A rollback syncs, too. One of a journal in SQLite's own memory is told below.
        try:
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
                self.volume.log.sync(self._end)
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
        return self._answer_control(op, pointer)

    def _answer_control(self, op: int, pointer: int) -> bool:
        if op == _PRAGMA:
            self.finish_commit()
            return self._pragma(pointer)
        if op == _MMAP_SIZE:
            # SQLite maps nothing of a volume; PRAGMA mmap_size returns the row that says so.
            ctypes.c_int64.from_address(pointer).value = 0
            return True
        return False

    def _pragma(self, pointer: int) -> bool:
        call = apsw.VFSFcntlPragma(pointer)
        try:
            answer = self.answer(call.name, call.value)
        except GraftError as error:
            # SQLite hands this text to every binding as the error's message.
            call.result = error.words(Audience.SQL)
            raise to_sqlite(error) from error
        if answer is None:
            return False
        call.result = answer
        return True

    def answer(self, name: str, value: str | None) -> str | None:
        """Return the answer to a pragma, or None for one of SQLite's own; raises GraftError."""
        return self._on_pragma(self, name, value)

    # Constants that no Python code returns: APSW cannot pass on what a signal raises in these two.
    # The sector size hardly matters; see the characteristics for why.
    xSectorSize = (4096).__int__  # noqa: N815 - SQLite's name
    xDeviceCharacteristics = _CHARACTERISTICS.__int__  # noqa: N815

    def abandon(self) -> None:
        """In the child of a fork: leave the transaction to the parent, and refuse all work.

        The lock is the parent's, too. To release it here would release it there; closing does not.
        """
        self._lock = None
        self.transaction = self._staged = None
        # Replaced on the object, so that checking costs the parent nothing.
        self.__dict__.update(
            xLock=_refuse_in_child, xRead=_refuse_in_child, xWrite=_refuse_in_child
        )

    def xClose(self) -> None:
        """Give back locks and the snapshot."""
        self._lock_normally()
        self._unpin(self)
        # The journal leads back here, so that both would wait for the garbage collector.
        self.transaction = self.journal = None
        if self._lock is not None:
            self._lock.close()
        self._on_close(self)
