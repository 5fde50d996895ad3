"""Dates of answers: only the store's own, of the last answer to a key, in the thread that asked."""

from __future__ import annotations

import threading

import pytest

from graft_vfs.store.dates import answered, note_headers, note_time
from graft_vfs.store.directory import DirectoryStore
from graft_vfs.store.memory import MemoryObjects, MemoryStore

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
MS = 784_111_777_000


def test_a_date_is_in_milliseconds():
    with answered("k") as answer:
        assert answer.date_ms is None
        note_headers("k", {"date": DATE})
    assert answer.date_ms == MS


@pytest.mark.parametrize("headers", [{}, {"date": ""}, {"date": "yesterday"}, {"date": "1"}])
def test_an_answer_without_a_date_takes_that_of_an_earlier_attempt_away(headers):
    with answered("k") as answer:
        note_headers("k", {"date": DATE})
        note_headers("k", headers)
    assert (answer.date_ms, answer.is_cached) == (None, False)


def test_the_answer_of_a_cache_has_no_date():
    with answered("k") as answer:
        note_headers("k", {"date": DATE, "age": "0"})
    assert (answer.date_ms, answer.is_cached) == (None, True)


def test_answers_about_other_keys_of_other_threads_and_of_inner_blocks_do_not_count():
    with answered("k") as answer:
        note_time("k", lambda: 1)
        note_time("other", lambda: 2)
        with answered("k") as inner:
            note_time("k", lambda: 3)
        thread = threading.Thread(target=note_time, args=("k", lambda: 4))
        thread.start()
        thread.join()
    note_time("k", lambda: 5)
    assert (answer.date_ms, inner.date_ms) == (1, 3)


def test_memory_has_a_clock_that_tests_set():
    objects = MemoryObjects()
    objects.clock = lambda: 5.0
    store = MemoryStore(objects)
    with answered("k") as answer:
        store.put_if_absent("k", b"")
        objects.clock = lambda: 7.0
    assert answer.date_ms == 5000
    assert [found.modified for found in store.list("k")] == [5.0]


def test_a_directory_on_another_machine_has_no_clock(tmp_path, monkeypatch):
    store = DirectoryStore(tmp_path)
    with answered("k") as answer:
        store.put_if_absent("k", b"")
    assert answer.date_ms is not None
    with monkeypatch.context() as patch:
        patch.setattr("graft_vfs.store.directory.mount_of", lambda _: None)
        assert answer.date_ms is None
