"""Hostile bytes and texts: valid ones with changes that an attacker, or a broken disk, would make.

Everything is drawn from one `random.Random`, so that a seed reproduces a case. Bytes protected by a
checksum are changed *before* the caller computes the checksum: an attacker who can write to a
remote can also compute checksums, and the tests target the layers after the check.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random

from pyroaring import BitMap

WIDTHS = (1, 2, 4, 8)
RUN_BYTES_MAX = 64

_ROARING_COOKIE = 12_346
_ROARING_COOKIE_WITH_RUNS = 12_347


def boundary(source: Random, width: int) -> int:
    """Draw an integer of this many bytes near values where decoders fail."""
    top = (1 << 8 * width) - 1
    middle = 1 << (8 * width - 1)
    power = 1 << source.randrange(8 * width)
    nearby = source.choice((0, middle, top, power)) + source.randrange(-2, 3)
    return nearby & top


def mutate(source: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change bytes one to four times; pieces of `others` may be spliced in."""
    changed = bytearray(data)
    for _ in range(source.randrange(1, 5)):
        if not changed:
            changed += source.randbytes(4)
        source.choice(_CHANGES)(source, changed, others or (data,))
    return bytes(changed)


def _place(source: Random, data: bytearray) -> int:
    """Draw an offset, preferably near the start, where most formats have their fields."""
    return min(source.randrange(len(data)), source.randrange(len(data)))


def _flip_bit(source: Random, data: bytearray, _: Sequence[bytes]) -> None:
    data[_place(source, data)] ^= 1 << source.randrange(8)


def _set_byte(source: Random, data: bytearray, _: Sequence[bytes]) -> None:
    data[_place(source, data)] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))


def _set_integer(source: Random, data: bytearray, _: Sequence[bytes]) -> None:
    width = source.choice(WIDTHS)
    at = _place(source, data)
    if source.randrange(2):
        at -= at % width
    order = "little" if source.randrange(4) else "big"
    data[at : at + width] = boundary(source, width).to_bytes(width, order)


