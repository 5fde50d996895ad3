"""Names of commits: which commit a ref means in the history of a volume, and it as a snapshot."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import (
    DamageError,
    InvalidIdError,
    NoRemoteError,
    NotFoundError,
    StoreError,
    UsageError,
)
from graft_vfs.format.name import CommitName, decode_name
from graft_vfs.history.dates import newest_no_later
from graft_vfs.history.refs import (
    FORMS,
    Base,
    Head,
    Kept,
    Local,
    Moment,
    Named,
    Ref,
    Remote,
    State,
    parse,
    shown,
)
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.rows import BranchRow, KeptBranch
from graft_vfs.local.chunk import Chunk
from graft_vfs.pages import LocalLsn, RemoteLsn
from graft_vfs.remote.names import read_name
from graft_vfs.reports import commit_time_text, commits_text
from graft_vfs.suggestions import did_you_mean
from graft_vfs.sync.fetch import fetch_log, require_commits, require_view
from graft_vfs.sync.headers import parent_of, require_header
from graft_vfs.times import parse_time
from graft_vfs.view.logs import Logs
from graft_vfs.volume.kept import kept_snapshot
from graft_vfs.volume.page_index import PageIndex
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume


@dataclass(frozen=True, slots=True)
class LocalCommit:
    """A commit of a local branch, the current one or a kept one, which no other machine knows."""

    branch: LogId
    lsn: LocalLsn

    def __str__(self) -> str:
        return f"local:{self.lsn}"


@dataclass(frozen=True, slots=True)
class RemoteCommit:
    """A commit of a remote log."""

    log: LogId
    lsn: RemoteLsn

    def __str__(self) -> str:
        return f"{self.log}:{self.lsn}"


Commit = LocalCommit | RemoteCommit


def resolve(
    logs: Logs, ref: Ref | str, volume: Volume | None, *, log_id: LogId | None = None
) -> Commit:
    """Return the commit that a ref means for a volume, or for a remote log alone.

    Without either, only LOG:LSN means something. No request if the commit is known here, as the one
    of a time is if a later one is known; else those of a fetch, and for a time those of
    `newest_no_later`. Raises NotFoundError if there is no such commit, UsageError, InvalidIdError.
    """
    ref = parse(ref) if isinstance(ref, str) else ref
    ground = _ground(logs, volume) if volume is not None else _Ground(logs, log_id, None, None)
    return ground.back(ground.state(ref.state), ref)


def resolve_remote(
    logs: Logs, ref: Ref | str, volume: Volume | None, *, log_id: LogId | None = None
) -> RemoteCommit:
    """Do the same where only a remote commit will do; raises UsageError for a local one."""
    found = resolve(logs, ref, volume, log_id=log_id)
    if isinstance(found, LocalCommit):
        raise UsageError(
            f"{shown(str(ref))} is the local commit {found.lsn}, which is not pushed",
            next_step=Hint("run ", Advice.PUSH, " first, or name a remote commit, such as BASE"),
        )
    return found


def lineage(logs: Logs, volume: Volume) -> list[LogId]:
    """Return the log of a volume, then those that it was forked from.

    One request for each log whose LSN 1 is not known here.
    """
    return list(_ground(logs, volume).lineage(Head()))


def short(commit: Commit, volume: Volume) -> str:
    """Return a commit as people type it for a volume: an LSN alone is one of its own log."""
    own = volume.catalog.volume(volume.id).remote
    is_own = isinstance(commit, RemoteCommit) and commit.log == own
    return str(commit.lsn) if is_own else str(commit)


def parent(logs: Logs, volume: Volume, commit: Commit) -> Commit | None:
    """Return the commit before one; None for the first. Requests of `parent_of`."""
    try:
        return _ground(logs, volume).back(commit, Ref(Head(), 1))
    except NotFoundError:
        return None


def local_commits(snapshot: Snapshot) -> Iterator[tuple[list[Chunk], int]]:
    """Yield the transactions of a local branch, each with the number of commits it stands for."""
    branch = snapshot.branch
    before = branch.row.first_lsn - 1
    for chunks in branch.branch_log.transactions(branch.row.start, branch.row.first_lsn):
        if chunks[-1].lsn > snapshot.lsn:
            return  # A later commit, or one of the branch after a kept one.
        yield chunks, chunks[-1].lsn - before
        before = chunks[-1].lsn


def local_transaction(snapshot: Snapshot, lsn: LocalLsn) -> tuple[list[Chunk], int]:
    """Return one of these; raises NotFoundError for a commit that was rolled into a later one."""
    for chunks, commits in local_commits(snapshot):
        last = chunks[-1].lsn
        if last == lsn:
            return chunks, commits
        if last > lsn:
            raise NotFoundError(
                f"the local commit {lsn} is one of the {commits} up to {last} that were rolled "
                "into one when the branch file was compacted",
                next_step=f"use local:{last}",
            )
    raise NotFoundError(
        f"the local branch {snapshot.branch.row.id} has no commit {lsn}",
        next_step=Hint("see ", Advice.LIST_COMMITS),
    )


@dataclass(frozen=True, slots=True)
class _Ground:
    """What refs are resolved against: a log, and a volume's newest snapshot if there is one."""

    logs: Logs
    log_id: LogId | None
    volume: Volume | None
    snapshot: Snapshot | None

    def state(self, state: State) -> Commit:
        """Return the commit of a state."""
        match state:
            case Head() | Base():
                found: Commit | None = self._local_head() if isinstance(state, Head) else None
                return found or self._base(state)
            case Local(lsn):
                return self._local(lsn)
            case Kept(branch):
                return self._kept(branch)
            case Moment(text):
                return self._as_of(state, parse_time(text))
            case Named(name):
                return self._named(state, name)
            case Remote(lsn, log):
                own = LogId.find(log, self.logs.catalog.log_ids()) if log else self._own(state)
                return self._known(own, lsn)

    def _local_head(self) -> LocalCommit | None:
        if self.snapshot is None or not self.snapshot.local_commits:
            return None
        return LocalCommit(self.snapshot.branch.row.id, self.snapshot.lsn)

    def _own(self, state: State) -> LogId:
        if self.log_id is None:
            raise UsageError(f"{str(state)!r} names no log", next_step="write it as LOG:LSN")
        return self.log_id

    def _known(self, log_id: LogId, lsn: RemoteLsn | None) -> RemoteCommit:
        return RemoteCommit(log_id, require_commits(self.logs, log_id, lsn))

    def _base(self, state: State) -> RemoteCommit:
        if self.snapshot is None:
            return self._known(self._own(state), None)
        row = self.snapshot.branch.row
        if row.base:
            return RemoteCommit(row.log_id, row.base)
        if self.snapshot.local_commits:
            raise NotFoundError(
                "the volume stands on no remote commit yet",
                next_step=Hint("run ", Advice.PUSH, ", or name a local commit, such as HEAD"),
            )
        raise NotFoundError(
            "the volume has no commit yet",
            next_step=Hint("commit something, or make it a clone with ", Advice.CLONE),
        )

    def _local(self, lsn: LocalLsn) -> LocalCommit:
        if self.snapshot is None:
            raise UsageError(f"local:{lsn} names no volume", next_step="write it as LOG:LSN")
        branch, newest = self.snapshot.branch.row, self.snapshot.lsn
        if branch.first_lsn <= lsn <= newest:
            return LocalCommit(branch.id, lsn)
        # Local LSNs are never used twice, so a kept branch may have it.
        for kept in reversed(self._kept_branches()):
            if kept.branch.first_lsn <= lsn <= kept.last_lsn:
                return LocalCommit(kept.id, lsn)
        raise NotFoundError(
            f"the local branch {branch.id} has no commit {lsn}, "
            + (
                f"it has local:{branch.first_lsn} to local:{newest}"
                if self.snapshot.local_commits
                else "all of its commits are pushed"
            ),
            next_step=Hint("name one of these, or a remote commit; see ", Advice.LIST_COMMITS),
        )

    def _kept(self, text: str) -> LocalCommit:
        if self.volume is None:
            raise UsageError(f"branch:{text} names no volume", next_step="write LOG:LSN")
        kept = find_kept(self.volume, text)
        return LocalCommit(kept.id, kept.last_lsn)

    def _kept_branches(self) -> tuple[KeptBranch, ...]:
        return () if self.volume is None else self.logs.catalog.kept.all(self.volume.id)

    # Names ------------------------------------------------------------------------------------

    def _named(self, state: Named, name: str) -> RemoteCommit:
        """Return the commit that a name was given to; one request a log if it is not known here."""
        known_here = (known_name(self.logs, each, name) for each in self.lineage(state))
        found = next(filter(None, known_here), None) or self._asked(name, self.lineage(state))
        if found is not None:
            commit = self._known(found.log, found.lsn)
            if require_header(self.logs, commit.log, commit.lsn).hash == found.hash:
                return commit
            raise NotFoundError(
                f"the name {name!r} was given to another commit than LSN {found.lsn} of log "
                f"{found.log} is now: the history of the log was replaced",
                next_step=Hint("give it anew with ", Advice.NAME_COMMIT),
            )
        lineage = list(self.lineage(state))
        known = {each.name for log_id in lineage for each in known_names(self.logs, log_id)}
        raise NotFoundError(
            f"{shown(name)} names no commit of log {lineage[0]}",
            next_step=Hint(did_you_mean(name, {*known, "HEAD", "BASE"}), FORMS),
        )

    def _asked(self, name: str, lineage: Iterable[LogId]) -> CommitName | None:
        try:
            for log_id in lineage:
                found = read_name(self.logs.log(log_id).store, log_id, name)
                if found is not None:
                    self.logs.catalog.names.keep(log_id, {name: found.encode()})
                    return found
        except NoRemoteError:
            return None
        except StoreError as error:
            raise NotFoundError(
                f"{shown(name)} names no commit that is known here, and the remote could not be "
                f"asked: {error.message}",
                next_step=FORMS,
            ) from error
        return None

    def lineage(self, state: State) -> Iterator[LogId]:
        """Yield the log, and those that it or the volume was forked from, the nearest first."""
        left, seen = [self._own(state)], set[LogId]()
        if self.snapshot is not None and self.snapshot.branch.row.base:
            left.append(self.snapshot.branch.row.log_id)
        for log_id in left:
            if log_id in seen:
                continue
            seen.add(log_id)
            yield log_id
            parent = self._parent(log_id)
            if parent is not None:
                left.append(parent.log)

    # Times ------------------------------------------------------------------------------------

    def _as_of(self, state: Moment, time_ms: int) -> RemoteCommit:
        """Return the newest remote commit that is dated no later than a time."""
        at: RemoteCommit | None = self._newest(state, time_ms)
        while at is not None:
            lsn = newest_no_later(self.logs, at.log, at.lsn, time_ms)
            if lsn:
                return RemoteCommit(at.log, lsn)
            first_of_log, at = at.log, self._parent(at.log)
        first = require_header(self.logs, first_of_log, RemoteLsn(1))
        raise NotFoundError(
            f"log {first_of_log} had no commit at that time; its first, LSN 1, is of "
            f"{commit_time_text(first.time_ms)}",
            next_step=Hint("name a later time; see ", Advice.LIST_COMMITS, " for the times"),
        )

    def _newest(self, state: Moment, time_ms: int) -> RemoteCommit:
        """Return the newest commit that may be dated no later than a time.

        No request if the newest that is known is dated later, and not in the future: a writer dates
        no commit before such a one.
        """
        log_id = self._own(state)
        known = self.logs.catalog.newest_commit(log_id)[0]
        if known:
            known_ms = require_header(self.logs, log_id, known).time_ms
            if time_ms < known_ms <= time.time_ns() // 1_000_000:
                return RemoteCommit(log_id, known)
            return RemoteCommit(log_id, fetch_log(self.logs, log_id).newest)
        if self.snapshot is not None and self.snapshot.branch.row.base:
            # A fork that is not pushed: its log has no commit, and it stands on another one.
            return self._base(state)
        return self._known(log_id, None)

    # Going back -------------------------------------------------------------------------------

    def back(self, start: Commit, ref: Ref) -> Commit:
        """Return the commit `ref.back` before `start`."""
        left, at = ref.back, start
        if left and isinstance(at, LocalCommit):
            assert self.volume is not None
            branch = branch_snapshot(self.volume, self.logs, at)
            lsns = [c[-1].lsn for c, _ in local_commits(branch) if c[-1].lsn < at.lsn]
            if left <= len(lsns):
                return LocalCommit(at.branch, lsns[-left])
            row = branch.branch.row
            left -= len(lsns) + 1
            parent = RemoteCommit(row.log_id, row.base) if row.base else None
            if parent is None:
                raise _too_far(ref, ref.back - left - 1)
            at = parent
        while left and isinstance(at, RemoteCommit):
            if left < at.lsn:
                return RemoteCommit(at.log, RemoteLsn(at.lsn - left))
            left -= at.lsn
            parent = self._parent(at.log)
            if parent is None:
                raise _too_far(ref, ref.back - left - 1)
            at = parent
        return at

    def _parent(self, log_id: LogId) -> RemoteCommit | None:
        """Return the commit that a known log was forked from."""
        parent = parent_of(self.logs, log_id)
        return None if parent is None else RemoteCommit(*parent)


