"""Refs: names of logs, made once, listed, and told from what is none."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    CorruptObjectError,
    DamageError,
    FutureVersionError,
    InvalidTagError,
    StoreUnavailableError,
)
from graft_vfs.remote.refs import REF_BYTES_MAX, create_ref, list_refs, read_ref, ref_key
from graft_vfs.store.base import PutOutcome, is_key
from graft_vfs.store.memory import MemoryStore
from tests.format.commit_samples import LOG, OTHER_LOG, SEGMENT
from tests.remote.filled import requests_of

NAMES = [
    "main", ".", "..", "...", ".hidden", "a/b", "/", "../../etc/passwd", "a b", "größe", "日本語",
    "100%", "%2E", "a~b", "~", "a%2Fb", "x" * 512, "/" * 512, "é" * 512, "\n", "C:\\db", "Main",
    "\U0001f600" * 512, "a" * 160, "a" * 161,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
def test_any_tag_is_one_safe_key_segment(name: str) -> None:
    key = ref_key(name)
    assert is_key(key)
    assert key.count("/") == 1
    assert len(key) <= 200
    assert key.rpartition("/")[2][0] != "."


def test_different_names_have_different_keys() -> None:
    assert len({ref_key(name) for name in NAMES}) == len(NAMES)
    assert ref_key("x" * 511 + "y") != ref_key("x" * 511 + "z")


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=200)
@given(names.filter(lambda name: len(name) <= 512), st.data())
def test_refs_of_any_name_read_back(name: str, data: st.DataObject) -> None:
    store = MemoryStore()
    assert create_ref(store, name, LOG) == LOG
    assert read_ref(store, name) == LOG
    assert list(list_refs(store)) == [(name, LOG)]
    other = data.draw(names)
    if other != name and len(other) <= 512:
        assert read_ref(store, other) is None


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 513, "\ud800"], ids=ascii)
def test_an_invalid_ref_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidTagError):
        ref_key(name)


def test_a_ref_is_created_once_and_returns_the_winner() -> None:
    store = MemoryStore()
    assert requests_of(store, lambda: create_ref(store, "main", LOG)) == (1, LOG)
    assert requests_of(store, lambda: create_ref(store, "main", OTHER_LOG)) == (2, LOG)
    assert requests_of(store, lambda: read_ref(store, "main")) == (1, LOG)


def test_an_absent_ref_is_none() -> None:
    assert read_ref(MemoryStore(), "main") is None


@pytest.mark.parametrize("landed", [True, False])
def test_a_ref_whose_answers_prove_nothing_is_settled_by_reading(landed: bool) -> None:
    store = MemoryStore()
    create = store.put_if_absent

    def put(key: str, data: bytes) -> PutOutcome:
        if landed:
            create(key, data)
        error = CommitOutcomeUnknownError("HTTP 200 with a page")
        error.was_answered = True
        raise error

    store.put_if_absent = put  # type: ignore[method-assign]
    if landed:
        assert create_ref(store, "main", LOG, sleep=lambda _: None) == LOG
        return
    with pytest.raises(CommitOutcomeUnknownError):
        create_ref(store, "main", LOG, sleep=lambda _: None)


def test_refs_are_listed_with_their_names() -> None:
    store = MemoryStore()
    for name in NAMES:
        create_ref(store, name, LOG)
    assert sorted(name for name, _ in list_refs(store)) == sorted(NAMES)


class UncertainStore(MemoryStore):
    """Loses the answers of the first conditional writes, after or before their effect."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__()
        self._faults = faults

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        fault = self._faults.pop(0) if self._faults else "fine"
        if fault == "racing":
            return PutOutcome.RACING
        if fault == "landed":
            super().put_if_absent(key, data)
        if fault in ("landed", "not landed"):
            raise CommitOutcomeUnknownError("no answer")
        return super().put_if_absent(key, data)


def no_sleep(seconds: float) -> None:
    """Wait for nothing."""


@pytest.mark.parametrize("faults", [["landed"], ["not landed"] * 4, ["racing"], ["racing"] * 4])
def test_a_ref_survives_lost_answers(faults: list[str]) -> None:
    store = UncertainStore(list(faults))
    assert create_ref(store, "main", LOG, sleep=no_sleep) == LOG
    assert read_ref(store, "main") == LOG


def test_a_ref_that_cannot_be_created_raises_the_reason() -> None:
    with pytest.raises(CommitOutcomeUnknownError):
        create_ref(UncertainStore(["not landed"] * 9), "main", LOG, sleep=no_sleep)
    with pytest.raises(StoreUnavailableError, match="neither creates"):
        create_ref(UncertainStore(["racing"] * 9), "main", LOG, sleep=no_sleep)


