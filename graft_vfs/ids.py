"""Identifiers of volumes, logs and segments: 16 bytes that sort by creation time.

    byte 0       type prefix: volume 0x80, log 0xA0, segment 0xC0
    bytes 1..6   milliseconds since 1970, big-endian
    byte 7       the type prefix again (read: any byte with its highest bit set)
    bytes 8..15  random

As text: base58 of bytes 0..6 (10 characters), `-`, base58 of bytes 7..15 (13 characters). Both
halves begin with a byte of at least 0x80, so their lengths never vary and text sorts in byte order.
The scheme is that of the Graft project. Its ids have other high bytes at position 7, so reading
accepts more than writing produces.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from typing import ClassVar, Self

import base58

from graft_vfs.errors import InvalidIdError

_HEAD_CHARACTERS = 10
_TEXT_CHARACTERS = 24
_SHORT_CHARACTERS = 8
_CANDIDATES_MAX = 8
_BASE58 = "[1-9A-HJ-NP-Za-km-z]"
BEGINNING_CHARACTERS_MIN = 4
"""So many characters of an id are taken for it, if no other one begins so."""
_PREFIX = re.compile(
    rf"{_BASE58}{{{BEGINNING_CHARACTERS_MIN},9}}|{_BASE58}{{10}}(-{_BASE58}{{0,12}})?"
)
ID_BYTES = 16


class Id:
    """An immutable identifier; use one of the three subclasses."""

    __slots__ = ("raw",)
    PREFIX: ClassVar[int] = 0
    KIND: ClassVar[str] = "id"
    raw: bytes

    def __init__(self, raw: bytes) -> None:
        """Wrap 16 bytes; raises InvalidIdError if they lack this type's prefix."""
        if not self._is_well_formed(raw):
            raise InvalidIdError(f"these bytes are not a {self.KIND} id: {raw[:32].hex()}")
        object.__setattr__(self, "raw", bytes(raw))

    @classmethod
    def new(cls) -> Self:
        """Make an id from the clock and 64 random bits."""
        prefix = bytes([cls.PREFIX])
        milliseconds = time.time_ns() // 1_000_000
        return cls(prefix + milliseconds.to_bytes(6, "big") + prefix + secrets.token_bytes(8))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the 24-character text form; raises InvalidIdError."""
        problem = f"{text[:64]!r} is not a {cls.KIND} id"
        step = f"a {cls.KIND} id has 24 characters, such as {cls.example()}"
        if len(text) != _TEXT_CHARACTERS or text[_HEAD_CHARACTERS] != "-":
            raise InvalidIdError(problem, next_step=step)
        try:
            head = base58.b58decode(text[:_HEAD_CHARACTERS])
            tail = base58.b58decode(text[_HEAD_CHARACTERS + 1 :])
        except ValueError:
            raise InvalidIdError(problem, next_step=step) from None
        raw = head + tail
        if len(head) != 7 or not cls._is_well_formed(raw):
            raise InvalidIdError(problem, next_step=step)
        return cls(raw)

    @classmethod
    def find(cls, text: str, known: Iterable[Id]) -> Self:
        """Return the id that `text` is, or the only one among those `known` that begins so.

        At least 4 characters. Raises InvalidIdError, which lists the ids if there are several.
        """
        if len(text) == _TEXT_CHARACTERS or not _PREFIX.fullmatch(text):
            return cls.parse(text)
        found = sorted({each for each in known if type(each) is cls and str(each).startswith(text)})
        if len(found) == 1:
            return found[0]
        if not found:
            raise InvalidIdError(
                f"no {cls.KIND} id known here begins with {text!r}",
                next_step=f"write all {_TEXT_CHARACTERS} characters of it",
            )
        shown = ", ".join(map(str, found[:_CANDIDATES_MAX]))
        more = f" and {len(found) - _CANDIDATES_MAX} more" if len(found) > _CANDIDATES_MAX else ""
        raise InvalidIdError(
            f"{text!r} begins {len(found)} {cls.KIND} ids: {shown}{more}",
            next_step="write more characters of the one that you mean",
        )

    @classmethod
    def _is_well_formed(cls, raw: bytes) -> bool:
        return len(raw) == ID_BYTES and raw[0] == cls.PREFIX and raw[7] >= 0x80

    @classmethod
    def looks_like(cls, text: str) -> bool:
        """Return True if `parse` would accept `text`."""
        try:
            cls.parse(text)
        except InvalidIdError:
            return False
        return True

    @classmethod
    def example(cls) -> str:
        """Return the text of a fixed id of this type, for messages."""
        prefix = bytes([cls.PREFIX])
        return str(cls(prefix + bytes(6) + prefix + bytes(8)))

    @property
    def time_ms(self) -> int:
        """The id's creation time in milliseconds since 1970."""
        return int.from_bytes(self.raw[1:7], "big")

    def __str__(self) -> str:
        head: bytes = base58.b58encode(self.raw[:7])
        tail: bytes = base58.b58encode(self.raw[7:])
        return f"{head.decode()}-{tail.decode()}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.raw == self.raw

    def __lt__(self, other: Self) -> bool:
        return self.raw < other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __reduce__(self) -> tuple[type[Self], tuple[bytes]]:
        return type(self), (self.raw,)


def short_texts(known: Iterable[Id]) -> dict[Id, str]:
    """Return of each id the first characters, as many as no other one of its type begins with.

    At least 8. `Id.find` takes each for its id among those `known`.
    """
    ids = sorted({(each.KIND, str(each)): each for each in known}.items())
    kinds_and_texts = [("", ""), *(found for found, _ in ids), ("", "")]
    short: dict[Id, str] = {}
    for at, (_, each) in enumerate(ids, 1):
        kind, text = kinds_and_texts[at]
        length = _SHORT_CHARACTERS
        for its_kind, other in (kinds_and_texts[at - 1], kinds_and_texts[at + 1]):
            while its_kind == kind and other.startswith(text[:length]):
                length += 1
        short[each] = text[:length]
    return short


class VolumeId(Id):
    """The id of one volume on one machine."""

    __slots__ = ()
    PREFIX = 0x80
    KIND = "volume"


class LogId(Id):
    """The id of a remote log or a local branch."""

    __slots__ = ()
    PREFIX = 0xA0
    KIND = "log"


class SegmentId(Id):
    """The id of an immutable object with page images."""

    __slots__ = ()
    PREFIX = 0xC0
    KIND = "segment"