def _ground(logs: Logs, volume: Volume) -> _Ground:
    return _Ground(logs, logs.catalog.volume(volume.id).remote, volume, volume.begin())


def _too_far(ref: Ref, before: int) -> NotFoundError:
    start = ref.state
    return NotFoundError(
        f"{ref} goes back past the first commit: {start} has {commits_text(before)} before it",
        next_step=Hint(f"use {Ref(start, before)}, which is the first; see ", Advice.LIST_COMMITS),
    )


# Names that are known ---------------------------------------------------------------------------


def known_name(logs: Logs, log_id: LogId, name: str) -> CommitName | None:
    """Return a name of a log that was seen here. No request."""
    return next((each for each in known_names(logs, log_id) if each.name == name), None)


def known_names(logs: Logs, log_id: LogId) -> Iterator[CommitName]:
    """Yield the names of a log that were seen here, in order of their text. No request.

    One that a later version kept, or that is damaged, is left out: the remote has it.
    """
    for found in logs.catalog.names.all(log_id):
        with contextlib.suppress(DamageError):
            yield decode_name(found, key=f"a name of log {log_id} in the catalog")


# As a snapshot ----------------------------------------------------------------------------------


def snapshot_of(volume: Volume, logs: Logs, commit: Commit) -> Snapshot:
    """Return a commit as a snapshot of the volume. Requests and errors of `require_view`.

    A remote one has no local commits. Raises NotFoundError for a local one that went meanwhile, as
    by a push, or that was rolled into a later one.
    """
    if isinstance(commit, LocalCommit):
        return _local_snapshot(volume, logs, commit)
    return remote_snapshot(volume, logs, commit.log, commit.lsn)


