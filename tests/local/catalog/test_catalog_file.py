"""The catalog's file: whole transactions, and a named error for what is no catalog."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import apsw
import pytest

from graft_vfs.errors import CorruptCatalogError, FutureVersionError, ReadOnlyError, UsageError
from graft_vfs.local.catalog.file import CatalogFile


def test_a_damaged_catalog_is_a_named_error_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(CorruptCatalogError, match=r"engine\.lost_volumes\("):
        CatalogFile(path)
    assert path.read_bytes() == b"garbage" * 1000


def test_another_database_is_not_accepted_as_a_catalog(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine(x)")
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(CorruptCatalogError, match="not a catalog"):
        CatalogFile(path)


def test_a_future_catalog_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    CatalogFile(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(FutureVersionError, match="upgrade"):
        CatalogFile(path)


def test_an_upgrade_that_a_later_version_overtook_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.db"
    CatalogFile(path).close()

    def set_version(version: int) -> None:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {version}")

    set_version(2)
    migrate = CatalogFile._migrate

    def overtaken(file: CatalogFile, connection: apsw.Connection) -> None:
        set_version(99)
        migrate(file, connection)

    monkeypatch.setattr(CatalogFile, "_migrate", overtaken)
    with pytest.raises(FutureVersionError, match="upgrade"):
        CatalogFile(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


def tags(file: CatalogFile) -> list[str]:
    return [tag for (tag,) in file.rows("SELECT tag FROM tags ORDER BY tag")]


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with contextlib.closing(CatalogFile(tmp_path / "catalog.db")) as file:
        file.write("INSERT INTO tags VALUES(?, ?)", "kept", b"v")

        def fail_behind_a_write() -> None:
            with file.transaction() as connection:
                connection.execute("INSERT INTO tags VALUES('gone', x'00')")
                assert tags(file) == ["gone", "kept"]
                raise KeyError

        with pytest.raises(KeyError):
            fail_behind_a_write()
        assert tags(file) == ["kept"]


def test_a_read_only_file_is_read_in_its_current_state(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    CatalogFile(path).close()
    with contextlib.closing(CatalogFile(path, writable=False)) as file:
        assert tags(file) == []
        with contextlib.closing(CatalogFile(path)) as other:
            other.write("INSERT INTO tags VALUES(?, ?)", "new", b"v")
        assert tags(file) == ["new"]
        with pytest.raises(ReadOnlyError):
            file.write("DELETE FROM tags")


def test_a_closed_file_raises_by_name(tmp_path: Path) -> None:
    file = CatalogFile(tmp_path / "catalog.db")
    file.close()
    file.close()
    with pytest.raises(UsageError, match="closed"):
        tags(file)
