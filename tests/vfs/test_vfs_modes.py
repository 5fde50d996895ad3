"""SQLite's own pragmas that a volume answers or learns from."""

from __future__ import annotations

import apsw
import pytest

import graft_vfs
from graft_vfs.pager.volume_file import VolumeFile
from graft_vfs.volume import rotation
from tests.support.counting import counted_calls, counted_syncs
from tests.support.engines import reopened
from tests.support.sql import content, is_sound, rows, value

STAYING = ("delete", "truncate", "persist", "memory")


@pytest.mark.parametrize("locking_mode", ["normal", "exclusive"])
@pytest.mark.parametrize("staying", STAYING)
@pytest.mark.parametrize("refused", ["wal", "WAL", "w", "off", "Off", "o"])
def test_wal_and_off_return_the_current_mode(connect, refused, staying, locking_mode):
    connection = connect("main")
    connection.pragma("locking_mode", locking_mode)
    connection.pragma("journal_mode", staying)
    connection.execute("CREATE TABLE t(x)")
    assert rows(connection, f"PRAGMA journal_mode={refused}") == [(staying,)]
    assert connection.pragma("journal_mode") == staying
    connection.execute("INSERT INTO t VALUES(1)")
    # The file format at bytes 18 and 19 is 2 in WAL mode.
    assert connection.serialize("main")[18:20] == b"\1\1"


def test_statements_are_undone_after_journal_mode_off_was_refused(connect):
    connection = connect("main")
    connection.execute("PRAGMA journal_mode=OFF; CREATE TABLE t(x UNIQUE); BEGIN").fetchall()
    connection.execute("INSERT INTO t VALUES(1)")
    with pytest.raises(apsw.ConstraintError):
        connection.execute("INSERT INTO t VALUES(2), (3), (1)")
    connection.execute("COMMIT")
    assert rows(connection, "SELECT x FROM t") == [(1,)]


@pytest.mark.parametrize("journal_mode", STAYING)
def test_a_journal_mode_changes_between_transactions(connect, journal_mode):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    for mode in (journal_mode, *STAYING, journal_mode):
        assert connection.pragma("journal_mode", mode) == mode
        connection.execute("BEGIN; UPDATE t SET x = x + 1; ROLLBACK; UPDATE t SET x = x + 1")
    assert value(connect("main"), "SELECT x FROM t") == 7


# Exclusive locking ------------------------------------------------------------------------------


@pytest.mark.parametrize("journal_mode", STAYING)
def test_an_exclusive_connection_writes_and_readers_follow_it(config, connect, journal_mode):
    exclusive, reader = connect("main"), connect("main")
    exclusive.pragma("locking_mode", "exclusive")
    exclusive.pragma("journal_mode", journal_mode)
    exclusive.pragma("cache_size", 5)
    exclusive.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, data)")
    for turn in range(1, 6):
        exclusive.execute("INSERT INTO t(data) VALUES(zeroblob(9000))")
        assert value(reader, "SELECT count(*) FROM t") == turn
        exclusive.execute("BEGIN; UPDATE t SET data = zeroblob(20000); DELETE FROM t; ROLLBACK")
        assert value(exclusive, "SELECT sum(length(data)) FROM t") == 9000 * turn
        exclusive.execute("SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; RELEASE s")
        assert value(reader, "SELECT sum(length(data)) FROM t") == 9000 * turn
    with pytest.raises(apsw.BusyError):
        reader.execute("INSERT INTO t(data) VALUES(1)")
    exclusive.pragma("locking_mode", "normal")
    value(exclusive, "SELECT count(*) FROM t")
    reader.execute("DELETE FROM t WHERE id = 1")
    assert value(exclusive, "SELECT count(*) FROM t") == 4
    wanted = content(exclusive)
    reopened(config)
    again = graft_vfs.connect("main")
    assert content(again) == wanted
    assert is_sound(again)


def test_a_reader_keeps_its_snapshot_while_an_exclusive_connection_commits(connect):
    exclusive, reader = connect("main"), connect("main")
    exclusive.pragma("locking_mode", "exclusive")
    exclusive.execute("CREATE TABLE t(x)")
    exclusive.executemany("INSERT INTO t VALUES(zeroblob(?))", ((900,) for _ in range(50)))
    reader.pragma("cache_size", 2)
    reader.execute("BEGIN; SELECT 1 FROM t").fetchall()
    for _ in range(5):
        exclusive.execute("UPDATE t SET x = zeroblob(800)")
    assert value(reader, "SELECT sum(length(x)) FROM t") == 45_000
    reader.execute("COMMIT")
    assert value(reader, "SELECT sum(length(x)) FROM t") == 40_000


