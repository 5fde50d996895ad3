"""When a store answered a request, by its own clock: `Date`, as decision 19 needs it.

    with answered(key) as answer:
        data = store.get_range(key, 0, 100)
    answer.date_ms

A block learns of the last answer that its thread got for its key, whatever the answer was. So no
call of a store has another parameter, and what wraps a store passes dates on unknowingly. A store
that says nothing has no dates.

An answer from a cache has no date: it was given when the cache first asked, or at any time since.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

from graft_vfs.times import parse_http_date


class Answered:
    """What is known of the last answer for a key. Owner: the thread of its block."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.is_cached = False
        """Whether a cache answered, in place of the store."""
        self._read: Callable[[], int | None] = _no_date

    @property
    def date_ms(self) -> int | None:
        """The store's time of the answer in milliseconds since 1970; None if it did not say."""
        return None if self.is_cached else self._read()

    def note(self, read: Callable[[], int | None], *, is_cached: bool = False) -> None:
        """Replace what an earlier attempt noted; `read` is called when the date is needed."""
        self._read, self.is_cached = read, is_cached


class _Thread(threading.local):
    answer: Answered | None = None


_thread = _Thread()


@contextlib.contextmanager
def answered(key: str) -> Iterator[Answered]:
    """Learn of this thread's last answer for `key` inside the block."""
    former, _thread.answer = _thread.answer, Answered(key)
    try:
        yield _thread.answer
    finally:
        _thread.answer = former


def note_time(key: str, read: Callable[[], int | None]) -> None:
    """Note an answer of a store without headers; `read` returns its time, None if unknown."""
    answer = _thread.answer
    if answer is not None and answer.key == key:
        answer.note(read)


def note_headers(key: str, headers: Mapping[str, str]) -> None:
    """Note the headers of an HTTP response."""
    answer = _thread.answer
    if answer is not None and answer.key == key:
        date = headers.get("date")
        answer.note(lambda: _parsed(date), is_cached=headers.get("age") is not None)


def _parsed(date: str | None) -> int | None:
    try:
        return None if date is None else round(parse_http_date(date).timestamp() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None  # The server's text.


def _no_date() -> None:
    return None
