"""The remotes of a data directory as people manage them: naming one, and saying where it is now.

That a remote was moved is believed only with proof: of each log that is to live at the new place,
it has the newest commit that this machine knows there. Nothing is copied, and a push that is not
settled keeps its log where it is.

Crash here: the catalog says all of the new place, or nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterator

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import BusyError, HistoryMismatchError
from graft_vfs.ids import LogId
from graft_vfs.local.catalog import descriptor
from graft_vfs.local.catalog.remotes import DEFAULT, check_name, no_remote
from graft_vfs.reports import RemoteReport
from graft_vfs.store import urls
from graft_vfs.store.base import ObjectStore
from graft_vfs.sync.headers import lineage
from graft_vfs.sync.proof import Standing, examine, mismatch
from graft_vfs.sync.settle import alone
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Context
from graft_vfs.volume.volume import Volume


def find_remote(logs: Logs, text: str | None) -> ObjectStore:
    """Return the remote that a name or a URL means; None is the configured one. No request.

    Raises NotFoundError, UsageError.
    """
    if text is None or text == DEFAULT:
        return logs.remotes.default
    if urls.is_url(text) or urls.is_path(text):
        return logs.remotes.at(_url_of(logs, text))
    found = logs.remotes.named(text)
    if found is None:
        raise no_remote(text)
    return found


def _url_of(logs: Logs, text: str) -> str:
    return str(logs.remotes.opener.completed(urls.parse(text)[0]))


def add(logs: Logs, name: str, text: str) -> RemoteReport:
    """Give a remote a name, once it has answered. One listing; none if it has no listings."""
    check_name(name)
    url = _url_of(logs, text)
    _require_answer(logs.remotes.at(url))
    logs.catalog.remotes.add(name, url)
    return _report(logs, name, url)


def set_url(context: Context, name: str, text: str) -> RemoteReport:
    """Say where a remote is now. One request for each log that lives on it, and one more."""
    logs, rows = context.logs, context.catalog.remotes
    if name not in dict(rows.all()):
        raise no_remote(name)
    url = _url_of(logs, text)
    moved = rows.logs_on(name)
    with _settled(context, moved):
        _require_history(logs, moved, logs.remotes.at(url))
        rows.set_url(name, url)
        _note(context, moved)
    return _report(logs, name, url)


def move(context: Context, volume: Volume, name: str) -> RemoteReport:
    """Have the log of a volume, and those that it stands on, live on another remote.

    One request for each of them, and one more.
    """
    logs, rows = context.logs, context.catalog.remotes
    store = find_remote(logs, name)
    row, branch = context.catalog.current(volume.id)
    moved = lineage(logs, row.remote) | lineage(logs, branch.log_id)
    with _settled(context, moved):
        _require_history(logs, moved, store)
        if urls.is_url(name) or urls.is_path(name):
            name = rows.place_at(row.remote, _url_of(logs, name), urls.name_hint(name))
        rows.place(moved, None if name == DEFAULT else name)
        _note(context, moved)
    if name == DEFAULT:
        return RemoteReport(name, store.describe(), len(moved))
    return _report(logs, name, dict(rows.all())[name])


def _report(logs: Logs, name: str, url: str) -> RemoteReport:
    return RemoteReport(name, url, len(logs.catalog.remotes.logs_on(name)))


def _require_answer(store: ObjectStore) -> None:
    """Raise StoreError unless a remote answers; one without listings is asked when it is used."""
    if store.can_list:
        next(iter(store.keys("refs/", limit=1)), None)


def _require_history(logs: Logs, moved: Collection[LogId], store: ObjectStore) -> None:
    """Raise HistoryMismatchError unless a store has what is known of all these logs."""
    _require_answer(store)
    for log_id in sorted(moved):
        state = examine(logs, log_id, store)
        if state.standing is Standing.ABSENT:
            raise HistoryMismatchError(
                f"{state.store.describe()} has nothing of log {log_id}, and this copies nothing",
                next_step="first copy all objects of the present remote there, then run this again",
            )
        if state.standing is not Standing.SAME:
            raise mismatch(state)


@contextlib.contextmanager
def _settled(context: Context, moved: Collection[LogId]) -> Iterator[None]:
    """Keep pushes to these logs away inside the block; raises BusyError if one is not settled."""
    context.catalog.require_writable()
    with contextlib.ExitStack() as pushes:
        for row in context.catalog.volumes():
            if row.remote not in moved:
                continue
            pushes.enter_context(alone(context, context.volumes.look(row.id), 0.0))
            if context.catalog.pending_push(row.id) is not None:
                raise BusyError(
                    f"a push of {context.catalog.title(row.id)} has not been settled, so that its "
                    "log cannot move",
                    next_step=Hint("run ", Advice.PUSH, " first"),
                )
        yield


def _note(context: Context, moved: Collection[LogId]) -> None:
    """Use the new place from now on, and write it into the files of the volumes."""
    for log_id in moved:
        context.remotes.of(log_id)
    for row in context.catalog.volumes():
        if row.remote in moved:
            write = functools.partial(descriptor.write, context.directory_of(row.id))
            context.catalog.describe(row.id, write)
