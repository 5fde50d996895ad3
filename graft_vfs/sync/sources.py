"""What people clone: a ref or a log id, on the configured remote or at a URL that says where.

A URL says which remote, and the log that is cloned from it lives there from then on; so do the
logs that it stands on, if nothing is known of them.

Crash here: a remote with a name and no volume, which a later clone finds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import (
    AlreadyExistsError,
    BucketMissingError,
    GraftError,
    NoRemoteError,
    NotFoundError,
    StoreError,
    UsageError,
)
from graft_vfs.ids import BEGINNING_CHARACTERS_MIN, LogId
from graft_vfs.remote.refs import read_ref, ref_names
from graft_vfs.store import urls
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.none import NoStore
from graft_vfs.store.urls import RemoteUrl
from graft_vfs.suggestions import did_you_mean
from graft_vfs.sync.headers import lineage
from graft_vfs.view.logs import Logs

_NAMES_SHOWN = 10
_SUGGESTED_FROM_MAX = 1000


@dataclass(frozen=True, slots=True)
class Source:
    """A ref or a log id; `url` is that of its remote, None if the text did not say.

    `log_id` is the log, once that is known.
    """

    name: str
    url: str | None = None
    log_id: LogId | None = None

    def __str__(self) -> str:
        return self.name if self.url is None else urls.parse(self.url)[0].with_ref(self.name)


def find_source(logs: Logs, text: str) -> Source:
    """Return what a text names. No request, but one for a URL, and two for one without a ref.

    Raises UsageError for a URL that cannot be one, or names a remote with several refs;
    NotFoundError if there is no such ref, or the directory is no remote.
    """
    if not urls.is_url(text) and not _is_directory(logs, text):
        return Source(text)
    url, is_remote = urls.parse(text)
    url = logs.remotes.opener.completed(url)
    problem: GraftError | None = None
    parts = None if is_remote else url.split()
    if parts is not None:
        remote, name = parts
        store = logs.remotes.at(str(remote))
        if LogId.looks_like(name):
            return Source(name, str(remote), LogId.parse(name))
        try:
            log_id = read_ref(store, name)
        except BucketMissingError:
            if url.scheme != "file":
                raise
        else:
            if log_id is not None:
                return Source(name, str(remote), log_id)
            problem = no_ref(store, name, str(remote))
    return _only_ref(logs, url, problem)


def _is_directory(logs: Logs, text: str) -> bool:
    """Return True if a path is that of a directory, or nothing else can be meant.

    Tags may be paths, and so the refs of a configured remote.
    """
    if not urls.is_path(text):
        return False
    if isinstance(logs.remotes.default, NoStore):
        return True
    url, _ = urls.parse(text)
    parts = url.split()
    found = [url] if parts is None else [url, parts[0]]
    return any(_is_remote(logs.remotes.opener.open(each)) for each in found)


def _is_remote(store: ObjectStore) -> bool:
    """Return True if a directory is a remote; what cannot be read is not."""
    try:
        next(ref_names(store), None)
    except GraftError:
        return False
    return True


def _only_ref(logs: Logs, url: RemoteUrl, problem: GraftError | None) -> Source:
    """Return the only ref of a remote; raises `problem`, if any, if it has none or is no remote."""
    store = logs.remotes.at(str(url))
    try:
        names = list(itertools.islice(ref_names(store), _NAMES_SHOWN + 1))
    except BucketMissingError as error:
        if url.scheme != "file":
            raise
        raise (problem or _no_directory(url, error)) from None
    if len(names) > 1:
        shown = ", ".join(url.with_ref(name) for name in names[:_NAMES_SHOWN])
        more = ", …" if len(names) > _NAMES_SHOWN else ""
        raise UsageError(f"{url} has several refs", next_step=f"name one: {shown}{more}")
    log_id = read_ref(store, names[0]) if names else None
    if log_id is None:
        raise problem or NotFoundError(
            f"{url} names no ref, and there is none", next_step=Hint("publish one: ", Advice.PUSH)
        )
    return Source(names[0], str(url), log_id)


def _no_directory(url: RemoteUrl, error: GraftError) -> NotFoundError:
    return NotFoundError(
        f"{url.directory} is neither a remote nor a ref in one: {error.message}",
        next_step="mount its disk, or name the directory of a remote and a ref in it, such as "
        f"{url.directory}/main",
    )


def no_ref(
    store: ObjectStore, name: str, url: str | None = None, known: Iterable[str] = ()
) -> NotFoundError:
    """Return the error for a ref that a remote does not have; one `known` may be meant."""
    step = Advice.LIST_REFS if url is None else Advice.LIST_REFS_AT(REMOTE=url)
    return NotFoundError(
        f"the remote ({store.describe()}) has no ref {name!r}",
        next_step=Hint(did_you_mean(name, known), "see ", step, " for its refs"),
    )


def _names_to_suggest(store: ObjectStore) -> list[str]:
    """Return the first names of refs; none of a store that cannot list them."""
    try:
        return list(itertools.islice(ref_names(store), _SUGGESTED_FROM_MAX))
    except StoreError:
        return []


def known_log(logs: Logs, text: str) -> LogId | None:
    """Return the log of a ref that this machine has read before, None otherwise. No request."""
    name, store = text, logs.remotes.default
    if urls.is_url(text):
        parts = _remote_and_ref(logs, text)
        if parts is None:
            return None
        name, store = parts[1], logs.remotes.at(str(parts[0]))
    return logs.catalog.known_ref(store.describe(), name)


def remote_url(logs: Logs, text: str) -> str | None:
    """Return the URL of the remote in the URL of a ref; None for another text. No request."""
    parts = _remote_and_ref(logs, text) if urls.is_url(text) else None
    return None if parts is None else str(parts[0])


def _remote_and_ref(logs: Logs, url: str) -> tuple[RemoteUrl, str] | None:
    return logs.remotes.opener.completed(urls.parse(url)[0]).split()


def log_beginning(logs: Logs, text: str) -> LogId | None:
    """Return the log known here whose id begins so, None if there is none. No request.

    Raises InvalidIdError, which lists them, if there are several.
    """
    known = logs.catalog.log_ids() if len(text) >= BEGINNING_CHARACTERS_MIN else set()
    return LogId.find(text, known) if any(str(each).startswith(text) for each in known) else None


def look_up(logs: Logs, source: Source, *, suggests: bool = False) -> LogId:
    """Return the log of a source; one request for a ref that was not read yet.

    A text that is no ref may be the beginning of the id of a log known here. Raises NotFoundError
    if there is no such ref. With `suggests` that names one which is spelled alike, for a listing.
    """
    store = logs.remotes.default if source.url is None else logs.remotes.at(source.url)
    log_id = source.log_id
    if log_id is None and LogId.looks_like(source.name):
        log_id = LogId.parse(source.name)
    if log_id is None:
        try:
            log_id = read_ref(store, source.name)
        except NoRemoteError as error:
            raise urls.misspelt(source.name) or error from None
        if log_id is None:
            begun = log_beginning(logs, source.name)
            if begun is not None:
                return begun
            misspelt = urls.misspelt(source.name)
            if misspelt is not None:
                raise misspelt
            known = _names_to_suggest(store) if suggests else ()
            raise no_ref(store, source.name, source.url, known)
    if not LogId.looks_like(source.name):
        logs.catalog.keep_ref(store.describe(), source.name, log_id)
    return log_id


def _tag_of(logs: Logs, log_id: LogId) -> str:
    """Return a tag whose volume has the log, or what stands for one."""
    catalog = logs.catalog
    found = (tag for tag, volume in catalog.tags() if catalog.volume(volume).remote == log_id)
    return next(found, "TAG")


def place(logs: Logs, log_id: LogId, url: str | None) -> None:
    """Have a log live on the remote at a URL from now on, None for the configured one. No request.

    Raises AlreadyExistsError if volumes here have it from another remote.
    """
    row = logs.catalog.remotes.of_log(log_id)
    if (None if row is None else row[1]) == url:
        return
    former = logs.remotes.of(log_id)
    wanted = logs.remotes.default if url is None else logs.remotes.at(url)
    is_same = _is_same(former, wanted)
    if not is_same and is_in_use(logs, log_id):
        raise AlreadyExistsError(
            f"volumes here have log {log_id} from {former.describe()}, and not from "
            f"{wanted.describe()}",
            next_step=Hint(
                Advice.CLONE(LOG=str(log_id)),
                " clones it from there; if it was moved, ",
                Advice.MOVE_REMOTE(TAG=_tag_of(logs, log_id)),
                " has its volumes use the other remote",
            ),
        )
    if url is not None:
        logs.catalog.remotes.place_at(log_id, url, urls.name_hint(url))
    elif not is_same:
        logs.catalog.remotes.place([log_id], None)
    logs.remotes.of(log_id)


def _is_same(one: ObjectStore, other: ObjectStore) -> bool:
    """Return True if two stores are one place; a configuration that is not there is none."""
    try:
        return one.describe() == other.describe()
    except NoRemoteError:
        return False


def is_in_use(logs: Logs, log_id: LogId) -> bool:
    """Return True if a volume pushes to a log, or stands on it. Requests of `lineage`."""
    return any(row.remote == log_id for row in logs.catalog.volumes()) or any(
        log_id in lineage(logs, base, until=log_id) for _, base in logs.catalog.bases()
    )
