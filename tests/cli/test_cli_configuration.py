"""Configuration as the command line sees it, credentials that stay secret, and the doctor."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from graft_vfs.cli.output import without_credentials

SECRET = "s3cret-Pass-word"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("data_dri = '/x'", "unknown key data_dri"),
        ("[remote]\ntype = 'fs'\nrot = '/x'", "unknown key remote.rot"),
        ("cache_max_bytes = 'much'", "cache_max_bytes"),
        ("make_default = 3", "make_default"),
        ("data_dir = 7", "data_dir"),
        ("remote = 'fs'", "remote must be a table"),
        ("[remote]\ntype = 'ftp'", "ftp"),
        ("[remote]\ntype = 'fs'", "remote.root"),
        ("[remote]\ntype = 's3_compatible'", "remote.bucket"),
        ("[remote]\nroot = '/x'", "no type"),
        ("[remote]\ntype = 3", "is not text"),
        ("this is no toml", "graft.toml"),
        ("durability = 'remote'", "durability"),
    ],
)
def test_a_wrong_graft_toml_names_file_and_key(cli, text, names):
    Path("graft.toml").write_text(text)
    error = cli.fails(3, "tags")
    assert names in error
    assert "graft.toml" in error


def test_graft_toml_in_the_working_directory_counts(cli):
    Path("graft.toml").write_text(f"data_dir = '{cli.root}/there'\n")
    cli.ok("new", "main")
    assert (cli.root / "there" / "catalog.db").is_file()


def test_a_variable_wins_over_the_file(cli, monkeypatch):
    Path("graft.toml").write_text(f"data_dir = '{cli.root}/there'\n")
    monkeypatch.setenv("GRAFT_DATA_DIR", str(cli.root / "elsewhere"))
    cli.ok("new", "main")
    assert (cli.root / "elsewhere" / "catalog.db").is_file()
    assert not (cli.root / "there").exists()


def test_graft_config_names_the_file(cli, monkeypatch):
    path = cli.root / "named.toml"
    path.write_text(f"data_dir = '{cli.root}/named'\n")
    monkeypatch.setenv("GRAFT_CONFIG", str(path))
    cli.ok("new", "main")
    assert (cli.root / "named" / "catalog.db").is_file()


def test_xdg_directories(cli, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(cli.root / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(cli.root / "data"))
    cli.ok("new", "main")
    assert (cli.root / "data/graft/catalog.db").is_file()


@pytest.mark.parametrize(
    ("name", "value"),
    [("GRAFT_CACHE_MAX_BYTES", "lots"), ("GRAFT_HYDRATE", "now"), ("GRAFT_REMOTE_TYPE", "ftp")],
)
def test_a_wrong_variable_is_refused(cli, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert value in cli.fails(3, "tags")


def test_hydrate_background_does_not_keep_a_command(pushed, monkeypatch):
    monkeypatch.setenv("GRAFT_HYDRATE", "background")
    pushed.machine("b")
    pushed.ok("clone", "main")
    assert pushed.json("audit", "main")["present"] == 0


def test_the_log_file_takes_warnings(pushed, monkeypatch):
    pushed.machine("b")
    pushed.ok("clone", "main")
    pushed.ok("fork", "main")
    monkeypatch.setenv("GRAFT_LOG_FILE", str(pushed.root / "log" / "graft.log"))
    pushed.ok("push", "main")
    assert "ref 'main' names log" in (pushed.root / "log" / "graft.log").read_text()


def test_without_a_log_file_warnings_go_to_standard_error(pushed):
    pushed.machine("b")
    pushed.ok("clone", "main")
    pushed.ok("fork", "main")
    result = pushed.run("push", "main")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: ref 'main' names log")


# Credentials ------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["", f"user:{SECRET}@"], ids=["variables", "endpoint"])
@pytest.mark.parametrize("command", [("doctor",), ("doctor", "--json"), ("remote", "ls")])
def test_credentials_are_never_printed(cli, monkeypatch, command, user):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "s3_compatible")
    monkeypatch.setenv("GRAFT_REMOTE_BUCKET", "bucket")
    monkeypatch.setenv("GRAFT_REMOTE_ENDPOINT", f"http://{user}127.0.0.1:9")
    result = cli.run(*command)
    assert result.exit_code in (1, 3, 7)
    assert SECRET not in result.stdout + result.stderr


def test_the_secret_of_an_unknown_key_is_not_printed(cli):
    Path("graft.toml").write_text(
        f"[remote]\ntype = 's3_compatible'\nbucket = 'b'\nsecret_access_key = '{SECRET}'\n"
    )
    assert SECRET not in cli.fails(3, "tags")
    assert SECRET not in cli.run("doctor").stdout


def test_urls_lose_user_and_password():
    assert without_credentials("at http://u:p@host/x, s3://b") == "at http://***@host/x, s3://b"


# Doctor -----------------------------------------------------------------------------------------


def checks(cli, *, code: int = 0) -> dict[str, dict[str, str]]:
    result = cli.run("doctor", "--json")
    assert result.exit_code == code, result.stdout
    return {check["name"]: check for check in json.loads(result.stdout)}


def test_doctor_without_any_configuration(cli):
    found = checks(cli)
    assert {check["level"] for check in found.values()} <= {"ok", "warning"}
    assert set(found) == {"versions", "configuration", "data directory", "disk space", "remote"}
    assert not (cli.root / "home/.local/share/graft").exists()


def test_doctor_on_a_sound_machine(pushed):
    found = checks(pushed)
    assert {check["level"] for check in found.values()} <= {"ok", "warning"}
    assert found["volumes"]["text"] == "all 1 open"
    assert str(pushed.root / "remote") in found["remote"]["text"]
    assert found["conditional writes"]["level"] == "ok"
    lines = pushed.ok("doctor").splitlines()
    assert len(lines) == len(found)
    assert all(line.split()[0] in ("ok", "warning", "problem") for line in lines)


def test_doctor_names_a_broken_configuration(cli):
    Path("graft.toml").write_text("nonsense = 1")
    found = checks(cli, code=1)
    assert found["configuration"]["level"] == "problem"
    assert "nonsense" in found["configuration"]["text"]
    assert found["configuration"]["next_step"]


def test_doctor_names_a_damaged_catalog(pushed):
    (pushed.root / "a" / "catalog.db").write_bytes(b"damaged" * 1000)
    found = checks(pushed, code=1)
    assert found["catalog"]["level"] == "problem"
    assert found["remote"]["level"] == "ok"


def test_doctor_names_a_damaged_volume(pushed):
    pushed.ok("new", "other")
    volume = pushed.json("info", "main")["volume"]
    for path in (pushed.root / "a" / "volumes" / volume).glob("*.log"):
        path.write_bytes(b"damaged" * 1000)
    found = checks(pushed, code=1)
    assert found[f"volume {volume}"]["level"] == "problem"
    assert found["catalog"]["level"] == "ok"


def test_doctor_names_a_data_directory_that_cannot_be(cli, monkeypatch):
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
