"""The head file is a hint: whatever its bytes are, readers and writers see what the log holds.

Other processes run while it is removed, filled with garbage, cut, or marked as another version's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import textwrap
from unittest.mock import Mock

import pytest

import graft_vfs
from graft_vfs import Config
from graft_vfs.errors import BusyError, FutureVersionError, LocalStorageError
from graft_vfs.local import head, head_words
from graft_vfs.local.files import write_fully
from graft_vfs.local.head import HeadFile
from graft_vfs.local.head_words import CalledWords
from graft_vfs.volume import current_branch
from tests.support.children import child
from tests.support.engines import close_connections, registered, reopened
from tests.support.sql import is_sound, rows

MAGIC = 2
VERSION_1 = 0x4752_4146_5448_0001
VERSION_2 = 0x4752_4146_5448_0002

WRITER = """
    connection = graft_vfs.connect("main")
    connection.set_busy_timeout(60_000)
    say("ready")
    while line := hear():
        connection.execute("INSERT INTO t VALUES(?)", (int(line),))
        say("done")
"""


@pytest.fixture
def config(tmp_path):
    return Config(data_dir=tmp_path / "data")


@pytest.fixture
def engine(config):
    with registered(config) as engine:
        yield engine


@pytest.fixture
def table(engine):
    connection = graft_vfs.connect("main")
    connection.execute("CREATE TABLE t(x)")
    connection.set_busy_timeout(60_000)
    return connection


@pytest.fixture
def path(engine, table):
    return engine.open("main").directory / "head"


def numbers(connection) -> list[int]:
    return [x for (x,) in rows(connection, "SELECT x FROM t ORDER BY x")]


def test_written_words_are_visible_in_every_mapping(tmp_path) -> None:
    first, second = HeadFile(tmp_path / "head"), HeadFile(tmp_path / "head")
    first.words[head.END] = 77
    assert second.words[head.END] == 77
    assert HeadFile(tmp_path / "head", writable=False).words[head.END] == 77


@pytest.mark.parametrize("size", [0, 1, 63])
def test_a_short_file_is_completed(tmp_path, size) -> None:
    path = tmp_path / "head"
    path.write_bytes(bytes(size))
    assert list(HeadFile(path, writable=False).words) == [0] * 8
    assert HeadFile(path).words[MAGIC] == VERSION_2
    assert path.stat().st_size == 64


def test_a_missing_file_that_cannot_be_created_reads_as_zeros(tmp_path) -> None:
    assert list(HeadFile(tmp_path / "head", writable=False).words) == [0] * 8
    assert not (tmp_path / "head").exists()


@pytest.mark.parametrize("version", [0, 3, 0xFFFF])
def test_another_version_is_refused_and_left_alone(config, table, path, version) -> None:
    close_connections()
    graft_vfs.unregister()
    data = bytearray(path.read_bytes())
    data[16:18] = version.to_bytes(2, "little")
    path.write_bytes(data)
    graft_vfs.register(config)
    with pytest.raises(Exception, match=rf"head file {version}\) uses this volume; use one"):
        graft_vfs.connect("main")
    with pytest.raises(FutureVersionError):
        HeadFile(path, writable=False)
    assert path.read_bytes() == data
    data[16:18] = b"\2\0"
    path.write_bytes(data)
    connection = graft_vfs.connect("main")
    connection.execute("INSERT INTO t VALUES(1)")
    assert numbers(connection) == [1]


def test_a_version_changed_at_run_time_is_refused_only_to_new_processes(
    config, table, path
) -> None:
    with child(config.data_dir, WRITER) as writer:
        assert writer.hear() == "ready"
        with path.open("r+b") as file:
            file.seek(16)
            file.write(b"\3")
        for n in range(4):
            writer.say(str(n))
            assert writer.hear() == "done"
            table.execute("INSERT INTO t VALUES(?)", (n + 100,))
        late = """
            try:
                graft_vfs.connect("main")
            except apsw.Error as error:
                say(error)
        """
        with child(config.data_dir, late) as newcomer:
            (answer,) = newcomer.end()
        assert "another version of graft-vfs (head file 3) uses this volume" in answer
    assert numbers(table) == [0, 1, 2, 3, 100, 101, 102, 103]


@pytest.mark.parametrize("seed", range(12))
def test_garbage_in_the_head_file_neither_hides_nor_shows_a_wrong_commit(
    config, table, path, seed
) -> None:
    """No process writes meanwhile, and it claims no end beyond the log: that would be damage."""
    choice = random.Random(seed)
    expected = []

    def spoil() -> None:
        garbage = bytearray(choice.randbytes(64))
        if seed % 2:
            garbage[:8] = choice.randrange(4096).to_bytes(8, "little")
            garbage[8:32] = path.read_bytes()[8:32]
        else:
            garbage[24:32] = bytes(8)  # Another boot, after which the end says nothing.
        with path.open("r+b") as file:
            file.write(bytes(64) if choice.random() < 0.3 else garbage)

    with child(config.data_dir, WRITER) as writer:
        assert writer.hear() == "ready"
        for n in range(12):
            if choice.random() < 0.5:
                spoil()
            if choice.random() < 0.5:
                writer.say(str(n))
                assert writer.hear() == "done"
            else:
                table.execute("INSERT INTO t VALUES(?)", (n,))
            expected.append(n)
            if choice.random() < 0.5:
                spoil()
            assert numbers(table) == expected
    assert is_sound(table)
    close_connections()
    graft_vfs.unregister()
    graft_vfs.register(config)
    assert numbers(graft_vfs.connect("main")) == expected


def test_truncating_the_file_at_run_time_only_costs_time(config, table, path) -> None:
    with child(config.data_dir, WRITER) as writer:
        assert writer.hear() == "ready"
        for n in range(6):
            with path.open("r+b") as file:
                file.truncate(1 + n * 9)  # A file cut to nothing takes the mapped memory away.
            writer.say(str(n))
            assert writer.hear() == "done"
            table.execute("INSERT INTO t VALUES(?)", (n + 100,))
            with child(config.data_dir, WRITER) as newcomer:
                assert newcomer.hear() == "ready"
                newcomer.say(str(n + 200))
                assert newcomer.hear() == "done"
    assert numbers(table) == [n + base for base in (0, 100, 200) for n in range(6)]


def test_emptying_the_file_at_run_time_kills_no_process(config, table, path, monkeypatch) -> None:
    """A load of a word that was cut off would be a signal: each transaction looks before."""
    monkeypatch.setattr(current_branch, "LOOK_SECONDS", 0)
    patch = "from graft_vfs.volume import current_branch\ncurrent_branch.LOOK_SECONDS = 0\n"
    program = patch + textwrap.dedent(WRITER)
    with child(config.data_dir, program) as writer:
        assert writer.hear() == "ready"
        for n in range(4):
            with path.open("r+b") as file:
                file.truncate(0)
            writer.say(str(n))
            assert writer.hear() == "done"
            with path.open("r+b") as file:
                file.truncate(0)
            table.execute("INSERT INTO t VALUES(?)", (n + 100,))
    assert numbers(table) == [0, 1, 2, 3, 100, 101, 102, 103]


@pytest.mark.parametrize("maps", [True, False])
def test_words_stored_by_calls_are_visible_in_mappings(tmp_path, monkeypatch, maps) -> None:
    mapped = HeadFile(tmp_path / "head")
    monkeypatch.setattr(head, "mapped_writes_are_safe", lambda _: False)
    called = HeadFile(tmp_path / "head", maps=maps)
    assert isinstance(called.words, CalledWords)
    called.words[head.EPOCH] = 7
    mapped.words[head.END] = 900
    assert (called.words[head.END], mapped.words[head.EPOCH]) == (900, 7)
    called.words[head.WRITING] = 1
    assert (called.words[head.END], mapped.words[head.WRITING]) == (0, 1)


def test_a_commit_that_cannot_be_published_is_found_in_the_log(
    config, engine, table, path, monkeypatch
) -> None:
    """On a full copy-on-write disk a word cannot be stored; the commit is in the log by then."""
    monkeypatch.setattr(head, "mapped_writes_are_safe", lambda _: False)
    engine = reopened(config)
    table = graft_vfs.connect("main")
    volume = engine.open("main")
    assert isinstance(volume.words, CalledWords)
    publishing = []

    def refuse_once_written(descriptor, data, offset):
        if offset == 8 * head.END:
            publishing.append(offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_fully(descriptor, data, offset)

    reader = """
        from graft_vfs.local import head
        head.mapped_writes_are_safe = lambda _: False
        connection = graft_vfs.connect("main")
        while hear():
            say([n for (n,) in connection.execute("SELECT x FROM t ORDER BY x")])
    """
    with child(config.data_dir, reader) as other:
        other.say("go")
        assert other.hear() == "[]"
        with monkeypatch.context() as patch:
            patch.setattr(head_words, "write_fully", refuse_once_written)
            table.execute("INSERT INTO t VALUES(1)")
        assert publishing
        other.say("go")
        assert other.hear() == "[1]"
        table.execute("INSERT INTO t VALUES(2)")
        other.say("go")
        assert other.hear() == "[1, 2]"


def test_a_removed_head_file_is_not_recreated_while_processes_have_it_mapped(
    config, engine, table, path, monkeypatch
) -> None:
    newcomer = """
        try:
            graft_vfs.connect("main").execute("INSERT INTO t VALUES(-1)")
        except apsw.Error as error:
            say(error)
    """
    with child(config.data_dir, WRITER) as writer:
        assert writer.hear() == "ready"
        path.unlink()
        monkeypatch.setattr(head, "_JOIN_SECONDS", 0.0)
        with pytest.raises(BusyError, match="other processes have the volume open; end them"):
            HeadFile(path)
        with child(config.data_dir, newcomer) as refused:
            (answer,) = refused.end()
        assert "is missing, and other processes have the volume open" in answer
        # Those that have it go on, and see each other.
        for n in range(3):
            writer.say(str(n))
            assert writer.hear() == "done"
            table.execute("INSERT INTO t VALUES(?)", (n + 100,))
        expected = [0, 1, 2, 100, 101, 102]
        assert numbers(table) == expected
    close_connections()
    graft_vfs.unregister()
    del engine
    graft_vfs.register(config)
    table = graft_vfs.connect("main")
    assert numbers(table) == expected
    table.execute("INSERT INTO t VALUES(200)")
    assert path.exists()
    assert numbers(table) == [*expected, 200]
    assert is_sound(table)


def test_a_version_1_file_is_upgraded_if_no_other_process_has_it_open(tmp_path) -> None:
    path = tmp_path / "head"
    path.write_bytes(bytes(16) + VERSION_1.to_bytes(8, "little") + bytes(40))
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # As a program of the former version does.
    with pytest.raises(FutureVersionError, match=r"head file 1\) uses this volume; use one"):
        HeadFile(path)
    os.close(descriptor)
    first = HeadFile(path)
    assert first.words[MAGIC] == VERSION_2
    assert HeadFile(path).words[MAGIC] == VERSION_2


def test_a_file_that_could_not_be_made_leaves_no_lock_behind(tmp_path, monkeypatch) -> None:
    """Not even while its error is kept, whose traceback has the object."""
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(head, "write_fully", Mock(side_effect=full))
        with pytest.raises(LocalStorageError) as kept:
            HeadFile(tmp_path / "head")
    assert HeadFile(tmp_path / "head").is_in_place()
    assert kept.value.__traceback__ is not None
