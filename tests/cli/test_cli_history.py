"""`graft log`, `show`, `diff` and `status`: what happened, when, and how much it was."""

from __future__ import annotations

import datetime as dt

import pytest

from graft_vfs import reports


def test_log_has_time_size_pages_and_author(pushed):
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')")
    local, remote = pushed.json("log", "main")
    assert (local["author"], local["stored_bytes"]) == ("", local["pages"] * 4096)
    assert "@" in remote["author"]
    assert 0 < remote["stored_bytes"] < remote["pages"] * 4096
    first, second = pushed.ok("log", "main", "--oneline").splitlines()
    assert first.endswith("not pushed")
    assert second.endswith(remote["author"])
    assert reports.size_text(remote["stored_bytes"]) in pushed.ok("log", "main")


def test_show_describes_a_remote_commit(pushed):
    info = pushed.json("info", "main")
    found = pushed.json("show", "main")
    assert (found["where"], found["log"], found["lsn"]) == ("remote", info["remote"], 1)
    assert (found["parent"], found["local_commits"]) == (None, 1)
    assert found["pages"] == found["page_count"] == info["pages"]
    assert found["segment"] is None
    assert found["frames"] == -(-found["pages"] // 16)
    (stored,) = [row["stored_bytes"] for row in pushed.json("log", "main")]
    assert found["stored_bytes"] == stored
    facts = pushed.json("dump-commit", f"{info['remote']}:1")
    assert (found["hash"], found["author"]) == (facts["hash"], facts["author"])
    assert found["stored_bytes"] > facts["body_bytes"]
    text = pushed.ok("show", "main", "1")
    assert text.startswith(f"Remote:   {info['remote']}:1\n")
    assert pushed.ok("show", "main", f"{info['remote']}:1").split()[:2] == text.split()[:2]


def test_show_describes_a_local_commit(pushed):
    branch = pushed.json("info", "main")["branch"]
    remote = pushed.json("info", "main")["remote"]
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')", "INSERT INTO t VALUES(-2, 'newer')")
    found = pushed.json("show", "main")
    assert (found["where"], found["log"]) == ("local", branch)
    assert found["parent"] == f"{branch}:{found['lsn'] - 1}"
    assert (found["hash"], found["frames"]) == (None, 0)
    first = pushed.json("show", "main", f"local:{found['lsn'] - 1}")
    assert first["parent"] == f"{remote}:1"
    assert "not pushed" in pushed.ok("show", "main")
    pushed.ok("push", "main")
    assert pushed.json("show", "main")["parent"] == f"{remote}:1"
    assert pushed.json("show", "main")["local_commits"] == 2


def test_show_of_a_fork_names_where_it_was_forked(pushed):
    log = pushed.json("info", "main")["remote"]
    pushed.ok("fork", "main", "side")
    pushed.sql("side", "INSERT INTO t VALUES(-1, 'new')")
    pushed.ok("push", "side")
    assert pushed.json("show", "side")["parent"] == f"{log}:1"


def test_show_of_an_absent_commit(pushed):
    assert "has no commit 9" in pushed.fails(2, "show", "main", "9")
    assert "has no commit 7" in pushed.fails(2, "show", "main", "local:7")
    assert "names no commit" in pushed.fails(2, "show", "main", "newest")
    pushed.ok("new", "empty")
    assert "no commit yet" in pushed.fails(2, "show", "empty")


def test_diff_counts_tables_and_rows(pushed):
    assert "nothing changed" in pushed.ok("diff", "main")
    pushed.sql(
        "main",
        "UPDATE t SET v = 'new' WHERE id = 5",
        "DELETE FROM t WHERE id = 1000",
        "CREATE TABLE fresh(x)",
        "INSERT INTO fresh VALUES(1), (2)",
    )
    found = pushed.json("diff", "main")
    assert found["schema"] == [{"kind": "table", "name": "fresh", "change": "added"}]
    assert [tuple(row.values()) for row in found["tables"]] == [
        ("fresh", 2, 0, 0, None),
        ("t", 0, 1, 1, None),
    ]
    assert found["by_pages"] is True
    assert 0 < found["pages_changed"] < found["page_count"] / 4
    pushed.ok("push", "main")
    text = pushed.ok("diff", "main", "1", "2")
    assert "  table fresh: added\n" in text
    assert "  rows of t: 0 inserted, 1 deleted, 1 updated\n" in text
    assert pushed.json("diff", "main", "2", "1")["schema"][0]["change"] == "dropped"
    assert pushed.json("diff", "main", "1")["newer"] == "head"
    assert "has no commit 3" in pushed.fails(2, "diff", "main", "1", "3")
    assert "names no commit" in pushed.fails(2, "diff", "main", "yesterday")


def test_a_commit_can_be_named_in_every_documented_way(pushed):
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')", "INSERT INTO t VALUES(-2, 'newer')")
    log, newest = pushed.json("info", "main")["remote"], pushed.json("show", "main")["lsn"]
    for ref, where, lsn in (
        ("HEAD", "local", newest), ("head~", "local", newest - 1), ("HEAD~2", "remote", 1),
        ("BASE", "remote", 1), (f"local:{newest}^", "local", newest - 1), ("1", "remote", 1),
        (f"{log}:1", "remote", 1), ("0 seconds ago", "remote", 1),
    ):  # fmt: skip
        found = pushed.json("show", "main", ref)
        assert (found["where"], found["lsn"]) == (where, lsn)
    rows = {"table": "t", "deleted": 0, "updated": 0, "note": None}
    for refs, inserted in (
        (("HEAD~1",), 1), (("BASE..",), 2), (("HEAD~2..HEAD~1",), 1), (("1", "HEAD~1"), 1),
        (("0 seconds ago..local:" + str(newest),), 2),
    ):  # fmt: skip
        assert pushed.json("diff", "main", *refs)["tables"] == [{**rows, "inserted": inserted}]
    told = pushed.fails(2, "show", "main", "HEAD~9")
    assert "past the first commit" in told
    assert "hint: use HEAD~2, which is the first" in told
    assert "is the local commit" in pushed.fails(2, "checkout", "main", "HEAD")
    assert "names two commits" in pushed.fails(2, "show", "main", "1..HEAD")
    assert pushed.json("checkout", "main", "HEAD~2")["lsn"] == 1
    assert pushed.json("show", "main")["where"] == "remote"


@pytest.mark.parametrize("commits", [("1",), ("2", "1"), ("1", "2"), ()])
def test_diff_of_a_schema_that_cannot_be_parsed_is_an_error_with_a_next_step(pushed, commits):
    pushed.sql(
        "main",
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_schema SET sql = 'nonsense' WHERE name = 't'",
    )
    if commits != ("1",):
        pushed.ok("push", "main")
    if not commits:
        pushed.sql("main", "PRAGMA writable_schema=ON", "CREATE TABLE local(a)")
    told = pushed.fails(8, "diff", "main", *commits)
    assert "malformed database schema (t)" in told
    assert "PRAGMA writable_schema" in told


def test_status_shows_since_when_it_is_behind(pushed):
    pushed.machine("b")
    pushed.ok("clone", "main")
    assert pushed.json("status", "main")["behind_since_ms"] is None
    assert "behind since" not in pushed.ok("status", "main")
    pushed.machine("a")
    for _ in range(2):
        pushed.sql("main", "INSERT INTO t VALUES(NULL, 'new')")
        pushed.ok("push", "main")
    second = pushed.json("show", "main", "2")["time_ms"]
    pushed.machine("b")
    pushed.ok("fetch", "main")
    assert pushed.json("status", "main")["behind_since_ms"] == second
    assert f"Behind since {reports.time_text(second)} (" in pushed.ok("status", "main")


def test_status_has_the_last_sync_and_its_error(pushed, monkeypatch):
    pushed.ok("new", "fresh")
    assert "\nLast sync: never." in pushed.ok("status", "fresh")
    assert " ago).\n" in pushed.ok("status", "main")
    (pushed.root / "file").write_text("")
    with monkeypatch.context() as patch:
        patch.setenv("GRAFT_REMOTE_ROOT", str(pushed.root / "nothing" / "here"))
        pushed.run("fetch", "main")
    with monkeypatch.context() as patch:
        patch.setattr("graft_vfs.engine.graft.fetch_log", _fail)
        pushed.fails(7, "fetch", "main")
    assert "The last sync failed: it is away" in pushed.ok("status", "main")


def test_only_a_sync_counts_as_the_last_sync(pushed):
    pushed.ok("fork", "main", "fork")
    assert "\nLast sync: never." in pushed.ok("status", "fork")
    assert pushed.json("info", "fork")["synced_ms"] is None
    pushed.ok("fork", "main", "past")
    pushed.ok("push", "past")
    log = pushed.json("info", "past")["remote"]
    pushed.ok("checkout", "past", f"{log}:1")
    assert "\nLast sync: not recorded." in pushed.ok("status", "past")
    pushed.ok("clone", "main", "copy")
    assert " ago).\n" in pushed.ok("status", "copy")


def _fail(*_: object, **__: object) -> None:
    from graft_vfs.errors import StoreUnavailableError

    raise StoreUnavailableError("it is away")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds ago"),
        (1, "1 second ago"),
        (90, "1 minute ago"),
        (7200, "2 hours ago"),
        (200_000, "2 days ago"),
        (-50, "0 seconds ago"),
    ],
)
def test_ages_are_in_the_largest_unit(monkeypatch, seconds, text):
    now = dt.datetime(2026, 1, 2, tzinfo=dt.UTC).timestamp()
    monkeypatch.setattr(reports.time, "time_ns", lambda: int(now * 1e9))
    assert reports.age_text(int((now - seconds) * 1000)) == text
