"""Every command once, with its effect, as text and as JSON."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import click
import pytest

import graft_vfs
from graft_vfs.cli import main
from graft_vfs.errors import StoreUnavailableError
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.plain import writing
from graft_vfs.store.directory import DirectoryStore


def count_rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])


def all_commands(group: click.Group = main, path: tuple[str, ...] = ()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))


@pytest.mark.parametrize("path", [(), *all_commands()], ids=" ".join)
def test_help_of_every_command_has_an_example(cli, path):
    text = cli.ok(*path, "--help")
    assert "Example" in text
    assert " ".join(("graft", *path[:1])) in text.split("Example")[1]


def test_the_commands_are_those_of_the_design():
    assert {" ".join(path) for path in all_commands()} == {
        *(
            "adopt",
            "audit",
            "bisect",
            "branch",
            "branch rm",
            "branches",
            "checkout",
            "clone",
            "completion",
            "config",
            "demo",
            "diff",
            "doctor",
        ),
        *(
            "dump-commit",
            "dump-header",
            "export",
            "fetch",
            "fork",
            "fsck",
            "hydrate",
            "import",
            "info",
        ),
        *(
            "init",
            "log",
            "maintain",
            "new",
            "pull",
            "push",
            "rebase",
            "remote",
            "remote add",
            "remote init",
            "remote ls",
            "remote move",
            "remote name",
            "remote set-url",
            "remote show",
            "restore",
            "revert",
            "rm",
            "shell",
            "show",
        ),
        *("snapshot", "status", "switch", "tag", "tags", "volumes"),
        *("du", "gc", "help", "sync", "version"),
        *("expire", "retention"),
    }


@pytest.mark.parametrize("path", list(all_commands()), ids=" ".join)
def test_every_command_that_reports_takes_json(path):
    command = main
    for name in path:
        command = command.get_command(click.Context(command), name)
    if not isinstance(command, click.Group) and path[0] not in ("shell", "completion", "help"):
        assert "--json" in {option for item in command.params for option in item.opts}


def test_without_a_command_help_is_shown(cli):
    assert "Start a database:" in cli.ok()
    assert "ls" in cli.ok("remote")


def test_version_is_that_of_the_engine(cli):
    assert cli.ok("--version") == f"{graft_vfs.Graft.versions()}\n"
    assert not (cli.root / "home" / ".local").exists()


def test_without_any_configuration_volumes_are_local(cli):
    assert "Created volume" in cli.ok("new", "main")
    cli.sql("main", "CREATE TABLE t(x)")
    assert (cli.root / "home/.local/share/graft/catalog.db").is_file()
    assert "no remote is configured" in cli.fails(2, "push", "main")


def test_new_makes_an_empty_volume(cli):
    made = cli.json("new", "main")
    assert made["tag"] == "main"
    VolumeId.parse(made["volume"])
    assert cli.json("info", "main")["pages"] == 0


def test_init_is_an_alias_of_new(cli):
    made = cli.json("init", "main")
    assert cli.json("tags")[0]["volume"] == made["volume"]
    assert "exists already" in cli.fails(2, "init", "main")
    assert cli.json("init", "main", "--force")["volume"] != made["volume"]


def test_new_refuses_a_tag_that_exists_and_force_keeps_the_old_volume(cli):
    first = cli.json("new", "main")["volume"]
    assert "exists already" in cli.fails(2, "new", "main")
    second = cli.json("new", "main", "--force")["volume"]
    assert first != second
    assert [row["volume"] for row in cli.json("volumes")] == sorted((first, second))


def test_an_empty_list_prints_a_hint_on_standard_error(cli):
    cli.with_remote()
    cli.machine("a")
    for arguments in (["tags"], ["volumes"], ["remote", "ls"], ["remote", "ls", "--logs"]):
        result = cli.run(*arguments)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.startswith("hint: ")
        assert "`graft " in result.stderr
        assert cli.json(*arguments) == []
    cli.ok("new", "it's")
    result = cli.run("log", "it's")
    assert (result.exit_code, result.stdout) == (0, "")
    assert """`graft shell 'it'"'"'s'`""" in result.stderr


def test_adopt_does_not_ignore_a_base_without_a_volume(cli):
    assert "needs VOLUME" in cli.fails(2, "adopt", "--base", "1")


def test_a_file_that_is_not_a_database_gets_no_integrity_check_hint(cli, tmp_path):
    (tmp_path / "notes.txt").write_text("no database, although longer than a header\n" * 100)
    text = cli.fails(8, "import", str(tmp_path / "notes.txt"), "main")
    assert "hint: check the path; an encrypted database has to be decrypted first" in text


def test_import_and_export_give_the_same_rows(cli, plain):
    assert cli.ok("import", str(plain), "main").startswith(f"Imported {plain}: ")
    target = cli.root / "copy.db"
    done = cli.json("export", "main", str(target))
    assert done["path"] == str(target)
    assert done["bytes"] == done["pages"] * done["page_size"] == target.stat().st_size
    assert count_rows(target) == 2000


def test_export_never_replaces_a_file(cli, plain):
    cli.ok("import", str(plain), "main")
    before = plain.read_bytes()
    assert "exists already" in cli.fails(2, "export", "main", str(plain))
    assert plain.read_bytes() == before


def test_import_into_a_volume_with_commits_is_refused(cli, plain):
    cli.ok("import", str(plain), "main")
    cli.fails(2, "import", str(plain), "main")
    assert cli.sql("main", "SELECT count(*) FROM t") == [(2000,)]


def test_a_new_version_of_a_file_is_imported_over_the_old(cli, plain):
    assert "there is no tag 'main'" in cli.fails(2, "import", "--update", str(plain), "main")
    assert cli.json("tags") == []
    cli.ok("import", str(plain), "main")
    refused = cli.fails(2, "import", str(plain), "main")
    assert f"`graft import --update {plain} main`" in refused
    nothing = cli.json("import", "--update", str(plain), "main")
    assert (nothing["differ"], nothing["lsn"]) == (0, None)
    text = cli.ok("import", "--update", str(plain), "main")
    assert text == f"Nothing to import: the volume has the content of {plain} already.\n"
    with closing(sqlite3.connect(plain)) as connection, connection:
        connection.execute("DELETE FROM t WHERE rowid = 1000")
    text = cli.ok("import", "--update", str(plain), "main")
    assert text.startswith(f"Imported {plain} as local:2: 2 of ")
    assert cli.sql("main", "SELECT count(*) FROM t") == [(1999,)]


def test_an_import_takes_no_second_file_for_a_tag(cli, plain):
    other = plain.with_name("other.db")
    other.write_bytes(plain.read_bytes())
    message = cli.fails(2, "import", str(plain), str(other))
    assert f"{other} is a file" in message
    assert f"graft import {other} other" in message
    assert cli.json("tags") == []
    cli.ok("import", str(other), str(other))  # A tag may be the file's own name.


def test_a_failed_import_leaves_no_tag(cli):
    foreign = cli.root / "foreign.txt"
    foreign.write_text("not a database at all, but long enough to be read as one" * 10)
    cli.fails(8, "import", str(foreign), "main")
    assert cli.json("tags") == []
    cli.fails(2, "import", str(cli.root / "absent.db"), "main")
    assert cli.json("tags") == []


def test_a_failed_import_keeps_an_existing_tag(cli):
    cli.ok("new", "main")
    cli.fails(2, "import", str(cli.root / "absent.db"), "main")
    assert [row["tag"] for row in cli.json("tags")] == ["main"]


def test_tags_and_volumes(cli):
    made = cli.json("new", "main")
    assert cli.json("tags") == [{"tag": "main", "volume": made["volume"], "current": False}]
    (row,) = cli.json("volumes")
    assert (row["tags"], row["local_lsn"], row["base_lsn"]) == (["main"], 0, 0)
    assert cli.ok("tags") == f"  main  {made['volume'][:8]}\n"
    assert "(main)" in cli.ok("volumes")


def test_rm_keeps_the_volume_and_switch_gives_it_a_tag_again(cli):
    volume = cli.json("new", "main")["volume"]
    cli.sql("main", "CREATE TABLE t(x)", "INSERT INTO t VALUES(7)")
    assert cli.ok("rm", "main") == f"Removed tag main; volume {volume[:8]} stays.\n"
    assert cli.json("tags") == []
    cli.fails(2, "rm", "main")
    assert cli.json("switch", "again", volume)["volume"] == volume
    assert cli.sql("again", "SELECT x FROM t") == [(7,)]


def test_gc_removes_untagged_volumes_and_explains_why_others_stay(cli):
    assert "othing to remove" in cli.ok("gc", "--local")
    assert cli.json("gc", "--local") == []
    empty = cli.json("new", "main")["volume"]
    cli.ok("rm", "main")
    full = cli.json("new", "main")["volume"]
    cli.sql("main", "CREATE TABLE t(x)")
    cli.fails(2, "gc", "--local", "--force", full)
    cli.ok("rm", "main")
    told = cli.ok("gc", "--local", "--dry-run")
    assert re.search(f"Would remove volume {empty[:8]}[^ ]* ", told)
    text = cli.ok("gc", "--local")
    assert f"Removed volume {empty}" in text
    assert f"Kept volume {full[:8]}: it has 1 commit never pushed." in text
    (row,) = cli.json("gc", "--local", "--force", full)
    assert (row["volume"], row["removed"], row["kept_because"]) == (full, True, None)
    assert cli.json("volumes") == []
    assert "takes either a TAG or --local" in cli.fails(2, "gc")
    cli.fails(2, "gc", "--local", "--force", "not-an-id")


def test_status_ahead_up_to_date_and_behind(pushed):
    assert "is up to date" in pushed.ok("status", "main")
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')")
    text = pushed.ok("status", "main")
    assert text.startswith("On tag main\n")
    assert "is ahead of the remote by 1 commit." in text
    found = pushed.json("status", "main")
    assert (found["ahead"], found["behind"], found["diverged"]) == (1, 0, False)
    pushed.ok("push", "main")
    pushed.ok("checkout", "main", "1")
    assert pushed.json("status", "main")["behind"] == 1


def test_reports_name_the_command_to_run_next(pushed):
    pushed.ok("fork", "main", "two words")
    assert "(use `graft push 'two words'` to publish it)" in pushed.ok("status", "two words")
    pushed.machine("b")
    pushed.ok("clone", "main")
    assert "(use `graft hydrate main` to fetch the rest)" in pushed.ok("audit", "main")
    assert "PRAGMA" not in pushed.ok("status", "main") + pushed.ok("audit", "main")
    assert "PRAGMA graft_hydrate" in pushed.sql("main", "PRAGMA graft_audit")[0][0]


def test_info_and_snapshot(pushed):
    found = pushed.json("info", "main")
    assert found["size_bytes"] == found["pages"] * found["page_size"]
    assert found["snapshot"] == f"{found['remote']}[1..1]"
    assert pushed.ok("snapshot", "main") == found["snapshot"] + "\n"
    assert pushed.json("snapshot", "main") == {"tag": "main", "snapshot": found["snapshot"]}
    assert "Last sync:" in pushed.ok("info", "main")


def test_log_lists_local_commits_before_remote_ones(pushed):
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')")
    assert [row["where"] for row in pushed.json("log", "main")] == ["local", "remote"]
    assert len(pushed.json("log", "main", "--limit", "1")) == 1
    assert len(pushed.ok("log", "main", "--oneline").splitlines()) == 2
    pushed.fails(2, "log", "main", "--limit", "0")


def test_push_prints_the_text_of_the_pragma(pushed):
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')")
    done = pushed.json("push", "main")
    assert (done["lsn"], done["claimed"], done["local_commits"]) == (2, True, 1)
    LogId.parse(done["log"])
    nothing = pushed.ok("push", "main")
    assert nothing == "Nothing to push: there are no local commits.\n"
    assert pushed.sql("main", "PRAGMA graft_push") == [(nothing.strip(),)]


def test_clone_fetch_and_pull(pushed):
    pushed.machine("b")
    cloned = pushed.json("clone", "main")
    assert (cloned["tag"], cloned["lsn"]) == ("main", 1)
    pushed.machine("a")
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')")
    pushed.ok("push", "main")
    pushed.machine("b")
    assert pushed.json("fetch", "main")["commits"] == 1
    assert pushed.sql("main", "SELECT count(*) FROM t") == [(2000,)]
    text = pushed.ok("pull", "main")
    shown = re.fullmatch(r"Pulled 1 commit of remote log (\S+), now at LSN 2.\n", text)[1]
    assert cloned["log"].startswith(shown)
    assert 8 <= len(shown) < 24
    assert pushed.sql("main", "SELECT count(*) FROM t") == [(2001,)]
    again = pushed.ok("pull", "main")
    ((told,),) = pushed.sql("main", "PRAGMA graft_pull")
    assert told.replace(cloned["log"], shown) == again.strip()
    assert pushed.ok("fetch", "main").startswith("Nothing new on remote log")


def test_clone_by_log_id_under_another_tag(pushed):
    log = pushed.json("info", "main")["remote"]
    assert pushed.json("clone", log, "replica")["log"] == log
    assert {row["tag"] for row in pushed.json("tags")} == {"main", "replica"}


def test_clone_refuses_a_tag_that_exists_unless_forced(pushed):
    before = pushed.json("info", "main")["volume"]
    assert "exists already" in pushed.fails(2, "clone", "main")
    assert pushed.json("info", "main")["volume"] == before
    assert pushed.json("clone", "main", "--force")["volume"] != before


def test_clone_of_an_absent_ref_makes_no_tag(pushed):
    assert "no ref 'nothing'" in pushed.fails(2, "clone", "nothing")
    assert [row["tag"] for row in pushed.json("tags")] == ["main"]


def test_hydrate_and_audit(pushed):
    pushed.machine("b")
    pushed.ok("clone", "main")
    cold = pushed.json("audit", "main")
    assert cold["present"] == 0
    assert cold["checksum"] is None
    assert pushed.json("hydrate", "main") == {"pages": cold["total"]}
    assert pushed.ok("hydrate", "main") == "Fetched 0 pages.\n"
    assert "(100.00%)" in pushed.ok("audit", "main")
    checksum = pushed.json("audit", "main")["checksum"]
    pushed.machine("a")
    assert pushed.json("audit", "main")["checksum"] == checksum


def test_a_clone_with_hydrate_has_all_pages(pushed):
    pushed.machine("b")
    assert pushed.json("clone", "main", "copy", "--hydrate")["tag"] == "copy"
    assert "(100.00%)" in pushed.ok("audit", "copy")


def test_hydrate_says_that_a_small_cache_has_no_room_for_all(pushed, monkeypatch):
    pushed.sql("main", "CREATE TABLE big AS SELECT randomblob(900) FROM t")
    pushed.ok("push", "main")
    pushed.machine("b")
    pushed.ok("clone", "main")
    monkeypatch.setenv("GRAFT_CACHE_MAX_BYTES", "1000000")
    for _ in range(2):
        done = pushed.run("hydrate", "main")
        assert done.exit_code == 0
        assert re.fullmatch(
            r"warning: log \S+: cache_max_bytes has room for \d+ of \d+ pages; the others are "
            r"fetched when they are read\n",
            done.stderr,
        )
    assert done.stdout == "Fetched 0 pages.\n"


def test_a_hydrate_without_its_remote_says_what_is_cached(pushed, monkeypatch):
    pushed.machine("b")
    pushed.ok("clone", "main")

    def cut(*_):
        raise StoreUnavailableError("a test cut the line", next_step="mend it")

    monkeypatch.setattr(DirectoryStore, "get_range", cut)
    errors = pushed.fails(7, "hydrate", "main")
    assert re.search(
        r"hint: mend it; 0 of \d+ pages are cached; `graft hydrate main` fetches the rest", errors
    )
    monkeypatch.undo()


@pytest.mark.parametrize(
    "command", [("export", "main", "copy.db"), ("restore", "main", "-o", "copy.db")], ids=" ".join
)
def test_an_interrupted_export_says_that_it_goes_on(pushed, monkeypatch, command):
    pushed.machine("b")
    pushed.ok("clone", "main")

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing._Target, "report", interrupt)
    done = pushed.run(*command)
    assert done.exit_code == 130
    assert "hint: the same command fetches only pages that have not arrived\n" in done.stderr
    assert not list(Path.cwd().iterdir())
    monkeypatch.undo()


def test_fork_moves_the_tag_or_makes_another(pushed):
    old = pushed.json("info", "main")
    made = pushed.json("fork", "main", "side")
    assert made["log"] != old["remote"]
    assert pushed.json("info", "main") == old
    pushed.fails(2, "fork", "main", "side")
    pushed.ok("fork", "main", "side", "--force")
    pushed.ok("fork", "main")
    assert pushed.json("info", "main")["volume"] != old["volume"]
    assert pushed.sql("side", "SELECT count(*) FROM t") == [(2000,)]


def test_checkout_shows_an_earlier_commit(pushed):
    pushed.sql("main", "DELETE FROM t")
    pushed.ok("push", "main")
    log = pushed.json("info", "main")["remote"]
    assert pushed.json("checkout", "main", "1")["lsn"] == 1
    assert pushed.sql("main", "SELECT count(*) FROM t") == [(2000,)]
    assert pushed.json("checkout", "main", f"{log}:2")["lsn"] == 2
    assert pushed.sql("main", "SELECT count(*) FROM t") == [(0,)]
    pushed.fails(2, "checkout", "main", "3")
    pushed.fails(2, "checkout", "main", "one")


def test_dump_header_and_commit(pushed):
    assert pushed.ok("dump-header", "main").startswith("00: 53 51 4c 69 74 65")
    assert bytes.fromhex(pushed.json("dump-header", "main")["header"]).startswith(
        b"SQLite format 3"
    )
    log = pushed.json("info", "main")["remote"]
    facts = pushed.json("dump-commit", f"{log}:1")
    assert (facts["log"], facts["lsn"], facts["local_commits"]) == (log, 1, 1)
    assert f"hash: {facts['hash']}" in pushed.ok("dump-commit", f"{log}:1")
    pushed.fails(2, "dump-commit", "1")


def test_dump_header_of_an_empty_volume(cli):
    cli.ok("new", "main")
    assert cli.json("dump-header", "main") == {"tag": "main", "header": ""}
    cli.ok("dump-header", "main")


def test_remote_ls(pushed):
    log = pushed.json("info", "main")["remote"]
    assert pushed.json("remote", "ls") == [{"ref": "main", "log": log, "names": []}]
    assert pushed.ok("remote", "ls") == f"main  {log}\n"


def test_an_id_that_is_shown_is_short_and_can_be_typed(pushed):
    pushed.ok("fork", "main", "side")
    volumes = {row["tag"]: row["volume"] for row in pushed.json("tags")}
    shown = dict(line.split() for line in pushed.ok("tags").splitlines())
    assert {tag: volumes[tag][: len(short)] for tag, short in shown.items()} == shown
    assert all(8 <= len(short) < 24 for short in shown.values())
    assert pushed.json("switch", "other", shown["main"])["volume"] == volumes["main"]
    told = pushed.fails(2, "switch", "other", volumes["main"][:4])
    assert f"begins 2 volume ids: {volumes['main']}, {volumes['side']}" in told
    log = pushed.json("info", "main")["remote"]
    shown_log = pushed.ok("status", "main").split("remote log ")[1].split()[0]
    assert log.startswith(shown_log)
    assert len(shown_log) < 24
    assert pushed.json("show", "side", f"{shown_log}:1")["log"] == log
    assert f"{shown_log}:1 to " in pushed.ok("diff", "main", "1", "1")
    assert pushed.json("clone", shown_log, "copy")["log"] == log
    assert f"{log}: 1 commit" in pushed.ok("fsck", shown_log)
    assert "log ids: " in pushed.fails(2, "clone", log[:4], "third")
    assert "no ref '74g'" in pushed.fails(2, "clone", "74g", "third")
    for screen in (("info", "main"), ("show", "main"), ("remote", "ls")):
        assert log in pushed.ok(*screen)
    # The clone's id may begin as that of the fork, which was shown before there was a clone.
    shown = dict(line.split() for line in pushed.ok("tags").splitlines())
    pushed.ok("rm", "side")
    assert pushed.ok("gc", "--local", "--force", shown["side"]).startswith("Removed volume")


def test_no_summary_in_the_help_is_cut(cli):
    assert "..." not in cli.ok("--help").partition("Options:")[2]


def test_status_counts_volumes_without_a_tag_below_the_others(pushed):
    pushed.ok("fork", "main", "side")
    pushed.sql("side", "INSERT INTO t VALUES(-1, 'unpushed')")
    pushed.ok("rm", "side")
    pushed.ok("clone", "main", "copy")
    pushed.ok("rm", "copy")
    lines = pushed.ok("status").splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["TAG", "main"]
    assert lines[2].startswith("2 without a tag, of which 1 may have unpushed commits; ")
    assert len(lines) == 3
    assert len(pushed.json("status")) == 3
    pushed.ok("gc", "--local")
    assert pushed.ok("status").splitlines()[2].startswith("1 without a tag, of which 1 may")


def test_a_machine_without_tags_is_told_how_to_get_one(cli):
    for words in (("log", "main"), ("restore", "main", "--at", "HEAD"), ("status", "main")):
        assert "`graft clone main main`" in cli.fails(2, *words)
