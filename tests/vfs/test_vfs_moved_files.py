"""Files that are removed, moved, replaced or restored while processes have a volume open.

One process has the volume open and has written. Then something happens to the files, and a second
process comes. Never do both get an acknowledgement for what the other cannot see.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import graft_vfs
from graft_vfs import Config
from graft_vfs.local.branch_file import CHECK_MASK
from tests.support.children import child
from tests.support.engines import registered
from tests.support.sql import is_sound, rows

WRITER = """
    connection = graft_vfs.connect("main")
    connection.set_busy_timeout(0)
    say("ready")
    while line := hear():
        try:
            if line == "reconnect":
                connection.close()
                connection = graft_vfs.connect("main")
            else:
                connection.execute(line)
            say("done")
        except apsw.Error as error:
            say(error)
"""


class Writer:
    """A process that runs one statement after the other."""

    def __init__(self, process) -> None:
        self._process = process
        assert process.hear() == "ready"

    def run(self, statement: str) -> str:
        self._process.say(statement)
        return self._process.hear()

    def insert(self, number: int) -> str:
        return self.run(f"INSERT INTO t VALUES({number})")

    def tried(self, statement: str) -> str:
        """Run a statement, and once more if the volume had moved, as applications do."""
        answer = self.run(statement)
        is_stale = "database is locked" in answer or "run the transaction again" in answer
        return self.run(statement) if is_stale else answer


@pytest.fixture
def data(tmp_path) -> Path:
    """A data directory behind a symbolic link, with a volume that nobody has open."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "real")
    with registered(Config(data_dir=link)):
        connection = graft_vfs.connect("main")
        connection.execute("CREATE TABLE t(x)")
        connection.close()
    return link


def numbers(data: Path) -> list[int]:
    with registered(Config(data_dir=data)):
        connection = graft_vfs.connect("main")
        assert is_sound(connection)
        return [x for (x,) in rows(connection, "SELECT x FROM t ORDER BY x")]


def volume_directory(data: Path) -> Path:
    (directory,) = (data / "volumes").iterdir()
    return directory


def test_removed_lock_files_never_allow_a_second_writer(data) -> None:
    with child(data, WRITER) as one:
        first = Writer(one)
        assert first.insert(1) == "done"
        assert first.run("BEGIN IMMEDIATE") == "done"
        assert first.insert(2) == "done"
        for path in volume_directory(data).iterdir():
            if path.name != "head" and path.suffix != ".log":
                path.unlink()
        with child(data, WRITER) as two:
            second = Writer(two)
            assert "database is locked" in second.insert(3)
            assert first.run("COMMIT") == "done"
            assert second.insert(3) == "done"
            assert first.insert(4) == "done"
    assert numbers(data) == [1, 2, 3, 4]


def replace(path: Path) -> None:
    """Put a copy in the place of a file, as tools do that unpack an archive."""
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.rename(path)


def replace_branch_file(data: Path) -> None:
    replace(volume_directory(data) / "0001.log")


def replace_head_file(data: Path) -> None:
    replace(volume_directory(data) / "head")


def move_directory(data: Path) -> None:
    real = data.resolve()
    shutil.copytree(real, real.with_name("backup"))
    real.rename(real.with_name("elsewhere"))
    real.with_name("backup").rename(real)


def repoint_link(data: Path) -> None:
    shutil.copytree(data.resolve(), data.with_name("backup"))
    data.unlink()
    data.symlink_to("backup")


@pytest.mark.parametrize(
    "act", [replace_branch_file, replace_head_file, move_directory, repoint_link]
)
@pytest.mark.parametrize("when", ["between transactions", "inside a transaction"])
def test_replaced_files_never_have_two_writers(data, act, when) -> None:
    """The copies are made while the writer runs, so that they hold what it left for others."""
    with child(data, WRITER) as one:
        first = Writer(one)
        assert first.insert(1) == "done"
        if when == "inside a transaction":
            assert first.run("BEGIN IMMEDIATE") == "done"
            assert first.insert(-1) == "done"
        act(data)
        with child(data, WRITER) as two:
            second = Writer(two)
            if act is replace_head_file and when == "inside a transaction":
                # Both still lock one branch file.
                assert "database is locked" in second.insert(2)
                assert first.run("COMMIT") == "done"
                assert second.tried("INSERT INTO t VALUES(2)") == "done"
                refused = first.tried("INSERT INTO t VALUES(-2)")
                assert "close this connection and open it again" in refused
                assert first.run("reconnect") == "done"
                assert first.insert(3) == "done"
                expected = [-1, 1, 2, 3]
            else:
                assert second.insert(2) == "done"
                refused = first.tried("COMMIT" if "inside" in when else "INSERT INTO t VALUES(-2)")
                assert "close this connection and open it again" in refused
                assert first.run("reconnect") == "done"
                assert first.insert(3) == "done"
                assert second.insert(4) == "done"
                expected = [1, 2, 3, 4]
    assert numbers(data) == expected


