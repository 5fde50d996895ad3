"""The branch log: what it takes back after torn, damaged and foreign bytes, and what it refuses."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_vfs.errors import CorruptLogError, FutureVersionError, LocalStorageError
from graft_vfs.ids import VolumeId
from graft_vfs.local import branch_log
from graft_vfs.local.branch_log import LOG_HEADER_BYTES, BranchLog
from graft_vfs.local.chunk import DURABLE_BEFORE, Position

SIZE = 512


@pytest.fixture
def volume() -> VolumeId:
    return VolumeId.new()


@pytest.fixture
def log(tmp_path: Path, volume: VolumeId):
    log = BranchLog.create(tmp_path / "0001.log", volume=volume)
    yield log
    log.close()


def image(value: int) -> bytes:
    return bytes([value % 256]) * SIZE


def append(log: BranchLog, at: Position, lsn: int, *pages: int, commit: bool = True, sync=False):
    facts = (max(pages, default=1), lsn) if commit else None
    images = [image(page + lsn) for page in pages]
    return log.append(at, lsn, pages, images, SIZE, facts, sync)[1]


def lsns(log: BranchLog) -> list[int]:
    return [chunks[-1].lsn for chunks in log.transactions(log.start, 1)]


def test_transactions_come_back_in_order_with_their_images(log: BranchLog) -> None:
    at = append(log, log.start, 1, 1, 2, 3)
    at = append(log, at, 2, 2)
    at = append(log, at, 3, 4, commit=False)
    append(log, at, 3, 5)
    found = list(log.transactions(log.start, 1))
    assert [[chunk.pages for chunk in chunks] for chunks in found] == [
        [(1, 2, 3)],
        [(2,)],
        [(4,), (5,)],
    ]
    chunk = found[0][0]
    assert (chunk.page_count, chunk.change_counter, chunk.page_size) == (3, 1, SIZE)
    assert bytes(log.view[chunk.images : chunk.images + SIZE]) == image(2)
    assert all(log.images_are_sound(chunk) for chunks in found for chunk in chunks)


def test_a_transaction_without_commit_is_invisible(log: BranchLog) -> None:
    at = append(log, log.start, 1, 1)
    append(log, at, 2, 2, commit=False)
    assert lsns(log) == [1]


def test_remains_of_an_abandoned_transaction_never_join_a_later_one(log: BranchLog) -> None:
    at = append(log, log.start, 1, 1)
    middle = append(log, at, 2, 7, commit=False)
    append(log, middle, 2, 8)
    log.erase(at)
    assert lsns(log) == [1]
    # The new chunk is as long as the erased one, so the old commit stands right behind it.
    assert append(log, at, 2, 9, commit=False).offset == middle.offset
    assert lsns(log) == [1]


@pytest.mark.parametrize("cut", [1, 60, 300, 511])
def test_a_torn_tail_is_dropped_and_overwritten(log: BranchLog, cut: int) -> None:
    at = append(log, log.start, 1, 1)
    end = append(log, at, 2, 2)
    with log.path.open("r+b") as file:
        file.seek(end.offset - cut)
        file.write(bytes(cut))
    found = [
        chunks[-1].lsn
        for chunks in log.transactions(log.start, 1)
        if all(log.images_are_sound(chunk) for chunk in chunks)
    ]
    assert found == [1]
    append(log, at, 2, 3)
    assert lsns(log) == [1, 2]


def test_damage_in_durable_data_is_distinguished_from_a_torn_tail(log: BranchLog) -> None:
    first = append(log, log.start, 1, 1, sync=True)
    second = append(log, first, 2, 2, sync=True)
    append(log, second, 3, 3, sync=True)
    assert list(log.transactions(log.start, 1))[1][0].flags & DURABLE_BEFORE
    assert not log.damaged_before(Position(second.offset, 0), 3)
    with log.path.open("r+b") as file:
        file.seek(first.offset + 8)
        file.write(b"\xff")
    assert lsns(log) == [1]
    assert log.damaged_before(first, 2)


def test_losing_data_that_was_never_durable_is_not_damage(log: BranchLog) -> None:
    first = append(log, log.start, 1, 1)
    second = append(log, first, 2, 2)
    append(log, second, 3, 3)
    with log.path.open("r+b") as file:
        file.seek(first.offset + 8)
        file.write(b"\xff")
    assert lsns(log) == [1]
    assert not log.damaged_before(first, 2)


def test_a_chunk_of_another_log_is_not_read(log: BranchLog, tmp_path: Path) -> None:
    other = BranchLog.create(tmp_path / "0002.log", volume=VolumeId.new())
    end = append(other, other.start, 1, 1)
    data = bytes(other.view[LOG_HEADER_BYTES : end.offset])
    other.close()
    with log.path.open("r+b") as file:
        file.seek(LOG_HEADER_BYTES)
        file.write(data)
    assert lsns(log) == []


def test_a_growing_log_stays_readable_through_old_views(log: BranchLog) -> None:
    at = append(log, log.start, 1, 1)
    view = log.view
    for lsn in range(2, 200):
        at = append(log, at, lsn, *range(1, 65))
    assert len(log.view) > len(view)
    assert bytes(view[LOG_HEADER_BYTES + 68 : LOG_HEADER_BYTES + 68 + SIZE]) == image(2)
    assert lsns(log) == list(range(1, 200))


@pytest.mark.parametrize("mapped", [True, False])
def test_both_ways_of_writing_give_the_same_log(
    tmp_path: Path, volume: VolumeId, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    monkeypatch.setattr(branch_log, "mapped_writes_are_safe", lambda _: mapped)
    log = BranchLog.create(tmp_path / f"{mapped}.log", volume=volume)
    at = log.start
    for lsn in range(1, 300):
        at = append(log, at, lsn, 1, lsn)
    log.close()
    again = BranchLog(log.path, volume=volume)
    assert lsns(again) == list(range(1, 300))
    again.close()


@pytest.mark.parametrize("pages", [5, 3000])
def test_a_full_disk_is_a_named_error_and_nothing_is_committed(
    log: BranchLog, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    at = append(log, log.start, 1, 1)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)
    monkeypatch.setattr(os, "pwritev", refuse)
    with pytest.raises(LocalStorageError, match="free some disk space"):
        append(log, at, 2, *range(1, pages), sync=True)
    monkeypatch.undo()
    assert lsns(log) == [1]


@pytest.mark.parametrize("in_place", [True, False])
def test_a_chunk_that_cannot_be_overwritten_is_truncated_on_copy_on_write_disks(
    tmp_path: Path, volume: VolumeId, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    monkeypatch.setattr(branch_log, "mapped_writes_are_safe", lambda _: in_place)
    log = BranchLog.create(tmp_path / "0001.log", volume=volume)
    at = append(log, log.start, 1, 1)
    append(log, at, 2, 2)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        if in_place:
            with pytest.raises(LocalStorageError):
                log.erase(at)
        else:
            log.erase(at)
    assert lsns(log) == ([1, 2] if in_place else [1])
    log.erase(at)
    append(log, at, 2, 3)
    assert lsns(log) == [1, 2]
    log.close()


def test_a_short_vectored_write_is_finished(
    log: BranchLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def short(descriptor: int, buffers: list[bytes], offset: int) -> int:
        return real(descriptor, [b"".join(buffers)[:777]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    append(log, log.start, 1, *range(1, 2500))
    (chunks,) = log.transactions(log.start, 1)
    assert log.images_are_sound(chunks[0])
    assert chunks[0].pages == tuple(range(1, 2500))


def test_a_file_of_another_kind_or_volume_or_version_is_refused(
    tmp_path: Path, log: BranchLog, volume: VolumeId
) -> None:
    with pytest.raises(CorruptLogError, match="does not belong"):
        BranchLog(log.path, volume=VolumeId.new())
    header = bytearray(log.path.read_bytes()[:LOG_HEADER_BYTES])
    foreign = tmp_path / "foreign.log"
    foreign.write_bytes(b"SQLite format 3\0" * 4)
    with pytest.raises(CorruptLogError, match="not a branch log"):
        BranchLog(foreign, volume=volume)
    header[8] = 9
    foreign.write_bytes(header)
    with pytest.raises(FutureVersionError, match="upgrade"):
        BranchLog(foreign, volume=volume)
    with pytest.raises(LocalStorageError):
        BranchLog(tmp_path / "absent.log", volume=volume)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_to_the_file_makes_reading_raise(tmp_path_factory, data) -> None:
    directory = tmp_path_factory.mktemp("fuzz")
    volume = VolumeId.new()
    log = BranchLog.create(directory / "0001.log", volume=volume)
    at = log.start
    for lsn in range(1, 6):
        at = append(log, at, lsn, 1, lsn)
    written = at.offset
    for _ in range(data.draw(st.integers(1, 4))):
        offset = data.draw(st.integers(LOG_HEADER_BYTES, written - 1))
        junk = data.draw(st.binary(min_size=1, max_size=16))
        with log.path.open("r+b") as file:
            file.seek(offset)
            file.write(junk)
    found = [chunks[-1].lsn for chunks in log.transactions(log.start, 1)]
    assert found == list(range(1, len(found) + 1))
    log.damaged_before(Position(LOG_HEADER_BYTES, 0), 1)
    log.close()


def test_a_process_that_knew_a_shorter_file_does_not_truncate_it(log: BranchLog, volume) -> None:
    longer = BranchLog(log.path, volume=volume)
    at = append(log, log.start, 1, 1)
    many = range(1, 50)
    for lsn in range(2, 250):
        at = append(longer, at, lsn, *many)
    at = append(longer, at, 250, 1)
    size = log.path.stat().st_size
    # The copies of the other process go there, and would kill it if that lay behind the end.
    assert at.offset < longer._zeroed <= size
    at = append(log, at, 251, 1)
    assert log.path.stat().st_size == size
    append(longer, at, 252, 1)
    assert lsns(log) == list(range(1, 253))
    longer.close()


@pytest.mark.parametrize("pages", [1, 3000], ids=["small", "large"])
@pytest.mark.parametrize("step", ["ftruncate", "mmap"])
def test_when_the_file_cannot_be_extended_the_next_chunk_tries_again(
    log: BranchLog, monkeypatch, step: str, pages: int
) -> None:
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    at = append(log, log.start, 1, 1)
    lsn = 1
    while at.offset + 2000 < len(log.view):
        lsn += 1
        at = append(log, at, lsn, 1, 2, 3)
    with monkeypatch.context() as patch:
        patch.setattr(mmap if step == "mmap" else os, step, refuse)
        for _ in range(3):
            with pytest.raises(LocalStorageError):
                append(log, at, lsn + 1, *range(1, pages + 5))
    at = append(log, at, lsn + 1, *range(1, pages + 5))
    assert len(log.view) >= at.offset
    append(log, at, lsn + 2, 1)
    assert lsns(log) == list(range(1, lsn + 3))
    last = list(log.transactions(log.start, 1))[-2][-1]
    assert log.images_are_sound(last)
