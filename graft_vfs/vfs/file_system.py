"""The virtual file system: names are tags, databases are volumes, journals are in memory.

Everything else that SQLite opens (sorts, statement journals, VACUUM's database) is temporary and
goes to the built-in VFS.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from time import sleep

import apsw

from graft_vfs.engine.graft import Graft
from graft_vfs.errors import GraftError
from graft_vfs.local.fork import Step, at_fork
from graft_vfs.pager.journal import Journal, SuperJournal
from graft_vfs.pager.scratch import BUILTIN_VFS
from graft_vfs.pager.snapshot_file import SnapshotFile
from graft_vfs.pager.sqlite_errors import to_sqlite
from graft_vfs.pager.tagged_file import TaggedFile
from graft_vfs.pager.volume_file import VolumeFile
from graft_vfs.vfs import names, pragmas
from graft_vfs.volume.context import Opened

_NAME_BYTES_MAX = 8192
# Looked up once: each read needs it twice, and attributes of APSW's module are slow.
_ACCESS_READWRITE = apsw.SQLITE_ACCESS_READWRITE
_JOURNAL_SUFFIX = "-journal"

_file_systems: weakref.WeakSet[FileSystem] = weakref.WeakSet()


class FileSystem(apsw.VFS):
    """The VFS named `graft`.

    Owner: the code that registered it, for as long as connections use it. Thread rule: any thread.
    """

    def __init__(self, engine: Graft, *, name: str = "graft", make_default: bool = False) -> None:
        self.engine = engine
        self.name = name
        # Changed by single set operations and never under a lock: the garbage collector may close a
        # connection during any call, in the same thread.
        self._files: set[SnapshotFile] = set()
        _file_systems.add(self)
        super().__init__(name, BUILTIN_VFS, makedefault=make_default, maxpathname=_NAME_BYTES_MAX)

    def xFullPathname(self, name: str) -> str:
        """Return the name unchanged, because a tag is not a path."""
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:
        """Return True if a tag exists; journals never do.

        SQLite checks write access only for directories (`temp_store_directory`). It holds a mutex
        of the built-in VFS then, so opening the catalog would deadlock.
        """
        if flags == _ACCESS_READWRITE:
            return super().xAccess(pathname, flags)
        # Each transaction checks for a WAL; a slice costs a third of endswith().
        if pathname[-4:] == "-wal" or pathname.endswith("-journal"):
            return False
        try:
            return self.engine.catalog.tag_volume(pathname) is not None
        except GraftError as error:
            raise to_sqlite(error) from error

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: ARG002
        """End the journal of the writing file; SQLite deletes nothing else."""
        file = self._writing(filename)
        if file is not None and file.journal is not None:
            file.journal.xTruncate(0)

    def xSleep(self, microseconds: int) -> int:
        """Sleep for a busy handler. The inherited method would block all Python threads."""
        sleep(microseconds / 1_000_000)
        return microseconds

    def xOpen(  # type: ignore[override]
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> SnapshotFile | Journal | SuperJournal | apsw.VFSFile:
        """Open a volume, a journal, or a temporary file of the built-in VFS."""
        if name is not None:
            if isinstance(name, apsw.URIFilename):
                return self.open_named(name.filename(), flags, name.uri_parameter, self._is_default)
            return self.open_named(name, flags, lambda _: None, self._is_default)
        return apsw.VFSFile(BUILTIN_VFS, name, flags)

    def open_named(
        self,
        name: str,
        flags: list[int],
        uri_parameter: Callable[[str], str | None],
        is_default: Callable[[], bool],
    ) -> SnapshotFile | Journal | SuperJournal:
        """Open a volume or a journal; `flags` are SQLite's, as requested and then as opened.

        `is_default` is true if this is the default VFS of the calling library.
        """
        if flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            try:
                if uri_parameter("vfs") is None:
                    self._refuse_path(name, is_default)
                return self._open_volume(name, flags, uri_parameter)
            except GraftError as error:
                raise to_sqlite(error, at_open=True) from error
        if flags[0] & apsw.SQLITE_OPEN_MAIN_JOURNAL:
            return self._open_journal(name)
        if flags[0] & apsw.SQLITE_OPEN_SUPER_JOURNAL:
            return SuperJournal(_is_journal_of_a_volume)
        raise apsw.CantOpenError(f"a volume has no file {name!r}, such as a WAL")

    def _is_default(self) -> bool:
        return apsw.vfs_names()[0] == self.name

    def _refuse_path(self, name: str, is_default: Callable[[], bool]) -> None:
        """Refuse a name without `vfs=` that looks like a file and names no volume."""
        if not is_default() and self.engine.catalog.tag_volume(name) is None:
            names.refuse_path(name, self.name, BUILTIN_VFS)

    def _open_volume(
        self, tag: str, flags: list[int], uri_parameter: Callable[[str], str | None]
    ) -> SnapshotFile:
        self.engine.check_process()
        remote, lsn, as_of = (uri_parameter(key) for key in ("remote", "lsn", "as_of"))
        read_only = bool(flags[0] & apsw.SQLITE_OPEN_READONLY)
        # mode=ro says that the connection writes nothing: with `remote` it reads a new clone.
        is_new_allowed = flags[0] & apsw.SQLITE_OPEN_CREATE or (read_only and remote is not None)
        create = bool(is_new_allowed) and self.engine.writable
        volume = self.engine.open(tag, create=create, remote=remote)
        file: SnapshotFile
        if lsn is not None or as_of is not None:
            fixed = self.engine.snapshot_at(Opened(tag, volume), lsn=lsn, as_of=as_of)
            file = SnapshotFile(
                tag, volume, fixed, on_pragma=self._answer, on_close=self._files.discard
            )
        else:
            kind = TaggedFile if read_only or not volume.writable else VolumeFile
            file = kind(
                tag,
                volume,
                find=self.engine.volume,
                on_pragma=self._answer,
                on_close=self._files.discard,
            )
        flags[1] = flags[0]
        if file.read_only:
            flags[1] &= ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
            flags[1] |= apsw.SQLITE_OPEN_READONLY
        self._files.add(file)
        return file

    def abandon_files(self) -> None:
        """Make all open files unusable."""
        for file in list(self._files):
            file.abandon()

    def has_open(self, tag: str) -> bool:
        """Return True if a connection has this tag open."""
        return any(file.tag == tag for file in list(self._files))

    def _open_journal(self, name: str) -> Journal:
        """Open a journal for the connection that is writing.

        All journals of a tag have the same name. The new one belongs to the file with a
        transaction; if several files have one (after the tag moved), the journal keeps all bodies.
        """
        file = self._writing(name)
        if file is None:
            return Journal(None)
        return Journal(file.read_snapshot_page, file)

    def _writing(self, journal: str) -> VolumeFile | None:
        """Return the file with this journal's name and a transaction, if there is exactly one."""
        tag = journal.removesuffix(_JOURNAL_SUFFIX)
        writing = [
            file
            for file in list(self._files)
            if isinstance(file, VolumeFile) and file.transaction is not None and file.tag == tag
        ]
        return writing[0] if len(writing) == 1 else None

    def _answer(self, file: SnapshotFile, name: str, value: str | None) -> str | None:
        return pragmas.answer(self.engine, file, name, value)


def _abandon_files() -> None:
    """Prevent a forked child from using or ending its parent's transactions."""
    for file_system in list(_file_systems):
        file_system.abandon_files()


at_fork(Step.FILES, in_child=_abandon_files)


def _is_journal_of_a_volume(name: str) -> bool:
    tag = name.removesuffix(_JOURNAL_SUFFIX)
    return any(file_system.has_open(tag) for file_system in list(_file_systems))
