"""`graft sync`: its arguments, its lines and its exit codes."""

from __future__ import annotations

import json
import re
import socket

import pytest

from graft_vfs.daemon.events import logfmt


def test_one_round_pushes_all_and_says_so_in_lines(cli):
    cli.with_remote()
    cli.machine("a")
    for tag in ("shop", "users"):
        cli.sql(tag, "CREATE TABLE t(k)")
    lines = cli.ok("sync").splitlines()
    assert sorted(re.sub(r"time=\S+Z level=info (event=\w+).*", r"\1", line) for line in lines) == [
        "event=pushed",
        "event=pushed",
        "event=stopped",
    ]
    assert lines[-1].endswith("event=stopped volumes=2 synced=2 left=0")
    (stopped,) = map(json.loads, cli.ok("sync", "--all", "--json").splitlines())
    assert (stopped["event"], stopped["level"], stopped["synced"]) == ("stopped", "info", 2)
    cli.sql("users", "INSERT INTO t VALUES(1)")
    lines = cli.ok("sync", "--push-only", "shop").splitlines()
    assert [line.partition("event=")[2] for line in lines] == ["stopped volumes=1 synced=1 left=0"]


def test_a_diverged_database_is_exit_code_5_with_a_hint(cli):
    cli.with_remote()
    cli.machine("a")
    cli.sql("shop", "CREATE TABLE t(k)")
    cli.ok("push", "shop")
    cli.machine("b")
    cli.ok("clone", "shop")
    for machine in "ab":
        cli.machine(machine)
        cli.sql("shop", f"INSERT INTO t VALUES('{machine}')")
        result = cli.run("sync", "--json")
    diverged, stopped = map(json.loads, result.stdout.splitlines())
    assert (result.exit_code, diverged["event"], diverged["tag"]) == (5, "diverged", "shop")
    assert "graft pull TAG --strategy reset" in diverged["hint"]
    assert (stopped["left"], stopped["tags"], stopped["level"]) == (1, "shop", "error")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--all", "shop"], "--all and tags exclude each other"),
        (["--every", "0.1s"], "'0.1s' is not a duration"),
        (["--every", "5 minutes"], "'5 minutes' is not a duration"),
        (["--every", "30h"], "'30h' is not a duration"),
        (["--metrics", ":9090"], "--metrics needs a daemon"),
        (["--every", "5s", "--metrics", "here"], "'here' is not an address"),
        (["--every", "5s", "--metrics", ":99999"], "':99999' is not an address"),
        (["--heartbeat", "ftp://monitor/x"], "not an http:// or https:// URL"),
        (["nope"], "there is no tag 'nope'"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_exit_code_2_and_shows_the_usage(cli, arguments, why):
    cli.with_remote()
    errors = cli.fails(2, "sync", *arguments)
    assert why in errors
    assert "hint: " in errors


def test_without_a_remote_the_next_step_is_to_configure_one(cli):
    assert "[remote]" in cli.fails(2, "sync")


def test_a_used_address_is_reported_before_anything_is_synced(cli):
    cli.with_remote()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        errors = cli.fails(3, "sync", "--every", "5s", "--metrics", f"127.0.0.1:{port}")
    assert f"metrics cannot be served at 127.0.0.1:{port}" in errors


def test_logfmt_quotes_what_needs_it():
    assert logfmt(
        {"a": 1, "b": "two words", "c": 'say "x=1"\n', "d": "", "e": "ä", "f": "x=y"}
    ) == ('a=1 b="two words" c="say \\"x=1\\"\\n" d="" e="ä" f="x=y"')
