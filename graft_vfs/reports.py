"""Results of the verbs: typed facts and their texts.

A number's name ends with its unit: `…_ms` are milliseconds, since 1970 in UTC for a point in time;
`…_bytes` are bytes; `…_lsn` is an LSN, 0 for none. Each class documents its other numbers.
"""

from __future__ import annotations

import datetime as dt
import enum
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import apsw

from graft_vfs.advice import Advice, Audience, Hint, Step, Worded
from graft_vfs.format.commit import VERSION as FORMAT_VERSION
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.pages import LocalLsn, RemoteLsn
from graft_vfs.standing import Standing
from graft_vfs.version import __version__

Progress = Callable[[int, int], None]
"""Called by a long-running verb with the amount done and the total."""


def time_text(time_ms: int | None) -> str:
    """Return a time as ISO 8601 in UTC with whole seconds, `never` for None."""
    return "never" if time_ms is None else _iso_text(time_ms, "seconds")


def commit_time_text(time_ms: int) -> str:
    """Return a commit's time with milliseconds, so that `as_of` with this text selects it."""
    return _iso_text(time_ms, "milliseconds")


def _iso_text(time_ms: int, precision: str) -> str:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=time_ms)
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def age_text(time_ms: int) -> str:
    """Return how long ago a time was, such as `5 minutes ago`; clocks may differ a little."""
    seconds = max(0, time.time_ns() // 1_000_000 - time_ms) // 1000
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= length or unit == "second":
            count = seconds // length
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    raise AssertionError("the loop returns")


def _moment_text(time_ms: int | None) -> str:
    """Return a time, and how long ago it was."""
    age = "" if time_ms is None else f" ({age_text(time_ms)})"
    return f"{time_text(time_ms)}{age}"


def size_text(size_bytes: int) -> str:
    """Return a readable size, such as `8.0 KiB`."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the loop returns")


def commits_text(count: int) -> str:
    """Return `1 commit` or `n commits`."""
    return "1 commit" if count == 1 else f"{count} commits"


def pages_text(count: int) -> str:
    """Return `1 page` or `n pages`."""
    return "1 page" if count == 1 else f"{count} pages"


def first_line(message: str) -> str:
    """Return the first line of a message."""
    return message.partition("\n")[0]


class Report:
    """What a verb returns: `str()` is its text, `repr()` one line; a notebook shows its fields."""

    __slots__ = ()

    def summary(self) -> str:
        """Return what one wants to know first, on one line."""
        return " ".join(str(self).partition("\n")[0].split())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary()}>"

    def _repr_html_(self) -> str:
        """Return the fields as a table, for Jupyter and what is like it."""
        import html  # noqa: PLC0415 - for start-up

        rows = "".join(
            f"<tr><th style='text-align: left'>{name}</th><td>{html.escape(value)}</td></tr>"
            for name, value in _field_texts(self)
        )
        return f"<table><caption>{html.escape(self.summary())}</caption>{rows}</table>"


def _field_texts(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the fields of a report that have a value, as (name, text) for people."""
    for field in getattr(report, "__dataclass_fields__", ()):
        value = getattr(report, field)
        if isinstance(value, enum.Enum):
            value = value.value
        if isinstance(value, (tuple, list)):
            value = ", ".join(map(str, value))
        if value is None or value == "":
            continue
        name, _, unit = field.rpartition("_")
        if unit in _UNIT_TEXTS:
            yield name.replace("_", " "), _UNIT_TEXTS[unit](value)
        else:
            yield field.replace("_", " "), str(value)


_UNIT_TEXTS: dict[str, Callable[[int], str]] = {"ms": time_text, "bytes": size_text}


@dataclass(frozen=True, slots=True, repr=False)
class TagReport(Report):
    """One tag and the volume that it names."""

    tag: str
    volume: VolumeId
    current: bool = False

    def __str__(self) -> str:
        return f"{'*' if self.current else ' '} {self.tag}  {self.volume}"


@dataclass(frozen=True, slots=True, repr=False)
class VolumeReport(Report):
    """One volume: its position and its tags.

    A `problem` is the reason why it cannot be opened; both LSNs are then None.
    """

    volume: VolumeId
    branch: LogId
    remote: LogId
    local_lsn: LocalLsn | None
    base_lsn: RemoteLsn | None
    tags: tuple[str, ...]
    problem: str | None = None

    def __str__(self) -> str:
        tags = ", ".join(self.tags) or "no tag"
        if self.problem is not None:
            return f"{self.volume}  cannot be opened: {self.problem}  ({tags})"
        return (
            f"{self.volume}  local {self.branch}@{self.local_lsn}  "
            f"remote {self.remote}@{self.base_lsn}  ({tags})"
        )


@dataclass(frozen=True, slots=True, repr=False)
class RemoteLogReport(Report):
    """A log on the remote, its newest LSN, and the refs that name it."""

    log: LogId
    newest_lsn: RemoteLsn
    refs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.log}  LSN {self.newest_lsn}  ({', '.join(self.refs) or 'no ref'})"


