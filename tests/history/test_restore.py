"""An earlier state on top of a volume, and as a file on a machine that has never seen the log."""

from __future__ import annotations

import random
from pathlib import Path

import apsw
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    AlreadyExistsError,
    CorruptObjectError,
    LocalStorageError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
)
from graft_vfs.history import restore
from graft_vfs.plain import transfer
from tests.support.replicas import Replica, rows
from tests.support.sql import content, is_sound, stock

STEPS = (
    "UPDATE t SET data = zeroblob(700) WHERE id % 100 = 0",
    "CREATE TABLE later(x); INSERT INTO later VALUES('here')",
    "DELETE FROM t WHERE id > 1000; VACUUM",
    "DROP TABLE later; CREATE TABLE other(y); INSERT INTO other VALUES('there')",
)


def fill(connection: apsw.Connection) -> None:
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, data BLOB)")
    with connection:
        for number in range(2000):
            data = random.Random(number).randbytes(700)
            connection.execute("INSERT INTO t VALUES(?, ?, ?)", (number, f"row {number}", data))


def history(replica: Replica) -> dict[str, dict]:
    """Push five commits, and return the content of each, by its LSN."""
    connection = replica.connect()
    fill(connection)
    replica.engine.push("main")
    contents = {"1": content(connection)}
    for number, step in enumerate(STEPS, 2):
        connection.execute(step)
        replica.engine.push("main")
        contents[str(number)] = content(connection)
    return contents


@pytest.fixture
def ours(replicas) -> Replica:
    return replicas("ours")


def test_each_commit_is_put_on_top_and_the_way_back_leads_back(ours, replicas) -> None:
    contents = history(ours)
    connection, lsn = ours.connect(), 5
    for ref in ("1", "4", "2", "3"):
        done = ours.engine.restore("main", ref)
        assert (done.commit, done.before) == (ref, str(lsn))
        assert content(connection) == content(ours.connect()) == contents[ref]
        assert is_sound(connection)
        pushed = ours.engine.push("main")
        lsn += 1
        assert (pushed.lsn, pushed.pages, pushed.local_commits) == (lsn, done.differ, 1)
        contents[str(lsn)] = contents[ref]
        back = ours.engine.restore("main", done.before)
        assert content(connection) == contents[done.before]
        ours.engine.push("main")
        lsn += 1
        assert back.before == str(lsn - 1)
        contents[str(lsn)] = contents[done.before]
    clone = replicas("theirs").connect(remote="main")
    assert content(clone) == contents[str(lsn)]
    # All of it can be read as it was.
    for ref, expected in contents.items():
        assert content(ours.connect(lsn=ref)) == expected


def test_a_restore_commits_only_pages_that_differ(ours) -> None:
    history(ours)
    snapshot = ours.engine.open("main").begin()
    done = ours.engine.restore("main", "HEAD~1")
    then = ours.engine.snapshot_at("main", "4")
    differ = {
        page
        for page in range(2, then.page_count + 1)
        if page > snapshot.page_count or then.stored(page) != snapshot.stored(page)
    }
    assert done.differ == len(differ) + 1 == ours.engine.show("main").pages
    assert done.differ < done.pages // 10


def test_a_restore_says_in_the_log_what_it_restored(ours) -> None:
    history(ours)
    ours.engine.restore("main", "HEAD~3")
    assert ours.engine.log("main")[0].message == "restore 2"
    ours.engine.push("main")
    ours.engine.restore("main", "1", message="before it all")
    ours.engine.push("main")
    assert [entry.message for entry in ours.engine.log("main")[:3]] == [
        *("before it all", "restore 2", "")
    ]


def test_restoring_the_current_state_makes_no_commit(ours) -> None:
    contents = history(ours)
    for ref in ("HEAD", "5", "BASE", "0 seconds ago"):
        done = ours.engine.restore("main", ref)
        assert (done.lsn, done.differ) == (None, 0)
        assert str(done) == "Nothing to restore: main has the content of 5 already."
        assert repr(done) == f"<Restored: {done}>"
    ours.engine.restore("main", "2")
    ours.engine.push("main")
    # The same content under another LSN.
    assert ours.engine.restore("main", "2").lsn is None
    assert ours.engine.open("main").begin().local_commits == 0
    assert content(ours.connect()) == contents["2"]


def test_connections_see_the_restored_schema_and_readers_keep_theirs(ours) -> None:
    contents = history(ours)
    connection, reader = ours.connect(), ours.connect()
    assert rows(connection, "SELECT y FROM other") == [("there",)]
    reader.execute("BEGIN")
    assert rows(reader, "SELECT y FROM other") == [("there",)]
    ours.engine.restore("main", "3")
    assert rows(connection, "SELECT x FROM later") == [("here",)]
    with pytest.raises(apsw.SQLError, match="no such table: other"):
        connection.execute("SELECT y FROM other")
    assert content(reader) == contents["5"]
    reader.execute("COMMIT")
    assert content(reader) == contents["3"]
    connection.execute("INSERT INTO later VALUES('goes on')")
    assert is_sound(reader)


