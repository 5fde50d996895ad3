"""What the verbs report: typed facts, and the texts that people and scripts know."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from graft_vfs.ids import LogId, VolumeId


def time_text(time_ms: int | None) -> str:
    """Return a time as ISO 8601 in UTC, `never` for None."""
    if time_ms is None:
        return "never"
    moment = dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def size_text(size_bytes: int) -> str:
    """Return a size for people, such as `8.0 KiB`."""
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


@dataclass(frozen=True, slots=True)
class TagReport:
    """One tag and the volume that it names."""

    tag: str
    volume: VolumeId
    current: bool = False

    def __str__(self) -> str:
        return f"{'*' if self.current else ' '} {self.tag}  {self.volume}"


@dataclass(frozen=True, slots=True)
class VolumeReport:
    """One volume: where it stands, and which tags name it."""

    volume: VolumeId
    branch: LogId
    remote: LogId
    local_lsn: int
    base_lsn: int
    tags: tuple[str, ...]

    def __str__(self) -> str:
        tags = ", ".join(self.tags) or "no tag"
        return (
            f"{self.volume}  local {self.branch}@{self.local_lsn}  "
            f"remote {self.remote}@{self.base_lsn}  ({tags})"
        )


@dataclass(frozen=True, slots=True)
class Status:
    """How a volume stands to its remote log.

    `ahead` counts local commits, `behind` remote commits known here that the branch does not
    stand on.
    """

    tag: str
    volume: VolumeId
    branch: LogId
    remote: LogId
    local_lsn: int
    base_lsn: int
    ahead: int
    behind: int
    attached: bool
    pending_push: bool
    last_sync_ms: int | None
    last_error: str | None

    @property
    def diverged(self) -> bool:
        """Tell whether both sides have commits that the other lacks."""
        return self.ahead > 0 and self.behind > 0

    def __str__(self) -> str:
        lines = [
            f"On tag {self.tag}",
            (
                f"Local branch {self.branch} is grafted on remote log {self.remote} "
                f"at LSN {self.base_lsn}."
            ),
            "",
            *self._position(),
        ]
        if self.pending_push:
            lines.append("A push has not been settled; the next sync settles it first.")
        if self.last_error:
            lines.append(f"The last sync failed: {self.last_error}")
        return "\n".join(lines)

    def _position(self) -> list[str]:
        if self.diverged:
            return [
                "The Volume and the remote have diverged,",
                f"and have {commits_text(self.ahead)} and {commits_text(self.behind)} each.",
                '  (use "PRAGMA graft_export" or "PRAGMA graft_fork" to keep the local commits)',
            ]
        if self.ahead:
            return [
                f"The Volume is ahead of the remote by {commits_text(self.ahead)}.",
                '  (use "PRAGMA graft_push" to publish them)',
            ]
        if self.behind:
            return [
                f"The Volume is behind the remote by {commits_text(self.behind)}.",
                '  (use "PRAGMA graft_pull" to get them)',
            ]
        if not self.attached:
            return [
                "The Volume has no commits yet, and the remote none of it.",
                '  (commit something, then use "PRAGMA graft_push")',
            ]
        return ["The Volume is up to date with the remote."]


@dataclass(frozen=True, slots=True)
class Info:
    """A volume and its snapshot in numbers."""

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

    @property
    def size_bytes(self) -> int:
        """Size of the database in bytes."""
        return self.pages * self.page_size

    def __str__(self) -> str:
        synced = "never"
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
            ("Last sync", synced),
            ("Snapshot", self.snapshot),
            ("Snapshot pages", self.pages),
            ("Snapshot size", size_text(self.size_bytes)),
        )
        return "\n".join(f"{name + ':':<16}{value}" for name, value in rows)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One commit in the history of a volume: local or remote."""

    where: str
    lsn: int
    time_ms: int
    pages: int
    page_count: int
    author: str
    local_commits: int

    def __str__(self) -> str:
        who = f"  {self.author}" if self.author else ""
        rolled = f"  ({commits_text(self.local_commits)})" if self.where == "remote" else ""
        return (
            f"{self.where:<6} {self.lsn:>6}  {time_text(self.time_ms)}  "
            f"{self.pages} of {self.page_count} pages{rolled}{who}"
        )


@dataclass(frozen=True, slots=True)
class Audit:
    """How much of the remote part of a snapshot is on this machine."""

    present: int
    total: int
    checksum: str | None

    def __str__(self) -> str:
        share = 100.0 * self.present / self.total if self.total else 100.0
        text = f"Cached {self.present} of {self.total} pages ({share:.2f}%) from the remote Log."
        if self.checksum is None:
            return f'{text}\n  (use "PRAGMA graft_hydrate" to fetch the rest)'
        return f"{text}\nChecksum: {self.checksum}"


@dataclass(frozen=True, slots=True)
class Hydrated:
    """How many pages a hydrate brought here."""

    pages: int

    def __str__(self) -> str:
        return f"Fetched {pages_text(self.pages)}."


@dataclass(frozen=True, slots=True)
class Moved:
    """A tag that names another volume now, and where that stands."""

    tag: str
    volume: VolumeId
    log: LogId
    lsn: int
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.volume} on remote {self.log} at LSN {self.lsn}; tag {self.tag}"


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions that matter for a report."""

    graft: str
    format: int
    apsw: str
    sqlite: str

    def __str__(self) -> str:
        return (
            f"graft-vfs {self.graft}, format {self.format}, apsw {self.apsw}, SQLite {self.sqlite}"
        )
