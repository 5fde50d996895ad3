"""Configuration: `graft.toml`, GRAFT_… variables, defaults; checked before anything is opened.

The file is the first of `$GRAFT_CONFIG`, `./graft.toml` and `$XDG_CONFIG_HOME/graft/graft.toml`. A
non-empty variable overrides the file: `GRAFT_DATA_DIR` for `data_dir`, `GRAFT_REMOTE_BUCKET` for
`bucket` in the table `[remote]`, and so on. With neither, volumes are local and there is no remote.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft_vfs.errors import ConfigError
from graft_vfs.local.files import importing
from graft_vfs.suggestions import did_you_mean

if TYPE_CHECKING:
    from graft_vfs.store.base import ObjectStore

_logger = logging.getLogger(__name__)

_S3_TYPES = ("s3", "s3_compatible")
REMOTE_TYPES = ("memory", "fs", *_S3_TYPES)
AUTOSYNC_SECONDS_MAX = 86_400
TIMEOUT_SECONDS_MAX = 3600


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """The table `[remote]`; with `type` None, there is no remote."""

    type: str | None = None
    """`"s3"` (or `"s3_compatible"`, which is the same), `"fs"` (a directory), or `"memory"` (this
    process only, for tests).
    """
    root: str | None = None
    """The directory of `fs`, created if absent; for `memory` an optional name."""
    bucket: str | None = None
    """The bucket of `s3_compatible`."""
    prefix: str = ""
    """The key prefix to use in the bucket; default: none."""
    # It may contain a password; opening the store refuses that by name.
    endpoint: str | None = field(default=None, repr=False)
    """The URL of a server other than Amazon's; `AWS_ENDPOINT_URL` works as well."""
    region: str | None = None
    """The region of the bucket; `AWS_DEFAULT_REGION` and profiles work too."""
    unsigned: bool = False
    """`true` reads a public bucket without credentials, also where there are some. Default
    `false`: requests are unsigned only if no credentials are found.
    """
    connect_timeout: float = 5.0
    """How long connecting to `s3_compatible` may take, from 0.1 to 3600 seconds. Default 5."""
    read_timeout: float = 15.0
    """How many seconds may pass without a byte in either direction. Default 15, plus one second per
    64 KiB of a large request, because a proxy may accept all of it and then forward it slowly.
    """
    total_timeout: float = 60.0
    """How many seconds a request may take, including retries and waits for throttling. Default 60,
    plus one second per 4 KiB transferred, so that a slow connection does not time out while it
    makes progress.
    """

    def __post_init__(self) -> None:
        if self.type == "s3":
            object.__setattr__(self, "type", "s3_compatible")

    def open(self, *, create: bool = True, allow_file_systems: Collection[str] = ()) -> ObjectStore:
        """Open the store. No request for S3; raises StoreError if a directory cannot be opened.

        With `create` false, a directory that is not a remote yet is not turned into one.
        `allow_file_systems` are types of file systems that may hold a directory although they may
        create a name twice.
        """
        if self.type == "memory":
            with importing():
                from graft_vfs.store.memory import MemoryStore  # noqa: PLC0415 - for start-up

            return MemoryStore.named(self.root or "")
        if self.type == "fs":
            with importing():
                from graft_vfs.store.directory import DirectoryStore  # noqa: PLC0415 - for start-up

            assert self.root is not None
            return DirectoryStore(
                _expanded(self.root), create=create, allow_file_systems=allow_file_systems
            )
        if self.type == "s3_compatible":
            with importing():
                from graft_vfs.store.s3 import S3Store  # noqa: PLC0415 - for start-up

            assert self.bucket is not None
            return S3Store(
                self.bucket,
                prefix=self.prefix,
                endpoint=self.endpoint,
                region=self.region,
                unsigned=self.unsigned,
                connect_timeout_seconds=self.connect_timeout,
                read_timeout_seconds=self.read_timeout,
                total_timeout_seconds=self.total_timeout,
                configuring=_empty_variables_named,
            )
        with importing():
            from graft_vfs.store.none import NoStore  # noqa: PLC0415 - for start-up

        return NoStore()


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked. `cache_max_bytes` None is unbounded, `autosync` 0 is off."""

    data_dir: Path = field(default_factory=lambda: default_data_dir(os.environ))
    """The directory of volumes, catalog and page cache; default `$XDG_DATA_HOME/graft`, else
    `~/.local/share/graft`.
    """
    cache_max_bytes: int | None = None
    """The maximum size of the page cache, for all volumes together. The least recently used pages
    are evicted first, an eighth of the maximum at a time. If another process evicts pages, their
    space is freed only when this process reads again. Pages that cannot be cached on disk (full,
    read-only or damaged) are kept in memory: up to 64 MiB or this maximum, whichever is less, but
    at least 4 MiB. Default: unbounded.
    """
    hydrate: str = "lazy"
    """`"lazy"` (default) fetches pages when they are read; `"background"` also fetches all pages of
    each volume that a Python program opens or pulls, or that the sync daemon syncs. This never
    evicts pages for more of the same database: if that is larger than half of `cache_max_bytes`,
    what fits is fetched. No request begins while a query waits for one.
    """
    mmap: str = "auto"
    """`"auto"` (default) reads local files through mappings, once a call has read or written the
    same bytes. It writes through mappings only on ext4 and tmpfs, so that a full disk is always an
    error. `"off"` never uses mappings. Reading a page or writing a small commit then takes up to
    twice as long, but a file truncated by another program, or a disk that fails later, is an error
    instead of a signal that kills the process.
    """
    log_file: Path | None = None
    """The command line's log file; by default it prints warnings. In Python, configure the logger
    `graft_vfs`.
    """
    make_default: bool = False
    """`true` makes `graft` APSW's default VFS: a program that opens `path/app.db` then opens the
    volume with that tag. Default `false`.
    """
    autosync: float = 0.0
    """The interval at which a Python program pushes and pulls automatically, from 1 to 86400
    seconds. Default `0`: only on demand. The command line never syncs automatically.
    """
    on_divergence: str = "stop"
    """What autosync and the daemon do with a volume that has diverged: `"reset"` keeps the local
    commits as a branch and follows the remote, `"fork"` makes them a new volume. Default `"stop"`:
    the volume is skipped, without requests, until the divergence is resolved.
    """
    allow_file_systems: tuple[str, ...] = ()
    """Types of file systems, as in `/proc/self/mountinfo`, to allow for the data directory or an
    `fs` remote although they are refused by default (`"nfs4, fuse.sshfs"`, or a list). This is safe
    only if a single machine uses the directory; files on these file systems are not mapped. On
    Linux, a data directory may not be on a network file system, FUSE, 9p or virtiofs. Pushes to an
    `fs` remote may not use FUSE, or NFS served by the same machine, because tools mount buckets
    that way. Default: none.
    """
    remote: RemoteConfig = field(default_factory=RemoteConfig)

    def strategy(self) -> str | None:
        """Return the strategy of `on_divergence`; None for "stop"."""
        return None if self.on_divergence == "stop" else self.on_divergence

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Config:
        """Read the file and variables; raises ConfigError that names the source and the key."""
        return cls.load_with_sources(environment)[0]

    @classmethod
    def load_with_sources(
        cls, environment: Mapping[str, str] | None = None
    ) -> tuple[Config, dict[str, str]]:
        """Return the settings, and the source of each that is set: the file or a variable.

        Keys are those of the file, `remote.root` for `root` in `[remote]`. Raises ConfigError.
        """
        environment = os.environ if environment is None else environment
        path = find_file(environment)
        values: dict[str, Any] = {}
        source = "the environment"
        if path is not None:
            source = str(path)
            values = _read(path)
        remote = values.pop("remote", {})
        if not isinstance(remote, dict):
            raise ConfigError(f"{source}: remote must be a table", next_step="write it as [remote]")
        known = {*_CHECKS, *_LATER}
        _refuse_unknown(values, {*known, "remote"}, source, "")
        _refuse_unknown(remote, set(_REMOTE_KEYS), source, "remote.")
        sources = _overridden(values, known, environment, "GRAFT_", source)
        remote_sources = _overridden(remote, _REMOTE_KEYS, environment, "GRAFT_REMOTE_", source)
        checked = {key: _check(key, value, sources[key]) for key, value in values.items()}
        checked = {key: value for key, value in checked.items() if key in _CHECKS}
        if "data_dir" not in checked:
            checked["data_dir"] = default_data_dir(environment)
        config = cls(**checked, remote=_check_remote(remote, remote_sources, source))
        sources |= {f"remote.{key}": source for key, source in remote_sources.items()}
        return config, sources


def _overridden(
    values: dict[str, Any],
    keys: Iterable[str],
    environment: Mapping[str, str],
    prefix: str,
    source: str,
) -> dict[str, str]:
    """Override the file's values with variables; returns the source of each key's value.

    Empty variables are ignored, because scripts and containers often pass unset ones as empty.
    """
    sources = dict.fromkeys(values, source)
    for key in keys:
        variable = f"{prefix}{key.upper()}"
        if text := environment.get(variable):
            values[key], sources[key] = text, variable
    return sources


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the GRAFT_… variables that set nothing, each with the name that it may stand for."""
    known = {"GRAFT_CONFIG", *(f"GRAFT_{key.upper()}" for key in (*_CHECKS, *_LATER))}
    known.update(f"GRAFT_REMOTE_{key.upper()}" for key in _REMOTE_KEYS)
    unknown = (name for name in environment if name.startswith("GRAFT_") and name not in known)
    return {name: did_you_mean(name, known) for name in sorted(unknown)}


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """Return `$XDG_DATA_HOME/graft`, by default `~/.local/share/graft`."""
    return _expanded(environment.get("XDG_DATA_HOME") or "~/.local/share") / "graft"