@dataclass(frozen=True, slots=True, repr=False)
class RemoteReport(Report):
    """A remote with a name in the data directory, its URL, and how many `logs` live on it."""

    name: str
    url: str
    logs: int

    def __str__(self) -> str:
        logs = "1 log" if self.logs == 1 else f"{self.logs} logs"
        return f"{self.name}  {self.url}  ({logs})"


@dataclass(frozen=True, slots=True, repr=False)
class LostVolume(Report):
    """A volume that the catalog lacks, or, with `is_known`, has only in an older state.

    `tags` and `base_lsn` come from the volume's files, None if these cannot be read. The branch
    file was last written at about `written_ms`.
    """

    volume: VolumeId
    is_known: bool
    tags: tuple[str, ...]
    base_lsn: RemoteLsn | None
    written_ms: int | None

    def __str__(self) -> str:
        what = "the catalog is older than it" if self.is_known else "the catalog does not know it"
        base = "" if self.base_lsn is None else f", over LSN {self.base_lsn}"
        was = f"was {', '.join(self.tags) or 'without a tag'}{base}"
        written = "" if self.written_ms is None else f", written {_moment_text(self.written_ms)}"
        return f"{self.volume}  {what}  ({was}{written})"


@dataclass(frozen=True, slots=True, repr=False)
class Adopted(Report, Worded):
    """An adopted volume: its tags, and the commit it is based on; `local_commits` are unpushed."""

    volume: VolumeId
    tags: tuple[str, ...]
    remote: LogId
    base_lsn: RemoteLsn
    local_commits: int

    def words(self, audience: Audience) -> str:
        """Return the report for one audience."""
        named = f"tag {', '.join(self.tags)}" if self.tags else "no tag"
        name = Advice.SWITCH(VOLUME=str(self.volume)).words(audience)
        step = "" if self.tags else f"\n  (use {name} to name it)"
        return (
            f"Adopted volume {self.volume} with {named}: {commits_text(self.local_commits)} over "
            f"LSN {self.base_lsn} of log {self.remote}.{step}"
        )


class AutosyncRole(enum.Enum):
    """The role of this process in the autosync of a volume."""

    LEADER = "leader"
    """It syncs the volume."""

    FOLLOWER = "follower"
    """Another process syncs it; this one takes over when that process ends."""

    CANDIDATE = "candidate"
    """No run has started yet."""


@dataclass(frozen=True, slots=True, repr=False)
class AutosyncReport(Report):
    """The state of a volume's autosync in this process.

    `failures` counts failed runs since the last successful one. `last_error` is the error of the
    last run, and `last_run_ms` the time of the last run in which this process was the leader. Times
    are milliseconds since 1970.
    """

    role: AutosyncRole
    interval_seconds: float
    diverged: bool
    failures: int
    last_run_ms: int | None
    last_error: str | None
    next_run_ms: int

    def __str__(self) -> str:
        again = time_text(self.next_run_ms)
        if self.role is AutosyncRole.CANDIDATE:
            return f"Autosync: every {self.interval_seconds:g} s, first at {again}."
        if self.role is AutosyncRole.FOLLOWER:
            return f"Autosync: another process syncs the volume; this one asks again at {again}."
        if self.diverged:
            return "Autosync: waits until the divergence is resolved."
        if self.last_error is not None:
            times = f"{self.failures} times in a row" if self.failures > 1 else "once"
            failed = f"failed {times}" if self.failures else "found the volume busy"
            return f"Autosync: {failed}, again at {again}: {self.last_error}"
        return (
            f"Autosync: every {self.interval_seconds:g} s, last at {time_text(self.last_run_ms)}, "
            f"next at {again}."
        )


