"""Refs: names of remote logs on the remote.

    refs/<name>    names a log; create-only

`<name>` is encoded as `remote.entries` says. A ref object is at most 8192 bytes of ASCII. Version
1, which has no checksum, is still read:

    graft-vfs ref 2 <newline>
    <log id> <newline>
    <the whole name, percent-encoded> <newline>
    <XXH3-64 of all of the above in 16 hexadecimal digits> <newline>
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from xxhash import xxh3_64_hexdigest

from graft_vfs.errors import (
    CorruptObjectError,
    FutureVersionError,
    InvalidIdError,
    ObjectMissingError,
)
from graft_vfs.ids import LogId
from graft_vfs.remote.entries import (
    create_once,
    decode_entry_name,
    encode_entry_name,
    name_segment,
    read_all,
)
from graft_vfs.store.base import ObjectStore

REFS_PREFIX = "refs/"
REF_BYTES_MAX = 8192

_MAGIC = b"graft-vfs ref "
_VERSION = 2
_LINES = {b"1": 3, b"2": 4}
"""The number of lines after the first in each version, including the empty last one."""


def ref_key(name: str) -> str:
    """Return the key of a ref; raises InvalidTagError for a name that is not a valid tag."""
    return REFS_PREFIX + name_segment(name)


def create_ref(
    store: ObjectStore, name: str, log_id: LogId, *, sleep: Callable[[float], None] = time.sleep
) -> LogId:
    """Create a ref for a log, unless it exists; returns the log that the ref names.

    Durable on return. One request, two if the ref exists or an answer proves nothing. A ref has no
    attempt id: two clients that create it for the same log write the same bytes. Raises StoreError,
    CommitOutcomeUnknownError.
    """
    content = _encode_ref(name, log_id)
    winner = create_once(store, ref_key(name), content, lambda: read_ref(store, name), sleep=sleep)
    return log_id if winner is None else winner


def read_ref(store: ObjectStore, name: str) -> LogId | None:
    """Return the log that a ref names, None if the ref does not exist. One request.

    Raises CorruptObjectError if the object is not a ref, or is the ref of another name.
    """
    key = ref_key(name)
    try:
        content = _get_ref(store, key)
    except ObjectMissingError:
        return None
    log_id, found = _decode_ref(content, key=key)
    if found != name:
        raise CorruptObjectError(
            f"{key} is the ref {found!r}, not {name!r}",
            next_step="this store ignores the case of names, or the object was copied; "
            "choose another name",
        )
    return log_id


def list_refs(
    store: ObjectStore, damaged: list[CorruptObjectError] | None = None
) -> Iterator[tuple[str, LogId]]:
    """Yield (name, log) of all refs, in the order of their keys.

    One request for each 1000, and one for each ref, 32 at a time. Objects that are no refs that
    this version reads are skipped, with one warning for all. `damaged` learns which of them were
    refs, and are damaged or copied.
    """

    def read(key: str) -> tuple[str, LogId]:
        log_id, name = _decode_ref(_get_ref(store, key), key=key)
        if ref_key(name) != key:
            raise CorruptObjectError(f"{key} is a copy of the ref {name!r}")
        return name, log_id

    return read_all(store, REFS_PREFIX, read, what="refs", damaged=damaged)


def ref_names(store: ObjectStore) -> Iterator[str]:
    """Yield the names of refs from their keys, without truncated ones.

    One request per 1000. Only reading a ref shows what it names, and whether it is valid.
    """
    for key in store.keys(REFS_PREFIX):
        with contextlib.suppress(CorruptObjectError):
            yield decode_entry_name(key.removeprefix(REFS_PREFIX), key=key)


def _encode_ref(name: str, log_id: LogId) -> bytes:
    body = b"%s%d\n%s\n%s\n" % (
        _MAGIC,
        _VERSION,
        str(log_id).encode(),
        encode_entry_name(name).encode(),
    )
    return body + b"%s\n" % xxh3_64_hexdigest(body).encode()


def _get_ref(store: ObjectStore, key: str) -> bytes:
    """Read a ref object with a range read, so that a huge foreign object costs no more."""
    content = store.get_range(key, 0, REF_BYTES_MAX + 1)
    if len(content) > REF_BYTES_MAX:
        raise CorruptObjectError(
            f"{key} is too large for a ref",
            next_step="check who else writes to the remote",
            is_foreign=True,
        )
    return content


def _decode_ref(content: bytes, *, key: str) -> tuple[LogId, str]:
    """Return (log, name) of a ref object; raises CorruptObjectError or FutureVersionError."""
    version, *rest = content.split(b"\n")
    digits = version.removeprefix(_MAGIC)
    if not version.startswith(_MAGIC) or not digits.isdigit():
        raise CorruptObjectError(
            f"{key} is not a graft-vfs ref",
            next_step="check the bucket and its prefix",
            is_foreign=True,
        )
    if digits not in _LINES:
        raise FutureVersionError(
            f"{key} has format version {digits[:16].decode()}; this program reads {_VERSION}",
            next_step="upgrade graft-vfs",
        )
    try:
        if len(rest) != _LINES[digits] or rest[-1]:
            raise CorruptObjectError(f"{key}: a ref has {_LINES[digits]} lines")
        if digits == b"%d" % _VERSION:
            body = content[: -len(rest[-2]) - 1]
            if rest[-2] != xxh3_64_hexdigest(body).encode():
                raise CorruptObjectError(
                    f"{key}: checksum mismatch; these are not the bytes that were written"
                )
        log_id = LogId.parse(rest[0].decode("ascii"))
        name = decode_entry_name(rest[1].decode("ascii"), key=key)
    except (UnicodeDecodeError, InvalidIdError) as error:
        raise CorruptObjectError(f"{key} does not name a log: {error}") from error
    return log_id, name
