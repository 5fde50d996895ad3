"""Small create-only objects that are listed by a prefix: refs, and names of commits.

Their keys end with a name as one segment: letters, digits, `_`, `-`, and any `.` that is not the
first character are kept; all other UTF-8 bytes are percent-encoded. Some stores limit the length of
keys, so an encoded name of more than 160 characters is truncated to 160 and followed by `~` and the
BLAKE2b-128 of the whole name.

Listings skip foreign objects, such as `.DS_Store` or `README`, with one warning.

Invariant: an object contains its own name, and a reader compares it, because some stores treat the
keys `Main` and `main` as equal.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import quote, unquote_to_bytes

from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    CorruptObjectError,
    DamageError,
    InvalidTagError,
    ObjectMissingError,
    StoreUnavailableError,
)
from graft_vfs.remote.request_threads import request_threads
from graft_vfs.store.base import ObjectStore, PutOutcome

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

NAME_CHARACTERS_MAX = 512

_SEGMENT_CHARACTERS_MAX = 160
_NAME_HASH_BYTES = 16
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.1


def name_segment(name: str) -> str:
    """Return a name as one segment of a key; raises InvalidTagError if it is not a valid tag."""
    encoded = encode_entry_name(name)
    if len(encoded) > _SEGMENT_CHARACTERS_MAX:
        digest = hashlib.blake2b(name.encode(), digest_size=_NAME_HASH_BYTES).hexdigest()
        encoded = f"{encoded[:_SEGMENT_CHARACTERS_MAX]}~{digest}"
    return encoded


def encode_entry_name(name: str) -> str:
    """Percent-encode a name; `~` marks truncated names, and no result is `..`."""
    step = "use a text of 1 to 512 characters without NUL"
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or "\0" in name:
        raise InvalidTagError(f"{name[:64]!r} cannot name a ref", next_step=step)
    try:
        encoded = quote(name, safe="", errors="strict").replace("~", "%7E")
    except UnicodeEncodeError as error:
        raise InvalidTagError(f"{name[:64]!r} is not Unicode text", next_step=step) from error
    return "%2E" + encoded[1:] if encoded.startswith(".") else encoded


def decode_entry_name(encoded: str, *, key: str) -> str:
    """Undo `encode_entry_name`; raises CorruptObjectError for a text that it never returns."""
    try:
        name = unquote_to_bytes(encoded).decode()
        is_ours = encode_entry_name(name) == encoded
    except (UnicodeDecodeError, InvalidTagError):
        is_ours = False
    if not is_ours:
        raise CorruptObjectError(
            f"{key} is foreign: it is not the name of a ref",
            next_step="check who else writes to the remote",
        )
    return name


def create_once(
    store: ObjectStore,
    key: str,
    content: bytes,
    read: Callable[[], _T | None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> _T | None:
    """Create an object unless its key is taken; returns what `read` finds there then, else None.

    Durable on return. One request, two if the key is taken or an answer proves nothing. What is
    found may have been written by an attempt of this very call. Raises StoreError,
    CommitOutcomeUnknownError.
    """
    unknown: CommitOutcomeUnknownError | None = None
    late = 0.0
    for attempt in range(_ATTEMPTS):
        if attempt:
            sleep(_PAUSE_SECONDS * attempt)
        try:
            outcome = store.put_if_absent(key, content)
        except CommitOutcomeUnknownError as error:
            # Writing the same bytes again is safe, and the new answer replaces the lost one. After
            # an answer that proves nothing, the write may have landed.
            unknown = error
            winner = read() if error.was_answered else None
            if winner is not None:
                return winner
            late += error.late_share
            if late >= 1.0:
                break
            continue
        if outcome is PutOutcome.CREATED:
            return None
        winner = read()
        if winner is not None:
            return winner
    if unknown is not None:
        raise unknown
    raise StoreUnavailableError(
        f"the store neither creates {key} nor has it, after {_ATTEMPTS} attempts",
        next_step="try again",
    )


def replace_as_read(store: ObjectStore, key: str, old: bytes, new: bytes) -> bool:
    """Replace an object that was read as `old`; False if it is neither that nor `new`.

    Durable on return. Two requests. Raises ObjectMissingError, StoreError.
    """
    try:
        return store.replace(key, old, new)
    except CorruptObjectError:
        return False  # It is longer than both.


def read_all(
    store: ObjectStore,
    prefix: str,
    read: Callable[[str], _T],
    *,
    what: str,
    damaged: list[CorruptObjectError] | None = None,
) -> Iterator[_T]:
    """Yield what `read` finds at each key of a prefix, in the order of the keys.

    One request for each 1000, and those of `read`, 32 keys at a time. One that was removed after
    the listing is left out. Those for which `read` raises a DamageError are skipped, with one
    warning that calls them `what`; `damaged` learns which of them are none of other programs.
    """
    skipped: list[DamageError] = []

    def found_at(key: str) -> _T | DamageError | None:
        try:
            return read(key)
        except ObjectMissingError:
            return None
        except DamageError as error:
            return error

    keys = list(store.keys(prefix))
    with request_threads(f"graft-{what}") as executor:
        for found in executor.map(found_at, keys):
            if isinstance(found, DamageError):
                skipped.append(found)
            elif found is not None:
                yield found
    if damaged is not None:
        damaged += [
            error
            for error in skipped
            if isinstance(error, CorruptObjectError) and not error.is_foreign
        ]
    if skipped:
        first = skipped[0]
        _logger.warning("skipped %d objects among the %s, such as: %s", len(skipped), what, first)
