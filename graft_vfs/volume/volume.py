"""A volume: one database on this machine, with commits on its current branch.

A commit is the write of one chunk. After a crash before it, nothing is committed; after a crash
past it, every process finds the commit in the log, even if the head file does not announce it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from os import F_OK, access
from time import monotonic

from graft_vfs.errors import (
    GraftError,
    LocalStorageError,
    StaleSnapshotError,
    WriterBusyError,
)
from graft_vfs.local import layout
from graft_vfs.local.branch_file import CHECK_MASK, WriterLock
from graft_vfs.local.branch_log import SYNC_INTERVAL_BYTES
from graft_vfs.local.files import storage_errors
from graft_vfs.local.head import BOOT, END, EPOCH, WRITING
from graft_vfs.pages import LocalLsn
from graft_vfs.sqlite_format.header import FirstPage
from graft_vfs.volume import rotation
from graft_vfs.volume.current_branch import CurrentBranch
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.switching import remove_unused_files
from graft_vfs.volume.transaction import FULL, Transaction

_logger = logging.getLogger(__name__)


class Volume(CurrentBranch):
    """One open volume: its current branch, transactions, and the release of space.

    Opening it releases the space that earlier processes left, if no process is writing.

    Owner: the engine, which has one per volume id. Thread rule: any thread.
    """

    _compact_at = -1  # Unknown so far.

    def _load(self) -> None:
        super()._load()
        self._tidy()

    # Writing ----------------------------------------------------------------------------------

    def begin_write(self, snapshot: Snapshot, lock: WriterLock) -> Transaction:
        """Take the writer lock for a transaction that has read `snapshot`.

        Raises WriterBusyError if another connection writes, StaleSnapshotError if the content has
        changed since; the lock is then not held.
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
                    words[WRITING]
                    or words[END] != self._end
                    or words[EPOCH] != self._epoch
                    or lock.held is not lock.current
                ) and not self._catch_up(lock):
                    lock.release()
                    continue
                if self._may_be_longer or self._end > self._compact_at:
                    self.reclaim()
                newest = self.snapshot
                if not self.description.is_current:
                    self.description.require()
                if newest.counter != snapshot.counter:
                    raise StaleSnapshotError(
                        "the volume has changed since this transaction's first read",
                        next_step="roll back and run the transaction again",
                    )
                return Transaction(self, newest)
            except BaseException:
                lock.release()
                raise

    def commit(
        self, transaction: Transaction, counter: int, first_page: FirstPage | None, durability: int
    ) -> Snapshot:
        """Append the last chunk of a transaction and publish it; see Transaction.commit.

        `first_page` is page 1 after the commit, if known. The caller holds the writer lock. If an
        exception interrupts it (a signal handler may raise at any call), the commit is first
        completed or undone, then the exception is raised: see `settle_commit`.
        """
        staged, spilled, begin = transaction.staged, transaction.spilled, transaction.end
        page_size, page_count = transaction.page_size, transaction.page_count
        branch_log = self.branch_log
        words = self.words
        with self.mutex:
            current = self.snapshot
            branch = current.branch
            # Calling the type LocalLsn costs more than the addition.
            lsn: LocalLsn = current.lsn + 1  # type: ignore[assignment]
            is_sure = lsn & CHECK_MASK and access(self._mark, F_OK) and monotonic() < self._check_at
            if not (is_sure or transaction.is_written):
                self.check_mark(lsn)
            try:
                words[WRITING] = 1
                full = durability >= FULL
                first_image, end = branch_log.append(
                    begin, lsn, staged, staged.values(), page_size, (page_count, counter), full
                )
                end_offset = end[0]
                if durability and end_offset - branch_log.durable > SYNC_INTERVAL_BYTES:
                    branch_log.sync(end_offset)
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
                if words[BOOT] != self._boot:  # A load costs half as much as a store.
                    words[BOOT] = self._boot
                self._is_changing = False
                words[END] = end_offset
                words[WRITING] = 0
            except LocalStorageError:
                # The caller will report a failure, so no reader may find the transaction in the
                # log.
                branch_log.erase(begin)
                words[WRITING] = 0
                self.give_back()
                raise
            except BaseException:
                self.settle_commit(transaction, durability)
                raise
        return snapshot

    def settle_commit(self, transaction: Transaction, durability: int) -> bool:
        """Complete or undo a commit that an exception interrupted; return True if it is committed.

        It is completed if its chunk is complete in the log, because another process may have seen
        it. The caller holds the writer lock. Idempotent. Raises LocalStorageError.
        """
        with self.mutex:
            before = transaction.snapshot.lsn
            if self.snapshot.lsn == before:
                self._scan_tail()
            is_committed = self.snapshot.lsn != before
            if not is_committed:
                if self.branch_log.read_chunk(transaction.end) is not None:
                    self.branch_log.erase(transaction.end)
                self.words[WRITING] = 0
            else:
                self._publish(self.snapshot)
                self._is_changing = False
                if durability >= FULL:
                    self.branch_log.sync(self._end)
                self._publish_words(self._end)
        return is_committed

    def write_pages(
        self, snapshot: Snapshot, pages: Iterable[tuple[int, bytes]], *, page_count: int
    ) -> Snapshot:
        """Commit pages as one transaction; the caller holds the writer lock since `snapshot`.

        Durable on return. If nothing changes there is no commit, and `snapshot` is returned, which
        is made durable. Raises what `pages` raises, and LocalStorageError; the volume is as before
        then.
        """
        transaction = Transaction(self, snapshot)
        # A pin of its own, as a connection has: a commit keeps history if there is another one.
        with self.pinned():
            try:
                for page, image in pages:
                    if not transaction.page_size:
                        transaction.set_page_size(len(image))
                    transaction.staged[page] = image
                    if len(transaction.staged) >= transaction.staged_max:
                        transaction.spill()
                if page_count < snapshot.page_count:
                    self.expect_dead_pages()
                transaction.page_count = page_count
                if not transaction.is_empty():
                    return transaction.commit(FULL)
            except BaseException:
                transaction.abandon()
                raise
        # The callers say that the volume has this content: so it must not be lost any more.
        self.sync()
        return snapshot

    def sync(self) -> None:
        """Make all commits durable."""
        with self.mutex:
            if self.writable and self._end > self.branch_log.durable:
                self.branch_log.sync(self._end)

    def close(self) -> None:
        """Make all commits durable and close the log, after compacting it if due."""
        self._tidy()
        with self.mutex:
            self.sync()
            self.branch_log.close()

    # Space ------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Release the space of dead images and ended processes, if no process is writing.

        An error is only logged, because the caller just opens or closes a volume.
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
                # A killed process may have committed without announcing it.
                self.refresh()
                if self.words[WRITING]:
                    self._publish_words(self._end)
                remove_unused_files(self)
                self.give_back()
                self.reclaim()
            finally:
                lock.close()
        except GraftError as error:
            title = self.catalog.title(self.id)
            _logger.warning("%s: no space could be released: %s", title, error)

    def _is_compaction_due(self) -> bool:
        return self._end > self._compact_at

    def _has_leftovers(self) -> bool:
        """Return True if the log or its directory has space that no commit needs."""
        if self.branch_log.is_longer_than_needed(self._end):
            return True
        with storage_errors(self.directory):
            names = os.listdir(self.directory)  # noqa: PTH208 - a Path costs four times as much
        files = set(filter(layout.is_branch_file, names)) - {self.branch_log.path.name}
        return bool(files) and not files <= self.named_files()

    def _publish(self, snapshot: Snapshot) -> None:
        if self._compact_at < 0 or snapshot.branch is not self.snapshot.branch:
            pages = min(len(snapshot.branch.index), snapshot.page_count)
            self._compact_at = rotation.due_at(snapshot, pages)
        super()._publish(snapshot)

    def expect_leftovers(self) -> None:
        """Make the next writer release what this one may leave, as it writes before the commit."""
        self._may_be_longer = True

    def expect_dead_pages(self) -> None:
        """Make the next writer check for a compaction, because the database becomes smaller."""
        self._compact_at = 0

    def give_back(self) -> None:
        """Release what an abandoned transaction wrote; the caller holds the writer lock."""
        with self.mutex:
            self._renew_mark()
            self.branch_log.give_back(self._end)
            self._may_be_longer = False

    def spare_bytes(self) -> int:
        """Return how much `compact` would release; 0 if that is not worth it."""
        file = self.branch_log.path.name
        if [branch.file for branch in self.catalog.branches(self.id)].count(file) > 1:
            return 0  # A kept branch is in the file, which stays.
        with self.pinned() as snapshot:
            return rotation.spare_bytes(snapshot)

    def compact(self) -> bool:
        """Compact the branch file, even if less of it is dead than would cause it.

        False if another connection writes, or if a pending push needs the file. An error is logged.
        """
        lock = self.try_writing() if self.writable else None
        if lock is None:
            return False
        try:
            file = self.branch_log.path
            self._compact_at = rotation.compact(self, on_request=True)
            self.begin()
            return self.branch_log.path != file
        finally:
            lock.close()

    def reclaim(self) -> None:
        """Release unused space, and compact the branch file if most of it is dead.

        The caller holds the writer lock, and has written nothing since. Raises GraftError if the
        newest snapshot is not available afterwards.
        """
        if self._may_be_longer:
            self.give_back()
        if self._is_compaction_due():
            self._renew_mark()
            self._compact_at = rotation.compact(self)
            self.begin()
