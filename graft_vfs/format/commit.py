"""Commit objects: a header that describes what a remote LSN changed, then the frames if small.

This docstring is the normative text of format versions 1 to 3. A commit of version 2 has a message;
one of version 3 belongs to a log with retention, and may have a message. Little-endian throughout.

      0   8  magic `GRAFTCMT`
      8   2  format version: 3 with a grace period, else 2 with a message, else 1
     10   1  kind: 1 = commit (other kinds belong to later versions)
     11   1  reserved, zero
     12   4  header length in bytes, from the magic to the end of the hash
     16  16  log id
     32   8  remote LSN, 1-based
     40  32  hash of the previous commit (at LSN 1 of a forked log: of the parent's commit);
             zeros only at LSN 1 of a log without parent
     72  16  parent log id at LSN 1 of a forked log; else zeros
     88   8  parent LSN; 0 without parent
     96   4  page size in bytes
    100   4  page count of the database after the commit
    104   4  change counter in page 1 after the commit
    108   4  number of local commits rolled up
    112  16  segment id, or zeros: the frames follow the header in this object
    128  16  writer id, random for each data directory
    144  16  attempt id, random for each push
    160   8  milliseconds since 1970, never less than in the previous commit; at most
             253402300799999, the end of the year 9999
    168   8  LSN of the newest table known to the writer, less than this LSN; 0 = none
    176   4  length a of the page set in bytes, at least 8
    180   4  number f of frames: the number of pages divided by pages per frame, rounded up
    184   2  pages in each frame but the last, 1..64
    186   2  length b of the author in bytes, at most 255
    188   4  length c of the message in bytes: 0 in version 1, 1..4096 in 2, 0..4096 in 3
    192   4  only in version 3: the grace period of the log's retention in seconds, at least 3600
     ..   b  author, UTF-8
     ..   c  message, UTF-8
     ..   a  page set: 1-based page indexes, portable Roaring format
     ..  4f  compressed size of each frame in bytes, at least 1
     ..  4f  last page index in each frame
     .. 16f  XXH3-128 of each compressed frame
     ..  32  BLAKE2b-256 of all of the above
     ..      frames, if there is no segment

A header is at most 64 MiB. Readers accept a page set with any containers that the portable format
allows; writers choose the smallest.

Invariants:
 1. A page's slot is its rank in the page set. Slot s is in frame s // pages-per-frame. No page is
    0, the lock page, or beyond the page count.
 2. Equal bytes mean the same attempt: because of the attempt id, two pushes of equal pages differ.
 3. The header is verified by its hash, and every frame by its checksum, so each can be read alone.
 4. The hash is checked before anything after byte 16 is interpreted. The fields are validated even
    if the hash is correct, because anyone who can write to the store can compute a hash.
 5. For any input, decoding returns a commit or raises CorruptObjectError or FutureVersionError. It
    uses memory in proportion to the input.
 6. Once a commit of a log has a grace period, all later ones have one. The first that has one, and
    those before it, are never deleted; decision 19 says why.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from array import array
from dataclasses import dataclass, field, replace

from pyroaring import BitMap

from graft_vfs.errors import CorruptObjectError, FutureVersionError, InvalidIdError, UsageError
from graft_vfs.format.columns import decode_column, encode_column
from graft_vfs.format.frame import CHECKSUM_BYTES, FRAME_PAGES_MAX, compressed_bytes_max
from graft_vfs.format.segment import SEGMENT_HEADER_BYTES
from graft_vfs.ids import ID_BYTES, LogId, SegmentId
from graft_vfs.pages import LSN_MAX, NO_LSN, PAGE_COUNT_MAX, PAGE_SIZES, RemoteLsn, lock_page

MAGIC = b"GRAFTCMT"
VERSION = 3
KIND_COMMIT = 1
HASH_BYTES = 32
HEAD_BYTES = 16_384
"""The size of a reader's first range request: the headers of all but large commits fit."""
HEADER_BYTES_MAX = 64 << 20
AUTHOR_BYTES_MAX = 255
MESSAGE_BYTES_MAX = 4096
WRITER_BYTES = 16
ATTEMPT_BYTES = 16
GRACE_SECONDS_MIN = 3600
"""The shortest grace period of a log with retention."""
TIME_MS_MAX = 253_402_300_799_999
"""The last millisecond that Python's datetime can represent."""
NO_HASH = bytes(HASH_BYTES)

