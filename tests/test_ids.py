"""Identifiers: the vectors of the design, order, and refusal of everything else."""

from __future__ import annotations

import pickle
import time

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft_vfs.errors import InvalidIdError
from graft_vfs.ids import ID_BYTES, Id, LogId, SegmentId, VolumeId, short_texts

TYPES = [VolumeId, LogId, SegmentId]
every_type = pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.KIND)


def make(kind: type[Id], time_ms: int, tail: bytes, second: int | None = None) -> Id:
    prefix = bytes([kind.PREFIX])
    marker = prefix if second is None else bytes([second])
    return kind(prefix + time_ms.to_bytes(6, "big") + marker + tail)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (VolumeId, "5rMJkf2zHE-2xMqqKcN8RLZh"),
        (LogId, "74ggc1B6R4-2kkvcy9fi4CHJ"),
        (LogId, "74ggc1B6jg-2udz14pbDayZC"),
    ],
)
def test_known_ids_parse_and_print(kind: type[Id], text: str) -> None:
    parsed = kind.parse(text)
    assert str(parsed) == text
    assert kind(parsed.raw) == parsed
    assert parsed.raw[0] == kind.PREFIX
    assert 1_700_000_000_000 < parsed.time_ms < 1_900_000_000_000


@every_type
def test_a_new_id_has_prefix_time_and_randomness(kind: type[Id]) -> None:
    before = time.time_ns() // 1_000_000
    first, second = kind.new(), kind.new()
    after = time.time_ns() // 1_000_000
    assert before <= first.time_ms <= after
    assert first.raw[0] == first.raw[7] == kind.PREFIX
    assert first != second
    assert len(str(first)) == 24


@every_type
@given(data=st.data())
def test_text_sorts_by_creation_time(kind: type[Id], data: st.DataObject) -> None:
    times = st.integers(0, 2**48 - 1)
    tails = st.binary(min_size=8, max_size=8)
    ids = [make(kind, data.draw(times), data.draw(tails)) for _ in range(4)]
    assert sorted(ids, key=str) == sorted(ids, key=lambda each: each.raw) == sorted(ids)
    in_order = sorted(ids, key=str)
    assert [each.time_ms for each in in_order] == sorted(each.time_ms for each in ids)


@every_type
@given(
    time_ms=st.integers(0, 2**48 - 1),
    tail=st.binary(min_size=8, max_size=8),
    second=st.integers(0x80, 0xFF),
)
def test_every_id_reads_back(kind: type[Id], time_ms: int, tail: bytes, second: int) -> None:
    made = make(kind, time_ms, tail, second)
    assert kind.parse(str(made)) == made
    assert made.time_ms == time_ms
    assert kind.looks_like(str(made))


@given(st.text(max_size=30))
def test_arbitrary_text_is_refused_by_name(text: str) -> None:
    for kind in TYPES:
        try:
            parsed = kind.parse(text)
        except InvalidIdError:
            assert not kind.looks_like(text)
        else:
            assert str(parsed) == text


@given(
    st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=23, max_size=23)
)
def test_arbitrary_base58_is_read_exactly_or_refused(characters: str) -> None:
    text = f"{characters[:10]}-{characters[10:]}"
    for kind in TYPES:
        if kind.looks_like(text):
            assert str(kind.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "74ggc1B6R4",
        "74ggc1B6R4-2kkvcy9fi4CH",
        "74ggc1B6R4-2kkvcy9fi4CHJJ",
        "74ggc1B6R42-kkvcy9fi4CHJ",
        "74ggc1B6R4_2kkvcy9fi4CHJ",
        "74ggc1B6R0-2kkvcy9fi4CHJ",
        "1111111111-1111111111111",
        "zzzzzzzzzz-zzzzzzzzzzzzz",
        "74ggc1B6R4-2kkvcy9fi4CH ",
    ],
)
def test_texts_that_are_nearly_ids_are_refused(text: str) -> None:
    with pytest.raises(InvalidIdError, match="24 characters"):
        LogId.parse(text)


def test_an_id_of_another_type_is_refused() -> None:
    volume = VolumeId.new()
    for kind in (LogId, SegmentId):
        with pytest.raises(InvalidIdError, match=f"not a {kind.KIND} id"):
            kind.parse(str(volume))
        with pytest.raises(InvalidIdError):
            kind(volume.raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(16),
        b"\xa0" + bytes(15),
        b"\xa0" + bytes(6) + b"\x7f" + bytes(8),
        b"\xa0" + bytes(6) + b"\xa0" + bytes(9),
    ],
)
def test_bytes_that_are_not_an_id_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidIdError):
        LogId(raw)


def test_ids_are_values() -> None:
    first = LogId.parse("74ggc1B6R4-2kkvcy9fi4CHJ")
    second = LogId.parse("74ggc1B6R4-2kkvcy9fi4CHJ")
    assert first == second
    assert len({first, second}) == 1
    assert first != VolumeId.new()
    assert first != str(first)
    assert repr(first) == "LogId('74ggc1B6R4-2kkvcy9fi4CHJ')"
    assert pickle.loads(pickle.dumps(first)) == first
    with pytest.raises(AttributeError, match="immutable"):
        first.raw = bytes(16)


@every_type
def test_examples_are_ids_of_their_type(kind: type[Id]) -> None:
    assert kind.parse(kind.example()).time_ms == 0


def test_the_text_is_base58_of_both_halves() -> None:
    made = make(SegmentId, 5, b"abcdefgh")
    head, tail = str(made).split("-")
    assert base58.b58decode(head) + base58.b58decode(tail) == made.raw
    assert len(made.raw) == ID_BYTES


def test_an_id_is_found_by_its_first_characters() -> None:
    first, second = make(LogId, 7, b"\0" * 8), make(LogId, 7, b"\0" * 7 + b"\1")
    other = make(VolumeId, 7, b"\0" * 8)
    known = [first, second, other]
    short = short_texts(known)
    assert LogId.find(str(first), []) == first
    assert VolumeId.find(str(other)[:4], known) == other
    assert [LogId.find(short[each], known) for each in (first, second)] == known[:2]
    assert len(short[other]) == len(short_texts([first])[first]) == 8
    assert len(short[first]) == len(str(first))
    with pytest.raises(InvalidIdError, match=f"begins 2 log ids: {first}, {second}"):
        LogId.find(str(first)[:12], known)
    with pytest.raises(InvalidIdError, match="no log id known here begins with") as caught:
        LogId.find(str(first)[:12], [other])
    assert "24 characters" in caught.value.next_step


@pytest.mark.parametrize("text", ["", "74g", "main", "74ggc1B6R40", "74ggc1B6R-4", "0000"])
def test_what_cannot_begin_an_id_is_refused(text) -> None:
    with pytest.raises(InvalidIdError):
        LogId.find(text, [LogId.new()])


def test_an_error_about_many_ids_lists_a_few_of_them() -> None:
    known = [make(LogId, 7, bytes([number]) * 8) for number in range(40)]
    with pytest.raises(InvalidIdError, match=r"begins 40 log ids: .* and 32 more") as caught:
        LogId.find(str(known[0])[:6], known)
    assert len(str(caught.value)) < 400


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=8, max_size=8)), max_size=20))
def test_what_is_shown_of_an_id_is_found_again(facts) -> None:
    known = [kind(bytes([kind.PREFIX]) + time_ms.to_bytes(6, "big") + bytes([kind.PREFIX]) + tail)
             for time_ms, tail in facts for kind in (LogId, VolumeId)]  # fmt: skip
    for each in known:
        assert type(each).find(short_texts(known)[each], known) == each