@dataclass(frozen=True, slots=True, repr=False)
class Status(Report, Worded):
    """A volume relative to its remote log.

    `ahead` counts local commits, as a push does. `behind` counts fetched remote commits after the
    branch's base; the oldest of these was pushed at `behind_since_ms`. `autosync` is None if this
    process does not sync the volume automatically. `warning` says why the log has no ref, and
    `advice` what to do about it. `unpublished_fork` is true until a fork is pushed, even without
    local commits. The remote last answered a sync at `last_checked_ms`, and a sync
    last moved the volume at `last_moved_ms`. `kept_branches` counts the branches that it keeps.
    """

    tag: str
    volume: VolumeId
    branch: LogId
    remote: LogId
    local_lsn: LocalLsn
    base_lsn: RemoteLsn
    ahead: int
    behind: int
    attached: bool
    pending_push: bool
    last_checked_ms: int | None
    last_moved_ms: int | None
    last_error: str | None
    behind_since_ms: int | None
    autosync: AutosyncReport | None = None
    warning: str | None = None
    unpublished_fork: bool = False
    advice: Hint | None = None
    has_remote: bool = True
    kept_branches: int = 0

    @property
    def state(self) -> Standing:
        """How the volume stands, in one word."""
        return Standing.of(
            has_remote=self.has_remote,
            ahead=self.ahead,
            behind=self.behind,
            unpublished=self.unpublished_fork,
            attached=self.attached,
        )

    @property
    def last_sync_ms(self) -> int | None:
        """`last_checked_ms`, under its former name."""
        return self.last_checked_ms

    @property
    def diverged(self) -> bool:
        """Return True if both sides have commits that the other lacks."""
        return (self.ahead > 0 or self.unpublished_fork) and self.behind > 0

    def words(self, audience: Audience) -> str:
        """Return the report for one audience."""
        text, *steps = self._position()
        lines = [
            f"On tag {self.tag}",
            (
                f"Local branch {self.branch} is grafted on remote log {self.remote} "
                f"at LSN {self.base_lsn}."
            ),
            "",
            text,
            *(f"  ({step.words(audience)})" for step in steps),
        ]
        if self.behind_since_ms is not None:
            lines.append(f"Behind since {_moment_text(self.behind_since_ms)}.")
        is_unknown = self.attached and self.last_checked_ms is None
        checked = "not recorded" if is_unknown else _moment_text(self.last_checked_ms)
        lines.append(f"Last sync: {checked}.")
        if self.last_moved_ms is not None:
            lines.append(f"Last change by a sync: {_moment_text(self.last_moved_ms)}.")
        if self.pending_push:
            lines.append("A push has not been settled; the next sync settles it first.")
        if self.last_error:
            lines.append(f"The last sync failed: {self.last_error}")
        if self.kept_branches:
            many = "es" * (self.kept_branches > 1)
            listed = self._use(Advice.LIST_BRANCHES).words(audience)
            lines.append(f"{self.kept_branches} branch{many} with unpushed commits kept: {listed}.")
        if self.warning:
            lines.append(f"Warning: {self.warning}.")
        if self.advice is not None:
            lines.append(f"  ({self.advice.words(audience)})")
        if self.autosync is not None:
            lines.append(str(self.autosync))
        return "\n".join(lines)

    def summary(self) -> str:
        """Return the tag, and where the volume stands."""
        return f"{self.tag}: {self._position()[0]}".replace("\n", " ")

    def _position(self) -> tuple[str, *tuple[Hint, ...]]:
        """Return the volume's position, and the next step."""
        if self.diverged:
            counts = f"{self.ahead} and {self.behind} different commits each, respectively"
            text = f"The Volume and the remote have diverged,\nand have {counts}."
            reset, fork = self._use(Advice.PULL_RESET), self._use(Advice.PULL_FORK)
            return (
                text,
                Hint("use ", self._use(Advice.REBASE), " to merge the rows of both"),
                Hint("use ", reset, " to follow the remote and keep the local commits as a branch"),
                Hint("use ", fork, " to follow it and make them a new volume"),
            )
        if self.ahead:
            text = f"The Volume is ahead of the remote by {commits_text(self.ahead)}."
            return text, Hint(
                "use ", self._use(Advice.PUSH), " to publish ", "it" if self.ahead == 1 else "them"
            )
        if self.unpublished_fork:
            text = "This fork was not pushed yet."
            return text, Hint("use ", self._use(Advice.PUSH), " to publish it")
        if self.behind:
            text = f"The Volume is behind the remote by {commits_text(self.behind)}."
            return text, Hint("use ", self._use(Advice.PULL), " to get them")
        if not self.attached:
            text = "There are no commits yet, local or remote."
            return text, Hint("commit something, then use ", self._use(Advice.PUSH))
        return ("The Volume is up to date with the remote.",)

    def _use(self, advice: Advice) -> Step:
        return advice(TAG=self.tag)


