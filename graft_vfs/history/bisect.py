"""Bisect: the first commit for which a query is no longer true, by binary search.

The query is asked on read-only snapshots. It is true if the first column of its first row is, as
SQLite's WHERE takes it; it is false if there is no row, and if it fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import apsw

from graft_vfs.advice import Advice, Audience, Hint, Worded
from graft_vfs.errors import GraftError, UsageError
from graft_vfs.history import commits, names
from graft_vfs.history.line import Line
from graft_vfs.pager.snapshots import connected, unreadable
from graft_vfs.reports import CommitReport, Report, commit_time_text, first_line
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_FAILURES = (
    apsw.SQLError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.TooBigError,
    apsw.MismatchError,
    apsw.ConstraintError,
)
"""Faults of a query or of the database that it reads, and not of reading it."""
_STEP = 'write one query, such as "SELECT count(*) > 0 FROM prices"'
_QUERY = re.compile(
    r"(\s|--[^\n]*(\n|$)|/\*.*?\*/)*(SELECT|WITH|VALUES)\b", re.DOTALL | re.IGNORECASE
)


@dataclass(frozen=True, slots=True, repr=False)
class BisectStep(Report):
    """A commit that was looked at: whether it `is_true`, and the `failure` if the query failed."""

    commit: str
    is_true: bool
    failure: str | None = None

    def __str__(self) -> str:
        failed = f"  ({self.failure})" if self.failure else ""
        return f"{'true' if self.is_true else 'false':<5}  {self.commit}{failed}"


@dataclass(frozen=True, slots=True, repr=False)
class Bisected(Report, Worded):
    """The first commit of `tag` for which `sql` is false or fails, and the last one before it.

    `commit` and `last_true` are refs. `found` describes the commit, and `steps` are the commits
    that were looked at, in this order.
    """

    tag: str
    sql: str
    commit: str
    last_true: str
    found: CommitReport
    steps: tuple[BisectStep, ...]

    def words(self, audience: Audience) -> str:
        """Return the report for one audience."""
        said = f"  {first_line(self.found.message)}" if self.found.message else ""
        who = self.found.author or "not pushed"
        show = Advice.DIFF_ROWS(TAG=self.tag, COMMIT=f"{self.last_true}..{self.commit}")
        undo = Advice.REVERT(TAG=self.tag, COMMIT=self.commit)
        return (
            f"{self.commit} is the first commit for which it is false; {self.last_true}, before it,"
            f" is the last for which it is true.\n"
            f"  {commit_time_text(self.found.time_ms)}  {who}{said}\n"
            f"  snapshots looked at: {len(self.steps)}\n"
            f"  (use {show.words(audience)} to see what changed, {undo.words(audience)} to undo it)"
        )


def bisect(
    opened: Opened,
    logs: Logs,
    sql: str,
    *,
    good: str | None,
    bad: str | None,
    step: Callable[[BisectStep], None] | None,
) -> Bisected:
    """Find the first commit for which a query is false or fails, between two commits.

    `bad` is HEAD by default. Without `good`, commits before it are tried in distances that double.
    One snapshot for each step, about log2 of the number of commits between them, or twice as many
    without `good`. Raises UsageError for what is not one query, if it is true for `bad`, and if it
    is false for `good`, or for all that were tried.
    """
    check_query(sql)
    tag, volume = opened
    with volume.pinned() as snapshot:
        search = _Search(opened, logs, Line(logs, snapshot), sql, step)
        false = search.place_of(bad or "HEAD")
        true = None if good is None else search.place_of(good)
        if true is not None and true <= false:
            raise UsageError(
                f"{good} is not before {bad or 'HEAD'}",
                next_step=Hint("see ", Advice.LIST_COMMITS(TAG=tag), " for the commits"),
            )
        false, true = search.bounds(false, true)
        while true - false > 1:
            middle = (false + true) // 2
            if search.look(middle).is_true:
                true = middle
            else:
                false = middle
        found, before = search.at(false), search.at(true)
        report = commits.describe(volume, logs, found)
    texts = names.short(found, volume), names.short(before, volume)
    return Bisected(tag, sql, *texts, report, tuple(search.steps))


class _Search:
    """What was asked so far. Owner and thread: its caller."""

    def __init__(
        self,
        opened: Opened,
        logs: Logs,
        line: Line,
        sql: str,
        step: Callable[[BisectStep], None] | None,
    ) -> None:
        self._tag, self._volume = opened
        self._logs = logs
        self._line = line
        self._sql = sql
        self._typed = {"TAG": self._tag, "QUERY": sql}
        self._step = step
        self.steps: list[BisectStep] = []

    def place_of(self, ref: str) -> int:
        """Return the place of the commit that a ref names; raises UsageError."""
        place = self._line.place_of(names.resolve(self._logs, ref, self._volume))
        if place is None:
            raise UsageError(
                f"{ref} is not in the history of {self._tag}",
                next_step=Hint("see ", Advice.LIST_COMMITS(TAG=self._tag), " for the commits"),
            )
        return place

    def at(self, place: int) -> names.Commit:
        """Return the commit at a place, which there is."""
        found = self._line.at(place)
        assert found is not None
        return found

    def look(self, place: int) -> BisectStep:
        """Ask for one commit."""
        commit = self.at(place)
        snapshot = names.snapshot_of(self._volume, self._logs, commit)
        is_true, failure = _ask(self._volume, snapshot, self._sql)
        found = BisectStep(names.short(commit, self._volume), is_true, failure)
        self.steps.append(found)
        if self._step is not None:
            self._step(found)
        return found

    def bounds(self, false: int, true: int | None) -> tuple[int, int]:
        """Return a place where it is false, and one further back where it is true."""
        newest = self.look(false)
        if newest.is_true:
            raise UsageError(
                f"it is true for {newest.commit}, so that there is no commit to find",
                next_step=Hint(
                    "name a commit for which it is false, ",
                    Advice.BISECT_TO(**self._typed),
                    ", or turn the query round",
                ),
            )
        if true is not None:
            oldest = self.look(true)
            if not oldest.is_true:
                raise UsageError(
                    f"it is not true for {oldest.commit} either{_why(oldest)}",
                    next_step=Hint("name an earlier one, ", Advice.BISECT_FROM(**self._typed)),
                )
            return false, true
        distance = 1
        while self._line.at(false + 1) is not None:
            further = false + distance
            if self._line.at(further) is None:
                further = len(self._line) - 1
            if self.look(further).is_true:
                return false, further
            false, distance = further, distance * 2
        raise UsageError(
            f"it is false for each of the {len(self.steps)} commits that were tried, back to the "
            f"first, {self.steps[-1].commit}{_why(self.steps[-1])}"
            if distance > 1
            else f"it is false for the first commit, {self.steps[-1].commit}{_why(newest)}",
            next_step=Hint(
                "check the query, or name a commit for which it is true, ",
                Advice.BISECT_FROM(**self._typed),
            ),
        )


def _why(step: BisectStep) -> str:
    return "" if step.failure is None else f": {step.failure}"


def check_query(sql: str) -> None:
    """Raise UsageError for what is not one SELECT, or one with VALUES or WITH.

    What it reads need not exist: each commit has its own schema.
    """
    if not _QUERY.match(sql):
        raise UsageError("the SQL is not a SELECT", next_step=_STEP)
    ends = (at + 1 for at, found in enumerate(sql) if found == ";" and apsw.complete(sql[: at + 1]))
    end = next(ends, len(sql))
    if sql[end:].strip():
        raise UsageError("the SQL has more than one statement", next_step=_STEP)


def _ask(volume: Volume, snapshot: Snapshot, sql: str) -> tuple[bool, str | None]:
    """Return whether a query is true on a snapshot, and why it failed; raises errors of reading."""
    with connected(volume, {"main": snapshot}) as connection:
        try:
            for row in connection.execute(sql):
                return bool(connection.execute("SELECT ?1 IS TRUE", (row[0],)).get), None
        except _FAILURES as error:
            if isinstance(error.__cause__, GraftError):
                raise unreadable(error) from error
            return False, str(error)
        except apsw.ReadOnlyError:
            raise UsageError("the SQL writes to the database", next_step=_STEP) from None
        except apsw.BindingsError:
            raise UsageError("the SQL has parameters", next_step=_STEP) from None
        except apsw.Error as error:
            raise unreadable(error) from error
    return False, None
