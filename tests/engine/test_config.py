"""Configuration: every key, where it comes from, and what is said about a wrong one."""

from __future__ import annotations

import dataclasses
import os
import pwd
from pathlib import Path

import pytest

from graft_vfs.engine.config import REMOTE_TYPES, Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import ConfigError, GraftError
from graft_vfs.store.directory import DirectoryStore
from graft_vfs.store.memory import MemoryStore
from graft_vfs.store.none import NoStore

SECRET = "marker-of-a-secret"


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch) -> Path:
    """Be in an empty directory, with no file and no variable that counts."""
    for name in list(os.environ):
        if name.startswith(("GRAFT_", "XDG_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def load(text: str, **variables: str) -> Config:
    Path("graft.toml").write_text(text)
    return Config.load(variables)


def test_without_any_configuration_volumes_are_local(tmp_path) -> None:
    config = Config.load({})
    assert config == Config(data_dir=tmp_path / "home/.local/share/graft")
    assert config.remote == RemoteConfig()
    assert isinstance(config.remote.open(), NoStore)
    assert Config.load({"XDG_DATA_HOME": "/data"}).data_dir == Path("/data/graft")


def test_every_key_is_read(tmp_path) -> None:
    config = load(
        'data_dir = "/srv/data"\n'
        "cache_max_bytes = 1_000_000\n"
        'hydrate = "background"\n'
        'mmap = "off"\n'
        'log_file = "~/graft.log"\n'
        "make_default = true\n"
        "autosync = 0\n"
        'durability = "local"\n'
        'freshness = "local"\n'
        "max_staleness = 0\n"
        'retention = "all"\n'
        "[remote]\n"
        'type = "s3_compatible"\n'
        'bucket = "b"\n'
        'prefix = "p"\n'
        'endpoint = "http://127.0.0.1:9"\n'
        'region = "auto"\n'
        "unsigned = true\n"
        'root = "unused"\n'
    )
    assert config == Config(
        data_dir=Path("/srv/data"),
        cache_max_bytes=1_000_000,
        hydrate="background",
        mmap="off",
        log_file=tmp_path / "home/graft.log",
        make_default=True,
        remote=RemoteConfig(
            "s3_compatible", "unused", "b", "p", "http://127.0.0.1:9", "auto", True
        ),
    )


VARIABLES = {
    "GRAFT_DATA_DIR": ("/variable", "data_dir", Path("/variable")),
    "GRAFT_CACHE_MAX_BYTES": ("7", "cache_max_bytes", 7),
    "GRAFT_HYDRATE": ("background", "hydrate", "background"),
    "GRAFT_ON_DIVERGENCE": ("fork", "on_divergence", "fork"),
    "GRAFT_MMAP": ("off", "mmap", "off"),
    "GRAFT_LOG_FILE": ("/log", "log_file", Path("/log")),
    "GRAFT_MAKE_DEFAULT": ("yes", "make_default", True),
    "GRAFT_AUTOSYNC": ("60", "autosync", 60.0),
    "GRAFT_ALLOW_FILE_SYSTEMS": ("nfs4,ceph", "allow_file_systems", ("nfs4", "ceph")),
    "GRAFT_REMOTE_TYPE": ("fs", "remote.type", "fs"),
    "GRAFT_REMOTE_ROOT": ("/other", "remote.root", "/other"),
    "GRAFT_REMOTE_BUCKET": ("bucket2", "remote.bucket", "bucket2"),
    "GRAFT_REMOTE_PREFIX": ("prefix2", "remote.prefix", "prefix2"),
    "GRAFT_REMOTE_ENDPOINT": ("http://two", "remote.endpoint", "http://two"),
    "GRAFT_REMOTE_REGION": ("eu-west-1", "remote.region", "eu-west-1"),
    "GRAFT_REMOTE_UNSIGNED": ("true", "remote.unsigned", True),
    "GRAFT_REMOTE_CONNECT_TIMEOUT": ("2.5", "remote.connect_timeout", 2.5),
    "GRAFT_REMOTE_READ_TIMEOUT": ("90", "remote.read_timeout", 90.0),
    "GRAFT_REMOTE_TOTAL_TIMEOUT": ("600", "remote.total_timeout", 600.0),
}
FILE = (
    'data_dir = "/file"\ncache_max_bytes = 1\nhydrate = "lazy"\nlog_file = "/file.log"\n'
    'make_default = false\nautosync = 5\n[remote]\ntype = "memory"\nroot = "/root"\n'
    'bucket = "bucket1"\nprefix = "prefix1"\nendpoint = "http://one"\n'
)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("text", [FILE, '[remote]\ntype = "memory"\nroot = "/root"\n'])
def test_a_variable_overrides_the_file(variable, text) -> None:
    value, key, expected = VARIABLES[variable]
    found: object = load(text, **{variable: value})
    for name in key.split("."):
        found = getattr(found, name)
    assert found == expected


def test_every_field_has_a_variable_in_these_tests() -> None:
    fields = {field.name for field in dataclasses.fields(Config)} - {"remote"}
    fields |= {f"remote.{field.name}" for field in dataclasses.fields(RemoteConfig)}
    assert {key for _, key, _ in VARIABLES.values()} == fields


def test_variables_alone_make_a_remote() -> None:
    config = Config.load({"GRAFT_REMOTE_TYPE": "memory", "GRAFT_REMOTE_ROOT": "x"})
    assert config.remote == RemoteConfig(type="memory", root="x")
    assert isinstance(config.remote.open(), MemoryStore)


# Files ------------------------------------------------------------------------------------------


def test_the_first_file_of_the_search_order_is_read(tmp_path, nowhere) -> None:
    named, xdg, home = tmp_path / "named.toml", tmp_path / "xdg", tmp_path / "home/.config"
    for path, size in (
        (named, 1),
        (nowhere / "graft.toml", 2),
        (xdg / "graft/graft.toml", 3),
        (home / "graft/graft.toml", 4),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"cache_max_bytes = {size}")
    everything = {"GRAFT_CONFIG": str(named), "XDG_CONFIG_HOME": str(xdg)}
    assert Config.load(everything).cache_max_bytes == 1
    del everything["GRAFT_CONFIG"]
    assert Config.load(everything).cache_max_bytes == 2
    (nowhere / "graft.toml").unlink()
    assert Config.load(everything).cache_max_bytes == 3
    assert Config.load({}).cache_max_bytes == 4
    (home / "graft/graft.toml").unlink()
    assert Config.load({}).cache_max_bytes is None


@pytest.mark.parametrize("name", ["absent.toml", ".", "~nobody-of-this-name/graft.toml"])
def test_a_named_file_that_is_missing_is_an_error(name) -> None:
    with pytest.raises(ConfigError, match=r"GRAFT_CONFIG|home directory"):
        Config.load({"GRAFT_CONFIG": name})


@pytest.mark.parametrize("variable", ["GRAFT_CONFIG", "XDG_CONFIG_HOME"])
def test_a_path_that_cannot_be_examined_is_an_error(variable) -> None:
    with pytest.raises(ConfigError, match="too long; correct "):
        Config.load({variable: "x" * 5000})


@pytest.mark.parametrize("variable", ["GRAFT_CONFIG", "XDG_CONFIG_HOME", "GRAFT_DATA_DIR"])
def test_a_path_that_has_no_bytes_is_an_error(variable) -> None:
    with pytest.raises(ConfigError, match="is not a path; leave out what is no character"):
        Config.load({variable: "a\ud800"})


@pytest.mark.parametrize("text", ["a\0b", "~\0"])
def test_a_path_with_a_nul_is_an_error_everywhere(text) -> None:
    with pytest.raises(ConfigError, match="leave the NUL out"):
        Config.load({"GRAFT_CONFIG": text})
    with pytest.raises(ConfigError, match="leave the NUL out"):
        RemoteConfig(type="fs", root=text).open()


@pytest.mark.parametrize(
    "data",
    [
        b"data_dir = ",
        b"= 1",
        b"hydrate = lazy",
        b"a = 1\na = 2",
        b"\xff\xfe",
        b"[remote",
        b"a = " + b"[" * 20_000,
    ],
)
def test_a_file_that_is_not_toml_is_named_in_the_error(data) -> None:
    Path("graft.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"^graft\.toml: "):
        Config.load({})


def test_a_file_that_cannot_be_read_is_named_in_the_error(monkeypatch) -> None:
    Path("graft.toml").touch()

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match=r"graft\.toml cannot be read: Permission denied"):
        Config.load({})


@pytest.mark.parametrize("text", ["0", "1", "2.5", "86400"])
def test_autosync_is_a_number_of_seconds(text) -> None:
    assert load(f"autosync = {text}\n").autosync == float(text)
    assert load("", GRAFT_AUTOSYNC=text).autosync == float(text)


# Wrong values -----------------------------------------------------------------------------------

WRONG = {
    "data_dir": ["1", '""', "true", "[]", '"a\\u0000b"', '"~nobody-of-this-name/x"'],
    "cache_max_bytes": ['"many"', "-1", "1.5", "true", "[1]", "inf", "nan", '""', "1979-05-27"],
    "hydrate": ['"eager"', "true", "1", '["lazy"]', '"Lazy"'],
    "mmap": ['"on"', "true", "0", '["off"]'],
    "log_file": ["1", '""', "{}"],
    "make_default": ['"maybe"', "2", "1.0", "[]"],
    "autosync": ["0.5", "-1", "86401", '"soon"', '""', "true", "inf", "nan", "[5]"],
    "durability": ['"remote"', "1"],
    "freshness": ['"strict"', "false"],
    "max_staleness": ["1", "true"],
    "retention": ['"30d"', "0"],
    "remote.type": ["1", "true", '"s4"', '""', "[]"],
    "remote.root": ["1"],
    "remote.bucket": ["true"],
    "remote.prefix": ["1.5"],
    "remote.endpoint": ["{}"],
    "remote.connect_timeout": ["0", "-1", "true", '"soon"', "[]", "inf", "nan"],
    "remote.read_timeout": ["0.01", "3601"],
    "remote.total_timeout": ['""', "1e9"],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_an_error_that_names_file_and_key(key, value) -> None:
    table, _, name = key.rpartition(".")
    with pytest.raises(ConfigError) as caught:
        load(f"[{table}]\n{name} = {value}\n" if table else f"{name} = {value}\n")
    is_path = "home directory" in str(caught.value) or "not a path" in str(caught.value)
    assert is_path or str(caught.value).startswith(f"graft.toml: {key} = ")
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("GRAFT_CACHE_MAX_BYTES", "many", "cache_max_bytes"),
        ("GRAFT_HYDRATE", "eager", "hydrate"),
        ("GRAFT_MAKE_DEFAULT", "perhaps", "make_default"),
        ("GRAFT_DURABILITY", "remote", "durability"),
        ("GRAFT_AUTOSYNC", "often", "autosync"),
        ("GRAFT_REMOTE_TYPE", "ftp", "remote.type"),
    ],
)
def test_a_wrong_variable_is_named_instead_of_the_file(variable, value, key) -> None:
    with pytest.raises(ConfigError, match=rf"^{variable}: {key} = '{value}'"):
        load('hydrate = "lazy"\n[remote]\ntype = "memory"\n', **{variable: value})


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        ("datadir = '/x'", "datadir", "did you mean 'data_dir'\\? "),
        ("[remote]\ntype = 'memory'\ncolour = 'x'", "remote.colour", ""),
        ("[remote]\ntype = 'memory'\nbuket = 'x'", "remote.buket", "did you mean 'bucket'\\? "),
        ("[remotes]\ntype = 'memory'", "remotes", "did you mean 'remote'\\? "),
    ],
)
def test_an_unknown_key_is_an_error_with_the_known_ones(text, key, meant) -> None:
    wanted = rf"graft\.toml: unknown key {key}; {meant}known are .*, "
    with pytest.raises(ConfigError, match=wanted):
        load(text)


