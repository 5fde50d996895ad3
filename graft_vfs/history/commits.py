"""History: the commits of a volume, local and remote, as people name them and read about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import NotFoundError, UsageError
from graft_vfs.format.commit import TIME_END, CommitHeader, time_ms_of
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.rows import BranchRow
from graft_vfs.local.chunk import Chunk
from graft_vfs.pages import LocalLsn, RemoteLsn, is_lsn_text
from graft_vfs.reports import CommitReport, LogEntry
from graft_vfs.sync.fetch import require_commits
from graft_vfs.times import parse_time
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Opened
from graft_vfs.volume.page_index import PageIndex
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_TIMES_AT_ONCE = 1024


def parse_commit(spec: str, own: LogId | None) -> tuple[LogId, RemoteLsn]:
    """Return the log and the LSN that `log:LSN` names, or `LSN` of the log `own`.

    Raises UsageError, InvalidIdError.
    """
    log_text, _, lsn_text = spec.rpartition(":")
    if not is_lsn_text(lsn_text):
        raise UsageError(f"{spec[:64]!r} names no commit", next_step="write it as LSN or log:LSN")
    if log_text:
        return LogId.parse(log_text), RemoteLsn(int(lsn_text))
    if own is None:
        raise UsageError(f"{spec!r} names no log", next_step="write it as log:LSN")
    return own, RemoteLsn(int(lsn_text))


def commit_named(logs: Logs, spec: str, volume: Volume | None) -> tuple[LogId, RemoteLsn]:
    """Return what `spec` names; an LSN alone is one of the log that the volume pushes to."""
    own = None if volume is None else logs.catalog.volume(volume.id).remote
    return parse_commit(spec, own)


def header_of(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> CommitHeader:
    """Return a commit's header; no request if it is known, else those of a fetch.

    Raises NotFoundError if the log has no such commit.
    """
    require_commits(logs, log_id, lsn)
    header = logs.header(log_id, lsn)
    assert header is not None
    return header


def snapshot_of(volume: Volume, logs: Logs, log_id: LogId, lsn: RemoteLsn) -> Snapshot:
    """Return a known commit as a snapshot of the volume, without local commits. No request."""
    view = logs.view(log_id, lsn)
    row = BranchRow(
        id=LogId.new(),
        volume=volume.id,
        log_id=log_id,
        base=lsn,
        counter=view.change_counter,
        first_lsn=LocalLsn(1),
        file=volume.branch_log.path.name,
        start=volume.branch_log.start,
        created_ms=0,
    )
    return Snapshot(
        PageIndex(row, volume.branch_log),
        view,
        volume.branch_log.start,
        LocalLsn(0),
        view.page_size,
        view.page_count,
        view.change_counter,
    )


def lsn_as_of(logs: Logs, log_id: LogId, time_ms: int) -> RemoteLsn:
    """Return the newest LSN of a log that is dated no later than a time. Requests of a fetch.

    Raises NotFoundError if there was none.
    """
    last = require_commits(logs, log_id, None)
    # Newest first, and each one: a commit of a machine whose clock was wrong may be dated after
    # those that stand on it.
    while last > 0:
        first = RemoteLsn(max(1, last - _TIMES_AT_ONCE + 1))
        for lsn, head in logs.catalog.commit_beginnings(log_id, first, last, TIME_END):
            if time_ms_of(head) <= time_ms:
                return lsn
        last = RemoteLsn(first - 1)
    raise NotFoundError(
        f"log {log_id} had no commit at that time",
        next_step=Hint("see ", Advice.LIST_COMMITS, " for its times"),
    )


def snapshot_at(volume: Volume, logs: Logs, lsn: int | None, as_of: str | None) -> Snapshot:
    """Return the log that a volume pushes to as it was at an LSN, or else at a time."""
    log_id = logs.catalog.volume(volume.id).remote
    if lsn is None:
        found = lsn_as_of(logs, log_id, parse_time(as_of or ""))
    else:
        found = require_commits(logs, log_id, RemoteLsn(lsn))
    return snapshot_of(volume, logs, log_id, found)


# Reports ----------------------------------------------------------------------------------------


def entries(volume: Volume, logs: Logs, limit: int | None) -> list[LogEntry]:
    """Return local commits, then known remote ones, newest first. No request."""
    snapshot = volume.begin()
    branch = snapshot.branch.row
    found = [
        LogEntry(
            "local",
            chunks[-1].lsn,
            chunks[-1].time_ms,
            _page_count(chunks),
            chunks[-1].page_count,
            "",
            commits,
            _image_bytes(chunks),
        )
        for chunks, commits in _local_commits(snapshot)
    ]
    found.reverse()
    log_id, lsn = branch.log_id, branch.base
    while lsn > 0 and (limit is None or len(found) < limit):
        header = logs.header(log_id, lsn)
        if header is None:
            break
        found.append(
            LogEntry(
                "remote",
                lsn,
                header.time_ms,
                len(header.pages),
                header.page_count,
                header.author,
                header.local_commits,
                _stored_bytes(logs, header),
            )
        )
        lsn = RemoteLsn(lsn - 1)
        if header.parent_log is not None:
            log_id, lsn = header.parent_log, header.parent_lsn
    return found[:limit]


def local_commit(volume: Volume, lsn: LocalLsn) -> CommitReport:
    """Describe a commit of the local branch. No request. Raises NotFoundError."""
    snapshot = volume.begin()
    branch = snapshot.branch.row
    for chunks, commits in _local_commits(snapshot):
        last = chunks[-1]
        if last.lsn == lsn:
            break
        if last.lsn - commits < lsn < last.lsn:
            raise NotFoundError(
                f"the local commit {lsn} is one of the {commits} up to {last.lsn} that were rolled "
                "into one when the branch file was compacted",
                next_step=f"use local:{last.lsn}",
            )
    else:
        raise NotFoundError(
            f"the local branch {branch.id} has no commit {lsn}",
            next_step=Hint("see ", Advice.LIST_COMMITS),
        )
    parent = f"{branch.log_id}:{branch.base}" if branch.base else None
    return CommitReport(
        where="local",
        log=branch.id,
        lsn=lsn,
        time_ms=last.time_ms,
        author="",
        parent=f"{branch.id}:{lsn - commits}" if lsn - commits >= branch.first_lsn else parent,
        hash=None,
        local_commits=commits,
        pages=_page_count(chunks),
        page_count=last.page_count,
        page_size=last.page_size,
        frames=0,
        stored_bytes=_image_bytes(chunks),
        segment=None,
    )


def show(opened: Opened, logs: Logs, spec: str | None) -> CommitReport:
    """Describe the commit that `spec` names, or the newest one of a volume."""
    tag, volume = opened
    snapshot = volume.begin()
    branch = snapshot.branch.row
    if spec is None:
        if not branch.base and not snapshot.local_commits:
            raise NotFoundError(f"{tag!r} has no commit yet", next_step="commit something")
        is_local = snapshot.local_commits > 0
        spec = f"local:{snapshot.lsn}" if is_local else f"{branch.log_id}:{branch.base}"
    where, _, lsn_text = spec.rpartition(":")
    if where == "local" and is_lsn_text(lsn_text):
        return local_commit(volume, LocalLsn(int(lsn_text)))
    return remote_commit(logs, *commit_named(logs, spec, volume))


def remote_commit(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> CommitReport:
    """Describe a commit of a remote log; requests and errors of `header_of`."""
    header = header_of(logs, log_id, lsn)
    parent = f"{log_id}:{lsn - 1}" if lsn > 1 else None
    if header.parent_log is not None:
        parent = f"{header.parent_log}:{header.parent_lsn}"
    return CommitReport(
        where="remote",
        log=log_id,
        lsn=lsn,
        time_ms=header.time_ms,
        author=header.author,
        parent=parent,
        hash=header.hash.hex(),
        local_commits=header.local_commits,
        pages=len(header.pages),
        page_count=header.page_count,
        page_size=header.page_size,
        frames=len(header.frames),
        stored_bytes=_stored_bytes(logs, header),
        segment=str(header.segment) if header.segment else None,
    )


def commit_facts(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> dict[str, LogId | int | str]:
    """Return all that a commit's header says, by name; requests and errors of `header_of`."""
    header = header_of(logs, log_id, lsn)
    return {
        "log": header.log_id,
        "lsn": header.lsn,
        "hash": header.hash.hex(),
        "previous": header.previous_hash.hex(),
        "parent": f"{header.parent_log}:{header.parent_lsn}" if header.parent_log else "none",
        "time_ms": header.time_ms,
        "author": header.author,
        "page_size": header.page_size,
        "page_count": header.page_count,
        "change_counter": header.change_counter,
        "local_commits": header.local_commits,
        "pages": len(header.pages),
        "frames": len(header.frames),
        "body": f"segment {header.segment}" if header.segment else "inline",
        "body_bytes": header.frames.body_bytes,
    }


def _local_commits(snapshot: Snapshot) -> Iterator[tuple[list[Chunk], int]]:
    """Yield the transactions of a local branch, each with the number of commits it stands for."""
    branch = snapshot.branch
    before = branch.row.first_lsn - 1
    for chunks in branch.branch_log.transactions(branch.row.start, branch.row.first_lsn):
        yield chunks, chunks[-1].lsn - before
        before = chunks[-1].lsn


def _page_count(chunks: Sequence[Chunk]) -> int:
    """Return how many pages a local commit changed."""
    return len({page for chunk in chunks for page in chunk.pages})


def _image_bytes(chunks: Sequence[Chunk]) -> int:
    """Return how many bytes of page images a local commit wrote."""
    return sum(len(chunk.pages) * chunk.page_size for chunk in chunks)


def _stored_bytes(logs: Logs, header: CommitHeader) -> int:
    """Return how many bytes a remote commit has on the remote."""
    (row,) = logs.catalog.commits(header.log_id, header.lsn, header.lsn)
    return len(row.header) + header.frames.body_bytes
