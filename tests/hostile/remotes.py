"""Remotes in a directory that a hostile writer has changed: each scenario is one change.

A scenario begins with a sound remote of three commits. Whoever can write to the remote can compute
hashes and checksums, so that what is forged here carries right ones.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zstandard
from pyroaring import BitMap

from graft_vfs.format.body import BodyBuilder
from graft_vfs.format.commit import (
    HASH_BYTES,
    NO_HASH,
    CommitHeader,
    FrameTable,
    decode_header,
)
from graft_vfs.format.frame import checksum_of
from graft_vfs.ids import LogId, SegmentId
from graft_vfs.pages import LSN_MAX, PAGE_COUNT_MAX
from graft_vfs.remote.log import commit_key, commits_prefix, segment_key
from graft_vfs.remote.refs import ref_key
from tests.hostile.decoders import sealed

PAGE_SIZE = 4096
SECRET = b"a secret that lies outside of the remote\n"


@dataclass(frozen=True)
class Remote:
    """The directory of a remote, its one log, and a directory outside that it must not reach."""

    root: Path
    log: LogId
    outside: Path

    def path(self, key: str) -> Path:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, lsn: int, log: LogId | None = None) -> Path:
        return self.path(commit_key(log or self.log, lsn))

    def read(self, lsn: int) -> tuple[CommitHeader, bytes]:
        """Return a commit's header and the frames behind it."""
        data = self.commit(lsn).read_bytes()
        header, length = decode_header(data, key="sound")
        return header, data[length:]

    def write(self, header: CommitHeader, body: bytes = b"", *, log: LogId | None = None) -> bytes:
        """Write a commit under its key, or another log's; returns its hash."""
        encoded = header.encode()
        self.commit(header.lsn, log).write_bytes(encoded + body)
        return encoded[-HASH_BYTES:]

    def forge(self, lsn: int, **facts: Any) -> bytes:
        """Change facts of a commit, with the right hash; later commits no longer follow it."""
        header, body = self.read(lsn)
        return self.write(replace(header, **facts), body)

    def append(self, images: dict[int, bytes], **facts: Any) -> bytes:
        """Add a fourth commit of these pages."""
        newest, _ = self.read(3)
        return self.write(*commit_of(images, newest, lsn=4, previous_hash=newest.hash, **facts))

    def replace_page_1(self, change: Callable[[bytearray], None]) -> None:
        """Add a commit in which page 1 is what `change` makes of it."""
        image = bytearray(SOUND_PAGE_1)
        change(image)
        self.append({1: bytes(image)})


SOUND_PAGE_1 = (
    b"SQLite format 3\0" + struct.pack(">HBBBBBBIIII", PAGE_SIZE, 1, 1, 0, 64, 32, 32, 1, 3, 0, 0)
).ljust(PAGE_SIZE, b"\0")


def commit_of(
    images: dict[int, bytes], like: CommitHeader, **facts: Any
) -> tuple[CommitHeader, bytes]:
    """Return a header like another one, of these pages, and the frames."""
    builder = BodyBuilder()
    parts = [builder.add(page, images[page]) for page in sorted(images)]
    parts.append(builder.finish())
    header = replace(like, pages=builder.pages, frames=builder.table, **facts)
    return header, b"".join(part for part in parts if part)