@dataclass(frozen=True, slots=True, repr=False)
class Info(Report):
    """A volume and its newest snapshot in numbers.

    The last sync ended at local LSN `synced_local` and remote LSN `synced_remote`. The snapshot has
    `pages` pages of `page_size` bytes; both are 0 before the first commit.
    """

    tag: str
    volume: VolumeId
    branch: LogId
    remote: LogId
    synced_local: int | None
    synced_remote: int | None
    synced_ms: int | None
    snapshot: str
    pages: int
    page_size: int
    remote_url: str | None = None
    """Where other machines can clone the log from."""

    @property
    def size_bytes(self) -> int:
        """Size of the database in bytes."""
        return self.pages * self.page_size

    def summary(self) -> str:
        """Return the tag, its snapshot, and how large it is."""
        return f"{self.tag}: {self.snapshot}, {size_text(self.size_bytes)}"

    def __str__(self) -> str:
        is_based = str(self.remote) in self.snapshot
        synced = "not recorded" if is_based else "never"
        if self.synced_remote is not None:
            synced = (
                f"local LSN {self.synced_local}, remote LSN {self.synced_remote} "
                f"({time_text(self.synced_ms)})"
            )
        rows = (
            ("Tag", self.tag),
            ("Volume", self.volume),
            ("Local", self.branch),
            ("Remote", self.remote),
            ("Remote URL", self.remote_url or "none"),
            ("Last sync", synced),
            ("Snapshot", self.snapshot),
            ("Snapshot pages", self.pages),
            ("Snapshot size", size_text(self.size_bytes)),
        )
        return "\n".join(f"{name + ':':<16}{value}" for name, value in rows)


@dataclass(frozen=True, slots=True, repr=False)
class LogEntry(Report):
    """One commit in the history of a volume: local or remote.

    It changed `pages` pages; `page_count` is the size of the database after it. `stored_bytes` is
    its stored size: compressed on a remote, page images in the branch log. It contains
    `local_commits` of its author's local commits. `names` are the names of it that are known here.
    `ref` names it, and `log` is the remote log or local branch that it is in. What it changed in
    `schema` and `tables` is None unless that was asked for.
    """

    where: str
    lsn: LocalLsn | RemoteLsn
    time_ms: int
    pages: int
    page_count: int
    author: str
    local_commits: int
    stored_bytes: int
    message: str = ""
    names: tuple[str, ...] = ()
    log: LogId | None = None
    ref: str = ""
    schema: tuple[SchemaDiff, ...] | None = None
    tables: tuple[TableDiff, ...] | None = None

    def __str__(self) -> str:
        who = "  not pushed" if self.where == "local" else f"  {self.author}"
        is_rolled = self.where == "remote" or self.local_commits > 1
        rolled = f"  ({commits_text(self.local_commits)})" if is_rolled else ""
        names = f"  [{', '.join(self.names)}]" if self.names else ""
        said = f"  {first_line(self.message)}" if self.message else ""
        return (
            f"{self.where:<6} {self.lsn:>6}  {commit_time_text(self.time_ms)}  "
            f"{size_text(self.stored_bytes):>10}  "
            f"{self.pages} of {self.page_count} pages{rolled}{who}{names}{said}"
        )


@dataclass(frozen=True, slots=True, repr=False)
class CommitReport(Report):
    """One commit: remote, in `log`, or local, in the branch `log` and without hash and frames.

    It changed `pages` pages; `page_count` is the size of the database after it. `stored_bytes` is
    its stored size: compressed frames and header on a remote, page images in a branch log.
    `page_size` is in bytes. It contains `local_commits` of its author's local commits; `frames`
    is the number of frames that hold its pages. `names` are the names of it that are known here.
    """

    where: str
    log: LogId
    lsn: LocalLsn | RemoteLsn
    time_ms: int
    author: str
    parent: str | None
    hash: str | None
    local_commits: int
    pages: int
    page_count: int
    page_size: int
    frames: int
    stored_bytes: int
    segment: str | None
    message: str = ""
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        size = size_text(self.pages * self.page_size)
        after = size_text(self.page_count * self.page_size)
        rows = [
            (self.where.capitalize(), f"{self.log}:{self.lsn}"),
            ("Parent", self.parent or "none"),
            ("Hash", self.hash or "none, because it is not pushed"),
            ("Author", self.author or "this machine"),
            ("Date", f"{commit_time_text(self.time_ms)} ({age_text(self.time_ms)})"),
            ("Commits", f"{commits_text(self.local_commits)} of the author"),
            ("Pages", f"{self.pages} of {self.page_count}, {size} of {after}"),
            ("Stored", f"{size_text(self.stored_bytes)}{self._place()}"),
        ]
        if self.names:
            rows.insert(1, ("Names", ", ".join(self.names)))
        text = "\n".join(f"{name + ':':<10}{value}" for name, value in rows)
        return f"{text}\n\n{textwrap.indent(self.message, '    ')}" if self.message else text

    def _place(self) -> str:
        if self.where == "local":
            return " in the branch log"
        frames = "1 frame" if self.frames == 1 else f"{self.frames} frames"
        return f" in {frames}, {f'segment {self.segment}' if self.segment else 'in the commit'}"


