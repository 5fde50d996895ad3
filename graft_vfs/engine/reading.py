"""The verbs of an engine that change nothing: what is there, and what was."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

from graft_vfs.engine.opened import OpenEngine
from graft_vfs.engine.status import (
    VolumeStatus,
    examined,
    info_of,
    metrics_of,
    status_of,
    statuses,
    volume_reports,
)
from graft_vfs.errors import GraftError
from graft_vfs.history import branches as branching
from graft_vfs.history import commit_names, names
from graft_vfs.history import commits as history
from graft_vfs.history.branches import BranchReport
from graft_vfs.history.commit_names import NameReport
from graft_vfs.history.refs import parse
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.rows import VolumeRow
from graft_vfs.local.files import importing
from graft_vfs.metrics import Metrics
from graft_vfs.remote.log import list_logs
from graft_vfs.remote.refs import list_refs
from graft_vfs.reports import (
    Audit,
    CommitReport,
    Diff,
    Info,
    LogEntry,
    Progress,
    RemoteLogReport,
    RemoteReport,
    SchemaDiff,
    Status,
    TagReport,
    Versions,
    VolumeReport,
)
from graft_vfs.sqlite_format.header import HEADER_BYTES
from graft_vfs.sync.remotes import find_remote
from graft_vfs.sync.sources import Source, find_source
from graft_vfs.view.log_view import LogView
from graft_vfs.volume.context import Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

if TYPE_CHECKING:
    from graft_vfs.history.bisect import Bisected, BisectStep
    from graft_vfs.history.graph import LogLine
    from graft_vfs.history.rows import NotCompared, RowChange
    from graft_vfs.maintenance.disk_usage import DiskUsage
    from graft_vfs.maintenance.remote_usage import RemoteUsage


class ReadingEngine(OpenEngine):
    """The verbs that report, compare and look up; see `Graft` for the errors of all verbs."""

    def resolve(self, tag: str | Opened, ref: str) -> names.Commit:
        """Return the commit that a ref means: an LSN, HEAD~2, a name, a time, local:3, LOG:LSN.

        No request if the commit is known here; else those of a fetch, and one to look up a name.
        `graft help history` has all forms. Raises NotFoundError if there is no such commit,
        UsageError.
        """
        return names.resolve(self.logs, ref, self._opened(tag).volume)

    def snapshot_at(
        self,
        tag: str | Opened,
        ref: str | None = None,
        *,
        lsn: int | str | None = None,
        as_of: str | None = None,
    ) -> Snapshot:
        """Return the volume as of a commit; a read-only view.

        The commit is given as a ref, as `lsn`, or as `as_of`, in which digits alone may be a time.
        Requests and errors are those of `resolve`.
        """
        opened = self._opened(tag)
        text = ref if ref is not None else lsn
        found = parse(str(text)) if text is not None else parse(as_of or "", prefers_time=True)
        commit = names.resolve(self.logs, found, opened.volume)
        return names.snapshot_of(opened.volume, self.logs, commit)

    def tags(self, current: str | None = None) -> list[TagReport]:
        """Return all tags, with `current` marked. No request."""
        return [TagReport(tag, volume, tag == current) for tag, volume in self.catalog.tags()]

    def volumes(self) -> list[VolumeReport]:
        """Return all volumes, oldest first, with the tags that name them. No request.

        A volume that cannot be opened has a row that says why.
        """
        return volume_reports(self.context)

    def examined(self) -> Iterator[tuple[VolumeRow, Snapshot | GraftError]]:
        """Open each volume, oldest first, and yield its newest snapshot, or the error.

        No request. A volume stays open only as long as its snapshot.
        """
        return examined(self.context)

    def branches(self, tag: str | Opened) -> list[BranchReport]:
        """Return the current branch of a volume, then those that are kept, the last kept first.

        No request.
        """
        return branching.branches(self._opened(tag).volume)

    def status(self, tag: str | Opened) -> Status:
        """Compare a volume with its remote, as of the last fetch. No request."""
        return status_of(self.context, self._opened(tag), self._autosync)

    def statuses(self) -> list[VolumeStatus]:
        """Compare all volumes with their remotes, as of the last fetch of each. No request.

        Those with tags come first. One that cannot be read is a row that says why.
        """
        return statuses(self.context)

    def metrics(self) -> Metrics:
        """Return counts since this engine was opened, and the state of its volumes. No request.

        Other processes on the data directory have their own counts.
        """
        return metrics_of(self.context, self._autosync)

    def info(self, tag: str | Opened) -> Info:
        """Describe a volume and its newest snapshot. No request."""
        return info_of(self.context, self._opened(tag))

    def disk_usage(self, tag: str | Opened | None = None) -> DiskUsage:
        """Return what each volume takes on disk, or one of them, and the rest. No request."""
        volume = None if tag is None else self._opened(tag).volume.id
        with importing():
            from graft_vfs.maintenance import disk_usage  # noqa: PLC0415 - for start-up

        return disk_usage.disk_usage(self.context, volume)

    def remote_usage(
        self, tag: str | Opened | None = None, *, everything: bool = False, limit: int | None = None
    ) -> list[RemoteUsage]:
        """Return what the volumes' logs, or one of them, take on each of their remotes.

        With `everything`, all logs there, and those of the configured remote. Of each log, the
        `limit` largest commits are listed. Requests: one listing a log, or one of all logs, and one
        of all segments of a remote, each with a request per 1000 objects. Raises StoreError for a
        remote without listings.
        """
        volume = None if tag is None else self._opened(tag).volume.id
        with importing():
            from graft_vfs.maintenance import remote_usage  # noqa: PLC0415 - for start-up

        return remote_usage.remote_usages(self.context, volume, everything=everything, limit=limit)

    def log(
        self, tag: str | Opened, ref: str | None = None, *, limit: int | None = None
    ) -> list[LogEntry]:
        """Return local commits, then remote ones, newest first.

        With a ref, that commit and those before it; with `A..B` those that B has and A has not.
        Requests and errors are those of `resolve` for these, and one request for each commit of the
        list whose header is not known here, 32 at a time.
        """
        return history.entries(self._opened(tag).volume, self.logs, limit, ref)

    def log_lines(
        self,
        tag: str | Opened,
        ref: str | None = None,
        *,
        graph: bool = False,
        stat: bool = False,
        limit: int | None = None,
    ) -> Generator[LogLine, None, None]:
        """Yield what `log` lists, one commit after another.

        With `graph`, also the known commits that the volume does not have: those to be pulled, and
        those after a fork. With `stat`, each with the tables that it changed, which costs the
        requests of a diff. Close the iterator, as with `contextlib.closing`, in the same thread.
        """
        with importing():
            from graft_vfs.history import graph as drawing  # noqa: PLC0415 - for start-up

        volume = self._opened(tag).volume
        yield from drawing.lines(volume, self.logs, ref, graph=graph, stat=stat, limit=limit)

    def show(self, tag: str | Opened, ref: str | None = None) -> CommitReport:
        """Describe the commit that a ref means, by default HEAD.

        Requests and errors are those of `resolve`.
        """
        return history.show(self._opened(tag).volume, self.logs, ref or "HEAD")

    def bisect(
        self,
        tag: str | Opened,
        sql: str,
        *,
        good: str | None = None,
        bad: str | None = None,
        step: Callable[[BisectStep], None] | None = None,
    ) -> Bisected:
        """Find the first commit of a volume for which a query is false, by binary search.

        `sql` is one SELECT. It is false if the first column of its first row is 0 or NULL, if there
        is no row, and if it fails. `good` and `bad` are refs as for `resolve`: it is true for the
        one and false for the other, later one, by default HEAD. Without `good`, commits before
        `bad` are tried in distances that double. `step` is called with each commit that was looked
        at: about log2 of their number, or twice as many without `good`. Requests: those of
        `resolve`, and for pages and headers of these commits that are not known here. Raises
        UsageError for what is no query, and if it is true for `bad` or false for `good`.
        """
        with importing():
            from graft_vfs.history import bisect  # noqa: PLC0415 - for start-up

        return bisect.bisect(self._opened(tag), self.logs, sql, good=good, bad=bad, step=step)

    def diff(
        self,
        tag: str | Opened,
        older: str | None = None,
        newer: str | None = None,
        *,
        progress: Progress | None = None,
    ) -> Diff:
        """Return the changes to the schema and to the rows of tables between two commits.

        Each is a ref as for `resolve`. `older` alone may be `A..B`, else it is compared with HEAD;
        by default BASE and HEAD are compared: what a push would publish. `progress` counts key
        ranges. Cost: the interior pages of all tables and the changed leaves, or all pages of both
        commits if the pages alone do not show what changed; requests for pages that are not cached.
        Raises what `resolve` and reading raise.
        """
        with importing():
            from graft_vfs.history import diff as comparing  # noqa: PLC0415 - for start-up

        return comparing.diff(self._opened(tag), self.logs, older, newer, progress=progress)

    def diff_rows(
        self, tag: str | Opened, older: str | None = None, newer: str | None = None
    ) -> Generator[SchemaDiff | RowChange | NotCompared, None, None]:
        """Yield what changed in the schema, then each row that differs, with its values.

        Memory is for one row. Commits, requests and errors are those of `diff`, as the iterator
        goes on. Use it in one thread and close it, as with `contextlib.closing`: until then it
        holds both commits.
        """
        with importing():
            from graft_vfs.history import diff as comparing  # noqa: PLC0415 - for start-up
            from graft_vfs.history import rows  # noqa: PLC0415

        volume = self._opened(tag).volume
        with comparing.commit_pair(volume, self.logs, older, newer) as pair:
            yield from rows.changes(volume, pair)

    def diff_sql(
        self, tag: str | Opened, older: str | None = None, newer: str | None = None
    ) -> Generator[str, None, None]:
        """Yield SQL that turns a plain file of the older commit into the newer one.

        It is one transaction, some whole statements at a time. Requests and all else are as for
        `diff_rows`. Raises UsageError for a table whose rows cannot be compared.
        """
        with importing():
            from graft_vfs.history import diff as comparing  # noqa: PLC0415 - for start-up
            from graft_vfs.history import patch  # noqa: PLC0415

        volume = self._opened(tag).volume
        with comparing.commit_pair(volume, self.logs, older, newer) as pair:
            yield from patch.statements(volume, pair)

    def audit(self, tag: str | Opened, *, progress: Progress | None = None) -> Audit:
        """Count the cached remote pages; if all are cached, verify and checksum the content.

        No request. `progress` counts pages.
        """
        with importing():
            from graft_vfs.plain import transfer  # noqa: PLC0415 - for start-up

        opened = self._opened(tag)
        with opened.volume.pinned() as snapshot:
            present = total = 0
            if isinstance(snapshot.remote, LogView):
                present, total = snapshot.remote.pages_present()
            checksum = None
            if present == total:
                checksum = transfer.checksum(snapshot, progress)
            return Audit(present, total, checksum, opened.tag)

    @staticmethod
    def versions() -> Versions:
        """Return the versions of this program and of the libraries it uses. No request."""
        return Versions.current()

    def refs(self, remote: str | None = None) -> list[tuple[str, LogId]]:
        """Return a remote's refs. One listing, and one request a ref, 32 at a time.

        `remote` is a name or a URL, by default the configured one. Raises NotFoundError.
        """
        return list(list_refs(find_remote(self.logs, remote)))

    def remote_logs(self, remote: str | None = None) -> list[RemoteLogReport]:
        """Return a remote's logs with their refs. Two requests a log, and those of `refs`."""
        store = find_remote(self.logs, remote)
        names: dict[LogId, list[str]] = {}
        for name, log_id in list_refs(store):
            names.setdefault(log_id, []).append(name)
        return [
            RemoteLogReport(log_id, newest, tuple(names.get(log_id, ())))
            for log_id, newest in list_logs(store)
        ]

    def named_remotes(self) -> list[RemoteReport]:
        """Return the remotes that have a name here, and how many logs live on each. No request."""
        rows = self.catalog.remotes
        return [RemoteReport(name, url, len(rows.logs_on(name))) for name, url in rows.all()]

    def source(self, text: str) -> Source:
        """Return what a ref, a log id or a URL names. No request, but one for a URL.

        Raises UsageError for what is no URL or names several refs, NotFoundError.
        """
        return find_source(self.logs, text)

    def names(self, tag: str | Opened) -> list[NameReport]:
        """Return the names of commits of the volume's log and of its parents, newest LSN first.

        One listing a log, and one request a name, 32 at a time.
        """
        return commit_names.listed(self.context, self._opened(tag))

    def dump_header(self, volume: Volume) -> str:
        """Return the first 100 bytes of the database, for debugging.

        No request, or one if page 1 is not cached.
        """
        image = volume.begin().read(1)[:HEADER_BYTES]
        return "\n".join(
            f"{at:02x}: {image[at : at + 16].hex(' ')}" for at in range(0, len(image), 16)
        )

    def dump_commit(self, spec: str, volume: Volume | None = None) -> str:
        """Describe a remote commit, given as a ref of the volume, or as LOG:LSN without one.

        Requests and errors are those of `resolve`. Raises UsageError for a local commit.
        """
        facts = self.commit_facts(spec, volume)
        return "\n".join(f"{name}: {value}".replace("\n", "\\n") for name, value in facts.items())

    def commit_facts(self, spec: str, volume: Volume | None = None) -> dict[str, LogId | int | str]:
        """Return the fields of `dump_commit` by name, with the same requests and errors."""
        found = names.resolve_remote(self.logs, spec, volume)
        return history.commit_facts(self.logs, found.log, found.lsn)
