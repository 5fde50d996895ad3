"""`graft log`: paragraphs, lines, graphs and counts, in any width and in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from graft_vfs import reports
from graft_vfs.cli import log as log_lines
from graft_vfs.history.graph import LogLine
from graft_vfs.ids import LogId
from graft_vfs.reports import Change, LogEntry, SchemaDiff, TableDiff


@pytest.fixture
def worked(pushed):
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')", "DELETE FROM t WHERE id < 10")
    return pushed


def test_local_commits_come_first_each_log_under_its_heading(worked):
    info = worked.json("info", "main")
    text = worked.ok("log", "main")
    assert text.startswith(
        f"Local branch {info['branch']}, not pushed\n\nlocal:3 (HEAD)  not pushed\n    Date:   "
    )
    author = worked.json("log", "main")[-1]["author"]
    assert f"\n\nRemote log {info['remote']}\n\n1 (BASE)\n    Author: {author}\n" in text
    assert worked.ok("log", "main", "-n", "1").count("Date:") == 1
    assert worked.ok("log", "main", "1").startswith("Remote log ")


def test_a_line_a_commit(worked):
    lines = worked.ok("log", "main", "--oneline").splitlines()
    assert [line.split("  ")[0] for line in lines] == ["local:3 (HEAD)", "local:2", "1 (BASE)"]
    assert lines[0].endswith(" ago, not pushed")
    assert "ago" in lines[2]


def test_a_graph_in_a_line_a_commit(worked):
    lines = worked.ok("log", "main", "--oneline", "--graph").splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "* local:3 (HEAD)",
        "* local:2",
        "* 1 (BASE)",
    ]


def test_counts_of_changed_rows_are_below_each_commit(worked):
    lines = worked.ok("log", "main", "--oneline", "--stat").splitlines()
    assert lines[1] == "    t: -11"
    assert lines[3] == "    t: +1"
    assert lines[5:] == ["    table t: added", "    t: +2000"]
    newest = worked.json("log", "main", "--stat", "-n", "1")[0]
    assert newest["tables"][0]["deleted"] == 11
    assert worked.json("log", "main", "-n", "1")[0]["tables"] is None


def test_json_has_what_to_type_for_each_commit(worked):
    found = worked.json("log", "main")
    assert [row["ref"] for row in found] == ["local:3", "local:2", "1"]
    for row in found:
        assert worked.json("show", "main", row["ref"])["lsn"] == row["lsn"]
    result = worked.run("log", "main", "--json", "--graph")
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_volume_without_commits_has_a_next_step(cli):
    cli.ok("new", "main")
    result = cli.run("log", "main")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "hint: 'main' has no commit yet; write to it" in result.stderr
    assert cli.json("log", "main") == []


def entry(**fields) -> LogEntry:
    facts = {
        "where": "remote",
        "lsn": 7,
        "time_ms": 0,
        "pages": 3,
        "page_count": 9,
        "author": "ann@laptop",
        "local_commits": 2,
        "stored_bytes": 800,
        "log": LogId.new(),
        "ref": "7",
    }
    return LogEntry(**{**facts, **fields})


@pytest.fixture
def _at_once(monkeypatch):
    monkeypatch.setattr(reports.time, "time_ns", lambda: 120 * 10**9)


@pytest.mark.usefixtures("_at_once")
def test_a_paragraph_has_all_of_a_commit():
    line = LogLine(
        "* ",
        entry(
            message="add prices\n\nin EUR",
            tables=(TableDiff("t", 2, 0, 1, None), TableDiff("v", None, None, None, "no key")),
            schema=(SchemaDiff("index", "i", Change.ADDED),),
        ),
        ("HEAD", "v1.0"),
    )
    assert [*log_lines.long_lines([line], 80, graph=True)] == [
        "* 7 (HEAD, v1.0)",
        "      Author: ann@laptop",
        "      Date:   1970-01-01T00:00:00.000Z (2 minutes ago)",
        "      Pages:  3 of 9 pages, 800 B, 2 commits of the author",
        "",
        "          add prices",
        "",
        "          in EUR",
        "",
        "      index i: added",
        "      t: +2 ~1",
        "      v: not compared: no key",
    ]


@pytest.mark.usefixtures("_at_once")
def test_a_line_has_the_message_and_marks_lead_to_the_next():
    found = [
        LogLine("* ", entry(message="add prices\nmore", tables=()), ("HEAD",)),
        LogLine("| * ", entry(ref="9"), is_beside=True),
        LogLine("| * ", entry(ref="74ghS1Lu:4"), is_beside=True),
        LogLine("| : ", left_out=12),
        LogLine("|/"),
        LogLine("* ", entry(ref="6")),
    ]
    assert [*log_lines.short_lines(found, 80)] == [
        "* 7 (HEAD)  add prices, 2 minutes ago, ann@laptop",
        "|     no row of a table",
        "| * 9  3 pages, 2 minutes ago, not pulled",
        "| * 74ghS1Lu:4  3 pages, 2 minutes ago, not in this fork",
        "| : 12 commits more",
        "|/",
        "* 6  3 pages, 2 minutes ago, ann@laptop",
    ]


def test_a_message_is_wrapped_and_whole():
    message = "one two three " * 30
    found = [LogLine("* ", entry(message=message))]
    lines = [*log_lines.long_lines(found, 60, graph=True)]
    assert " ".join(" ".join(lines[5:]).split()) == message.strip()
    assert f"          {message}".rstrip() in [*log_lines.long_lines(found, None, graph=True)]


def test_lines_fit_the_screen():
    found = [LogLine("* ", entry(message="x" * 300, author="a" * 200))]
    for width in (60, 80, 200):
        for shown in (
            log_lines.short_lines(found, width),
            log_lines.long_lines(found, width, graph=True),
        ):
            assert max(map(len, shown)) == width


def test_a_reader_that_has_seen_enough_is_no_error(worked):
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "graft_vfs.cli", "log", "main", "--graph"],
        stdout=write_end,
        stderr=subprocess.PIPE,
    )
    os.close(write_end)
    os.close(read_end)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 141
