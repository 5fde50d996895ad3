"""The line between one machine and the remote: it can fail where a test wants, or deliver late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graft_vfs.store.base import ObjectStore, PutOutcome
from tests.support.faults import Fault, FaultyStore

KINDS = ("probe", "segments", "logs", "refs")
"""What a sync writes, by the first part of the key."""

_TABLES = "tables"
_UNWRITTEN = frozenset({Fault.LOST_REQUEST, Fault.CUT_BEFORE, Fault.STOP_BEFORE})
"""Faults at which nothing is written. The request may still be under way, and arrive later."""


@dataclass(frozen=True)
class Line:
    """How the line behaves during one verb.

    The first effect of a kind, or the second if `skips_one`, meets the fault. With `is_doubling`
    every commit is sent twice, and only the second answer comes back.
    """

    fault: Fault | None = None
    kind: str = "logs"
    skips_one: bool = False
    arrives_late: bool = False
    is_doubling: bool = False


class Network(FaultyStore):
    """A faulty store with another line for each verb.

    Writes that arrive late are put on `under_way`, as (key, bytes). `before_claim` is called once
    before the next commit is written: what happens elsewhere while a push runs.
    """

    def __init__(self, inner: ObjectStore, under_way: list[tuple[str, bytes]]) -> None:
        super().__init__(inner)
        self.before_claim: Callable[[], None] | None = None
        self._under_way = under_way
        self._line = Line()
        self._first = 0

    def begin(self, line: Line, before_claim: Callable[[], None] | None = None) -> None:
        """Begin a verb."""
        self._line = line
        self._fault = line.fault
        self._at = None
        self._first = len(self.effects)
        self.before_claim = before_claim

    def end(self) -> list[tuple[str, Fault | None]]:
        """End the verb, repair the line, and return its effects as (kind, fault met there).

        Without tables: a push writes them when it is done, and succeeds without them.
        """
        found: list[tuple[str, Fault | None]] = []
        for number, key in enumerate(self.effects[self._first :], self._first):
            if _kind(key) != _TABLES:
                found.append((_kind(key), self._fault if number == self._at else None))
        self.begin(Line())
        self.is_cut = False
        return found

    def _effect(self, key: str, write: Callable[[], PutOutcome | None]) -> PutOutcome | None:
        line, kind = self._line, _kind(key)
        if line.fault is not None and self._at is None and kind == line.kind:
            before = [_kind(each) for each in self.effects[self._first :]].count(kind)
            if before == line.skips_one:
                self._at = len(self.effects)
        return super()._effect(key, write)

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        if _kind(key) != "logs":
            return self._put_late(key, data)
        if self.before_claim is not None:
            happening, self.before_claim = self.before_claim, None
            happening()
        if self._line.is_doubling and self._line.fault is None:
            self.inner.put_if_absent(key, data)
        return self._put_late(key, data)

    def _put_late(self, key: str, data: bytes) -> PutOutcome:
        """Write, and if the request got lost perhaps let it arrive later."""
        number = len(self.effects)
        try:
            return super().put_if_absent(key, data)
        finally:
            is_lost = number == self._at and self._fault in _UNWRITTEN
            if is_lost and self._line.arrives_late:
                self._under_way.append((key, data))


def _kind(key: str) -> str:
    return _TABLES if f"/{_TABLES}/" in key else key.split("/", maxsplit=1)[0]