def test_unpushed_commits_are_kept_when_a_push_rolls_them_into_one_with_a_restore(ours) -> None:
    contents = history(ours)
    connection = ours.connect()
    connection.execute("INSERT INTO other VALUES('local')")
    local = content(connection)
    done = ours.engine.restore("main", "4")
    assert (done.before, content(connection)) == ("local:11", contents["4"])
    assert f"kept as branch {done.kept}" in str(done)
    ours.engine.push("main")
    # The way back leads back even now.
    back = ours.engine.restore("main", done.before)
    assert (back.kept, content(connection)) == (None, local)
    forced = ours.engine.restore("main", "5", force=True)
    assert (forced.kept, content(connection)) == (None, contents["5"])
    assert [each.branch for each in ours.engine.branches("main")[1:]] == [done.kept]


def test_a_restore_that_changes_nothing_or_fails_keeps_no_branch(ours, monkeypatch) -> None:
    history(ours)
    connection = ours.connect()
    connection.execute("INSERT INTO other VALUES('local')")
    assert ours.engine.restore("main", "HEAD").kept is None
    connection.execute("DELETE FROM other WHERE y = 'local'")

    def fail(*_: object, **__: object) -> None:
        raise LocalStorageError("the disk is full")

    monkeypatch.setattr(restore, "replace_content", fail)
    with pytest.raises(LocalStorageError, match="full"):
        ours.engine.restore("main", "4")
    assert len(ours.engine.branches("main")) == 1


def test_a_volume_without_a_remote_goes_back_to_its_local_commits(tmp_path) -> None:
    with Replica(tmp_path / "alone", RemoteConfig(type="none")) as alone:
        connection = alone.connect()
        fill(connection)
        first = content(connection)
        head = alone.engine.open("main").begin().lsn
        connection.execute(STEPS[0])
        second = content(connection)
        done = alone.engine.restore("main", f"local:{head}")
        assert done.before == f"local:{head + 1}"
        assert content(connection) == first
        alone.engine.restore("main", done.before)
        assert content(connection) == second


def test_what_cannot_be_restored_changes_nothing(ours, replicas) -> None:
    contents = history(ours)
    for ref, error in (("77", NotFoundError), ("nonsense", UsageError), ("HEAD~9", NotFoundError)):
        with pytest.raises(error):
            ours.engine.restore("main", ref)
    with pytest.raises(NotFoundError, match="there is no tag 'absent'"):
        ours.engine.restore("absent", "1")
    ours.engine.new("empty")
    with pytest.raises(NotFoundError, match="has no commit"):
        ours.engine.restore("empty", "HEAD")
    other = replicas("other")
    for tag, setting, format_ in (
        ("small", "page_size = 1024", "pages of 1024 bytes, and the volume pages of 4096 bytes"),
        ("wide", "encoding = 'UTF-16le'", "text as UTF-16le, and the volume text as UTF-8"),
    ):
        other.connect(tag).execute(f"PRAGMA {setting}; CREATE TABLE s(x)")
        pushed = other.engine.push(tag)
        with pytest.raises(UsageError, match=f"has {format_}, which it keeps"):
            ours.engine.restore("main", f"{pushed.log}:1")
    assert content(ours.connect()) == contents["5"]
    assert ours.engine.open("main").begin().local_commits == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreUnavailableError])
def test_an_interrupted_restore_leaves_the_newest_state(ours, replicas, monkeypatch, error) -> None:
    contents = history(ours)
    cold = replicas("cold")
    cold.engine.clone("main", "main")
    monkeypatch.setattr(restore, "_BATCH_PAGES", 20)

    def fail(done: int, _: int) -> None:
        if done > 100:
            raise error("in the middle")

    with pytest.raises(error):
        cold.engine.restore("main", "1", progress=fail)
    assert content(cold.connect()) == contents["5"]
    assert cold.engine.open("main").begin().local_commits == 0
    cold.engine.restore("main", "1")
    assert content(cold.connect()) == contents["1"]


def test_a_cold_machine_fetches_what_changed_since(ours, replicas) -> None:
    history(ours)
    cold = replicas("cold")
    cold.engine.clone("main", "main")
    before = cold.counts()
    done = cold.engine.restore("main", "4")
    counts = cold.counts() - before
    assert done.differ < 6
    assert counts.requests == counts.get_range <= 8
    assert counts.bytes_received < 300_000


