"""The ancestors of a forked log: reads each one up to its fork point.

One round trip per generation finds the chain of parents, with two concurrent requests: the commit
at the fork point, which verifies the parent, and LSN 1, which names the next parent. Then all other
commits are read concurrently, 32 at a time, each once.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from graft_vfs.errors import CorruptObjectError
from graft_vfs.format.commit import HEAD_BYTES, NO_HASH, CommitHeader
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.commit_reader import CommitRecord, Place, read_commits
from graft_vfs.remote.log import RemoteLog, check_chain, commit_key
from graft_vfs.reports import Progress
from graft_vfs.sync.headers import require_header
from graft_vfs.sync.proof import told_from_damage
from graft_vfs.sync.tables import jump
from graft_vfs.view.logs import Logs

GENERATIONS_MAX = 10_000
"""The maximum number of generations; each costs a round trip."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A log that another one was forked from: needed up to LSN `end`, which is verified.

    The catalog has its commits up to `known`, whose hash is `known_hash`. `kept` are commits that
    were read to find the chain of parents, unless they are large.
    """

    log: RemoteLog
    end: RemoteLsn
    known: RemoteLsn
    known_hash: bytes
    kept: dict[RemoteLsn, CommitRecord]

    def lsns(self) -> Iterator[RemoteLsn]:
        """Yield the LSNs to fetch."""
        return map(RemoteLsn, range(self.known + 1, self.end + 1))

    def places(self) -> Iterator[Place]:
        """Yield the places of the commits that remain to be read."""
        return (self.log.place(lsn) for lsn in self.lsns() if lsn not in self.kept)

    def records(self, read: Iterator[CommitRecord | None]) -> Iterator[CommitRecord]:
        """Yield all commits in order, with a verified chain."""
        previous_hash = self.known_hash if self.known else None
        for lsn in self.lsns():
            record = self.kept.get(lsn) or next(read)
            if record is None:
                raise self.log.gap(lsn)
            check_chain(record.header, previous_hash, key=commit_key(self.log.log_id, lsn))
            previous_hash = record.header.hash
            yield record


def read_parents(
    logs: Logs, fork: CommitHeader, progress: Progress | None = None
) -> Iterator[tuple[Parent, Iterator[CommitRecord]]]:
    """Yield the parents of a forked log, oldest first, each with its commits to fetch.

    `fork` is LSN 1 of the forked log. The caller must consume a parent's commits before it requests
    the next parent. If it stores them in this order, every log with a known LSN 1 has known
    ancestors. `progress` counts commits. Raises CorruptObjectError if a parent has changed since
    the fork, or if the chain is endless; HistoryMismatchError if the remote's history of a parent
    differs from the known one; StoreError.
    """
    line = [*_line_of_parents(logs, fork)]
    line.reverse()
    total, done = sum(parent.end - parent.known for parent in line), 0
    read = _read(line)
    for parent in line:
        records = _told_from_damage(logs, parent, parent.records(read))
        yield parent, _counted(records, done, total, progress)
        done += parent.end - parent.known


def _read(line: list[Parent]) -> Iterator[CommitRecord | None]:
    """Read the commits of parents in their order, those of one remote after another together."""
    for store, parents in itertools.groupby(line, key=lambda parent: parent.log.store):
        yield from read_commits(store, (place for each in parents for place in each.places()))


def _told_from_damage(
    logs: Logs, parent: Parent, records: Iterator[CommitRecord]
) -> Iterator[CommitRecord]:
    """Yield a parent's commits; the remote's history may differ from the known one."""
    with told_from_damage(logs, parent.log.log_id) if parent.known else contextlib.nullcontext():
        yield from records


def _counted(
    records: Iterable[CommitRecord], done: int, total: int, progress: Progress | None
) -> Iterator[CommitRecord]:
    for number, record in enumerate(records, done + 1):
        if progress is not None:
            progress(number, total)
        yield record


def _line_of_parents(logs: Logs, fork: CommitHeader) -> Iterator[Parent]:
    """Yield the unknown parents of a fork, youngest first."""
    seen = {fork.log_id}
    child: CommitHeader | None = fork
    while child is not None and child.parent_log is not None:
        if child.parent_log in seen or len(seen) > GENERATIONS_MAX:
            raise _endless(fork)
        seen.add(child.parent_log)
        if logs.can_view(child.parent_log, child.parent_lsn):
            with told_from_damage(logs, child.parent_log):
                _check_fork(child, require_header(logs, child.parent_log, child.parent_lsn))
            return
        known, known_hash = logs.catalog.newest_commit(child.parent_log)
        if known >= child.parent_lsn:
            # It is known from a later table on.
            known, known_hash = NO_LSN, NO_HASH
        logs.remotes.inherit(child.parent_log, fork.log_id)
        log = logs.log(child.parent_log)
        proof = next(iter(jump(logs, child.parent_log, known, child.parent_lsn)), None)
        # If a table or LSN 1 is known, so are the parent's own parents.
        is_enough = known or proof is not None or child.parent_lsn == 1
        lsns = [child.parent_lsn] if is_enough else [child.parent_lsn, 1]
        records = [*read_commits(log.store, map(log.place, map(RemoteLsn, lsns)))]
        if proof is None and records[0] is not None and records[0].header.grace_seconds:
            # The retention of the parent may have deleted commits before the fork point.
            found = jump(logs, child.parent_log, known, child.parent_lsn, is_needed=True)
            proof = next(iter(found), None)
        first = None if known or proof or records[-1] is None else records[-1].header
        if first is not None and first.parent_log in seen:
            raise _endless(fork)
        _check_fork(child, None if records[0] is None else records[0].header)
        if first is None and not (known or proof):
            raise log.gap(RemoteLsn(1))
        kept = {
            record.header.lsn: replace(record, behind=b"")
            for record in (*records, proof)
            if record is not None and record.header_length <= HEAD_BYTES
        }
        if proof is not None:
            known, known_hash = RemoteLsn(proof.header.lsn - 1), proof.header.previous_hash
        yield Parent(log, child.parent_lsn, known, known_hash, kept)
        child = first


def _endless(fork: CommitHeader) -> CorruptObjectError:
    return CorruptObjectError(
        f"log {fork.log_id} claims to be forked from itself, or through more than "
        f"{GENERATIONS_MAX} logs",
        next_step="check who else writes to the remote, or clone another log",
    )


def _check_fork(child: CommitHeader, parent: CommitHeader | None) -> None:
    """Raise unless `parent` is the commit that `child` was forked from."""
    if parent is None or parent.hash != child.previous_hash:
        raise CorruptObjectError(
            f"log {child.log_id} was forked from {child.parent_log}:{child.parent_lsn}, "
            "which has changed on the remote since",
            next_step="restore the objects of the parent log",
        )
