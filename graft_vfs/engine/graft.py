"""The engine: opens a data directory and a remote, and does every verb on tags.

The composition root: here stores, catalog, logs and volumes are put together. The VFS and the
command line call it; so may any program.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import logging
import os
import secrets
import shlex
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from graft_vfs.engine import signals
from graft_vfs.engine.autosync import FLUSH_SECONDS, Autosync, Clock, Outcome
from graft_vfs.engine.config import Config
from graft_vfs.errors import (
    AlreadyExistsError,
    CommitOutcomeUnknownError,
    DivergedError,
    ForkedProcessError,
    GraftError,
    NoRemoteError,
    NotFoundError,
    StoreError,
    UsageError,
)
from graft_vfs.history import commits as history
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import file_systems
from graft_vfs.local.catalog import descriptor
from graft_vfs.local.catalog.catalog import Announce
from graft_vfs.local.catalog.rows import PendingPush, VolumeRow
from graft_vfs.local.files import make_directories, storage_errors
from graft_vfs.local.tag_moves import move_tag
from graft_vfs.maintenance import adopt as adopting
from graft_vfs.maintenance import collect as collecting
from graft_vfs.maintenance.collect import CollectedVolume
from graft_vfs.metrics import Metrics, VolumeMetrics
from graft_vfs.pages import NO_LSN, LocalLsn, RemoteLsn, is_lsn_text
from graft_vfs.remote.log import create_ref, list_logs, list_refs
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
    Status,
    TagReport,
    Versions,
    VolumeReport,
)
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.none import NoStore
from graft_vfs.sync import clone as cloning
from graft_vfs.sync import joining, naming
from graft_vfs.sync.fetch import Fetched, fetch_log, require_commits
from graft_vfs.sync.pull import Pulled, pull
from graft_vfs.sync.push import WAIT_SECONDS as PUSH_WAIT_SECONDS
from graft_vfs.sync.push import Author, Pushed, push
from graft_vfs.sync.recognise import recognise
from graft_vfs.tags import check_tag
from graft_vfs.times import parse_time
from graft_vfs.view.log_view import LogView
from graft_vfs.view.logs import Logs
from graft_vfs.volume.open_volumes import OpenVolumes
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

if TYPE_CHECKING:
    from graft_vfs.maintenance import fsck
    from graft_vfs.plain import transfer

_logger = logging.getLogger(__name__)

_FETCH_THREADS = 16

_T = TypeVar("_T")


class Graft:
    """One data directory with one remote.

    Every verb on a tag raises InvalidTagError and NotFoundError; one that writes here raises
    ReadOnlyError and LocalStorageError; one that reads what is damaged, a DamageError; one that
    makes requests raises NoRemoteError and StoreError. A verb names what else it raises. What a
    verb changed on this machine is durable when it returns.

    Owner: the program, usually through `graft_vfs.register`. Thread rule: any thread. Processes may
    share the data directory, each with an engine of its own; an engine does not survive fork.
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
        """Open, making the data directory if absent; raises ConfigError, LocalStorageError.

        `store` stands for the remote of the configuration, `executor` for the threads that fetch;
        both are closed with the engine. `clock` tells autosync the time. An empty catalog beside
        volumes is CorruptCatalogError, unless the engine is to recover them with `adopt`.
        """
        self.config = config or Config.load()
        self._process = os.getpid()
        directory = self.config.data_dir.absolute()
        allowed = self.config.allow_file_systems
        is_local = file_systems.check_data_directory(directory, allowed)
        maps = is_local and self.config.mmap != "off"
        self.writable = _make_directory(directory / "volumes")
        self.catalog, self._lost = adopting.open_catalog(
            directory,
            self.writable,
            recovering=recovering,
            maps=maps,
        )
        # Else a disk that is not mounted would get a fresh remote at its mount point.
        self.store = (
            self.config.remote.open(create=not self.catalog.has_bases(), allow_file_systems=allowed)
            if store is None
            else store
        )
        self._lock = threading.RLock()
        self._executor = executor
        self._is_closed = False
        self._author = Author(secrets.token_bytes(16), _author_name())
        self.logs = Logs(
            self.catalog,
            self.store,
            directory / "cache",
            executor=self.executor,
            cache_bytes_max=self.config.cache_max_bytes,
            writable=self.writable,
            maps=self.config.mmap != "off",
        )
        self._volumes = OpenVolumes(
            directory / "volumes",
            self.catalog,
            self.logs,
            writable=self.writable,
            hydrates=self.config.hydrate == "background",
            maps=maps,
            is_local=is_local,
        )
        _logger.info("opened %s with %s", directory, self.store)
        self._autosync: Autosync | None = None
        if self.config.autosync and self.writable and not isinstance(self.store, NoStore):
            self._autosync = Autosync(
                self._sync_one, self.config.autosync, self.logs.counters, clock=clock
            )
            signals.push_before_end()

    def executor(self) -> Executor:
        """Return the threads that fetch; they start with the first need of one."""
        with self._lock:
            if self._is_closed:
                raise UsageError("the engine was closed", next_step="open it again")
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_FETCH_THREADS, "graft-fetch")
            return self._executor

    def close(self) -> None:
        """Make everything durable and close it. Connections must be closed before.

        No request, but with autosync: then local commits are pushed before, for some seconds at
        most, and what stays is told by a warning.
        """
        # A push that did not end in time ends at its next request, and its volume with it.
        busy = self._autosync.close() if self._autosync is not None else None
        signals.restore()
        with self._lock:
            self._is_closed = True
            executor, self._executor = self._executor, None
        self._volumes.expect_close()
        # Without the lock, which whoever is still fetching may want.
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
        self._volumes.close(but=busy)
        self.logs.close()
        self.catalog.close()
        self.store.close()

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
        volume = self._volumes.use(volume_id)
        if self._autosync is not None:
            self._autosync.add(volume_id, volume.directory)
        return volume

    def open(self, tag: str, *, create: bool = False, remote: str | None = None) -> Volume:
        """Return the volume of a tag; with `create` make it, as a clone of `remote` if given.

        A volume that exists without commits becomes a clone of `remote`, too. No request, or those
        of a clone, or one for a ref that this machine does not know. Raises NotFoundError if the
        tag is absent and `create` is false, AlreadyExistsError if its volume has commits on
        another log than `remote`.
        """
        check_tag(tag)
        found = self.catalog.tag_volume(tag)
        if self._lost:
            self._lost = self.lost_volumes()
            adopting.refuse_lost(self.catalog, self._lost, tag, is_new=found is None)
        if found is None:
            if not create:
                raise NotFoundError(f"there is no tag {tag!r}", next_step="see `graft tags`")
            base = cloning.clone_base(self.logs, remote) if remote else None
            found = self._make(tag, base=base, synced=base is not None)
        volume = self.volume(found)
        if remote:
            joining.join(volume, self.logs, tag=tag, name=remote)
        return volume

    def lost_volumes(self) -> list[LostVolume]:
        """Return the volumes that the catalog lacks, or has in an older state. No request."""
        return adopting.lost_volumes(self.catalog, self._volumes.directory)

    def adopt(
        self, volume: VolumeId, tag: str | None = None, *, base: str | None = None
    ) -> Adopted:
        """Adopt a volume that the catalog lost, as its own files describe it.

        Without `tag` it gets the tags that it remembers. `base` is `log:LSN` for a volume of an
        earlier version that does not say what it stands on. Requests: those of a fetch, if that
        commit is not known. Raises AlreadyExistsError if nothing was lost, HistoryMismatchError,
        UsageError.
        """
        if tag is not None:
            check_tag(tag)
        named = None if base is None else self._parse_commit(base, None)
        done = adopting.adopt(
            self.catalog, self.logs, self._volumes.directory, volume, tag=tag, base=named
        )
        _logger.info("%s", done)
        return done

    def _make(
        self,
        tag: str | None,
        *,
        replacing: Announce | None = None,
        base: tuple[LogId, RemoteLsn] | None = None,
        remote: LogId | None = None,
        volume: VolumeId | None = None,
        branch: LogId | None = None,
        synced: bool = False,
    ) -> VolumeId:
        self.catalog.require_writable()
        return cloning.make_volume(
            self.catalog,
            self._volumes.directory,
            tag=None if tag is None else check_tag(tag),
            replacing=replacing,
            remote=remote or (base[0] if base else None),
            base=base,
            volume=volume,
            branch=branch,
            synced=synced,
        )

    def _move_tag(
        self, tag: str, change: Callable[[Announce], _T], *, to: VolumeId | None = None
    ) -> _T:
        """Move a tag by `change`; raises WriterBusyError if what it names is being written to."""
        self.catalog.require_writable()
        return move_tag(self.catalog, self._volumes.directory, check_tag(tag), change, to=to)

    def _point(self, tag: str, volume: VolumeId) -> None:
        """Point a tag at a volume that exists."""
        set_tag = functools.partial(self.catalog.set_tag, tag, volume)
        self._move_tag(tag, set_tag, to=volume)

    def _replace(
        self,
        tag: str,
        *,
        base: tuple[LogId, RemoteLsn] | None = None,
        remote: LogId | None = None,
        volume: VolumeId | None = None,
        branch: LogId | None = None,
        synced: bool = False,
    ) -> VolumeId:
        """Make a volume, and point the tag at it whatever it named before."""
        return self._move_tag(
            tag,
            lambda replacing: self._make(
                tag,
                replacing=replacing,
                base=base,
                remote=remote,
                volume=volume,
                branch=branch,
                synced=synced,
            ),
        )

    def snapshot_at(
        self,
        tag: str,
        *,
        lsn: int | None = None,
        as_of: str | None = None,
        volume: Volume | None = None,
    ) -> Snapshot:
        """Return the volume's remote log as it was at an LSN or a time; a read-only view.

        `volume` is that of the tag if the caller has it open. No request if the commit is known,
        else those of a fetch. Raises NotFoundError if there was no such commit, UsageError if the
        time cannot be read.
        """
        volume = volume or self.open(tag)
        log = self.catalog.volume(volume.id).remote
        if lsn is None:
            found = history.lsn_as_of(self.logs, log, parse_time(as_of or ""))
        else:
            found = require_commits(self.logs, log, RemoteLsn(lsn))
        return history.snapshot_of(volume, self.logs, log, found)

    # Reports ----------------------------------------------------------------------------------

    def tags(self, current: str | None = None) -> list[TagReport]:
        """Return all tags, with `current` marked. No request."""
        return [TagReport(tag, volume, tag == current) for tag, volume in self.catalog.tags()]

    def examined(self) -> Iterator[tuple[VolumeRow, Snapshot | GraftError]]:
        """Open each volume, oldest first, and yield its newest snapshot, or why there is none.

        No request. None of them stays open longer than its snapshot.
        """
        for row in self.catalog.volumes():
            try:
                yield row, self._volumes.look(row.id).begin()
            except GraftError as error:
                yield row, error

    def volumes(self) -> list[VolumeReport]:
        """Return all volumes, oldest first, with the tags that name them. No request.

        One that cannot be opened is a row that says why.
        """
        tags: dict[VolumeId, list[str]] = {}
        for tag, volume in self.catalog.tags():
            tags.setdefault(volume, []).append(tag)
        reports = []
        for row, found in self.examined():
            names = tuple(tags.get(row.id, ()))
            if isinstance(found, GraftError):
                reports.append(
                    VolumeReport(row.id, row.branch, row.remote, None, None, names, str(found))
                )
                continue
            branch = found.branch.row
            base = branch.base if branch.log == row.remote else NO_LSN
            reports.append(VolumeReport(row.id, branch.id, row.remote, found.lsn, base, names))
        return reports

    def status(self, tag: str, volume: Volume | None = None) -> Status:
        """Say how a volume stands to its remote, from what is known here. No request."""
        volume = volume or self.open(tag)
        snapshot = volume.begin()
        row, branch = self.catalog.volume(volume.id), snapshot.branch.row
        base = branch.base if branch.log == row.remote else NO_LSN
        ahead, is_fork = snapshot.local_commits, branch.log != row.remote and branch.base > 0
        pending = self.catalog.pending_push(volume.id)
        claimed = base
        if pending is not None and self._is_known(pending):
            # Our own commit must not look like a rival's until the next sync settles it.
            claimed, is_fork = pending.lsn, False
            ahead = snapshot.lsn - pending.through_lsn
        return Status(
            tag=tag,
            volume=volume.id,
            branch=branch.id,
            remote=row.remote,
            local_lsn=snapshot.lsn,
            base_lsn=base,
            ahead=ahead,
            behind=max(0, self.catalog.newest_commit(row.remote)[0] - claimed),
            attached=base > 0,
            pending_push=pending is not None,
            last_sync_ms=row.synced_ms,
            last_error=row.last_error,
            behind_since_ms=self._behind_since(row.remote, claimed),
            autosync=self._autosync.report(volume.id) if self._autosync is not None else None,
            warning=self._moved_warning(tag, volume.id) or naming.warning_of(volume.directory),
            unpublished_fork=is_fork,
        )

    def _moved_warning(self, tag: str, volume: VolumeId) -> str | None:
        """Return what to know of a connection that is still at a volume without its tag."""
        named = self.catalog.tag_volume(tag)
        if named == volume:
            return None
        if named is None:
            return (
                f"the tag was removed, and this connection can only read volume {volume}; run "
                f"`graft switch {shlex.quote(tag)} {volume}` to name it again"
            )
        return f"the tag names volume {named} now, where the next transaction will be"

    def _is_known(self, push: PendingPush) -> bool:
        """Tell whether a push is known to have its LSN."""
        found = self.catalog.commits(push.log, push.lsn, push.lsn)
        return bool(found) and found[0].hash == push.hash

    def _behind_since(self, log: LogId, base: RemoteLsn) -> int | None:
        """Return when the oldest known commit above `base` was made."""
        header = self.logs.header(log, RemoteLsn(base + 1))
        return None if header is None else header.time_ms

    def metrics(self) -> Metrics:
        """Count what this engine did since it was opened; volumes as they stand now. No request.

        Other processes on the data directory count for themselves.
        """
        counts = self._volumes.commit_counts()
        return Metrics(
            store=self.store.counters.snapshot(),
            latencies=self.store.counters.latencies(),
            counts=self.logs.counters.snapshot(),
            commits=sum(each.commits for each in counts),
            spilled_transactions=sum(each.spilled for each in counts),
            cache_bytes=self.logs.cache_bytes(),
            volumes=tuple(
                VolumeMetrics.of(self.catalog.volume_tags(volume.id), self.status("", volume))
                for volume in self._volumes.all()
            ),
        )

    def info(self, tag: str, volume: Volume | None = None) -> Info:
        """Describe a volume and its newest snapshot. No request."""
        volume = volume or self.open(tag)
        snapshot = volume.begin()
        row = self.catalog.volume(volume.id)
        return Info(
            tag=tag,
            volume=volume.id,
            branch=snapshot.branch.row.id,
            remote=row.remote,
            synced_local=row.synced_local,
            synced_remote=row.synced_remote,
            synced_ms=row.synced_ms,
            snapshot=snapshot_text(snapshot),
            pages=snapshot.page_count,
            page_size=snapshot.page_size,
        )

    def log(
        self, tag: str, volume: Volume | None = None, *, limit: int | None = None
    ) -> list[LogEntry]:
        """Return local commits, then known remote ones, newest first. No request."""
        return history.entries(volume or self.open(tag), self.logs, limit)

    def show(self, tag: str, spec: str | None = None, volume: Volume | None = None) -> CommitReport:
        """Describe one commit: `LSN`, `log:LSN`, or `local:LSN` of the local branch.

        Without `spec`, the newest one of the volume. No request if it is known. Raises
        NotFoundError.
        """
        volume = volume or self.open(tag)
        snapshot = volume.begin()
        branch = snapshot.branch.row
        if spec is None:
            if not branch.base and not snapshot.local_commits:
                raise NotFoundError(f"{tag!r} has no commit yet", next_step="commit something")
            is_local = snapshot.local_commits > 0
            spec = f"local:{snapshot.lsn}" if is_local else f"{branch.log}:{branch.base}"
        where, _, lsn_text = spec.rpartition(":")
        if where == "local" and is_lsn_text(lsn_text):
            return history.local_commit(volume, LocalLsn(int(lsn_text)))
        return history.remote_commit(self.logs, *self._parse_commit(spec, volume))

    def diff(
        self,
        tag: str,
        older: str | None = None,
        newer: str | None = None,
        volume: Volume | None = None,
        *,
        progress: Progress | None = None,
    ) -> Diff:
        """Say what changed from one commit to another in the schema and in the rows of tables.

        Each is an LSN of the volume's log, a `log:LSN`, or `head`, which is the volume as it is
        here with its local commits. By default the commit that it stands on, and `head`: what a
        push would publish. `progress` counts key ranges. Cost: interior pages of all tables and
        the leaves that changed; where the pages do not tell, all pages of both commits; requests
        for those that are not here. Raises NotFoundError, UsageError, and what reading raises.
        """
        from graft_vfs.history import diff as comparing  # noqa: PLC0415 - for start-up

        volume = volume or self.open(tag)
        with volume.pinned() as head:
            old_name, old = self._commit_view(volume, head, older or "base")
            new_name, new = self._commit_view(volume, head, newer or "head")
            found = comparing.compare(volume, old, new, progress=progress)
        return Diff(
            tag=tag,
            older=old_name,
            newer=new_name,
            schema=found.schema,
            tables=found.tables,
            pages_changed=found.pages_changed,
            page_count=max(old.page_count, new.page_count),
            by_pages=found.by_pages,
        )

    def _commit_view(self, volume: Volume, head: Snapshot, spec: str) -> tuple[str, Snapshot]:
        """Return the full name of `head`, `base` or a commit, and its view."""
        if spec == "head":
            return "head", head
        if spec == "base":
            log, lsn = head.branch.row.log, head.branch.row.base
        else:
            log, lsn = self._parse_commit(spec, volume)
            require_commits(self.logs, log, lsn)
        return (f"{log}:{lsn}" if lsn else "nothing"), history.snapshot_of(
            volume, self.logs, log, lsn
        )

    def audit(
        self, tag: str, volume: Volume | None = None, *, progress: Progress | None = None
    ) -> Audit:
        """Count the cached remote pages; if all are cached, verify and checksum the content.

        No request. `progress` counts pages.
        """
        from graft_vfs.plain import transfer  # noqa: PLC0415 - for start-up

        volume = volume or self.open(tag)
        with volume.pinned() as snapshot:
            present = total = 0
            if isinstance(snapshot.remote, LogView):
                present, total = snapshot.remote.pages_present()
            checksum = None
            if present == total:
                checksum = transfer.checksum(snapshot, progress)
            return Audit(present, total, checksum)

    @staticmethod
    def versions() -> Versions:
        """Return the versions of this program and of what it stands on. No request."""
        return Versions.current()

    def refs(self) -> list[tuple[str, LogId]]:
        """Return the remote's refs. One listing, and one request a ref, 16 at a time."""
        return list(list_refs(self.store))

    def remote_logs(self) -> list[RemoteLogReport]:
        """Return the remote's logs with their refs. Two requests a log, and those of `refs`."""
        names: dict[LogId, list[str]] = {}
        for name, log in list_refs(self.store):
            names.setdefault(log, []).append(name)
        return [
            RemoteLogReport(log, newest, tuple(names.get(log, ())))
            for log, newest in list_logs(self.store)
        ]

    def name_log(self, name: str, log: LogId) -> None:
        """Make a ref for a log that has commits. Two requests, three if the name is taken.

        Raises NotFoundError if the remote has no such log, AlreadyExistsError if the ref names
        another one.
        """
        check_tag(name)
        if not self.logs.log(log).newest_lsn():
            raise NotFoundError(
                f"the remote ({self.store.describe()}) has no log {log}",
                next_step="see `graft remote ls --logs`",
            )
        winner = create_ref(self.store, name, log)
        if winner != log:
            raise AlreadyExistsError(
                f"ref {name!r} names log {winner}", next_step="choose another name"
            )
        for row in self.catalog.volumes():
            if row.remote == log:
                naming.forget_warning(self._volumes.directory / str(row.id))

    def fsck(
        self,
        name: str | None = None,
        *,
        deep: bool = False,
        repair: bool = False,
        progress: Progress | None = None,
    ) -> fsck.Fsck:
        """Verify the data directory and remote logs, and repair them with `repair`.

        `name` is a tag, a log id or a ref; without one, all logs that volumes here stand on or push
        to are verified, and all refs. For the requests see `sync.fsck.check_log`. With `deep` each
        frame is read. Nothing is written without `repair`. Raises NotFoundError.
        """
        from graft_vfs.maintenance import fsck  # noqa: PLC0415 - for start-up

        local, volumes = fsck.check_data(self.catalog, self._volumes)
        if isinstance(self.store, NoStore) and (name is None or self.catalog.tag_volume(name)):
            return fsck.Fsck(volumes, tuple(local), (), ())
        named = None if name is None else fsck.log_named(self.logs, name)
        logs = fsck.logs_of(self.catalog, self.logs) if named is None else [named]
        checked = [
            fsck.check_log(
                self.logs,
                log,
                deep=deep,
                repair=repair,
                scratch=self._volumes.directory,
                progress=progress,
            )
            for log in logs
        ]
        refs = fsck.check_refs(self.logs) if name is None else []
        return fsck.Fsck(volumes, tuple(local), tuple(checked), tuple(refs))

    def dump_header(self, volume: Volume) -> str:
        """Return the first 100 bytes of the database, to look for a fault.

        No request, or one if page 1 is not here.
        """
        image = volume.begin().read(1)[:100]
        return "\n".join(
            f"{at:02x}: {image[at : at + 16].hex(' ')}" for at in range(0, len(image), 16)
        )

    def dump_commit(self, spec: str, volume: Volume | None = None) -> str:
        """Describe a remote commit, given as `log:LSN`, or as `LSN` of the volume's own log.

        No request if it is known, else those of a fetch. Raises UsageError if it is neither.
        """
        facts = self.commit_facts(spec, volume)
        return "\n".join(f"{name}: {value}" for name, value in facts.items())

    def commit_facts(self, spec: str, volume: Volume | None = None) -> dict[str, LogId | int | str]:
        """Return what `dump_commit` describes, by name, for the same requests and errors."""
        return history.commit_facts(self.logs, *self._parse_commit(spec, volume))

    def _parse_commit(self, spec: str, volume: Volume | None) -> tuple[LogId, RemoteLsn]:
        own = None if volume is None else self.catalog.volume(volume.id).remote
        return history.parse_commit(spec, own)

    # Verbs that move a tag --------------------------------------------------------------------

    def new(self, tag: str) -> Moved:
        """Point the tag at a new, empty volume; what it named before stays. No request."""
        return self._moved(tag, self._replace(tag), "Created volume")

    def switch(self, tag: str, spec: str) -> Moved:
        """Point the tag at `volume[:local[:remote]]`; a volume that is absent is made so.

        No request, or those of a fetch if it is made on a remote log. Raises InvalidIdError,
        UsageError.
        """
        parts = spec.split(":")
        if not 1 <= len(parts) <= 3:
            raise UsageError(f"{spec!r} is not volume[:local[:remote]]")
        volume = VolumeId.parse(parts[0])
        branch = LogId.parse(parts[1]) if len(parts) > 1 and parts[1] else None
        remote = LogId.parse(parts[2]) if len(parts) > 2 and parts[2] else None
        rows = {row.id: row for row in self.catalog.volumes()}
        if volume in rows:
            if remote is not None and rows[volume].remote != remote:
                raise UsageError(
                    f"volume {volume} is attached to remote log {rows[volume].remote}",
                    next_step="leave the remote out, or clone that log",
                )
            self._point(tag, volume)
        else:
            newest = fetch_log(self.logs, remote).newest if remote else NO_LSN
            base = (remote, newest) if remote and newest else None
            self._replace(tag, base=base, remote=remote, volume=volume, branch=branch)
        return self._moved(tag, volume, "Switched to volume")

    def clone(self, name: str, tag: str, *, progress: Progress | None = None) -> Moved:
        """Point the tag at a new volume on the newest commit of a ref or log id.

        Metadata only: one request for the ref, then one for each commit and one listing.
        `progress` counts commits.
        """
        check_tag(tag)
        base = cloning.clone_base(self.logs, name, progress=progress)
        return self._moved(tag, self._replace(tag, base=base, synced=True), "Cloned to volume")

    def checkout(self, tag: str, spec: str, volume: Volume | None = None) -> Moved:
        """Point the tag at a new volume on `[log:]LSN`; what it named before stays.

        No request if the commit is known, else those of a fetch. Raises UsageError.
        """
        log, lsn = self._parse_commit(spec, volume or self.open(tag))
        base = log, require_commits(self.logs, log, lsn)
        made = self._replace(tag, base=base)
        return self._moved(tag, made, "Checked out volume")

    def fork(self, tag: str, volume: Volume | None = None, *, new_tag: str | None = None) -> Moved:
        """Point a tag at a new volume with the same content and a log of its own.

        Pages that are not here stay lazy: the new log stands on the old one. No request. Crash
        here: a volume without a tag is left, and the tag where it was.
        """
        new_tag = check_tag(new_tag or tag)
        source = volume or self.open(tag)
        with source.pinned() as snapshot:
            row = snapshot.branch.row
            base = (row.log, row.base) if row.base else None
            made = self._make(None, base=base, remote=LogId.new())
            if snapshot.local_commits:
                target = self.volume(made)
                pages = snapshot.branch.pages_below(snapshot.end.offset, snapshot.page_count)
                with target.writing() as empty:
                    target.write_pages(
                        empty,
                        ((page, snapshot.read(page)) for page in pages),
                        page_count=snapshot.page_count,
                    )
        self._point(new_tag, made)
        return self._moved(new_tag, made, "Forked to volume")

    def _moved(self, tag: str, volume: VolumeId, verb: str) -> Moved:
        row, branch = self.catalog.current(volume)
        lsn = branch.base if branch.log == row.remote else NO_LSN
        _logger.info("tag %r: %s %s on log %s at LSN %d", tag, verb, volume, row.remote, lsn)
        return Moved(tag, volume, row.remote, lsn, verb)

    def remove_tag(self, tag: str) -> None:
        """Remove a tag; its volume stays until it is collected. No request."""
        self._move_tag(tag, functools.partial(self.catalog.delete_tag, tag))
        _logger.info("tag %r: removed", tag)

    def collect_local(
        self, *, dry_run: bool = False, force: Collection[VolumeId] = ()
    ) -> list[CollectedVolume]:
        """Remove volumes that no tag names and that hold nothing unpushed. No request.

        Volumes named by `force` go in any case, unless a process has them open. With `dry_run`
        nothing is removed. Raises UsageError if a tag names one of them.
        """
        return collecting.collect(self.catalog, self._volumes, dry_run=dry_run, force=force)

    # Sync -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _syncing(self, volume: Volume) -> Iterator[None]:
        """Keep the error of a sync for the volume's status, and clear it after a good one."""
        if isinstance(self.store, NoStore):
            raise NoRemoteError(
                "no remote is configured",
                next_step="add a [remote] table to graft.toml, or set GRAFT_REMOTE_TYPE and its "
                "companions",
            )
        try:
            yield
        except GraftError as error:
            if isinstance(error, StoreError | CommitOutcomeUnknownError):
                self.logs.forget_proofs()
            self._note_sync_error(volume, error)
            raise
        if self.catalog.volume(volume.id).last_error is not None:
            self._note_sync_error(volume, None)

    def _note_sync_error(self, volume: Volume, error: GraftError | None) -> None:
        """Note how a sync ended; on a full disk the end counts, and not that it was not noted."""
        if not self.writable:
            return
        try:
            self.catalog.note_sync_error(volume.id, error)
        except GraftError as failure:
            _logger.warning("how the sync of volume %s ended is not noted: %s", volume.id, failure)

    def fetch(
        self, tag: str, volume: Volume | None = None, *, progress: Progress | None = None
    ) -> Fetched:
        """Learn what the remote log has; moves nothing. One request if nothing is new."""
        volume = volume or self.open(tag)
        with self._syncing(volume):
            remote = self.catalog.volume(volume.id).remote
            return fetch_log(self.logs, remote, progress=progress)

    def pull(
        self, tag: str, volume: Volume | None = None, *, progress: Progress | None = None
    ) -> Pulled:
        """Fetch and fast-forward; one request if nothing is new.

        Raises DivergedError, with nothing moved, if the volume has local commits that the log
        lacks.
        """
        volume = volume or self.open(tag)
        with self._syncing(volume):
            return pull(volume, self.logs, name=tag, progress=progress)

    def push(
        self,
        tag: str,
        volume: Volume | None = None,
        *,
        progress: Progress | None = None,
        wait_seconds: float = PUSH_WAIT_SECONDS,
    ) -> Pushed:
        """Publish all local commits as one remote commit; one request if it is small.

        Waits for another push of the volume on this machine, and raises BusyError if that has not
        ended after `wait_seconds`.

        The first push that has something to send to a remote makes sure that it honours conditional
        writes, and the first of a log gives it the tag as a name, if that is free.
        """
        volume = volume or self.open(tag)
        with self._syncing(volume):
            again = functools.partial(
                push,
                volume,
                self.logs,
                self._author,
                name=tag,
                progress=progress,
                wait_seconds=wait_seconds,
            )
            try:
                return again()
            except DivergedError:
                if not recognise(volume, self.logs):
                    raise
            return again()

    def _sync_one(self, volume_id: VolumeId, *, is_last: bool) -> Outcome:
        """Do one run of autosync: push if there are local commits, else pull.

        One request if they are few, or if nothing is new. A volume that was closed is only pushed.
        """
        tags = self.catalog.volume_tags(volume_id)
        if not tags:
            return Outcome.CLOSED
        is_open = self._volumes.is_open(volume_id)
        volume = self._volumes.look(volume_id)
        status = self.status(tags[0], volume)
        if status.diverged and not status.pending_push and not recognise(volume, self.logs):
            return Outcome.DIVERGED if is_open else Outcome.CLOSED
        if status.ahead or status.unpublished_fork or status.pending_push:
            # Another push here is as good as this one, but for commits that come when it ends.
            self.push(tags[0], volume, wait_seconds=FLUSH_SECONDS if is_last else 0.0)
        elif is_open and not is_last and self._may_have_news(status):
            self.pull(tags[0], volume)
        return Outcome.SYNCED if is_open else Outcome.CLOSED

    def _may_have_news(self, status: Status) -> bool:
        """Tell whether to pull; a log without commits is not listed to see that it has none."""
        if self.catalog.newest_commit(status.remote)[0]:
            return True
        return self.logs.log(status.remote).read_header(RemoteLsn(1)) is not None

    def hydrate(
        self, tag: str, volume: Volume | None = None, *, progress: Progress | None = None
    ) -> int:
        """Fetch all pages that are not cached, with range requests; returns how many."""
        volume = volume or self.open(tag)
        with self._syncing(volume), volume.pinned() as snapshot:
            view = snapshot.remote
            return view.hydrate(progress) if isinstance(view, LogView) else 0

    # Files ------------------------------------------------------------------------------------

    def export(
        self,
        tag: str,
        path: Path,
        volume: Volume | None = None,
        *,
        progress: Progress | None = None,
    ) -> transfer.Transferred:
        """Write the newest snapshot as a plain SQLite file that does not exist yet.

        The file is durable on return. Requests for pages that are not here. Raises
        AlreadyExistsError.
        """
        from graft_vfs.plain import transfer  # noqa: PLC0415 - for start-up

        volume = volume or self.open(tag)
        with volume.pinned() as snapshot:
            return transfer.export_snapshot(snapshot, path, progress=progress)

    def import_(
        self,
        path: Path,
        tag: str,
        volume: Volume | None = None,
        *,
        progress: Progress | None = None,
    ) -> transfer.Transferred:
        """Make a volume's first commit from a plain SQLite file, with what its WAL holds.

        A tag that is new names the volume when all is in it; a failure leaves no volume. No
        request. Raises UsageError if the file is no database or the volume has commits, DamageError
        if the file is not sound, BusyError if another program writes to it, AlreadyExistsError if
        another process made the tag meanwhile.
        """
        from graft_vfs.plain import source, transfer  # noqa: PLC0415 - for start-up

        if volume is None and self.catalog.tag_volume(tag) is not None:
            volume = self.open(tag)
        if volume is not None:
            return transfer.import_file(volume, path, progress=progress)
        source.require_file(path)
        check_tag(tag)
        made = self._make(None)
        try:
            done = transfer.import_file(self._volumes.use(made), path, progress=progress)
            self.catalog.add_tag(tag, made)
            directory = self._volumes.directory / str(made)
            # Again, now with its tag.
            self.catalog.describe(made, lambda wanted: descriptor.write(directory, wanted))
        except BaseException:
            # A volume without a tag, and with nothing in it that is not in the file.
            self._volumes.let_go(made)
            collecting.delete(self.catalog, self._volumes.directory / str(made), made)
            raise
        self.volume(made)  # From now on autosync has it.
        return done


def snapshot_text(snapshot: Snapshot) -> str:
    """Return a snapshot as `log[1..base] + branch[first..lsn]`, without what is empty."""
    branch = snapshot.branch.row
    parts = []
    if branch.base:
        parts.append(f"{branch.log}[1..{branch.base}]")
    if snapshot.local_commits:
        parts.append(f"{branch.id}[{branch.first_lsn}..{snapshot.lsn}]")
    return " + ".join(parts) or "empty"


def _author_name() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"[:120]


def _make_directory(path: Path) -> bool:
    """Make the data directory; False if it is there and cannot be written."""
    try:
        with storage_errors(path):
            make_directories(path)
    except GraftError:
        if not path.is_dir():
            raise
    return os.access(path, os.W_OK)
