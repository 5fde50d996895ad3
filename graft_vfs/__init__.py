"""SQLite databases that commit locally and synchronise with object storage.

    import graft_vfs
    connection = graft_vfs.connect("main")
    connection.execute("CREATE TABLE t(x)")
    connection.pragma("graft_push")

`connect` opens a tag through APSW, `register` gives the engine with the same verbs and typed
results, `Config` is the configuration, and every declared error derives from `GraftError`.
"""

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import GraftError
from graft_vfs.version import __version__
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
