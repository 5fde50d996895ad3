"""Where the bytes of a remote are: commits, segments, tables and names, by log and by LSN.

Sizes come from listings, at one request per 1000 objects. Everything else comes from what this
machine knows: which segment a commit has, and how many of its pages the newest commit still needs.
Nothing that is not known counts as garbage: an object of an unknown commit may be needed by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from graft_vfs.errors import CorruptObjectError
from graft_vfs.format.commit import decode_header
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.body import Body
from graft_vfs.remote.log import (
    LOGS_PREFIX,
    SEGMENTS_PREFIX,
    ascending,
    commit_key,
    commits_prefix,
    segment_key,
)
from graft_vfs.reports import Report, size_text
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.none import NoStore
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Context

_STEP_COMMITS = 512
_KINDS = "commits", "tables", "names"


@dataclass(frozen=True, slots=True, repr=False)
class KindUsage(Report):
    """The objects of one kind, and their size together."""

    kind: str
    objects: int
    total_bytes: int

    def __str__(self) -> str:
        return f"{self.objects} {self.kind}: {size_text(self.total_bytes)}"


@dataclass(frozen=True, slots=True, repr=False)
class CommitUsage(Report):
    """The objects of one commit: its own, and its segment if it has one.

    `live_pages` of its `pages` are the newest image of their page; both are None for a commit that
    is not known here.
    """

    lsn: RemoteLsn
    commit_bytes: int
    segment_bytes: int
    pages: int | None
    live_pages: int | None
    time_ms: int | None

    @property
    def total_bytes(self) -> int:
        """The size of both objects."""
        return self.commit_bytes + self.segment_bytes

    def __str__(self) -> str:
        return f"LSN {self.lsn}: {size_text(self.total_bytes)}"


@dataclass(frozen=True, slots=True, repr=False)
class LogUsage(Report):
    """A log on a remote, with the largest of its `commit_count` commits, in that order.

    Of the page images in it, `live_bytes` are needed by the newest known commit, `known_lsn`, and
    `superseded_bytes` are the rest of its commits and segments: images that only earlier commits or
    forks need, and headers. Both are estimates from the number of pages.
    """

    log: LogId
    tags: tuple[str, ...]
    kinds: tuple[KindUsage, ...]
    live_bytes: int
    superseded_bytes: int
    known_lsn: RemoteLsn
    commits: tuple[CommitUsage, ...]
    commit_count: int

    @property
    def total_bytes(self) -> int:
        """The size of all objects of the log."""
        return sum(each.total_bytes for each in self.kinds)

    def __str__(self) -> str:
        return f"log {self.log}: {size_text(self.total_bytes)}"


@dataclass(frozen=True, slots=True, repr=False)
class RemoteUsage(Report):
    """Logs on a remote, and `unnamed` segments: no commit or table in use has them, as known here.

    These belong to commits or logs that this machine does not know, to tables that a later one
    replaced, or to pushes that are running or failed.
    """

    remote: str
    logs: tuple[LogUsage, ...]
    unnamed: KindUsage

    def __str__(self) -> str:
        return f"{size_text(sum(each.total_bytes for each in self.logs))} on {self.remote}"


class _Known(NamedTuple):
    """What this machine knows of a commit."""

    segment: str | None
    pages: int
    time_ms: int


class _Live(NamedTuple):
    """Of an object with pages: how many of how many pages are live, and their share of its size."""

    log: LogId
    pages: int
    of_pages: int
    size_bytes: float


def remote_usage(
    logs: Logs,
    store: ObjectStore,
    wanted: Mapping[LogId, tuple[str, ...]],
    *,
    everything: bool = False,
    limit: int | None = None,
) -> RemoteUsage:
    """Return what logs take on a remote, given with their tags; with `everything`, all logs there.

    Of each log, the `limit` largest commits are listed. One listing for each log, or one for all
    logs, and one of all segments; a listing is a request per 1000 objects. Raises StoreError, also
    for a remote without listings.
    """
    segments = {found.key: found.bytes for found in store.list(SEGMENTS_PREFIX)}
    objects = _all_logs(store) if everything else {log: _objects(store, log) for log in wanted}
    known = {log: _known(logs, log) for log in {*logs.catalog.known_logs(), *objects}}
    live = {log: _live(logs, log) for log in objects}
    named = {commit.segment for commits in known.values() for commit in commits.values()}
    for sources in live.values():
        named |= sources.keys()
    found = [
        _usage(log, wanted.get(log, ()), sizes, segments, known[log], live[log], limit)
        for log, sizes in objects.items()
    ]
    found.sort(key=lambda each: -each.total_bytes)
    rest = [size for key, size in segments.items() if key not in named]
    return RemoteUsage(store.describe(), tuple(found), KindUsage("segments", len(rest), sum(rest)))


def remote_usages(
    context: Context,
    volume: VolumeId | None = None,
    *,
    everything: bool = False,
    limit: int | None = None,
) -> list[RemoteUsage]:
    """Return what the logs of volumes, or of one, take on each of their remotes.

    A log that a volume was forked from counts, too. Arguments and requests are those of
    `remote_usage`. Raises NoRemoteError if no log lives on a remote.
    """
    logs = context.logs
    tags: dict[LogId, tuple[str, ...]] = {}
    for row, branch in map(context.catalog.current, _chosen(context, volume)):
        for log_id in logs.lineage(row.remote) | logs.lineage(branch.log_id):
            named = context.catalog.volume_tags(row.id) if log_id == row.remote else []
            tags[log_id] = (*tags.get(log_id, ()), *named)
    stores: dict[str, tuple[ObjectStore, dict[LogId, tuple[str, ...]]]] = {}
    found = [logs.remotes.of(log_id) for log_id in tags]
    everywhere = [logs.remotes.default] if everything else []
    for store in (*found, *everywhere):
        if not isinstance(store, NoStore):
            stores.setdefault(store.describe(), (store, {}))
    for log_id, store in zip(tags, found, strict=True):
        if not isinstance(store, NoStore):
            stores[store.describe()][1][log_id] = tags[log_id]
    if not stores:
        logs.remotes.default.list(LOGS_PREFIX)  # It says that there is none.
    return [
        remote_usage(logs, store, wanted, everything=everything, limit=limit)
        for store, wanted in stores.values()
    ]


def _chosen(context: Context, volume: VolumeId | None) -> list[VolumeId]:
    return [row.id for row in context.catalog.volumes()] if volume is None else [volume]


def _objects(store: ObjectStore, log_id: LogId) -> dict[str, int]:
    """Return the sizes of the objects below a log, by their keys after its own."""
    prefix = f"{LOGS_PREFIX}{log_id}/"
    return {found.key.removeprefix(prefix): found.bytes for found in store.list(prefix)}


def _all_logs(store: ObjectStore) -> dict[LogId, dict[str, int]]:
    logs: dict[LogId, dict[str, int]] = {}
    for found in store.list(LOGS_PREFIX):
        name, _, rest = found.key.removeprefix(LOGS_PREFIX).partition("/")
        if LogId.looks_like(name):
            logs.setdefault(LogId.parse(name), {})[rest] = found.bytes
    return logs


def _known(logs: Logs, log_id: LogId) -> dict[RemoteLsn, _Known]:
    """Return what is known of the commits of a log; a few hundred headers are in memory."""
    found: dict[RemoteLsn, _Known] = {}
    newest = logs.catalog.newest_commit(log_id)[0]
    for first in range(1, newest + 1, _STEP_COMMITS):
        last = RemoteLsn(min(newest, first + _STEP_COMMITS - 1))
        for row in logs.catalog.commits(log_id, RemoteLsn(first), last):
            header, _ = decode_header(row.header, key=f"catalog commit {log_id}:{row.lsn}")
            segment = None if header.segment is None else segment_key(header.segment)
            found[row.lsn] = _Known(segment, len(header.pages), header.time_ms)
    return found


def _live(logs: Logs, log_id: LogId) -> dict[str, _Live]:
    """Return what the newest known commit needs of each object, by its key, also of parents."""
    newest = logs.catalog.newest_commit(log_id)[0]
    found: dict[str, _Live] = {}
    for first, end, source, slot in logs.log_view(log_id, newest).table.runs() if newest else ():
        body = source.body
        former = found.get(body.key, _Live(source.log_id, 0, body.slots, 0.0))
        found[body.key] = former._replace(
            pages=former.pages + end - first,
            size_bytes=former.size_bytes + _share_bytes(body, slot, slot + end - first),
        )
    return found


def _share_bytes(body: Body, first: int, end: int) -> float:
    """Return the share of the slots first..end (half-open) in the bytes of their frames."""
    step, size, at = body.frames.frame_pages, 0.0, first
    while at < end:
        frame = at // step
        whole = end // step - frame
        if at % step == 0 and whole > 0:
            size += body.frames.byte_range(frame, frame + whole)[1]
            at += whole * step
        else:
            stop = min(end, (frame + 1) * step)
            pages = (stop - at) / body.pages_in_frame(frame)
            size += body.frames.byte_range(frame, frame + 1)[1] * pages
            at = stop
    return size


def _usage(  # noqa: PLR0917 - the facts of one log, each found by a function of its own
    log_id: LogId,
    tags: tuple[str, ...],
    sizes: Mapping[str, int],
    segments: Mapping[str, int],
    known: Mapping[RemoteLsn, _Known],
    live: Mapping[str, _Live],
    limit: int | None,
) -> LogUsage:
    objects, total = Counter[str](), Counter[str]()
    commits: list[CommitUsage] = []
    for key, size in sizes.items():
        kind = key.partition("/")[0]
        kind = kind if kind in _KINDS else "other"
        objects[kind] += 1
        total[kind] += size
        lsn = _lsn_of(log_id, key) if kind == "commits" else None
        if lsn is not None:
            commits.append(_commit(log_id, lsn, size, segments, known.get(lsn), live))
    own = {key for key, each in live.items() if each.log == log_id}
    named = own | {commit.segment for commit in known.values() if commit.segment is not None}
    sizes_of_segments = [segments[key] for key in named if key in segments]
    objects["segments"], total["segments"] = len(sizes_of_segments), sum(sizes_of_segments)
    live_bytes = round(sum(live[key].size_bytes for key in own))
    newest = max(known, default=NO_LSN)
    later = sum(each.total_bytes for each in commits if each.lsn > newest)
    images = total["commits"] + total["segments"] - later
    commits.sort(key=lambda each: (-each.total_bytes, -each.lsn))
    return LogUsage(
        log_id,
        tags,
        tuple(
            KindUsage(kind, objects[kind], total[kind]) for kind in (*_KINDS, "segments", "other")
        ),
        live_bytes,
        max(0, images - live_bytes) if newest else 0,
        newest,
        tuple(commits[:limit]),
        len(commits),
    )


def _lsn_of(log_id: LogId, key: str) -> RemoteLsn | None:
    """Return the LSN of a commit's key below its log; None for a foreign object."""
    whole = f"{LOGS_PREFIX}{log_id}/{key}"
    try:
        return ascending(whole.removeprefix(commits_prefix(log_id)), key=whole)
    except CorruptObjectError:
        return None


def _commit(  # noqa: PLR0917 - see `_usage`
    log_id: LogId,
    lsn: RemoteLsn,
    size: int,
    segments: Mapping[str, int],
    known: _Known | None,
    live: Mapping[str, _Live],
) -> CommitUsage:
    key = commit_key(log_id, lsn)
    if known is None:
        source = live.get(key)
        pages, live_pages = (None, None) if source is None else (source.of_pages, source.pages)
        return CommitUsage(lsn, size, 0, pages, live_pages, None)
    source = live.get(known.segment or key)
    return CommitUsage(
        lsn,
        size,
        0 if known.segment is None else segments.get(known.segment, 0),
        known.pages,
        0 if source is None else source.pages,
        known.time_ms,
    )
