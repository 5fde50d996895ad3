"""Remote logs: objects in a store that form an ordered, verifiable history.

    logs/<log>/commits/<descending>      one commit; create-only, deleted only by retention; a
                                         repair may overwrite a damaged one with the same commit
    logs/<log>/names/<name>              a name of a commit; create-only, see `format.name`
    logs/<log>/tables/<descending>-<A>   where the newest images of pages are; see `remote.tables`
    logs/<log>/floor                     up to which LSN the log is closed, see `floor`
    logs/<log>/rolls/<descending>        the hashes of closed commits; create-only, see `rolls`
    segments/<segment>                   frames of commits that are too large to contain them

`<descending>` is the ones' complement of the 64-bit LSN in 16 hexadecimal digits, so an ascending
listing starts with the newest commit. Refs and names are in `remote.refs` and
`remote.names`.

Listings skip foreign objects among commits, such as `.DS_Store` or `README`, with one warning.

Invariants:
 1. Every returned commit is verified: its hash is correct, its log and LSN match its key, and if
    the hash of its predecessor is known, it names that hash.
 2. A log has no gaps. A gap is reported as damage.
 3. Every returned frame matches the checksum in its commit's header.

A crash leaves at most a segment that no commit names. This module does not decide who owns an LSN
(see `claim`), and keeps no state.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import re
from collections.abc import Callable, Generator, Iterable, Iterator

from graft_vfs.errors import (
    CorruptObjectError,
    ObjectMissingError,
)
from graft_vfs.format.commit import MAGIC as COMMIT_MAGIC
from graft_vfs.format.commit import CommitHeader
from graft_vfs.format.frame import Frames
from graft_vfs.format.segment import segment_header
from graft_vfs.format.table import Source
from graft_vfs.ids import LogId, SegmentId
from graft_vfs.local.cache.arena import commit_source
from graft_vfs.pages import LSN_MAX, NO_LSN, RemoteLsn
from graft_vfs.remote.body import Body
from graft_vfs.remote.commit_reader import (
    Answer,
    CommitRecord,
    Place,
    read_answer,
    read_answers,
    read_commit,
)
from graft_vfs.store.base import ObjectStore, Sent

_logger = logging.getLogger(__name__)

LOGS_PREFIX = "logs/"
SEGMENTS_PREFIX = "segments/"

Jump = Callable[[RemoteLsn, RemoteLsn], Iterable[CommitRecord]]
"""Called with a known LSN and the last one that is wanted."""

_U64_MAX = 0xFFFF_FFFF_FFFF_FFFF
_DESCENDING = re.compile(r"[0-9a-f]{16}")
_NEWEST_KEYS = 8
_BEHIND_BYTES_MAX = 8 << 20
_LOOKS = (1, 1, 7)
"""The number of commits that each step of a poll reads at once, while all of them exist."""


# Keys -----------------------------------------------------------------------------------------


def descending(lsn: RemoteLsn) -> str:
    """Return the key segment of an LSN: 16 digits that sort from newest to oldest."""
    assert 0 < lsn <= LSN_MAX
    return f"{_U64_MAX - lsn:016x}"


def ascending(text: str, *, key: str) -> RemoteLsn:
    """Return the LSN of a key segment of `key`; raises CorruptObjectError if it is invalid."""
    lsn = _U64_MAX - int(text, 16) if _DESCENDING.fullmatch(text) else 0
    if not 0 < lsn <= LSN_MAX:
        raise CorruptObjectError(
            f"{key} is foreign: its name is not an LSN",
            next_step="check who else writes to the remote",
        )
    return RemoteLsn(lsn)


def commits_prefix(log_id: LogId) -> str:
    """Return the prefix of the keys of a log's commits."""
    return f"{LOGS_PREFIX}{log_id}/commits/"


def commit_key(log_id: LogId, lsn: RemoteLsn) -> str:
    """Return the key of a commit."""
    return commits_prefix(log_id) + descending(lsn)


def segment_key(segment: SegmentId) -> str:
    """Return the key of a segment."""
    return f"{SEGMENTS_PREFIX}{segment}"


# Logs -----------------------------------------------------------------------------------------


