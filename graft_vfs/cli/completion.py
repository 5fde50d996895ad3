"""Tab completion from local data, without a request.

Tab reports no errors: unreadable data gives no completions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from graft_vfs.engine.config import Config
from graft_vfs.errors import GraftError
from graft_vfs.local import layout

if TYPE_CHECKING:
    from graft_vfs.local.catalog.catalog import Catalog

_COMMITS_MAX = 20
Completion = Callable[[click.Context, click.Parameter, str], list[str]]


def _completing(words: Callable[[Catalog, click.Context], Iterator[str]]) -> Completion:
    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from graft_vfs.local.catalog.catalog import Catalog  # noqa: PLC0415 - for start-up

        try:
            path = Config.load().data_dir.absolute() / layout.CATALOG
            if not path.exists():
                return []
            with contextlib.closing(Catalog(path, writable=False)) as catalog:
                found = words(catalog, context)
                return [word for word in found if word.startswith(incomplete)]
        except GraftError:
            return []

    return complete


def _tags(catalog: Catalog, _: click.Context) -> Iterator[str]:
    return (tag for tag, _ in catalog.tags())


def _refs(catalog: Catalog, _: click.Context) -> Iterator[str]:
    yield from sorted({name for name, _ in catalog.all_known_refs()})


def _commits(catalog: Catalog, context: click.Context) -> Iterator[str]:
    yield from ("HEAD", "BASE")
    volume = catalog.tag_volume(str(context.params.get("tag")))
    if volume is not None:
        log_id = catalog.volume(volume).remote
        yield from catalog.names.texts(log_id)
        newest = catalog.newest_commit(log_id)[0]
        yield from map(str, range(newest, max(0, newest - _COMMITS_MAX), -1))


def _branches(catalog: Catalog, context: click.Context) -> Iterator[str]:
    volume = catalog.tag_volume(str(context.params.get("tag")))
    return (str(kept.id) for kept in (() if volume is None else catalog.kept.all(volume)))


complete_tags = _completing(_tags)
"""The tags of this machine."""

complete_refs = _completing(_refs)
"""The refs of remotes that this machine has seen."""

complete_commits = _completing(_commits)
"""HEAD, BASE, and the names and newest LSNs known of the log of the tag that was typed."""

complete_branches = _completing(_branches)
"""The kept branches of the tag that was typed."""
