"""Test databases: volumes in a temporary data directory, and without a remote.

So tests meet the file system that the application will meet, cannot push or pull by mistake, and
leave nothing behind. With `--keepdb` they stay in the configured data directory, as the tag
`test_…`, and still have no remote.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from django.db.backends.base.creation import BaseDatabaseCreation
from django.db.backends.sqlite3.creation import DatabaseCreation as SQLiteCreation

import graft_vfs
from graft_vfs import Config, RemoteConfig
from graft_vfs.errors import NotFoundError

_DIRECTORY_KEY = "GRAFT_DATA_DIR"
"""Where the settings `TEST` tell worker processes of the temporary data directory."""


class DatabaseCreation(SQLiteCreation):
    """Makes, clones and removes test databases."""

    @staticmethod
    def is_in_memory_db(database_name: Any) -> bool:  # noqa: ARG004 - Django's signature
        """Return False: no volume is in memory."""
        return False

    def _get_test_db_name(self) -> str:
        name = self.connection.settings_dict["TEST"]["NAME"]
        return str(name or f"test_{self.connection.settings_dict['NAME']}")

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:  # noqa: ARG002 - Django's signature
        name = self._get_test_db_name()
        directory = _enter(name, keepdb=keepdb)
        self.connection.settings_dict["TEST"][_DIRECTORY_KEY] = str(directory)
        return name

    def _destroy_test_db(self, test_database_name: str, verbosity: int) -> None:  # noqa: ARG002
        _remove_tag(test_database_name)
        _leave(test_database_name)

    # Copies for the processes of `test --parallel` ----------------------------------------------

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:  # noqa: ARG002
        source = self.connection.settings_dict["NAME"]
        target = self.get_test_db_clone_settings(suffix)["NAME"]
        engine = graft_vfs.register()
        if not keepdb or target not in {report.tag for report in engine.tags()}:
            engine.fork(source, new_tag=target)

    def setup_worker_connection(self, _worker_id: int) -> None:
        """Open the copy of this worker process."""
        directory = self.connection.settings_dict["TEST"][_DIRECTORY_KEY]
        config = graft_vfs.register().config
        test_config = _test_config(config, Path(directory))
        if config != test_config:  # This process was spawned, and knows only the usual settings.
            graft_vfs.register(test_config)
        BaseDatabaseCreation.setup_worker_connection(self, _worker_id)


def _remove_tag(tag: str) -> None:
    with contextlib.suppress(NotFoundError):
        graft_vfs.register().remove_tag(tag)


@dataclasses.dataclass
class _TestEngine:
    """The engine of the test databases of this process, and what was there before it.

    It lives from the first test database to the last one, and with `--keepdb` for ever.
    """

    usual: Config
    temporary: tempfile.TemporaryDirectory[str] | None
    databases: set[str] = dataclasses.field(default_factory=set)


_test_engine: _TestEngine | None = None


def _enter(name: str, *, keepdb: bool) -> Path:
    """Register the engine of test databases for one more of them; return its data directory."""
    global _test_engine  # noqa: PLW0603 - so is the engine that is registered
    if _test_engine is None:
        usual = graft_vfs.register().config
        temporary = None if keepdb else tempfile.TemporaryDirectory(prefix="graft-test-")
        directory = Path(temporary.name) if temporary else usual.data_dir
        graft_vfs.register(_test_config(usual, directory))
        _test_engine = _TestEngine(usual, temporary)
    _test_engine.databases.add(name)
    return graft_vfs.register().config.data_dir


def _leave(name: str) -> None:
    """Give up the engine for one database; after the last one the usual engine comes back."""
    global _test_engine  # noqa: PLW0603
    if _test_engine is None or name not in _test_engine.databases:
        return  # It is a copy, which has no part in this.
    _test_engine.databases.remove(name)
    if _test_engine.databases:
        return
    graft_vfs.register().close()
    graft_vfs.register(_test_engine.usual)
    if _test_engine.temporary is not None:
        _test_engine.temporary.cleanup()
    _test_engine = None


def _test_config(usual: Config, directory: Path) -> Config:
    return dataclasses.replace(usual, data_dir=directory, remote=RemoteConfig())
