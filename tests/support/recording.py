"""Records every effect of a scenario on a directory, in order, as changes of a disk.

Each call that changes files is an *effect*. The directory is compared before and after each effect,
so that no change is missed, whether made by Python, by SQLite, or by a store to a mapped file,
which no call shows. Stores to mappings since the last call are a separate effect. Only syncs must
be intercepted: Python's by patching `os`, and those of the catalog's SQLite by a VFS in front of
the built-in one.

Invariant: applied in order, the changes reproduce the directory at each instant.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest

from graft_vfs.local.catalog import file as catalog_file
from graft_vfs.store.memory import MemoryObjects
from tests.support.power_cut import (
    ROOT,
    SECTOR_BYTES,
    Change,
    Disk,
    Renamed,
    Resized,
    Synced,
    Written,
)

_CHANGING = (
    "ftruncate", "link", "mkdir", "pwrite", "pwritev", "rename", "replace", "rmdir", "unlink",
    "write",
)  # fmt: skip
_SYNCING = ("fdatasync", "fsync")
_ORIGINAL_OPEN = os.open
_ZEROS = bytes(SECTOR_BYTES)


@dataclass(frozen=True, slots=True)
class Instant:
    """One effect: its changes, and the remote's objects after it."""

    label: str
    changes: tuple[Change, ...]
    remote: dict[str, bytes]


@dataclass(slots=True)
class _Known:
    """A file's content at its last comparison."""

    node: int
    size: int = 0
    extents: list[tuple[int, bytes]] = field(default_factory=list)


class Recorder:
    """The recording of one scenario. `now` is the number of effects so far.

    Thread rule: one effect happens at a time; threads wait for one another.
    """

    def __init__(self, root: Path, remote: MemoryObjects | None = None) -> None:
        self.root = root
        self.instants: list[Instant] = []
        self._remote = remote or MemoryObjects()
        self._objects = dict(self._remote.by_key)
        self._lock = threading.RLock()
        self._is_inside = False
        self._known: dict[int, _Known] = {}  # by inode
        self._names: dict[tuple[int, str], int] = {}
        self._nodes = ROOT
        self.before = self._look()
        self.before += tuple(
            Synced(node) for node in (ROOT, *(known.node for known in self._known.values()))
        )

    @property
    def now(self) -> int:
        """The number of effects, which is the time of the newest."""
        return len(self.instants)

    def disk(self) -> Disk:
        """Return the disk before the scenario; all of it is durable."""
        disk = Disk()
        for change in self.before:
            disk.apply(0, change)
        return disk

    def effect(self, label: str, call: Callable[[], Any], *, syncs: tuple[Path | int, ...] = ()):
        """Run a call and record its changes; `syncs` are durable when it returns."""
        with self._lock:
            if self._is_inside:
                return call()
            self._is_inside = True
            try:
                self._observe("stores into maps")
                synced = [node for what in syncs if (node := self._node_of(what)) is not None]
                result = call()
                self._observe(label, *map(Synced, synced))
                return result
            finally:
                self._is_inside = False

    def observe(self) -> int:
        """Record stores to mappings; returns the time."""
        with self._lock:
            self._observe("stores into maps")
        return self.now

    def _observe(self, label: str, *changes: Change) -> None:
        found = (*self._look(), *changes)
        objects = self._objects
        if len(self._remote.by_key) != len(objects):
            self._objects = objects = dict(self._remote.by_key)
        elif not found:
            return
        self.instants.append(Instant(label, found, objects))

    def _node_of(self, what: Path | int) -> int | None:
        status = os.fstat(what) if isinstance(what, int) else what.stat()
        if status.st_ino == self.root.stat().st_ino:
            return ROOT
        known = self._known.get(status.st_ino)
        return known.node if known is not None else None

    # Comparing --------------------------------------------------------------------------------

    def _look(self) -> tuple[Change, ...]:
        """Compare the directory with its last known state."""
        changes: list[Change] = []
        names: dict[tuple[int, str], int] = {}
        inodes = self._look_into(self.root, ROOT, names, changes)
        self._known = {inode: known for inode, known in self._known.items() if inode in inodes}
        gone = [(*key, None) for key in self._names if key not in names]
        new = [(*key, node) for key, node in names.items() if self._names.get(key) != node]
        if gone or new:
            changes.append(Renamed((*gone, *new)))
        self._names = names
        return tuple(changes)

    def _look_into(
        self, folder: Path, node: int, names: dict[tuple[int, str], int], changes: list[Change]
    ) -> set[int]:
        inodes = set()
        with os.scandir(folder) as entries:
            for entry in entries:
                inode = entry.inode()
                inodes.add(inode)
                known = self._known.get(inode)
                is_new = known is None
                if known is None:
                    self._nodes += 1
                    known = self._known[inode] = _Known(self._nodes)
                names[node, entry.name] = known.node
                if entry.is_dir(follow_symlinks=False):
                    inodes |= self._look_into(Path(entry.path), known.node, names, changes)
                else:
                    _compare(Path(entry.path), known, changes, is_new=is_new)
        return inodes