class RemoteLog:
    """A handle on one log in one store. It is stateless, so it is never out of date.

    Owner: its creator; there is nothing to close. Thread rule: any thread.
    """

    def __init__(self, store: ObjectStore, log_id: LogId) -> None:
        self.store = store
        self.log_id = log_id

    def __repr__(self) -> str:
        return f"<RemoteLog {self.log_id} in {self.store.describe()}>"

    def read_header(self, lsn: RemoteLsn) -> CommitRecord | None:
        """Return the commit at `lsn`, or None if there is none yet.

        One range read of 16 KiB, and a second for a longer header. Raises CorruptObjectError if it
        is not the commit of this key.
        """
        return read_commit(self.store, self.place(lsn))

    def place(self, lsn: RemoteLsn) -> Place:
        """Return the place of the commit with an LSN. No request."""
        return Place(self.log_id, lsn, commit_key(self.log_id, lsn))

    def newest_lsn(self, known: RemoteLsn = NO_LSN) -> RemoteLsn:
        """Return the newest LSN, 0 for an empty log. One listing of a few keys.

        Foreign objects are skipped; if there are many, another listing continues after them. A
        store without listings is asked for commits after `known`: two requests for each doubling of
        their number.
        """
        if not self.store.can_list:
            return self._search_newest(known)
        keys = list(self.store.keys(commits_prefix(self.log_id), limit=_NEWEST_KEYS))
        lsns = self._lsns_of(keys)
        newest = next(lsns, NO_LSN)
        if newest or len(keys) < _NEWEST_KEYS:
            return newest
        return next(self.lsns(), NO_LSN)

    def lsns(self) -> Iterator[RemoteLsn]:
        """Yield the LSNs of all commits, newest first. One listing per 1000.

        Foreign objects are skipped, with one warning. For a store without listings, these are the
        LSNs up to the newest.
        """
        if not self.store.can_list:
            return map(RemoteLsn, range(self._search_newest(NO_LSN), 0, -1))
        return self._lsns_of(self.store.keys(commits_prefix(self.log_id)))

    def _search_newest(self, known: RemoteLsn) -> RemoteLsn:
        """Return the newest LSN after `known`, found by bisection, because a log has no gaps."""
        step = 1
        while self._is_there(known + step):
            known, step = RemoteLsn(known + step), step * 2
        absent = known + step
        while absent - known > 1:
            middle = (known + absent) // 2
            if self._is_there(middle):
                known = RemoteLsn(middle)
            else:
                absent = middle
        return known

    def _is_there(self, lsn: int) -> bool:
        """Return True if there is a commit; raises CorruptObjectError for what is none."""
        if lsn > LSN_MAX:
            return False
        key = commit_key(self.log_id, RemoteLsn(lsn))
        try:
            found = self.store.get_range(key, 0, len(COMMIT_MAGIC))
        except ObjectMissingError:
            return False
        if found != COMMIT_MAGIC:
            raise CorruptObjectError(
                f"{key} is not a commit of graft-vfs", next_step="check the URL of the remote"
            )
        return True

    def _lsns_of(self, keys: Iterable[str]) -> Iterator[RemoteLsn]:
        prefix = commits_prefix(self.log_id)
        has_warned = False
        for key in keys:
            try:
                lsn = ascending(key.removeprefix(prefix), key=key)
            except CorruptObjectError as error:
                if not has_warned:
                    _logger.warning("skipped an object that is not a commit: %s", error)
                has_warned = True
                continue
            yield lsn

    def read_headers(
        self,
        first: RemoteLsn,
        last: RemoteLsn,
        *,
        previous_hash: bytes | None,
    ) -> Iterator[CommitRecord]:
        """Yield the commits first..last (inclusive) in ascending order, as they arrive.

        `previous_hash` is the hash of the commit before `first`, None if unknown. The chain of
        hashes is verified. One request per commit, 32 at a time, at most twice that many ahead of
        the caller. Raises CorruptObjectError at a gap.
        """
        return existing(self._answers(first, last, previous_hash))

    def _answers(
        self, first: RemoteLsn, last: RemoteLsn, previous_hash: bytes | None
    ) -> Iterator[Answer]:
        """Yield the answers about first..last, all of which exist; their chain is verified."""
        places = map(self.place, map(RemoteLsn, range(first, last + 1)))
        for answer in read_answers(self.store, places):
            if answer.record is None:
                raise self.gap(answer.lsn)
            header = answer.record.header
            check_chain(header, previous_hash, key=commit_key(self.log_id, header.lsn))
            previous_hash = header.hash
            yield answer

    def gap(self, lsn: RemoteLsn) -> CorruptObjectError:
        """Return the error for a commit that is absent although a newer one exists."""
        return CorruptObjectError(
            f"log {self.log_id} has a gap: {commit_key(self.log_id, lsn)} (LSN {lsn}) is absent "
            "although a newer commit exists",
            next_step="restore the object from a replica or a backup",
        )

    def probe_next(
        self,
        known_lsn: RemoteLsn,
        known_hash: bytes | None,
        *,
        lists: bool = False,
        jump: Jump | None = None,
        progress: Callable[[int, int], None] | None = None,
        believed: Callable[[Iterable[Answer]], Iterator[CommitRecord]] | None = None,
    ) -> Iterator[CommitRecord]:
        """Yield all commits after `known_lsn`, ascending, as they arrive; their chain is verified.

        If nothing is known, `known_lsn` is 0 and `known_hash` None; this takes a listing, and one
        request per commit, 32 at a time. Otherwise, one request if nothing is new, and two for one
        new commit. If there are two, the next seven are read at once, and only if all of these
        exist does a listing find the rest. With `lists` there is always a listing, which also
        detects that the next commit is missing. For `jump` and `progress` see `read_to`. `believed`
        gets the answers about LSNs in order, the last of which may be that one is absent, and
        yields the commits that it believes; see `belief`.
        """
        believed = believed or existing
        newest, is_far = known_lsn, not known_lsn
        for count in () if is_far else _LOOKS:
            looked_to = newest + count
            for record in believed(self._look(RemoteLsn(newest + 1), count, known_hash)):
                newest, known_hash = record.header.lsn, record.header.hash
                yield record
            is_far = newest == looked_to
            if not is_far:
                break
        last = self.newest_lsn(newest) if is_far or lists else newest
        if progress is not None and newest > known_lsn:
            progress(newest - known_lsn, last - known_lsn)

        def tell(lsn: RemoteLsn) -> None:
            if progress is not None:
                progress(lsn - known_lsn, last - known_lsn)

        yield from self.read_to(
            last, newest, known_hash, jump=jump, progress=tell, believed=believed
        )

    def read_to(
        self,
        last: RemoteLsn,
        known_lsn: RemoteLsn,
        known_hash: bytes | None,
        *,
        jump: Jump | None = None,
        progress: Callable[[RemoteLsn], None],
        believed: Callable[[Iterable[Answer]], Iterator[CommitRecord]] | None = None,
    ) -> Generator[CommitRecord, None, None]:
        """Yield the commits from `known_lsn` to `last`, ascending, with a verified chain.

        `jump` may yield a verified commit, which is then continued from: the commits before it are
        not needed. `progress` gets the LSN of each commit; for `believed` see `probe_next`.
        """
        believed = believed or existing
        newest = known_lsn
        for record in jump(newest, last) if jump is not None else ():
            newest, known_hash = record.header.lsn, record.header.hash
            yield record
        for record in believed(self._answers(RemoteLsn(newest + 1), last, known_hash)):
            progress(record.header.lsn)
            yield record

    def _look(self, first: RemoteLsn, count: int, previous_hash: bytes | None) -> Iterator[Answer]:
        """Yield the existing commits among the `count` from `first`, read concurrently.

        If not all exist, the answer about the first that is absent comes last.
        """
        following, absent = first, None
        places = [self.place(RemoteLsn(lsn)) for lsn in range(first, first + count)]
        for looked in read_answers(self.store, places):
            if looked.record is None:
                absent = looked if following == looked.lsn else absent
                continue
            absent = None
            while following <= looked.lsn:
                answer = looked
                if following < looked.lsn:
                    # Absent, but a later one exists: it may have been written between the two
                    # answers.
                    answer = read_answer(self.store, self.place(following))
                if answer.record is None:
                    raise self.gap(following)
                header = answer.record.header
                check_chain(header, previous_hash, key=commit_key(self.log_id, following))
                previous_hash = header.hash
                yield answer
                following = RemoteLsn(following + 1)
        if absent is not None:
            yield absent

    # Frames -----------------------------------------------------------------------------------

    def body(self, header: CommitHeader, header_length: int) -> Body:
        """Return the place of a commit's frames. No request."""
        origin = origin_of(header, header_length)
        return body_of(origin, header.frames, page_size=header.page_size)

    def read_frames(
        self, header: CommitHeader, header_length: int, first: int, end: int
    ) -> list[bytes]:
        """Return the page images of the frames [first, end); see `Body.read`."""
        return self.body(header, header_length).read(self.store, range(first, end))

    def frames_behind(self, record: CommitRecord) -> Iterator[bytes]:
        """Yield the page images of the first frames, which arrived complete with the header.

        No request, and at most 8 MiB. Stops before a damaged frame; its reader gets the error.
        """
        header = record.header
        if header.segment is not None:
            return
        whole = bisect.bisect_right(header.frames.offsets, len(record.behind)) - 1
        whole = min(whole, _BEHIND_BYTES_MAX // (header.page_size * header.frames.frame_pages))
        body = self.body(header, record.header_length)
        with contextlib.suppress(CorruptObjectError):
            yield from body.decoded(memoryview(record.behind), range(whole))

    def body_key(self, header: CommitHeader) -> str:
        """Return the key of the object that holds a commit's frames."""
        return _body_key(header.log_id, header.lsn, header.segment)

    def write_segment(
        self,
        segment: SegmentId,
        frames: Iterable[bytes | bytearray | memoryview],
        *,
        sent: Sent | None = None,
    ) -> None:
        """Write a segment of these frames; atomic, and durable on return. No commit names it yet.

        One request; on S3, more above 8 MiB. Frames may be views of a mapped file, so that they are
        not in memory together. `sent` is called as parts arrive. Raises StoreError.
        """
        self.store.put(segment_key(segment), [segment_header(segment), *frames], sent=sent)


def existing(answers: Iterable[Answer]) -> Iterator[CommitRecord]:
    """Yield the commits of answers up to the first that says that there is none."""
    for answer in answers:
        if answer.record is None:
            return
        yield answer.record


def origin_of(header: CommitHeader, header_length: int) -> Source:
    """Return a commit as a source of frames."""
    return Source(
        header.log_id,
        commit_source(header.lsn, header.hash),
        header.lsn,
        header.segment,
        header.body_offset(header_length),
        header.frames.frame_pages,
        len(header.pages),
    )


def body_of(origin: Source, frames: Frames, *, page_size: int) -> Body:
    """Return the place of a source's frames. No request."""
    return Body(
        name=f"LSN {origin.lsn}" if origin.lsn else f"segment {origin.segment}",
        key=_body_key(origin.log_id, origin.lsn, origin.segment),
        offset=origin.offset,
        frames=frames,
        slots=origin.slots,
        page_size=page_size,
    )


def _body_key(log_id: LogId, lsn: RemoteLsn, segment: SegmentId | None) -> str:
    return commit_key(log_id, lsn) if segment is None else segment_key(segment)


def check_chain(header: CommitHeader, expected: bytes | None, *, key: str) -> None:
    """Raise CorruptObjectError unless `expected` is the previous hash of a commit."""
    if expected is not None and header.previous_hash != expected:
        raise CorruptObjectError(
            f"{key}: LSN {header.lsn} does not follow the known previous commit; "
            f"it names {header.previous_hash.hex()[:16]}, known is {expected.hex()[:16]}",
            next_step="the history of this log was replaced: clone it again, or restore the remote",
        )


def list_logs(store: ObjectStore) -> Iterator[tuple[LogId, RemoteLsn]]:
    """Yield (log, newest LSN) of all logs with commits, by id. Two requests per log, plus one."""
    after: str | None = None
    while True:
        key = next(iter(store.keys(LOGS_PREFIX, start_after=after, limit=1)), None)
        if key is None:
            return
        name = key.removeprefix(LOGS_PREFIX).split("/")[0]
        if LogId.looks_like(name):
            log_id = LogId.parse(name)
            newest = RemoteLog(store, log_id).newest_lsn()
            if newest:
                yield log_id, newest
        # The character after the slash: this sorts after all keys of the log.
        after = f"{LOGS_PREFIX}{name}0"