class Change(enum.Enum):
    """A change to an object of the schema."""

    ADDED = "added"
    DROPPED = "dropped"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, repr=False)
class SchemaDiff(Report):
    """A table, index, view or trigger that was added, dropped or redefined."""

    kind: str
    name: str
    change: Change

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.change.value}"


@dataclass(frozen=True, slots=True, repr=False)
class TableDiff(Report):
    """How many rows were `inserted`, `deleted`, `updated`; None if that is unknown, see `note`.

    Rows are matched by rowid, or by primary key in a table WITHOUT ROWID. If the columns changed,
    only common columns are compared.
    """

    table: str
    inserted: int | None
    deleted: int | None
    updated: int | None
    note: str | None

    def __str__(self) -> str:
        if self.note is not None:
            return f"rows of {self.table}: not compared: {self.note}"
        return (
            f"rows of {self.table}: {self.inserted} inserted, {self.deleted} deleted, "
            f"{self.updated} updated"
        )


@dataclass(frozen=True, slots=True, repr=False)
class Diff(Report):
    """The changes between two commits. `by_pages` is true if only changed pages were read.

    `pages_changed` of `page_count` pages may differ; `page_count` is that of the larger database.
    """

    tag: str
    older: str
    newer: str
    schema: tuple[SchemaDiff, ...]
    tables: tuple[TableDiff, ...]
    pages_changed: int
    page_count: int
    by_pages: bool

    def __str__(self) -> str:
        found = [f"  {item}" for item in (*self.schema, *self.tables)]
        how = "other rows were not read" if self.by_pages else "all rows were compared"
        return "\n".join(
            (
                f"From {self.older} to {self.newer}:",
                *(found or ["  nothing changed in the schema or in the rows of a table"]),
                f"  ({self.pages_changed} of {pages_text(self.page_count)} may differ; {how})",
            )
        )


@dataclass(frozen=True, slots=True, repr=False)
class Audit(Report, Worded):
    """How much of a snapshot's remote part is cached locally: `present` of `total` pages."""

    present: int
    total: int
    checksum: str | None
    tag: str = ""

    def words(self, audience: Audience) -> str:
        """Return the report for one audience."""
        share = 100.0 * self.present / self.total if self.total else 100.0
        text = f"Cached {self.present} of {self.total} pages ({share:.2f}%) from the remote Log."
        if self.checksum is None:
            step = Advice.HYDRATE(TAG=self.tag) if self.tag else Advice.HYDRATE
            return f"{text}\n  (use {step.words(audience)} to fetch the rest)"
        return f"{text}\nChecksum: {self.checksum}"


@dataclass(frozen=True, slots=True, repr=False)
class Hydrated(Report):
    """How many `pages` a hydrate fetched."""

    pages: int

    def __str__(self) -> str:
        return f"Fetched {pages_text(self.pages)}."


@dataclass(frozen=True, slots=True, repr=False)
class Moved(Report):
    """A tag that was pointed at another volume, and that volume's position."""

    tag: str
    volume: VolumeId
    log: LogId
    lsn: RemoteLsn
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.volume} on remote {self.log} at LSN {self.lsn}; tag {self.tag}"


@dataclass(frozen=True, slots=True, repr=False)
class Versions(Report):
    """The versions to include in a bug report; `format` is that of remote objects."""

    graft: str
    format: int
    apsw: str
    sqlite: str

    @classmethod
    def current(cls) -> Versions:
        """Return the versions that this process uses."""
        return cls(__version__, FORMAT_VERSION, apsw.apsw_version(), apsw.sqlite_lib_version())

    def __str__(self) -> str:
        return (
            f"graft-vfs {self.graft}, format {self.format}, apsw {self.apsw}, SQLite {self.sqlite}"
        )
