"""fsck: verifies remote logs and local volumes, plans repairs, and makes them on demand.

A log is verified completely: every commit is listed, read, verified by its hash and the chain, and
compared with the local catalog. Its frames must exist; with `deep`, each is read and verified. A
machine can rewrite a missing or damaged commit or segment if it has the bytes: in the record of an
unsettled push, or as cached pages that compress to the same frames. Tables are made again from the
commits (see `table_checks`).

Nothing is written without `repair` (see `mending`); with it, the findings report the repairs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft_vfs.advice import Advice, Audience, Hint, Worded
from graft_vfs.errors import (
    ConfigError,
    CorruptObjectError,
    DamageError,
    GraftError,
    NotFoundError,
    ObjectMissingError,
    StoreError,
)
from graft_vfs.format.commit import CommitHeader
from graft_vfs.format.segment import SEGMENT_HEADER_BYTES, check_segment_header
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.catalog.descriptor import MOVE_AWAY
from graft_vfs.local.catalog.remotes import DEFAULT
from graft_vfs.maintenance.adopt import lost_volumes
from graft_vfs.maintenance.findings import OTHER_MACHINE, Fault, FaultKind, Finding, Link
from graft_vfs.maintenance.mending import Mender
from graft_vfs.maintenance.table_checks import TableCheck
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.commit_reader import CommitRecord
from graft_vfs.remote.floor import read_floor
from graft_vfs.remote.log import RemoteLog, commit_key
from graft_vfs.remote.names import list_names, name_key
from graft_vfs.remote.refs import list_refs, read_ref, ref_names
from graft_vfs.remote.request_threads import request_threads
from graft_vfs.remote.rolls import closed_lsns, find_roll
from graft_vfs.reports import Progress, Report, commits_text
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.none import NoStore
from graft_vfs.suggestions import did_you_mean
from graft_vfs.sync.headers import lineage
from graft_vfs.sync.remotes import find_remote
from graft_vfs.sync.sources import log_beginning
from graft_vfs.view.logs import Logs
from graft_vfs.view.remote_view import EmptyRemoteView
from graft_vfs.volume.context import Context
from graft_vfs.volume.kept import kept_snapshot
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_DEEP_FRAMES = 16
_GAP_COMMITS_MAX = 10_000
"""A hostile listing may show any LSN: at most this many LSNs of a gap are searched."""


@dataclass(frozen=True, slots=True, repr=False)
class LogCheck(Report, Worded):
    """One remote log: its newest LSN, what was verified, and the findings."""

    log: LogId
    newest_lsn: RemoteLsn
    commits: int
    segments: int
    tables: int
    findings: tuple[Finding, ...]

    def words(self, audience: Audience) -> str:
        """Return the lines for one audience."""
        bad = sum(not each.is_repaired for each in self.findings)
        what = "sound" if not bad else "1 problem" if bad == 1 else f"{bad} problems"
        head = (
            f"log      {self.log}: {commits_text(self.commits)} up to LSN {self.newest_lsn}, "
            f"{self.segments} segment{'s' * (self.segments != 1)}{self._tables_text()}: {what}"
        )
        return "\n".join([head, *(each.words(audience) for each in self.findings)])

    def _tables_text(self) -> str:
        return f", {self.tables} table{'s' * (self.tables != 1)}" if self.tables else ""


@dataclass(frozen=True, slots=True, repr=False)
class Fsck(Report, Worded):
    """The result: the data directory, the remote's logs, its refs."""

    volumes: int
    local: tuple[Finding, ...]
    logs: tuple[LogCheck, ...]
    refs: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Return True if there are no faults, or all were repaired."""
        found = [*self.local, *self.refs, *(each for log in self.logs for each in log.findings)]
        return all(each.is_repaired for each in found)

    def words(self, audience: Audience) -> str:
        """Return the lines for one audience."""
        bad = len(self.local)
        what = "sound" if not bad else "1 problem" if bad == 1 else f"{bad} problems"
        head = f"local    {self.volumes} volume{'s' * (self.volumes != 1)}: {what}"
        found = *self.local, *self.logs, *self.refs
        return "\n".join([head, *(each.words(audience) for each in found)])


# One log ----------------------------------------------------------------------------------------


def check_log(
    logs: Logs,
    log_id: LogId,
    *,
    deep: bool = False,
    history: bool = False,
    repair: bool = False,
    scratch: Path,
    progress: Progress | None = None,
) -> LogCheck:
    """Verify a remote log, and with `repair` put back what is missing and is here.

    Requests: one for each 1000 commits and each 1000 names, one for each commit and each name, two
    for each segment, 32 at a time; with `deep` those of reading all frames; for those of tables,
    which `history` compares with the commits, see `TableCheck.run`. With retention, one more for
    the floor, and three for each commit that is closed and not deleted. `scratch` is a
    directory for the frames of a large commit that is put back. `progress` counts commits. Raises
    StoreError.
    """
    remote = logs.log(log_id)
    present = sorted(set(remote.lsns()))
    newest = present[-1] if present else NO_LSN
    known = logs.catalog.newest_commit(log_id)[0]
    closed = range(0)
    if known < newest or logs.belief(log_id, known).has_retention:
        closed = closed_lsns(remote.store, read_floor(remote.store, log_id))
    check = _LogCheck(logs, remote, closed, deep=deep)
    found: list[Fault] = []
    segments = 0
    with request_threads("graft-fsck") as executor:
        for number, (lsn, seen) in enumerate(
            zip(present, executor.map(check.inspect, present), strict=True), 1
        ):
            found += check.judge(lsn, seen)
            segments += seen.record is not None and seen.record.header.segment is not None
            if progress is not None:
                progress(number, len(present))
    for lsn in _gaps(present, max(newest, known), closed):
        problem = "the commit is missing" if lsn < newest else "the remote lacks this known commit"
        hole = Finding(_place(log_id, lsn), problem, next_step=OTHER_MACHINE)
        found.append(Fault(lsn, FaultKind.HOLE, hole))
    if check.is_our_history:
        mender = Mender(logs, remote, check.links, scratch)
        findings = tuple(mender.planned(fault, repair=repair) for fault in found)
    else:
        findings = tuple(fault.finding for fault in found)
    if remote.store.can_list:
        findings += tuple(_judge_names(logs, remote, check.links))
    tables = TableCheck(logs, remote, check.links, is_ours=check.is_our_history)
    findings += tuple(tables.run(deep=deep, history=history, repair=repair))
    return LogCheck(log_id, newest, len(check.links), segments, tables.count, findings)


def _judge_names(
    logs: Logs, remote: RemoteLog, links: Mapping[RemoteLsn, Link]
) -> Iterator[Finding]:
    """Yield the names of commits that are damaged, or of commits that the log does not have."""
    damaged: list[CorruptObjectError] = []
    for name in list_names(remote.store, remote.log_id, damaged):
        # What is known here may have been put back just now.
        hashes = {row.hash for row in logs.catalog.commits(name.log, name.lsn, name.lsn)}
        hashes |= {links[name.lsn].hash} if name.lsn in links else set()
        if name.hash not in hashes:
            yield Finding(
                name_key(remote.log_id, name.name),
                f"the name {name.name!r} was given to a commit at LSN {name.lsn} that the log does "
                "not have",
                next_step=Hint("if no history is to be restored, ", Advice.REMOVE_NAME),
            )
    for error in damaged:
        yield Finding(
            f"a name of log {remote.log_id}",
            error.message,
            next_step="delete the object, and give the name again",
        )


def _gaps(present: Sequence[RemoteLsn], last: RemoteLsn, closed: range) -> Iterator[RemoteLsn]:
    """Yield the LSNs up to `last` that are absent and not closed, ascending."""
    present = sorted({*present, *map(RemoteLsn, closed)})
    there, count = set(present), 0
    bounds = [*present, RemoteLsn(last + 1)]
    before = 0
    for bound in bounds:
        for lsn in range(before + 1, bound):
            if lsn not in there:
                count += 1
                if count > _GAP_COMMITS_MAX:
                    return
                yield RemoteLsn(lsn)
        before = bound


def _place(log_id: LogId, lsn: RemoteLsn) -> str:
    return f"{commit_key(log_id, lsn)} (LSN {lsn})"


@dataclass(frozen=True, slots=True)
class _Seen:
    """The result of reading one LSN: the commit or the error, and faults of its body."""

    record: CommitRecord | None
    error: GraftError | None
    body_error: GraftError | None


class _LogCheck:
    """One run over a log. Owner: `check_log`; `inspect` is called by many threads."""

    def __init__(self, logs: Logs, remote: RemoteLog, closed: range, *, deep: bool) -> None:
        self._logs = logs
        self._remote = remote
        self._closed = closed
        self._deep = deep
        self.is_our_history = True
        self.links: dict[RemoteLsn, Link] = {}
        """The links of the valid commits, in the order of `judge`."""

    def inspect(self, lsn: RemoteLsn) -> _Seen:
        """Read a commit and check that its body exists."""
        try:
            record = self._remote.read_header(lsn)
        except DamageError as error:
            return _Seen(None, error, None)
        if record is None:
            return _Seen(None, None, None)
        if lsn in self._closed:
            # Its segment may be deleted before it, and a late claim may stand in its place.
            roll = find_roll(self._remote.store, self._remote.log_id, lsn)
            is_first = roll is not None and roll.hash_of(lsn) == record.header.hash
            return _Seen(record if is_first else None, None, None)
        try:
            self._inspect_body(record)
        except (DamageError, ObjectMissingError) as error:
            return _Seen(record, None, error)
        return _Seen(record, None, None)

    def _inspect_body(self, record: CommitRecord) -> None:
        header, store = record.header, self._remote.store
        frames, key = len(header.frames), self._remote.body_key(record.header)
        if header.segment is not None:
            head = store.get_range(key, 0, SEGMENT_HEADER_BYTES)
            check_segment_header(head, header.segment)
        if self._deep:
            for first in range(0, frames, _DEEP_FRAMES):
                end = min(frames, first + _DEEP_FRAMES)
                self._remote.read_frames(header, record.header_length, first, end)
        elif header.segment is not None or header.frames.body_bytes > len(record.behind):
            last = header.body_offset(record.header_length) + header.frames.body_bytes - 1
            if header.frames.body_bytes and not store.get_range(key, last, 1):
                raise CorruptObjectError(f"{key} is truncated: its last frames are missing")

    def judge(self, lsn: RemoteLsn, seen: _Seen) -> Iterator[Fault]:
        """Yield the faults of one commit; earlier commits have been judged."""
        where = _place(self._remote.log_id, lsn)
        if seen.error is not None:
            step = Hint(
                "keep a copy of the object elsewhere, delete it, and run ",
                Advice.REPAIR(LOG=str(self._remote.log_id)),
            )
            # A later version's object is not damage.
            is_damaged = isinstance(seen.error, CorruptObjectError)
            kind = FaultKind.DAMAGED if is_damaged else FaultKind.OTHER
            yield Fault(lsn, kind, Finding(where, seen.error.message, next_step=step))
        if seen.record is None:
            return
        header = seen.record.header
        for finding in [*self._judge_link(lsn, header), *self._judge_parent(where, header)]:
            yield Fault(lsn, FaultKind.OTHER, finding)
        if seen.body_error is not None:
            where = f"{self._remote.body_key(header)} of LSN {lsn}"
            kind = FaultKind.DAMAGED if header.segment is None else FaultKind.SEGMENT
            finding = Finding(where, seen.body_error.message, next_step=OTHER_MACHINE)
            yield Fault(lsn, kind, finding)

    def _judge_link(self, lsn: RemoteLsn, header: CommitHeader) -> Iterator[Finding]:
        where = _place(self._remote.log_id, lsn)
        rows = self._logs.catalog.commits(self._remote.log_id, lsn, lsn)
        if rows and rows[0].hash != header.hash:
            self.is_our_history = False
            yield Finding(
                where,
                "this machine knows another commit at this LSN: the history was replaced",
                next_step=Hint(
                    "decide which history to keep; ",
                    Advice.CLONE(LOG=str(self._remote.log_id)),
                    " adopts the remote's",
                ),
            )
        before = self.links.get(RemoteLsn(lsn - 1))
        if before is not None and header.previous_hash != before.hash:
            yield Finding(
                where,
                "it does not follow the previous commit: the log mixes two histories",
                next_step="restore the remote from a backup with a single history",
            )
        self.links[lsn] = Link(header.hash, header.previous_hash)

    def _judge_parent(self, where: str, header: CommitHeader) -> Iterator[Finding]:
        if header.parent_log is None:
            return
        parent = f"{header.parent_log}:{header.parent_lsn}"
        try:
            record = self._logs.log(header.parent_log).read_header(header.parent_lsn)
        except DamageError as error:
            yield Finding(where, f"it was forked from {parent}, which is damaged: {error.message}")
            return
        if record is None or record.header.hash != header.previous_hash:
            what = "is missing" if record is None else "is now another commit"
            yield Finding(
                where,
                f"it was forked from {parent}, which {what}",
                next_step=Hint(
                    "run ",
                    Advice.FSCK(LOG=str(header.parent_log)),
                    " on a machine that has the parent",
                ),
            )


def check_all(
    context: Context,
    name: str | None,
    *,
    deep: bool,
    history: bool,
    repair: bool,
    progress: Progress | None,
) -> Fsck:
    """Verify the data directory, and the log that `name` names or all logs and refs.

    Without a name, a remote that cannot be asked is a finding, unless no other one was.
    """
    local, volumes = check_data(context)
    catalog, logs = context.catalog, context.logs
    wanted = [
        log_id
        for log_id in (logs_of(catalog, logs) if name is None else [log_named(logs, name)])
        if _has_remote(logs, log_id) or (name is not None and catalog.tag_volume(name) is None)
    ]
    scratch = context.volumes.directory
    check = functools.partial(
        check_log,
        logs,
        deep=deep,
        history=history,
        repair=repair,
        scratch=scratch,
        progress=progress,
    )
    if name is not None:
        return Fsck(volumes, tuple(local), tuple(map(check, wanted)), ())
    checked: list[LogCheck] = []
    refs: list[Finding] = []
    silent: list[tuple[str, GraftError]] = []
    remotes = dict.fromkeys([DEFAULT] if not isinstance(logs.remotes.default, NoStore) else [])
    remotes |= dict(catalog.remotes.all())
    for remote in remotes:
        on_it = [log_id for log_id in wanted if _remote_of(catalog, log_id) == remote]
        try:
            store = find_remote(logs, remote)
            checked += map(check, on_it)
            refs += _check_refs_of(logs, store)
        except (StoreError, ConfigError) as error:
            silent.append((remote, error))
    if silent and len(silent) == len(remotes):
        raise silent[0][1]
    refs += [
        Finding(f"remote {remote}", f"not verified: {error.message}", next_step=error.hint)
        for remote, error in silent
    ]
    return Fsck(volumes, tuple(local), tuple(checked), tuple(refs))


def _remote_of(catalog: Catalog, log_id: LogId) -> str:
    """Return the name of the remote that a log lives on."""
    row = catalog.remotes.of_log(log_id)
    return DEFAULT if row is None else row[0]


# The data directory -----------------------------------------------------------------------------


def check_data(context: Context) -> tuple[list[Finding], int]:
    """Return the faults of the data directory, and its number of volumes. No request.

    Every page of local commits, those of kept branches too, is read and verified.
    """
    catalog, volumes = context.catalog, context.volumes
    step = Hint(f"{MOVE_AWAY}, then see ", Advice.LIST_LOST)
    found = [Finding("catalog", text, next_step=step) for text in catalog.problems()]
    for lost in lost_volumes(catalog, volumes.directory):
        step = Hint("run ", Advice.ADOPT(VOLUME=lost.volume))
        found.append(Finding(f"volume {lost.volume}", str(lost), next_step=step))
    rows = catalog.volumes()
    for row in rows:
        try:
            with volumes.look(row.id).pinned() as snapshot:
                _read_local(snapshot)
        except GraftError as error:
            where = catalog.title(row.id)
            found.append(Finding(where, error.message, next_step=error.hint))
            continue
        found += _check_kept(context, volumes.look(row.id))
    return found, len(rows)


def _read_local(snapshot: Snapshot) -> None:
    """Verify the images of all local pages."""
    for page in snapshot.local_pages():
        snapshot.branch.offset_of(page, snapshot.end.offset)


def _check_kept(context: Context, volume: Volume) -> Iterator[Finding]:
    """Yield the faults of the branches that a volume keeps."""
    for kept in context.catalog.kept.all(volume.id):
        try:
            _read_local(kept_snapshot(volume, kept, lambda *_: EmptyRemoteView()))
        except GraftError as error:
            where = f"branch {kept.id} of volume {volume.id}"
            yield Finding(where, error.message, next_step=error.hint)


def log_named(logs: Logs, name: str) -> LogId:
    """Return the log of a tag, of an id, or of a ref.

    One request for an unknown id or a ref, one more if there is none. Raises NotFoundError, which
    lists the accepted kinds of names and similar names.
    """
    catalog, store = logs.catalog, logs.remotes.default
    if LogId.looks_like(name):
        log_id = LogId.parse(name)
        if catalog.newest_commit(log_id)[0] or log_id in {row.remote for row in catalog.volumes()}:
            return log_id
        found = log_id if logs.log(log_id).newest_lsn() else None
    else:
        volume = catalog.tag_volume(name)
        found = None if volume is None else catalog.volume(volume).remote
        found = found or read_ref(store, name) or log_beginning(logs, name)
    if found is not None:
        return found
    names = {*(tag for tag, _ in catalog.tags()), *ref_names(store)}
    raise NotFoundError(
        f"{name!r} is neither a tag of this machine, nor a ref of the remote ({store.describe()}),"
        " nor the id of a log there",
        next_step=Hint(
            did_you_mean(name, names),
            Advice.LIST_TAGS,
            " lists tags, ",
            Advice.LIST_LOGS,
            " refs and logs",
        ),
    )


def logs_of(catalog: Catalog, logs: Logs) -> list[LogId]:
    """Return the logs that volumes have pushed to, and those that they are based on."""
    pushed = [row.remote for row in catalog.volumes() if row.attached]
    named = {*pushed, *(log_id for _, log_id in catalog.bases())}
    return sorted({each for log_id in named for each in lineage(logs, log_id)})


# Refs -------------------------------------------------------------------------------------------


def _has_remote(logs: Logs, log_id: LogId) -> bool:
    return not isinstance(logs.log(log_id).store, NoStore)


def _check_refs_of(logs: Logs, store: ObjectStore) -> list[Finding]:
    """Return the refs of a remote that are damaged or gone, or name a log without commits.

    Two requests a ref. Gone are those that this machine cloned by. Of a remote without listings,
    only these are verified. Raises StoreError.
    """
    damaged: list[CorruptObjectError] = []
    found: list[Finding] = []
    there = dict(_refs_of(logs, store, damaged))
    for name, log_id in there.items():
        if not RemoteLog(store, log_id).newest_lsn():
            step = Hint("run ", Advice.REPAIR(LOG=str(log_id)), " on a machine that has it")
            problem = f"it names log {log_id}, which has no commits on the remote"
            found.append(Finding(f"ref {name!r}", problem, next_step=step))
    again = Hint("keep a copy of the object elsewhere, delete it, and run ", Advice.NAME_LOG)
    found += [Finding("refs", error.message, next_step=again) for error in damaged]
    for name, log_id in logs.catalog.known_refs(store.describe()):
        if name not in there:
            problem = f"it named log {log_id}, and is missing or no longer a ref"
            step = Hint(
                "run ",
                Advice.NAME_LOG(REF=name, LOG=log_id),
                "; if another object has its key, move that object",
            )
            found.append(Finding(f"ref {name!r}", problem, next_step=step))
    return found


def _refs_of(
    logs: Logs, store: ObjectStore, damaged: list[CorruptObjectError]
) -> Iterator[tuple[str, LogId]]:
    """Yield (name, log) of a remote's refs; of one without listings, those that were seen."""
    if store.can_list:
        yield from list_refs(store, damaged)
        return
    for name, _ in logs.catalog.known_refs(store.describe()):
        try:
            log_id = read_ref(store, name)
        except CorruptObjectError as error:
            damaged.append(error)
        else:
            if log_id is not None:
                yield name, log_id
