"""Configuration as the command line sees it, `graft config`, and credentials that stay secret."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from graft_vfs.cli.output import without_credentials
from graft_vfs.engine.config import Config, RemoteConfig

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


def test_a_variable_overrides_the_file(cli, monkeypatch):
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


def test_background_hydrate_does_not_delay_a_command(pushed, monkeypatch):
    monkeypatch.setenv("GRAFT_HYDRATE", "background")
    pushed.machine("b")
    pushed.ok("clone", "main")
    assert pushed.json("audit", "main")["present"] == 0


@pytest.fixture
def with_a_readme(pushed):
    """A remote with an object that is no ref, which is a warning."""
    (pushed.root / "remote" / "refs" / "README").write_text("not a ref")
    return pushed


def test_the_log_file_takes_warnings(with_a_readme, monkeypatch):
    log = with_a_readme.root / "log" / "graft.log"
    monkeypatch.setenv("GRAFT_LOG_FILE", str(log))
    with_a_readme.ok("remote", "ls")
    assert "skipped 1 objects among the refs" in log.read_text()


def test_without_a_log_file_warnings_go_to_standard_error(with_a_readme):
    result = with_a_readme.run("remote", "ls")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: skipped 1 objects among the refs")


# Credentials ------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["", f"user:{SECRET}@"], ids=["variables", "endpoint"])
@pytest.mark.parametrize(
    "command",
    [("doctor",), ("doctor", "--json"), ("remote", "ls"), ("config",), ("config", "--json")],
)
def test_credentials_are_never_printed(cli, monkeypatch, command, user):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "s3_compatible")
    monkeypatch.setenv("GRAFT_REMOTE_BUCKET", "bucket")
    monkeypatch.setenv("GRAFT_REMOTE_ENDPOINT", f"http://{user}127.0.0.1:9")
    result = cli.run(*command)
    assert result.exit_code in ((0,) if command[0] == "config" else (1, 3, 7))
    assert SECRET not in result.stdout + result.stderr


def test_the_secret_of_an_unknown_key_is_not_printed(cli):
    Path("graft.toml").write_text(
        f"[remote]\ntype = 's3_compatible'\nbucket = 'b'\nsecret_access_key = '{SECRET}'\n"
    )
    assert SECRET not in cli.fails(3, "tags")
    assert SECRET not in cli.run("doctor").stdout


def test_urls_lose_user_and_password():
    assert without_credentials("at http://u:p@host/x, s3://b") == "at http://***@host/x, s3://b"


# graft config -----------------------------------------------------------------------------------


def settings(cli) -> dict[str, tuple[object, str]]:
    return {row["key"]: (row["value"], row["source"]) for row in cli.json("config")}


def test_config_shows_every_setting_with_its_source(cli, monkeypatch):
    Path("graft.toml").write_text(
        f"data_dir = '{cli.root}/there'\nmake_default = true\n[remote]\ntype = 'fs'\nroot = '/r'\n"
    )
    monkeypatch.setenv("GRAFT_HYDRATE", "background")
    monkeypatch.setenv("GRAFT_REMOTE_ROOT", "/elsewhere")
    found = settings(cli)
    assert found["data_dir"] == (f"{cli.root}/there", "graft.toml")
    assert found["make_default"] == (True, "graft.toml")
    assert found["hydrate"] == ("background", "GRAFT_HYDRATE")
    assert found["cache_max_bytes"] == (None, "default")
    assert found["remote.type"] == ("fs", "graft.toml")
    assert found["remote.root"] == ("/elsewhere", "GRAFT_REMOTE_ROOT")
    names = {field.name for field in fields(Config)} - {"remote"}
    assert set(found) == names | {f"remote.{field.name}" for field in fields(RemoteConfig)}
    lines = cli.ok("config").splitlines()
    assert [line.split()[0] for line in lines] == list(found)
    assert "true" in next(line for line in lines if line.startswith("make_default"))


def test_config_shows_that_an_endpoint_comes_from_aws(cli, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@example.com")
    assert settings(cli)["remote.endpoint"] == (None, "default")
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "s3_compatible")
    monkeypatch.setenv("GRAFT_REMOTE_BUCKET", "bucket")
    assert settings(cli)["remote.endpoint"] == ("http://***@example.com", "AWS_ENDPOINT_URL")
    monkeypatch.setenv("GRAFT_REMOTE_ENDPOINT", "http://nearer.example.com")
    assert settings(cli)["remote.endpoint"] == (
        "http://nearer.example.com",
        "GRAFT_REMOTE_ENDPOINT",
    )


def test_config_needs_a_valid_configuration(cli):
    Path("graft.toml").write_text("nonsense = 1")
    assert "nonsense" in cli.fails(3, "config")


def test_the_template_is_a_configuration_of_defaults(cli):
    text = cli.ok("config", "--template")
    Path("graft.toml").write_text(text)
    assert {source for _, source in settings(cli).values()} == {"default"}


def test_the_template_names_only_settings_that_exist(cli):
    lines = cli.ok("config", "--template").splitlines()
    examples = [line.removeprefix("# ") for line in lines if re.match(r"# \w+ = ", line)]
    assert len(examples) > 8
    Path("graft.toml").write_text(
        "\n".join(line.removeprefix("# ") for line in lines if re.match(r"# (\w+ = |\[)", line))
    )
    found = settings(cli)
    assert {source for _, source in found.values()} == {"graft.toml"}


def test_the_command_line_treats_empty_aws_variables_as_unset(cli, monkeypatch):
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "s3_compatible")
    monkeypatch.setenv("GRAFT_REMOTE_BUCKET", "b")
    command = [sys.executable, "-m", "graft_vfs.cli", "tags", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