def find_file(environment: Mapping[str, str]) -> Path | None:
    """Return the configuration file to read, or None; raises ConfigError if it is missing."""
    named = environment.get("GRAFT_CONFIG")
    if named == os.devnull:
        return None
    if named:
        path = _expanded(named)
        if not _is_file(path):
            raise ConfigError(
                f"GRAFT_CONFIG names {path}, which is no file", next_step="correct or unset it"
            )
        return path
    if _exists(Path("graft.toml"), environment):
        return Path("graft.toml")
    path = Path(environment.get("XDG_CONFIG_HOME") or "~/.config") / "graft" / "graft.toml"
    if str(path).startswith("~") and _home() is None:
        return None
    path = _expanded(str(path))
    return path if _exists(path, environment) else None


def _exists(path: Path, environment: Mapping[str, str]) -> bool:
    """Return True if there is a settings file at a default path.

    If the path cannot be examined, as in the home directory of another user, it is an error,
    unless the settings come from variables.
    """
    try:
        return _is_file(path)
    except ConfigError as error:
        if not environment.get("GRAFT_DATA_DIR"):
            raise ConfigError(
                error.message,
                next_step="correct its permissions, or give the settings as variables, "
                "GRAFT_DATA_DIR first",
            ) from error
        is_whole = bool(environment.get("GRAFT_REMOTE_TYPE"))
        level = logging.DEBUG if is_whole else logging.WARNING
        _logger.log(level, "%s; only variables are settings now", error.message)
        return False


