"""What every object store must do: a suite that the author of a store inherits.

    import pytest
    from graft_vfs.testing.store_contract import StoreContract, ThreadRaces

    class TestMyStore(StoreContract, ThreadRaces):
        @pytest.fixture
        def store(self, tmp_path):      # a fresh, empty store
            return MyStore(tmp_path)

        @pytest.fixture
        def again(self, tmp_path):      # another handle on the same objects
            return MyStore(tmp_path)

`ThreadRaces` is for a store that promises a single winner of each key, which every store must that
several writers push to. The suite asks for more than 3000 requests, most of them of a few bytes.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from graft_vfs.errors import CorruptObjectError, GraftError, ObjectMissingError, UsageError
from graft_vfs.store import ObjectStore, PutOutcome, StoreCounts
from graft_vfs.store.dates import answered

PATIENCE_SECONDS = 120
"""How long racers wait for one another; some servers let one through each second."""

BAD_KEYS = [
    "", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/./b", "../a", "a b", "a\n", "a\0b", "ä",
    "a\\b", "a#b", "a?b", "a+b", "k" * 1025,
]  # fmt: skip
MIXED_KEYS = ["a-b/c", "a.b/c", "a/b", "a/b-c", "a/c", "a0", "aa/b", "a~", "b", "b-/%20"]
"""Every key that a walk through folders is likely to misplace; sorted as bytes."""


def race_for_a_key(store: ObjectStore, number: int, racer: int) -> str:
    """Try to create the key of a round; returns the outcome's name, or what went wrong.

    An error is judged with the outcomes: a racer that ended here would only stall the others.
    """
    try:
        return store.put_if_absent(f"race/{number}", b"%d" % racer).name
    except GraftError as error:
        return str(error)


class StoreContract:
    """Tests of one store, from one process and without races."""

    # Single objects

    def test_an_object_is_read_as_it_was_written(self, store: ObjectStore) -> None:
        data = bytes(range(256)) * 9
        store.put("logs/a/commits/0f", [data])
        assert store.get("logs/a/commits/0f") == data

    def test_buffers_become_one_object_in_their_order(self, store: ObjectStore) -> None:
        store.put("k", [b"one", memoryview(b"-two-"), b"", bytearray(b"three")])
        assert store.get("k") == b"one-two-three"

    def test_wide_memory_views_are_taken_as_bytes(self, store: ObjectStore) -> None:
        store.put("k", [memoryview(b"12345678").cast("I")])
        assert store.get("k") == b"12345678"

    def test_an_object_may_be_empty(self, store: ObjectStore) -> None:
        store.put("k", [])
        assert store.get("k") == b""
        assert store.get_range("k", 0, 10) == b""

    def test_put_says_how_much_has_arrived(self, store: ObjectStore) -> None:
        told: list[tuple[int, int]] = []
        store.put("a/b", [b"12", b"345"], sent=lambda done, total: told.append((done, total)))
        assert told[-1] == (5, 5)

    def test_put_overwrites(self, store: ObjectStore) -> None:
        store.put("k", [b"a longer first version"])
        store.put("k", [b"second"])
        assert store.get("k") == b"second"

    def test_keys_hold_all_allowed_characters(self, store: ObjectStore) -> None:
        key = "A-Z/a.z/0_9/~%2F%25/...hidden"
        store.put(key, [b"x"])
        assert store.get(key) == b"x"
        assert list(store.keys("")) == [key]

    def test_another_handle_sees_the_same_objects(
        self, store: ObjectStore, again: ObjectStore
    ) -> None:
        assert store.put_if_absent("k", b"x") is PutOutcome.CREATED
        assert again.get("k") == b"x"
        assert again.put_if_absent("k", b"y") is PutOutcome.EXISTS
        again.delete("k")
        with pytest.raises(ObjectMissingError):
            store.get("k")

    def test_a_changed_buffer_does_not_change_the_object(self, store: ObjectStore) -> None:
        buffer = bytearray(b"before")
        store.put("k", [buffer])
        buffer[:] = b"after!"
        assert store.get("k") == b"before"

    def test_absent_objects_are_missing_by_name(self, store: ObjectStore) -> None:
        store.put("k/there", [b"x"])
        for key in ("absent", "k", "k/absent", "k/there/below"):
            with pytest.raises(ObjectMissingError) as caught:
                store.get(key)
            assert caught.value.key == key
            with pytest.raises(ObjectMissingError):
                store.get_range(key, 0, 1)

    def test_what_is_no_key_is_refused_before_any_request(self, store: ObjectStore) -> None:
        before = store.counters.snapshot()
        for key in BAD_KEYS:
            for call in (
                lambda key=key: store.get(key),
                lambda key=key: store.get_range(key, 0, 1),
                lambda key=key: store.put_if_absent(key, b""),
                lambda key=key: store.put(key, []),
                lambda key=key: store.delete(key),
            ):
                with pytest.raises(UsageError):
                    call()
        assert store.counters.snapshot() == before

    # Bounded reads

    def test_ranges(self, store: ObjectStore) -> None:
        store.put("k", [b"0123456789"])
        assert store.get_range("k", 0, 1) == b"0"
        assert store.get_range("k", 0, 10) == b"0123456789"
        assert store.get_range("k", 0, 11) == b"0123456789"
        assert store.get_range("k", 3, 4) == b"3456"
        assert store.get_range("k", 9, 1) == b"9"
        assert store.get_range("k", 8, 100) == b"89"
        assert store.get_range("k", 10, 1) == b""
        assert store.get_range("k", 1000, 1000) == b""

    def test_a_streamed_range_is_the_range_in_pieces(self, store: ObjectStore) -> None:
        data = bytes(range(256)) * 4096
        store.put("k", [data])
        before = store.counters.snapshot()
        for start, length in [(0, 1), (7, 700_000), (0, len(data)), (len(data) - 3, 10)]:
            pieces: list[bytes] = []
            expected = data[start : start + length]
            assert store.stream_range("k", start, length, pieces.append) == len(expected)
            assert b"".join(pieces) == expected
        pieces.clear()
        assert store.stream_range("k", len(data), 1, pieces.append) == 0
        used = store.counters.snapshot() - before
        assert used.requests == used.get_range == 5
        assert used.bytes_received == 1 + 700_000 + len(data) + 3
        with pytest.raises(ObjectMissingError):
            store.stream_range("absent", 0, 1, pieces.append)
        assert pieces == []

    def test_what_takes_a_streamed_range_may_end_it(self, store: ObjectStore) -> None:
        store.put("k", [bytes(1_000_000)])

        def take(piece: bytes) -> None:
            raise UsageError(f"{len(piece)} bytes are enough")

        before = store.counters.snapshot()
        with pytest.raises(UsageError, match="are enough"):
            store.stream_range("k", 0, 1_000_000, take)
        assert (store.counters.snapshot() - before).requests == 1
        assert store.get_range("k", 999_999, 10) == b"\0"

    def test_what_is_no_range_is_refused(self, store: ObjectStore) -> None:
        for start, length in [(-1, 1), (0, 0), (0, -1)]:
            with pytest.raises(UsageError):
                store.get_range("k", start, length)
            with pytest.raises(UsageError):
                store.stream_range("k", start, length, print)

    def test_an_object_above_the_limit_is_not_read(self, store: ObjectStore) -> None:
        store.put("some/key", [b"x" * 1000])
        assert len(store.get("some/key", limit_bytes=1000)) == 1000
        with pytest.raises(CorruptObjectError, match="some/key"):
            store.get("some/key", limit_bytes=999)
        assert store.get("some/key") == b"x" * 1000, "the handle is usable afterwards"

    def test_large_objects(self, store: ObjectStore) -> None:
        # Three parts on S3, with buffers that end inside, at and across the borders of parts.
        mib = 1024 * 1024
        sizes = [1, 8 * mib - 1, 3 * mib + 7, 0, 5 * mib - 7, 12345]
        buffers = [bytes([number + 65]) * size for number, size in enumerate(sizes)]
        store.put("large", buffers)
        whole = b"".join(buffers)
        assert store.get("large") == whole
        assert store.get_range("large", 8 * mib - 5, 10) == whole[8 * mib - 5 : 8 * mib + 5]
        assert store.get_range("large", len(whole) - 3, 10) == whole[-3:]
        store.put("large", [b"small again"])
        assert store.get("large") == b"small again"

    # Create-only writes

    def test_a_key_is_created_once(self, store: ObjectStore) -> None:
        assert store.put_if_absent("claims/1", b"first") is PutOutcome.CREATED
        assert store.put_if_absent("claims/1", b"second") is PutOutcome.EXISTS
        assert store.put_if_absent("claims/1", b"first") is PutOutcome.EXISTS
        assert store.get("claims/1") == b"first"

    def test_a_key_that_was_put_exists(self, store: ObjectStore) -> None:
        store.put("k", [b"x"])
        assert store.put_if_absent("k", b"y") is PutOutcome.EXISTS
        assert store.get("k") == b"x"

    def test_an_empty_object_is_created_once(self, store: ObjectStore) -> None:
        assert store.put_if_absent("k", b"") is PutOutcome.CREATED
        assert store.put_if_absent("k", b"") is PutOutcome.EXISTS

    def test_a_deleted_key_can_be_created_again(self, store: ObjectStore) -> None:
        store.put_if_absent("k", b"x")
        store.delete("k")
        assert store.put_if_absent("k", b"y") is PutOutcome.CREATED
        assert store.get("k") == b"y"

    # Replacing, for repairs

    def test_an_object_is_replaced_if_it_is_as_expected(self, store: ObjectStore) -> None:
        store.put_if_absent("k", b"damaged")
        assert store.replace("k", b"damaged", b"the true bytes")
        assert store.get("k") == b"the true bytes"
        assert store.replace("k", b"damaged", b"the true bytes"), "another machine may have done it"
        assert store.get("k") == b"the true bytes"

    def test_an_object_that_is_not_as_expected_stays(self, store: ObjectStore) -> None:
        store.put_if_absent("k", b"another")
        before = store.counters.snapshot()
        assert not store.replace("k", b"damaged", b"the true bytes")
        difference = store.counters.snapshot() - before
        assert (difference.get, difference.requests) == (1, 1)
        assert store.get("k") == b"another"
        store.put("k", [b"much longer than both of what is asked for"])
        with pytest.raises(CorruptObjectError):
            store.replace("k", b"damaged", b"the true bytes")

    def test_an_absent_object_is_not_replaced(self, store: ObjectStore) -> None:
        with pytest.raises(ObjectMissingError):
            store.replace("k", b"damaged", b"the true bytes")
        assert list(store.keys("")) == []

    # Deleting

    def test_delete_many_removes_those_that_are_named(self, store: ObjectStore) -> None:
        for key in ("d/a", "d/ab", "d/b", "e"):
            store.put(key, [b"x"])
        before = store.counters.snapshot()
        store.delete_many(iter(["d/a", "absent", "e"]))
        store.delete_many([])
        assert (store.counters.snapshot() - before).requests <= 3
        assert list(store.keys("")) == ["d/ab", "d/b"]
        with pytest.raises(UsageError, match="key"):
            store.delete_many(["d/ab", "../d/b"])

    def test_delete_removes_one_object(self, store: ObjectStore) -> None:
        store.put("d/a", [b"x"])
        store.put("d/ab", [b"x"])
        store.delete("d/a")
        assert list(store.keys("d/")) == ["d/ab"]

    def test_absent_objects_may_be_deleted(self, store: ObjectStore) -> None:
        store.delete("absent")
        store.delete("absent/below")
        store.delete("absent")
        store.put("k/there", [b"x"])
        store.delete("k")
        store.delete("k/there/below")
        assert store.get("k/there") == b"x"

    # Listing

    def test_nothing_lists_as_nothing(self, store: ObjectStore) -> None:
        assert list(store.keys("")) == []
        assert list(store.keys("absent/")) == []

    def test_keys_are_listed_in_order_of_their_bytes(self, store: ObjectStore) -> None:
        for key in reversed(MIXED_KEYS):
            store.put(key, [b"x"])
        assert list(store.keys("")) == MIXED_KEYS
        for after in [*MIXED_KEYS, "a", "a/", "a/b.", "a.", "aa", "~"]:
            expected = [key for key in MIXED_KEYS if key > after]
            assert list(store.keys("", start_after=after)) == expected

    def test_a_listing_says_how_large_an_object_is_and_when_it_was_written(
        self, store: ObjectStore
    ) -> None:
        begin = time.time()
        store.put_if_absent("d/a", b"12345")
        store.put("d/b", [])
        first, second = store.list("d/")
        assert first[:2] == ("d/a", 5)
        assert second[:2] == ("d/b", 0)
        for found in (first, second):
            # By the store's clock, some of which tell whole seconds.
            assert found.modified is None or begin - 60 < found.modified < time.time() + 60

    def test_a_folder_is_listed_in_order(self, store: ObjectStore) -> None:
        keys = [f"logs/x/commits/{number:016x}" for number in range(20)]
        for key in reversed(keys):
            store.put(key, [b"x"])
        store.put("logs/y/commits/0", [b"x"])
        assert list(store.keys("logs/x/commits/")) == keys
        assert list(store.keys("logs/x/commits/", start_after=keys[4])) == keys[5:]
        assert list(store.keys("logs/x/commits/", start_after=keys[4], limit=3)) == keys[5:8]
        assert list(store.keys("logs/x/commits/", start_after=keys[-1])) == []
        assert list(store.keys("logs/x/commits/", start_after="logs/x/commits/")) == keys

    def test_a_prefix_may_end_inside_a_segment(self, store: ObjectStore) -> None:
        for key in ("refs/main", "refs/main2", "refs/mai/n", "refs/other", "main"):
            store.put(key, [b"x"])
        assert list(store.keys("refs/main")) == ["refs/main", "refs/main2"]
        assert list(store.keys("refs/mai/")) == ["refs/mai/n"]
        assert list(store.keys("refs/main/")) == []
        assert list(store.keys("r", start_after="refs/main2")) == ["refs/other"]

    def test_limits(self, store: ObjectStore) -> None:
        for number in range(5):
            store.put(f"k/{number}", [b"x"])
        for limit in range(7):
            before = store.counters.snapshot()
            assert list(store.keys("k/", limit=limit)) == [f"k/{n}" for n in range(min(limit, 5))]
            requests = (store.counters.snapshot() - before).requests
            assert requests == (1 if limit else 0)
        with pytest.raises(UsageError):
            store.list("", limit=-1)

    def test_what_no_key_begins_with_is_refused(self, store: ObjectStore) -> None:
        for prefix in ["/", "a//", "../", "a/../b", "ä", "a b"]:
            with pytest.raises(UsageError):
                store.list(prefix)
            with pytest.raises(UsageError):
                store.list("", start_after=prefix)

    def fill(self, store: ObjectStore, keys: list[str]) -> None:
        """Make many objects."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, [b"x"]), keys))

    def test_pages_are_asked_for_when_they_are_needed(self, store: ObjectStore) -> None:
        keys = [f"many/{number:04}" for number in range(1003)]
        self.fill(store, keys)
        before = store.counters.snapshot()
        found = store.keys("many/")
        assert store.counters.snapshot() == before
        assert next(found) == keys[0]
        assert (store.counters.snapshot() - before).list == 1
        assert list(found) == keys[1:]
        assert (store.counters.snapshot() - before).list == 2
        assert list(store.keys("many/", limit=1001)) == keys[:1001]
        assert (store.counters.snapshot() - before).list == 4
        assert list(store.keys("many/", limit=1000)) == keys[:1000]
        assert (store.counters.snapshot() - before).list == 5

    # Dates

    def test_an_answer_is_dated_by_the_clock_that_dates_objects(self, store: ObjectStore) -> None:
        dates: list[int | None] = []
        with answered("d/a") as answer:
            store.put_if_absent("d/a", b"1")
        dates.append(answer.date_ms)
        with answered("d/a") as answer:
            store.put_if_absent("d/a", b"2")
        dates.append(answer.date_ms)
        with answered("d/a") as answer:
            store.get_range("d/a", 0, 1)
        dates.append(answer.date_ms)
        with answered("d/b") as answer, pytest.raises(ObjectMissingError):
            store.get("d/b")
        dates.append(answer.date_ms)
        with answered("d/a") as answer:
            store.put("d/a", [b"3"])
        dates.append(answer.date_ms)
        with answered("d/") as answer:
            (found,) = store.list("d/")
        dates.append(answer.date_ms)
        told = [date for date in dates if date is not None]
        assert len(told) in {0, len(dates)}, "a store has dates or none"
        # Some clocks tell whole seconds, and a server may have several.
        assert all(later >= earlier - 2000 for earlier, later in pairwise(told))
        if told and found.modified is not None:
            assert told[-2] - 2000 <= found.modified * 1000 + 2000
            assert found.modified * 1000 - 2000 <= told[-1]

    def test_only_an_answer_about_the_key_is_dated(self, store: ObjectStore) -> None:
        store.put("d/a", [b"1"])
        with answered("d/b") as answer:
            store.get("d/a")
        assert answer.date_ms is None

    # The handle

    def test_requests_and_bytes_are_counted(self, store: ObjectStore) -> None:
        before = store.counters.snapshot()
        store.put_if_absent("k", b"12345")
        store.put_if_absent("k", b"123")
        store.put("j", [b"1234", b"56"])
        store.get("k")
        store.get_range("k", 3, 100)
        store.get_range("k", 30, 100)
        with pytest.raises(ObjectMissingError):
            store.get("absent")
        list(store.keys(""))
        store.delete("j")
        difference = store.counters.snapshot() - before
        assert difference == StoreCounts(
            get=2,
            get_range=2,
            put=1,
            put_if_absent=2,
            list=1,
            delete=1,
            bytes_sent=14,
            bytes_received=7,
        )
        assert difference.requests == 9

    def test_threads_may_share_a_handle(self, store: ObjectStore) -> None:
        before = store.counters.snapshot()

        def work(thread: int) -> None:
            for number in range(5):
                key = f"t/{thread}-{number}"
                data = f"{thread} {number}".encode()
                assert store.put_if_absent(key, data) is PutOutcome.CREATED
                assert store.get(key) == data
                assert store.get_range(key, 2, 10) == data[2:]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert len(list(store.keys("t/"))) == 40
        difference = store.counters.snapshot() - before
        assert (difference.put_if_absent, difference.get, difference.get_range) == (40, 40, 40)

    def test_a_store_says_what_it_is(self, store: ObjectStore) -> None:
        assert "://" in store.describe()
        assert store.describe() in repr(store)

    def test_a_closed_store_refuses_calls(self, store: ObjectStore) -> None:
        store.close()
        store.close()
        for call in (
            lambda: store.get("k"),
            lambda: store.get_range("k", 0, 1),
            lambda: store.stream_range("k", 0, 1, print),
            lambda: store.put_if_absent("k", b""),
            lambda: store.put("k", []),
            lambda: store.replace("k", b"", b""),
            lambda: store.list(""),
            lambda: store.delete("k"),
        ):
            with pytest.raises(UsageError, match="closed"):
                call()

    def test_a_store_is_closed_at_the_end_of_its_block(self, store: ObjectStore) -> None:
        with store as same:
            assert same is store
        with pytest.raises(UsageError, match="closed"):
            store.get("k")


class ThreadRaces:
    """Races between threads of one process; only for stores that claim to decide them."""

    THREADS = 16
    ROUNDS = 20

    @pytest.fixture
    def patient_store(self, store: ObjectStore) -> ObjectStore:
        """Return the store that waits for an answer until the slowest racer has one."""
        return store

    def test_one_thread_creates_a_key(self, patient_store: ObjectStore) -> None:
        start = threading.Barrier(self.THREADS, timeout=PATIENCE_SECONDS)

        def race(thread: int) -> list[str]:
            outcomes = []
            for number in range(self.ROUNDS):
                start.wait()
                outcomes.append(race_for_a_key(patient_store, number, thread))
            return outcomes

        with ThreadPoolExecutor(self.THREADS) as pool:
            rounds = list(zip(*pool.map(race, range(self.THREADS)), strict=True))
        for number, outcomes in enumerate(rounds):
            assert set(outcomes) == {PutOutcome.CREATED.name, PutOutcome.EXISTS.name}, number
            winners = [n for n, each in enumerate(outcomes) if each == PutOutcome.CREATED.name]
            assert len(winners) == 1, f"round {number}: {outcomes}"
            assert patient_store.get(f"race/{number}") == b"%d" % winners[0]
