"""Small objects of lines: a kind and a version, some lines of ASCII, and a checksum.

    graft-vfs <kind> <version, decimal> <newline>
    <line> <newline>
    …
    <XXH3-64 of all of the above in 16 hexadecimal digits> <newline>

Names of commits are such objects, and floors, policies, pins and children of logs with retention.
Numbers in them are decimal without leading zeros, so that equal facts have equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from xxhash import xxh3_64_hexdigest

from graft_vfs.errors import CorruptObjectError, FutureVersionError
from graft_vfs.ids import LogId

LINES_BYTES_MAX = 1024

_NUMBER = re.compile(r"0|[1-9][0-9]{0,19}")


def encode_lines(
    kind: str, version: int, lines: Iterable[object], *, bytes_max: int = LINES_BYTES_MAX
) -> bytes:
    """Return the bytes of an object with these lines, less than `bytes_max`."""
    text = "".join(f"{line}\n" for line in (f"graft-vfs {kind} {version}", *lines))
    body = text.encode("ascii")
    assert len(body) < bytes_max - 17
    return body + xxh3_64_hexdigest(body).encode() + b"\n"


def decode_lines(
    content: bytes,
    *,
    kind: str,
    version: int,
    count: int,
    key: str,
    bytes_max: int = LINES_BYTES_MAX,
) -> list[str]:
    """Return the lines between the first and the checksum; `key` names the object.

    Raises CorruptObjectError or FutureVersionError, and nothing else, whatever the bytes are.
    """
    magic = f"graft-vfs {kind} ".encode()
    first, *lines = content[: bytes_max + 1].split(b"\n")
    digits = first.removeprefix(magic)
    if not first.startswith(magic) or not digits.isdigit():
        raise CorruptObjectError(
            f"{key} is not a {kind} of graft-vfs",
            next_step="check the bucket and its prefix",
            is_foreign=True,
        )
    if digits != b"%d" % version:
        raise FutureVersionError(
            f"{key} has format version {digits[:16].decode()}, this program reads {version}",
            next_step="upgrade graft-vfs",
        )
    if len(lines) != count + 2 or lines[-1] or len(content) > bytes_max:
        raise CorruptObjectError(f"{key}: a {kind} has {count + 2} lines")
    body = content[: -len(lines[-2]) - 1]
    if lines[-2] != xxh3_64_hexdigest(body).encode():
        raise CorruptObjectError(
            f"{key}: checksum mismatch, this is not what was written",
            next_step="restore the object from a replica or a backup",
        )
    try:
        return [line.decode("ascii") for line in lines[:-2]]
    except UnicodeDecodeError as error:
        raise CorruptObjectError(f"{key}: {error}") from error


def require_log(text: str, log_id: LogId, *, key: str) -> None:
    """Raise CorruptObjectError unless a line is the id of this log."""
    if text != str(log_id):
        raise CorruptObjectError(
            f"{key} belongs to log {text[:32]!r}",
            next_step="restore the object from a replica or a backup",
        )


def number(text: str, *, key: str, last: int, first: int = 0) -> int:
    """Return the number that a line is; raises CorruptObjectError unless it is in the range."""
    found = int(text) if _NUMBER.fullmatch(text) else -1
    if not first <= found <= last:
        raise CorruptObjectError(f"{key}: {text[:32]!r} is no number from {first} to {last}")
    return found
