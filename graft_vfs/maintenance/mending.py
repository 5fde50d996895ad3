"""Repairs of a remote log: rewrites commits and segments whose bytes this machine has.

A repair never changes history: it writes bytes whose hash this machine knows for the LSN, and which
the next commit names. A gap is filled by a create-only write. A commit object is overwritten only
if a second read shows that it is still not a commit, and only if its bytes do not change in between
(`ObjectStore.replace`). Nothing else in this program overwrites a commit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from graft_vfs.advice import Hint
from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    CorruptObjectError,
    GraftError,
    StoreUnavailableError,
)
from graft_vfs.format.commit import CommitHeader, decode_header
from graft_vfs.format.frame import checksum_of, encode_frame
from graft_vfs.local.mapping import spooled
from graft_vfs.maintenance.findings import OTHER_MACHINE, Fault, FaultKind, Finding, Link
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.claim import claim
from graft_vfs.remote.log import RemoteLog, commit_key
from graft_vfs.view.logs import Logs
from graft_vfs.view.source import FrameSource


@dataclass(frozen=True, slots=True)
class _Repair:
    """A repair: its description as a plan and when done, and the action."""

    plan: str
    was: str
    done: str
    run: Callable[[], None]


class Mender:
    """Rewrites commits and segments from local data. Owner: `check_log`."""

    def __init__(
        self, logs: Logs, remote: RemoteLog, links: Mapping[RemoteLsn, Link], scratch: Path
    ) -> None:
        self._logs = logs
        self._remote = remote
        self._links = links
        self._scratch = scratch
        pending = [logs.catalog.pending_push(row.id) for row in logs.catalog.volumes()]
        self._pending = {
            push.lsn: push for push in pending if push is not None and push.log_id == remote.log_id
        }

    def planned(self, fault: Fault, *, repair: bool) -> Finding:
        """Return the finding of a fault with its repair; run the repair if requested."""
        plan = self._plan(fault)
        if plan is None:
            return fault.finding
        if not repair:
            return dataclasses.replace(fault.finding, repair=plan.plan)
        try:
            plan.run()
        except (StoreUnavailableError, CommitOutcomeUnknownError):
            raise
        except GraftError as error:
            step = Hint(
                "the repair failed: ", error, "; or ", fault.finding.next_step or "restore it"
            )
            return dataclasses.replace(fault.finding, next_step=step)
        return dataclasses.replace(
            fault.finding, problem=plan.was, repair=plan.done, is_repaired=True
        )

    def _plan(self, fault: Fault) -> _Repair | None:
        """Return the repair of a fault, None if this machine lacks the data."""
        lsn = fault.lsn
        if fault.kind is FaultKind.OTHER:
            return None
        push = self._pending.get(lsn) if fault.kind is FaultKind.HOLE else None
        if push is not None and self._is_named_after(lsn, push.hash):
            return _Repair(
                "sends the unsettled push",
                "the commit was missing",
                "the unsettled push was sent",
                lambda: self._fill(lsn, push.data, push.hash),
            )
        found = self._logs.commit(self._remote.log_id, lsn)
        if found is None or not (self._is_named_after(lsn, found[0].hash) and _is_cached(found[1])):
            return None
        run, plan, was = {
            FaultKind.HOLE: (self._put_back, "puts it back", "the commit was missing"),
            FaultKind.DAMAGED: (self._overwrite, "writes it again", "the commit was damaged"),
            FaultKind.SEGMENT: (self._put_segment, "writes it again", "it was missing or damaged"),
        }[fault.kind]
        return _Repair(
            f"{plan} from cached pages",
            was,
            "written again from cached pages",
            lambda: run(*found),
        )

    def _is_named_after(self, lsn: RemoteLsn, digest: bytes) -> bool:
        """Return True unless the next commit names another previous commit."""
        after = self._links.get(RemoteLsn(lsn + 1))
        return after is None or after.previous_hash == digest

    def _put_back(self, header: CommitHeader, source: FrameSource) -> None:
        if header.segment is not None:
            self._put_segment(header, source)
        self._fill(header.lsn, self._encoded(header, source), header.hash)

    def _encoded(self, header: CommitHeader, source: FrameSource) -> bytes:
        """Return the commit object as it was pushed; raises CorruptObjectError if it differs."""
        row = self._logs.catalog.commits(header.log_id, header.lsn, header.lsn)[0]
        return (
            row.header if header.segment is not None else b"".join((row.header, *_frames(source)))
        )

    def _put_segment(self, header: CommitHeader, source: FrameSource) -> None:
        assert header.segment is not None
        with spooled(self._scratch, _frames(source)) as parts:
            self._remote.write_segment(header.segment, parts)

    def _fill(self, lsn: RemoteLsn, data: bytes, digest: bytes) -> None:
        decode_header(data, key=f"LSN {lsn} as it is put back")
        if not claim(self._remote, lsn, data, digest, counters=self._logs.counters).won:
            raise _is_another(lsn)

    def _overwrite(self, header: CommitHeader, source: FrameSource) -> None:
        """Overwrite a damaged object with its commit, unless it is another commit."""
        key, store = commit_key(self._remote.log_id, header.lsn), self._remote.store
        whole = self._encoded(header, source)
        held = store.get(key)
        # A bit flipped in transit also looks like damage.
        if _is_commit_other_than(header, held, key):
            raise _is_another(header.lsn)
        if not store.replace(key, held, whole):
            raise CorruptObjectError(
                f"{key} was changed by another client in the meantime", next_step="run fsck again"
            )


def _is_another(lsn: RemoteLsn) -> CorruptObjectError:
    return CorruptObjectError(f"LSN {lsn} is now another commit", next_step="run fsck again")


def _is_commit_other_than(wanted: CommitHeader, data: bytes, key: str) -> bool:
    """Return True if an object is a valid commit of this LSN that is not the wanted one.

    Raises FutureVersionError.
    """
    try:
        found, _ = decode_header(data, key=key)
    except CorruptObjectError:
        return False
    return (found.log_id, found.lsn) == (wanted.log_id, wanted.lsn) and found.hash != wanted.hash


def _is_cached(source: FrameSource) -> bool:
    return all(source.find(frame) is not None for frame in range(source.body.frame_count))


def _frames(source: FrameSource) -> Iterator[bytes]:
    """Yield the compressed frames of a commit from cached pages; raises CorruptObjectError."""
    for frame in range(source.body.frame_count):
        images = source.cached(frame)
        data = None if images is None else encode_frame([images])
        if data is None or checksum_of(data) != source.body.frames.checksum(frame):
            raise CorruptObjectError(
                f"frame {frame} of {source.body.name} is not cached as it was pushed",
                next_step=OTHER_MACHINE,
            )
        yield data
