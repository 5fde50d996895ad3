"""A volume's current branch as this process knows it, and the snapshot of its newest commit.

Invariants:
 1. `snapshot` is replaced, never changed. If its content is new, so is its counter.
 2. Content changes only under the volume's writer lock. Settling a push changes the branch without
    the lock, because `local 1..k over base` and `the rest over base + 1` have the same content.
 3. Each transaction begins by checking for changes by other processes, in the head file's two
    words.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from os import F_OK, access
from pathlib import Path
from time import monotonic
from typing import Protocol

from graft_vfs.counters import CommitCounts
from graft_vfs.errors import (
    CorruptLogError,
    LocalStorageError,
    MovedError,
    WriterBusyError,
)
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import head, layout
from graft_vfs.local.branch_file import (
    CHECK_MASK,
    CHECK_SECONDS,
    OpenFile,
    Place,
    WriterLock,
    WriterLocks,
)
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.catalog.rows import BranchRow, Departure
from graft_vfs.local.chunk import Chunk, Position
from graft_vfs.local.head import BOOT, END, EPOCH, WRITING, HeadFile, new_epoch
from graft_vfs.pages import LocalLsn, RemoteLsn
from graft_vfs.view.remote_view import RemoteView
from graft_vfs.volume.description import Description
from graft_vfs.volume.page_index import PageIndex
from graft_vfs.volume.recovery import DAMAGE_STEP, damage, read_branch
from graft_vfs.volume.snapshot import Snapshot

_logger = logging.getLogger(__name__)

_WRITER_TIMEOUT_SECONDS = 10.0
LOOK_SECONDS = 0.01
"""A transaction checks the lengths of the mapped files only if the last check is older than this:
in a busy program, checking each time would cost up to a tenth of a transaction."""


class Pin(Protocol):
    """A reader: its snapshot; while it is getting one, its previous snapshot or None."""

    @property
    def snapshot(self) -> Snapshot | None:
        """The reader's snapshot."""
        ...


class _Pin:
    """The pin of a verb."""

    snapshot: Snapshot | None = None