def test_s3_is_a_short_name_of_its_type() -> None:
    short, long = (
        load(f"[remote]\ntype = '{kind}'\nbucket = 'b'") for kind in ("s3", "s3_compatible")
    )
    assert short == long
    assert RemoteConfig(type="s3", bucket="b").type == "s3_compatible"
    with pytest.raises(ConfigError, match=r"'S3' is unknown; did you mean 's3'\? use one of"):
        load("[remote]\ntype = 'S3'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("remote = 'memory'", "remote must be a table"),
        ("[remote]\nbucket = 'b'", r"\[remote\] has no type"),
        ("[remote]\ntype = 's3_compatible'", r"needs remote\.bucket"),
        ("[remote]\ntype = 's3_compatible'\nbucket = ''", r"needs remote\.bucket"),
        ("[remote]\ntype = 'fs'", r"needs remote\.root"),
    ],
)
def test_a_remote_that_lacks_something_is_an_error(text, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_an_unknown_type_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load("[remote]\ntype = 'gcs'")
    assert all(kind in str(caught.value) for kind in REMOTE_TYPES)


def test_a_remote_in_a_home_directory_is_opened_there(tmp_path) -> None:
    store = load("[remote]\ntype = 'fs'\nroot = '~/remote'").remote.open()
    assert isinstance(store, DirectoryStore)
    assert (tmp_path / "home/remote").is_dir()
    with pytest.raises(ConfigError, match="home directory"):
        RemoteConfig(type="fs", root="~nobody-of-this-name/x").open()


# Credentials ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"secret_access_key = '{SECRET}'",
        f"[remote]\ntype = 's3_compatible'\nbucket = 'b'\nsecret_key = '{SECRET}'",
        f"[remote]\nsecret_key = '{SECRET}' oops",
        f"[remote]\nendpoint = 'http://user:{SECRET}@host'",
        f"[remote]\ntype = 'gcs'\nendpoint = 'http://user:{SECRET}@host'",
        f"[remote]\ntype = 's3_compatible'\nendpoint = 'http://user:{SECRET}@host'",
    ],
)
def test_no_credential_is_in_an_error(text) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        assert SECRET not in repr(error)
        error = error.__cause__ or error.__context__


