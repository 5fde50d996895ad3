"""The catalog's remotes: names and URLs, and which log lives on which of them.

A log without a row lives on the remote of the configuration, which has no row either. A log never
lives on two: what is known of it, and what is cached, is known of one history.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import AlreadyExistsError, NotFoundError, UsageError
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.file import CatalogFile
from graft_vfs.local.catalog.rows import id_of, text_of

DEFAULT = "default"
"""What people call the remote of the configuration."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_NOT_OF_NAMES = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


class RemoteRows:
    """Owner: the catalog. Thread rule: any thread."""

    def __init__(self, file: CatalogFile) -> None:
        self._file = file

    def all(self) -> list[tuple[str, str]]:
        """Return (name, URL) of all remotes, by name."""
        if not self._file.has_table("log_remotes"):
            return []
        rows = self._file.rows("SELECT name, url FROM remotes ORDER BY name")
        return [(text_of(name), text_of(url)) for name, url in rows]

    def of_log(self, log_id: LogId) -> tuple[str, str] | None:
        """Return (name, URL) of the remote that a log lives on, None for the configured one."""
        if not self._file.has_table("log_remotes"):
            return None
        rows = self._file.rows(
            "SELECT name, url FROM log_remotes JOIN remotes ON name = remote WHERE log = ?",
            log_id.raw,
        )
        return (text_of(rows[0][0]), text_of(rows[0][1])) if rows else None

    def logs_on(self, name: str) -> list[LogId]:
        """Return the logs that live on a remote other than the configured one."""
        if not self._file.has_table("log_remotes"):
            return []
        rows = self._file.rows("SELECT log FROM log_remotes WHERE remote = ? ORDER BY log", name)
        return [id_of(LogId, raw) for (raw,) in rows]

    def add(self, name: str, url: str) -> None:
        """Give a remote a name; raises AlreadyExistsError if it names another, UsageError."""
        check_name(name)
        with self._file.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO remotes VALUES(?, ?)", (name, url))
            named = dict(self.all())[name]
        if named != url:
            raise AlreadyExistsError(
                f"remote {name!r} is {named}",
                next_step=Hint("choose another name, or use ", Advice.SET_URL(REMOTE=name)),
            )

    def set_url(self, name: str, url: str) -> None:
        """Say where a remote is now; raises NotFoundError."""
        with self._file.transaction() as connection:
            connection.execute("UPDATE remotes SET url = ? WHERE name = ?", (url, name))
            if not connection.changes():
                raise no_remote(name)

    def place(self, logs: Iterable[LogId], name: str | None) -> None:
        """Say on which remote logs live, None for the configured one."""
        with self._file.transaction() as connection:
            for log_id in logs:
                if name is None:
                    connection.execute("DELETE FROM log_remotes WHERE log = ?", (log_id.raw,))
                else:
                    sql = "INSERT OR REPLACE INTO log_remotes VALUES(?, ?)"
                    connection.execute(sql, (log_id.raw, name))

    def place_at(self, log_id: LogId, url: str, hint: str) -> str:
        """Say at which URL a log lives; returns the remote's name, like `hint` if it is new."""
        with self._file.transaction() as connection:
            known = {url: name for name, url in reversed(self.all())}
            name = known.get(url)
            if name is None:
                name = _free_name(hint, set(known.values()))
                connection.execute("INSERT INTO remotes VALUES(?, ?)", (name, url))
            connection.execute(
                "INSERT OR REPLACE INTO log_remotes VALUES(?, ?)", (log_id.raw, name)
            )
        return name


def check_name(name: str) -> str:
    """Return the name of a remote; raises UsageError if it cannot be one."""
    if not _NAME.fullmatch(name) or name == DEFAULT:
        raise UsageError(
            f"{name[:64]!r} cannot name a remote",
            next_step="use up to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit, and not "
            f"{DEFAULT!r}, which is the configured one",
        )
    return name


def no_remote(name: str) -> NotFoundError:
    """Return the error for a name that no remote has."""
    return NotFoundError(
        f"there is no remote {name[:64]!r}", next_step=Hint("see ", Advice.LIST_REMOTES)
    )


def _free_name(hint: str, taken: set[str]) -> str:
    base = _NOT_OF_NAMES.sub("-", hint).strip(".-_")[:48] or "remote"
    number, name = 1, base
    while name in taken or name == DEFAULT:
        number += 1
        name = f"{base}-{number}"
    return name
