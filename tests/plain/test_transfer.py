"""Plain SQLite files in and out: every kind of file, nothing half done, the source untouched."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft_vfs.cli import check_local
from graft_vfs.errors import (
    AlreadyExistsError,
    BusyError,
    CorruptObjectError,
    DamageError,
    GraftError,
    UsageError,
)
from graft_vfs.local import layout
from tests.support.replicas import Replica, rows

HEADER_FIELDS = ((18, 20), (24, 28), (92, 96))
"""WAL mode, and the two counters: what an import changes, and an export with it."""


def make(path: Path, *pragmas: str, rows_count: int = 500, row_bytes: int = 300) -> Path:
    """Make a file with stock SQLite: tables, an index, text and numbers."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, word TEXT, v BLOB)")
    connection.execute("CREATE INDEX words ON t(word)")
    connection.execute("BEGIN")
    for number in range(rows_count):
        connection.execute(
            "INSERT INTO t VALUES(?, ?, zeroblob(?))", (number, f"word {number}", row_bytes)
        )
    connection.execute("COMMIT")
    connection.close()
    return path


def dump(connection) -> list:
    found = connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
    return found + connection.execute("SELECT * FROM t ORDER BY k").fetchall()


def stock_dump(path: Path) -> list:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dump(connection)
    finally:
        connection.close()


def neutral(data: bytes) -> bytes:
    """A database file without the header fields that say nothing about its content."""
    image = bytearray(data)
    for first, end in HEADER_FIELDS:
        image[first:end] = bytes(end - first)
    return bytes(image)


def state(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), found.st_mtime_ns, found.st_size


def leftovers(replica: Replica) -> list[str]:
    """Files of a volume's directory that are not its log, its mark, head, lock and description."""
    directory = replica.engine.open("main").directory
    known = {".log", ".lock", ".json", ""}
    return [
        path.name
        for path in directory.iterdir()
        if path.suffix not in known and not path.suffix.startswith(".place-")
    ]