class CurrentBranch:
    """Reads a volume, follows other processes' commits and switches, and switches branches.

    Owner: the engine, as a `Volume`. Thread rule: any thread; `mutex` guards changes of the branch
    and of `snapshot`; readers take `snapshot` without it.

    `pins` counts open snapshots: a reader adds itself before it takes a snapshot, and commits keep
    history while a reader other than the writer is pinned. Ordering: `_is_changing` is set before
    the pins are checked. A later reader finds it set, waits for the mutex, and gets the new
    snapshot, because the images of the previous one may already be forgotten.
    """

    is_coherent = True
    """Whether the head file immediately shows other processes' writes."""

    def __init__(
        self,
        volume: VolumeId,
        directory: Path,
        catalog: Catalog,
        remote_view: Callable[[LogId, RemoteLsn], RemoteView],
        *,
        writable: bool,
        maps: bool,
        counts: CommitCounts,
    ) -> None:
        """Open the branch and recover its log; raises CorruptLogError, LocalStorageError.

        Without `maps` its files are read and written by calls alone. `counts` are those of commits.
        """
        self.id = volume
        self.directory = directory
        self.catalog = catalog
        self.writable = writable
        self.maps = maps
        self.counts = counts
        self.mutex = threading.RLock()
        self.pins: set[Pin] = set()
        self.description = Description(volume, directory, catalog)
        self._remote_view = remote_view
        self._head = HeadFile(directory / layout.HEAD, writable=writable, maps=maps)
        self.words = self._head.words
        self._boot = head.boot_number()
        self._epoch = 0
        self._end = 0
        self._is_changing = False
        self._may_be_longer = False
        self._look_at = 0.0
        # The start of the last chunk, if this process read or wrote it.
        self._last_chunk: Position | None = None
        self.has_moved = False
        self._locks: WriterLocks
        self._place: Place
        self._mark = b""
        self._check_at = 0.0
        self.branch_log: BranchLog
        self.snapshot: Snapshot
        self._load()

    # Reading ----------------------------------------------------------------------------------

    def begin(self) -> Snapshot:
        """Return the newest snapshot, including other processes' commits. No I/O if none."""
        if monotonic() >= self._look_at:
            self._look()
        words = self.words
        if words[END] != self._end or words[EPOCH] != self._epoch or self._is_changing:
            self.refresh()
        return self.snapshot

    @staticmethod
    def look_at(snapshot: Snapshot) -> None:
        """Begin a transaction on a snapshot, which may be an old one: check its files."""
        remote = snapshot.remote
        if monotonic() - remote.looked_at >= LOOK_SECONDS:
            remote.check_files()

    @contextlib.contextmanager
    def pinned(self) -> Iterator[Snapshot]:
        """Pin the newest snapshot inside the block, regardless of later commits."""
        pin = _Pin()
        self.pins.add(pin)
        try:
            pin.snapshot = self.begin()
            yield pin.snapshot
        finally:
            self.pins.discard(pin)

    def refresh(self) -> None:
        """Apply other processes' commits and branch switches."""
        with self.mutex:
            published_end = self.words[END]
            if self.words[EPOCH] != self._epoch or not self.is_coherent:
                row, branch = self.catalog.current(self.id)
                while row.epoch != self._epoch:
                    try:
                        self._switch(branch, row.epoch)
                    except LocalStorageError:
                        # Another process may have switched the volume and removed that file.
                        former, (row, branch) = row.epoch, self.catalog.current(self.id)
                        if row.epoch == former:
                            raise
            self._scan_tail()
            self._check_end(published_end)

    def _load(self) -> None:
        with self.mutex:
            if self.writable:
                self.description.follow()
            else:
                self.description.check()
            while True:
                row, branch_row = self.catalog.current(self.id)
                published_end = self.words[END]
                try:
                    self.branch_log = self._open_log(branch_row)
                except LocalStorageError:
                    # Another process may have moved the volume to another file meanwhile.
                    if self.catalog.volume(self.id).epoch == row.epoch:
                        raise
                    continue
                break
            self._epoch = row.epoch
            self._locks = WriterLocks(self.branch_log.path)
            try:
                self._note_place(self.branch_log)
                self._publish(self._build(branch_row, self.branch_log))
                self._check_end(published_end)
            except BaseException:
                self.branch_log.close()
                raise
            if self.writable and not self.words[EPOCH]:
                self.catalog.announce_epoch(self.id, self._announce_first)

    def _announce_first(self, epoch: int) -> None:
        if not self.words[EPOCH]:
            self.words[EPOCH] = epoch

    def _open_log(self, branch: BranchRow) -> BranchLog:
        path = self.directory / branch.file
        return BranchLog(path, volume=self.id, writable=self.writable, maps=self.maps)

    def _note_place(self, branch_log: BranchLog) -> None:
        self._place = Place(branch_log.path, branch_log.file_number, self._head)
        self._mark = self._place.mark

    def _build(self, row: BranchRow, branch_log: BranchLog) -> Snapshot:
        """Return the newest snapshot of a branch, by reading its part of the log."""
        remote = self._remote_view(row.log_id, row.base)
        # A shared view: the last check was of another view's files.
        remote.check_files()
        snapshot, self._last_chunk = read_branch(row, branch_log, remote, self.mutex)
        return snapshot

    def _scan_tail(self) -> None:
        """Apply the transactions that other processes appended after the known end."""
        snapshot = self.snapshot
        branch = snapshot.branch
        for chunks in self.branch_log.transactions(snapshot.end, LocalLsn(snapshot.lsn + 1)):
            if not all(self.branch_log.images_are_sound(chunk) for chunk in chunks):
                break
            self._apply_foreign(branch, chunks)
            snapshot = self.snapshot

    def _apply_foreign(self, branch: PageIndex, chunks: list[Chunk]) -> None:
        self._is_changing = True
        for chunk in chunks:
            if self.pins:
                branch.keep_history(chunk.pages)
            branch.apply(chunk.pages, chunk.images, chunk.page_size)
        if branch.has_long_history():
            self._forget_history(branch)
        last = chunks[-1]
        self._last_chunk = last.before
        self._publish(Snapshot.after(branch, self.snapshot.remote, last))
        self._is_changing = False

    def _forget_history(self, branch: PageIndex) -> None:
        """Forget superseded images that are older than every open snapshot.

        A reader between its pin and its snapshot still shows its previous one, or none.
        """
        snapshots = [pin.snapshot for pin in list(self.pins)]
        if all(snapshot is not None and snapshot.branch is branch for snapshot in snapshots):
            ends = [snapshot.end.offset for snapshot in snapshots if snapshot is not None]
            branch.forget_history(min(ends, default=self._end))

    def _publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._end = snapshot.end.offset

    def _check_end(self, published_end: int) -> None:
        """Raise CorruptLogError if a commit published during this boot cannot be read."""
        if (
            published_end > self._end
            and self._boot
            and self.words[BOOT] == self._boot
            and self.words[EPOCH] == self._epoch
            and self.words[END] == published_end
        ):
            if self.writable:
                self._check_paths()
            raise damage(self.branch_log, self._end)

    def _look(self) -> None:
        """Check whether another program has truncated the mapped files.

        The page cache forgets a truncated file; for the log and the head, CorruptLogError is
        raised. Other graft-vfs processes change the log's length too, but never truncate commits.
        """
        if not self._head.is_whole():
            raise CorruptLogError(
                f"{self.directory / layout.HEAD} was truncated or replaced by another program",
                next_step="end all processes that have the volume open, and open it again; no "
                "commit is lost",
            )
        snapshot = self.snapshot
        branch_log = snapshot.branch.branch_log
        size = branch_log.size_bytes()
        if size < snapshot.end.offset:
            raise CorruptLogError(
                f"{branch_log.path.name} has {size} bytes and had {snapshot.end.offset}: another "
                "program has truncated it",
                next_step=DAMAGE_STEP,
            )
        if size != branch_log.capacity:
            branch_log.capacity = size
            # Extended for a commit, or for pages that a killed process had spilled.
            self._may_be_longer = True
        snapshot.remote.check_files()
        # Ordering: last, so that an immediate retry after an error gets the error again.
        self._look_at = monotonic() + LOOK_SECONDS

    # The writer lock --------------------------------------------------------------------------

    def open_writer_lock(self) -> WriterLock:
        """Return a new handle without the writer lock."""
        self.catalog.require_writable()
        with self.mutex:
            self.begin()
            while True:
                path = self.branch_log.path
                try:
                    return self._locks.open()
                except LocalStorageError:
                    # Another process may have moved the volume to another file meanwhile.
                    self.refresh()
                    if self.branch_log.path == path:
                        raise

    @contextlib.contextmanager
    def writing(self) -> Iterator[Snapshot]:
        """Hold the writer lock inside the block: no other connection changes the content."""
        lock = self.try_writing(timeout_seconds=_WRITER_TIMEOUT_SECONDS)
        if lock is None:
            raise WriterBusyError(
                "another connection is writing to the volume",
                next_step="end its transaction and try again",
            )
        try:
            self.description.require()
            yield self.snapshot
        finally:
            lock.close()

    def try_writing(self, *, timeout_seconds: float = 0.0) -> WriterLock | None:
        """Return a held writer lock, or None if another connection writes until the timeout.

        `snapshot` is then the newest one. Raises the errors of `begin`, and MovedError.
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

    def keep_writers_out(self, lock: WriterLock) -> None:
        """Take the writer lock for a connection that has only read so far.

        Raises WriterBusyError if another connection has it, and MovedError, without the lock.
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
            "another connection is writing to the volume, or has it in EXCLUSIVE mode",
            next_step="end its transaction, set its locking_mode=NORMAL, then try again",
        )

    def _catch_up(self, lock: WriterLock) -> bool:
        """Read the newest commit, under the writer lock; False if the branch file has changed.

        Raises MovedError if the end of the log is not the one that this process knows.
        """
        is_interrupted = self.words[WRITING]
        self.refresh()
        if not lock.is_current:
            return False
        end = self.snapshot.end
        if self._last_chunk is not None:
            chunk = self.branch_log.read_chunk(self._last_chunk)
            if chunk is None or chunk.after != end:
                self.has_moved = True
                raise MovedError(
                    f"{self.branch_log.path} was overwritten while it was open: the newest "
                    "commit is missing; nothing was written",
                    next_step="close this connection and open it again",
                )
        if is_interrupted:
            # A process died between writing a commit and publishing it: only the log has it.
            _logger.info("volume %s: recovered up to LSN %d", self.id, self.snapshot.lsn)
        if is_interrupted or self.words[END] != end.offset:
            self._publish_words(end.offset)
        return True

    def check_place(self) -> None:
        """Ensure that other processes will find what a transaction writes to the log next.

        The caller holds the writer lock. Raises MovedError if the open files are not those at their
        paths, or if another process has committed without a change of the head file.
        """
        if self._renew_mark():
            raise MovedError(
                f"the files of volume {self.id} were replaced while they were open, and "
                "another process has committed since; nothing was written",
                next_step="roll back and run the transaction again",
            )

    def check_mark(self, lsn: int = 1) -> None:
        """Check the files' places if due, before anything is written past the newest commit.

        Raises the errors of `check_place`.
        """
        if not (lsn & CHECK_MASK and access(self._mark, F_OK)):
            self.check_place()
        elif monotonic() >= self._check_at:
            self._check_paths(with_head=False)

    def _renew_mark(self) -> bool:
        """Check the files' places and set the mark; True if this found unknown commits."""
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

    # Switching --------------------------------------------------------------------------------

    def switch_branch(
        self,
        row: BranchRow,
        *,
        expected: LogId,
        synced: tuple[int, int] | None,
        settled_push: bool = False,
        folded: LocalLsn | None = None,
        departure: Departure | None = None,
    ) -> bool:
        """Make `row` the current branch if `expected` still is; durable on return.

        For `folded` and `departure` see the catalog. The caller holds the writer lock if content or
        file change. Ordering: see the head file.
        """
        epoch = new_epoch()
        reserved: dict[WriterLock, OpenFile] = {}

        def announce() -> None:
            nonlocal reserved
            if row.file != self.branch_log.path.name:
                reserved = self._locks.reserve(self.directory / row.file)
                self.words[END] = 0
            self.words[EPOCH] = epoch

        with self.mutex:
            if not self.catalog.switch_branch(
                self.id,
                row,
                expected=expected,
                epoch=epoch,
                synced=synced,
                settled_push=settled_push,
                folded=folded,
                departure=departure,
                announce=announce,
            ):
                self.refresh()
                return False
            old_file = self.branch_log.path
            self._switch(row, epoch, reserved)
            if self.branch_log.path != old_file:
                self._publish_words(self._end)
                # Readers of the old file have it open. All its commits are on the remote, in the
                # new file, or on kept branches. While the descriptor names the old file, it stays.
                if self.description.is_current and old_file.name not in self.named_files():
                    old_file.unlink(missing_ok=True)
            return True

    def named_files(self) -> set[str]:
        """Return the names of the files that the current branch and kept ones are in."""
        return {branch.file for branch in self.catalog.branches(self.id)}

    def _switch(
        self, row: BranchRow, epoch: int, reserved: dict[WriterLock, OpenFile] | None = None
    ) -> None:
        """Switch this process to a branch, with the same or other content.

        `reserved` is for the handle that has the writer lock, if this process switches files.
        """
        branch_log = (
            self.branch_log if row.file == self.branch_log.path.name else self._open_log(row)
        )
        # Ordering: the view first. If it fails, the next transaction tries again.
        try:
            snapshot = self._build(row, branch_log)
        except BaseException:
            if branch_log is not self.branch_log:
                branch_log.close()
            raise
        if branch_log is not self.branch_log:
            # Ordering: the locks first. A handle that has the old file's lock must not write to
            # this one.
            self._locks.follow(branch_log.path, reserved or {})
            self._note_place(branch_log)
            self.branch_log = branch_log
        if self.writable:
            self.description.follow()
        # Ordering: the epoch last. A reader of the new epoch takes the snapshot without the mutex.
        self._publish(snapshot)
        self._epoch = epoch

    def new_log_file(self, *, folded: bool = False) -> BranchLog:
        """Create the next, empty branch log file; `folded` if it will begin with a folded run."""
        number = layout.number_of(self.branch_log.path.name) + 1
        path = self.directory / layout.branch_file(number)
        return BranchLog.create(
            path, volume=self.id, folded=folded, maps=self.maps, replaces=self.branch_log.path
        )

    def _publish_words(self, end: int) -> None:
        self.words[BOOT] = self._boot
        self.words[END] = end
        self.words[WRITING] = 0