def _insert(source: Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = _place(source, data)
    data[at:at] = source.randbytes(source.randrange(1, RUN_BYTES_MAX))


def _delete(source: Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = _place(source, data)
    del data[at : at + source.randrange(1, RUN_BYTES_MAX)]


def _duplicate(source: Random, data: bytearray, _: Sequence[bytes]) -> None:
    first = _place(source, data)
    piece = data[first : first + source.randrange(1, RUN_BYTES_MAX)]
    at = _place(source, data)
    data[at:at] = piece


def _truncate(source: Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[source.randrange(len(data)) :]


def _splice(source: Random, data: bytearray, others: Sequence[bytes]) -> None:
    other = source.choice(others)
    first = source.randrange(len(other) + 1)
    piece = other[first : first + source.randrange(1, 4 * RUN_BYTES_MAX)]
    at = _place(source, data)
    data[at : at + (len(piece) if source.randrange(2) else 0)] = piece


_Change = Callable[[Random, bytearray, Sequence[bytes]], None]
# Small changes are more frequent: they keep most of the input valid, and so get further.
_CHANGES: tuple[_Change, ...] = (
    *(_flip_bit,) * 4,
    *(_set_byte,) * 3,
    *(_set_integer,) * 5,
    _insert,
    _delete,
    _duplicate,
    _truncate,
    _splice,
)


# Roaring sets ---------------------------------------------------------------------------------


def roaring(source: Random) -> bytes:
    """Draw the bytes of a page set: valid, changed, or built from lying containers."""
    choice = source.randrange(4)
    if choice == 0:
        return page_set(source).serialize()
    if choice == 1:
        return mutate(source, page_set(source).serialize())
    return _built_roaring(source)


def page_set(source: Random) -> BitMap:
    """Draw a valid set of pages: in runs, scattered, dense and far apart."""
    pages = BitMap()
    for _ in range(source.randrange(1, 4)):
        first = source.choice((1, 2, 65_530, 65_536, 1 << 20, (1 << 32) - 40, boundary(source, 4)))
        step = source.choice((1, 1, 2, 3, 4096))
        count = source.choice((1, 2, 15, 16, 17, 64, 300))
        last = min(first + step * count, 1 << 32)
        pages |= BitMap(range(max(1, first), last, step)) if last > first else BitMap()
    if source.randrange(2):
        pages.run_optimize()
    return pages


def _built_roaring(source: Random) -> bytes:
    """Write containers by hand, with arbitrary keys, cardinalities, offsets and runs."""
    count = source.choice((0, 1, 1, 2, 3, 8))
    claimed = count if source.randrange(4) else boundary(source, 2)
    with_runs = source.randrange(2)
    keys = sorted(source.choice((0, 1, 2, 16_384, 65_535)) for _ in range(count))
    if source.randrange(4) == 0:
        source.shuffle(keys)
    head, bodies = bytearray(), []
    if with_runs:
        cookie = _ROARING_COOKIE_WITH_RUNS | (max(0, claimed - 1) & 0xFFFF) << 16
        head += struct.pack("<I", cookie)
        head += bytes(source.choice((0, 0xFF)) for _ in range((count + 7) // 8))
    else:
        head += struct.pack("<II", _ROARING_COOKIE, claimed)
    for key in keys:
        body, cardinality = _container(source)
        head += struct.pack("<HH", key, (cardinality - 1) & 0xFFFF)
        bodies.append(body)
    if not with_runs or count >= 4:
        at = len(head) + 4 * count
        for body in bodies:
            head += struct.pack("<I", at if source.randrange(8) else boundary(source, 4))
            at += len(body)
    return bytes(head) + b"".join(bodies)


def _container(source: Random) -> tuple[bytes, int]:
    """Return the bytes of one container and its claimed cardinality."""
    kind = source.randrange(4)
    if kind == 0:  # An array, in order or not.
        values = [boundary(source, 2) for _ in range(source.randrange(1, 9))]
        if source.randrange(3):
            values = sorted(set(values))
        lie = source.choice((0, 0, 0, 1, -1))
        return struct.pack(f"<{len(values)}H", *values), max(1, len(values) + lie)
    if kind == 1:  # A bitmap of 8 KiB, with fewer or more bits than claimed.
        fill = source.choice((b"\xff", b"\x55", b"\0"))
        return fill * 8192, source.choice((65_536, 32_768, 4097, 4096))
    # Runs: a length field and pairs of (first value, number of further values), some invalid.
    pairs = [
        (boundary(source, 2), source.choice((0, 1, 65_535, boundary(source, 2))))
        for _ in range(source.randrange(1, 5))
    ]
    if kind == 2:
        pairs = [(0, 65_535)]
    claimed = len(pairs) if source.randrange(4) else boundary(source, 2)
    body = struct.pack("<H", claimed) + b"".join(struct.pack("<HH", *pair) for pair in pairs)
    return body, source.choice((65_536, sum(length + 1 for _, length in pairs) & 0xFFFF or 1))


# Texts ----------------------------------------------------------------------------------------

PIECES = (
    "", "0", "1", "-1", "007", "+1", "1_0", "9" * 20, "9" * 5000, str(2**63), str(2**64 - 1),
    "1e308", "nan", "inf", "0x10", "\u0661", "²", " ", "\t", "\n", "\r\n", "\0", "\x1b[2J",
    "\u202e", "é", "☃", "\U0001f600", "../", "/", "/etc/passwd", "..", ".", "~", "~root",
    "~nobody-here/", "%2e%2e%2f", "%00", "%", "%zz", "a" * 300, "x" * 6000, "'", '"', "\\", ";",
    "--", "*/", "{}", "{0}", "%s", "$HOME", "`id`", "\ud800", "hours ago", "weeks ago", "Z",
    "+14:00", "-99:99",
    "2026-01-31T12:00:00Z", "0001-01-01", "9999-12-31T23:59:59.999999-23:59", "2 hours ago",
    "main", "log", ":", "::", "-", "_", ",", "=", "&", "?", "#", "[", "]", "true", "null", "NaN",
)  # fmt: skip


def text(source: Random, sound: Sequence[str] = ()) -> str:
    """Draw a text: a valid one with changes, or concatenated pieces."""
    if sound and source.randrange(3):
        characters = list(source.choice(sound))
        for _ in range(source.randrange(4)):
            at = source.randrange(len(characters) + 1)
            width = source.randrange(3)
            characters[at : at + width] = source.choice((*PIECES, *sound))
        return "".join(characters)
    return "".join(source.choice((*PIECES, *sound)) for _ in range(source.randrange(1, 5)))
