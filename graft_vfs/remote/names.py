"""Names of commits on the remote: create-only objects under the log that they name a commit of.

    logs/<log>/names/<name>

`<name>` is encoded as in the key of a ref. Names that retention keeps commits by are listed under
their log, and so are removed with it. What a name says stands in its object (`format.name`): a
store that takes `V1` and `v1` for one key must not make one of them the other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from graft_vfs.errors import CorruptObjectError, ObjectMissingError
from graft_vfs.format.name import NAME_BYTES_MAX, CommitName, decode_name
from graft_vfs.ids import LogId
from graft_vfs.remote.entries import create_once, name_segment, read_all
from graft_vfs.remote.log import LOGS_PREFIX
from graft_vfs.store.base import ObjectStore

_logger = logging.getLogger(__name__)


def name_key(log_id: LogId, name: str) -> str:
    """Return the key of a name of a commit."""
    return _prefix(log_id) + name_segment(name)


def create_name(
    store: ObjectStore, name: CommitName, *, sleep: Callable[[float], None] = time.sleep
) -> CommitName:
    """Create a name unless it is taken; returns the one that stands there from now on.

    Durable on return. One request, two if the name is taken or an answer proves nothing. The one
    returned has the attempt id of `name` if it is ours. Raises StoreError,
    CommitOutcomeUnknownError, DamageError.
    """
    key = name_key(name.log, name.name)
    winner = create_once(
        store, key, name.encode(), lambda: read_name(store, name.log, name.name), sleep=sleep
    )
    return name if winner is None else winner


def read_name(store: ObjectStore, log_id: LogId, name: str) -> CommitName | None:
    """Return what a name says, None if the log has no such name. One request.

    Raises CorruptObjectError if the object is no name, or that of another name or log.
    """
    key = name_key(log_id, name)
    try:
        found = decode_name(store.get_range(key, 0, NAME_BYTES_MAX + 1), key=key)
    except ObjectMissingError:
        return None
    if (found.log, found.name) != (log_id, name):
        raise CorruptObjectError(
            f"{key} is the name {found.name!r} of log {found.log}",
            next_step="this store does not tell upper from lower case, or the object was copied; "
            "choose another name",
        )
    return found


def list_names(
    store: ObjectStore, log_id: LogId, damaged: list[CorruptObjectError] | None = None
) -> Iterator[CommitName]:
    """Yield all names of a log, in the order of their keys.

    One listing for each 1000, and one request a name, 32 at a time. What this version does not read
    is skipped, with one warning for all. `damaged` learns which of them were names, and are damaged
    or copied.
    """

    def read(key: str) -> CommitName:
        found = decode_name(store.get_range(key, 0, NAME_BYTES_MAX + 1), key=key)
        if name_key(found.log, found.name) != key or found.log != log_id:
            raise CorruptObjectError(f"{key} is a copy of the name {found.name!r}")
        return found

    return read_all(store, _prefix(log_id), read, what="names", damaged=damaged)


def delete_name(store: ObjectStore, log_id: LogId, name: str) -> None:
    """Remove a name; one that is absent stays absent. One request. Raises StoreError."""
    store.delete(name_key(log_id, name))


def _prefix(log_id: LogId) -> str:
    return f"{LOGS_PREFIX}{log_id}/names/"
