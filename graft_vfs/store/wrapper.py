"""A store that forwards every call to another one; a base for stores that change one thing.

    class CountingStore(WrapperStore):
        def request(self, verb, key, send):
            print(verb, key)
            return send()

Tests, benchmarks and programs use it to fail, delay or record requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from graft_vfs.store.base import (
    GET_LIMIT_BYTES,
    Buffer,
    ObjectInfo,
    ObjectStore,
    PutOutcome,
    Sent,
    Take,
    Verb,
)

T = TypeVar("T")


class WrapperStore(ObjectStore):
    """Forwards each call to `inner`, which it owns and closes; both have the same counts.

    Every call goes through `request`; a subclass overrides it, or single methods.
    """

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__()
        self.inner = inner
        self.counters = inner.counters
        self.can_list, self.can_write = inner.can_list, inner.can_write

    def request(self, verb: Verb, key: str, send: Callable[[], T]) -> T:  # noqa: ARG002
        """Run one call; `send` forwards it to the inner store and returns the result.

        `key` is that of the object, the prefix of a listing, or "" for several objects. A listing's
        result is an iterator, which sends requests as it advances. `replace` is a "put".
        """
        return send()

    def get(self, key: str, *, limit_bytes: int = GET_LIMIT_BYTES) -> bytes:
        """Pass on; see ObjectStore.get."""
        return self.request("get", key, lambda: self.inner.get(key, limit_bytes=limit_bytes))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Pass on; see ObjectStore.get_range."""
        return self.request("get_range", key, lambda: self.inner.get_range(key, start, length))

    def stream_range(self, key: str, start: int, length: int, take: Take) -> int:
        """Pass on; see ObjectStore.stream_range."""
        return self.request(
            "get_range", key, lambda: self.inner.stream_range(key, start, length, take)
        )

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        """Pass on; see ObjectStore.put_if_absent."""
        return self.request("put_if_absent", key, lambda: self.inner.put_if_absent(key, data))

    def put(self, key: str, data: Sequence[Buffer], *, sent: Sent | None = None) -> None:
        """Pass on; see ObjectStore.put."""
        self.request("put", key, lambda: self.inner.put(key, data, sent=sent))

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Pass on; see ObjectStore.replace."""
        return self.request("put", key, lambda: self.inner.replace(key, old, new))

    def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Iterator[ObjectInfo]:
        """Pass on; see ObjectStore.list."""
        return self.request(
            "list", prefix, lambda: self.inner.list(prefix, start_after=start_after, limit=limit)
        )

    def delete(self, key: str) -> None:
        """Pass on; see ObjectStore.delete."""
        self.request("delete", key, lambda: self.inner.delete(key))

    def delete_many(self, keys: Iterable[str]) -> None:
        """Pass on; see ObjectStore.delete_many."""
        self.request("delete", "", lambda: self.inner.delete_many(keys))

    def clock_ahead_seconds(self) -> float | None:
        """Return the inner store's value."""
        return self.inner.clock_ahead_seconds()

    def describe(self) -> str:
        """Return the inner store's name."""
        return self.inner.describe()

    def __str__(self) -> str:
        """Return the inner store's name, without work."""
        return str(self.inner)

    def close(self) -> None:
        """Close the inner store."""
        super().close()
        self.inner.close()
