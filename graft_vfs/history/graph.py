"""The history of a volume as lines: its own commits, and beside them those that it does not have.

Commits of the remote that were fetched and not pulled, and those that a log got after a fork was
made from it, leave the volume's own line where they begin:

    * local:2 (HEAD)
    | * 9              not pulled
    | * 8              not pulled
    |/
    * 7 (BASE)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from graft_vfs.history import commits, names
from graft_vfs.history.diff import compare
from graft_vfs.pages import NO_LSN
from graft_vfs.reports import LogEntry
from graft_vfs.view.logs import Logs
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_BESIDE_MAX = 10
"""How many commits are shown that a volume does not have, from one log."""


@dataclasses.dataclass(frozen=True, slots=True)
class LogLine:
    """A commit, or only marks between commits, or how many are `left_out`.

    `marks` are drawn before it. `names` are the refs that mean it, HEAD or BASE, and then names
    that were given to it. One that the volume does not have has `is_beside`.
    """

    marks: str
    entry: LogEntry | None = None
    names: tuple[str, ...] = ()
    is_beside: bool = False
    left_out: int = 0


def lines(
    volume: Volume,
    logs: Logs,
    ref: str | None = None,
    *,
    graph: bool,
    stat: bool,
    limit: int | None = None,
) -> Iterator[LogLine]:
    """Yield a volume's commits as `commits.entries` has them, with what is beside them in a graph.

    `stat` adds what each commit changed, for the cost of a diff each. A ref leaves out what is
    beside. With a limit, the last line is that of the last commit that is wanted. The consumer
    closes it.
    """
    with volume.pinned() as snapshot:
        found = _lines(volume, logs, snapshot, ref, graph=graph, limit=limit)
        for line in _limited(found, limit):
            if stat and line.entry is not None:
                changed = _with_changes(volume, logs, line.entry)
                yield dataclasses.replace(line, entry=changed)
            else:
                yield line


def _limited(found: Iterable[LogLine], limit: int | None) -> Iterator[LogLine]:
    left = limit
    for line in found:
        yield line
        if left is not None and line.entry is not None:
            left -= 1
            if not left:
                return


def _lines(
    volume: Volume,
    logs: Logs,
    snapshot: Snapshot,
    ref: str | None,
    *,
    graph: bool,
    limit: int | None,
) -> Iterator[LogLine]:
    branch = snapshot.branch.row
    base = names.RemoteCommit(branch.log_id, branch.base)
    log_id, is_first = None, True
    for commit, entry in commits.walk(volume, logs, snapshot, ref, limit):
        if graph and ref is None and isinstance(commit, names.RemoteCommit):
            if commit.log != log_id:
                yield from _beside(volume, logs, commit, is_first=is_first)
            log_id = commit.log
        head = ("HEAD",) if is_first and ref is None else ()
        grounds = ("BASE",) if commit == base and snapshot.local_commits else ()
        yield LogLine("* " if graph else "", entry, (*head, *grounds, *entry.names))
        is_first = False


def _beside(
    volume: Volume, logs: Logs, commit: names.RemoteCommit, *, is_first: bool
) -> Iterator[LogLine]:
    """Yield what a log has after a commit; in a column of its own if own commits are above."""
    later = list(commits.later_commits(volume, logs, commit, _BESIDE_MAX + 1))
    left_out = 0
    if len(later) > _BESIDE_MAX:
        left_out = logs.catalog.newest_commit(commit.log)[0] - commit.lsn - _BESIDE_MAX
    column = "" if is_first else "| "
    for _, entry in later[:_BESIDE_MAX]:
        yield LogLine(f"{column}* ", entry, entry.names, is_beside=True)
    if left_out:
        yield LogLine(f"{column}: ", left_out=left_out)
    if later and not is_first:
        yield LogLine("|/")


def _with_changes(volume: Volume, logs: Logs, entry: LogEntry) -> LogEntry:
    """Return an entry with what its commit changed."""
    commit = names.resolve(logs, entry.ref, volume)
    newer = names.snapshot_of(volume, logs, commit)
    parent = names.parent(logs, volume, commit)
    if parent is None:
        older = names.remote_snapshot(volume, logs, newer.branch.row.log_id, NO_LSN)
    else:
        older = names.snapshot_of(volume, logs, parent)
    found = compare(volume, older, newer)
    return dataclasses.replace(entry, schema=found.schema, tables=found.tables)
