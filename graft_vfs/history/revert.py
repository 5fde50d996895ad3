"""Revert: undo what a commit, or a range of them, changed, on top of what a volume has now.

The newest commit is undone as a whole: the volume gets the pages that it had before. An older one
is undone row by row: the diff back to the commit before it is applied to the newest state, in a
scratch database. Each row must still be as the commit left it, and whatever is dropped or made
anew must have no later changes. All else is a conflict, and then nothing is written. What later
commits have undone already is left as it is.

The row is the smallest part that is compared: a later change of another column of it is a conflict,
too. All shadow tables of a virtual table count as one row. Triggers do not run.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from graft_vfs.advice import Advice, Audience, Hint, Worded
from graft_vfs.errors import RevertConflictError, UsageError
from graft_vfs.format.commit import check_message
from graft_vfs.history import names
from graft_vfs.history.diff import compare
from graft_vfs.history.line import Line
from graft_vfs.history.refs import parse, parse_span
from graft_vfs.history.restore import put_on_top, require_way_back
from graft_vfs.history.undo import Conflict, Undone, undone_over
from graft_vfs.pages import NO_LSN, LocalLsn
from graft_vfs.reports import Report, SchemaDiff, TableDiff, pages_text, size_text
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Opened
from graft_vfs.volume.replacement import Replaced, keep_message
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)

_CONFLICTS_NAMED = 3


@dataclass(frozen=True, slots=True, repr=False)
class Reverted(Report, Worded):
    """A revert of `commit` of `tag`: what it changed in the schema and in `tables`.

    `pages` of `page_size` bytes became the commit local `lsn`, and `before` is the commit to go
    back to. `lsn` is None if nothing was written: in a dry run, if there are `conflicts`, of which
    these are the first, and if later commits have undone the commit already (`pages` is 0 then).
    """

    tag: str
    commit: str
    before: str
    schema: tuple[SchemaDiff, ...]
    tables: tuple[TableDiff, ...]
    pages: int
    page_size: int
    lsn: LocalLsn | None
    conflicts: tuple[Conflict, ...] = ()
    conflict_count: int = 0

    def words(self, audience: Audience) -> str:
        """Return the report for one audience."""
        if self.conflict_count:
            more = self.conflict_count - len(self.conflicts)
            lines = [*map(str, self.conflicts), *([f"{more} more"] if more else [])]
            head = f"{self.commit} of {self.tag} cannot be reverted, later commits are in the way:"
            return "\n  ".join([head, *lines])
        if not self.pages:
            return f"Nothing to revert: {self.tag} has nothing left of {self.commit}."
        size = f"{pages_text(self.pages)}, {size_text(self.pages * self.page_size)}"
        what = (
            f"Reverted {self.commit} of {self.tag} as local:{self.lsn}"
            if self.lsn is not None
            else f"Would revert {self.commit} of {self.tag}"
        )
        lines = [f"{what}: {size}.", *map(str, self.schema), *map(str, self.tables)]
        if self.lsn is not None:
            back = Advice.RESTORE(TAG=self.tag, COMMIT=self.before).words(audience)
            lines.append(f"(use {back} to go back to what it had)")
        else:
            lines.append(
                f"(use {Advice.REVERT(TAG=self.tag, COMMIT=self.commit).words(audience)} to do it)"
            )
        return "\n  ".join(lines)


def revert(
    opened: Opened, logs: Logs, ref: str, *, force: bool, dry_run: bool, message: str
) -> Reverted:
    """Undo a commit, or the commits `A..B`, in one commit of the pages that change.

    Without a message, the commit gets one that names what was reverted. Raises RevertConflictError
    for what later commits changed again, and UsageError for a commit that is not in the history of
    the volume; for a local commit, without `force`, if its push would leave no way back.
    """
    tag, volume = opened
    message = check_message(message)
    if not dry_run:
        volume.catalog.require_writable()
    older, newer = _commits(volume, logs, ref)
    with volume.pinned() if dry_run else volume.writing() as snapshot:
        head = names.resolve(logs, "HEAD", volume)
        before = names.short(head, volume)
        _require_history(tag, logs, snapshot, ref, older, newer)
        if isinstance(newer, names.LocalCommit) and not (force or dry_run):
            require_way_back(tag, before, snapshot, logs, "revert")
        then = _view(volume, logs, older, snapshot)
        target = _Target(tag, ref, _shown(older, newer, volume, ref), before, message)
        if newer == head and then.page_count:
            done = _whole(volume, snapshot, then, target, dry_run=dry_run)
        else:
            now = names.snapshot_of(volume, logs, newer)
            done = _by_rows(volume, snapshot, now, then, target, dry_run=dry_run)
    _logger.info("volume %s: %s", volume.id, done)
    return done


@dataclass(frozen=True, slots=True)
class _Target:
    """The texts of one revert."""

    tag: str
    ref: str
    commit: str
    before: str
    message: str

    def report(self, found: Undone, page_size: int, lsn: LocalLsn | None) -> Reverted:
        """Return the report."""
        return Reverted(
            self.tag,
            self.commit,
            self.before,
            found.schema,
            found.tables,
            found.pages,
            page_size,
            lsn,
            found.conflicts,
            found.conflict_count,
        )

    def keep_message(self, volume: Volume, before: Snapshot, after: Snapshot, pages: int) -> None:
        """Keep the message for the new commit."""
        keep_message(
            volume, Replaced(before, after, pages), self.message or f"revert {self.commit}"
        )


def _commits(volume: Volume, logs: Logs, ref: str) -> tuple[names.Commit | None, names.Commit]:
    """Return the last commit that stays, None for none, and the last one to undo."""
    if ".." in ref:
        span = parse_span(ref)
        return names.resolve(logs, span.older, volume), names.resolve(logs, span.newer, volume)
    newer = names.resolve(logs, parse(ref), volume)
    return names.parent(logs, volume, newer), newer


def _require_history(  # noqa: PLR0917 - the parts of one error
    tag: str,
    logs: Logs,
    snapshot: Snapshot,
    ref: str,
    older: names.Commit | None,
    newer: names.Commit,
) -> None:
    """Raise UsageError unless both are commits of the volume, in this order."""
    line = Line(logs, snapshot)
    places = [len(line) if each is None else line.place_of(each) for each in (older, newer)]
    step = Hint("see ", Advice.LIST_COMMITS(TAG=tag), " for its commits")
    first, last = places
    if first is None or last is None:
        raise UsageError(f"{ref} is not in the history of {tag}", next_step=step)
    if first <= last:
        raise UsageError(f"{ref} names no commit: write the older one first", next_step=step)


def _shown(older: names.Commit | None, newer: names.Commit, volume: Volume, ref: str) -> str:
    text = names.short(newer, volume)
    return f"{names.short(older, volume)}..{text}" if ".." in ref and older is not None else text


def _view(volume: Volume, logs: Logs, commit: names.Commit | None, head: Snapshot) -> Snapshot:
    """Return a commit as a snapshot; before the first there is an empty database."""
    if commit is None:
        return names.remote_snapshot(volume, logs, head.branch.row.log_id, NO_LSN)
    return names.snapshot_of(volume, logs, commit)


def _whole(
    volume: Volume, snapshot: Snapshot, then: Snapshot, target: _Target, *, dry_run: bool
) -> Reverted:
    """Give the volume the pages that it had before its newest commits."""
    if dry_run:
        found = compare(volume, snapshot, then)
        undone = Undone(found.schema, found.tables, found.pages_changed)
        return target.report(undone, snapshot.page_size, None)
    done = put_on_top(volume, snapshot, then)
    target.keep_message(volume, snapshot, done.after, done.pages)
    lsn = done.after.lsn if done.is_commit else None
    return target.report(Undone((), (), done.pages), snapshot.page_size, lsn)


def _by_rows(
    volume: Volume,
    snapshot: Snapshot,
    now: Snapshot,
    then: Snapshot,
    target: _Target,
    *,
    dry_run: bool,
) -> Reverted:
    """Undo what changed from `then` to `now` in a scratch database over the newest state."""
    with undone_over(volume, snapshot, now, then) as (scratch, undone):
        if undone.conflict_count and not dry_run:
            raise _conflict(target, undone)
        if dry_run or undone.conflict_count or not undone.pages:
            return target.report(undone, snapshot.page_size, None)
        after = volume.write_pages(snapshot, scratch.changed_pages(), page_count=scratch.page_count)
    target.keep_message(volume, snapshot, after, undone.pages)
    return target.report(undone, snapshot.page_size, after.lsn)


def _conflict(target: _Target, undone: Undone) -> RevertConflictError:
    first = "; ".join(map(str, undone.conflicts[:_CONFLICTS_NAMED]))
    more = undone.conflict_count - _CONFLICTS_NAMED
    return RevertConflictError(
        f"{target.commit} of {target.tag} cannot be reverted, later commits are in the way: {first}"
        + (f"; and {more} more" if more > 0 else ""),
        next_step=Hint(
            "list all with ",
            Advice.TRY_REVERT(TAG=target.tag, COMMIT=target.ref),
            ", and change these rows with SQL; or put the whole state before it on top with ",
            Advice.RESTORE(TAG=target.tag),
        ),
    )