_VERSION_WITHOUT_MESSAGE, _VERSION_WITH_MESSAGE, _VERSION_WITH_GRACE = 1, 2, 3
_FIXED = struct.Struct("<8sHBxI16sQ32s16sQIIII16s16s16sQQIIHHI")
_FIXED_BYTES = 192
_GRACE = struct.Struct("<I")
GRACE_END = _FIXED_BYTES + _GRACE.size
"""The length of the part of an encoded header that contains the grace period, if it has one."""
_TIME = struct.Struct("<Q")
_TIME_OFFSET = struct.calcsize("<8sHBxI16sQ32s16sQIIII16s16s16s")
TIME_END = _TIME_OFFSET + _TIME.size
"""The length of the part of an encoded header that contains the commit's time."""
_PROLOGUE_BYTES = 16
_FRAME_COLUMNS_BYTES = 4 + 4 + CHECKSUM_BYTES
_PAGE_SET_BYTES_MIN = 8
_U32_MAX = 0xFFFF_FFFF
_NO_ID = bytes(ID_BYTES)

assert _FIXED.size == _FIXED_BYTES


@dataclass(frozen=True, slots=True)
class FrameTable:
    """The frames of a commit in columns: sizes in bytes, last page indexes, checksums.

    Owner: a header. Thread rule: any thread may read it; the arrays never change.
    """

    frame_pages: int
    sizes: array[int]
    last_pages: array[int]
    checksums: bytes
    offsets: array[int] = field(repr=False)

    @classmethod
    def of(
        cls, frame_pages: int, sizes: array[int], last_pages: array[int], checksums: bytes
    ) -> FrameTable:
        """Create a table; offsets are computed relative to the first frame."""
        offsets = array("Q", itertools.accumulate(sizes, initial=0))
        return cls(frame_pages, sizes, last_pages, checksums, offsets)

    def __len__(self) -> int:
        return len(self.sizes)

    def byte_range(self, first: int, end: int) -> tuple[int, int]:
        """Return (offset, length) in bytes of the frames [first, end) in the body."""
        return self.offsets[first], self.offsets[end] - self.offsets[first]

    def frame_of(self, slot: int) -> int:
        """Return the 0-based frame that holds a 0-based slot."""
        return slot // self.frame_pages

    def checksum(self, frame: int) -> bytes:
        """Return the XXH3-128 of a compressed frame."""
        return self.checksums[frame * CHECKSUM_BYTES : (frame + 1) * CHECKSUM_BYTES]

    @property
    def body_bytes(self) -> int:
        """Length of all frames together."""
        return self.offsets[-1]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CommitHeader:
    """One commit of a remote log; see the module's byte table for each field.

    A header to push is `sealed` with its hash; a header from bytes comes from `decode_header`.
    Headers compare by identity; compare their hashes instead. Thread rule: any thread may read it.
    """

    log_id: LogId
    lsn: RemoteLsn
    previous_hash: bytes
    parent_log: LogId | None = None
    parent_lsn: RemoteLsn = NO_LSN
    page_size: int
    page_count: int
    change_counter: int
    local_commits: int
    segment: SegmentId | None = None
    writer: bytes
    attempt: bytes
    time_ms: int
    checkpoint_lsn: RemoteLsn = NO_LSN
    author: str = ""
    message: str = ""
    grace_seconds: int = 0
    """The grace period of a log with retention, as of this commit; 0 without."""
    pages: BitMap
    frames: FrameTable
    hash: bytes = b""

    def sealed(self) -> CommitHeader:
        """Return the header with its hash.

        Raises ValueError for fields that no reader would accept, UsageError if it is too large.
        """
        return replace(self, hash=self.encode()[-HASH_BYTES:])

    def pages_in_frame(self, frame: int) -> int:
        """Return the number of pages in a frame; only the last may have fewer."""
        return min(self.frames.frame_pages, len(self.pages) - frame * self.frames.frame_pages)

    def body_offset(self, header_length: int) -> int:
        """Return the offset of the first frame in the object that holds the frames."""
        return header_length if self.segment is None else SEGMENT_HEADER_BYTES

    def encode(self) -> bytes:
        """Return the header's bytes; the last 32 are its hash.

        Raises ValueError for fields that no reader would accept, UsageError if it is too large.
        """
        _check_facts(self)
        author, message = self.author.encode(), self.message.encode()
        grace = _GRACE.pack(self.grace_seconds) if self.grace_seconds else b""
        smallest = BitMap(self.pages)
        smallest.run_optimize()
        page_set = smallest.serialize()
        frames = self.frames
        length = _FIXED_BYTES + len(grace) + len(author) + len(message) + len(page_set)
        length += _FRAME_COLUMNS_BYTES * len(frames) + HASH_BYTES
        if length > HEADER_BYTES_MAX:
            raise UsageError(
                f"a commit of {len(self.pages)} pages needs a header of {length} bytes, more than "
                f"the {HEADER_BYTES_MAX} that readers accept",
                next_step="push more often, so that each push has fewer pages",
            )
        fixed = _FIXED.pack(
            MAGIC,
            self.version,
            KIND_COMMIT,
            length,
            self.log_id.raw,
            self.lsn,
            self.previous_hash,
            self.parent_log.raw if self.parent_log else _NO_ID,
            self.parent_lsn,
            self.page_size,
            self.page_count,
            self.change_counter,
            self.local_commits,
            self.segment.raw if self.segment else _NO_ID,
            self.writer,
            self.attempt,
            self.time_ms,
            self.checkpoint_lsn,
            len(page_set),
            len(frames),
            frames.frame_pages,
            len(author),
            len(message),
        )
        columns = encode_column(frames.sizes), encode_column(frames.last_pages)
        head = b"".join((fixed, grace, author, message, page_set, *columns, frames.checksums))
        return head + hash_of(head)

    @property
    def version(self) -> int:
        """The format version: the lowest that has all its fields."""
        if self.grace_seconds:
            return _VERSION_WITH_GRACE
        return _VERSION_WITH_MESSAGE if self.message else _VERSION_WITHOUT_MESSAGE