def test_no_credential_is_in_a_repr(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"{SECRET}-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    remote = RemoteConfig(type="s3_compatible", bucket="b", endpoint="http://127.0.0.1:1")
    config = Config(data_dir=tmp_path / "data", remote=remote)
    engine = Graft(config)
    for value in (config, remote, engine, engine.store, engine.logs):
        assert SECRET not in repr(value)
    engine.close()

    remote = RemoteConfig(type="s3_compatible", bucket="b", endpoint=f"http://u:{SECRET}@h")
    assert SECRET not in repr(Config(data_dir=tmp_path, remote=remote))
    with pytest.raises(GraftError) as caught:
        remote.open()
    assert SECRET not in str(caught.value)


# Places that cannot be looked at, and variables that are empty ------------------------------------


@pytest.fixture
def no_home(tmp_path, monkeypatch) -> None:
    """A home directory that cannot be looked into, for root neither: a link to itself."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.config").symlink_to(".config")


@pytest.fixture
def no_here(nowhere) -> None:
    (nowhere / "graft.toml").symlink_to("graft.toml")


@pytest.mark.parametrize("place", ["no_home", "no_here"])
def test_a_directory_that_cannot_be_examined_does_not_matter_if_variables_are_set(
    request, tmp_path, caplog, place
) -> None:
    request.getfixturevalue(place)
    with pytest.raises(ConfigError, match=r"correct its permissions, or .* GRAFT_DATA_DIR"):
        Config.load({})
    data_dir = str(tmp_path / "data")
    config = Config.load(
        {"GRAFT_DATA_DIR": data_dir, "GRAFT_REMOTE_TYPE": "fs", "GRAFT_REMOTE_ROOT": "/srv"}
    )
    assert config.data_dir == tmp_path / "data"
    assert caplog.text == ""
    assert Config.load({"GRAFT_DATA_DIR": data_dir}).remote == RemoteConfig()
    assert "only variables are settings now" in caplog.text
    named = Config.load({"GRAFT_DATA_DIR": data_dir, "GRAFT_CONFIG": "/dev/null"})
    assert named.remote == RemoteConfig()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a moment")
def test_the_home_of_another_user_does_not_matter_if_variables_are_set(
    tmp_path, nowhere, monkeypatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    nowhere.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="Permission denied"):
            Config.load({})
        Config.load({"GRAFT_DATA_DIR": "/data", "GRAFT_REMOTE_TYPE": "memory"})
    finally:
        os.seteuid(0)


def test_a_user_without_a_home_needs_none_if_variables_are_set(monkeypatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    with pytest.raises(ConfigError, match="there is no home directory"):
        Config.load({})
    assert Config.load({"GRAFT_DATA_DIR": "/data"}).data_dir == Path("/data")


def test_an_empty_home_counts_as_unset(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "")
    assert Config.load({}).data_dir == Path(pwd.getpwuid(os.getuid()).pw_dir, ".local/share/graft")


@pytest.mark.parametrize("variable", [*VARIABLES, "GRAFT_CONFIG", "XDG_CONFIG_HOME"])
def test_an_empty_variable_is_not_a_value(variable) -> None:
    text = "cache_max_bytes = 5\n[remote]\ntype = 'fs'\nroot = '/srv'\nprefix = 'p'\n"
    assert load(text, **{variable: ""}) == load(text)
    Path("graft.toml").unlink()
    assert Config.load({variable: ""}) == Config.load({})


@pytest.mark.parametrize("variable", ["AWS_PROFILE", "AWS_CA_BUNDLE"])
def test_an_empty_aws_variable_that_causes_an_error_is_named(monkeypatch, variable) -> None:
    monkeypatch.setenv(variable, "")
    remote = RemoteConfig(type="s3_compatible", bucket="b", endpoint="http://127.0.0.1:9")
    in_the_way = pytest.raises(ConfigError, match=f"unset {variable}: set, but empty")
    with remote.open() as store, in_the_way:
        store.get("k")
