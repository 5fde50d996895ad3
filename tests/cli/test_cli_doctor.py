"""`graft doctor`: what it looks at, what it finds, and what it says to do."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import apsw
import pytest

from graft_vfs.cli import check_local
from graft_vfs.errors import UsageError
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import file_systems, layout
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.file_systems import Mount, mount_of
from graft_vfs.store.s3 import store as s3
from graft_vfs.volume.open_volumes import VOLUMES_KEPT_MAX


def checks(cli, *, code: int = 0) -> dict[str, dict[str, str]]:
    result = cli.run("doctor", "--json")
    assert result.exit_code == code, result.stdout
    return {check["name"]: check for check in json.loads(result.stdout)}


def test_doctor_without_any_configuration(cli):
    found = checks(cli)
    assert {check["level"] for check in found.values()} <= {"ok", "warning"}
    assert set(found) == {
        *("versions", "apsw", "sqlite3", "configuration", "data directory", "disk space", "remote"),
    }
    assert not (cli.root / "home/.local/share/graft").exists()


def test_doctor_on_a_healthy_machine(pushed):
    found = checks(pushed)
    assert {check["level"] for check in found.values()} <= {"ok", "warning"}
    assert found["volumes"]["text"] == "each of them opens (1)"
    assert str(pushed.root / "remote") in found["remote"]["text"]
    assert found["conditional writes"]["level"] == "ok"
    assert "clock" not in found  # A directory has none of its own.
    lines = pushed.ok("doctor").splitlines()
    assert len(lines) == len(found)
    assert all(line.split()[0] in ("ok", "warning", "problem") for line in lines)


def test_doctor_names_a_broken_configuration(cli):
    Path("graft.toml").write_text("nonsense = 1")
    found = checks(cli, code=1)
    assert found["configuration"]["level"] == "problem"
    assert "nonsense" in found["configuration"]["text"]
    assert found["configuration"]["next_step"]


def test_doctor_warns_of_variables_that_set_nothing(pushed, monkeypatch):
    assert "set nothing" not in pushed.ok("doctor")
    monkeypatch.setenv("GRAFT_REMOTE_BUKET", "x")
    monkeypatch.setenv("GRAFT_HYDRAT", "full")
    assert (
        "warning  configuration: variables that set nothing: GRAFT_HYDRAT, GRAFT_REMOTE_BUKET; next"
        in pushed.ok("doctor")
    )


def test_doctor_names_a_damaged_catalog(pushed):
    (pushed.root / "a" / "catalog.db").write_bytes(b"damaged" * 1000)
    found = checks(pushed, code=1)
    assert found["catalog"]["level"] == "problem"
    assert found["remote"]["level"] == "ok"


def test_doctor_names_the_file_system_of_the_data_directory(pushed, monkeypatch):
    mount = mount_of(pushed.root)
    if mount is None:
        pytest.skip("this system does not tell what is mounted where")
    assert checks(pushed)["data directory"]["text"].endswith(f", on {mount}")
    monkeypatch.setattr(file_systems, "mount_of", lambda _: Mount("nfs4", "server:/export"))
    found = checks(pushed, code=1)
    assert found["data directory"]["level"] == "problem"
    assert "nfs4 (server:/export)" in found["data directory"]["text"]
    assert "allow_file_systems" in found["data directory"]["next_step"]


@pytest.mark.parametrize("text", [b'{"format": 999}', b"damaged", None])
def test_a_descriptor_that_cannot_be_read_is_one_bad_line_at_most(pushed, text):
    pushed.ok("new", "other")
    volume = pushed.json("info", "main")["volume"]
    path = pushed.root / "a" / "volumes" / volume / layout.DESCRIPTOR
    path.unlink()
    if text is None:
        path.mkdir()
    else:
        path.write_bytes(text)
    found = checks(pushed, code=0 if text == b"damaged" else 1)
    is_bad = text != b"damaged"  # That one is written again from the catalog.
    assert (f"volume 'main' ({volume})" in found) == is_bad
    assert found["catalog"]["level"] == "ok"
    assert "leftovers" in found
    rows = {row["volume"]: row["problem"] for row in pushed.json("volumes")}
    assert (rows.pop(volume) is not None) == is_bad
    assert [*rows.values()] == [None]


def test_doctor_and_volumes_do_not_sync_volumes(pushed, monkeypatch):
    for number in range(VOLUMES_KEPT_MAX + 2):
        pushed.ok("new", f"t{number}")
    monkeypatch.setattr(BranchLog, "sync", mock.Mock(side_effect=AssertionError))
    assert checks(pushed)["volumes"]["text"] == f"each of them opens ({VOLUMES_KEPT_MAX + 3})"
    assert len(pushed.json("volumes")) == VOLUMES_KEPT_MAX + 3


def test_doctor_names_a_damaged_volume(pushed):
    pushed.ok("new", "other")
    volume = pushed.json("info", "main")["volume"]
    for path in (pushed.root / "a" / "volumes" / volume).glob("*.log"):
        path.write_bytes(b"damaged" * 1000)
    found = checks(pushed, code=1)
    assert found[f"volume 'main' ({volume})"]["level"] == "problem"
    assert found["catalog"]["level"] == "ok"


def test_doctor_names_an_impossible_data_directory(cli, monkeypatch):
    (cli.root / "file").write_text("")
    monkeypatch.setenv("GRAFT_DATA_DIR", str(cli.root / "file" / "data"))
    found = checks(cli, code=1)
    assert found["data directory"]["level"] == "problem"


def test_doctor_names_a_remote_that_cannot_be_reached(cli, monkeypatch):
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "fs")
    monkeypatch.setenv("GRAFT_REMOTE_ROOT", os.fspath(cli.root / "file"))
    (cli.root / "file").write_text("")
    found = checks(cli, code=1)
    assert found["remote"]["level"] == "problem"
    assert "conditional writes" not in found


def test_doctor_warns_of_a_remote_in_memory(cli, monkeypatch):
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "memory")
    assert checks(cli)["remote"]["level"] == "warning"


def test_doctor_leaves_nothing_behind(cli, monkeypatch):
    directory = cli.root / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    checks(cli)
    assert not list(directory.iterdir())
    assert "graft-doctor" not in apsw.vfs_names()
    with pytest.raises(sqlite3.OperationalError, match="no such vfs"):
        sqlite3.connect("file:x?vfs=graft-doctor", uri=True)


def test_doctor_names_a_library_that_cannot_be_used(cli, monkeypatch):
    def fail(*_: object) -> None:
        raise UsageError("it cannot be called", next_step="use another")

    monkeypatch.setattr("graft_vfs.vfs.sqlite3_bridge._library_of", fail)
    found = checks(cli, code=1)
    assert found["sqlite3"]["level"] == "problem"
    assert found["sqlite3"]["next_step"] == "use another"
    assert found["apsw"]["level"] == "ok"


def test_doctor_names_a_library_that_reads_wrong_bytes(cli, monkeypatch):
    monkeypatch.setattr(check_local, "_ask_apsw", lambda _: "something else")
    found = checks(cli, code=1)
    assert "'something else'" in found["apsw"]["text"]


# The catalog and leftovers ----------------------------------------------------------------------


@pytest.mark.parametrize("end", ["missing", "empty"])
def test_doctor_reports_a_lost_catalog(pushed, end):
    directory = pushed.root / "a"
    for path in directory.glob("catalog.db*"):
        path.unlink()
    if end == "empty":
        (directory / "catalog.db").touch()
    for _ in range(2):  # The first run must not make it look sound to the second.
        text = pushed.run("doctor").stdout
        assert f"problem  catalog: {directory}/catalog.db is missing or empty, but " in text
        assert "has a volume" in text
        assert "sound" not in text.partition("catalog:")[2].partition("\n")[0]


def edit_catalog(cli, *statements: str) -> None:
    with closing(sqlite3.connect(cli.root / "a" / "catalog.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_doctor_names_a_tag_without_a_volume(pushed):
    volume = VolumeId.new().raw.hex()
    edit_catalog(pushed, f"INSERT INTO tags VALUES('lost', x'{volume}')")
    found = checks(pushed, code=1)
    assert found["catalog"]["level"] == "problem"
    assert "tag 'lost' names volume" in found["catalog"]["text"]


def test_doctor_names_an_index_that_does_not_match_its_table(pushed):
    # SQLite notices this in no other way than by its integrity check.
    edit_catalog(
        pushed,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = 'CREATE INDEX branches_by_volume ON branches(base)' "
        "WHERE name = 'branches_by_volume'",
    )
    found = checks(pushed, code=1)
    assert "branches_by_volume" in found["catalog"]["text"]


def test_doctor_lists_what_crashes_leave_and_nothing_else(pushed):
    data = pushed.root / "a"
    volume = pushed.json("info", "main")["volume"]
    assert checks(pushed)["leftovers"]["text"] == "none"
    lost, log = VolumeId.new(), LogId.new()
    (data / "volumes" / str(lost)).mkdir()
    (data / "volumes" / str(lost) / "0001.log").write_bytes(bytes(100_000))
    (data / "volumes" / volume / "0099.log").write_bytes(b"x")
    (data / "volumes" / volume / "import-12345678.tmp").write_bytes(b"x")
    (data / "cache" / str(log)).mkdir()
    (data / "cache" / "foreign").mkdir()
    result = pushed.run("doctor", "--json")
    assert result.exit_code == 0
    found = [row for row in json.loads(result.stdout) if row["name"] == "leftovers"]
    assert {row["level"] for row in found} == {"warning"}
    named = {Path(row["text"].split(" (")[0]).name: row["text"] for row in found}
    assert set(named) == {str(lost), "import-12345678.tmp", str(log), "foreign"}
    # Opening a volume removes a log file that no branch names, so there is nothing to list.
    assert not (data / "volumes" / volume / "0099.log").exists()
    assert "making was interrupted" in named[str(lost)]
    assert " (100.0 KiB) " in named[str(lost)] or " KiB) " in named[str(lost)]
    assert all(row["next_step"] for row in found)


def test_the_parent_log_of_a_fork_is_not_a_leftover(pushed):
    pushed.ok("fork", "main", "side")
    pushed.sql("side", "INSERT INTO t VALUES(-1, 'new')")
    pushed.ok("push", "side")
    parent = pushed.json("info", "main")["remote"]
    pushed.machine("b")
    pushed.ok("clone", "side")
    pushed.ok("hydrate", "side")
    assert (pushed.root / "b" / "cache" / parent).is_dir()
    assert checks(pushed)["leftovers"]["level"] == "ok"


def test_doctor_reports_failed_and_unsettled_syncs(pushed):
    volume = pushed.json("info", "main")["volume"]
    with closing(Catalog(pushed.root / "a" / "catalog.db")) as catalog:
        catalog.note_sync_error(VolumeId.parse(volume), UsageError("at http://u:secret@host/"))
    text = pushed.ok("doctor")
    assert f"warning  volume 'main' ({volume}): its last sync failed: at http://***@host/" in text


# The remote -------------------------------------------------------------------------------------


@pytest.fixture
def on_s3(cli, monkeypatch, ministack):
    """A machine whose remote is a bucket of a server."""
    for name, value in ministack.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "s3_compatible")
    monkeypatch.setenv("GRAFT_REMOTE_BUCKET", ministack.fresh_bucket())
    monkeypatch.setenv("GRAFT_REMOTE_ENDPOINT", ministack.url)
    return cli


def test_doctor_on_a_healthy_s3_remote(on_s3):
    found = checks(on_s3)
    assert "env" in found["credentials"]["text"]
    for name in ("credentials", "remote", "conditional writes", "clock"):
        assert found[name]["level"] == "ok"


@pytest.mark.parametrize(
    ("seconds", "level", "where"),
    [(-7200, "problem", "behind"), (300, "warning", "ahead of"), (20, "ok", "as")],
)
def test_doctor_compares_the_clock_with_the_servers(on_s3, monkeypatch, seconds, level, where):
    note = s3.S3Store._note_answer

    def note_later(store: s3.S3Store, parsed: dict[str, Any], **named: object) -> None:
        note(store, parsed, **named)
        assert store._answered is not None
        store._answered = store._answered[0] + seconds, store._answered[1]

    monkeypatch.setattr(s3.S3Store, "_note_answer", note_later)
    found = checks(on_s3, code=int(level == "problem"))
    assert found["clock"]["level"] == level
    assert where in found["clock"]["text"]


def test_doctor_does_not_report_an_unknown_clock(on_s3, monkeypatch):
    monkeypatch.setattr(s3, "parse_http_date", mock.Mock(side_effect=ValueError("no date")))
    assert "clock" not in checks(on_s3)


def test_doctor_reports_the_clock_even_if_the_server_refuses(on_s3, monkeypatch):
    monkeypatch.setenv("GRAFT_REMOTE_BUCKET", "there-is-no-such-bucket")
    found = checks(on_s3, code=1)
    assert found["remote"]["level"] == "problem"
    assert found["clock"]["level"] == "ok"


def test_doctor_without_credentials_reports_it_and_sends_nothing(on_s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    found = checks(on_s3, code=1)
    assert found["credentials"]["level"] == "problem"
    assert "AWS_ACCESS_KEY_ID" in found["credentials"]["next_step"]
    assert "remote" not in found