def check_message(message: str) -> str:
    """Return a message without white space around it; raises UsageError if it is too long."""
    message = message.strip()
    length = len(message.encode("utf-8", "surrogatepass"))
    if length > MESSAGE_BYTES_MAX or any("\ud800" <= each <= "\udfff" for each in message):
        raise UsageError(
            f"the message is no Unicode text of at most {MESSAGE_BYTES_MAX} bytes; it has {length}",
            next_step="shorten it",
        )
    return message


def time_ms_of(prefix: bytes) -> int:
    """Return a commit's time from the first TIME_END bytes of its encoded header."""
    (found,) = _TIME.unpack_from(prefix, _TIME_OFFSET)
    return int(found)


def grace_seconds_of(prefix: bytes) -> int:
    """Return a commit's grace period from the first GRACE_END bytes of its header, 0 for none."""
    if int.from_bytes(prefix[8:10], "little") < _VERSION_WITH_GRACE:
        return 0
    (found,) = _GRACE.unpack_from(prefix, _FIXED_BYTES)
    return int(found)


def hash_of(head: bytes | memoryview) -> bytes:
    """Return the BLAKE2b-256 that links commits into a chain."""
    return hashlib.blake2b(head, digest_size=HASH_BYTES).digest()


def header_length(prefix: bytes, *, key: str) -> int:
    """Return the whole header's length in bytes, from its first 16 bytes or more.

    A reader that holds fewer bytes fetches the rest before it calls `decode_header`. Raises
    FutureVersionError, or CorruptObjectError if this is not a commit.
    """
    if prefix[: len(MAGIC)] != MAGIC or len(prefix) < _PROLOGUE_BYTES:
        raise CorruptObjectError(
            f"{key} is not a commit of graft-vfs", next_step="check the bucket and its prefix"
        )
    version, kind = int.from_bytes(prefix[8:10], "little"), prefix[10]
    if version > VERSION or (version and kind != KIND_COMMIT):
        raise FutureVersionError(
            f"{key} has format version {version} kind {kind}; this program reads versions up to "
            f"{VERSION} of kind {KIND_COMMIT}",
            next_step="upgrade graft-vfs",
        )
    if not version:
        raise CorruptObjectError(f"{key}: there is no format version {version}")
    length = int.from_bytes(prefix[12:16], "little")
    shortest = _FIXED_BYTES + _PAGE_SET_BYTES_MIN + HASH_BYTES
    if not shortest <= length <= HEADER_BYTES_MAX:
        raise CorruptObjectError(f"{key}: no header has {length} bytes")
    return length


