"""A store that fails where a test wants it: before an effect, behind it, or for good.

An effect is a `put` or a `put_if_absent` that reaches the store. A test runs its scenario once to
count the effects, then once for each of them and each fault.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterator, Sequence

from graft_vfs.errors import CommitOutcomeUnknownError, StoreUnavailableError
from graft_vfs.store.base import GET_LIMIT_BYTES, Buffer, ObjectStore, PutOutcome


class ProcessStopped(BaseException):
    """The process ended here, as far as anybody can tell; nothing may catch this."""


class Fault(enum.Enum):
    """What happens at the effect that fails."""

    NOT_SENT = "nothing is written, and the store says so"
    LOST_REQUEST = "nothing is written, and nobody knows"
    LOST_ANSWER = "it is written, and nobody knows"
    CUT_BEFORE = "nothing is written, nobody knows, and the store stays unreachable"
    CUT_AFTER = "it is written, nobody knows, and the store stays unreachable"
    STOP_BEFORE = "the process stops before it is written"
    STOP_AFTER = "the process stops when it is written"


class FaultyStore(ObjectStore):
    """Passes everything to another store but for one fault at the n-th effect, counted from 0."""

    def __init__(
        self, inner: ObjectStore, *, at: int | None = None, fault: Fault | None = None
    ) -> None:
        super().__init__()
        self.inner = inner
        self.counters = inner.counters
        self.effects: list[str] = []
        self.is_stopped = False
        self.is_cut = False
        self.before_read: Callable[[str], None] | None = None
        self._at = at
        self._fault = fault
        self._lock = threading.Lock()

    def _effect(self, key: str, write: Callable[[], PutOutcome | None]) -> PutOutcome | None:
        self._check_running()
        with self._lock:
            number = len(self.effects)
            self.effects.append(key)
        fault = self._fault if number == self._at else None
        if fault is None:
            return write()
        if fault is Fault.NOT_SENT:
            raise StoreUnavailableError("a test cut the connection before the request")
        if fault in {Fault.LOST_ANSWER, Fault.CUT_AFTER, Fault.STOP_AFTER}:
            write()
        self.is_cut = fault in {Fault.CUT_BEFORE, Fault.CUT_AFTER}
        if fault in {Fault.STOP_BEFORE, Fault.STOP_AFTER}:
            self.is_stopped = True
            raise ProcessStopped
        if key.startswith("segments/"):
            raise StoreUnavailableError("a test cut the connection of an upload")
        raise CommitOutcomeUnknownError("a test cut the connection after the request")

    def _check_running(self) -> None:
        if self.is_stopped:
            raise ProcessStopped
        if self.is_cut:
            raise StoreUnavailableError("a test cut the line for good")

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        outcome = self._effect(key, lambda: self.inner.put_if_absent(key, data))
        assert outcome is not None
        return outcome

    def put(self, key: str, data: Sequence[Buffer]) -> None:
        self._effect(key, lambda: self.inner.put(key, data))

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        self._check_running()
        return self.inner.replace(key, old, new)

    def get(self, key: str, *, limit_bytes: int = GET_LIMIT_BYTES) -> bytes:
        self._reading(key)
        return self.inner.get(key, limit_bytes=limit_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._reading(key)
        return self.inner.get_range(key, start, length)

    def _reading(self, key: str) -> None:
        self._check_running()
        if self.before_read is not None:
            self.before_read(key)

    def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        self._check_running()
        return self.inner.list(prefix, start_after=start_after, limit=limit)

    def delete(self, key: str) -> None:
        self._check_running()
        self.inner.delete(key)

    def describe(self) -> str:
        return self.inner.describe()

    def close(self) -> None:
        super().close()
        self.inner.close()
