"""Commands that lead out of a loss, as they are typed."""

from __future__ import annotations

import json
import os
import shlex

from graft_vfs.sync import push


def lose_catalog(cli) -> None:
    for path in (cli.root / "a").glob("catalog.db*"):
        path.unlink()


def test_adopt_lists_and_adopts_lost_volumes(cli):
    cli.machine("a")
    cli.sql("main", "CREATE TABLE t(v)", "INSERT INTO t VALUES('kept')")
    cli.sql("it's", "CREATE TABLE t(v)")
    volumes = {row["tag"]: row["volume"] for row in cli.json("tags")}
    assert cli.ok("adopt") == "The catalog knows every volume as it is.\n"
    lose_catalog(cli)
    assert "graft adopt" in cli.fails(8, "tags")
    assert "graft adopt" in cli.fails(8, "status", "main")
    lost = {row["volume"]: row["tags"] for row in cli.json("adopt")}
    assert lost == {volume: [tag] for tag, volume in volumes.items()}
    found = json.loads(cli.run("doctor", "--json").stdout)
    steps = [row["next_step"] for row in found if row["level"] == "problem"]
    assert any(f"graft adopt {volumes['main']}" in step for step in steps)
    told = cli.ok("adopt", volumes["main"])
    assert told.startswith(f"Adopted volume {volumes['main'][:8]}")
    assert cli.sql("main", "SELECT v FROM t") == [("kept",)]
    assert cli.json("adopt", volumes["it's"], "other")["tags"] == ["other"]
    assert cli.ok("adopt") == "The catalog knows every volume as it is.\n"
    assert cli.run("doctor").exit_code == 0


def test_the_list_of_lost_volumes_ends_with_the_next_command(cli):
    cli.machine("a")
    cli.sql("main", "CREATE TABLE t(v)")
    volume = cli.json("tags")[0]["volume"]
    lose_catalog(cli)
    step = cli.ok("adopt").splitlines()[-1]
    assert step == f"  (use `graft adopt {volume}` to adopt the first)"
    cli.ok(*step.split("`")[1].split()[1:])
    fork = cli.json("fork", "main", "fork")["volume"]
    lose_catalog(cli)
    cli.ok("adopt", volume)
    assert f"  (use `graft adopt {fork}` to adopt the first)" in cli.ok("adopt")


def test_an_adopted_volume_reports_no_sync(pushed):
    volume = pushed.json("tags")[0]["volume"]
    lose_catalog(pushed)
    pushed.ok("adopt", volume)
    assert pushed.json("status", "main")["last_sync_ms"] is None
    assert "\nLast sync: not recorded." in pushed.ok("status", "main")
    assert "Last sync:      not recorded\n" in pushed.ok("info", "main")


def test_adopt_takes_no_tag_from_another_volume(cli):
    cli.machine("a")
    cli.sql("main", "CREATE TABLE t(v)")
    volume = cli.json("tags")[0]["volume"]
    lose_catalog(cli)
    cli.ok("adopt", volume)
    cli.sql("other", "CREATE TABLE t(v)")
    assert "graft switch" in cli.fails(2, "adopt", volume, "other")
    assert "no volume id known here" in cli.fails(2, "adopt", "main")
    assert "not a volume id" in cli.fails(2, "adopt", "no id")


def test_a_lost_volume_is_adopted_even_if_its_tag_was_reused(cli):
    cli.machine("a")
    cli.sql("main", "CREATE TABLE t(v)", "INSERT INTO t VALUES('lost')")
    lost = cli.json("tags")[0]["volume"]
    cli.sql("it's", "CREATE TABLE t(v)")
    present = next(row["volume"] for row in cli.json("tags") if row["tag"] == "it's")
    lose_catalog(cli)
    cli.ok("adopt", present)
    error = cli.fails(2, "adopt", lost, "it's")
    assert f"names volume {present}\nhint: adopt the volume under another tag; " in error
    step = shlex.split(error.split("`")[1])
    assert step[1:] == ["switch", "it's", lost]
    assert [row["volume"] for row in cli.json("adopt")] == [lost], "it is still to be adopted"
    cli.ok("adopt", lost, "beside")
    assert cli.sql("beside", "SELECT v FROM t") == [("lost",)]
    cli.ok(*step[1:])
    assert cli.sql("it's", "SELECT v FROM t") == [("lost",)]


def test_a_log_without_a_ref_is_listed_and_named(cli, monkeypatch):
    cli.with_remote()
    logs = {}
    for machine in ("a", "b"):
        cli.machine(machine)
        cli.sql("main", "CREATE TABLE t(v)", f"INSERT INTO t VALUES('{machine}')")
        logs[machine] = json.loads(cli.ok("status", "main", "--json"))["remote"]
        if machine == "a":
            cli.ok("push", "main")
    # As an earlier version pushed it: the commit, and no ref.
    with monkeypatch.context() as patch:
        patch.setattr(push, "reserve", lambda *_: None)
        cli.ok("push", "main")
    volume = cli.json("info", "main")["volume"]
    note = cli.root / "b" / "volumes" / volume / "no-ref"
    note.write_text(f"ref 'main' names log {logs['a']} already")
    advice = f"use `graft remote name REF {logs['b']}` to give it one"
    assert cli.json("status", "main")["advice"] == advice
    assert f"\n  ({advice})\n" in cli.ok("status", "main")
    assert "Warning: ref 'main' names log" in cli.ok("status", "main")
    assert cli.json("remote", "ls") == [{"ref": "main", "log": logs["a"], "names": []}]
    found = {row["log"]: row for row in cli.json("remote", "ls", "--logs")}
    assert found[logs["a"]]["refs"] == ["main"]
    assert found[logs["b"]] == {"log": logs["b"], "newest_lsn": 1, "refs": []}
    assert "no ref" in cli.ok("remote", "ls", "--logs")
    assert "names log" in cli.fails(2, "remote", "name", "main", logs["b"])
    assert "has no log" in cli.fails(2, "remote", "name", "other", "74ggc1B6R4-2kkvcy9fi4CHJ")
    for _ in range(2):
        assert cli.ok("remote", "name", "other", logs["b"]) == f"other  {logs['b']}\n"
        assert cli.json("status", "main")["warning"] is None
    cli.machine("c")
    cli.ok("clone", "other")
    assert cli.sql("other", "SELECT v FROM t") == [("b",)]


