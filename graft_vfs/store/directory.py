"""A store in a directory, for shared disks, backups and `type = "fs"`.

An object `a/b/c` is the regular file `<root>/a/b/c`.

Invariants:

1. A name appears only once its file is complete and synced: bytes go to a temporary file in the
   same folder, which is then linked (create-only) or renamed (overwrite) to its name. link(2) fails
   if the name exists, so create-only writes are safe between processes.
2. Ordering: the file's bytes are durable before its name is, and a folder's name before the names
   inside it.
3. Temporary names contain a `#`, which no key does, so they are never listed and never collide with
   a key.
4. Symbolic links below the root are not followed, so no planted name leads out of it.

5. The root contains the file `@graft-remote`, whose name is not a key. Without it, and without the
   folders of an earlier version's remote, the root is treated as an unmounted disk: requests
   neither report a key as absent nor create one.

A crash between writing and linking leaves a temporary file. It is harmless, and may be deleted when
no writer is active. A power cut between linking and syncing the folder may undo the link.

This store does not lock, and needs a file system with hard links. On a case-insensitive file
system, names that differ only in case are equal.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import secrets
import stat
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import (
    BucketMissingError,
    CommitOutcomeUnknownError,
    ConfigError,
    GraftError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
    UsageError,
)
from graft_vfs.local import ownership
from graft_vfs.local.file_systems import check_create_only, mount_of
from graft_vfs.local.files import fsync_directory, read_exactly, write_fully
from graft_vfs.local.locks import repeated
from graft_vfs.store.base import (
    GET_LIMIT_BYTES,
    KEY_BYTES_MAX,
    Buffer,
    ObjectInfo,
    ObjectStore,
    PutOutcome,
    Sent,
    check_key,
    check_limit,
    check_prefix,
    check_range,
    is_segment,
)
from graft_vfs.store.dates import note_time

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe in the directory would wait forever.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TEMPORARY_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

MARKER_NAME = "@graft-remote"
_MARKER_TEXT = "graft-vfs remote 1\n"
_FOLDERS = ("logs", "refs", "segments")

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
_LOCK_SECONDS = 10.0
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})

_ERRORS: dict[int, tuple[type[GraftError], str]] = {
    errno.ENOSPC: (StoreUnavailableError, "free some space there and try again"),
    errno.EDQUOT: (StoreUnavailableError, "raise the disk quota and try again"),
    errno.EFBIG: (StoreUnavailableError, "raise the file size limit (ulimit -f) and try again"),
    errno.EMFILE: (StoreUnavailableError, "raise the limit of open files (ulimit -n)"),
    errno.ENFILE: (StoreUnavailableError, "raise the system's limit of open files"),
    errno.EROFS: (StoreDeniedError, "the file system is read-only; mount it for writing"),
    errno.EACCES: (StoreDeniedError, "check the owner and the permissions of the directory"),
    errno.EPERM: (StoreDeniedError, "check the owner and the permissions of the directory"),
    errno.ENAMETOOLONG: (UsageError, "use a shorter name; this file system limits its length"),
    errno.ENOTDIR: (StoreError, "a file or symbolic link is in the place of a folder; move it"),
    errno.EISDIR: (StoreError, "a folder is in the place of a file; move it"),
    errno.ELOOP: (StoreError, "symbolic links are not followed; put the file itself there"),
}


def directory_error(path: str, error: OSError) -> GraftError:
    """Translate an OSError about `path` into the declared error, with its next step."""
    kind, step = _ERRORS.get(
        error.errno or 0, (StoreUnavailableError, "check the disk and the mount, and try again")
    )
    return kind(f"{path}: {error.strerror or error}", next_step=step)


class DirectoryStore(ObjectStore):
    """A handle on a directory of objects.

    Owned by its creator; keeps no files open between calls. Any number of handles, threads and
    processes may use one directory.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        create: bool = True,
        allow_file_systems: Collection[str] = (),
    ) -> None:
        """Make the directory a remote if it is absent or empty, and `create` is true.

        With `create` false, nothing is created, and requests fail until there is a remote.

        Create-only writes are refused on file systems that may create a name twice (see
        `local/file_systems`), except types that are explicitly allowed.

        Raises:
            ConfigError: `root` is not a directory.
            StoreError: it cannot be created.
        """
        super().__init__()
        self._root = Path(root).absolute()
        self._allowed = allow_file_systems
        try:
            if create:
                self._make_root()
            elif self._root.exists() and not self._root.is_dir():
                raise NotADirectoryError
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(
                f"{self._root} is not a directory", next_step="name a directory as root"
            ) from error
        except OSError as error:
            raise directory_error(str(self._root), error) from error

    def get(self, key: str, *, limit_bytes: int = GET_LIMIT_BYTES) -> bytes:
        """Return the whole object; see ObjectStore.get."""
        with self.counters.timed("get"):
            data = self._read(key, 0, limit_bytes + 1)
        return self._counted_object(key, data, limit_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return part of an object; see ObjectStore.get_range."""
        check_range(start, length)
        with self.counters.timed("get_range"):
            data = self._read(key, start, length)
        return self._counted_read("get_range", key, data)

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        """Create an object unless its key exists; see ObjectStore.put_if_absent."""
        self._check_open()
        check_key(key)
        with self._translated(key):
            check_create_only(self._root, self._allowed)
        self.counters.add("put_if_absent", bytes_sent=len(data))
        with (
            self.counters.timed("put_if_absent"),
            self._translated(key),
            self._folder_of(key, create=True) as (folder, name),
        ):
            if _exists(folder, name):
                self._note_time(key)
                return PutOutcome.EXISTS
            with _temporary_file(folder, [data]) as temporary:
                try:
                    os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                except FileExistsError:
                    self._note_time(key)
                    return PutOutcome.EXISTS
                except OSError as error:
                    raise self._link_error(key, error) from error
            try:
                os.fsync(folder)
            except OSError as error:
                raise CommitOutcomeUnknownError(
                    f"{self._path(key)} was created, but syncing it failed:"
                    f" {error.strerror or error}",
                    next_step="check the disk, then push again; the record of this push is kept",
                ) from error
        self._note_time(key)
        return PutOutcome.CREATED

    def put(self, key: str, data: Sequence[Buffer], *, sent: Sent | None = None) -> None:
        """Write an object; see ObjectStore.put."""
        self._check_open()
        check_key(key)
        size = sum(memoryview(part).nbytes for part in data)
        self.counters.add("put", bytes_sent=size)
        with (
            self.counters.timed("put"),
            self._translated(key),
            self._folder_of(key, create=True) as (folder, name),
        ):
            with _temporary_file(folder, data) as temporary:
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        self._note_time(key)
        if sent is not None:
            sent(size, size)

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Replace an object that has the expected bytes; see ObjectStore.replace.

        A directory cannot compare and write atomically. A lock on the root keeps other processes of
        this machine away meanwhile; a concurrent write from another machine, which only a repair
        does, or by `put`, is overwritten.
        """
        with self._alone(key):
            held = self.get(key, limit_bytes=max(len(old), len(new)))
            if held == old:
                self.put(key, [new])
        return held in {old, new}

    @contextlib.contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Hold the lock of those who replace objects, where the file system has locks."""
        self._check_open()
        with self._translated(key):
            self._check_root()
            root = os.open(self._root, _FOLDER_FLAGS & ~os.O_NOFOLLOW)
        try:
            if not repeated(lambda: _is_locked(root), _LOCK_SECONDS):
                raise StoreUnavailableError(
                    f"{self._path(key)} is not replaced, because another process has been "
                    f"replacing an object for {_LOCK_SECONDS:.0f} s",
                    next_step="try again when it has ended, or end it",
                )
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    fcntl.flock(root, fcntl.LOCK_UN)
        finally:
            os.close(root)

    def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Iterator[ObjectInfo]:
        """Yield objects in order, folder by folder; see ObjectStore.list."""
        self._check_open()
        check_prefix(prefix)
        after = check_prefix(start_after or "")
        if check_limit(limit) == 0:
            return iter(())
        folder = prefix[: prefix.rfind("/") + 1]
        self._note_time(prefix)
        return self._counted_pages(itertools.islice(self._walk(folder, prefix, after), limit))

    def delete(self, key: str) -> None:
        """Remove an object; see ObjectStore.delete. Folders are kept."""
        self._check_open()
        check_key(key)
        self.counters.add("delete")
        with self.counters.timed("delete"), self._translated(key):
            try:
                with self._folder_of(key, create=False) as (folder, name):
                    os.unlink(name, dir_fd=folder)
                    os.fsync(folder)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                # No object has this key, although something else has its name or that of its
                # folder.
                self._check_root()

    def describe(self) -> str:
        """Return `file://<root>`."""
        return f"file://{self._root}"

    def _make_root(self) -> None:
        """Create the root and its parents, syncing each name from the top down; then mark it."""
        absent = [path for path in (self._root, *self._root.parents) if not path.exists()]
        for path in reversed(absent):
            ownership.make_directory(path)
            fsync_directory(path.parent)
        self._root.mkdir(exist_ok=True)
        if self._is_marked():
            return
        try:
            with self._marker.open("x", encoding="ascii") as file:
                ownership.give_to_owner(file.fileno(), self._root)
                file.write(_MARKER_TEXT)
                file.flush()
                _sync_file(file.fileno())
            fsync_directory(self._root)
        except FileExistsError:
            pass  # Another process created it.
        except OSError:
            # A remote of an earlier version that is only read needs no mark.
            if not self._is_remote():
                raise

    @property
    def _marker(self) -> Path:
        return self._root / MARKER_NAME

    def _is_marked(self) -> bool:
        return _is_there(self._marker)

    def _is_remote(self) -> bool:
        """Return True if the root is marked, or has a folder of an earlier version's remote."""
        return self._is_marked() or any(_is_there(self._root / name) for name in _FOLDERS)

    def _check_root(self) -> None:
        """Distinguish an absent object from an absent store, such as an unmounted disk."""
        if not self._is_remote():
            what = "has no remote" if _is_there(self._root) else "is absent"
            raise BucketMissingError(
                f"the directory {self._root} {what}, as if its disk were not mounted",
                next_step=Hint(
                    "mount it, or correct remote.root; to create a new remote there, run ",
                    Advice.MAKE_REMOTE,
                ),
            )

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Convert any OSError in the block to the declared error."""
        try:
            yield
        except OSError as error:
            raise directory_error(self._path(key), error) from error

    def _link_error(self, key: str, error: OSError) -> GraftError:
        """Distinguish a file system without hard links from a link whose outcome is unknown."""
        if error.errno in _NO_HARD_LINKS:
            return UnsafeStoreError(
                f"{self._path(key)}: the file system has no hard links, so two writers"
                " could create the same key",
                next_step="use a directory on a file system with hard links, or S3",
            )
        if error.errno in _ERRORS:
            return directory_error(self._path(key), error)
        return CommitOutcomeUnknownError(
            f"{self._path(key)}: {error.strerror or error}; it may have been created or not",
            next_step="check the disk, then push again; the record of this push is kept",
        )

    @contextlib.contextmanager
    def _folder_of(self, key: str, *, create: bool) -> Iterator[tuple[int, str]]:
        """Open the folder of a key; yield its descriptor and the key's last segment."""
        *folders, name = key.split("/")
        descriptor = self._open_folder(folders, create=create)
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)

    def _open_folder(self, folders: Sequence[str], *, create: bool) -> int:
        """Open a folder below the root, one segment at a time, so that no link is followed."""
        self._check_root()
        # The root itself is the user's choice and may be a link.
        descriptor = os.open(self._root, _FOLDER_FLAGS & ~os.O_NOFOLLOW)
        for folder in folders:
            parent = descriptor
            try:
                descriptor = _open_child(parent, folder, create=create)
            finally:
                os.close(parent)
        return descriptor

    def _read(self, key: str, start: int, length: int) -> bytes | None:
        """Return up to `length` bytes at `start`, or None if the key is absent."""
        self._check_open()
        check_key(key)
        with self._translated(key):
            try:
                with self._folder_of(key, create=False) as (folder, name):
                    descriptor = os.open(name, _READ_FLAGS, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):
                self._check_root()
                self._note_time(key)
                return None
            try:
                found = _read_file(descriptor, start, length)
            finally:
                os.close(descriptor)
            self._note_time(key)
            return found

    def _note_time(self, key: str) -> None:
        """Note when a request was carried out: this kernel's clock also dates a local file."""
        now_ms = time.time_ns() // 1_000_000

        def date_ms() -> int | None:
            with self._translated(key):
                mount = mount_of(self._root)
            return now_ms if mount is not None and mount.is_local else None

        note_time(key, date_ms)

    def _walk(self, folder: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Yield the objects in and below `folder` ("" or text that ends in "/"), in key order."""
        # Folders may be nested deeper than the call stack, so pending ones are kept in a list.
        waiting = [*self._entries(folder)]
        while waiting:
            found = waiting.pop()
            key = found.key
            if key.endswith("/"):
                if _may_hold(key, prefix, after):
                    waiting += self._entries(key)
            elif key.startswith(prefix) and key > after and len(key) <= KEY_BYTES_MAX:
                yield found

    def _entries(self, folder: str) -> Sequence[ObjectInfo]:
        """Return the objects and folders in a folder, in reverse key order.

        A folder sorts as its name with a slash: `a.b` sorts before `a/b`, although `a` sorts before
        `a.b`.
        """
        with self._translated(folder):
            try:
                descriptor = self._open_folder(folder.split("/")[:-1], create=False)
            except (FileNotFoundError, NotADirectoryError):
                return ()
            try:
                with os.scandir(descriptor) as entries:
                    found = [_listed(entry, folder) for entry in entries]
                    return sorted(filter(None, found), reverse=True)
            finally:
                os.close(descriptor)


def _is_locked(root: int) -> bool:
    """Take the lock of an open directory; True without one on a file system that has none."""
    try:
        fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_there(path: Path) -> bool:
    """Return True if a path exists; raises OSError if that is unknown, unlike Path.exists."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _may_hold(folder: str, prefix: str, after: str) -> bool:
    """Return True if keys that begin with `folder` can have `prefix` and come after `after`."""
    meets_prefix = folder.startswith(prefix) or prefix.startswith(folder)
    is_short = len(folder) < KEY_BYTES_MAX
    return is_short and meets_prefix and (folder > after or after.startswith(folder))


def _listed(entry: os.DirEntry[str], folder: str) -> ObjectInfo | None:
    """Return an object, a folder (its key ends with a slash), or None for anything else."""
    if not is_segment(entry.name):
        return None
    if entry.is_dir(follow_symlinks=False):
        return ObjectInfo(f"{folder}{entry.name}/", 0, None)
    if not entry.is_file(follow_symlinks=False):
        return None
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None  # Removed in the meantime.
    return ObjectInfo(folder + entry.name, found.st_size, found.st_mtime)


def _open_child(parent: int, name: str, *, create: bool) -> int:
    """Open the folder `name` in an open folder; a new one is made durable."""
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    # Another writer may create the same folder at the same time.
    is_made = False
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
        is_made = True
    # Ordering: the folder's name must be durable before a name inside it is reported.
    os.fsync(parent)
    folder = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    if is_made:
        ownership.give_to_owner(folder, parent)
    return folder


def _exists(folder: int, name: str) -> bool:
    """Return True if an object has this name; raises OSError if it is not a regular file."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.ELOOP, "not a regular file")
    return True


@contextlib.contextmanager
def _temporary_file(folder: int, data: Sequence[Buffer]) -> Iterator[str]:
    """Yield the name of a complete and synced temporary file; the block's end removes it."""
    name = f"#{os.getpid()}-{secrets.token_hex(8)}"
    descriptor = os.open(name, _TEMPORARY_FLAGS, 0o666, dir_fd=folder)
    try:
        try:
            ownership.give_to_owner(descriptor, folder)
            end = 0
            for part in data:
                view = memoryview(part).cast("B")
                write_fully(descriptor, view, end)
                end += len(view)
            _sync_file(descriptor)
        finally:
            os.close(descriptor)
        yield name
    finally:
        # After a rename the name no longer exists; after a link or a failure, it does.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _read_file(descriptor: int, start: int, length: int) -> bytes | None:
    """Return up to `length` bytes at `start`, or None if this is not a regular file."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    return read_exactly(descriptor, length, start)


def _sync_file(descriptor: int) -> None:
    """Make a file durable."""
    full_sync: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is None:
        os.fsync(descriptor)
    else:  # On macOS, only this flushes the drive's cache.
        fcntl.fcntl(descriptor, full_sync)
