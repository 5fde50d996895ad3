"""Commits are built from any source of pages, and read back by machines that do not know which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import UsageError
from graft_vfs.format import commit as commit_format
from graft_vfs.format.commit import NO_HASH, decode_header
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.rows import CommitRow
from graft_vfs.pager.snapshots import scratch_over
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.claim import claim
from graft_vfs.sqlite_format.header import CHANGE_COUNTER
from graft_vfs.sync import build as build_module
from graft_vfs.sync.build import BuiltCommit, PageSource, Target, build
from graft_vfs.sync.settle import keep_pages
from tests.support.replicas import Replica, rows
from tests.sync.checks import same_everywhere, sound_log

CREATE = (
    "CREATE TABLE t(k INTEGER PRIMARY KEY, v); WITH RECURSIVE n(i) AS "
    "(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) "
    "INSERT INTO t SELECT i, printf('%0150d', i) FROM n"
)


@dataclass
class PlainFile:
    """All pages of a plain SQLite file, as a compaction has all pages of a log."""

    image: bytes
    page_size: int = 4096
    counter: int = 77
    local_commits: int = 5

    @property
    def page_count(self) -> int:
        return len(self.image) // self.page_size

    def changed_pages(self) -> Iterator[tuple[int, bytes]]:
        for number in range(self.page_count):
            yield number + 1, self.image[number * self.page_size : (number + 1) * self.page_size]


@pytest.fixture
def remote(tmp_path: Path) -> RemoteConfig:
    return RemoteConfig(type="memory", root=str(tmp_path))


@pytest.fixture
def machine(tmp_path: Path, remote: RemoteConfig) -> Iterator[Replica]:
    with Replica(tmp_path / "ours", remote) as replica:
        yield replica


def target_after(replica: Replica) -> Target:
    """Return the place of a commit on the one that the replica's branch stands on."""
    branch = replica.engine.open("main").begin().branch.row
    header = replica.engine.logs.header(branch.log_id, branch.base)
    assert header is not None
    lsn = RemoteLsn(branch.base + 1)
    return Target(branch.log_id, lsn, header.hash, None, NO_LSN, header.time_ms)


def build_and_claim(replica: Replica, source: PageSource, target: Target) -> BuiltCommit:
    context = replica.engine.context
    built = build(context, source, target, spool=context.volumes.directory)
    log = context.logs.log(target.log_id)
    assert claim(log, target.lsn, built.data, built.header.hash).won
    return built


@pytest.mark.parametrize("inline_bytes", [1 << 20, 0])
def test_a_commit_of_a_scratch_database_is_pulled_as_any_other(
    machine, tmp_path, remote, monkeypatch, inline_bytes
) -> None:
    connection = machine.connect()
    connection.execute(CREATE)
    machine.engine.push("main")
    volume = machine.engine.open("main")
    monkeypatch.setattr(build_module, "INLINE_BYTES_MAX", inline_bytes)
    with volume.pinned() as snapshot, scratch_over(volume, snapshot) as scratch:
        scratch.connection.execute("UPDATE t SET v = 'new' WHERE k < 20; DELETE FROM t WHERE k > 9")
        expected = rows(scratch.connection)
        built = build_and_claim(machine, scratch, target_after(machine))
        header = built.header
        assert list(header.pages) == [page for page, _ in scratch.changed_pages()]
        facts = scratch.page_size, scratch.page_count, snapshot.counter + 1, 1
    assert facts == (
        header.page_size,
        header.page_count,
        header.change_counter,
        header.local_commits,
    )
    assert (header.segment is None) is (inline_bytes > 0)
    used = len(built.data) + (header.frames.body_bytes if header.segment else 0)
    assert built.stored_bytes == used
    assert machine.engine.pull("main").lsn == 2
    assert rows(connection) == expected
    assert sound_log(machine.engine.store, header.log_id)[-1] == 1
    with Replica(tmp_path / "theirs", remote) as clone:
        same_everywhere(machine, clone, expected)
        clone.connect().execute("INSERT INTO t VALUES(1000, 'theirs')")
        assert clone.engine.push("main").lsn == 3
    machine.engine.pull("main")
    assert rows(connection)[-1] == (1000, "theirs")