def decode_header(data: bytes, *, key: str) -> tuple[CommitHeader, int]:
    """Return (header, its length) from bytes that begin with a whole header.

    For any bytes, raises only CorruptObjectError or FutureVersionError. `key` names the object.
    """
    length = header_length(data[:_PROLOGUE_BYTES], key=key)
    if len(data) < length:
        raise CorruptObjectError(f"{key}: truncated, {len(data)} of {length} header bytes")
    digest = data[length - HASH_BYTES : length]
    if hash_of(memoryview(data)[: length - HASH_BYTES]) != digest:
        raise CorruptObjectError(
            f"{key}: the header's hash is wrong; the bytes are not those that were pushed",
            next_step="try again; if that fails, restore the object from a replica or a backup",
        )
    try:
        header = _decode_proved(data, length, digest)
        _check_facts(header)
    except (InvalidIdError, ValueError) as error:
        raise CorruptObjectError(f"{key}: {error}") from error
    return header, length


def _decode_proved(data: bytes, length: int, digest: bytes) -> CommitHeader:
    """Decode a header with a correct hash; raises ValueError if its parts do not fit."""
    (
        _magic,
        version,
        _kind,
        _length,
        log,
        lsn,
        previous,
        parent_log,
        parent_lsn,
        page_size,
        page_count,
        counter,
        local_commits,
        segment,
        writer,
        attempt,
        time_ms,
        checkpoint,
        set_bytes,
        frame_count,
        frame_pages,
        author_bytes,
        message_bytes,
    ) = _FIXED.unpack_from(data)
    has_grace = version == _VERSION_WITH_GRACE
    author_at = GRACE_END if has_grace else _FIXED_BYTES
    message_at = author_at + author_bytes
    set_at = message_at + message_bytes
    expected = set_at + set_bytes + frame_count * _FRAME_COLUMNS_BYTES
    _require(expected + HASH_BYTES == length, "the parts do not add up to the header's length")
    _require(data[11] == 0, "a reserved byte is not zero")
    has_message = version == _VERSION_WITH_MESSAGE
    _require(has_grace or (message_bytes > 0) == has_message, "a message that its version has not")
    grace_seconds = grace_seconds_of(data)
    _require(has_grace == (grace_seconds > 0), "no grace period in a version that has one")
    sizes_at = set_at + set_bytes
    last_pages_at = sizes_at + 4 * frame_count
    checksums_at = last_pages_at + 4 * frame_count
    frames = FrameTable.of(
        frame_pages,
        decode_column(data[sizes_at:last_pages_at]),
        decode_column(data[last_pages_at:checksums_at]),
        data[checksums_at : length - HASH_BYTES],
    )
    return CommitHeader(
        log_id=LogId(log),
        lsn=lsn,
        previous_hash=previous,
        parent_log=LogId(parent_log) if parent_log != _NO_ID else None,
        parent_lsn=parent_lsn,
        page_size=page_size,
        page_count=page_count,
        change_counter=counter,
        local_commits=local_commits,
        segment=SegmentId(segment) if segment != _NO_ID else None,
        writer=writer,
        attempt=attempt,
        time_ms=time_ms,
        checkpoint_lsn=checkpoint,
        author=data[author_at:message_at].decode(),
        message=data[message_at:set_at].decode(),
        grace_seconds=grace_seconds,
        pages=_page_set(data[set_at:sizes_at]),
        frames=frames,
        hash=digest,
    )