def _compare(path: Path, known: _Known, changes: list[Change], *, is_new: bool) -> None:
    """Record the changes of a file since the last comparison."""
    descriptor = _ORIGINAL_OPEN(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        extents = list(_extents(descriptor, size))
    finally:
        os.close(descriptor)
    if size != known.size or is_new:
        changes.append(Resized(known.node, size))
        known.size = size
    if extents != known.extents:
        former, present = dict(_sectors(known.extents)), dict(_sectors(extents))
        changed = {
            sector: present.get(sector, _ZEROS)
            for sector in former.keys() | present.keys()
            if former.get(sector, _ZEROS) != present.get(sector, _ZEROS)
        }
        if changed:
            changes.append(Written(known.node, changed))
        known.extents = extents


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of everything except holes."""
    offset = 0
    while offset < size:
        try:
            first = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: only a hole follows.
        offset = os.lseek(descriptor, first, os.SEEK_HOLE)
        yield first, os.pread(descriptor, offset - first, first)


def _sectors(extents: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    for offset, data in extents:
        assert offset % SECTOR_BYTES == 0
        for at in range(0, len(data), SECTOR_BYTES):
            sector = data[at : at + SECTOR_BYTES]
            yield (offset + at) // SECTOR_BYTES, sector.ljust(SECTOR_BYTES, b"\0")


# Intercepting -------------------------------------------------------------------------------------


@contextlib.contextmanager
def recorded(root: Path, remote: MemoryObjects | None = None) -> Iterator[Recorder]:
    """Record what happens below `root`, and to the objects of a remote in memory, in the block."""
    recorder = Recorder(root, remote)
    file_system = _RecordedFileSystem(recorder)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        stack.callback(file_system.unregister)
        for name in _CHANGING:
            patch.setattr(os, name, _watched(recorder, name))
        for name in _SYNCING:
            patch.setattr(os, name, _watched_sync(recorder, name))
        patch.setattr(os, "open", _watched_open(recorder))
        patch.setattr(catalog_file, "_builtin_vfs", lambda: file_system.name)
        if remote is not None:
            remote.by_key = _RecordedObjects(recorder, remote.by_key)
        yield recorder
        recorder.observe()
    if remote is not None:
        remote.by_key = dict(remote.by_key)


def _watched(recorder: Recorder, name: str) -> Callable[..., Any]:
    original = getattr(os, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        return recorder.effect(name, lambda: original(*arguments, **keywords))

    return call


def _watched_sync(recorder: Recorder, name: str) -> Callable[[int], None]:
    original = getattr(os, name)

    def call(descriptor: int) -> None:
        recorder.effect(name, lambda: original(descriptor), syncs=(descriptor,))

    return call


def _watched_open(recorder: Recorder) -> Callable[..., int]:
    def call(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
        def open_it() -> int:
            return _ORIGINAL_OPEN(path, flags, *arguments, **keywords)

        return recorder.effect("open", open_it) if flags & os.O_CREAT else open_it()

    return call


class _RecordedObjects(dict[str, bytes]):
    """The objects of a remote in memory; each write is an effect."""

    def __init__(self, recorder: Recorder, objects: dict[str, bytes]) -> None:
        super().__init__(objects)
        self._recorder = recorder

    def __setitem__(self, key: str, data: bytes) -> None:
        put = super().__setitem__
        self._recorder.effect(f"put {key.split('/', maxsplit=1)[0]}", lambda: put(key, data))


class _RecordedFileSystem(apsw.VFS):
    """The VFS between the catalog's SQLite and the built-in VFS."""

    def __init__(self, recorder: Recorder) -> None:
        self.name = f"recorded-{id(self)}"
        self._recorder = recorder
        super().__init__(self.name, "unix")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _RecordedFile:
        return self._recorder.effect("open", lambda: _RecordedFile(self._recorder, name, flags))

    def xDelete(self, name: str, syncdir: bool) -> None:
        syncs = (Path(name).parent,) if syncdir else ()
        delete = super().xDelete
        self._recorder.effect("delete", lambda: delete(name, syncdir), syncs=syncs)


class _RecordedFile(apsw.VFSFile):
    """A file of the catalog."""

    def __init__(
        self, recorder: Recorder, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        super().__init__("unix", name, flags)
        self._recorder = recorder
        filename = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._path = Path(filename or "")
        # SQLite's first sync of a journal also syncs its folder.
        journals = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL
        self._syncs_folder = bool(flags[0] & journals)

    def xWrite(self, data: bytes, offset: int) -> None:
        write = super().xWrite
        self._recorder.effect(f"write {self._path.name}", lambda: write(data, offset))

    def xTruncate(self, size: int) -> None:
        truncate = super().xTruncate
        self._recorder.effect(f"truncate {self._path.name}", lambda: truncate(size))

    def xSync(self, flags: int) -> None:
        syncs = (self._path, self._path.parent) if self._syncs_folder else (self._path,)
        self._syncs_folder = False
        sync = super().xSync
        self._recorder.effect(f"sync {self._path.name}", lambda: sync(flags), syncs=syncs)