def test_an_exclusive_reader_keeps_others_from_writing_and_can_write_itself(connect):
    exclusive, writer = connect("main"), connect("main")
    writer.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    exclusive.pragma("locking_mode", "exclusive")
    writer.execute("UPDATE t SET x = 2")  # Nothing has been read yet.
    assert value(exclusive, "SELECT x FROM t") == 2
    for _ in range(2):
        with pytest.raises(apsw.BusyError):
            writer.execute("UPDATE t SET x = 3")
        assert value(writer, "SELECT x FROM t") == 2
    exclusive.execute("UPDATE t SET x = 4")
    assert value(writer, "SELECT x FROM t") == 4
    exclusive.pragma("locking_mode", "normal")
    assert value(exclusive, "SELECT x FROM t") == 4
    writer.execute("UPDATE t SET x = 5")
    assert value(exclusive, "SELECT x FROM t") == 5


def test_an_exclusive_reader_waits_for_a_writer_and_eventually_succeeds(connect):
    exclusive, writer = connect("main"), connect("main")
    writer.execute("CREATE TABLE t(x)")
    assert value(exclusive, "SELECT count(*) FROM t") == 0
    writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES(1)")
    exclusive.pragma("locking_mode", "exclusive")
    with pytest.raises(apsw.BusyError):
        value(exclusive, "SELECT count(*) FROM t")
    writer.execute("COMMIT")
    assert value(exclusive, "SELECT count(*) FROM t") == 1
    exclusive.execute("INSERT INTO t VALUES(2)")
    assert value(writer, "SELECT count(*) FROM t") == 2


def test_unused_or_ended_exclusive_locking_blocks_nothing(connect):
    exclusive, writer = connect("main"), connect("main")
    writer.execute("CREATE TABLE t(x)")
    for mode in ("exclusive", "normal", "exclusive", "normal"):
        exclusive.pragma("locking_mode", mode)
    assert value(exclusive, "SELECT count(*) FROM t") == 0
    writer.execute("INSERT INTO t VALUES(1)")
    exclusive.pragma("locking_mode", "exclusive")
    exclusive.close()
    writer.execute("INSERT INTO t VALUES(2)")


def test_exclusive_locking_is_refused_in_a_transaction_that_could_never_write(connect):
    late, writer = connect("main"), connect("main")
    writer.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    late.execute("BEGIN; SELECT * FROM t").fetchall()
    writer.execute("INSERT INTO t VALUES(2)")
    with pytest.raises(apsw.Error, match="end the transaction, then set locking_mode"):
        late.pragma("locking_mode", "exclusive")
    late.execute("COMMIT")
    late.pragma("locking_mode", "exclusive")
    late.execute("BEGIN; SELECT * FROM t").fetchall()
    late.execute("INSERT INTO t VALUES(3); COMMIT")
    assert value(writer, "SELECT count(*) FROM t") == 3


def test_exclusive_locking_set_while_reading_takes_effect_immediately(connect):
    reader, writer = connect("main"), connect("main")
    writer.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    reader.execute("BEGIN; SELECT * FROM t").fetchall()
    reader.pragma("locking_mode", "exclusive")
    with pytest.raises(apsw.BusyError):
        writer.execute("INSERT INTO t VALUES(2)")
    reader.execute("INSERT INTO t VALUES(3); COMMIT; INSERT INTO t VALUES(4)")
    assert value(writer, "SELECT count(*) FROM t") == 3


def test_an_exclusive_writer_that_pushes_does_not_make_the_branch_file_grow(connect, monkeypatch):
    monkeypatch.setattr(rotation, "COMPACT_BYTES", 1 << 20)
    monkeypatch.setattr(rotation, "ROTATE_BYTES", 1 << 20)
    exclusive = connect("main")
    exclusive.pragma("locking_mode", "exclusive")
    exclusive.execute("CREATE TABLE t(x)")
    directory = graft_vfs.register().open("main").directory
    sizes = []
    for _ in range(8):
        exclusive.execute("DELETE FROM t; INSERT INTO t VALUES(randomblob(900000))")
        exclusive.pragma("graft_push")
        sizes.append(sum(path.stat().st_blocks * 512 for path in directory.glob("*.log")))
    assert max(sizes) < 5 << 20, sizes
    assert is_sound(connect("main"))


def test_an_exclusive_connection_may_push(connect, machine):
    exclusive = connect("main")
    exclusive.pragma("locking_mode", "exclusive")
    exclusive.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    exclusive.pragma("graft_push")
    exclusive.execute("INSERT INTO t VALUES(2)")
    exclusive.pragma("graft_push")
    elsewhere = machine().connect(remote="main")
    assert rows(elsewhere, "SELECT x FROM t") == [(1,), (2,)]


def test_closing_an_exclusive_connection_frees_the_writer_lock(connect):
    exclusive, other = connect("main"), connect("main")
    exclusive.pragma("locking_mode", "exclusive")
    exclusive.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    exclusive.close()
    other.execute("INSERT INTO t VALUES(2)")
    assert value(other, "SELECT count(*) FROM t") == 2


