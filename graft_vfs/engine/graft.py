"""The engine: opens a data directory and a remote, and runs every verb on tags.

This is the composition root: it puts stores, catalog, logs and volumes together. The VFS, the
command line and programs call it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Collection, Generator, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from graft_vfs.engine import moving, signals, syncing
from graft_vfs.engine.autosync import Autosync, Clock
from graft_vfs.engine.config import Config
from graft_vfs.engine.context import Pool, open_context
from graft_vfs.engine.status import (
    VolumeStatus,
    examined,
    info_of,
    metrics_of,
    status_of,
    statuses,
    volume_reports,
)
from graft_vfs.errors import ForkedProcessError, GraftError
from graft_vfs.history import commit_names, names
from graft_vfs.history import commits as history
from graft_vfs.history.commit_names import NameReport
from graft_vfs.history.refs import parse
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.catalog.rows import VolumeRow
from graft_vfs.local.files import importing
from graft_vfs.maintenance import adopt as adopting
from graft_vfs.maintenance import collect as collecting
from graft_vfs.maintenance.collect import CollectedVolume
from graft_vfs.metrics import Metrics
from graft_vfs.remote.log import list_logs, list_refs
from graft_vfs.reports import (
    Adopted,
    Audit,
    CommitReport,
    Diff,
    Info,
    LogEntry,
    LostVolume,
    Moved,
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
from graft_vfs.store.base import ObjectStore, Sent
from graft_vfs.store.none import NoStore
from graft_vfs.sync import joining, naming
from graft_vfs.sync import remotes as remoting
from graft_vfs.sync.clone import NewVolume, clone_base, make_volume
from graft_vfs.sync.fetch import Fetched, fetch_log
from graft_vfs.sync.pull import Pulled
from graft_vfs.sync.push import Pushed
from graft_vfs.sync.remotes import find_remote
from graft_vfs.sync.settle import WAIT_SECONDS as PUSH_WAIT_SECONDS
from graft_vfs.sync.sources import Source, find_source
from graft_vfs.tags import check_tag
from graft_vfs.view.log_view import LogView
from graft_vfs.volume.context import Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

if TYPE_CHECKING:
    from graft_vfs.history.graph import LogLine
    from graft_vfs.history.restore import Restored, RestoredFile
    from graft_vfs.history.rows import NotCompared, RowChange
    from graft_vfs.maintenance import fsck
    from graft_vfs.plain.transfer import Imported, Transferred

_logger = logging.getLogger(__name__)


class Graft:
    """One data directory with one remote.

    Every verb on a tag raises InvalidTagError and NotFoundError. Verbs that write locally raise
    ReadOnlyError and LocalStorageError; verbs that read damaged bytes raise a DamageError; verbs
    that send requests raise NoRemoteError and StoreError. Each verb documents its other errors. A
    verb's local changes are durable when it returns.

    Owner: the program, usually through `graft_vfs.register`. Thread rule: any thread. Processes may
    share the data directory, each with its own engine. An engine does not survive a fork.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        store: ObjectStore | None = None,
        executor: Executor | None = None,
        clock: Clock | None = None,
        recovering: bool = False,
    ) -> None:
        """Open, creating the data directory if absent; raises ConfigError, LocalStorageError.

        `store` replaces the configured remote, and `executor` the threads that fetch; both are
        closed with the engine. `clock` is autosync's clock. An empty catalog beside volumes raises
        CorruptCatalogError, unless `recovering` is true, so that `adopt` can recover them.
        """
        self.config = config or Config.load()
        self._process = os.getpid()
        self._pool = Pool(executor)
        self.context, self._lost = open_context(
            self.config, self._pool, store=store, recovering=recovering
        )
        self.catalog, self.remotes = self.context.catalog, self.context.remotes
        self.store = self.remotes.default
        self.logs, self.writable = self.context.logs, self.context.writable
        self._clock = clock
        self._autosync: Autosync | None = None
        if not isinstance(self.store, NoStore) or self.catalog.remotes.all():
            self._start_autosync()

    def _start_autosync(self) -> None:
        """Sync from now on what is opened, if that is configured."""
        if self.config.autosync and self.writable and self._autosync is None:
            sync = functools.partial(syncing.sync_one, self.context)
            interval = self.config.autosync
            self._autosync = Autosync(sync, interval, self.logs.counters, clock=self._clock)
            signals.push_before_end()

    def __repr__(self) -> str:
        return f"<Graft {str(self.config.data_dir)!r} with {self.store.describe()}>"

    def __dir__(self) -> list[str]:
        """Return the verbs; what the engine is made of is for those who know its name."""
        return [name for name, value in vars(Graft).items() if callable(value) and name[0] != "_"]

    def close(self) -> None:
        """Make everything durable and close the engine. Close all connections first.

        No request without autosync. With autosync, local commits are pushed first, for a few
        seconds at most; a warning names volumes that still have some.
        """
        # A push that overruns the deadline stops at its next request, and its volume closes then.
        busy = self._autosync.close() if self._autosync is not None else frozenset[VolumeId]()
        signals.restore()
        volumes = self.context.volumes
        volumes.expect_close()
        self._pool.close()
        volumes.close(but=busy)
        self.logs.close()
        self.catalog.close()
        self.remotes.close()

    def check_process(self) -> None:
        """Raise ForkedProcessError in a child of the process that made the engine."""
        if os.getpid() != self._process:
            raise ForkedProcessError(
                "this engine belongs to the parent process",
                next_step="open it, and its connections, after os.fork()",
            )

    # Volumes ----------------------------------------------------------------------------------

    def volume(self, volume_id: VolumeId) -> Volume:
        """Return an open volume, which autosync syncs; raises NotFoundError, CorruptLogError."""
        self.check_process()
        volume = self.context.volumes.use(volume_id)
        if self._autosync is not None and self.remotes.has(self.catalog.volume(volume_id).remote):
            self._autosync.add(volume_id, volume.directory)
        return volume

    def open(self, tag: str, *, create: bool = False, remote: str | None = None) -> Volume:
        """Return the volume of a tag; with `create` make it, as a clone of `remote` if given.

        `remote` is what `clone` takes. A volume that exists without commits becomes a clone of it,
        too. No request, or those of a clone, or one for a ref that this machine does not know.
        Raises NotFoundError if the tag is absent and `create` is false, AlreadyExistsError if its
        volume has commits on another log than `remote`.
        """
        check_tag(tag)
        found = self.catalog.tag_volume(tag)
        if self._lost:
            self._lost = self.lost_volumes()
            adopting.refuse_lost(self.catalog, self._lost, tag, is_new=found is None)
        if found is None:
            if not create:
                raise self.catalog.no_tag(tag)
            source = find_source(self.logs, remote) if remote else None
            base = clone_base(self.logs, source) if source else None
            found = make_volume(self.context, NewVolume(base, synced=base is not None), tag)
        volume = self.volume(found)
        if remote:
            joining.join(self.context, Opened(tag, volume), name=remote)
            self._start_autosync()
            volume = self.volume(found)  # Which may have a remote only now.
        return volume

    def _opened(self, tag: str | Opened) -> Opened:
        return tag if isinstance(tag, Opened) else Opened(tag, self.open(tag))

    def lost_volumes(self) -> list[LostVolume]:
        """Return volumes that the catalog lacks, or has only in an older state. No request."""
        return adopting.lost_volumes(self.catalog, self.context.volumes.directory)

    def adopt(
        self, volume: VolumeId, tag: str | None = None, *, base: str | None = None
    ) -> Adopted:
        """Adopt a volume that the catalog lost, as the volume's files describe it.

        Without `tag`, it gets the tags recorded in its files. `base` is LOG:LSN, for a volume of
        an earlier version whose files do not record its base. Requests: those of a fetch, if that
        commit is not known. Raises AlreadyExistsError if nothing was lost, HistoryMismatchError,
        UsageError.
        """
        if tag is not None:
            check_tag(tag)
        found = None if base is None else names.resolve_remote(self.logs, base, None)
        named = None if found is None else (found.log, found.lsn)
        done = adopting.adopt(self.context, volume, tag=tag, base=named)
        _logger.info("%s", done)
        return done

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

    # Reports ----------------------------------------------------------------------------------

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

    def log(
        self, tag: str | Opened, ref: str | None = None, *, limit: int | None = None
    ) -> list[LogEntry]:
        """Return local commits, then known remote ones, newest first.

        With a ref, that commit and those before it; with `A..B` those that B has and A has not.
        Requests and errors are those of `resolve` for these, else none.
        """
        return history.entries(self._opened(tag).volume, self.logs, limit, ref)

    def log_lines(
        self,
        tag: str | Opened,
        ref: str | None = None,
        *,
        graph: bool = False,
        stat: bool = False,
    ) -> Generator[LogLine, None, None]:
        """Yield what `log` lists, one commit after another.

        With `graph`, also the known commits that the volume does not have: those to be pulled, and
        those after a fork. With `stat`, each with the tables that it changed, which costs the
        requests of a diff. Close the iterator, as with `contextlib.closing`, in the same thread.
        """
        with importing():
            from graft_vfs.history import graph as drawing  # noqa: PLC0415 - for start-up

        volume = self._opened(tag).volume
        yield from drawing.lines(volume, self.logs, ref, graph=graph, stat=stat)

    def show(self, tag: str | Opened, ref: str | None = None) -> CommitReport:
        """Describe the commit that a ref means, by default HEAD.

        Requests and errors are those of `resolve`.
        """
        return history.show(self._opened(tag).volume, self.logs, ref or "HEAD")

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

    def add_remote(self, name: str, url: str) -> RemoteReport:
        """Give a remote a name, once it has answered. One listing, or one request.

        Raises AlreadyExistsError if another remote has that name, UsageError, StoreError.
        """
        return remoting.add(self.logs, name, url)

    def set_remote_url(self, name: str, url: str) -> RemoteReport:
        """Say where a remote is now. One request for each log that lives on it, and one more.

        Nothing is copied. Raises NotFoundError, HistoryMismatchError if the new place does not have
        the newest commit that this machine knows of each log, BusyError while a push is not
        settled. Other processes use the new place from their next sync on.
        """
        return remoting.set_url(self.context, name, url)

    def move_remote(self, tag: str | Opened, remote: str) -> RemoteReport:
        """Have a volume sync with another remote: a name, `default` or a URL.

        Its log, and those that it stands on, live there from now on, for all volumes here. Requests
        and errors are those of `set_remote_url`.
        """
        return remoting.move(self.context, self._opened(tag).volume, remote)

    def source(self, text: str) -> Source:
        """Return what a ref, a log id or a URL names. No request, but one for a URL.

        Raises UsageError for what is no URL or names several refs, NotFoundError.
        """
        return find_source(self.logs, text)

    def name_log(self, name: str, log_id: LogId) -> None:
        """Create a ref for a log that has commits. Two requests, three if the name is taken.

        Raises NotFoundError if the remote has no such log, AlreadyExistsError if the ref names
        another log.
        """
        naming.name_by_hand(self.context, log_id, name)

    def fsck(
        self,
        name: str | None = None,
        *,
        deep: bool = False,
        repair: bool = False,
        progress: Progress | None = None,
    ) -> fsck.Fsck:
        """Verify the data directory and remote logs; with `repair`, also repair them.

        `name` is a tag, a log id or a ref. Without one, all logs that local volumes are based on or
        push to are verified, and all refs. For the requests see `maintenance.fsck.check_log`. With
        `deep`, each frame is read. Nothing is written without `repair`. Raises NotFoundError.
        """
        with importing():
            from graft_vfs.maintenance import fsck  # noqa: PLC0415 - for start-up

        return fsck.check_all(self.context, name, deep=deep, repair=repair, progress=progress)

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

    # Names of commits -------------------------------------------------------------------------

    def name(
        self, tag: str | Opened, name: str, ref: str = "HEAD", *, message: str = ""
    ) -> NameReport:
        """Give a name to the remote commit that a ref means; durable on the remote on return.

        One request, one more in the first call of an engine, and those of `resolve`. A name is
        never moved. Raises AlreadyExistsError if it is taken, UsageError if a ref may say it
        otherwise, or if the commit is local: push it before.
        """
        syncing.require_remote(self.context)
        return commit_names.give(self.context, self._opened(tag), name, ref, message=message)

    def names(self, tag: str | Opened) -> list[NameReport]:
        """Return the names of commits of the volume's log and of its parents, newest LSN first.

        One listing a log, and one request a name, 32 at a time.
        """
        return commit_names.listed(self.context, self._opened(tag))

    def remove_name(self, tag: str | Opened, name: str) -> NameReport:
        """Remove a name of a commit from the remote; the commit stays. Two requests.

        Machines that have seen the name know it until they list names. Raises NotFoundError.
        """
        return commit_names.remove(self.context, self._opened(tag), name)

    # Verbs that move a tag --------------------------------------------------------------------

    def new(self, tag: str) -> Moved:
        """Point the tag at a new, empty volume; its previous volume stays. No request."""
        made = moving.replace(self.context, tag, NewVolume())
        return moving.moved(self.context, tag, made, "Created volume")

    def switch(self, tag: str, spec: str) -> Moved:
        """Point the tag at `volume[:local[:remote]]`; an absent volume is created with these ids.

        No request, or those of a fetch if it is created on a remote log. Raises InvalidIdError,
        UsageError.
        """
        volume = moving.switch(self.context, tag, spec)
        return moving.moved(self.context, tag, volume, "Switched to volume")

    def clone(self, name: str | Source, tag: str, *, progress: Progress | None = None) -> Moved:
        """Point the tag at a new volume on the newest commit of a ref, a log id or a URL.

        A URL says which remote has the log, and all later syncs use that. Metadata only: one
        request for the ref, one listing, and one request per commit. `progress` counts commits.
        Raises NotFoundError, UsageError for a URL, AlreadyExistsError if volumes here have the log
        of a URL from another remote.
        """
        check_tag(tag)
        source = name if isinstance(name, Source) else self.source(name)
        base = clone_base(self.logs, source, progress=progress)
        made = moving.replace(self.context, tag, NewVolume(base, synced=True))
        self._start_autosync()
        return moving.moved(self.context, tag, made, "Cloned to volume")

    def checkout(self, tag: str | Opened, ref: str) -> Moved:
        """Point the tag at a new volume on a remote commit; its previous volume stays.

        Requests and errors are those of `resolve`. Raises UsageError for a local commit.
        """
        tag, volume = self._opened(tag)
        found = names.resolve_remote(self.logs, ref, volume)
        new = NewVolume((found.log, found.lsn))
        made = moving.replace(self.context, tag, new)
        return moving.moved(self.context, tag, made, "Checked out volume")

    def fork(self, tag: str | Opened, *, new_tag: str | None = None) -> Moved:
        """Point a tag at a new volume with the same content and a new log.

        Pages that are not cached stay lazy, because the new log is based on the old one. No
        request. A crash leaves a volume without a tag, and the tag unchanged.
        """
        if new_tag is not None:
            check_tag(new_tag)
        source = self._opened(tag)
        new_tag = new_tag or source.tag
        made = moving.fork(self.context, source)
        moving.point(self.context, new_tag, made)
        if self.context.volumes.is_open(made):
            self.volume(made)  # So that autosync syncs it.
        return moving.moved(self.context, new_tag, made, "Forked to volume")

    def remove_tag(self, tag: str) -> None:
        """Remove a tag; its volume stays until it is collected. No request."""
        delete = functools.partial(self.catalog.delete_tag, tag)
        moving.change_tag(self.context, tag, delete)
        _logger.info("tag %r: removed", tag)

    def collect_local(
        self, *, dry_run: bool = False, force: Collection[VolumeId] = ()
    ) -> list[CollectedVolume]:
        """Remove volumes without a tag and without unpushed commits. No request.

        Volumes in `force` are removed in any case, unless a process has them open. With `dry_run`,
        nothing is removed. Raises UsageError if a tag names a volume in `force`.
        """
        return collecting.collect(self.context, dry_run=dry_run, force=force)

    # Sync -------------------------------------------------------------------------------------

    def fetch(self, tag: str | Opened, *, progress: Progress | None = None) -> Fetched:
        """Fetch the remote log's new commits; no volume moves. One request if nothing is new."""
        volume = self._opened(tag).volume
        with syncing.syncing(self.context, volume):
            remote = self.catalog.volume(volume.id).remote
            return fetch_log(self.logs, remote, progress=progress)

    def pull(self, tag: str | Opened, *, progress: Progress | None = None) -> Pulled:
        """Fetch and fast-forward; one request if nothing is new.

        Raises DivergedError, and moves nothing, if the volume has local commits and the log has
        new ones.
        """
        return syncing.pull(self.context, self._opened(tag), progress)

    def push(
        self,
        tag: str | Opened,
        *,
        name: str | None = None,
        message: str = "",
        progress: Progress | None = None,
        sent: Sent | None = None,
        wait_seconds: float = PUSH_WAIT_SECONDS,
    ) -> Pushed:
        """Publish all local commits as one remote commit; one request if it is small.

        `message` says what the commit is, in at most 4096 bytes; `log` and `show` print it. Waits
        for another push of the volume on this machine, and raises BusyError if that has not ended
        after `wait_seconds`. `progress` counts compressed pages; `sent`, with more than 1 MiB
        of these, the bytes that the remote has acknowledged.

        The first push that has something to send to a remote makes sure that it honours conditional
        writes. The first one of a log gives it `name` as a ref, by default the tag, and raises
        AlreadyExistsError, with nothing sent, if another log has that name; `name` gives a log that
        was pushed before another ref.
        """
        if name is not None:
            check_tag(name)
        return syncing.push(
            self.context,
            self._opened(tag),
            name=name,
            message=message,
            progress=progress,
            sent=sent,
            wait_seconds=wait_seconds,
        )

    def hydrate(self, tag: str | Opened, *, progress: Progress | None = None) -> int:
        """Fetch all pages that are not cached, with range requests; return their number.

        `progress` counts the bytes that arrive.
        """
        volume = self._opened(tag).volume
        with syncing.syncing(self.context, volume), volume.pinned() as snapshot:
            view = snapshot.remote
            return view.hydrate(progress) if isinstance(view, LogView) else 0

    # Files ------------------------------------------------------------------------------------

    def export(
        self,
        tag: str | Opened,
        target: str | Path | BinaryIO,
        *,
        at: str | None = None,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Transferred:
        """Write a volume, or one of its commits, as a plain SQLite file or to a binary stream.

        `at` is a ref as for `resolve`, by default HEAD. The file must not exist; with `force`, it
        is replaced atomically. It is durable on return. Requests: those of `resolve`, and for pages
        that are not cached. Raises AlreadyExistsError, also for a WAL or a journal beside the file.
        """
        with importing():
            from graft_vfs.plain import transfer  # noqa: PLC0415 - for start-up

        opened = self._opened(tag)
        with opened.volume.pinned() as newest:
            pages = newest if at is None else self.snapshot_at(opened, at)
            if isinstance(target, str | Path):
                return transfer.export_pages(pages, Path(target), force=force, progress=progress)
            return transfer.export_stream(pages, target, progress=progress)

    def restore(
        self,
        tag: str | Opened,
        at: str,
        *,
        force: bool = False,
        message: str = "",
        progress: Progress | None = None,
    ) -> Restored:
        """Put an earlier state of a volume on top, as a local commit of the pages that differ.

        `at` is a ref as for `resolve`. Nothing is lost: the report names the commit to go back to.
        So commits that are not pushed are refused with UsageError, unless `force`, if there is a
        remote: a push rolls them into one. `message` as for `import_`; without one the commit says
        what was restored. Requests: those of `resolve`, and for pages that changed since and are
        not cached. `progress` counts pages. Raises WriterBusyError.
        """
        with importing():
            from graft_vfs.history import restore  # noqa: PLC0415 - for start-up

        return restore.restore_in_place(
            self._opened(tag), self.logs, at, force=force, message=message, progress=progress
        )

    def restore_file(
        self,
        name: str,
        path: str | Path,
        at: str = "HEAD",
        *,
        force: bool = False,
        progress: Progress | None = None,
    ) -> RestoredFile:
        """Write a commit as a plain SQLite file, read it back and check it with SQLite.

        `name` is a tag with commits, or else a ref or log id of the remote, which may be unknown
        locally. For the file see `export`. Requests: those of a clone for such a ref, those of
        `resolve`, and for pages that are not cached. If SQLite finds the database damaged, raises
        CorruptObjectError and leaves no file.
        """
        with importing():
            from graft_vfs.history import restore  # noqa: PLC0415 - for start-up

        return restore.restore_named(
            self.context, name, at, Path(path), force=force, progress=progress
        )

    def import_(
        self,
        source: str | Path | BinaryIO,
        tag: str | Opened,
        *,
        update: bool = False,
        message: str = "",
        progress: Progress | None = None,
    ) -> Imported:
        """Make a volume's first commit from a plain SQLite file, with what its WAL holds.

        A binary stream is copied to a file beside the data first. A tag that is new names the
        volume when all is in it; a failure leaves no volume. With `update` the tag exists, and the
        pages in which the file differs from its volume become one local commit on top; readers keep
        their snapshot and their cache. `message` says what the commit is, in at most 4096 bytes: it
        is kept here, and the push that publishes the commit publishes it, unless it has its own.

        No request, or with `update` range reads of frames that are neither cached nor identified by
        their checksum. Raises UsageError if the file is no database or the volume has commits, or
        with `update` another page size, reserved space or text encoding; DamageError if the file is
        not sound, BusyError if another program writes to it, AlreadyExistsError if another process
        made the tag meanwhile.
        """
        with importing():
            from graft_vfs.plain import source as plain  # noqa: PLC0415 - for start-up
            from graft_vfs.plain import transfer  # noqa: PLC0415 - for start-up

        if not isinstance(source, str | Path):
            self.catalog.require_writable()
            with plain.spooled(source, self.context.volumes.directory.parent) as path:
                done = self.import_(path, tag, update=update, message=message, progress=progress)
            return dataclasses.replace(done, path="-")
        path = Path(source)
        if update or isinstance(tag, Opened) or self.catalog.tag_volume(tag) is not None:
            volume = self._opened(tag).volume
            return transfer.import_file(
                volume, path, update=update, message=message, progress=progress
            )
        made, done = moving.import_new(self.context, path, tag, message, progress)
        self.volume(made)  # So that autosync syncs it.
        return done
