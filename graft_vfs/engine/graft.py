"""The engine: opens a data directory and a remote, and runs every verb on tags.

This is the composition root: it puts stores, catalog, logs and volumes together. The VFS, the
command line and programs call it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from graft_vfs.advice import Advice, Hint
from graft_vfs.engine import moving, syncing
from graft_vfs.engine.reading import ReadingEngine
from graft_vfs.errors import NotFoundError
from graft_vfs.history import branches as branching
from graft_vfs.history import commit_names, names
from graft_vfs.history.branches import RemovedBranch, SwitchedBranch
from graft_vfs.history.commit_names import NameReport
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.files import importing
from graft_vfs.maintenance import adopt as adopting
from graft_vfs.maintenance import collect as collecting
from graft_vfs.maintenance import compaction, leftovers
from graft_vfs.maintenance import retention as retaining
from graft_vfs.maintenance import sweep as sweeping
from graft_vfs.maintenance.collect import CollectedVolume
from graft_vfs.maintenance.compaction import Compacted
from graft_vfs.maintenance.leftovers import Reclaimed
from graft_vfs.maintenance.retention import Expiry, Retention
from graft_vfs.maintenance.sweep import Collected
from graft_vfs.remote.policy import Policy
from graft_vfs.reports import (
    Adopted,
    Moved,
    Progress,
    RemoteReport,
)
from graft_vfs.store.base import Sent
from graft_vfs.sync import naming
from graft_vfs.sync import remotes as remoting
from graft_vfs.sync.clone import NewVolume, clone_base
from graft_vfs.sync.fetch import Fetched, fetch_log, require_view
from graft_vfs.sync.pinning import pinned
from graft_vfs.sync.pull import Pulled
from graft_vfs.sync.push import Pushed
from graft_vfs.sync.settle import WAIT_SECONDS as PUSH_WAIT_SECONDS
from graft_vfs.sync.sources import Source
from graft_vfs.tags import check_tag
from graft_vfs.view.log_view import LogView
from graft_vfs.volume.context import Opened

if TYPE_CHECKING:
    from graft_vfs.history.restore import Restored, RestoredFile
    from graft_vfs.history.revert import Reverted
    from graft_vfs.maintenance import fsck
    from graft_vfs.merge.conflicts import Conflicting, Decide, Merged
    from graft_vfs.merge.rebase import Rebased
    from graft_vfs.merge.sides import Prepare
    from graft_vfs.plain.transfer import Imported, Transferred

_logger = logging.getLogger(__name__)


class Graft(ReadingEngine):
    """One data directory with one remote.

    Every verb on a tag raises InvalidTagError and NotFoundError. Verbs that write locally raise
    ReadOnlyError and LocalStorageError; verbs that read damaged bytes raise a DamageError; verbs
    that send requests raise NoRemoteError and StoreError. Each verb documents its other errors. A
    verb's local changes are durable when it returns.

    Owner: the program, usually through `graft_vfs.register`. Thread rule: any thread. Processes may
    share the data directory, each with its own engine. An engine does not survive a fork.
    """

    # Volumes and remotes ----------------------------------------------------------------------

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
        history: bool = False,
        repair: bool = False,
        progress: Progress | None = None,
    ) -> fsck.Fsck:
        """Verify the data directory and remote logs; with `repair`, also repair them.

        `name` is a tag, a log id or a ref. Without one, all logs that local volumes are based on or
        push to are verified, and all refs. For the requests see `maintenance.fsck.check_log`. With
        `deep`, each frame is read; with `history`, tables, also those that this machine has, are
        compared with the commits. Nothing is written without `repair`. Raises NotFoundError.
        """
        with importing():
            from graft_vfs.maintenance import fsck  # noqa: PLC0415 - for start-up

        return fsck.check_all(
            self.context, name, deep=deep, history=history, repair=repair, progress=progress
        )

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

    def retention(self, tag: str | Opened) -> Retention:
        """Return which commits the log of a volume keeps. One request."""
        return retaining.shown(self.logs, self._remote_log(tag))

    def set_retention(
        self,
        tag: str | Opened,
        *,
        last: int = 0,
        within_seconds: int = 0,
        hourly: int = 0,
        daily: int = 0,
        weekly: int = 0,
        monthly: int = 0,
        yearly: int = 0,
        grace_seconds: int | None = None,
    ) -> Retention:
        """Say which commits the log of a volume keeps; `collect_remote` deletes the others.

        These are the `last` ones, those of the last `within_seconds`, and the last one each of so
        many hours, days, weeks, months and years. One of these numbers has to be above 0.

        The first time, a commit is pushed with which programs that do not know retention refuse the
        log, and after which no machine may stay away for longer than the grace period, by default a
        day, and go on as before. Requests: those of a fetch, a listing of the log, three, and those
        of a push. Raises UsageError for local commits, UnsafeStoreError for a store without time.
        """
        policy = Policy(
            last=last,
            within_seconds=within_seconds,
            hourly=hourly,
            daily=daily,
            weekly=weekly,
            monthly=monthly,
            yearly=yearly,
        )
        return retaining.changed(self.context, self._opened(tag), policy, grace_seconds)

    def expire(self, tag: str | Opened) -> list[Expiry]:
        """Return what the retention of a log will do to each commit, newest first, and why.

        Nothing is changed. Requests: those of a fetch, four, one listing for each 1000 objects, and
        one for each name, pin, fork, and commit that this machine has not read.
        """
        return retaining.planned(self.logs, self._remote_log(tag))

    def collect_remote(self, tag: str | Opened, *, dry_run: bool = False) -> Collected:
        """Delete the commits of a log that its retention has closed, and close the next ones.

        Requests: those of `expire`, one for each 1000 objects that are deleted, and three and one
        for each commit that is kept when others are closed. It may be ended at any time, and run on
        several machines at once. Raises ConflictError if another was first.
        """
        return sweeping.sweep(self.logs, self._remote_log(tag), dry_run=dry_run)

    def _remote_log(self, tag: str | Opened) -> LogId:
        syncing.require_remote(self.context)
        return self.catalog.volume(self._opened(tag).volume.id).remote

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

    def switch(self, tag: str | Opened, spec: str) -> Moved | SwitchedBranch:
        """Point the tag at `volume[:local[:remote]]`, or make a kept branch of its volume current.

        An absent volume is created with these ids: no request, or those of a fetch if it is created
        on a remote log. A branch is named by its id, or the beginning of that; the current one, if
        it has unpushed commits, is kept in turn, and no request is sent, unless an earlier push has
        to be settled. Raises InvalidIdError, UsageError, WriterBusyError.
        """
        if moving.is_branch(self.context, tag, spec):
            return branching.switch_to(self.context, self._opened(tag), spec)
        tag = tag.tag if isinstance(tag, Opened) else tag
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
        require_view(self.logs, found.log, found.lsn)
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

    def remove_branch(self, tag: str | Opened, branch: str) -> RemovedBranch:
        """Remove a kept branch with its commits, for good. No request.

        `branch` is its id, or the beginning of that. Raises NotFoundError.
        """
        return branching.remove(self._opened(tag), branch)

    def collect_local(
        self, *, dry_run: bool = False, force: Collection[VolumeId] = ()
    ) -> list[CollectedVolume]:
        """Remove volumes without a tag, unpushed commits and kept branches. No request.

        Volumes in `force` are removed in any case, unless a process has them open. With `dry_run`,
        nothing is removed. Raises UsageError if a tag names a volume in `force`.
        """
        return collecting.collect(self.context, dry_run=dry_run, force=force)

    def collect_idle(self, now_ms: int) -> list[CollectedVolume]:
        """Remove volumes that lost their tag, and were last used, at least a week ago.

        As `graft sync` does once a day. One request for each of their logs: the remote must have
        everything. Returns the removed volumes.
        """
        return collecting.collect_idle(self.context, now_ms)

    def reclaim(
        self, *, dry_run: bool = False, besides: Collection[VolumeId] = (), compacts: bool = True
    ) -> list[Reclaimed]:
        """Remove what no volume needs: leftovers of interrupted work, and dead space. No request.

        Also the cached pages and known commits of logs that no volume is based on. No commit is
        lost. With `dry_run`, nothing is removed, and volumes in `besides` are taken as removed.
        Without `compacts`, branch files are left to their own time.
        """
        return leftovers.remove(self.context, dry_run=dry_run, besides=besides, compacts=compacts)

    # Sync -------------------------------------------------------------------------------------

    def fetch(self, tag: str | Opened, *, progress: Progress | None = None) -> Fetched:
        """Fetch the remote log's new commits; no volume moves. One request if nothing is new."""
        volume = self._opened(tag).volume
        with syncing.syncing(self.context, volume):
            remote = self.catalog.volume(volume.id).remote
            return fetch_log(self.logs, remote, progress=progress)

    def pull(
        self,
        tag: str | Opened,
        *,
        strategy: str | None = None,
        progress: Progress | None = None,
    ) -> Pulled:
        """Fetch and fast-forward; one request if nothing is new.

        Raises DivergedError, and moves nothing, if the volume has local commits and the log has
        new ones. With a strategy it follows the log then: `reset` keeps the local commits as a
        branch, and `fork` makes them a new volume on a log of its own, under a tag of its own.
        Nothing is fetched for either. Raises UsageError for another strategy, WriterBusyError.
        """
        done = syncing.pull(self.context, self._opened(tag), progress, strategy)
        made = None if done.forked is None else self.catalog.tag_volume(done.forked)
        if made is not None:
            self.volume(made)  # So that autosync syncs it.
        return done

    def rebase(
        self,
        tag: str | Opened,
        *,
        policy: str | Decide = "abort",
        granularity: str = "cell",
        coincident: str = "merge",
        dry_run: bool = False,
        prepare: Prepare | None = None,
        progress: Progress | None = None,
    ) -> Pulled | Rebased | Merged | Conflicting | Fetched:
        """Pull, and merge local commits row by row if the volume has diverged.

        What is committed here is *ours*, what the remote has is *theirs*. Ours becomes one commit
        on theirs, and the former commits a kept branch. Conflicts are returned, and nothing moves,
        unless `policy` resolves them: `ours`, `theirs`, `renumber`, or a function from a conflict
        to a `merge.conflicts.Resolution` or to values of columns. `granularity` is `cell`, `row` or
        `table`; with `coincident="conflict"`, equal changes are conflicts. `prepare` registers the
        application's functions and collations on a connection. `dry_run` fetches, returns what
        would be merged, and moves nothing.

        Other connections cannot write meanwhile. Requests: those of `pull`, and for pages that are
        not cached: the rows that ours changed, in ours, base and theirs. Raises what `pull` raises
        but DivergedError, and UsageError for rows that cannot be compared.
        """
        with importing():
            from graft_vfs.merge.conflicts import Choices  # noqa: PLC0415 - for start-up

        choices = Choices.named(policy, granularity, coincident)
        return syncing.rebase(
            self.context,
            self._opened(tag),
            choices,
            dry_run=dry_run,
            prepare=prepare,
            progress=progress,
        )

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
        """Fetch all pages that are not cached; return their number.

        At most two range requests for each object that holds some, one for each 8 MiB, and one for
        each gap above 1 MiB between them. `progress` counts the bytes that are cached, of all. What
        arrives is cached at once, so that after a failure or an interrupt, a repetition continues.
        From a log with retention, the commit is pinned meanwhile: three requests more.
        """
        volume = self._opened(tag).volume
        with syncing.syncing(self.context, volume), volume.pinned() as snapshot:
            view = snapshot.remote
            if not isinstance(view, LogView):
                return 0
            with pinned(self.logs, view, progress) as keeping:
                return view.hydrate(keeping)

    def maintain(
        self, tag: str | Opened, *, dry_run: bool = False, progress: Progress | None = None
    ) -> Compacted:
        """Write the live pages of a log's small objects together, so that few hold the database.

        Nothing is deleted, and readers need not stop. With `dry_run`, only report what would be
        done. Requests: those of a fetch, of reading the pages that are not cached, one for each new
        object of up to 8 MiB, and one for the table that names them, which is durable on return.
        `progress` counts pages. Raises NotFoundError if the log has no commit.
        """
        opened = self._opened(tag)
        with syncing.syncing(self.context, opened.volume):
            done = compaction.maintain(self.context, opened, dry_run=dry_run, progress=progress)
        if done is None:
            raise NotFoundError(
                f"{opened.tag} has no remote commit yet", next_step=Hint("run ", Advice.PUSH)
            )
        return done

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
        that are not cached; three more to pin what is read from a log with retention. Raises
        AlreadyExistsError, also for a WAL or a journal beside the file.
        """
        with importing():
            from graft_vfs.plain import transfer  # noqa: PLC0415 - for start-up

        opened = self._opened(tag)
        with opened.volume.pinned() as newest:
            pages = newest if at is None else self.snapshot_at(opened, at)
            with pinned(self.logs, pages.remote, progress) as keeping:
                if isinstance(target, str | Path):
                    return transfer.export_pages(pages, Path(target), force=force, progress=keeping)
                return transfer.export_stream(pages, target, progress=keeping)

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
        So commits that are not pushed are kept as a branch, unless `force`, if there is a remote: a
        push rolls them into one. `message` as for `import_`; without one the commit says what was
        restored. Requests: those of `resolve`, and for pages that changed since and are
        not cached. `progress` counts pages. Raises WriterBusyError.
        """
        with importing():
            from graft_vfs.history import restore  # noqa: PLC0415 - for start-up

        return restore.restore_in_place(
            self._opened(tag), self.logs, at, force=force, message=message, progress=progress
        )

    def revert(
        self,
        tag: str | Opened,
        ref: str,
        *,
        force: bool = False,
        dry_run: bool = False,
        message: str = "",
    ) -> Reverted:
        """Undo what a commit, or the commits `A..B`, changed, as a local commit on top.

        `ref` is as for `resolve`. The newest commit can always be undone. Of an older one, rows and
        tables that later commits changed again are conflicts: nothing is written then, and
        RevertConflictError is raised; `dry_run` returns them, or what would be changed, and writes
        nothing. The report names the commit to go back to. A local commit is refused with
        UsageError, unless `force`, if there is a remote: a push rolls it into one with the revert.
        Requests: those of `resolve`, and for pages that changed since and are not cached. Raises
        WriterBusyError.
        """
        with importing():
            from graft_vfs.history import revert  # noqa: PLC0415 - for start-up

        return revert.revert(
            self._opened(tag), self.logs, ref, force=force, dry_run=dry_run, message=message
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