def _is_file(path: Path) -> bool:
    """Return True if a file exists; raises ConfigError if the path cannot be examined."""
    try:
        # Not `is_file`: since Python 3.14 it treats every error as an absent file.
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(
            f"{str(path)[:200]}: {error.strerror}", next_step="correct the path or its permissions"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    with importing():
        import tomllib  # noqa: PLC0415 - for start-up: many are configured by variables alone

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}", next_step="correct the file") from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", next_step="check its permissions"
        ) from error


def _refuse_unknown(values: Mapping[str, Any], known: set[str], source: str, prefix: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{source}: unknown key {prefix}{key}",
                next_step=f"{did_you_mean(key, known)}known are {', '.join(sorted(known))}",
            )


def _check(key: str, value: Any, source: str) -> Any:
    wanted, convert = {**_CHECKS, **_LATER, **_REMOTE_CHECKS}[key]
    shown = f"remote.{key}" if key in _REMOTE_CHECKS else key
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{source}: {shown} = {value!r} is not {wanted}", next_step="correct its value"
        ) from error


def _check_remote(
    values: Mapping[str, Any], sources: Mapping[str, str], source: str
) -> RemoteConfig:
    values = {
        key: _check(key, value, sources[key]) if key in _REMOTE_CHECKS else value
        for key, value in values.items()
    }
    for key, value in values.items():
        if key not in _REMOTE_CHECKS and not isinstance(value, str):
            raise ConfigError(
                f"{sources[key]}: remote.{key} = {value!r} is not text",
                next_step="put it in quotes",
            )
    kind = values.get("type")
    if kind is None:
        if values:
            raise ConfigError(
                f"{sources[min(values)]}: [remote] has no type",
                next_step="set GRAFT_REMOTE_TYPE, or type in [remote], to one of "
                + ", ".join(REMOTE_TYPES),
            )
        return RemoteConfig()
    if kind not in REMOTE_TYPES:
        raise ConfigError(
            f"{sources['type']}: remote.type = {kind!r} is unknown",
            next_step=f"{did_you_mean(kind, REMOTE_TYPES)}use one of {', '.join(REMOTE_TYPES)}",
        )
    needed = {"fs": "root", **dict.fromkeys(_S3_TYPES, "bucket")}.get(kind)
    if needed and not values.get(needed):
        raise ConfigError(
            f"{source}: a remote of type {kind} needs remote.{needed}",
            next_step=f"set GRAFT_REMOTE_{needed.upper()}, or {needed} in the [remote] table",
        )
    return RemoteConfig(**values)