def test_a_fork_goes_back_into_the_log_that_it_was_made_from(ours) -> None:
    contents = history(ours)
    ours.engine.fork("main", new_tag="forked")
    connection = ours.connect("forked")
    connection.execute("INSERT INTO other VALUES('in the fork')")
    ours.engine.push("forked")
    newest = content(connection)
    parent = ours.engine.status("main").remote
    done = ours.engine.restore("forked", "HEAD~3")
    assert (done.commit, done.before) == (f"{parent}:3", "1")
    assert content(connection) == contents["3"]
    ours.engine.push("forked")
    assert ours.engine.restore("forked", done.before).lsn is not None
    assert content(connection) == newest
    assert content(ours.connect()) == contents["5"]


# To a file --------------------------------------------------------------------------------------


def stock_content(path: Path) -> dict:
    connection = stock(path)
    assert is_sound(connection)
    found = content(connection)
    connection.close()
    return found


@pytest.mark.parametrize("ref", ["1", "3", "HEAD", "HEAD~3", "0 seconds ago"])
def test_a_machine_that_has_never_seen_the_log_restores_a_file(
    ours, replicas, tmp_path, ref
) -> None:
    contents = history(ours)
    lsn = {"HEAD": "5", "HEAD~3": "2", "0 seconds ago": "5"}.get(ref, ref)
    fresh, path = replicas("fresh"), tmp_path / "restored.db"
    done = fresh.engine.restore_file("main", path, ref)
    assert done.commit.endswith(f":{lsn}")
    assert done.checked
    assert done.bytes == path.stat().st_size
    assert stock_content(path) == contents[lsn]
    assert (fresh.engine.tags(), fresh.engine.volumes()) == ([], [])
    assert sorted(each.name for each in tmp_path.glob("restored*")) == ["restored.db"]


def test_a_tag_is_restored_with_its_local_commits_and_an_empty_one_from_the_remote(
    ours, replicas, tmp_path
) -> None:
    contents = history(ours)
    connection = ours.connect()
    connection.execute("INSERT INTO other VALUES('local')")
    done = ours.engine.restore_file("main", tmp_path / "local.db")
    assert done.commit == "local:11"
    assert stock_content(tmp_path / "local.db") == content(connection)
    fresh = replicas("fresh")
    fresh.connect().close()
    fresh.engine.restore_file("main", tmp_path / "remote.db")
    assert stock_content(tmp_path / "remote.db") == contents["5"]
    with pytest.raises(NotFoundError, match="has no ref 'absent'"):
        fresh.engine.restore_file("absent", tmp_path / "absent.db")
    with pytest.raises(UsageError, match="names no volume"):
        replicas("third").engine.restore_file("main", tmp_path / "absent.db", "local:3")
    assert not (tmp_path / "absent.db").exists()


def test_a_database_that_sqlite_finds_damaged_is_not_restored(ours, replicas, tmp_path) -> None:
    history(ours)
    volume = ours.engine.open("main")
    with volume.writing() as snapshot:
        volume.write_pages(snapshot, [(3, b"\xee" * 4096)], page_count=snapshot.page_count)
    ours.engine.push("main")
    fresh, path = replicas("fresh"), tmp_path / "restored.db"
    with pytest.raises(CorruptObjectError, match=r"as of .*:6 is damaged: ") as caught:
        fresh.engine.restore_file("main", path)
    assert "export" in str(caught.value.next_step)
    assert list(tmp_path.glob("*restored*")) == list(tmp_path.glob(".graft*")) == []
    fresh.engine.restore_file("main", path, "5")
    assert path.exists()


def test_a_schema_that_needs_an_extension_is_restored_unchecked(ours, tmp_path) -> None:
    connection = ours.connect()
    connection.create_collation("mine", lambda a, b: (a > b) - (a < b))
    connection.execute("CREATE TABLE t(v TEXT COLLATE mine); CREATE INDEX i ON t(v)")
    connection.execute("INSERT INTO t VALUES('a'), ('b')")
    done = ours.engine.restore_file("main", tmp_path / "restored.db")
    assert not done.checked
    assert "SQLite alone cannot check its schema" in str(done)


def test_a_disk_that_returns_other_bytes_is_detected(ours, tmp_path, monkeypatch) -> None:
    history(ours)
    written = transfer.write_file

    def spoil(pages, path, file, progress):
        checksum = written(pages, path, file, progress)
        file.seek(5000)
        file.write(b"flipped")
        return checksum

    monkeypatch.setattr(transfer, "write_file", spoil)
    with pytest.raises(LocalStorageError, match="does not return the bytes that were written"):
        ours.engine.restore_file("main", tmp_path / "restored.db")
    assert not (tmp_path / "restored.db").exists()


def test_a_restored_file_replaces_none_without_force(ours, tmp_path) -> None:
    contents = history(ours)
    path = tmp_path / "taken.db"
    path.write_text("mine")
    with pytest.raises(AlreadyExistsError, match="exists already"):
        ours.engine.restore_file("main", path, "1")
    assert path.read_text() == "mine"
    ours.engine.restore_file("main", path, "1", force=True)
    assert stock_content(path) == contents["1"]
