"""The history of a volume as a line of commits, without reading their headers.

The line has the local commits, those of the log that the volume stands on, then those of the log
that this was forked from, and so on. A commit's place is the number of steps from the newest one.
LSN 1 of a fork says where the line goes on; no other header is needed.
"""

from __future__ import annotations

from collections.abc import Iterator

from graft_vfs.history import names
from graft_vfs.pages import RemoteLsn
from graft_vfs.sync.headers import parent_of
from graft_vfs.view.logs import Logs
from graft_vfs.volume.snapshot import Snapshot


class Line:
    """The history of a snapshot. Requests: one for each fork that is passed, unless it is known.

    Owner and thread: its caller.
    """

    def __init__(self, logs: Logs, snapshot: Snapshot) -> None:
        branch = snapshot.branch.row
        self._logs = logs
        self._branch = branch.id
        self._local = [chunks[-1].lsn for chunks, _ in names.local_commits(snapshot)][::-1]
        # The newest commit of each log in the line, as far as it was followed.
        self._tops = [names.RemoteCommit(branch.log_id, branch.base)] if branch.base else []

    def at(self, place: int) -> names.Commit | None:
        """Return the commit at a place, 0 for the newest; None before the first."""
        if place < len(self._local):
            return names.LocalCommit(self._branch, self._local[place])
        for start, top in self._logs_of_it():
            if place < start + top.lsn:
                return names.RemoteCommit(top.log, RemoteLsn(start + top.lsn - place))
        return None

    def place_of(self, commit: names.Commit) -> int | None:
        """Return the place of a commit; None for one that is not in the line."""
        if isinstance(commit, names.LocalCommit):
            is_here = commit.branch == self._branch and commit.lsn in self._local
            return self._local.index(commit.lsn) if is_here else None
        for start, top in self._logs_of_it():
            if top.log == commit.log:
                return start + top.lsn - commit.lsn if commit.lsn <= top.lsn else None
        return None

    def __len__(self) -> int:
        """Return the number of commits."""
        count = len(self._local)
        for start, top in self._logs_of_it():
            count = start + top.lsn
        return count

    def _logs_of_it(self) -> Iterator[tuple[int, names.RemoteCommit]]:
        """Yield the newest commit of each log, with its place."""
        place, number = len(self._local), 0
        while number < len(self._tops):
            top = self._tops[number]
            yield place, top
            place, number = place + top.lsn, number + 1
            if number == len(self._tops):
                parent = parent_of(self._logs, top.log)
                if parent is not None and parent[0] not in {each.log for each in self._tops}:
                    self._tops.append(names.RemoteCommit(*parent))