def empty_aws_variables() -> list[str]:
    """Return the AWS variables that are set but empty; boto3 would use the empty value."""
    return sorted(name for name, value in os.environ.items() if name[:4] == "AWS_" and not value)


@contextlib.contextmanager
def _empty_variables_named() -> Iterator[None]:
    """If the block raises ConfigError because of empty variables, name them in the error.

    A library does not change the environment; the command line unsets these variables.
    """
    try:
        yield
    except ConfigError as error:
        if names := empty_aws_variables():
            raise ConfigError(
                error.message, next_step=f"unset {', '.join(names)}: set, but empty"
            ) from error
        raise


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError
    return _expanded(value)


def _expanded(text: str) -> Path:
    """Return a path with `~` resolved; raises ConfigError if that or the path cannot be."""
    if "\0" in text:
        raise ConfigError(f"{text!r} is not a path", next_step="leave the NUL out")
    try:
        os.fsencode(text)
        home = _home() if text == "~" or text.startswith("~/") else None
        return Path(text).expanduser() if home is None else home / text[2:]
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{text!r} is not a path", next_step="leave out what is no character"
        ) from error
    except RuntimeError as error:
        raise ConfigError(
            f"there is no home directory for {text!r}", next_step="write the path out"
        ) from error


def _home() -> Path | None:
    """Return the home directory, None if this user has none; an empty HOME is none."""
    if home := os.environ.get("HOME"):
        return Path(home)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def _size(value: Any) -> int | None:
    if isinstance(value, bool):
        raise TypeError
    number = int(value)
    if number < 0 or (isinstance(value, float) and value != number):
        raise ValueError
    return number


def _autosync(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    seconds = float(value)
    if seconds != 0 and not 1 <= seconds <= AUTOSYNC_SECONDS_MAX:
        raise ValueError
    return seconds


def _timeout(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    seconds = float(value)
    if not 0.1 <= seconds <= TIMEOUT_SECONDS_MAX:
        raise ValueError
    return seconds


def _switch(value: Any) -> bool:
    text = str(value).lower()
    if text not in _SWITCHES:
        raise ValueError
    return _SWITCHES[text]


_SWITCHES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _names(value: Any) -> tuple[str, ...]:
    """Read a list, or a text with commas or spaces between the names."""
    names = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError
    return tuple(names)


def _one_of(*choices: Any) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, bool) or value not in choices:
            raise ValueError
        return value

    return convert


_CHECKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "data_dir": ("a path", _path),
    "cache_max_bytes": ("a number of bytes", _size),
    "hydrate": ('"lazy" or "background"', _one_of("lazy", "background")),
    "mmap": ('"auto" or "off"', _one_of("auto", "off")),
    "log_file": ("a path", _path),
    "make_default": ("true or false", _switch),
    "allow_file_systems": ("a list of types of file systems", _names),
    "on_divergence": ('"stop", "reset" or "fork"', _one_of("stop", "reset", "fork")),
    "autosync": (f"0, or a number of seconds from 1 to {AUTOSYNC_SECONDS_MAX}", _autosync),
}
# Keys of which this version has only the default: another value would promise what is not there.
_LATER: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "durability": ('"local" (the only one in this version)', _one_of("local")),
    "freshness": ('"local" (the only one in this version)', _one_of("local")),
    "max_staleness": ("0 (the only one in this version)", _one_of("0", 0)),
    "retention": ('"all" (the only one in this version)', _one_of("all")),
}
_TIMEOUT = (f"a number of seconds from 0.1 to {TIMEOUT_SECONDS_MAX}", _timeout)
_REMOTE_CHECKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "connect_timeout": _TIMEOUT,
    "read_timeout": _TIMEOUT,
    "total_timeout": _TIMEOUT,
    "unsigned": ("true or false", _switch),
}
_REMOTE_KEYS = tuple(entry.name for entry in fields(RemoteConfig))