def test_a_single_writer_detects_that_its_directory_has_moved(data) -> None:
    real = data.resolve()
    with child(data, WRITER) as one:
        first = Writer(one)
        assert first.insert(1) == "done"
        real.rename(real.with_name("elsewhere"))
        assert "close this connection and open it again" in first.insert(2)
        assert "restore the data directory" in first.run("reconnect")
        real.with_name("elsewhere").rename(real)
        assert first.run("reconnect") == "done"
        assert first.insert(3) == "done"
    assert numbers(data) == [1, 3]


def test_a_copy_at_the_old_path_is_detected_after_some_commits(data) -> None:
    with child(data, WRITER) as one:
        first = Writer(one)
        assert first.insert(0) == "done"
        move_directory(data)
        answers = [first.insert(n) for n in range(1, CHECK_MASK + 2)]
    assert "close this connection and open it again" in answers[-1]
    assert numbers(data) == [0]


@pytest.mark.parametrize("act", [move_directory, repoint_link])
def test_a_copy_at_the_old_path_is_detected_immediately_by_a_slow_writer(data, act) -> None:
    always = "\n    from graft_vfs.volume import current_branch as c\n    c.CHECK_SECONDS = 0\n"
    with child(data, always + WRITER) as one:
        first = Writer(one)
        assert first.insert(0) == "done"
        act(data)
        assert "close this connection and open it again" in first.insert(1)
    assert numbers(data) == [0]


def test_a_large_transaction_of_a_stale_writer_does_not_overwrite_a_commit(data) -> None:
    """Its pages are spilled to the log long before it commits."""
    large = (
        "WITH RECURSIVE c(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM c WHERE i < 40) "
        "INSERT INTO t SELECT randomblob(1000000) FROM c"
    )
    with child(data, WRITER) as one:
        first = Writer(one)
        assert first.insert(1) == "done"
        replace_head_file(data)
        with child(data, WRITER) as two:
            second = Writer(two)
            assert second.insert(2) == "done"
            assert "close this connection and open it again" in first.run(large)
            assert second.insert(3) == "done"
    assert numbers(data) == [1, 2, 3]


def test_a_backup_restored_over_open_files_is_not_written_past_its_end(data) -> None:
    with child(data, WRITER) as one:
        first = Writer(one)
        assert first.insert(1) == "done"
        log = volume_directory(data) / "0001.log"
        former = {path: path.read_bytes() for path in (log, log.with_name("head"))}
        assert first.insert(2) == "done"
        for path, content in former.items():
            with path.open("r+b") as file:
                file.write(content)
        assert "was overwritten while it was open" in first.insert(3)
        assert first.run("reconnect") == "done"
        assert first.insert(4) == "done"
    assert numbers(data) == [1, 4]


def test_a_catalog_in_use_keeps_its_wal_when_one_that_was_moved_away_is_closed(data) -> None:
    with child(data, WRITER) as one, registered(Config(data_dir=data)) as engine:
        first = Writer(one)
        assert first.insert(1) == "done"
        graft_vfs.connect("main").execute("INSERT INTO t VALUES(2)")
        move_directory(data)
        with child(data, WRITER) as two:
            second = Writer(two)
            assert second.run("PRAGMA graft_new") == "done"
            assert (data / "catalog.db-wal").stat().st_size
            wal = (data / "catalog.db-wal").stat().st_ino
            one.kill()
            engine.catalog.close()
            assert (data / "catalog.db-wal").stat().st_ino == wal
            assert second.run("CREATE TABLE t(x)") == "done"
            assert second.insert(3) == "done"
    assert numbers(data) == [3]
