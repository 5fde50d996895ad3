"""`graft demo` end to end, with either sample."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from graft_vfs.cli.demo import run_demo
from graft_vfs.cli.sample_data import build_unicode_sample, find_sample


@pytest.fixture
def without_pyproj(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


@pytest.fixture
def temporary(cli, monkeypatch):
    """A directory for temporary files of its own, to see what stays."""
    path = cli.root / "tmp"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def test_the_demo_needs_no_configuration_and_leaves_nothing(cli, temporary):
    # A configuration that cannot be loaded proves that none is read.
    Path("graft.toml").write_text("nonsense = 1")
    text = cli.ok("demo")
    for part in ("Imported ", "Pushed ", "1 request,", "Cloned to volume", "graft push main"):
        assert part in text
    assert not list(temporary.iterdir())
    assert not (cli.root / "home/.local").exists()


def test_the_demo_transfers_a_fraction_of_the_database(cli, temporary):
    done = cli.json("demo")
    assert done["second_push"]["requests"] == 1
    assert done["second_push"]["bytes_sent"] < 10_000
    assert 0 < done["pages_here"] < done["pages_total"] / 4
    assert done["clone"]["bytes_received"] + done["query"]["bytes_received"] < (
        done["database_bytes"] / 4
    )
    assert len(done["log"]) == 2


def test_the_demo_builds_its_database_if_no_package_has_one(tmp_path, without_pyproj):
    lines = []
    done = run_demo(tmp_path / "demo", lines.append)
    assert "Unicode" in done.sample
    assert done.answer == "U+03B1"
    assert done.database_bytes > 3_000_000
    assert 0 < done.pages_here < done.pages_total / 4
    assert any("machine a" in line.lower() for line in lines)


def test_the_unicode_sample_is_a_valid_database_of_real_rows(tmp_path):
    sample = build_unicode_sample(tmp_path / "unicode.db")
    with closing(sqlite3.connect(sample.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM characters").fetchone()[0] > 30_000
        assert connection.execute(sample.query).fetchone() == ("U+03B1",)


def test_the_sample_that_is_found_answers_its_query(tmp_path):
    sample = find_sample(tmp_path)
    with closing(sqlite3.connect(f"file:{sample.path}?mode=ro", uri=True)) as connection:
        assert connection.execute(sample.query).fetchone()[0]


def test_keep_keeps_the_temporary_directory(cli, temporary):
    text = cli.ok("demo", "--keep")
    (kept,) = temporary.iterdir()
    assert str(kept) in text
    assert (kept / "a" / "catalog.db").is_file()


def test_a_chosen_directory_is_kept_and_the_printed_commands_work(cli, monkeypatch):
    chosen = cli.root / "chosen"
    assert str(chosen) in cli.ok("demo", "--directory", str(chosen))
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "fs")
    monkeypatch.setenv("GRAFT_REMOTE_ROOT", str(chosen / "remote"))
    monkeypatch.setenv("GRAFT_DATA_DIR", str(chosen / "b"))
    assert "is up to date" in cli.ok("status", "main")
    assert cli.sql("main", "SELECT who FROM visits") == [("machine A",)]


def test_a_directory_with_something_in_it_is_refused(cli):
    (cli.root / "full").mkdir()
    (cli.root / "full" / "file").write_text("mine")
    cli.fails(2, "demo", "--directory", str(cli.root / "full"))
    assert [path.name for path in (cli.root / "full").iterdir()] == ["file"]


def test_the_demo_in_a_real_process(cli, temporary):
    process = subprocess.run(
        [sys.executable, "-W", "error", "-m", "graft_vfs.cli", "demo", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads(process.stdout)["pages"] > 100