def remote_snapshot(volume: Volume, logs: Logs, log_id: LogId, lsn: RemoteLsn) -> Snapshot:
    """Return a commit of a remote log; LSN 0 is the empty database before the first."""
    require_view(logs, log_id, lsn)
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


def branch_snapshot(volume: Volume, logs: Logs, commit: LocalCommit) -> Snapshot:
    """Return the newest snapshot of the branch of a local commit, the current one or a kept one.

    No request, unless commits that a kept one is based on are not known. Raises NotFoundError.
    """
    newest = volume.begin()
    if commit.branch == newest.branch.row.id:
        return newest
    for kept in logs.catalog.kept.all(volume.id):
        if kept.id == commit.branch:
            require_view(logs, kept.branch.log_id, kept.branch.base)
            return kept_snapshot(volume, kept, logs.view)
    raise NotFoundError(
        f"the local commit {commit.lsn} was pushed meanwhile",
        next_step=Hint("see ", Advice.LIST_COMMITS),
    )


def find_kept(volume: Volume, text: str) -> KeptBranch:
    """Return the kept branch of a volume whose id begins so; raises NotFoundError."""
    found = {each.id: each for each in volume.catalog.kept.all(volume.id)}
    try:
        return found[LogId.find(text, found)]
    except (InvalidIdError, KeyError) as error:
        if isinstance(error, InvalidIdError) and len(found) > 1:
            raise
        raise NotFoundError(
            f"the volume keeps no branch {shown(text)}",
            next_step=Hint("see ", Advice.LIST_BRANCHES),
        ) from error


def _local_snapshot(volume: Volume, logs: Logs, commit: LocalCommit) -> Snapshot:
    newest = branch_snapshot(volume, logs, commit)
    last = local_transaction(newest, commit.lsn)[0][-1]
    index = PageIndex(newest.branch.row, newest.branch.branch_log)
    for chunks, _ in local_commits(newest):
        if chunks[-1].lsn > commit.lsn:
            break
        for chunk in chunks:
            # Its images are verified when they are first read.
            index.apply_unproved(chunk)
    return Snapshot.after(index, newest.remote, last)