KINDS = {
    "plain": (),
    "pages_of_512": ("page_size=512",),
    "pages_of_65536": ("page_size=65536",),
    "auto_vacuum_full": ("auto_vacuum=full",),
    "auto_vacuum_incremental": ("auto_vacuum=incremental", "page_size=1024"),
    "wal_checkpointed": ("journal_mode=wal",),
    "utf_16": ("encoding='UTF-16be'",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_export_gives_back_what_was_imported(replicas, tmp_path, kind) -> None:
    source = make(tmp_path / "source.db", *KINDS[kind])
    before, expected = state(source), stock_dump(source)
    replica = replicas()
    done = replica.engine.import_(source, "main")
    assert done.bytes == source.stat().st_size
    connection = replica.connect()
    assert dump(connection) == expected
    assert connection.pragma("integrity_check") == "ok"
    copy = tmp_path / "copy.db"
    replica.engine.export("main", copy)
    assert neutral(copy.read_bytes()) == neutral(source.read_bytes())
    assert stock_dump(copy) == expected
    assert state(source) == before
    beside = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert beside == {"source.db", "copy.db"}
    assert leftovers(replica) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_file_is_pushed_cloned_and_written_to(replicas, tmp_path, kind) -> None:
    source = make(tmp_path / "source.db", *KINDS[kind])
    ours, theirs = replicas("ours"), replicas("theirs")
    ours.engine.import_(source, "main")
    assert ours.engine.push("main").lsn == 1
    clone = theirs.connect(remote="main")
    assert dump(clone) == stock_dump(source)
    clone.execute("DELETE FROM t WHERE k % 3; INSERT INTO t VALUES(-1, 'new', NULL)")
    theirs.engine.push("main")
    ours.engine.pull("main")
    assert dump(ours.connect()) == dump(clone)
    assert ours.connect().pragma("integrity_check") == "ok"
    theirs.engine.export("main", tmp_path / "copy.db")
    assert stock_dump(tmp_path / "copy.db") == dump(clone)


def test_freelist_pages_are_carried_along(replicas, tmp_path) -> None:
    source = make(tmp_path / "source.db", rows_count=3000)
    stock = sqlite3.connect(source)
    stock.execute("DELETE FROM t WHERE k > 100")
    stock.commit()
    (free,) = stock.execute("PRAGMA freelist_count").fetchone()
    stock.close()
    assert free > 100
    replica = replicas()
    replica.engine.import_(source, "main")
    connection = replica.connect()
    assert connection.pragma("freelist_count") == free
    replica.engine.export("main", tmp_path / "copy.db")
    assert neutral((tmp_path / "copy.db").read_bytes()) == neutral(source.read_bytes())
    connection.execute("VACUUM")
    assert connection.pragma("freelist_count") == 0
    assert connection.pragma("integrity_check") == "ok"


PROCESS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement)
print("done", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def process(path: Path, *statements: str) -> Iterator[subprocess.Popen[str]]:
    """Run statements in a process that keeps its connection open inside the block."""
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(path), *statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("killed", [False, True], ids=["writer_open", "writer_killed"])
def test_what_a_wal_holds_is_imported_and_the_files_stay_as_they_are(
    replicas, tmp_path, killed
) -> None:
    source = make(tmp_path / "source.db", "journal_mode=wal")
    wal = source.with_name("source.db-wal")
    replica = replicas()
    with process(
        source,
        "PRAGMA wal_autocheckpoint=0",
        "INSERT INTO t VALUES(9999, 'in the wal', zeroblob(50000))",
        "DELETE FROM t WHERE k < 100",
    ) as writer:
        if killed:
            writer.kill()
            writer.wait()
        assert wal.stat().st_size > 50_000
        before = state(source), state(wal)
        replica.engine.import_(source, "main")
        assert (state(source), state(wal)) == before
    assert leftovers(replica) == []
    connection = replica.connect()
    assert rows(connection, "SELECT word FROM t WHERE k = 9999") == [("in the wal",)]
    assert rows(connection, "SELECT count(*) FROM t") == [(401,)]
    assert connection.pragma("journal_mode") != "wal"
    assert dump(connection) == stock_dump(source)


def test_a_file_that_is_being_written_to_is_busy_and_imported_later(replicas, tmp_path) -> None:
    source = make(tmp_path / "source.db")
    replica = replicas()
    with (
        process(source, "BEGIN EXCLUSIVE"),
        pytest.raises(BusyError, match="being written to"),
    ):
        replica.engine.import_(source, "main")
    assert replica.engine.import_(source, "main").pages > 1


def test_a_file_stays_locked_against_writers_while_it_is_imported(replicas, tmp_path) -> None:
    source = make(tmp_path / "source.db", rows_count=3000)
    expected = stock_dump(source)
    attempts: list[str] = []

    def write(*_) -> None:
        statement = "c.execute('DELETE FROM t'); c.commit()"
        script = f"import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0); {statement}"
        command = [sys.executable, "-c", script, str(source)]
        attempts.append(subprocess.run(command, check=False, capture_output=True, text=True).stderr)

    replica = replicas()
    replica.engine.import_(source, "main", progress=write)
    assert attempts
    assert all("database is locked" in text for text in attempts)
    assert dump(replica.connect()) == expected


# What is refused --------------------------------------------------------------------------------


def garbage(path: Path) -> Path:
    path.write_bytes(b"this is not a database, " * 500)
    return path


def short(path: Path) -> Path:
    make(path)
    path.write_bytes(path.read_bytes()[:8192])
    return path


def damaged_schema(path: Path) -> Path:
    make(path)
    data = bytearray(path.read_bytes())
    data[100:108] = b"\xee" * 8
    path.write_bytes(data)
    return path


def odd_page_size(path: Path) -> Path:
    make(path)
    data = bytearray(path.read_bytes())
    data[16:18] = (777).to_bytes(2, "big")
    path.write_bytes(data)
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def header_only(path: Path) -> Path:
    path.write_bytes(b"SQLite format 3\0")
    return path


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (garbage, DamageError),
        (short, DamageError),
        (damaged_schema, DamageError),
        (odd_page_size, DamageError),
        (empty, UsageError),
        (header_only, GraftError),
    ],
    ids=lambda value: value.__name__,
)
def test_a_file_that_is_no_sound_database_is_refused_and_leaves_nothing(
    replicas, tmp_path, spoil, error
) -> None:
    source = spoil(tmp_path / "source.db")
    before = state(source)
    replica = replicas()
    with pytest.raises(error) as caught:
        replica.engine.import_(source, "main")
    assert caught.value.next_step
    assert "source.db" in str(caught.value)
    assert state(source) == before
    assert (replica.engine.tags(), replica.engine.volumes()) == ([], [])
    assert list((replica.engine.config.data_dir / "volumes").iterdir()) == []
    good = make(tmp_path / "good.db")
    replica.engine.import_(good, "main")
    assert dump(replica.connect()) == stock_dump(good)