LOG_LINE = str(LOG).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        LOG_LINE,
        b"graft-vfs ref 1",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\nmain",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\nmain\nmore",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\nma%69n\n",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\n%FF\n",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\n\xff\n",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\n\n",
        b"graft-vfs ref 1\n" + str(SEGMENT).encode() + b"\nmain\n",
        b"graft-vfs ref x\n" + LOG_LINE + b"\nmain\n",
        b"x" * (REF_BYTES_MAX + 1),
    ],
    ids=lambda content: content[:40].decode("latin-1"),
)
def test_foreign_and_damaged_refs_are_refused_by_name(content: bytes) -> None:
    store = MemoryStore()
    store.put("refs/main", [content])
    with pytest.raises(CorruptObjectError, match="refs/main"):
        read_ref(store, "main")
    with pytest.raises(CorruptObjectError, match="refs/main"):
        create_ref(store, "main", LOG, sleep=no_sleep)


def test_a_ref_of_a_later_version_says_upgrade() -> None:
    store = MemoryStore()
    store.put("refs/main", [b"graft-vfs ref 3\nwho knows"])
    with pytest.raises(FutureVersionError, match="upgrade"):
        read_ref(store, "main")


def test_a_ref_of_another_name_is_refused() -> None:
    # So it looks on a file system that takes Main and main for one name.
    store = MemoryStore()
    create_ref(store, "Main", LOG)
    store.put(ref_key("main"), [store.get_range(ref_key("Main"), 0, 999)])
    with pytest.raises(CorruptObjectError, match="'Main', not 'main'"):
        read_ref(store, "main")


def test_a_ref_without_checksum_is_read_and_one_with_a_wrong_one_is_not() -> None:
    store = MemoryStore()
    create_ref(store, "main", LOG)
    written = store.get("refs/main")
    store.put("refs/main", [b"graft-vfs ref 1\n" + LOG_LINE + b"\nmain\n"])
    assert read_ref(store, "main") == LOG
    other = written.replace(LOG_LINE, str(OTHER_LOG).encode())
    for content in (other, written[:-2] + b"\n", written[:-17]):
        store.put("refs/main", [content])
        with pytest.raises(CorruptObjectError, match="refs/main"):
            read_ref(store, "main")


@pytest.mark.parametrize(
    "foreign", ["a%2", "%ff", "ma%69n", "a%2fb", ".hidden", ".DS_Store", ".nfs0001", "README"]
)
def test_foreign_objects_among_the_refs_are_skipped_with_one_warning(foreign, caplog) -> None:
    store = MemoryStore()
    for name in ("first", "main"):
        create_ref(store, name, LOG)
    for key in (foreign, "another"):
        store.put(f"refs/{key}", [b"?"])
    store.put("refs/copy", [store.get("refs/main")])
    store.put("refs/later", [b"graft-vfs ref 3\nwho knows"])
    assert list(list_refs(store)) == [("first", LOG), ("main", LOG)]
    (record,) = caplog.records
    assert "skipped 4 objects among the refs" in record.getMessage()


def test_refs_are_read_concurrently(monkeypatch) -> None:
    store = MemoryStore()
    for number in range(8):
        create_ref(store, f"ref {number}", LOG)
    together = threading.Barrier(8)
    get_range = store.get_range

    def get(key: str, start: int, length: int) -> bytes:
        together.wait(30)
        return get_range(key, start, length)

    monkeypatch.setattr(store, "get_range", get)
    assert len(list(list_refs(store))) == 8


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_in_a_ref_raise_only_declared_errors(content: bytes) -> None:
    for data in (content, b"graft-vfs ref " + content, b"graft-vfs ref 1\n" + content):
        store = MemoryStore()
        store.put("refs/main", [data])
        with pytest.raises((CorruptObjectError, FutureVersionError)):
            read_ref(store, "main")


def test_a_flipped_bit_in_a_ref_gives_another_log_or_an_error_that_says_what_to_do() -> None:
    store = MemoryStore()
    create_ref(store, "main", LOG)
    content = store.get(ref_key("main"))
    errors: list[DamageError] = []
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        store.put(ref_key("main"), [damaged])
        try:
            assert read_ref(store, "main") != LOG
        except DamageError as error:
            errors.append(error)
    assert len(errors) > 4 * len(content)
    assert [error for error in errors if not error.next_step] == []