def test_foreign_objects_on_the_remote_are_one_warning(cli):
    cli.with_remote()
    cli.machine("a")
    cli.sql("main", "CREATE TABLE t(v)")
    cli.run("push", "main")
    log = cli.json("status", "main")["remote"]
    for folder in ("refs", "logs", f"logs/{log}/commits"):
        for name in (".DS_Store", "README", ".nfs0001"):
            (cli.root / "remote" / folder / name).write_bytes(b"?")
    result = cli.run("remote", "ls")
    assert (result.exit_code, result.stdout) == (0, f"main  {log}\n")
    assert result.stderr.count("warning: ") == 1
    cli.machine("b")
    assert cli.run("clone", "main").exit_code == 0
    assert cli.sql("main", "SELECT * FROM t") == []


def test_an_unmounted_remote_is_named_and_a_new_one_is_created_on_demand(cli):
    cli.with_remote()
    cli.machine("a")
    cli.sql("main", "CREATE TABLE t(v)")
    cli.run("push", "main")
    (cli.root / "remote").rename(cli.root / "away")
    cli.sql("main", "INSERT INTO t VALUES('local')")
    assert "graft remote init" in cli.fails(7, "push", "main")
    assert not (cli.root / "remote").exists()
    result = cli.run("doctor")
    assert result.exit_code == 1
    assert "not mounted" in result.stdout
    assert not (cli.root / "remote").exists()
    assert cli.ok("remote", "init").endswith("is a remote.\n")
    assert "has nothing of it" in cli.fails(5, "push", "main")
    result = cli.run("doctor")
    assert result.exit_code == 1
    assert "problem  history: this machine knows LSN 1" in result.stdout
    assert cli.run("fsck", "main").exit_code == 8
    cli.ok("fsck", "main", "--repair")
    assert "history: the remote has the newest known commit of each log (1)" in cli.ok("doctor")
    cli.ok("push", "main")


def test_fsck_shows_a_plan_and_repairs_on_demand(cli):
    cli.with_remote()
    cli.machine("a")
    cli.sql("main", "CREATE TABLE t(v)")
    cli.run("push", "main")
    assert "sound" in cli.ok("fsck")
    log = cli.json("status", "main")["remote"]
    (commit,) = (cli.root / "remote/logs" / log / "commits").iterdir()
    kept = commit.read_bytes()
    commit.unlink()
    result = cli.run("fsck", "main")
    assert result.exit_code == 8
    assert "--repair puts it back from cached pages" in result.stdout
    assert not commit.exists()
    found = json.loads(cli.run("fsck", "main", "--json").stdout)
    assert found["is_sound"] is False
    assert found["logs"][0]["findings"][0]["repair"] == "puts it back from cached pages"
    assert "repaired" in cli.ok("fsck", "main", "--repair")
    assert commit.read_bytes() == kept
    assert cli.json("fsck", "--deep", "--history")["is_sound"] is True


def test_remote_init_reports_a_server_that_does_not_answer(cli, monkeypatch):
    cli.machine("a")
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "s3_compatible")
    monkeypatch.setenv("GRAFT_REMOTE_BUCKET", "bucket")
    monkeypatch.setenv("GRAFT_REMOTE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("GRAFT_REMOTE_TOTAL_TIMEOUT", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert "cannot be reached" in cli.fails(7, "remote", "init")


def test_lost_volumes_of_one_tag_are_listed_most_recent_first(pushed):
    former = pushed.json("tags")[0]["volume"]
    pushed.ok("checkout", "main", "1")
    current = pushed.json("tags")[0]["volume"]
    for volume, written in ((former, 1_000_000_000), (current, 2_000_000_000)):
        (log,) = (pushed.root / "a" / "volumes" / volume).glob("*.log")
        os.utime(log, (written, written))
    lose_catalog(pushed)
    lost = pushed.json("adopt")
    assert [row["volume"] for row in lost] == [current, former]
    assert [row["written_ms"] for row in lost] == [2_000_000_000_000, 1_000_000_000_000]
    assert [row["tags"] for row in lost] == [["main"], ["main"]]
    assert [row["base_lsn"] for row in lost] == [1, 1]
    first, second, _ = pushed.ok("adopt").splitlines()
    assert first.startswith(current)
    assert "(was main, over LSN 1, written 2033-05-1" in first
    assert "written 2001-09-0" in second
    pushed.ok("adopt", current)
    done = pushed.run("status", "main")
    assert done.exit_code == 8
    assert f"hint: `graft adopt {former}` adopts it; or put back" in done.stderr