@pytest.mark.parametrize("inline_bytes", [1 << 20, 1000])
def test_a_whole_database_from_elsewhere_becomes_the_first_commit_of_a_log(
    machine, tmp_path, monkeypatch, inline_bytes
) -> None:
    plain = apsw.Connection(str(tmp_path / "plain.db"))
    plain.execute(CREATE)
    expected = rows(plain)
    plain.close()
    source = PlainFile((tmp_path / "plain.db").read_bytes())
    monkeypatch.setattr(build_module, "INLINE_BYTES_MAX", inline_bytes)
    log_id = LogId.new()
    target = Target(log_id, RemoteLsn(1), NO_HASH, None, NO_LSN, 0)
    built = build_and_claim(machine, source, target)
    machine.engine.clone(str(log_id), "main")
    connection = machine.connect()
    assert rows(connection) == expected
    assert connection.pragma("integrity_check") == "ok"
    assert sound_log(machine.engine.store, log_id) == [5]
    assert (built.header.segment is None) is (inline_bytes > 1000)
    # Its first page says what the header says, whatever the file said.
    stored = machine.engine.open("main").begin().stored(1)
    assert int.from_bytes(stored[CHANGE_COUNTER], "big") == built.header.change_counter == 77


def test_pages_of_a_source_are_kept_so_that_reading_its_commit_needs_no_request(machine) -> None:
    machine.connect().execute(CREATE)
    machine.engine.push("main")
    volume, context = machine.engine.open("main"), machine.engine.context
    with volume.pinned() as snapshot, scratch_over(volume, snapshot) as scratch:
        scratch.connection.execute("UPDATE t SET v = 'kept' WHERE k % 3 = 0")
        expected = rows(scratch.connection)
        built = build_and_claim(machine, scratch, target_after(machine))
        keep_pages(context.logs, built.header, scratch)
    header = built.header
    encoded = built.data[: len(built.data) - header.frames.body_bytes]
    context.catalog.add_commits(header.log_id, [CommitRow(header.lsn, header.hash, encoded)])
    before = machine.counts()
    assert rows(machine.connect(lsn="2")) == expected
    assert (machine.counts() - before).requests == 0


def test_a_built_commit_is_on_the_remote_only_when_it_is_claimed(machine) -> None:
    connection = machine.connect()
    connection.execute(CREATE)
    machine.engine.push("main")
    connection.execute("DELETE FROM t WHERE k > 1000")
    context, target = machine.engine.context, target_after(machine)
    with machine.engine.open("main").pinned() as snapshot:
        before = machine.counts()
        built = build(context, snapshot, target, spool=context.volumes.directory)
        assert (machine.counts() - before).requests == 0
        pages = snapshot.local_pages()
    header, _ = decode_header(built.data, key="the commit")
    assert (header.hash, list(header.pages)) == (built.header.hash, pages)
    assert machine.engine.fetch("main").newest == 1


def test_progress_counts_the_pages_of_full_frames(machine) -> None:
    machine.connect().execute(CREATE)
    told: list[tuple[int, int]] = []
    pushed = machine.engine.push("main", progress=lambda done, total: told.append((done, total)))
    assert told == [(done, pushed.pages) for done in range(16, pushed.pages + 1, 16)]
    assert len(told) > 1


def test_a_commit_of_too_many_pages_is_refused_before_anything_is_sent(
    replicas, monkeypatch
) -> None:
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE t(k)")
    replica.engine.push("main")
    connection.execute("INSERT INTO t VALUES(randomblob(2000000))")
    before = replica.counts()
    with monkeypatch.context() as patch:
        patch.setattr(commit_format, "HEADER_BYTES_MAX", 500)
        with pytest.raises(UsageError, match=r"a commit of \d+ pages needs a header"):
            replica.engine.push("main")
    sent = replica.counts() - before
    assert (sent.put, sent.put_if_absent, sent.other) == (0, 0, 0)
    assert replica.engine.push("main").claimed
