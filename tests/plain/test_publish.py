"""Exports get their names on file systems with and without hard links, and never replace a file."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import AlreadyExistsError, LocalStorageError
from graft_vfs.plain import publish as publishing
from tests.support.replicas import Replica

UNSUPPORTED = [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.fixture
def filled(tmp_path):
    with Replica(tmp_path / "data", RemoteConfig()) as made:
        connection = made.connect()
        connection.execute("CREATE TABLE t(x)")
        connection.executemany("INSERT INTO t VALUES(zeroblob(3000))", [()] * 600)
        yield made


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def without(monkeypatch, number: int, *ways: str) -> None:
    """Be on a file system that answers these calls with an error."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    for way in ways:
        target = os if way == "link" else publishing
        monkeypatch.setattr(target, way, refuse)


def count(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM t").fetchone()[0]
    finally:
        connection.close()


WAYS = [(), ("link",), ("link", "_rename_if_absent")]


@pytest.mark.parametrize("number", UNSUPPORTED)
@pytest.mark.parametrize("ways", WAYS)
def test_an_export_works_with_and_without_hard_links(
    filled, out, monkeypatch, number, ways
) -> None:
    without(monkeypatch, number, *ways)
    filled.engine.export("main", out / "copy.db")
    assert count(out / "copy.db") == 600
    assert [path.name for path in out.iterdir()] == ["copy.db"]


@pytest.mark.parametrize("ways", WAYS)
def test_an_export_replaces_no_file_created_concurrently(filled, out, monkeypatch, ways) -> None:
    without(monkeypatch, errno.EPERM, *ways)
    with pytest.raises(AlreadyExistsError, match="exists already; choose another name"):
        filled.engine.export(
            "main", out / "copy.db", progress=lambda *_: (out / "copy.db").write_text("mine")
        )
    assert (out / "copy.db").read_text() == "mine"
    assert [path.name for path in out.iterdir()] == ["copy.db"]


def test_a_file_that_replaced_our_placeholder_is_not_overwritten(filled, out, monkeypatch) -> None:
    without(monkeypatch, errno.EPERM, "link", "_rename_if_absent")
    close = os.close

    def replace(descriptor: int) -> None:
        close(descriptor)
        if (out / "copy.db").exists():
            (out / "other").write_text("mine")
            (out / "other").rename(out / "copy.db")

    monkeypatch.setattr(publishing.os, "close", replace)
    with pytest.raises(AlreadyExistsError):
        filled.engine.export("main", out / "copy.db")
    monkeypatch.undo()
    assert (out / "copy.db").read_text() == "mine"


def test_a_directory_that_cannot_be_synced_takes_exports(filled, out, monkeypatch) -> None:
    without(monkeypatch, errno.EINVAL, "fsync_directory")
    filled.engine.export("main", out / "copy.db")
    assert count(out / "copy.db") == 600


@pytest.mark.parametrize("name", ["x" * 243, "x" * 255, "é" * 127, "☃" * 85])
def test_a_name_may_be_as_long_as_the_file_system_allows(filled, out, name) -> None:
    filled.engine.export("main", out / name)
    assert [path.name for path in out.iterdir()] == [name]


def test_a_name_that_is_too_long_is_a_named_error(filled, out) -> None:
    with pytest.raises(LocalStorageError, match="File name too long"):
        filled.engine.export("main", out / ("x" * 256))
    assert list(out.iterdir()) == []
