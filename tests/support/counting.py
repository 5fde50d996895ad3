"""Counts SQLite's calls to a volume's file, and syncs."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import pytest

from graft_vfs.local import branch_log
from graft_vfs.pager.volume_file import VolumeFile

_METHODS = ("xRead", "xWrite", "xLock", "xUnlock", "xFileControl", "xTruncate", "xSync")


@contextlib.contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Count calls of the file's methods inside the block.

    `probes` are the reads of 16 bytes by which SQLite checks its cache, `pages` all other reads.
    """
    counts: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name in _METHODS:
            patch.setattr(VolumeFile, name, _counting(counts, name))
        yield counts


def _counting(counts: Counter[str], name: str):
    original = getattr(VolumeFile, name)
    # A C function is not a method: it does not get the file.
    bound = getattr(original, "__get__", lambda _: original)

    def method(self, *arguments):
        counts[name] += 1
        if name == "xRead":
            counts["probes" if arguments == (16, 24) else "pages"] += 1
        return bound(self)(*arguments)

    return method


@contextlib.contextmanager
def counted_syncs() -> Iterator[Counter[str]]:
    """Count the syncs of branch logs inside the block, as `data_sync`."""
    counts: Counter[str] = Counter()
    original = branch_log.data_sync

    def data_sync(descriptor: int) -> None:
        counts["data_sync"] += 1
        original(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branch_log, "data_sync", data_sync)
        yield counts
