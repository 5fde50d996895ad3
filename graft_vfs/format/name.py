"""Name objects: a name that people gave to a commit of a remote log.

This docstring is the normative text of version 1: at most 16384 bytes of ASCII, in lines.

    graft-vfs name 1 <newline>
    <log id> <newline>
    <LSN, decimal> <newline>
    <hash of the commit, 64 hexadecimal digits> <newline>
    <milliseconds since 1970, decimal> <newline>
    <attempt id, random for each write, 32 hexadecimal digits> <newline>
    <the whole name, percent-encoded> <newline>
    <author, percent-encoded> <newline>
    <message, percent-encoded> <newline>
    <XXH3-64 of all of the above in 16 hexadecimal digits> <newline>

Percent-encoded are all bytes of UTF-8 but letters, digits, `_`, `-`, `.` and `~`, in upper case.
Numbers have no leading zeros, and hexadecimal digits are in lower case, so that equal names have
equal bytes.

Invariants:
 1. A name holds the hash of its commit, so that one of a history that was replaced is found out.
 2. Equal bytes are one attempt: the attempt id makes two writes of one name differ.
 3. Whatever the bytes are, decoding raises CorruptObjectError or FutureVersionError and nothing
    else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from graft_vfs.errors import CorruptObjectError, InvalidIdError
from graft_vfs.format.commit import (
    ATTEMPT_BYTES,
    AUTHOR_BYTES_MAX,
    HASH_BYTES,
    MESSAGE_BYTES_MAX,
    TIME_MS_MAX,
)
from graft_vfs.format.lines import decode_lines, encode_lines
from graft_vfs.ids import LogId
from graft_vfs.pages import LSN_MAX, RemoteLsn
from graft_vfs.tags import is_commit_name

NAME_BYTES_MAX = 16_384

_KIND = "name"
_VERSION = 1
_LINES = 8
_NUMBER = re.compile(r"0|[1-9][0-9]{0,19}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitName:
    """A name of a commit: who gave it, when, and why."""

    log: LogId
    lsn: RemoteLsn
    hash: bytes
    name: str
    time_ms: int
    author: str
    message: str
    attempt: bytes

    def encode(self) -> bytes:
        """Return the bytes of the object; raises ValueError for facts that no reader accepts."""
        _check(self)
        lines = (
            self.log,
            self.lsn,
            self.hash.hex(),
            self.time_ms,
            self.attempt.hex(),
            *(quote(text, safe="") for text in (self.name, self.author, self.message)),
        )
        return encode_lines(_KIND, _VERSION, lines, bytes_max=NAME_BYTES_MAX)


def decode_name(content: bytes, *, key: str) -> CommitName:
    """Return what an object says; `key` names it in errors.

    Raises CorruptObjectError or FutureVersionError, and nothing else, whatever the bytes are.
    """
    lines = decode_lines(
        content, kind=_KIND, version=_VERSION, count=_LINES, key=key, bytes_max=NAME_BYTES_MAX
    )
    try:
        found = _decode_lines(lines)
        _check(found)
        if found.encode() != content:
            raise ValueError("it is not written as a writer writes it")
    except (ValueError, InvalidIdError) as error:
        raise CorruptObjectError(f"{key}: {error}") from error
    return found


def _decode_lines(lines: list[str]) -> CommitName:
    log, lsn, digest, time_ms, attempt, *texts = lines
    name, author, message = (unquote_to_bytes(text).decode() for text in texts)
    return CommitName(
        log=LogId.parse(log),
        lsn=RemoteLsn(_number(lsn)),
        hash=bytes.fromhex(digest),
        name=name,
        time_ms=_number(time_ms),
        author=author,
        message=message,
        attempt=bytes.fromhex(attempt),
    )


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:32]!r} is no number")
    return int(text)


def _check(found: CommitName) -> None:
    """Raise ValueError for what a writer must not write and a reader does not believe."""
    if not is_commit_name(found.name):
        raise ValueError(f"{found.name[:64]!r} is no name of a commit")
    if not 1 <= found.lsn <= LSN_MAX or not 0 <= found.time_ms <= TIME_MS_MAX:
        raise ValueError(f"LSN {found.lsn} at {found.time_ms} ms")
    if len(found.hash) != HASH_BYTES or len(found.attempt) != ATTEMPT_BYTES:
        raise ValueError("a hash or an attempt id of another length")
    for text, bytes_max in ((found.author, AUTHOR_BYTES_MAX), (found.message, MESSAGE_BYTES_MAX)):
        if len(text.encode()) > bytes_max:
            raise ValueError(f"a text of more than {bytes_max} bytes")
