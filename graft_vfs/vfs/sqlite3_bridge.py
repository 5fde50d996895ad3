"""The VFS in another SQLite library of the process: that of Python's `sqlite3`.

APSW includes its own SQLite, and `sqlite3` is linked with another one. That library gets a
sqlite3_vfs of C callbacks that use the same volumes and journals. Layouts and semantics are those
of version 1 in https://sqlite.org/c3ref/vfs.html and https://sqlite.org/c3ref/io_methods.html.

Invariants:
 1. Memory is allocated and freed by the same library: a pragma's result uses the allocator of the
    library that frees it. (APSW's own sqlite3_vfs would break this rule, and its callbacks leave a
    Python exception pending, which makes `sqlite3` fail.)
 2. No exception leaves a callback, and none makes it return SQLITE_OK: SQLite gets a result code,
    the log gets the cause, and the caller of a pragma gets both. This is why the callbacks use
    cffi: Ctrl-C may come before the first instruction of a function, where it cannot be caught. It
    ends the statement, and is raised again after SQLite has returned.
 3. Callbacks and structures live as long as the process, because SQLite does not report when it no
    longer uses them.

The library's built-in VFS opens temporary files, in the memory of our file structure.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
import threading
from collections.abc import Callable, Mapping
from types import ModuleType, TracebackType
from typing import Any

import apsw
import cffi

from graft_vfs.advice import Audience
from graft_vfs.errors import GraftError, UsageError
from graft_vfs.pager.interrupts import raise_behind
from graft_vfs.pager.journal import Journal
from graft_vfs.pager.scratch import BUILTIN_VFS
from graft_vfs.pager.snapshot_file import SnapshotFile
from graft_vfs.pager.sqlite_errors import Interrupted, to_sqlite
from graft_vfs.vfs.file_system import FileSystem

_logger = logging.getLogger(__name__)

# Looked up once: attributes of APSW's module are slow.
_OK = apsw.SQLITE_OK
_NOT_FOUND = apsw.SQLITE_NOTFOUND
_COMMIT_PHASETWO = apsw.SQLITE_FCNTL_COMMIT_PHASETWO
_ACCESS_READWRITE = apsw.SQLITE_ACCESS_READWRITE
_PRAGMA = apsw.SQLITE_FCNTL_PRAGMA
_VFS_NAME = apsw.SQLITE_FCNTL_VFSNAME
_OPEN_NAMED = (
    apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
)
_NAME_BYTES_MAX = 8192
_CODES = {
    type(apsw.exception_for(code)): code
    for code in range(apsw.SQLITE_ERROR, apsw.SQLITE_NOTADB + 1)
}
"""Result codes of exceptions without a code."""

_ffi = cffi.FFI()
# Addresses that are only passed on, or used as keys, are integers.
_ffi.cdef(
    """
    typedef struct {
        int iVersion, szOsFile, mxPathname;
        void *pNext;
        const char *zName;
        void *pAppData;
        int (*xOpen)(uintptr_t vfs, uintptr_t name, uintptr_t file, int flags, uintptr_t given);
        int (*xDelete)(uintptr_t vfs, const char *name, int sync_directory);
        int (*xAccess)(uintptr_t vfs, const char *name, int flags, int *found);
        int (*xFullPathname)(uintptr_t vfs, const char *name, int out_bytes, char *out);
        void *xDlOpen, *xDlError, *xDlSym, *xDlClose;
        void *xRandomness, *xSleep, *xCurrentTime, *xGetLastError;
    } sqlite3_vfs;

    typedef struct {
        int iVersion;
        int (*xClose)(uintptr_t file);
        int (*xRead)(uintptr_t file, void *buffer, int amount, int64_t offset);
        int (*xWrite)(uintptr_t file, const void *buffer, int amount, int64_t offset);
        int (*xTruncate)(uintptr_t file, int64_t size);
        int (*xSync)(uintptr_t file, int flags);
        int (*xFileSize)(uintptr_t file, int64_t *size);
        int (*xLock)(uintptr_t file, int level);
        int (*xUnlock)(uintptr_t file, int level);
        int (*xCheckReservedLock)(uintptr_t file, int *found);
        int (*xFileControl)(uintptr_t file, int op, void *argument);
        int (*xSectorSize)(uintptr_t file);
        int (*xDeviceCharacteristics)(uintptr_t file);
    } sqlite3_io_methods;

    typedef struct { const sqlite3_io_methods *pMethods; } sqlite3_file;

    const char *sqlite3_sourceid(void);
    sqlite3_vfs *sqlite3_vfs_find(const char *name);
    int sqlite3_vfs_register(sqlite3_vfs *, int make_default);
    int sqlite3_vfs_unregister(sqlite3_vfs *);
    const char *sqlite3_uri_parameter(uintptr_t name, const char *key);
    char *sqlite3_malloc(int bytes);
    int64_t sqlite3_memory_used(void);
    """
)
_ENDS = {"xUnlock", "xClose", "xTruncate", "xSync", "xDelete"}
"""Callbacks that complete an operation; see `Bridge._repeat`."""
_REPETITIONS_MAX = 100
"""How often a callback that signal handlers interrupt is repeated before it fails."""
_BUILTIN_DOES = (
    "xDlOpen", "xDlError", "xDlSym", "xDlClose", "xRandomness", "xSleep", "xCurrentTime",
    "xGetLastError",
)  # fmt: skip
"""Functions of the built-in VFS that ours uses; they ignore their first argument."""
_LIBRARY_STEP = "use graft_vfs.connect, or a Python whose sqlite3 is linked with a shared library"


class Bridge:
    """One VFS in one foreign SQLite library.

    Owner: the registry, for the life of the process. Thread rule: any thread; SQLite calls it from
    each thread that uses a connection.
    """

    def __init__(
        self, module: ModuleType, name: str, file_system: Callable[[], FileSystem]
    ) -> None:
        """Find the library of a module like `sqlite3`; raises UsageError if that fails.

        `file_system` is called at each open.
        """
        self.library = _library_of(module)
        self._file_system = file_system
        self._files: dict[int, SnapshotFile | Journal] = {}
        self._failures = threading.local()
        self._name = name.encode()
        self._builtin = self.library.sqlite3_vfs_find(BUILTIN_VFS.encode())
        self._callbacks: list[Any] = []
        self._methods = self._make_methods()
        self._zname = _ffi.new("char[]", self._name)
        self._vfs = self._make_vfs()
        # SQLite may close a connection at interpreter exit, after modules were freed.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def register(self, *, make_default: bool) -> None:
        """Register the VFS with the library, or make it the default."""
        self.library.sqlite3_vfs_register(self._vfs, int(make_default))

    def unregister(self) -> None:
        """Unregister the VFS from the library; open connections keep it."""
        self.library.sqlite3_vfs_unregister(self._vfs)

    def take_failure(self) -> str | None:
        """Return the text of the last failure in this thread, and clear it."""
        failure: str | None = getattr(self._failures, "last", None)
        self._failures.last = None
        return failure

    # Structures -------------------------------------------------------------------------------

    def _fill(self, structure: Any, functions: Mapping[str, Any]) -> None:
        """Set the callbacks of a structure; their errors become result codes."""
        types = {name: field.type for name, field in _ffi.typeof(structure).item.fields}
        for name, function in functions.items():
            onerror = functools.partial(self._repeat, name, function)
            callback = _ffi.callback(
                types[name], function, error=apsw.SQLITE_IOERR, onerror=onerror
            )
            self._callbacks.append(callback)
            setattr(structure, name, callback)

    def _make_vfs(self) -> Any:
        vfs = _ffi.new("sqlite3_vfs *")
        vfs.iVersion = 1
        vfs.szOsFile = max(_ffi.sizeof("sqlite3_file"), self._builtin.szOsFile)
        vfs.mxPathname = _NAME_BYTES_MAX
        vfs.zName = self._zname
        for name in _BUILTIN_DOES:
            setattr(vfs, name, getattr(self._builtin, name))
        functions = {
            "xOpen": self._open,
            "xDelete": self._delete,
            "xAccess": self._access,
            "xFullPathname": self._full_pathname,
        }
        self._fill(vfs, functions)
        return vfs

    def _make_methods(self) -> Any:
        methods = _ffi.new("sqlite3_io_methods *")
        methods.iVersion = 1  # No shared memory, so no WAL.
        functions = {
            "xClose": self._close,
            "xRead": self._read,
            "xWrite": self._write,
            "xTruncate": self._truncate,
            "xSync": self._sync,
            "xFileSize": self._file_size,
            "xLock": self._lock,
            "xUnlock": self._unlock,
            "xCheckReservedLock": self._check_reserved_lock,
            "xFileControl": self._file_control,
            "xSectorSize": self._sector_size,
            "xDeviceCharacteristics": self._characteristics,
        }
        self._fill(methods, functions)
        return methods

    # Errors -----------------------------------------------------------------------------------

    def _fail(self, _: type[BaseException], error: BaseException, traceback: TracebackType) -> int:
        """Return the result code of an exception; the exception is not propagated."""
        original = error.original if isinstance(error, Interrupted) else error
        if not isinstance(original, Exception):
            opened = self._files.get(traceback.tb_frame.f_locals.get("file", 0))
            is_reading = isinstance(opened, SnapshotFile) and not opened.holds_writer_lock
            raise_behind(original)
            # Otherwise it may be an interrupted rollback: see `as_io_error`.
            return apsw.SQLITE_INTERRUPT if is_reading else apsw.SQLITE_IOERR
        if isinstance(error, Interrupted):
            _logger.error("a callback of SQLite was interrupted", exc_info=original)
            return apsw.SQLITE_IOERR
        if not isinstance(error, apsw.Error):
            _logger.error("a callback of SQLite failed", exc_info=error)
            return apsw.SQLITE_ERROR
        if not isinstance(error, apsw.BusyError):
            _logger.error("%s", error)
        self._failures.last = str(error)
        return _result_code(error)

    def _repeat(
        self,
        name: str,
        function: Callable[..., int],
        kind: type[BaseException],
        error: BaseException,
        traceback: TracebackType,
    ) -> int:
        """Repeat an interrupted callback that SQLite does not repeat, or whose errors it ignores.

        These are phase two of a commit, everything that may follow phase one, an unlock, a close,
        and all calls for a journal. An unlock also raises the exception that interrupted its
        commit.
        """
        found = traceback.tb_frame.f_locals
        opened = self._files.get(found.get("file", 0))
        is_end = name in _ENDS or found.get("op") == _COMMIT_PHASETWO or isinstance(opened, Journal)
        if isinstance(error, apsw.Error) or not is_end:
            return self._fail(kind, error, traceback)
        code = function.__func__.__code__  # type: ignore[attr-defined]
        arguments = [found[each] for each in code.co_varnames[1 : code.co_argcount]]
        raised = [error]
        for _ in range(_REPETITIONS_MAX):
            try:
                result = function(*arguments)
            except apsw.Error as failure:
                result = self._fail(type(failure), failure, traceback)
            except BaseException as another:  # noqa: BLE001 - it is raised later
                raised.append(another)
                continue
            # Ordering: last, or it could be raised before the work is done.
            for each in raised:
                raise_behind(each)
            return result
        return self._fail(kind, raised[-1], traceback)

    # The file system --------------------------------------------------------------------------

    def _open(self, _: int, name: int, file: int, flags: int, given: int) -> int:
        opened = _ffi.cast("sqlite3_file *", file)
        opened.pMethods = _ffi.NULL  # SQLite closes any file with methods, even after an error.
        if not name or not flags & _OPEN_NAMED:
            builtin = int(_ffi.cast("uintptr_t", self._builtin))
            return int(self._builtin.xOpen(builtin, name, file, flags, given))
        both = [flags, flags]
        self._files[file] = self._file_system().open_named(
            _text(_ffi.cast("char *", name)),
            both,
            lambda key: self._uri_parameter(name, key),
            self._is_default,
        )
        opened.pMethods = self._methods
        if given:
            _ffi.cast("int *", given)[0] = both[1]
        return _OK

    def _is_default(self) -> bool:
        return bool(self.library.sqlite3_vfs_find(_ffi.NULL) == self._vfs)

    def _uri_parameter(self, name: int, key: str) -> str | None:
        found = self.library.sqlite3_uri_parameter(name, key.encode())
        return None if found == _ffi.NULL else _text(found)

    def _delete(self, _: int, name: Any, __: int) -> int:
        self._file_system().xDelete(_text(name), False)
        return _OK

    def _access(self, _: int, name: Any, flags: int, found: Any) -> int:
        if flags == _ACCESS_READWRITE:  # A directory that is not ours: see FileSystem.xAccess.
            builtin = int(_ffi.cast("uintptr_t", self._builtin))
            return int(self._builtin.xAccess(builtin, name, flags, found))
        found[0] = self._file_system().xAccess(_text(name), flags)
        return _OK

    def _full_pathname(self, _: int, name: Any, out_bytes: int, out: Any) -> int:
        text = self._file_system().xFullPathname(_text(name)).encode() + b"\0"
        if len(text) > out_bytes:
            raise apsw.CantOpenError("the name is too long")
        _ffi.memmove(out, text, len(text))
        return _OK

    # Files ------------------------------------------------------------------------------------

    def _close(self, file: int) -> int:
        opened = self._files.get(file)
        if opened is not None:  # It is called again if it was interrupted.
            opened.xClose()
            self._files.pop(file, None)
        return _OK

    def _read(self, file: int, buffer: Any, amount: int, offset: int) -> int:
        data = self._files[file].xRead(amount, offset)
        found = len(data)
        _ffi.memmove(buffer, data, found)
        if found == amount:
            return _OK
        _ffi.buffer(buffer, amount)[found:] = bytes(amount - found)
        return apsw.SQLITE_IOERR_SHORT_READ

    def _write(self, file: int, buffer: Any, amount: int, offset: int) -> int:
        self._files[file].xWrite(_ffi.buffer(buffer, amount)[:], offset)
        return _OK

    def _truncate(self, file: int, size: int) -> int:
        self._files[file].xTruncate(size)
        return _OK

    def _sync(self, file: int, flags: int) -> int:
        self._files[file].xSync(flags)
        return _OK

    def _file_size(self, file: int, size: Any) -> int:
        size[0] = self._files[file].xFileSize()
        return _OK

    def _lock(self, file: int, level: int) -> int:
        self._files[file].xLock(level)
        return _OK

    def _unlock(self, file: int, level: int) -> int:
        self._files[file].xUnlock(level)
        return _OK

    def _check_reserved_lock(self, file: int, found: Any) -> int:
        found[0] = self._files[file].xCheckReservedLock()
        return _OK

    def _file_control(self, file: int, op: int, argument: Any) -> int:
        opened = self._files[file]
        if op == _PRAGMA and isinstance(opened, SnapshotFile):
            return self._pragma(opened, _ffi.cast("char **", argument))
        if op == _VFS_NAME:
            _ffi.cast("char **", argument)[0] = self._allocated(self._name)
            return _OK
        pointer = int(_ffi.cast("uintptr_t", argument))
        return _OK if opened.xFileControl(op, pointer) else _NOT_FOUND

    def _pragma(self, file: SnapshotFile, texts: Any) -> int:
        """Handle FCNTL_PRAGMA; `texts` are the result, the name and the value."""
        value = None if texts[2] == _ffi.NULL else _text(texts[2])
        try:
            answer = file.answer(_text(texts[1]), value)
        except GraftError as error:
            texts[0] = self._allocated(error.words(Audience.SQL).encode())
            return _result_code(to_sqlite(error))
        if answer is None:
            return apsw.SQLITE_NOTFOUND
        texts[0] = self._allocated(answer.encode())
        return _OK

    def _allocated(self, text: bytes) -> Any:
        """Return a C string that the library will free."""
        allocated = self.library.sqlite3_malloc(len(text) + 1)
        if allocated == _ffi.NULL:
            raise apsw.NoMemError("SQLite is out of memory")
        _ffi.memmove(allocated, text + b"\0", len(text) + 1)
        return allocated

    def _sector_size(self, file: int) -> int:
        return self._files[file].xSectorSize()

    def _characteristics(self, file: int) -> int:
        return self._files[file].xDeviceCharacteristics()


def _text(pointer: Any) -> str:
    """Return a C string; raises CantOpenError if it is not UTF-8."""
    text: bytes = _ffi.string(pointer)
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise apsw.CantOpenError(f"{text!r} is not UTF-8, so it is not a tag") from error


def _result_code(error: apsw.Error) -> int:
    return getattr(error, "extendedresult", 0) or _CODES.get(type(error), apsw.SQLITE_IOERR)


def _library_of(module: ModuleType) -> Any:
    """Return the SQLite library that a module like `sqlite3` calls; raises UsageError."""
    extension = importlib.import_module(module.connect.__module__)
    # Symbols are looked up in the extension and its linked libraries; an extension that is built
    # into the interpreter has no file, and its symbols are the program's.
    try:
        library = _ffi.dlopen(getattr(extension, "__file__", None))
        found = _ffi.string(library.sqlite3_sourceid()).decode()
    except (OSError, AttributeError) as error:
        raise UsageError(
            f"the SQLite library of {module.__name__} cannot be called: {error}",
            next_step=_LIBRARY_STEP,
        ) from error
    connection = module.connect(":memory:")
    try:
        (used,) = connection.execute("SELECT sqlite_source_id()").fetchone()
    finally:
        connection.close()
    if found != used:
        raise UsageError(
            f"{module.__name__} uses a SQLite library other than the one that was found",
            next_step=_LIBRARY_STEP,
        )
    return library
