"""What integrations share: a tag becomes the URI that `sqlite3` opens, and failures name a cause.

They build on `sqlite3` because the programs do; `graft_vfs.enable_sqlite3` makes that work.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from types import ModuleType

from graft_vfs.errors import UsageError
from graft_vfs.pager import unread
from graft_vfs.tags import check_tag
from graft_vfs.vfs import registry

PARAMETERS = ("remote", "lsn", "as_of", "mode")
"""The URI parameters that an integration passes on."""
_MODES = ("ro", "rw", "rwc")


def sqlite3_uri(tag: str, parameters: Mapping[str, str]) -> str:
    """Return the URI of a tag for `sqlite3.connect(…, uri=True)`.

    Raises InvalidTagError, and UsageError for a parameter or mode that is not known here: SQLite
    would take no notice of the first, and `mode=memory` would be a database that is not kept.
    """
    check_tag(tag)
    if tag == ":memory:":
        raise UsageError(
            "':memory:' is SQLite's name for a database in memory, which is no volume",
            next_step="choose another tag, or use plain SQLite",
        )
    unknown = sorted(set(parameters) - set(PARAMETERS))
    if unknown:
        raise UsageError(
            f"there is no parameter {unknown[0]!r} of a tag",
            next_step="known are " + ", ".join(PARAMETERS),
        )
    mode = parameters.get("mode", "rwc")
    if mode not in _MODES:
        raise UsageError(f"mode={mode} is no mode", next_step="use one of " + ", ".join(_MODES))
    return registry.uri(tag, **parameters)


@contextlib.contextmanager
def opening(module: ModuleType = sqlite3) -> Iterator[None]:
    """Let `connect` of `module` open tags inside the block, and say why it could not.

    `module` is `sqlite3` or another one with its interface. Raises what graft_vfs.register raises;
    in place of an OperationalError, another one with the cause of the failure and the next step in
    its text, which SQLite itself would only log.
    """
    registry.enable_sqlite3(module)
    registry.sqlite3_failure(module)  # Forget one that has nothing to do with this block.
    try:
        yield
    except module.OperationalError as error:
        cause = registry.sqlite3_failure(module)
        if cause is None:
            raise
        explained = module.OperationalError(f"{error}: {cause}")
        explained.sqlite_errorcode = error.sqlite_errorcode
        explained.sqlite_errorname = error.sqlite_errorname
        raise explained from error


def set_up(connection: sqlite3.Connection) -> None:
    """Choose the journal mode that costs least, as graft_vfs.connect does; reads no page."""
    for statement in unread.SET_UP:
        connection.execute(statement).close()
