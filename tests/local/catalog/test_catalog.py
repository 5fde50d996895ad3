"""The catalog: all or nothing, shared, and a named error for a row that it cannot read."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from graft_vfs.errors import AlreadyExistsError, CorruptCatalogError, NotFoundError
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.catalog.rows import BranchRow, CommitRow, PendingPush, VolumeRow
from graft_vfs.local.chunk import Position


@pytest.fixture
def catalog(tmp_path: Path):
    catalog = Catalog(tmp_path / "catalog.db")
    yield catalog
    catalog.close()


def make(catalog: Catalog, tag: str = "main") -> tuple[VolumeRow, BranchRow]:
    volume, branch, remote = VolumeId.new(), LogId.new(), LogId.new()
    row = VolumeRow(volume, 1, remote, False, branch, 11, None, None, None, None)
    first = BranchRow(branch, volume, remote, 0, 5, 1, "0001.log", Position(64, 2**64 - 1), 1)
    catalog.add_volume(row, first, tag=tag)
    return row, first


def test_volumes_branches_and_tags_come_back_as_they_were(catalog: Catalog) -> None:
    row, branch = make(catalog)
    assert catalog.tags() == [("main", row.id)]
    assert catalog.current(row.id) == (row, branch)
    assert catalog.volumes() == [row]
    assert catalog.branches(row.id) == [branch]
    announced: list[tuple[VolumeId, int]] = []
    catalog.delete_tag("main", lambda *change: announced.append(change))
    assert catalog.tag_volume("main") is None
    ((volume, epoch),) = announced
    assert volume == row.id
    assert epoch != row.epoch
    assert catalog.volumes() == [replace(row, epoch=epoch)]
    with pytest.raises(NotFoundError, match="no tag 'main'"):
        catalog.delete_tag("main", lambda *_: None)


def test_two_threads_that_create_a_tag_get_the_same_volume(catalog: Catalog) -> None:
    row, branch = make(catalog)
    other = VolumeId.new()
    taken = VolumeRow(other, 1, LogId.new(), False, LogId.new(), 1, None, None, None, None)
    branch = BranchRow(taken.branch, other, taken.remote, 0, 0, 1, "f", Position(64, 0), 1)
    assert catalog.add_volume(taken, branch, tag="main") == row.id
    assert catalog.volumes() == [row]
    assert catalog.add_volume(taken, branch, tag="main", replacing=lambda *_: None) == other
    with pytest.raises(AlreadyExistsError):
        catalog.add_volume(taken, branch, tag="third")


def test_switching_a_branch_needs_the_expected_one(catalog: Catalog) -> None:
    row, branch = make(catalog)
    following = BranchRow(LogId.new(), row.id, row.remote, 1, 6, 2, "0001.log", Position(100, 3), 2)
    refused = catalog.switch_branch(
        row.id, following, expected=LogId.new(), epoch=12, synced=(1, 1)
    )
    assert not refused
    assert catalog.current(row.id) == (row, branch)
    assert catalog.switch_branch(row.id, following, expected=branch.id, epoch=12, synced=(1, 1))
    current, now = catalog.current(row.id)
    assert now == following
    assert (current.epoch, current.attached, current.synced_remote) == (12, True, 1)


def test_one_push_is_pending_at_a_time(catalog: Catalog) -> None:
    row, branch = make(catalog)
    push = PendingPush(row.id, row.remote, 1, b"h" * 32, b"data", 4, 9, Position(999, 2**64 - 2))
    catalog.add_pending_push(push, branch=branch.id)
    assert catalog.pending_push(row.id) == push
    with pytest.raises(AlreadyExistsError):
        catalog.add_pending_push(push, branch=branch.id)
    following = BranchRow(LogId.new(), row.id, row.remote, 1, 6, 5, "f", Position(999, 0), 2)
    catalog.switch_branch(
        row.id, following, expected=branch.id, epoch=2, synced=(4, 1), settled_push=True
    )
    assert catalog.pending_push(row.id) is None


def test_a_push_is_withdrawn_unless_another_process_has_adopted_it(catalog: Catalog) -> None:
    row, branch = make(catalog)
    push = PendingPush(row.id, row.remote, 1, b"h" * 32, b"data", 4, 9, Position(999, 0))
    assert not catalog.take_up_pending_push(push)
    catalog.add_pending_push(push, branch=branch.id)
    catalog.withdraw_pending_push(push)
    assert catalog.pending_push(row.id) is None
    catalog.add_pending_push(push, branch=branch.id)
    assert catalog.take_up_pending_push(push)
    catalog.withdraw_pending_push(push)
    assert catalog.pending_push(row.id) == push
    catalog.delete_pending_push(push)
    assert catalog.pending_push(row.id) is None


def test_commits_are_kept_once_and_in_order(catalog: Catalog) -> None:
    log = LogId.new()
    assert catalog.newest_commit(log) == (0, bytes(32))
    rows = [CommitRow(lsn, bytes([lsn]) * 32, b"header") for lsn in (1, 2, 3)]
    catalog.add_commits(log, rows)
    catalog.add_commits(log, [CommitRow(2, b"x" * 32, b"another")])
    assert catalog.commits(log, 1, 9) == rows
    assert catalog.newest_commit(log) == (3, bytes([3]) * 32)


def test_two_handles_see_each_other(catalog: Catalog) -> None:
    row, _ = make(catalog)
    other = Catalog(catalog.path)
    assert other.tag_volume("main") == row.id
    other.set_tag("second", row.id, lambda *_: None)
    assert catalog.tag_volume("second") == row.id
    other.close()


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("writable", [True, False])
def test_a_catalog_of_an_earlier_version_goes_on(
    tmp_path: Path, writable: bool, version: int
) -> None:
    path = tmp_path / "catalog.db"
    with contextlib.closing(Catalog(path)) as catalog:
        row, branch = make(catalog)
        push = PendingPush(row.id, row.remote, 1, b"h" * 32, b"data", 4, 9, Position(999, 0))
        catalog.add_pending_push(push, branch=branch.id)
        catalog.keep_ref("s3://bucket", "main", row.remote)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE branches DROP COLUMN lineage")
        tables = ["log_absences", "page_tables", "page_table_chunks", "parents", "kept_branches"]
        tables += ["remotes", "log_remotes", "known_names"] if version < 3 else []
        for table in tables:
            connection.execute(f"DROP TABLE {table}")
        if version == 1:
            # Version 2 made this table when it had a ref to keep.
            connection.execute("DROP TABLE known_refs")
            connection.execute("ALTER TABLE pending_pushes DROP COLUMN is_taken_up")
        connection.execute(f"PRAGMA user_version = {version}")
    with contextlib.closing(Catalog(path, writable=writable)) as catalog:
        assert catalog.pending_push(row.id) == push
        assert catalog.current(row.id) == (row, branch)
        assert catalog.kept.all(row.id) == ()
        assert catalog.remotes.all() == catalog.remotes.logs_on("backup") == []
        assert catalog.remotes.of_log(row.remote) is None
        assert catalog.names.all(row.remote) == catalog.names.texts(row.remote) == []
        known = catalog.known_ref("s3://bucket", "main")
        assert known == (row.remote if version > 1 else None)
        assert catalog.absences.proved_ms(row.remote, "s3://bucket") is None
        catalog.absences.note(row.remote, "s3://bucket", 7, keeps_ms=0)
        assert catalog.absences.proved_ms(row.remote, "s3://bucket") == 7
        assert catalog.tables.all(row.remote) == []
        assert catalog.tables.parent(row.remote) is None
        catalog.tables.keep_parent(row.remote, None, 0)
        assert catalog.tables.knows_parent(row.remote) is writable
        catalog.keep_ref("s3://bucket", "main", row.remote)
        catalog.names.keep(row.remote, {"v1": b"object"})
        catalog.names.forget(row.remote, "v2")
        if writable:
            assert catalog.known_refs("s3://bucket") == [("main", row.remote)]
            assert catalog.names.texts(row.remote) == ["v1"]
            catalog.remotes.place_at(row.remote, "s3://bucket", "bucket")
            assert catalog.remotes.of_log(row.remote) == ("bucket", "s3://bucket")
            assert catalog.take_up_pending_push(push)
    with contextlib.closing(Catalog(path)) as catalog:
        catalog.withdraw_pending_push(push)
        assert (catalog.pending_push(row.id) is None) == (not writable)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("UPDATE tags SET volume = x'00'", "a volume id"),
        ("UPDATE volumes SET remote = x'800000000000008000000000000000ff'", "a log id"),
        ("UPDATE volumes SET epoch = -1", "a number from 0"),
        ("UPDATE volumes SET synced_ms = 9223372036854775807", "a number from 0"),
        ("UPDATE branches SET file = '../0001.log'", "the name of a log file"),
        ("UPDATE branches SET file = '/etc/passwd'", "the name of a log file"),
        ("UPDATE branches SET base = -1", "a number from 0"),
        ("UPDATE branches SET counter = 4294967296", "a number from 0"),
        ("UPDATE branches SET first_lsn = 0", "a number from 1"),
        ("UPDATE branches SET offset = 63", "a number from 64"),
        ("UPDATE branches SET checksum = '-1'", "a checksum"),
        ("UPDATE branches SET checksum = '18446744073709551616'", "a checksum"),
    ],
)
def test_an_impossible_row_is_reported_as_damage(
    catalog: Catalog, change: str, wanted: str
) -> None:
    row, _ = make(catalog)
    with contextlib.closing(sqlite3.connect(catalog.path)) as connection:
        connection.execute(change)
        connection.commit()
    read = catalog.tags if "tags" in change else functools.partial(catalog.current, row.id)
    with pytest.raises(CorruptCatalogError, match=f"instead of {wanted}"):
        read()


def test_an_lsn_too_large_for_sqlite_is_unknown(catalog: Catalog) -> None:
    log = LogId.new()
    catalog.add_commits(log, [CommitRow(1, b"h" * 32, b"header")])
    assert catalog.commits(log, 2**64 - 2, 2**64 - 2) == []
    assert len(catalog.commits(log, 1, 2**64 - 2)) == 1


def test_a_text_that_is_not_unicode_is_reported_as_damage(catalog: Catalog) -> None:
    make(catalog)
    with contextlib.closing(sqlite3.connect(catalog.path)) as connection:
        connection.execute("UPDATE tags SET tag = CAST(x'dcff' AS TEXT)")
        connection.commit()
    with pytest.raises(CorruptCatalogError, match="damaged"):
        catalog.tags()