def _page_set(data: bytes) -> BitMap:
    """Parse a page set; raises ValueError unless every byte is in the portable format."""
    _require(len(data) >= _PAGE_SET_BYTES_MIN, "the page set is too short")
    pages = BitMap.deserialize(data)
    _require(pages.serialize() == data, "the page set is not in its portable form")
    return pages


def _check_facts(header: CommitHeader) -> None:
    """Raise ValueError for fields that a writer must not write and a reader must reject."""
    _require(1 <= header.lsn <= LSN_MAX, f"LSN {header.lsn}")
    _require(header.page_size in PAGE_SIZES, f"page size {header.page_size}")
    _require(0 <= header.page_count <= PAGE_COUNT_MAX, f"page count {header.page_count}")
    _require(0 <= header.change_counter <= _U32_MAX, f"change counter {header.change_counter}")
    _require(0 <= header.local_commits <= _U32_MAX, f"{header.local_commits} local commits")
    _require(0 <= header.time_ms <= TIME_MS_MAX, f"time {header.time_ms}")
    _require(
        0 <= header.checkpoint_lsn < header.lsn,
        f"a checkpoint at LSN {header.checkpoint_lsn} before LSN {header.lsn}",
    )
    _require(len(header.author.encode()) <= AUTHOR_BYTES_MAX, "the author's name is too long")
    _require(len(header.message.encode()) <= MESSAGE_BYTES_MAX, "the message is too long")
    _require(
        header.grace_seconds == 0 or GRACE_SECONDS_MIN <= header.grace_seconds <= _U32_MAX,
        f"a grace period of {header.grace_seconds} s",
    )
    _require(len(header.writer) == WRITER_BYTES, "the writer id does not have 16 bytes")
    _require(len(header.attempt) == ATTEMPT_BYTES, "the attempt id does not have 16 bytes")
    _check_lineage(header)
    _check_pages(header)
    _check_frames(header)


def _check_lineage(header: CommitHeader) -> None:
    has_parent = header.parent_log is not None
    _require(0 <= header.parent_lsn <= LSN_MAX, f"parent LSN {header.parent_lsn}")
    _require(has_parent == (header.parent_lsn > 0), "half a parent")
    _require(not has_parent or header.lsn == 1, "a parent after LSN 1")
    _require(header.parent_log != header.log_id, "a log that is its own parent")
    _require(len(header.previous_hash) == HASH_BYTES, "the previous hash does not have 32 bytes")
    is_first = header.lsn == 1 and not has_parent
    _require(
        (header.previous_hash == NO_HASH) == is_first,
        f"the previous hash does not fit LSN {header.lsn}",
    )


def _check_pages(header: CommitHeader) -> None:
    pages = header.pages
    if pages:
        _require(pages.min() >= 1, "page 0 in the page set")
        _require(pages.max() <= header.page_count, f"page {pages.max()} of {header.page_count}")
        _require(lock_page(header.page_size) not in pages, "the lock page in the page set")


def _check_frames(header: CommitHeader) -> None:
    frames, page_total = header.frames, len(header.pages)
    size = frames.frame_pages
    _require(1 <= size <= FRAME_PAGES_MAX, f"{size} pages in a frame")
    _require(
        len(frames) == -(-page_total // size),
        f"{len(frames)} frames for {page_total} pages",
    )
    _require(len(frames.last_pages) == len(frames), "the column of last pages is too short")
    _require(len(frames.checksums) == len(frames) * CHECKSUM_BYTES, "too few checksums")
    if not frames.sizes:
        return
    # A slice of the set takes memory only for the frames, and no Python step per frame.
    last_pages = header.pages[size - 1 :: size].to_array()
    if page_total % size:
        last_pages.append(header.pages.max())
    _require(last_pages == frames.last_pages, "a frame ends with another page")
    full, last = (
        compressed_bytes_max(header.page_size, header.pages_in_frame(frame))
        for frame in (0, len(frames) - 1)
    )
    smallest, largest = min(frames.sizes), max(frames.sizes)
    _require(smallest > 0, "a frame of 0 bytes")
    _require(largest <= full and frames.sizes[-1] <= last, f"a frame of {largest} bytes")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)
