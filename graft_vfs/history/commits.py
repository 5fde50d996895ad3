"""History: reports on the commits of a volume, local and remote."""

from __future__ import annotations

from collections.abc import Sequence

from graft_vfs.format.commit import CommitHeader
from graft_vfs.history import names
from graft_vfs.ids import LogId
from graft_vfs.local.chunk import Chunk
from graft_vfs.pages import LocalLsn, RemoteLsn
from graft_vfs.reports import CommitReport, LogEntry
from graft_vfs.view.logs import Logs
from graft_vfs.volume.volume import Volume


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
        for chunks, commits in names.local_commits(snapshot)
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


def show(volume: Volume, logs: Logs, ref: str) -> CommitReport:
    """Describe the commit that a ref means; requests and errors of `names.resolve`."""
    found = names.resolve(logs, ref, volume)
    if isinstance(found, names.LocalCommit):
        return _local_commit(volume, found.lsn)
    return _remote_commit(logs, found.log, found.lsn)


def _local_commit(volume: Volume, lsn: LocalLsn) -> CommitReport:
    snapshot = volume.begin()
    branch = snapshot.branch.row
    chunks, commits = names.local_transaction(snapshot, lsn)
    last = chunks[-1]
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


def _remote_commit(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> CommitReport:
    header = _header_of(logs, log_id, lsn)
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
    """Return all that the header of a known commit says, by name. No request."""
    header = _header_of(logs, log_id, lsn)
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


def _header_of(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> CommitHeader:
    """Return the header of a commit that is known here."""
    header = logs.header(log_id, lsn)
    assert header is not None
    return header


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
