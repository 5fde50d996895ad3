"""A head file that never shows what other processes write, as a mapping on NFS may not.

It is a private copy of the words here. Where the file system is not known as local, no writer
believes it: no commit that was acknowledged is overwritten.
"""

from __future__ import annotations

import contextlib

import pytest

import graft_vfs
from graft_vfs import Config
from tests.support.children import child
from tests.support.sql import is_sound, rows

CLIENT = """
    from graft_vfs.local import file_systems, head
    from graft_vfs.volume import volume

    class PrivateHead(head.HeadFile):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            words, self.words = self.words, memoryview(bytearray(64)).cast("Q")
            for number in range(8):
                self.words[number] = words[number]

    graft_vfs.unregister()
    volume.HeadFile = PrivateHead
    file_systems.Mount.is_local = property(lambda self: False)
    graft_vfs.register(config)
    connection = graft_vfs.connect("main")
    connection.set_busy_timeout(0)
    say("ready")
    while line := hear():
        try:
            say(repr(connection.execute(line).fetchall()))
        except apsw.Error as error:
            say(type(error).__name__)
"""


class Writer:
    """A process whose head file never changes but by itself."""

    def __init__(self, process) -> None:
        self._process = process
        assert process.hear() == "ready"

    def run(self, statement: str) -> str:
        self._process.say(statement)
        return self._process.hear()

    def insert(self, number: int) -> None:
        """Insert a row, again if the volume has moved, as applications do."""
        answers = [self.run(f"INSERT INTO t VALUES({number})")]
        while answers[-1] == "BusyError" and len(answers) < 3:
            answers.append(self.run(f"INSERT INTO t VALUES({number})"))
        assert answers[-1] == "[]", answers


@pytest.fixture
def config(tmp_path):
    return Config(data_dir=tmp_path / "data")


@pytest.fixture
def writers(connect, config):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")
    connection.close()
    graft_vfs.unregister()
    with contextlib.ExitStack() as stack:
        yield [Writer(stack.enter_context(child(config.data_dir, CLIENT))) for _ in range(2)]


def content(config) -> list[int]:
    graft_vfs.register(config)
    connection = graft_vfs.connect("main")
    assert is_sound(connection)
    return [number for (number,) in rows(connection, "SELECT x FROM t ORDER BY x")]


def test_no_writer_overwrites_a_commit_missing_from_its_head_file(writers, config):
    for number in range(12):
        writers[number // 2 % 2].insert(number)
    assert content(config) == [*range(12)]


def test_a_transaction_that_read_before_such_a_commit_is_stale(writers, config):
    one, other = writers
    one.insert(0)
    other.insert(1)
    one.run("BEGIN")
    one.run("SELECT count(*) FROM t")
    other.insert(2)
    assert one.run("INSERT INTO t VALUES(3)") == "BusyError"
    one.run("ROLLBACK")
    one.insert(3)
    assert content(config) == [0, 1, 2, 3]


def test_a_switch_of_the_branch_is_found_in_the_catalog(writers, config):
    """Moving another tag gives the volume a new epoch, of which the head file does not tell."""
    one, other = writers
    one.insert(0)
    other.insert(1)
    assert other.run("PRAGMA graft_new").startswith("[(")
    other.run("CREATE TABLE latter(x)")
    assert one.run("INSERT INTO t VALUES(2)") in {"BusyError", "SQLError"}
    assert one.run("INSERT INTO latter VALUES(2)") == "[]"
