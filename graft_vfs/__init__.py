"""SQLite databases that commit locally and synchronise with object storage.

    import graft_vfs
    connection = graft_vfs.connect("main")
    connection.execute("CREATE TABLE t(x)")
    connection.pragma("graft_push")

`connect` opens a tag through APSW. `register` returns the engine, which has the same verbs with
typed results. `Config` is the configuration, and every declared error derives from `GraftError`.
"""

from typing import TYPE_CHECKING, Any

from graft_vfs.version import __version__

if TYPE_CHECKING:
    from graft_vfs.engine.config import Config, RemoteConfig
    from graft_vfs.engine.graft import Graft
    from graft_vfs.errors import GraftError
    from graft_vfs.vfs.registry import connect, enable_sqlite3, register, unregister, uri

__all__ = [
    "Config",
    "Graft",
    "GraftError",
    "RemoteConfig",
    "__version__",
    "connect",
    "enable_sqlite3",
    "register",
    "unregister",
    "uri",
]

_HOMES = {
    "Config": "engine.config",
    "Graft": "engine.graft",
    "GraftError": "errors",
    "RemoteConfig": "engine.config",
    "connect": "vfs.registry",
    "enable_sqlite3": "vfs.registry",
    "register": "vfs.registry",
    "unregister": "vfs.registry",
    "uri": "vfs.registry",
}


def __getattr__(name: str) -> Any:
    """Import a name's module at its first use, so that importing the package is cheap.

    For example, the command line's help and version need no engine.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - for start-up, as all of this

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
