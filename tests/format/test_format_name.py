"""Name objects: every name reads back, and any other bytes raise the declared error."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_hexdigest

from graft_vfs.errors import CorruptObjectError, FutureVersionError
from graft_vfs.format.commit import TIME_MS_MAX
from graft_vfs.format.name import NAME_BYTES_MAX, CommitName, decode_name
from graft_vfs.ids import LogId
from graft_vfs.pages import LSN_MAX
from graft_vfs.tags import is_commit_name

KEY = "logs/x/names/y"
FOUND = CommitName(
    log=LogId.parse("74ggc1B6R4-2kkvcy9fi4CHJ"),
    lsn=7,
    hash=bytes(range(32)),
    name="v1",
    time_ms=1_750_000_000_000,
    author="zoe@host",
    message="why",
    attempt=b"attempt-number-1",
)


def sealed(body: bytes) -> bytes:
    return body + xxh3_64_hexdigest(body).encode() + b"\n"


def with_line(number: int, line: bytes) -> bytes:
    lines = FOUND.encode().split(b"\n")[:-2]
    lines[number] = line
    return sealed(b"".join(each + b"\n" for each in lines))


names = st.text(max_size=100).filter(is_commit_name)


@given(
    st.builds(
        CommitName,
        log=st.just(FOUND.log),
        lsn=st.integers(1, LSN_MAX),
        hash=st.binary(min_size=32, max_size=32),
        name=names,
        time_ms=st.integers(0, TIME_MS_MAX),
        author=st.text(max_size=60),
        message=st.text(max_size=200),
        attempt=st.binary(min_size=16, max_size=16),
    )
)
def test_every_name_reads_back(found) -> None:
    assert decode_name(found.encode(), key=KEY) == found


def test_the_largest_name_is_within_the_limit() -> None:
    large = dataclasses.replace(
        FOUND, lsn=LSN_MAX, name="🜁" * 100, author="é" * 127, message="\n" * 4096
    )
    assert len(large.encode()) <= NAME_BYTES_MAX
    assert decode_name(large.encode(), key=KEY) == large


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (1, b"74ggc1B6R4"),
        (2, b"0"), (2, b"07"), (2, b"-7"), (2, b"7 "), (2, b"9" * 20), (2, b"9" * 5000),
        (3, b"00" * 31), (3, b"zz" * 32), (3, b"AB" * 32), (3, b" " + b"00" * 32),
        (4, b"253402300800000"),
        (5, b"00" * 15),
        (6, b""), (6, b"a%20b"), (6, b"a b"), (6, b"%76%31"), (6, b"%ff"), (6, b"-x"), (6, b".."),
        (6, b"x" * 101),
        (7, b"x" * 256), (7, b"\xff"), (7, b"%"),
        (8, b"x" * 4097), (8, b"%e4"),
    ],
)  # fmt: skip
def test_what_no_writer_writes_is_refused(number, line) -> None:
    with pytest.raises(CorruptObjectError, match=KEY) as caught:
        decode_name(with_line(number, line), key=KEY)
    assert not caught.value.is_foreign


def test_other_objects_and_later_versions_are_told_apart() -> None:
    for content in (b"", b"# README\n", b"graft-vfs name x\n", b"graft-vfs ref 2\n"):
        with pytest.raises(CorruptObjectError) as caught:
            decode_name(content, key=KEY)
        assert caught.value.is_foreign
    with pytest.raises(FutureVersionError, match="upgrade"):
        decode_name(with_line(0, b"graft-vfs name 2"), key=KEY)
    for cut in range(1, len(FOUND.encode())):
        with pytest.raises(CorruptObjectError):
            decode_name(FOUND.encode()[:-cut], key=KEY)
    with pytest.raises(CorruptObjectError, match="checksum"):
        decode_name(FOUND.encode().replace(b"\n7\n", b"\n8\n"), key=KEY)
    with pytest.raises(CorruptObjectError):
        decode_name(FOUND.encode() + b"\n", key=KEY)


@pytest.mark.parametrize(
    "facts",
    [{"lsn": 0}, {"hash": b""}, {"attempt": b""}, {"name": "a b"}, {"message": "x" * 4097}],
)
def test_a_writer_refuses_what_no_reader_takes(facts) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        dataclasses.replace(FOUND, **facts).encode()
