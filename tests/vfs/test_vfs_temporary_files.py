"""Where SQLite puts its temporary files is the business of the built-in VFS, on volumes, too."""

from __future__ import annotations

import sqlite3

import apsw
import pytest

import graft_vfs

FAILURES = (apsw.Error, sqlite3.Error)


@pytest.fixture(params=["apsw", "sqlite3"])
def connection(request, engine):
    if request.param == "apsw":
        made = graft_vfs.connect("main")
    else:
        graft_vfs.enable_sqlite3()
        made = sqlite3.connect(graft_vfs.uri("main"), uri=True, isolation_level=None)
    yield made
    made.execute("PRAGMA temp_store_directory=''").fetchall()  # It is the whole process's.
    made.close()


@pytest.mark.parametrize("is_catalog_open", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_directory_for_temporary_files_is_accepted(connection, engine, tmp_path, is_catalog_open):
    if not is_catalog_open:
        # As behind a fork: the next use opens it, which takes a mutex that SQLite holds here.
        engine.catalog._file._disconnect()
    connection.execute(f"PRAGMA temp_store_directory='{tmp_path}'").fetchall()
    told = connection.execute("PRAGMA temp_store_directory").fetchall()
    assert told == [(str(tmp_path),)]
    connection.execute("PRAGMA temp_store=FILE").fetchall()
    connection.execute("CREATE TEMP TABLE t AS SELECT 1 AS a").fetchall()
    assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]


def test_an_absent_directory_is_refused(connection, tmp_path):
    with pytest.raises(FAILURES, match="not a writable directory"):
        connection.execute(f"PRAGMA temp_store_directory='{tmp_path / 'none'}'").fetchall()


def test_a_tag_is_not_a_directory(connection):
    with pytest.raises(FAILURES, match="not a writable directory"):
        connection.execute("PRAGMA temp_store_directory='main'").fetchall()
