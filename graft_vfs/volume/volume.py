"""A volume: one database on this machine, its current branch and the snapshot of its newest commit.

Invariants:
 1. `snapshot` is replaced, never changed. Its counter is one that the volume never showed before,
    unless its content is the same as before.
 2. Content changes only under the volume's writer lock. Settling a push changes the branch without
    it, because `local 1..k over base` and `the rest over base + 1` are the same content.
 3. What other processes do is seen at the begin of each transaction, by the head file's two words.

Crash here: a commit is the write of one chunk. Before it nothing was committed; after it every
process finds it in the log, whether or not the head file says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from os import F_OK, access
from pathlib import Path
from time import monotonic
from typing import Protocol

from graft_vfs.counters import CommitCounts
from graft_vfs.errors import (
    BusyError,
    CorruptLogError,
    GraftError,
    LocalStorageError,
    MovedError,
    StaleSnapshotError,
    WriterBusyError,
)
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import head
from graft_vfs.local.branch_file import (
    CHECK_MASK,
    CHECK_SECONDS,
    OpenFile,
    Place,
    WriterLock,
    WriterLocks,
)
from graft_vfs.local.branch_log import SYNC_INTERVAL_BYTES, BranchLog
from graft_vfs.local.catalog import descriptor
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.catalog.rows import BranchRow
from graft_vfs.local.chunk import DURABLE_BEFORE, Chunk, Position
from graft_vfs.local.files import storage_errors
from graft_vfs.local.head import HeadFile, new_epoch
from graft_vfs.pages import LocalLsn, RemoteLsn
from graft_vfs.view.remote_view import RemoteView
from graft_vfs.volume import rotation
from graft_vfs.volume.branch import Branch
from graft_vfs.volume.snapshot import FirstPage, Snapshot
from graft_vfs.volume.transaction import FULL, Transaction

_logger = logging.getLogger(__name__)

_WRITER_TIMEOUT_SECONDS = 10.0
LOOK_SECONDS = 0.01
"""A transaction that begins later than this after the last look at the length of the mapped files
looks again: in a busy program a look at each would cost up to a tenth of a transaction."""
_SYNC_STEP = "restore the data directory from a backup, or clone the volume again from its remote"


class Pin(Protocol):
    """Whoever reads: its snapshot, or while it is getting one its former snapshot or None."""

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot that it reads."""
        ...


class _Pin:
    """The pin of a verb."""

    snapshot: Snapshot | None = None


