"""History: reports on the commits of a volume, local and remote."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from graft_vfs.format.commit import MESSAGE_BYTES_MAX
from graft_vfs.history import names
from graft_vfs.history.line import Line
from graft_vfs.history.refs import HEAD, Span, parse, parse_span
from graft_vfs.ids import LogId, short_texts
from graft_vfs.local.chunk import Chunk
from graft_vfs.local.messages import Messages
from graft_vfs.pages import LSN_MAX, NO_LSN, LocalLsn, RemoteLsn
from graft_vfs.remote.commit_reader import CommitRecord
from graft_vfs.reports import CommitReport, LogEntry
from graft_vfs.sync.headers import headers_down, require_header, require_headers
from graft_vfs.view.logs import Logs
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume


def entries(
    volume: Volume, logs: Logs, limit: int | None, ref: str | None = None
) -> list[LogEntry]:
    """Return local commits, then remote ones, newest first.

    With a ref, that commit and those before it; with `A..B` those that B has and A has not.
    Requests of resolving the refs, and of `headers_down`.
    """
    found = walk(volume, logs, volume.begin(), ref, limit)
    return [entry for _, entry in itertools.islice(found, limit)]


def walk(
    volume: Volume,
    logs: Logs,
    snapshot: Snapshot,
    ref: str | None = None,
    limit: int | None = None,
) -> Iterator[tuple[names.Commit, LogEntry]]:
    """Yield the commits of `entries`, each with its entry; at least `limit` if there are so many.

    No more headers are read than so many commits need.
    """
    refs, bound = _Refs(volume, logs), limit or LSN_MAX
    if ref is None:
        return _walk(refs, snapshot, logs, bound)
    is_span = ".." in ref
    span = parse_span(ref) if is_span else Span(HEAD, parse(ref))
    newest = names.resolve(logs, span.newer, volume)
    end = names.resolve(logs, span.older, volume) if is_span else None
    if isinstance(newest, names.LocalCommit):
        if newest.branch != snapshot.branch.row.id:
            snapshot = names.branch_snapshot(volume, logs, newest)
        # Those before it in the list count, too.
        found = _walk(refs, snapshot, logs, bound + snapshot.local_commits, end)
        found = itertools.dropwhile(lambda each: each[0] != newest, found)
    elif Line(logs, snapshot).place_of(newest) is not None:
        found = _remote_walk(refs, logs, newest, bound, end)
    else:
        found = iter(())
    return itertools.takewhile(lambda each: each[0] != end, found)


class _Refs:
    """What to type for a remote commit: its LSN, or with the log before it if that is another."""

    def __init__(self, volume: Volume, logs: Logs) -> None:
        self._own = logs.catalog.volume(volume.id).remote
        self._texts = short_texts(logs.catalog.log_ids())

    def of(self, log_id: LogId, lsn: RemoteLsn) -> str:
        return str(lsn) if log_id == self._own else f"{self._texts[log_id]}:{lsn}"


def _walk(
    refs: _Refs, snapshot: Snapshot, logs: Logs, bound: int, end: names.Commit | None = None
) -> Iterator[tuple[names.Commit, LogEntry]]:
    """Yield each commit of a snapshot with its entry, newest first; see `_remote_walk`."""
    branch = snapshot.branch.row
    for chunks, commits in reversed(list(names.local_commits(snapshot))):
        last = chunks[-1]
        entry = LogEntry(
            "local",
            last.lsn,
            last.time_ms,
            _page_count(chunks),
            last.page_count,
            "",
            commits,
            _image_bytes(chunks),
            message=_local_message(snapshot, last.lsn, commits),
            log=branch.id,
            ref=f"local:{last.lsn}",
        )
        yield names.LocalCommit(branch.id, last.lsn), entry
        bound -= 1
    if bound > 0 and branch.base:
        base = names.RemoteCommit(branch.log_id, branch.base)
        yield from _remote_walk(refs, logs, base, bound, end)


def later_commits(
    volume: Volume, logs: Logs, commit: names.RemoteCommit, limit: int
) -> Iterator[tuple[names.Commit, LogEntry]]:
    """Yield the known commits of a log that came after one, newest first, at most `limit`."""
    newest = logs.catalog.newest_commit(commit.log)[0]
    count = min(max(0, newest - commit.lsn), limit)
    found = _remote_walk(_Refs(volume, logs), logs, names.RemoteCommit(commit.log, newest), count)
    return itertools.islice(found, count)


def _remote_walk(
    refs: _Refs,
    logs: Logs,
    newest: names.RemoteCommit,
    bound: int,
    end: names.Commit | None = None,
) -> Iterator[tuple[names.Commit, LogEntry]]:
    """Yield the commits of a log, then those of its ancestors; `bound`, or those after `end`."""
    at: names.RemoteCommit | None = newest
    while at is not None and bound > 0:
        log_id, parent = at.log, None
        given = _names_by_lsn(logs, log_id)
        is_last = isinstance(end, names.RemoteCommit) and end.log == log_id and end.lsn <= at.lsn
        until = end.lsn if is_last and isinstance(end, names.RemoteCommit) else NO_LSN
        for record in headers_down(logs, log_id, at.lsn, bound, until=until):
            header = record.header
            entry = LogEntry(
                "remote",
                header.lsn,
                header.time_ms,
                len(header.pages),
                header.page_count,
                header.author,
                header.local_commits,
                _stored_bytes(record),
                header.message,
                given.get(header.lsn, ()),
                log_id,
                refs.of(log_id, header.lsn),
            )
            yield names.RemoteCommit(log_id, header.lsn), entry
            bound -= 1
            if header.parent_log is not None:
                parent = names.RemoteCommit(header.parent_log, header.parent_lsn)
        at = None if is_last else parent


def _names_by_lsn(logs: Logs, log_id: LogId) -> dict[RemoteLsn, tuple[str, ...]]:
    """Return the names that commits of a log are known by here."""
    found: dict[RemoteLsn, tuple[str, ...]] = {}
    for each in names.known_names(logs, log_id):
        found[each.lsn] = (*found.get(each.lsn, ()), each.name)
    return found


def show(volume: Volume, logs: Logs, ref: str) -> CommitReport:
    """Describe the commit that a ref names; requests and errors of `names.resolve`."""
    return describe(volume, logs, names.resolve(logs, ref, volume))


def describe(volume: Volume, logs: Logs, commit: names.Commit) -> CommitReport:
    """Describe a commit; requests of `require_header`."""
    if isinstance(commit, names.LocalCommit):
        return _local_commit(names.branch_snapshot(volume, logs, commit), commit.lsn)
    return _remote_commit(logs, commit.log, commit.lsn)


def _local_commit(snapshot: Snapshot, lsn: LocalLsn) -> CommitReport:
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
        message=_local_message(snapshot, lsn, commits),
    )


def _local_message(snapshot: Snapshot, lsn: LocalLsn, commits: int) -> str:
    """Return the message of the local commit `lsn`, which contains so many."""
    messages = Messages(snapshot.branch.branch_log.path.parent)
    return messages.joined(LocalLsn(lsn - commits + 1), lsn, MESSAGE_BYTES_MAX)


def _remote_commit(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> CommitReport:
    (record,) = require_headers(logs, log_id, lsn, lsn)
    header = record.header
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
        stored_bytes=_stored_bytes(record),
        segment=str(header.segment) if header.segment else None,
        message=header.message,
        names=_names_by_lsn(logs, log_id).get(lsn, ()),
    )


def commit_facts(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> dict[str, LogId | int | str]:
    """Return all fields of a commit's header, by name; requests of `require_header`."""
    header = require_header(logs, log_id, lsn)
    return {
        "log": header.log_id,
        "lsn": header.lsn,
        "hash": header.hash.hex(),
        "previous": header.previous_hash.hex(),
        "parent": f"{header.parent_log}:{header.parent_lsn}" if header.parent_log else "none",
        "time_ms": header.time_ms,
        "author": header.author,
        "message": header.message,
        "page_size": header.page_size,
        "page_count": header.page_count,
        "change_counter": header.change_counter,
        "local_commits": header.local_commits,
        "pages": len(header.pages),
        "frames": len(header.frames),
        "body": f"segment {header.segment}" if header.segment else "inline",
        "body_bytes": header.frames.body_bytes,
    }


def _page_count(chunks: Sequence[Chunk]) -> int:
    """Return how many pages a local commit changed."""
    return len({page for chunk in chunks for page in chunk.pages})


def _image_bytes(chunks: Sequence[Chunk]) -> int:
    """Return how many bytes of page images a local commit wrote."""
    return sum(len(chunk.pages) * chunk.page_size for chunk in chunks)


def _stored_bytes(record: CommitRecord) -> int:
    """Return the size of a remote commit on the remote, in bytes."""
    return record.header_length + record.header.frames.body_bytes