def test_a_file_that_is_absent_makes_no_tag(replicas, tmp_path) -> None:
    replica = replicas()
    with pytest.raises(UsageError, match="there is no file"):
        replica.engine.import_(tmp_path / "absent.db", "main")
    assert replica.engine.tags() == []


def test_a_directory_or_a_device_is_no_absent_file(replicas, tmp_path) -> None:
    replica = replicas()
    with pytest.raises(UsageError, match="is a directory; name a database file, such as") as caught:
        replica.engine.import_(tmp_path, "main")
    assert str(tmp_path / "app.db") in str(caught.value)
    with pytest.raises(UsageError, match="/dev/null is not a regular file"):
        replica.engine.import_(Path("/dev/null"), "main")
    assert replica.engine.tags() == []
    replica.connect().execute("CREATE TABLE mine(x)")
    with pytest.raises(AlreadyExistsError, match="is a directory; name a file in it") as caught:
        replica.engine.export("main", tmp_path)
    assert str(tmp_path / "export.db") in str(caught.value)


def test_a_volume_with_commits_takes_no_import(replicas, tmp_path) -> None:
    source = make(tmp_path / "source.db")
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE mine(x)")
    before = replica.engine.open("main").begin()
    with pytest.raises(UsageError, match=r"or first run `engine\.new\(tag\)`"):
        replica.engine.import_(source, "main")
    assert replica.engine.open("main").begin() is before
    assert rows(connection, "SELECT name FROM sqlite_schema") == [("mine",)]


@pytest.mark.parametrize("pages", [1000, 3000])
def test_an_import_that_fails_half_way_leaves_nothing(replicas, tmp_path, pages) -> None:
    source = make(tmp_path / "source.db", rows_count=pages, row_bytes=4000)
    whole = source.read_bytes()
    replica = replicas()
    replica.engine.new("main")
    with pytest.raises(DamageError, match="the file ends before page"):
        replica.engine.import_(source, "main", progress=lambda *_: os.truncate(source, 500_000))
    source.write_bytes(whole)
    connection = replica.connect()
    assert rows(connection, "SELECT count(*) FROM sqlite_schema") == [(0,)]
    snapshot = replica.engine.open("main").begin()
    assert (snapshot.page_count, snapshot.lsn) == (0, 0)
    replica.engine.import_(source, "main")
    assert rows(connection, "SELECT count(*) FROM t") == [(pages,)]
    again = replicas()
    assert rows(again.connect(), "SELECT count(*) FROM t") == [(pages,)]


def test_a_failed_import_into_a_tag_that_exists_leaves_the_tag(replicas, tmp_path) -> None:
    replica = replicas()
    replica.engine.new("main")
    with pytest.raises(DamageError):
        replica.engine.import_(garbage(tmp_path / "source.db"), "main")
    assert replica.engine.open("main").begin().page_count == 0
    assert leftovers(replica) == []


def test_a_tag_that_another_process_makes_meanwhile_is_not_taken(replicas, tmp_path) -> None:
    replica = replicas()
    source = make(tmp_path / "source.db", rows_count=3000)

    def make_tag(*_: object) -> None:
        if not replica.engine.tags():
            replica.engine.new("main")

    with pytest.raises(AlreadyExistsError, match="tag 'main' exists already"):
        replica.engine.import_(source, "main", progress=make_tag)
    assert len(replica.engine.volumes()) == 1
    assert replica.engine.open("main").begin().page_count == 0


