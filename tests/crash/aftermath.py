"""What must be true after a crash: of the machine, its remote, and any other machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import AlreadyExistsError, DivergedError
from graft_vfs.ids import LogId
from graft_vfs.local import head
from graft_vfs.local.cache.arena import commit_source
from graft_vfs.merge.conflicts import Choices
from graft_vfs.merge.rebase import Rebased, rebase
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.log import RemoteLog
from graft_vfs.store.memory import MemoryObjects, MemoryStore
from graft_vfs.volume.context import Opened
from tests.crash.ledger import ABSENT, EMPTY, Content, Ledger
from tests.crash.scenarios import DATA, REMOTE, open_machine
from tests.support import sql
from tests.support.power_cut import Image, write_image
from tests.support.replicas import Replica

_ANOTHER_BOOT = 0xB007


@dataclass(frozen=True, slots=True)
class Crash:
    """A machine that stopped: when, what its disk holds, and how it is to go on.

    `remote` are the objects of the remote in memory; without them it is in the image.
    """

    time: int
    image: Image
    power_cut: bool
    remote: dict[str, bytes] | None
    pulls_first: bool


class Machines:
    """Machines below one directory, and the remote that they share."""

    def __init__(self, directory: Path, remote: dict[str, bytes] | None) -> None:
        self._directory = directory
        self._objects: MemoryObjects | None = None
        if remote is not None:
            self._objects = MemoryObjects("crash")
            self._objects.by_key = dict(remote)

    def open(self, path: str) -> Replica:
        """Open the machine whose data directory has this path."""
        if self._objects is not None:
            remote = RemoteConfig(type="memory", root="crash")
            return open_machine(self._directory / path, remote, MemoryStore(self._objects))
        remote = RemoteConfig(type="fs", root=str(self._directory / REMOTE))
        return open_machine(self._directory / path, remote)


def recover(crash: Crash, ledger: Ledger, directory: Path) -> None:
    """Start the machine again and check everything; `directory` is gone afterwards."""
    write_image(crash.image, directory)
    machines = Machines(directory, crash.remote)
    with pytest.MonkeyPatch.context() as patch:
        if crash.power_cut:
            patch.setattr(head, "boot_number", lambda: _ANOTHER_BOOT)
        if crash.remote is None:
            on_remote = remote_contents(machines, ledger.logs)
            for tag, content in on_remote.items():
                assert content in ledger.allowed_on_remote(tag, crash.time)
        with machines.open(DATA) as replica:
            for tag in ledger.states:
                allowed = ledger.allowed(tag, crash.time, power_cut=crash.power_cut)
                assert shown_by(replica, tag) in allowed
                kept = kept_by(replica, tag)
                assert all(each in kept for each in ledger.kept_at(tag, crash.time))
            cached_frames_are_those_of_the_remote(replica)
            expected = {tag: _goes_on(replica, tag, crash, ledger) for tag in ledger.states}
        with machines.open(DATA) as replica, machines.open("new") as new:
            for tag, content in expected.items():
                assert shown_by(replica, tag) == content
                new.connect(tag, remote=str(replica.engine.status(tag).remote))
                assert shown_by(new, tag) == content
    shutil.rmtree(directory)


def shown_by(replica: Replica, tag: str) -> Content:
    """Return what a tag shows; fails if SQLite finds the database damaged."""
    if replica.engine.catalog.tag_volume(tag) is None:
        return ABSENT
    with replica.connect(tag) as connection:
        assert sql.is_sound(connection)
        return sql.content(connection)


def kept_by(replica: Replica, tag: str) -> list[Content]:
    """Return what the kept branches of a tag have; fails if SQLite finds one damaged."""
    contents = []
    is_there = replica.engine.catalog.tag_volume(tag) is not None
    for branch in replica.engine.branches(tag)[1:] if is_there else ():
        with replica.connect(tag, lsn=f"branch:{branch.branch}") as connection:
            assert sql.is_sound(connection)
            contents.append(sql.content(connection))
    return contents


def _goes_on(replica: Replica, tag: str, crash: Crash, ledger: Ledger) -> Content:
    """Write, push and pull; returns what the tag shows then."""
    connection = replica.connect(tag)
    if crash.pulls_first or tag in ledger.followers:
        _pull(replica, tag)
        allowed = ledger.allowed(tag, crash.time, power_cut=crash.power_cut)
        assert sql.content(connection) in [*allowed, EMPTY]
    before = sql.content(connection)
    connection.execute("CREATE TABLE later(x); INSERT INTO later VALUES(1)")
    after = sql.content(connection)
    assert {"later": [(1,)], **before, "schema": after["schema"]} == after
    try:
        replica.engine.push(tag)
    except AlreadyExistsError:
        # The crash left no clone of the other machine's log, and a new volume got its tag.
        replica.engine.push(tag, name=f"{tag} of {replica.engine.status(tag).remote}")
    except DivergedError:
        _pull(replica, tag)
        after = sql.content(connection)
        assert "later" in after
        replica.engine.push(tag)
    replica.engine.pull(tag)
    status = replica.engine.status(tag)
    assert (status.ahead, status.behind, status.pending_push) == (0, 0, False)
    assert sql.content(connection) == after
    return after


def _pull(replica: Replica, tag: str) -> None:
    """Pull, or rebase what has diverged."""
    try:
        replica.engine.pull(tag)
    except DivergedError:
        opened = Opened(tag, replica.engine.open(tag))
        assert isinstance(rebase(replica.engine.context, opened, Choices()), Rebased)


def cached_frames_are_those_of_the_remote(replica: Replica) -> None:
    """Whatever the page cache gives is what the remote has."""
    engine = replica.engine
    for directory in (engine.config.data_dir / "cache").glob("*"):
        log = LogId.parse(directory.name)
        cache, remote = engine.logs.cache(log), RemoteLog(engine.store, log)
        newest = remote.newest_lsn()
        known = engine.catalog.newest_commit(log)[0]
        compacted = {
            source.id: source
            for source, _ in (engine.logs.log_view(log, known).frames() if known else ())
            if not source.origin.lsn
        }
        for key in cache.present():
            lsn = RemoteLsn(int.from_bytes(key.source[:8], "little"))
            if key.source in compacted:
                body = compacted[key.source].body
                (images,) = body.read(engine.store, range(key.frame, key.frame + 1))
            elif lsn > newest:
                continue  # The crash has left a segment that no table names.
            else:
                record = remote.read_header(lsn)
                assert record is not None
                assert commit_source(lsn, record.header.hash) == key.source
                (images,) = remote.read_frames(
                    record.header, record.header_length, key.frame, key.frame + 1
                )
            place = cache.find(key, len(images))
            if place is not None:
                assert place.view[place.offset : place.offset + len(images)] == images


def remote_contents(machines: Machines, logs: dict[str, LogId]) -> dict[str, Content]:
    """Return what the remote alone has of each tag, as a machine that was never here sees it."""
    contents = {}
    with machines.open("stranger") as stranger:
        for tag, log in logs.items():
            contents[tag] = ABSENT
            if RemoteLog(stranger.engine.store, log).newest_lsn():
                stranger.connect(tag, remote=str(log))
                contents[tag] = shown_by(stranger, tag)
    return contents