class Volume:
    """One open volume.

    Owner: the engine, which has one per volume id. Thread rule: any thread; `mutex` guards changes
    of the branch and of `snapshot`, readers take `snapshot` as it is.

    `pins` counts open snapshots: whoever reads adds itself before it takes a snapshot, and commits
    keep history while anybody but the writer is pinned. Ordering: `_is_changing` is set before the
    pins are looked at. Whoever comes later finds it set, waits for the mutex, and gets the new
    snapshot; the images that the former one needs may be forgotten already.
    """

    is_coherent = True
    """Whether the head file shows at once what other processes write to it."""

    def __init__(
        self,
        volume: VolumeId,
        directory: Path,
        catalog: Catalog,
        remote_view: Callable[[LogId, RemoteLsn], RemoteView],
        *,
        writable: bool = True,
        maps: bool = True,
        counts: CommitCounts | None = None,
    ) -> None:
        """Open the volume and recover its log; raises CorruptLogError, LocalStorageError.

        Without `maps` its files are read and written by calls alone. Space that earlier processes
        left is given back, if no process writes now.
        """
        self.id = volume
        self.directory = directory
        self.catalog = catalog
        self.counts = counts or CommitCounts()
        self.writable = writable
        self.maps = maps
        self.mutex = threading.RLock()
        self.pins: set[Pin] = set()
        self._remote_view = remote_view
        self._head = HeadFile(directory / "head", writable=writable, maps=maps)
        self.words = self._head.words
        self._boot = head.boot_number()
        self._epoch = 0
        self._end = 0
        self._is_changing = False
        self._is_described = False
        self._compact_at = -1  # Not known yet.
        self._may_be_longer = False
        self._look_at = 0.0
        # Where the last chunk begins, if it was read or written here.
        self._last_chunk: Position | None = None
        self.has_moved = False
        self._locks: WriterLocks
        self._place: Place
        self._mark = b""
        self._check_at = 0.0
        self.log: BranchLog
        self.snapshot: Snapshot
        self._load()
        self._tidy()

    # Reading ----------------------------------------------------------------------------------

    def begin(self) -> Snapshot:
        """Return the newest snapshot, with what other processes committed. No I/O if nothing."""
        if monotonic() >= self._look_at:
            self._look()
        words = self.words
        if words[0] != self._end or words[1] != self._epoch or self._is_changing:
            self.refresh()
        return self.snapshot

    @staticmethod
    def look_at(snapshot: Snapshot) -> None:
        """Begin a transaction on a snapshot that may be an old one: look at the files it is in."""
        remote = snapshot.remote
        if monotonic() - remote.looked_at >= LOOK_SECONDS:
            remote.check_files()

    def refresh(self) -> None:
        """Take in what other processes committed or switched."""
        with self.mutex:
            published_end = self.words[head.END]
            if self.words[head.EPOCH] != self._epoch or not self.is_coherent:
                row, branch = self.catalog.current(self.id)
                while row.epoch != self._epoch:
                    try:
                        self._switch(branch, row.epoch)
                    except LocalStorageError:
                        # Another process may have moved the volume on and removed that file.
                        former, (row, branch) = row.epoch, self.catalog.current(self.id)
                        if row.epoch == former:
                            raise
            self._scan_tail()
            self._check_end(published_end)

    def _load(self) -> None:
        with self.mutex:
            self._check_catalog()
            while True:
                row, branch_row = self.catalog.current(self.id)
                published_end = self.words[head.END]
                try:
                    self.log = self._open_log(branch_row)
                except LocalStorageError:
                    # Another process may have moved the volume to another file meanwhile.
                    if self.catalog.volume(self.id).epoch == row.epoch:
                        raise
                    continue
                break
            self._epoch = row.epoch
            self._locks = WriterLocks(self.log.path)
            try:
                self._note_place(self.log)
                self._publish(self._build(branch_row, self.log))
                self._check_end(published_end)
            except BaseException:
                self.log.close()
                raise
            if self.writable and not self.words[head.EPOCH]:
                self.catalog.announce_epoch(self.id, self._announce_first)

    def _check_catalog(self) -> None:
        """Raise CorruptCatalogError if the catalog is older than the volume; see `descriptor`."""
        if self.writable:
            self._describe()
            return
        found = descriptor.read(self.directory)
        branch = self.catalog.current(self.id)[1]
        if found is not None and found.branch.id != branch.id and found.is_newer(branch):
            raise descriptor.older_catalog(found, branch)

    def _describe(self) -> None:
        """Have the descriptor follow the catalog. A disk that refuses is asked again by a writer.

        The common case reads one small file; else the catalog's write lock is taken.
        """
        try:
            found = descriptor.read(self.directory)
        except CorruptLogError:
            found = None
        self._is_described = (
            found is not None and found.branch.id == self.catalog.current(self.id)[1].id
        )
        if not self._is_described:
            try:
                self._write_descriptor()
            except (LocalStorageError, BusyError) as error:
                # Reading goes on, and nothing is committed on a branch that is not described.
                _logger.info("volume %s is not described yet: %s", self.id, error)

    def require_described(self) -> None:
        """Raise LocalStorageError if the descriptor cannot be made to name the current branch."""
        if not self._is_described:
            self._write_descriptor()

    def _write_descriptor(self) -> None:
        self.catalog.describe(self.id, lambda wanted: descriptor.keep(self.directory, wanted))
        self._is_described = True

    def _announce_first(self, epoch: int) -> None:
        if not self.words[head.EPOCH]:
            self.words[head.EPOCH] = epoch

    def _open_log(self, branch: BranchRow) -> BranchLog:
        path = self.directory / branch.file
        return BranchLog(path, volume=self.id, writable=self.writable, maps=self.maps)

    def _note_place(self, log: BranchLog) -> None:
        self._place = Place(log.path, log.file_number, self._head)
        self._mark = self._place.mark

    def _switch(
        self, row: BranchRow, epoch: int, reserved: dict[WriterLock, OpenFile] | None = None
    ) -> None:
        """Follow to a branch; its content may be the same or not.

        `reserved` is for the handle that has the writer lock, if this process switches files.
        """
        log = self.log if row.file == self.log.path.name else self._open_log(row)
        # Ordering: the view first. If it cannot be had, the next transaction tries again.
        try:
            snapshot = self._build(row, log)
        except BaseException:
            if log is not self.log:
                log.close()
            raise
        if log is not self.log:
            # Ordering: the locks first. Who has one of a former file must not write to this one.
            self._locks.follow(log.path, reserved or {})
            self._note_place(log)
            self.log = log
        if self.writable:
            self._describe()
        # Ordering: the epoch last. Whoever finds the new one takes the snapshot without the mutex.
        self._publish(snapshot)
        self._epoch = epoch

    def _build(self, row: BranchRow, log: BranchLog) -> Snapshot:
        """Return the newest view of a branch, by reading its part of the log.

        Images behind the last chunk that found everything durable before it are proved here; the
        ones before it when they are read first.
        """
        remote = self._remote_view(row.log, row.base)
        # A view that others have read from: the last look was at the files of another one.
        remote.check_files()
        branch = Branch(row, log, self.mutex)
        before, end, lsn = None, row.start, LocalLsn(row.first_lsn - 1)
        page_size, page_count, counter = remote.page_size, remote.page_count, row.counter
        for chunks, proved_from in _by_durability(log.transactions(row.start, row.first_lsn)):
            late = [chunk for chunk in chunks if chunk.images >= proved_from]
            if not all(map(log.images_are_sound, late)):
                _logger.info(
                    "volume %s: LSN %d, which was never durable, is not whole and left out",
                    self.id,
                    lsn + 1,
                )
                break
            for chunk in chunks:
                if chunk.images < proved_from:
                    branch.apply_unproved(chunk)
                else:
                    branch.apply(chunk.pages, chunk.images, chunk.page_size)
            last = chunks[-1]
            before, end, lsn, page_size = last.before, last.after, last.lsn, last.page_size
            page_count, counter = last.page_count, last.change_counter
        following = LocalLsn(lsn + 1)
        is_run_missing = log.begins_with_run(row.start) and lsn < row.first_lsn
        if is_run_missing or (
            log.damaged_before(end, following) and not _follows(log, end, following)
        ):
            raise self._damage(log, end.offset)
        self._last_chunk = before
        _logger.debug("volume %s: branch %s read up to LSN %d", self.id, row.id, lsn)
        return Snapshot(branch, remote, end, lsn, page_size, page_count, counter)

    def _scan_tail(self) -> None:
        """Apply the transactions that others appended behind the end known here."""
        snapshot = self.snapshot
        branch = snapshot.branch
        for chunks in self.log.transactions(snapshot.end, LocalLsn(snapshot.lsn + 1)):
            if not all(self.log.images_are_sound(chunk) for chunk in chunks):
                break
            self._apply_foreign(branch, chunks)
            snapshot = self.snapshot

    def _apply_foreign(self, branch: Branch, chunks: list[Chunk]) -> None:
        self._is_changing = True
        for chunk in chunks:
            if self.pins:
                branch.keep_history(chunk.pages)
            branch.apply(chunk.pages, chunk.images, chunk.page_size)
        if branch.has_long_history():
            self._forget_history(branch)
        last = chunks[-1]
        self._last_chunk = last.before
        self._publish(
            Snapshot(
                branch,
                self.snapshot.remote,
                last.after,
                last.lsn,
                last.page_size,
                last.page_count,
                last.change_counter,
            )
        )
        self._is_changing = False

    def _forget_history(self, branch: Branch) -> None:
        """Forget superseded images that are older than every open snapshot.

        Whoever is between its pin and its snapshot still shows its former one, or none.
        """
        snapshots = [pin.snapshot for pin in list(self.pins)]
        if all(snapshot is not None and snapshot.branch is branch for snapshot in snapshots):
            ends = [snapshot.end.offset for snapshot in snapshots if snapshot is not None]
            branch.forget_history(min(ends, default=self._end))

    def _publish(self, snapshot: Snapshot) -> None:
        if self._compact_at < 0 or snapshot.branch is not self.snapshot.branch:
            pages = min(len(snapshot.branch.index), snapshot.page_count)
            self._compact_at = rotation.due_at(snapshot, pages)
        self.snapshot = snapshot
        self._end = snapshot.end.offset

    def _check_end(self, published_end: int) -> None:
        """Raise CorruptLogError if a commit that was published in this boot cannot be read."""
        if (
            published_end > self._end
            and self._boot
            and self.words[head.BOOT] == self._boot
            and self.words[head.EPOCH] == self._epoch
            and self.words[head.END] == published_end
        ):
            if self.writable:
                self._check_paths()
            raise self._damage(self.log, self._end)

    @staticmethod
    def _damage(log: BranchLog, offset: int) -> CorruptLogError:
        return CorruptLogError(
            f"{log.path.name}: a committed transaction at byte {offset} is damaged",
            next_step=_SYNC_STEP,
        )

    def _look(self) -> None:
        """Look whether another program has cut the files that are mapped.

        The page cache forgets one that was cut; CorruptLogError is raised for the log and the head.
        Another process of ours changes the length, too, and never below the newest commit.
        """
        if not self._head.is_whole():
            raise CorruptLogError(
                f"{self.directory / 'head'} was cut or replaced by another program",
                next_step="end all processes that have the volume open, and open it again; nothing "
                "that was committed is lost",
            )
        snapshot = self.snapshot
        log = snapshot.branch.log
        size = log.size_bytes()
        if size < snapshot.end.offset:
            raise CorruptLogError(
                f"{log.path.name} has {size} bytes and had {snapshot.end.offset}: another program "
                "has cut it",
                next_step=_SYNC_STEP,
            )
        if size != log.capacity:
            log.capacity = size
            # Extended for a commit, or for what a process spilled that was killed then.
            self._may_be_longer = True
        snapshot.remote.check_files()
        # Ordering: last, so that whoever tries again at once after an error gets it again.
        self._look_at = monotonic() + LOOK_SECONDS

    @contextlib.contextmanager
    def pinned(self) -> Iterator[Snapshot]:
        """Hold the newest snapshot inside the block, whatever is committed meanwhile."""
        pin = _Pin()
        self.pins.add(pin)
        try:
            pin.snapshot = self.begin()
            yield pin.snapshot
        finally:
            self.pins.discard(pin)

    # Branches ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, *, timeout_seconds: float = _WRITER_TIMEOUT_SECONDS) -> Iterator[Snapshot]:
        """Hold the writer lock inside the block; nobody else changes the content meanwhile."""
        lock = self.try_writing(timeout_seconds=timeout_seconds)
        if lock is None:
            raise WriterBusyError(
                "another connection is writing to the volume",
                next_step="end its transaction and try again",
            )
        try:
            self.require_described()
            yield self.snapshot
        finally:
            lock.close()

    def try_writing(self, *, timeout_seconds: float = 0.0) -> WriterLock | None:
        """Return a held writer lock, or None if another connection writes until the timeout.

        `snapshot` is the newest one then. Raises what `begin` raises, and MovedError.
        """
        lock = self.open_writer_lock()
        try:
            while lock.acquire_within(timeout_seconds):
                if self._catch_up(lock):
                    self._renew_mark()
                    return lock
                lock.release()
        except BaseException:
            lock.close()
            raise
        return None

    def switch_branch(
        self,
        row: BranchRow,
        *,
        expected: LogId,
        synced: tuple[int, int] | None,
        settled_push: bool = False,
        unless_pending: bool = False,
    ) -> bool:
        """Make `row` the current branch if `expected` still is; durable on return.

        With `unless_pending` it is not if a push waits to be settled. The caller holds the writer
        lock if content or file change. Ordering: see the head file.
        """
        epoch = new_epoch()
        reserved: dict[WriterLock, OpenFile] = {}

        def announce() -> None:
            nonlocal reserved
            if row.file != self.log.path.name:
                reserved = self._locks.reserve(self.directory / row.file)
                self.words[head.END] = 0
            self.words[head.EPOCH] = epoch

        with self.mutex:
            if not self.catalog.switch_branch(
                self.id,
                row,
                expected=expected,
                epoch=epoch,
                synced=synced,
                settled_push=settled_push,
                unless_pending=unless_pending,
                announce=announce,
            ):
                self.refresh()
                return False
            old_file = self.log.path
            self._switch(row, epoch, reserved)
            if self.log.path != old_file:
                self._publish_words(self._end)
                # Readers of the old file have it open. All that it held is on the remote, or in
                # the new file; but while the descriptor names the old one, it is kept.
                if self._is_described:
                    old_file.unlink(missing_ok=True)
            return True

    def new_log_file(self, *, folded: bool = False) -> BranchLog:
        """Make the next branch log file, empty; `folded` if it is to begin with a folded run."""
        number = int(self.log.path.stem) + 1
        path = self.directory / f"{number:04d}.log"
        return BranchLog.create(
            path, volume=self.id, folded=folded, maps=self.maps, replaces=self.log.path
        )

    def write_pages(
        self, snapshot: Snapshot, pages: Iterable[tuple[int, bytes]], *, page_count: int
    ) -> Snapshot:
        """Commit pages as one transaction; the caller holds the writer lock since `snapshot`.

        Durable on return.
        """
        transaction = Transaction(self, snapshot)
        for page, image in pages:
            if not transaction.page_size:
                transaction.set_page_size(len(image))
            transaction.staged[page] = image
            if len(transaction.staged) >= transaction.staged_max:
                transaction.spill()
        transaction.page_count = page_count
        return transaction.commit(FULL)

    def sync(self) -> None:
        """Make what was committed durable."""
        with self.mutex:
            if self.writable and self._end > self.log.durable:
                self.log.sync(self._end)

    def close(self) -> None:
        """Make what was committed durable and close the log; compacts it first if that is due."""
        self._tidy()
        with self.mutex:
            self.sync()
            self.log.close()

    # Space ------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Give back what dead images and ended processes hold, if no process writes now.

        An error is logged: a caller that opens or closes a volume did not ask for this.
        """
        if not self.writable:
            return
        try:
            if not (self._is_compaction_due() or self._has_leftovers()):
                return
            lock = self.try_writing()
            if lock is None:
                return
            try:
                # A process that was killed may have committed and not said so.
                self.refresh()
                if self.words[head.WRITING]:
                    self._publish_words(self._end)
                rotation.remove_unused_files(self)
                self.give_back()
                self.reclaim()
            finally:
                lock.close()
        except GraftError as error:
            _logger.warning("volume %s: no space could be given back: %s", self.id, error)

    def _is_compaction_due(self) -> bool:
        return self._end > self._compact_at

    def _has_leftovers(self) -> bool:
        """Return True if the log or its directory holds what no commit needs."""
        if self.log.is_longer_than_needed(self._end):
            return True
        with storage_errors(self.directory):
            names = os.listdir(self.directory)  # noqa: PTH208 - a Path costs four times as much
        current = self.log.path.name
        return any(
            name[0].isdigit() and name.endswith(".log") and name != current for name in names
        )

    def expect_leftovers(self) -> None:
        """Have the next writer give back what this one leaves: it writes before it commits."""
        self._may_be_longer = True

    def expect_dead_pages(self) -> None:
        """Have the next writer ask whether a compaction is due: the database becomes smaller."""
        self._compact_at = 0

    def give_back(self) -> None:
        """Give back what an abandoned transaction wrote; the caller holds the writer lock."""
        with self.mutex:
            self._renew_mark()
            self.log.give_back(self._end)
            self._may_be_longer = False

    def reclaim(self) -> None:
        """Give back unused space, and compact the branch file if little of it is alive.

        The caller holds the writer lock, and has written nothing since. Raises GraftError if the
        newest snapshot cannot be had afterwards.
        """
        if self._may_be_longer:
            self.give_back()
        if self._is_compaction_due():
            self._renew_mark()
            self._compact_at = rotation.compact(self)
            self.begin()

    # Writing ----------------------------------------------------------------------------------

    def open_writer_lock(self) -> WriterLock:
        """Return a new handle on the writer lock, not held."""
        self.catalog.require_writable()
        with self.mutex:
            self.begin()
            while True:
                path = self.log.path
                try:
                    return self._locks.open()
                except LocalStorageError:
                    # Another process may have moved the volume to another file meanwhile.
                    self.refresh()
                    if self.log.path == path:
                        raise

    def begin_write(self, snapshot: Snapshot, lock: WriterLock) -> Transaction:
        """Take the writer lock for a transaction that has read `snapshot`.

        Raises WriterBusyError if somebody else writes, StaleSnapshotError if the content has moved
        since; the lock is not held then.
        """
        words = self.words
        while True:
            if not lock.acquire():
                raise WriterBusyError(
                    "another connection is writing to the volume",
                    next_step="end its transaction and try again, or set a busy timeout",
                )
            try:
                if (
                    words[4]
                    or words[0] != self._end
                    or words[1] != self._epoch
                    or lock.held is not lock.current
                ) and not self._catch_up(lock):
                    lock.release()
                    continue
                if self._may_be_longer or self._end > self._compact_at:
                    self.reclaim()
                newest = self.snapshot
                if not self._is_described:
                    self._write_descriptor()
                if newest.counter != snapshot.counter:
                    raise StaleSnapshotError(
                        "the volume has moved since this transaction began to read",
                        next_step="roll back and run the transaction again",
                    )
                return Transaction(self, newest)
            except BaseException:
                lock.release()
                raise

    def keep_writers_out(self, lock: WriterLock) -> None:
        """Take the writer lock for a connection that only reads as yet.

        Raises WriterBusyError if another connection has it, and MovedError; it is not held then.
        """
        while lock.acquire():
            try:
                if self._catch_up(lock):
                    return
            except BaseException:
                lock.release()
                raise
            lock.release()
        raise WriterBusyError(
            "another connection is writing to the volume, or has it for itself",
            next_step="end its transaction and leave its locking_mode=EXCLUSIVE, then try again",
        )

    def _catch_up(self, lock: WriterLock) -> bool:
        """Know the newest commit, under the writer lock; False if it is of a former branch file.

        Raises MovedError if the end of the log is not what this process knows.
        """
        is_interrupted = self.words[head.WRITING]
        self.refresh()
        if not lock.is_current:
            return False
        end = self.snapshot.end
        if self._last_chunk is not None:
            chunk = self.log.read_chunk(self._last_chunk)
            if chunk is None or chunk.after != end:
                self.has_moved = True
                raise MovedError(
                    f"{self.log.path} was overwritten while it was open here: the newest commit "
                    "is not there any more; nothing was written",
                    next_step="close this connection and open it again",
                )
        if is_interrupted:
            # A process died between writing a commit and publishing it: only the log knows.
            _logger.info("volume %s: recovered up to LSN %d", self.id, self.snapshot.lsn)
        if is_interrupted or self.words[head.END] != end.offset:
            self._publish_words(end.offset)
        return True

    def check_place(self) -> None:
        """Be sure that what a transaction writes to the log next is what other processes find.

        The caller holds the writer lock. Raises MovedError if the files are not what stands at
        their paths, or if a commit came that the head file did not tell of.
        """
        if self._renew_mark():
            raise MovedError(
                f"the files of volume {self.id} were replaced while they were open here, and "
                "another process has committed since; nothing was written",
                next_step="roll back and run the transaction again",
            )

    def check_mark(self, lsn: int = 1) -> None:
        """Check the place if that is due; before anything is written past the newest commit.

        Raises what `check_place` raises.
        """
        if not (lsn & CHECK_MASK and access(self._mark, F_OK)):
            self.check_place()
        elif monotonic() >= self._check_at:
            self._check_paths(with_head=False)

    def _renew_mark(self) -> bool:
        """Check the place and leave a mark; True if that brought commits that were not known."""
        with self.mutex:
            self._check_paths()
            known = self.snapshot
            if self._place.leave_mark():
                self._scan_tail()
            return self.snapshot is not known

    def _check_paths(self, *, with_head: bool = True) -> None:
        try:
            self._place.check(with_head=with_head)
        except MovedError:
            self.has_moved = True
            raise
        self._check_at = monotonic() + CHECK_SECONDS

    def commit(
        self, transaction: Transaction, counter: int, first_page: FirstPage | None, durability: int
    ) -> Snapshot:
        """Append the last chunk of a transaction and publish it; see Transaction.commit.

        `first_page` is page 1 after the commit, if known. The caller holds the writer lock. What
        interrupts it (a signal's handler may raise at any call) is raised when the commit has been
        finished or undone: see `settle_commit`.
        """
        staged, spilled, begin = transaction.staged, transaction.spilled, transaction.end
        page_size, page_count = transaction.page_size, transaction.page_count
        log = self.log
        words = self.words
        with self.mutex:
            current = self.snapshot
            branch = current.branch
            # To call the type LocalLsn costs more than the addition.
            lsn: LocalLsn = current.lsn + 1  # type: ignore[assignment]
            is_sure = lsn & CHECK_MASK and access(self._mark, F_OK) and monotonic() < self._check_at
            if not (is_sure or transaction.is_written):
                self.check_mark(lsn)
            try:
                words[4] = 1
                full = durability >= FULL
                first_image, end = log.append(
                    begin, lsn, staged, staged.values(), page_size, (page_count, counter), full
                )
                end_offset = end[0]
                if durability and end_offset - log.durable > SYNC_INTERVAL_BYTES:
                    log.sync(end_offset)
                self._is_changing = True
                if len(self.pins) > 1:
                    if branch.has_long_history():
                        self._forget_history(branch)
                    branch.keep_history(staged)
                    branch.keep_history(spilled)
                elif branch.history:
                    branch.clear_history()
                if spilled:
                    branch.index.update(spilled)
                    self.counts.spilled += 1
                self.counts.commits += 1
                branch.apply(staged, first_image, page_size)
                snapshot = Snapshot(
                    branch, current.remote, end, lsn, page_size, page_count, counter, first_page
                )
                self._last_chunk = begin
                self.snapshot = snapshot
                self._end = end_offset
                if words[3] != self._boot:  # A load costs half as much as a store.
                    words[3] = self._boot
                self._is_changing = False
                words[0] = end_offset
                words[4] = 0
            except LocalStorageError:
                # The caller will report a failed transaction, so nobody may find it in the log.
                log.erase(begin)
                words[4] = 0
                self.give_back()
                raise
            except BaseException:
                self.settle_commit(transaction, durability)
                raise
        return snapshot

    def settle_commit(self, transaction: Transaction, durability: int) -> bool:
        """Finish or undo a commit that an exception ended; return True if it is committed.

        It is finished if its chunk is whole in the log: another process may have seen it there. The
        caller holds the writer lock. Safe to repeat. Raises LocalStorageError.
        """
        with self.mutex:
            before = transaction.snapshot.lsn
            if self.snapshot.lsn == before:
                self._scan_tail()
            is_committed = self.snapshot.lsn != before
            if not is_committed:
                if self.log.read_chunk(transaction.end) is not None:
                    self.log.erase(transaction.end)
                self.words[head.WRITING] = 0
            else:
                self._publish(self.snapshot)
                self._is_changing = False
                if durability >= FULL:
                    self.log.sync(self._end)
                self._publish_words(self._end)
        return is_committed

    def _publish_words(self, end: int) -> None:
        self.words[head.BOOT] = self._boot
        self.words[head.END] = end
        self.words[head.WRITING] = 0


def _by_durability(transactions: Iterable[list[Chunk]]) -> Iterator[tuple[list[Chunk], int]]:
    """Yield each transaction with an offset below which all images were durable.

    Only the transactions since the last chunk that says so are in memory at a time.
    """
    waiting: list[list[Chunk]] = []
    proved_from = 0
    for chunks in transactions:
        marks = [chunk.images for chunk in chunks if chunk.flags & DURABLE_BEFORE]
        if marks:
            proved_from = marks[-1]
            yield from ((each, proved_from) for each in waiting)
            waiting = []
        waiting.append(chunks)
    yield from ((each, proved_from) for each in waiting)


def _follows(log: BranchLog, position: Position, lsn: LocalLsn) -> bool:
    """Tell whether a sound transaction stands at `position` by now: another process wrote it."""
    chunks = next(log.transactions(position, lsn), None)
    return chunks is not None and all(log.images_are_sound(chunk) for chunk in chunks)