Scenario = Callable[[Remote], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(make: Scenario) -> Scenario:
    """Name a scenario by its function."""
    SCENARIOS[make.__name__.replace("_", " ").strip()] = make
    return make


# Names ----------------------------------------------------------------------------------------


@scenario
def a_sound_remote(_: Remote) -> None:
    """Everything must work here, or the other scenarios would prove nothing."""


@scenario
def refs_whose_names_are_paths(remote: Remote) -> None:
    content = remote.path(ref_key("main")).read_bytes()
    names = (
        "..%2F..%2Foutside%2Fevil", "%2E%2E", "%2Fetc%2Fpasswd", "%00", "%2e%2e%2fx", "%25%32%65",
        "a%0Ab", "x" * 250, "%1B%5B2J", "~", "main~" + "0" * 32,
    )  # fmt: skip
    for name in names:
        remote.path(f"refs/{name}").write_bytes(
            content.replace(b"\nmain\n", f"\n{name}\n".encode())
        )


@scenario
def refs_that_are_no_names(remote: Remote) -> None:
    os.close(os.open(os.fsencode(remote.root) + b"/refs/\xff\xfe\n", os.O_CREAT | os.O_WRONLY))
    remote.path("refs/a b").write_bytes(b"x")
    remote.path("refs/#temporary").write_bytes(b"x")


@scenario
def a_ref_that_names_a_path(remote: Remote) -> None:
    remote.path(ref_key("main")).write_bytes(b"graft-vfs ref 1\n../../outside/x\nmain\n")


@scenario
def a_ref_that_names_a_log_with_a_nul(remote: Remote) -> None:
    remote.path(ref_key("main")).write_bytes(b"graft-vfs ref 1\n74ggc1B6R4-2kkvcy9fi4CH\0\nmain\n")


@scenario
def a_ref_of_a_gibibyte(remote: Remote) -> None:
    with remote.path(ref_key("main")).open("r+b") as file:
        file.truncate(1 << 30)


@scenario
def a_ref_that_leads_outside(remote: Remote) -> None:
    planted(remote.path(ref_key("main")), remote.outside / "secret")


@scenario
def a_folder_of_refs_that_leads_outside(remote: Remote) -> None:
    planted(remote.root / "refs", remote.outside)


@scenario
def a_folder_of_logs_that_leads_outside(remote: Remote) -> None:
    planted(remote.root / "logs", remote.outside)


@scenario
def a_folder_of_commits_that_leads_outside(remote: Remote) -> None:
    planted(remote.commit(1).parent, remote.outside)


@scenario
def commits_that_lead_outside(remote: Remote) -> None:
    for lsn in (2, 3, 4):
        planted(remote.commit(lsn), remote.outside / "secret")


@scenario
def a_link_that_leads_to_itself(remote: Remote) -> None:
    planted(remote.commit(4), remote.commit(4))
    (remote.root / "refs" / "again").symlink_to(remote.root, target_is_directory=True)


@scenario
def a_segment_that_leads_outside(remote: Remote) -> None:
    segment = SegmentId.new()
    planted(remote.path(segment_key(segment)), remote.outside / "secret")
    remote.forge(3, segment=segment)


@scenario
def a_pipe_for_a_commit(remote: Remote) -> None:
    remote.commit(3).unlink()
    os.mkfifo(remote.commit(3))


@scenario
def a_folder_for_a_commit(remote: Remote) -> None:
    remote.commit(3).unlink()
    remote.commit(3).mkdir()


@scenario
def folders_without_a_bottom(remote: Remote) -> None:
    for place in (remote.root / "refs", remote.commit(1).parent):
        descriptor = os.open(place, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("a", dir_fd=descriptor)
            deeper = os.open("a", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        os.close(descriptor)


@scenario
def foreign_names_among_the_commits(remote: Remote) -> None:
    for name in ("0", "tmp", "FFFFFFFFFFFFFFFE", "..%2f..%2fx", "0000000000000000", "f" * 16):
        remote.path(commits_prefix(remote.log) + name).write_bytes(b"foreign")


def planted(link: Path, target: Path) -> None:
    """Replace whatever is at `link` by a symbolic link."""
    if link.is_dir():
        shutil.rmtree(link)
    else:
        link.unlink(missing_ok=True)
    link.symlink_to(target)


# Histories ------------------------------------------------------------------------------------


@scenario
def the_largest_lsn_is_listed(remote: Remote) -> None:
    shutil.copy(remote.commit(3), remote.commit(LSN_MAX))


@scenario
def a_commit_of_another_log(remote: Remote) -> None:
    header, body = remote.read(3)
    remote.write(replace(header, log_id=LogId.new()), body, log=remote.log)


@scenario
def a_commit_under_the_next_key(remote: Remote) -> None:
    shutil.copy(remote.commit(3), remote.commit(4))


@scenario
def a_history_with_a_gap(remote: Remote) -> None:
    remote.commit(2).unlink()


@scenario
def a_history_that_was_rewritten(remote: Remote) -> None:
    remote.forge(2, attempt=b"another attempt!")


@scenario
def a_log_that_is_its_own_parent(remote: Remote) -> None:
    header, body = remote.read(1)
    forked = replace(header, parent_log=LogId.new(), parent_lsn=1, previous_hash=b"x" * 32)
    head = bytearray(forked.encode()[:-HASH_BYTES])
    head[72:88] = remote.log.raw
    remote.commit(1).write_bytes(sealed(bytes(head)) + body)


@scenario
def two_logs_that_are_each_others_parents(remote: Remote) -> None:
    other = LogId.new()
    header, body = remote.read(1)
    facts = {"parent_lsn": 1, "previous_hash": b"x" * 32}
    remote.write(replace(header, parent_log=other, **facts), body)
    remote.write(replace(header, log_id=other, parent_log=remote.log, **facts), body)


@scenario
def a_row_of_forks_without_an_end(remote: Remote) -> None:
    """Each log stands on the next; made from the last on, so that every hash is right."""
    header, body = remote.read(1)
    parent, digest = None, NO_HASH
    for number in range(400):
        log = remote.log if number == 399 else LogId.new()
        facts: dict[str, Any] = {"log_id": log, "parent_log": parent, "previous_hash": digest}
        digest = remote.write(replace(header, parent_lsn=1 if parent else 0, **facts), body)
        parent = log
    for lsn in (2, 3):
        remote.commit(lsn).unlink()


@scenario
def a_parent_at_the_largest_lsn(remote: Remote) -> None:
    remote.forge(1, parent_log=LogId.new(), parent_lsn=LSN_MAX, previous_hash=b"x" * 32)


@scenario
def a_parent_that_is_absent(remote: Remote) -> None:
    remote.forge(1, parent_log=LogId.new(), parent_lsn=1, previous_hash=b"x" * 32)


# Pages ----------------------------------------------------------------------------------------


@scenario
def a_page_size_that_changes(remote: Remote) -> None:
    remote.append({1: SOUND_PAGE_1[:512]}, page_size=512)


@scenario
def a_database_that_shrinks_to_nothing(remote: Remote) -> None:
    remote.append({}, page_count=0)


@scenario
def a_database_that_grows_to_the_last_page(remote: Remote) -> None:
    remote.append({1: SOUND_PAGE_1}, page_count=PAGE_COUNT_MAX)


@scenario
def a_last_page_far_from_the_others(remote: Remote) -> None:
    images = dict.fromkeys((*range(2, 60), PAGE_COUNT_MAX), bytes(PAGE_SIZE))
    remote.append({1: SOUND_PAGE_1, **images}, page_count=PAGE_COUNT_MAX)


@scenario
def a_first_page_of_noise(remote: Remote) -> None:
    noise = b"".join(bytes([value % 251]) for value in range(PAGE_SIZE))
    remote.replace_page_1(lambda image: image.__setitem__(slice(None), noise))


@scenario
def a_first_page_of_another_page_size(remote: Remote) -> None:
    remote.replace_page_1(lambda image: image.__setitem__(slice(16, 18), b"\2\0"))


@scenario
def a_first_page_in_wal_mode(remote: Remote) -> None:
    remote.replace_page_1(lambda image: image.__setitem__(slice(18, 20), b"\2\2"))


@scenario
def a_first_page_that_claims_all_pages(remote: Remote) -> None:
    remote.replace_page_1(lambda image: image.__setitem__(slice(28, 40), b"\xff" * 12))


@scenario
def texts_that_speak_to_the_terminal(remote: Remote) -> None:
    remote.forge(3, author="\x1b[2J\x1b]0;owned\x07\u202e../../x\r\n", time_ms=253_402_300_799_999)


# Bodies ---------------------------------------------------------------------------------------


@scenario
def a_body_cut_short(remote: Remote) -> None:
    for lsn in (1, 2, 3):
        os.truncate(remote.commit(lsn), remote.commit(lsn).stat().st_size - 1)


@scenario
def a_body_of_a_gibibyte(remote: Remote) -> None:
    os.truncate(remote.commit(3), 1 << 30)


@scenario
def a_segment_that_is_absent(remote: Remote) -> None:
    remote.forge(3, segment=SegmentId.new())


@scenario
def a_frame_of_another_content(remote: Remote) -> None:
    header, _ = remote.read(3)
    frames = [zstandard.compress(bytes(PAGE_SIZE * 999)) for _ in range(len(header.frames))]
    remote.write(*with_frames(header, frames))


@scenario
def frames_that_swell(remote: Remote) -> None:
    """1 KiB of compressed bytes for each 4 MiB of pages."""
    newest, _ = remote.read(3)
    frame = zstandard.compress(bytes(64 * 65_536))
    pages = BitMap(range(1, 64 * 24 + 1))
    like = replace(
        newest, lsn=1, previous_hash=NO_HASH, page_size=65_536, page_count=len(pages), pages=pages
    )
    remote.write(*with_frames(like, [frame] * 24, frame_pages=64))
    for lsn in (2, 3):
        remote.commit(lsn).unlink()


@scenario
def a_page_set_of_scattered_pages(remote: Remote) -> None:
    """Millions of pages that no run joins, in a header of a few MiB."""
    newest, _ = remote.read(3)
    pages = BitMap(range(2, 4_000_001, 2))
    frames = [b"frame"] * -(-len(pages) // 64)
    header, _ = with_frames(replace(newest, pages=pages), frames, frame_pages=64)
    facts = {"lsn": 4, "previous_hash": newest.hash, "page_count": 4_000_000}
    remote.write(replace(header, **facts), b"")


@scenario
def a_header_that_claims_64_mib(remote: Remote) -> None:
    """The largest there may be, and so the last one: some systems tell only a peak of all."""
    data = bytearray(remote.commit(3).read_bytes())
    data[12:16] = (64 << 20).to_bytes(4, "little")
    remote.commit(3).write_bytes(data)
    os.truncate(remote.commit(3), 1 << 30)


def with_frames(
    header: CommitHeader, frames: list[bytes], *, frame_pages: int = 16
) -> tuple[CommitHeader, bytes]:
    """Return a header that has these frames, and the frames."""
    lasts = header.pages[frame_pages - 1 :: frame_pages].to_array()
    if len(header.pages) % frame_pages:
        lasts.append(header.pages.max())
    sizes = lasts.__class__("I", map(len, frames))
    sums = b"".join(map(checksum_of, frames))
    table = FrameTable.of(frame_pages, sizes, lasts, sums)
    return replace(header, frames=table), b"".join(frames)