def test_ctrl_c_during_an_import_leaves_nothing(replicas, tmp_path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    replica = replicas()
    source = make(tmp_path / "source.db", rows_count=3000)
    with pytest.raises(KeyboardInterrupt):
        replica.engine.import_(source, "main", progress=interrupt)
    assert (replica.engine.tags(), replica.engine.volumes()) == ([], [])


# Export -----------------------------------------------------------------------------------------


@pytest.fixture
def filled(replicas, tmp_path) -> Replica:
    replica = replicas()
    replica.engine.import_(make(tmp_path / "source.db", rows_count=3000), "main")
    return replica


def test_an_export_never_replaces_a_file(filled, tmp_path, monkeypatch) -> None:
    taken = tmp_path / "taken.db"
    taken.write_text("mine")
    with pytest.raises(AlreadyExistsError, match="exists already"):
        filled.engine.export("main", taken)
    assert taken.read_text() == "mine"

    late = tmp_path / "late.db"
    with pytest.raises(GraftError):
        filled.engine.export("main", late, progress=lambda *_: late.write_text("came in between"))
    assert late.read_text() == "came in between"

    dangling = tmp_path / "dangling.db"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(GraftError):
        filled.engine.export("main", dangling)
    assert dangling.is_symlink()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_an_export_that_fails_half_way_leaves_nothing(filled, tmp_path) -> None:
    def fail(*_):
        raise KeyboardInterrupt

    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(KeyboardInterrupt):
        filled.engine.export("main", target / "copy.db", progress=fail)
    assert list(target.iterdir()) == []


def test_an_export_into_a_directory_that_is_absent_is_a_named_error(filled, tmp_path) -> None:
    with pytest.raises(GraftError, match="No such file or directory; create the parent"):
        filled.engine.export("main", tmp_path / "absent" / "copy.db")


def test_an_export_that_is_killed_leaves_no_file_under_the_name(filled, tmp_path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from graft_vfs import Config, Graft\n"
        "engine = Graft(Config(data_dir=Path(sys.argv[1])))\n"
        "engine.export('main', Path(sys.argv[2]), "
        "progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    target = tmp_path / "killed.db"
    data_dir = filled.engine.config.data_dir
    done = subprocess.run([sys.executable, "-c", script, str(data_dir), str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    filled.engine.export("main", target)
    assert stock_dump(target) == stock_dump(tmp_path / "source.db")


def test_an_export_shows_one_snapshot_while_others_write(filled, tmp_path) -> None:
    connection = filled.connect()
    expected = dump(connection)

    def write(*_) -> None:
        connection.execute("UPDATE t SET word = word || '!'")

    filled.engine.export("main", tmp_path / "copy.db", progress=write)
    assert stock_dump(tmp_path / "copy.db") == expected
    assert dump(connection) != expected


def test_a_cold_clone_exports_whole_and_damage_stops_it(replicas, tmp_path) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
    with connection:
        connection.executemany(
            "INSERT INTO t VALUES(?, ?)", ((n, secrets.token_bytes(800)) for n in range(2000))
        )
    ours.engine.push("main")
    theirs.engine.open("main", create=True, remote="main")
    theirs.engine.export("main", tmp_path / "copy.db")
    assert stock_dump(tmp_path / "copy.db") == dump(connection)

    store = ours.engine.store
    (segment,) = store.keys("segments/")
    data = bytearray(store.get(segment))
    data[len(data) // 2] ^= 1
    store.put(segment, [bytes(data)])
    cold = replicas("cold")
    cold.engine.open("main", create=True, remote="main")
    with pytest.raises(CorruptObjectError):
        cold.engine.export("main", tmp_path / "damaged.db")
    assert not (tmp_path / "damaged.db").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


# Over a file, and through pipes -------------------------------------------------------------------


def test_an_export_by_force_replaces_a_file_in_one_step_and_keeps_its_mode(
    filled, tmp_path
) -> None:
    target = tmp_path / "taken.db"
    target.write_text("mine")
    target.chmod(0o640)
    link = tmp_path / "link.db"
    link.symlink_to(target)
    seen: list[str] = []
    filled.engine.export(
        "main", link, force=True, progress=lambda *_: seen.append(target.read_text())
    )
    assert set(seen) == {"mine"}
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert stock_dump(target) == dump(filled.connect())
    with pytest.raises(AlreadyExistsError, match="is a directory"):
        filled.engine.export("main", tmp_path, force=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AlreadyExistsError, match="is not a regular file"):
        filled.engine.export("main", tmp_path / "pipe", force=True)
    assert not list(tmp_path.glob(".graft-*"))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("mode", ["wal", "persist"])
def test_an_export_is_never_given_the_wal_or_journal_of_another_database(
    filled, tmp_path, force, mode
) -> None:
    """SQLite would replay what lies beside a file into it, whatever that file holds."""
    target = tmp_path / "target.db"
    with process(
        target,
        f"PRAGMA journal_mode={mode}",
        "CREATE TABLE theirs(x)",
        "BEGIN; " if mode == "persist" else "PRAGMA wal_autocheckpoint=0",
        "INSERT INTO theirs VALUES(zeroblob(100000))",
    ) as writer:
        writer.kill()
        writer.wait()
    if not force:
        target.unlink()
    beside = next(tmp_path.glob("target.db-*[lj]*"))
    with pytest.raises(AlreadyExistsError, match="SQLite would take it for changes of"):
        filled.engine.export("main", target, force=force)
    beside.unlink()
    filled.engine.export("main", target, force=force)
    assert stock_dump(target) == dump(filled.connect())


def test_a_journal_that_only_waits_for_the_next_transaction_is_no_obstacle(
    filled, tmp_path
) -> None:
    target = tmp_path / "target.db"
    connection = sqlite3.connect(target)
    connection.execute("PRAGMA journal_mode=persist")
    connection.execute("CREATE TABLE theirs(x)")
    connection.close()
    assert target.with_name("target.db-journal").stat().st_size
    filled.engine.export("main", target, force=True)
    assert stock_dump(target) == dump(filled.connect())


def test_an_earlier_commit_is_exported(filled, tmp_path) -> None:
    filled.engine.push("main")
    connection = filled.connect()
    expected = dump(connection)
    connection.execute("DELETE FROM t WHERE k < 1000")
    filled.engine.export("main", tmp_path / "first.db", at="BASE")
    filled.engine.export("main", tmp_path / "now.db", at="HEAD")
    assert stock_dump(tmp_path / "first.db") == expected
    assert stock_dump(tmp_path / "now.db") == dump(connection)
    with pytest.raises(GraftError):
        filled.engine.export("main", tmp_path / "absent.db", at="9")
    assert not (tmp_path / "absent.db").exists()


def test_a_stream_takes_an_export_and_gives_an_import(filled, replicas, tmp_path) -> None:
    written = io.BytesIO()
    done = filled.engine.export("main", written)
    assert (done.path, done.bytes) == ("-", len(written.getvalue()))
    filled.engine.export("main", tmp_path / "copy.db")
    assert written.getvalue() == (tmp_path / "copy.db").read_bytes()
    other = replicas("other")
    written.seek(0)
    done = other.engine.import_(written, "main")
    assert (done.path, done.lsn) == ("-", 1)
    assert dump(other.connect()) == dump(filled.connect())
    change = sqlite3.connect(tmp_path / "copy.db")
    change.execute("DELETE FROM t WHERE k = 5")
    change.commit()
    change.close()
    with (tmp_path / "copy.db").open("rb") as stream:
        assert other.engine.import_(stream, "main", update=True).differ < 6
    assert dump(other.connect()) == stock_dump(tmp_path / "copy.db")
    with pytest.raises(DamageError, match="standard input is not a valid SQLite database"):
        other.engine.import_(io.BytesIO(b"no database" * 1000), "new")
    with pytest.raises(UsageError, match="there is nothing on standard input"):
        other.engine.import_(io.BytesIO(), "new")
    assert [tag.tag for tag in other.engine.tags()] == ["main"]
    assert not layout.spools(other.engine.config.data_dir)


def test_the_copy_of_an_interrupted_import_is_found(filled) -> None:
    spool = filled.engine.config.data_dir / f"{layout.SPOOL_PREFIX}abc"
    spool.mkdir()
    (spool / "standard input").write_bytes(b"x" * 5000)
    found = list(check_local.leftovers(filled.engine.config.data_dir, filled.engine.catalog))
    assert found == [(spool, "is the copy of an import that was interrupted")]
