"""Changes a volume's current branch: prepare, write, switch. No other code does.

    prepare   a branch that may replace the current one: its base, and where it begins
    write     its commits, into a new log file, before another process can see them
    switch    make it current, if the branch that it was prepared to replace still is

All commits of the branch that is replaced are on the remote or on the new branch; else the switch
is a departure, and the old branch is kept until it is removed by name; see `kept`.

The caller holds the writer lock if content or file change. A branch that is only rebased on what
was pushed has the same content, and begins in the previous branch's file.

A crash leaves a log file that no branch names; the next `new_file` or the next opening removes it.
The switch itself is one catalog transaction; see `CurrentBranch.switch_branch`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from graft_vfs.ids import LogId
from graft_vfs.local import layout
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.catalog.rows import BranchRow, Departure
from graft_vfs.local.chunk import Position
from graft_vfs.local.files import storage_errors
from graft_vfs.pages import LocalLsn, RemoteLsn
from graft_vfs.volume.current_branch import CurrentBranch


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A branch that may become current, and the branch that it would replace."""

    row: BranchRow
    former: BranchRow

    def moved_to(self, branch_log: BranchLog) -> Candidate:
        """Return the same branch as the content of a separate log file."""
        row = dataclasses.replace(self.row, file=branch_log.path.name, start=branch_log.start)
        return dataclasses.replace(self, row=row)


def prepare(
    former: BranchRow,
    *,
    log_id: LogId,
    base: RemoteLsn,
    counter: int,
    through: LocalLsn,
    end: Position,
    departs: bool = False,
) -> Candidate:
    """Return a branch on `log` 1..`base` with the local commits after `through`; writes nothing.

    `end` is the end of the commit `through` in the previous branch's file. `counter` is the change
    counter of the view without those commits. `departs` if it lacks commits of the former branch: a
    connection may have parsed their schema, and the new content may have another under the same
    schema cookie.
    """
    row = BranchRow(
        id=LogId.new(),
        volume=former.volume,
        log_id=log_id,
        base=base,
        counter=counter,
        first_lsn=LocalLsn(through + 1),
        file=former.file,
        start=end,
        created_ms=time.time_ns() // 1_000_000,
        lineage=former.lineage + departs,
    )
    return Candidate(row, former)


@contextlib.contextmanager
def new_file(volume: CurrentBranch, *, folded: bool = False) -> Iterator[BranchLog]:
    """Yield the next, empty log file of a volume, for the commits of a candidate.

    `folded` if it will begin with a folded run. It is closed after the block, and removed after an
    error. The caller holds the writer lock, and makes its writes durable.
    """
    remove_unused_files(volume)
    branch_log = volume.new_log_file(folded=folded)
    try:
        yield branch_log
    except Exception:  # A file that Ctrl-C leaves is removed with the next one, as after a kill.
        branch_log.path.unlink(missing_ok=True)
        raise
    finally:
        branch_log.close()


def switch(
    volume: CurrentBranch,
    candidate: Candidate,
    *,
    synced: bool = False,
    settled_push: bool = False,
    folded: LocalLsn | None = None,
    departure: Departure | None = None,
) -> bool:
    """Make a candidate current if the branch that it replaces still is; durable on return.

    Otherwise, returns False and removes the candidate's log file. `folded` is the LSN of the run
    that the new file begins with; see the catalog, which may refuse it. `synced` means that a sync
    is the cause: the base, and everything before the first commit, are recorded as synced. With
    `settled_push`, the pending push is removed in the same transaction. `departure` says where the
    local commits of the former branch are, if they are neither on the remote nor on the new one; it
    is refused while a push is not settled.
    """
    row, former = candidate.row, candidate.former
    # Ordering: after this, an error does not show which file the catalog names.
    is_current = volume.switch_branch(
        row,
        expected=former.id,
        synced=(row.first_lsn - 1, row.base) if synced else None,
        settled_push=settled_push,
        folded=folded,
        departure=departure,
    )
    if not is_current and row.file != former.file:
        (volume.directory / row.file).unlink(missing_ok=True)
    return is_current


def remove_unused_files(volume: CurrentBranch) -> None:
    """Remove log files that no branch names: a process was killed before it switched to them.

    The caller holds the writer lock, which creating such files also requires.
    """
    # Again, as another process may have removed a kept branch without being able to say so.
    volume.description.follow()
    volume.description.require()
    named = volume.named_files()
    with storage_errors(volume.directory):
        for path in layout.branch_files(volume.directory):
            if path.name not in named:
                path.unlink(missing_ok=True)
