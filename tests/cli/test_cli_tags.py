"""Any text is a tag, and none of it reaches the terminal or the file system unescaped."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from graft_vfs.cli.output import printable

TAGS = [
    "two words",
    "a/b/c.db",
    "..",
    "../../etc/passwd",
    "/absolute/path.db",
    "ünïcödé 数据库 🗄",
    "*",
    "~",
    "%2e%2e",
    "-- -dash",
    "quote'\"\\",
    "x" * 512,
    "数" * 512,
]


@pytest.mark.parametrize("tag", TAGS, ids=[ascii(tag)[:20] for tag in TAGS])
def test_any_text_is_a_tag_through_push_and_clone(cli, plain, tag):
    cli.with_remote()
    cli.machine("a")
    cli.ok("import", "--", str(plain), tag)
    cli.ok("push", "--", tag)
    assert [row["ref"] for row in cli.json("remote", "ls")] == [tag]
    cli.machine("b")
    cli.ok("clone", "--", tag)
    assert [row["tag"] for row in cli.json("tags")] == [tag]
    assert cli.ok("status", "--", tag).startswith("On tag ")
    assert cli.sql(tag, "SELECT count(*) FROM t") == [(2000,)]
    cli.ok("rm", "--", tag)
    assert sorted(path.name for path in cli.root.iterdir()) == sorted(
        ("a", "b", "home", "plain.db", "remote", "work")
    )


@pytest.mark.parametrize("command", ["new", "status", "push", "rm"])
@pytest.mark.parametrize("tag", ["", "x" * 1000, "\udcff", "nul\0"], ids=ascii)
def test_an_invalid_tag_is_refused(cli, command, tag):
    error = cli.fails(2, command, tag)
    assert "is not a tag" in error
    assert len(error) < 300
    assert not (cli.root / "home/.local/share/graft").exists()


def test_bytes_that_are_not_text_are_refused_by_a_real_process(cli):
    process = subprocess.run(
        [sys.executable, "-m", "graft_vfs.cli", "new", b"\xff\xfe"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr.startswith(b"error: ")
    assert b"Traceback" not in process.stderr


def test_an_ascii_terminal_sees_escapes(cli, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    cli.ok("new", "数")
    process = subprocess.run(
        [sys.executable, "-m", "graft_vfs.cli", "tags"], capture_output=True, timeout=60, check=True
    )
    assert b"\\u6570" in process.stdout


def test_control_characters_are_not_sent_to_the_terminal(cli):
    cli.ok("new", "red\x1b[31m")
    assert "\x1b" not in cli.ok("tags")
    assert "red\\x1b[31m" in cli.ok("tags")
    assert cli.json("tags")[0]["tag"] == "red\x1b[31m"
    assert printable("a\tb\nc\r\x7f", io.TextIOWrapper(io.BytesIO())) == "a\tb\nc\\x0d\\x7f"
