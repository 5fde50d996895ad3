"""Where the bytes of a remote are: sizes as listed; what is not known is not called garbage."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import NoRemoteError
from graft_vfs.ids import SegmentId
from graft_vfs.sync import build
from tests.support.replicas import Replica, rows


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def machine(tmp_path, root):
    with Replica(tmp_path / "data", RemoteConfig(type="fs", root=str(root))) as made:
        yield made


@pytest.fixture
def early_segments(monkeypatch):
    monkeypatch.setattr(build, "INLINE_BYTES_MAX", 16 << 10)


def commit(machine: Replica, tag: str, *statements: str) -> None:
    connection = machine.connect(tag)
    for statement in statements:
        connection.execute(statement)
    connection.close()
    machine.engine.push(tag)


def size_below(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.usefixtures("early_segments")
def test_sizes_are_those_of_the_objects(machine, root) -> None:
    # SQLite writes a new value to free pages: the third value is where the first one was.
    commit(machine, "main", "CREATE TABLE t(x)", "INSERT INTO t VALUES(randomblob(120000))")
    commit(machine, "main", "UPDATE t SET x = randomblob(100000)")
    commit(machine, "main", "UPDATE t SET x = randomblob(110000)")
    commit(machine, "main", "CREATE TABLE small(x)")
    machine.engine.name("main", "v1")
    commit(machine, "other", "CREATE TABLE t(x)")
    before = machine.counts()
    (usage,) = machine.engine.remote_usage("main")
    assert (machine.counts() - before).list == (machine.counts() - before).requests == 2
    (log,) = usage.logs
    status = machine.engine.status("main")
    assert (log.log, log.tags, log.known_lsn) == (status.remote, ("main",), 4)
    kinds = {each.kind: (each.objects, each.total_bytes) for each in log.kinds}
    below = root / "logs" / str(log.log)
    assert kinds["commits"] == (4, size_below(below / "commits"))
    assert kinds["segments"] == (3, size_below(root / "segments"))
    assert kinds["names"] == (1, size_below(below / "names"))
    assert kinds["tables"] == kinds["other"] == (0, 0)
    assert log.total_bytes == size_below(below) + size_below(root / "segments")
    assert [each.lsn for each in log.commits] == [1, 3, 2, 4]
    first, third, second, last = log.commits
    assert first.segment_bytes > 110_000
    assert first.commit_bytes < 20_000
    assert first.live_pages < 5
    assert third.live_pages > 20
    assert (second.pages - second.live_pages, last.live_pages) == (3, last.pages)
    assert log.live_bytes == pytest.approx(210_000, rel=0.05)
    assert 120_000 < log.superseded_bytes < 140_000  # With the headers.
    assert usage.unnamed.objects == 0


@pytest.mark.usefixtures("early_segments")
def test_what_is_not_known_is_counted_apart(machine, root, tmp_path) -> None:
    commit(machine, "main", "CREATE TABLE t(x)", "INSERT INTO t VALUES(randomblob(100000))")
    remote = machine.engine.config.remote
    with Replica(tmp_path / "other", remote) as other:
        assert len(rows(other.connect("main", remote="main"))) == 1
        commit(other, "main", "UPDATE t SET x = randomblob(100000)")
        commit(other, "theirs", "CREATE TABLE t(x)", "INSERT INTO t VALUES(randomblob(50000))")
    orphan = root / "segments" / str(SegmentId.new())
    orphan.write_bytes(bytes(5000))
    (usage,) = machine.engine.remote_usage()
    assert [each.tags for each in usage.logs] == [("main",)]
    assert usage.unnamed.objects == 3
    unknown = [each for each in usage.logs[0].commits if each.lsn == 2]
    assert [(each.pages, each.live_pages, each.segment_bytes) for each in unknown] == [
        (None, None, 0)
    ]
    machine.engine.fetch("main")
    (usage,) = machine.engine.remote_usage(everything=True, limit=1)
    assert usage.unnamed.objects == 2
    assert len(usage.logs) == 2
    assert sum(each.total_bytes for each in usage.logs) + usage.unnamed.total_bytes == size_below(
        root / "logs"
    ) + size_below(root / "segments")
    assert [(len(each.commits), each.commit_count) for each in usage.logs] == [(1, 2), (1, 1)]


def test_a_fork_counts_its_parent_and_a_foreign_object_is_other(machine, root) -> None:
    commit(machine, "main", "CREATE TABLE t(x)")
    machine.engine.fork("main", new_tag="side")
    commit(machine, "side", "INSERT INTO t VALUES(1)")
    log = machine.engine.status("side").remote
    (root / "logs" / str(log) / "README").write_text("mine")
    (root / "logs" / str(log) / "commits" / "notes").write_text("mine")
    (usage,) = machine.engine.remote_usage("side")
    found = {each.log: each for each in usage.logs}
    assert set(found) == {log, machine.engine.status("main").remote}
    assert [each.objects for each in found[log].kinds if each.kind == "other"] == [1]
    assert [each.lsn for each in found[log].commits] == [1]


def test_without_a_remote_the_error_says_so(tmp_path) -> None:
    with Replica(tmp_path / "data", RemoteConfig(type="none")) as machine:
        machine.connect("main").execute("CREATE TABLE t(x)")
        with pytest.raises(NoRemoteError):
            machine.engine.remote_usage("main")
        with pytest.raises(NoRemoteError):
            machine.engine.remote_usage(everything=True)
