"""The remotes of one data directory: the configured one, and those that the catalog names.

A log lives on one of them, and every request about the log goes there. The catalog decides, and is
asked by each verb, so that a remote that another process has moved is used from the next verb on.
A page is read without asking it: by what the last verb found.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol

from graft_vfs.ids import LogId
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.none import NoStore
from graft_vfs.store.urls import RemoteUrl, parse


class Opener(Protocol):
    """Opens remotes by their URLs, with the settings of the configuration."""

    def completed(self, url: RemoteUrl) -> RemoteUrl:
        """Return a URL with what the configuration says of all remotes of its kind."""
        ...

    def configured_url(self) -> RemoteUrl | None:
        """Return the URL of the configured remote, None if it has none."""
        ...

    def open(self, url: RemoteUrl) -> ObjectStore:
        """Open a remote, which is not made; no request. Raises ConfigError, StoreError."""
        ...


class Remotes:
    """Owner: the engine. Thread rule: any thread. A store is opened when it is first needed.

    All of them have the counters of the configured one: they count what an engine does.
    """

    def __init__(self, catalog: Catalog, default: ObjectStore, opener: Opener) -> None:
        self.default = default
        self.opener = opener
        self._catalog = catalog
        self._lock = threading.RLock()
        self._stores: dict[str, ObjectStore] = {}
        self._found: dict[LogId, ObjectStore] = {}

    def at(self, url: str) -> ObjectStore:
        """Return the remote at a URL. No request. Raises UsageError, ConfigError, StoreError."""
        with self._lock:
            store = self._stores.get(url)
            if store is None:
                store = self.opener.open(parse(url)[0])
                store.counters = self.default.counters
                self._stores[url] = store
            return store

    def named(self, name: str) -> ObjectStore | None:
        """Return a remote by its name in the catalog, None if none has it. No request."""
        url = dict(self._catalog.remotes.all()).get(name)
        return None if url is None else self.at(url)

    def of(self, log_id: LogId) -> ObjectStore:
        """Return the remote that a log lives on, as the catalog says. No request."""
        row = self._catalog.remotes.of_log(log_id)
        store = self.default if row is None else self.at(row[1])
        self._found[log_id] = store
        return store

    def url_of(self, log_id: LogId) -> RemoteUrl | None:
        """Return the URL of the remote that a log lives on, None if it has none. No request."""
        row = self._catalog.remotes.of_log(log_id)
        return self.opener.configured_url() if row is None else parse(row[1])[0]

    def url_of_ref(self, log_id: LogId) -> str | None:
        """Return a URL that other machines can clone a log by, None if it has none. No request.

        It has a ref that is known here, else the log id.
        """
        url, store = self.url_of(log_id), self.of(log_id)
        if url is None:
            return None
        refs = [name for name, log in self._catalog.known_refs(store.describe()) if log == log_id]
        return url.with_ref(min(refs, default=str(log_id)))

    def has(self, log_id: LogId) -> bool:
        """Return True if a log lives on a remote. No request, and nothing is opened."""
        is_configured = not isinstance(self.default, NoStore)
        return is_configured or self._catalog.remotes.of_log(log_id) is not None

    def last_of(self, log_id: LogId) -> ObjectStore:
        """Return the remote that a log lived on when `of` was called last."""
        return self._found.get(log_id) or self.of(log_id)

    def inherit(self, log_id: LogId, relative: LogId) -> None:
        """Have a log that nothing is known of live where a relative does."""
        row = self._catalog.remotes.of_log(relative)
        if row != self._catalog.remotes.of_log(log_id) and not self._catalog.knows_log(log_id):
            self._catalog.remotes.place([log_id], None if row is None else row[0])

    def all(self) -> list[tuple[str, ObjectStore]]:
        """Return (name, store) of those that the catalog names. No request."""
        return [(name, self.at(url)) for name, url in self._catalog.remotes.all()]

    def opened(self) -> Iterable[ObjectStore]:
        """Return the stores that are open, the configured one first."""
        with self._lock:
            return [self.default, *self._stores.values()]

    def close(self) -> None:
        """Close all stores."""
        for store in self.opened():
            store.close()
