"""A store in the memory of this process, for tests, demonstrations and `type = "memory"`.

Invariants:

1. Objects change only under their lock, so only one thread creates a key.
2. Stored bytes are private copies: no caller can change an object in place.

Handles with the same name share their objects for the life of the process. A crash leaves nothing.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from graft_vfs.reentry import occupied
from graft_vfs.store.base import (
    GET_LIMIT_BYTES,
    Buffer,
    ObjectInfo,
    ObjectStore,
    PutOutcome,
    Sent,
    check_key,
    check_limit,
    check_prefix,
    check_range,
)
from graft_vfs.store.dates import note_time


class MemoryObjects:
    """The objects that handles share, guarded by `lock`; `clock` gives the time of each request.

    Named objects live as long as the process; others as long as a handle uses them.
    """

    __slots__ = ("by_key", "clock", "lock", "modified", "name")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.lock = threading.Lock()
        self.clock: Callable[[], float] = time.time
        self.by_key: dict[str, bytes] = {}
        self.modified: dict[str, float] = {}

    def write(self, key: str, data: bytes) -> None:
        """Store an object; the caller holds the lock."""
        self.by_key[key] = data
        self.modified[key] = self.clock()

    def note_time(self, key: str) -> None:
        """Note when a request for a key was carried out; the caller holds the lock."""
        now_ms = int(self.clock() * 1000)
        note_time(key, lambda: now_ms)

    @classmethod
    def named(cls, name: str) -> MemoryObjects:
        """Return the objects with this name in this process, always the same instance."""
        with _named_lock:
            return _named.setdefault(name, cls(name))


_named: dict[str, MemoryObjects] = {}
_named_lock = threading.Lock()


class MemoryStore(ObjectStore):
    """A handle on objects in memory.

    `MemoryStore()` has its own objects; `MemoryStore.named(name)` shares them with every other
    handle of that name in the process. Each handle has its own counts. Any thread may use it.
    """

    def __init__(self, objects: MemoryObjects | None = None) -> None:
        super().__init__()
        self._objects = MemoryObjects() if objects is None else objects

    @classmethod
    def named(cls, name: str) -> MemoryStore:
        """Return a new handle on the objects with this name in this process."""
        return cls(MemoryObjects.named(name))

    def get(self, key: str, *, limit_bytes: int = GET_LIMIT_BYTES) -> bytes:
        """Return the whole object; see ObjectStore.get."""
        return self._counted_object(key, self._find(check_key(key)), limit_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return part of an object; see ObjectStore.get_range."""
        check_range(start, length)
        data = self._find(check_key(key))
        return self._counted_read("get_range", key, data and data[start : start + length])

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        """Create an object unless its key exists; see ObjectStore.put_if_absent."""
        self._check_open()
        check_key(key)
        self.counters.add("put_if_absent", bytes_sent=len(data))
        with occupied(), self._objects.lock:
            self._objects.note_time(key)
            if key in self._objects.by_key:
                return PutOutcome.EXISTS
            self._objects.write(key, bytes(data))
        return PutOutcome.CREATED

    def put(self, key: str, data: Sequence[Buffer], *, sent: Sent | None = None) -> None:
        """Write an object; see ObjectStore.put."""
        self._check_open()
        check_key(key)
        joined = b"".join(data)
        with occupied(), self._objects.lock:
            self._objects.note_time(key)
            self._objects.write(key, joined)
        self.counters.add("put", bytes_sent=len(joined))
        if sent is not None:
            sent(len(joined), len(joined))

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Replace an object that has the expected bytes; see ObjectStore.replace."""
        held = self.get(key, limit_bytes=max(len(old), len(new)))
        if held != old:
            return held == new
        with occupied(), self._objects.lock:
            is_same = self._objects.by_key.get(key) == old
            if is_same:
                self._objects.write(key, bytes(new))
        self.counters.add("put", bytes_sent=len(new))
        return is_same

    def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Iterator[ObjectInfo]:
        """Yield objects in order, as they were at the first step; see ObjectStore.list."""
        self._check_open()
        check_prefix(prefix)
        after = check_prefix(start_after or "")
        if check_limit(limit) == 0:
            return iter(())
        return self._counted_pages(itertools.islice(self._sorted(prefix, after), limit))

    def delete(self, key: str) -> None:
        """Remove an object; see ObjectStore.delete."""
        self._check_open()
        check_key(key)
        with occupied(), self._objects.lock:
            self._objects.by_key.pop(key, None)
        self.counters.add("delete")

    def describe(self) -> str:
        """Return `memory://<name>`."""
        return f"memory://{self._objects.name}"

    def _find(self, key: str) -> bytes | None:
        self._check_open()
        with occupied(), self._objects.lock:
            self._objects.note_time(key)
            return self._objects.by_key.get(key)

    def _sorted(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        objects = self._objects
        with occupied(), objects.lock:
            objects.note_time(prefix)
            found = [
                ObjectInfo(key, len(data), objects.modified.get(key))
                for key, data in objects.by_key.items()
                if key.startswith(prefix) and key > after
            ]
        yield from sorted(found)