# Durability -------------------------------------------------------------------------------------

LEVELS = [
    ("OFF", 0),
    ("0", 0),
    ("false", 0),
    ("no", 0),
    ("NORMAL", 0),
    ("1", 0),
    ("on", 0),
    ("nonsense", 0),
    ("FULL", 1),
    ("2", 1),
    ("'full'", 1),
    ("EXTRA", 1),
    ("3", 1),
    ("4", 1),
    ("7", 0),  # SQLite adds one, keeps three bits and gets OFF.
]


@pytest.mark.parametrize(("level", "syncs"), LEVELS)
def test_synchronous_decides_how_many_syncs_ten_commits_cost(connect, level, syncs):
    connection = connect("main")
    connection.execute(f"CREATE TABLE t(x); PRAGMA synchronous={level}")
    with counted_syncs() as counts, counted_calls() as calls:
        for _ in range(10):
            connection.execute("INSERT INTO t VALUES(1)")
    assert counts["data_sync"] == 10 * syncs
    # SQLite's own idea of the level agrees at OFF, the only one where it leaves out xSync.
    assert (calls["xSync"] == 0) == (connection.pragma("synchronous") == 0)


def test_full_is_the_default(connect):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")
    with counted_syncs() as counts:
        connection.execute("INSERT INTO t VALUES(1)")
    assert counts["data_sync"] == 1


def test_a_change_of_synchronous_applies_only_to_its_connection(connect):
    one, two = connect("main"), connect("main")
    one.execute("CREATE TABLE t(x)")
    one.pragma("synchronous", "off")
    with counted_syncs() as counts:
        one.execute("INSERT INTO t VALUES(1)")
        assert counts["data_sync"] == 0
        two.execute("INSERT INTO t VALUES(1)")
        assert counts["data_sync"] == 1
        one.pragma("synchronous", "full")
        one.execute("INSERT INTO t VALUES(1)")
        assert counts["data_sync"] == 2


def test_synchronous_of_an_attached_volume_is_its_own(connect):
    connection = connect("one")
    connection.execute("ATTACH 'two' AS two; CREATE TABLE a(x); CREATE TABLE two.b(x)")
    connection.execute("PRAGMA two.synchronous=off").fetchall()
    with counted_syncs() as counts:
        connection.execute("INSERT INTO b VALUES(1)")
        assert counts["data_sync"] == 0
        connection.execute("INSERT INTO a VALUES(1)")
        assert counts["data_sync"] == 1


def test_a_refused_change_inside_a_transaction_makes_nothing_less_durable(connect):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x); BEGIN; INSERT INTO t VALUES(1)")
    with pytest.raises(apsw.SQLError):
        connection.execute("PRAGMA synchronous=off").fetchall()
    with counted_syncs() as counts:
        connection.execute("COMMIT")
    assert counts["data_sync"] == 1


def test_synchronous_can_be_raised_under_exclusive_locking(connect):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x); PRAGMA locking_mode=exclusive").fetchall()
    connection.execute("PRAGMA synchronous=off").fetchall()
    connection.execute("INSERT INTO t VALUES(1)")
    connection.execute("PRAGMA synchronous=full").fetchall()
    with counted_syncs() as counts:
        connection.execute("INSERT INTO t VALUES(1)")
    assert counts["data_sync"] == 1


def test_a_large_transaction_is_synced_once(connect, monkeypatch):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")
    with counted_syncs() as counts:
        connection.execute("INSERT INTO t VALUES(zeroblob(9000000))")
    assert counts["data_sync"] == 1


def test_normal_syncs_often_enough_to_bound_recovery(connect, monkeypatch):
    monkeypatch.setattr("graft_vfs.volume.volume.SYNC_INTERVAL_BYTES", 100_000)
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")
    for level, syncs in (("normal", 4), ("off", 0)):
        connection.pragma("synchronous", level)
        with counted_syncs() as counts:
            for _ in range(4):
                connection.execute("INSERT INTO t VALUES(zeroblob(110000))")
        assert counts["data_sync"] == syncs


def test_a_refused_sync_is_a_failed_commit(connect, monkeypatch):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")

    def refuse(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("graft_vfs.local.branch_log.data_sync", refuse)
        with pytest.raises(apsw.IOError, match="Input/output error"):
            connection.execute("INSERT INTO t VALUES(1)")
    assert rows(connect("main"), "SELECT * FROM t") == []
    assert rows(connection, "SELECT * FROM t") == []
    connection.execute("INSERT INTO t VALUES(2)")
    assert rows(connect("main"), "SELECT * FROM t") == [(2,)]


def test_the_file_has_only_the_methods_of_version_one():
    # With shared memory or mapped pages SQLite would let WAL in, or read past a snapshot.
    assert not [name for name in dir(VolumeFile) if name.startswith(("xShm", "xFetch"))]
