"""A store that fails at a chosen point: before an effect, after it, or permanently.

An effect is a `put` or a `put_if_absent` that reaches the store. A test runs its scenario once to
count the effects, then once for each of them and each fault.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import TypeVar

from graft_vfs.errors import CommitOutcomeUnknownError, StoreUnavailableError
from graft_vfs.store.base import ObjectStore, Verb
from graft_vfs.testing import WrapperStore

T = TypeVar("T")


class ProcessStopped(BaseException):
    """Simulates the end of the process; nothing may catch this."""


class Fault(enum.Enum):
    """The fault at the chosen effect."""

    NOT_SENT = "nothing is written, and the store reports it"
    LOST_REQUEST = "nothing is written, and the outcome is unknown"
    LOST_ANSWER = "it is written, and the outcome is unknown"
    CUT_BEFORE = "nothing is written, the outcome is unknown, and the store stays unreachable"
    CUT_AFTER = "it is written, the outcome is unknown, and the store stays unreachable"
    STOP_BEFORE = "the process stops before it is written"
    STOP_AFTER = "the process stops when it is written"


class FaultyStore(WrapperStore):
    """Forwards to another store, with one fault at the n-th effect, counted from 0."""

    def __init__(
        self, inner: ObjectStore, *, at: int | None = None, fault: Fault | None = None
    ) -> None:
        super().__init__(inner)
        self.effects: list[str] = []
        self.is_stopped = False
        self.is_cut = False
        self.before_read: Callable[[str], None] | None = None
        self._at = at
        self._fault = fault
        self._lock = threading.Lock()

    def request(self, verb: Verb, key: str, send: Callable[[], T]) -> T:
        if self.is_stopped:
            raise ProcessStopped
        if self.is_cut:
            raise StoreUnavailableError("a test cut the line for good")
        if verb in {"put", "put_if_absent"}:
            return self._effect(key, send)
        if verb in {"get", "get_range"} and self.before_read is not None:
            self.before_read(key)
        return send()

    def _effect(self, key: str, write: Callable[[], T]) -> T:
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
