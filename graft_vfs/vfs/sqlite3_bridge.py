"""The VFS in another SQLite library of the process: the one that Python's `sqlite3` uses.

APSW brings a SQLite of its own, and `sqlite3` is linked with another. That one gets a sqlite3_vfs
of C callbacks that lead to the same volumes and journals. Layouts and duties are those of version 1
in https://sqlite.org/c3ref/vfs.html and https://sqlite.org/c3ref/io_methods.html.

Invariants:
 1. Memory is allocated and freed by one library: a pragma's answer is made with the allocator of
    the library that frees it. (To hand out APSW's own sqlite3_vfs would break this, and its
    callbacks leave a Python exception pending, on which `sqlite3` fails.)
 2. No exception leaves a callback. SQLite gets its result code, the log the cause, and a pragma's
    caller both.
 3. Callbacks and structures live as long as the process, because nobody tells when SQLite has
    forgotten them.

Temporary files are opened by the library's own built-in VFS, in the space of ours.
"""

from __future__ import annotations

import _thread
import ctypes
import importlib
import logging
from collections.abc import Callable
from ctypes import POINTER, c_char, c_char_p, c_int, c_int64, c_void_p
from types import ModuleType
from typing import Any

import apsw

from graft_vfs.errors import GraftError, UsageError
from graft_vfs.vfs.file_system import BUILTIN_VFS, FileSystem
from graft_vfs.vfs.journal import Journal
from graft_vfs.vfs.sqlite_errors import to_sqlite
from graft_vfs.vfs.volume_file import VolumeFile

_log = logging.getLogger(__name__)

_OK = apsw.SQLITE_OK
_NONE = apsw.SQLITE_LOCK_NONE
_OPEN_NAMED = (
    apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
)
_NAME_BYTES_MAX = 8192
_CODES = {
    type(apsw.exception_for(code)): code
    for code in range(apsw.SQLITE_ERROR, apsw.SQLITE_NOTADB + 1)
}
"""Result codes of exceptions that carry none."""

_OPEN = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_ACCESS = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_void_p)
_FULL_PATHNAME = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_void_p)
_OF_FILE = ctypes.CFUNCTYPE(c_int, c_void_p)
_TRANSFER = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64)
_WITH_NUMBER = ctypes.CFUNCTYPE(c_int, c_void_p, c_int)
_WITH_POINTER = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)
_FILE_CONTROL = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)


class _Vfs(ctypes.Structure):
    """struct sqlite3_vfs, version 1."""

    _fields_ = (
        ("version", c_int),
        ("file_bytes", c_int),
        ("name_bytes_max", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("xOpen", c_void_p),
        ("xDelete", c_void_p),
        ("xAccess", c_void_p),
        ("xFullPathname", c_void_p),
        ("xDlOpen", c_void_p),
        ("xDlError", c_void_p),
        ("xDlSym", c_void_p),
        ("xDlClose", c_void_p),
        ("xRandomness", c_void_p),
        ("xSleep", c_void_p),
        ("xCurrentTime", c_void_p),
        ("xGetLastError", c_void_p),
    )


_KEPT = (
    "xDlOpen", "xDlError", "xDlSym", "xDlClose", "xRandomness", "xSleep", "xCurrentTime",
    "xGetLastError",
)  # fmt: skip
"""What the library's own built-in VFS does for ours, too; none of these looks at its VFS."""


class _IoMethods(ctypes.Structure):
    """struct sqlite3_io_methods, version 1: no shared memory, so no WAL."""

    _fields_ = (
        ("version", c_int),
        ("xClose", c_void_p),
        ("xRead", c_void_p),
        ("xWrite", c_void_p),
        ("xTruncate", c_void_p),
        ("xSync", c_void_p),
        ("xFileSize", c_void_p),
        ("xLock", c_void_p),
        ("xUnlock", c_void_p),
        ("xCheckReservedLock", c_void_p),
        ("xFileControl", c_void_p),
        ("xSectorSize", c_void_p),
        ("xDeviceCharacteristics", c_void_p),
    )


class Bridge:
    """One VFS in one foreign SQLite library.

    Owner: the registry, for the life of the process. Thread rule: any thread; SQLite calls it from
    each thread that uses a connection.
    """

    def __init__(
        self, module: ModuleType, name: str, file_system: Callable[[], FileSystem]
    ) -> None:
        """Find the library of a module like `sqlite3`; raises UsageError if that fails.

        `file_system` is asked at each open.
        """
        self._library = _library_of(module)
        self._file_system = file_system
        self._files: dict[int, VolumeFile | Journal] = {}
        self._arrays: dict[int, type[ctypes.Array[c_char]]] = {}
        self._is_interrupted = False
        self._callbacks: list[Any] = []
        default = _Vfs.from_address(self._library.sqlite3_vfs_find(BUILTIN_VFS.encode()))
        self._open_temporary = _OPEN(default.xOpen)
        self._default = ctypes.addressof(default)
        self._name = name.encode()
        self._methods = self._make_methods()
        self._vfs = self._make_vfs(default)

    def register(self, *, make_default: bool) -> None:
        """Make the VFS known to the library, or make it its default."""
        self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), int(make_default))

    def unregister(self) -> None:
        """Take the VFS out of the library; connections that are open keep it."""
        self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs))

    # Structures -------------------------------------------------------------------------------

    def _callback(self, kind: Any, function: Callable[..., int]) -> int | None:
        callback = kind(function)
        self._callbacks.append(callback)
        return ctypes.cast(callback, c_void_p).value

    def _make_vfs(self, default: _Vfs) -> _Vfs:
        return _Vfs(
            version=1,
            file_bytes=max(ctypes.sizeof(c_void_p), default.file_bytes),
            name_bytes_max=_NAME_BYTES_MAX,
            name=self._name,
            xOpen=self._callback(_OPEN, self._open),
            xDelete=self._callback(_DELETE, self._delete),
            xAccess=self._callback(_ACCESS, self._access),
            xFullPathname=self._callback(_FULL_PATHNAME, self._full_pathname),
            **{name: getattr(default, name) for name in _KEPT},
        )

    def _make_methods(self) -> _IoMethods:
        return _IoMethods(
            version=1,
            xClose=self._callback(_OF_FILE, self._close),
            xRead=self._callback(_TRANSFER, self._read),
            xWrite=self._callback(_TRANSFER, self._write),
            xTruncate=self._callback(_TRUNCATE, self._truncate),
            xSync=self._callback(_WITH_NUMBER, self._sync),
            xFileSize=self._callback(_WITH_POINTER, self._file_size),
            xLock=self._callback(_WITH_NUMBER, self._lock),
            xUnlock=self._callback(_WITH_NUMBER, self._unlock),
            xCheckReservedLock=self._callback(_WITH_POINTER, self._check_reserved_lock),
            xFileControl=self._callback(_FILE_CONTROL, self._file_control),
            xSectorSize=self._callback(_OF_FILE, self._sector_size),
            xDeviceCharacteristics=self._callback(_OF_FILE, self._characteristics),
        )

    def _code(self, error: BaseException) -> int:
        """Return the result code of an exception, which ends here."""
        if isinstance(error, KeyboardInterrupt):
            self._is_interrupted = True
            return apsw.SQLITE_INTERRUPT
        if not isinstance(error, apsw.Error):
            _log.error("a callback of SQLite failed", exc_info=error)
            return apsw.SQLITE_ERROR
        if not isinstance(error, apsw.BusyError):
            _log.error("%s", error)
        return _result_code(error)

    def _to_the_end(self, step: Callable[[], None]) -> int:
        """Run a step that must not be left undone, whenever somebody presses Ctrl-C.

        SQLite does not repeat an unlock or a close. KeyboardInterrupt is raised again behind it.
        """
        while True:
            try:
                step()
                break
            except KeyboardInterrupt:
                self._is_interrupted = True
            except BaseException as error:  # noqa: BLE001 - none may leave a callback
                return self._code(error)
        if self._is_interrupted:
            self._is_interrupted = False
            _thread.interrupt_main()
        return _OK

    # The file system --------------------------------------------------------------------------

    def _open(self, _: int, name: int | None, file: int, flags: int, given: int | None) -> int:
        c_void_p.from_address(file).value = None  # SQLite closes what has methods, even if failed.
        try:
            if name is None or not flags & _OPEN_NAMED:
                return int(self._open_temporary(self._default, name, file, flags, given))
            both = [flags, flags]
            opened = self._file_system().open_named(
                ctypes.string_at(name).decode(), both, lambda key: self._uri_parameter(name, key)
            )
            self._files[file] = opened
            c_void_p.from_address(file).value = ctypes.addressof(self._methods)
            if given:
                c_int.from_address(given).value = both[1]
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return _OK

    def _uri_parameter(self, name: int, key: str) -> str | None:
        found = self._library.sqlite3_uri_parameter(name, key.encode())
        return None if found is None else bytes(found).decode()

    def _delete(self, _: int, name: int, __: int) -> int:
        try:
            self._file_system().xDelete(ctypes.string_at(name).decode(), False)
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return _OK

    def _access(self, _: int, name: int, flags: int, found: int) -> int:
        try:
            is_there = self._file_system().xAccess(ctypes.string_at(name).decode(), flags)
            c_int.from_address(found).value = is_there
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return _OK

    def _full_pathname(self, _: int, name: int, room: int, out: int) -> int:
        try:
            text = self._file_system().xFullPathname(ctypes.string_at(name).decode()).encode()
            if len(text) >= room:
                return apsw.SQLITE_CANTOPEN
            ctypes.memmove(out, text + b"\0", len(text) + 1)
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return _OK

    # Files ------------------------------------------------------------------------------------

    def _close(self, file: int) -> int:
        code = self._to_the_end(self._files[file].xClose)
        del self._files[file]
        return code

    def _read(self, file: int, buffer: int, amount: int, offset: int) -> int:
        try:
            data = self._files[file].xRead(amount, offset)
            array = self._arrays.get(amount) or self._array(amount)
            if len(data) == amount:
                array.from_address(buffer).raw = data  # type: ignore[assignment]
                return _OK
            array.from_address(buffer).raw = bytes(data).ljust(amount, b"\0")
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return apsw.SQLITE_IOERR_SHORT_READ

    def _write(self, file: int, buffer: int, amount: int, offset: int) -> int:
        try:
            array = self._arrays.get(amount) or self._array(amount)
            self._files[file].xWrite(array.from_address(buffer).raw, offset)
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return _OK

    def _array(self, amount: int) -> type[ctypes.Array[c_char]]:
        """Return the C type of so many bytes; there are as many as there are sizes of transfers."""
        kind = c_char * amount
        self._arrays[amount] = kind
        return kind

    def _truncate(self, file: int, size: int) -> int:
        try:
            self._files[file].xTruncate(size)
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return _OK

    def _sync(self, file: int, flags: int) -> int:
        try:
            self._files[file].xSync(flags)
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return _OK

    def _file_size(self, file: int, size: int) -> int:
        try:
            c_int64.from_address(size).value = self._files[file].xFileSize()
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return _OK

    def _lock(self, file: int, level: int) -> int:
        try:
            self._files[file].xLock(level)
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return _OK

    def _unlock(self, file: int, level: int) -> int:
        try:
            self._files[file].xUnlock(level)
            if not self._is_interrupted or level != _NONE:
                return _OK
        except KeyboardInterrupt:
            self._is_interrupted = True
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return self._to_the_end(lambda: self._files[file].xUnlock(level))

    def _check_reserved_lock(self, file: int, found: int) -> int:
        try:
            c_int.from_address(found).value = self._files[file].xCheckReservedLock()
        except BaseException as error:  # noqa: BLE001
            return self._code(error)
        return _OK

    def _file_control(self, file: int, op: int, argument: int) -> int:
        try:
            opened = self._files[file]
            if op == apsw.SQLITE_FCNTL_PRAGMA and isinstance(opened, VolumeFile):
                return self._pragma(opened, argument)
            if op == apsw.SQLITE_FCNTL_VFSNAME:
                c_void_p.from_address(argument).value = self._text(self._name)
                return _OK
            return _OK if opened.xFileControl(op, argument or 0) else apsw.SQLITE_NOTFOUND
        except BaseException as error:  # noqa: BLE001
            return self._code(error)

    def _pragma(self, file: VolumeFile, argument: int) -> int:
        """Answer FCNTL_PRAGMA: `argument` is an array of answer, name, value."""
        texts = (c_void_p * 3).from_address(argument)
        name, value = (None if text is None else ctypes.string_at(text) for text in texts[1:])
        try:
            answer = file.answer((name or b"").decode(), None if value is None else value.decode())
        except GraftError as error:
            texts[0] = self._text(str(error).encode())
            return _result_code(to_sqlite(error))
        if answer is None:
            return apsw.SQLITE_NOTFOUND
        texts[0] = self._text(answer.encode())
        return _OK

    def _text(self, text: bytes) -> int:
        """Return a C string that the library will free."""
        allocated = self._library.sqlite3_malloc(len(text) + 1)
        if not allocated:
            raise MemoryError
        ctypes.memmove(allocated, text + b"\0", len(text) + 1)
        return int(allocated)

    def _sector_size(self, file: int) -> int:
        return self._files[file].xSectorSize()

    def _characteristics(self, file: int) -> int:
        return self._files[file].xDeviceCharacteristics()


def _result_code(error: apsw.Error) -> int:
    return getattr(error, "extendedresult", 0) or _CODES.get(type(error), apsw.SQLITE_IOERR)


def _library_of(module: ModuleType) -> ctypes.CDLL:
    """Return the SQLite library that a module like `sqlite3` calls; raises UsageError."""
    extension = importlib.import_module(module.connect.__module__)
    # Symbols are looked up in the extension and in what it is linked with; an extension that is
    # part of the interpreter has no file, and its symbols are the program's own.
    path = getattr(extension, "__file__", None)
    step = "use APSW (graft_vfs.connect), or a Python whose sqlite3 is linked with a shared library"
    try:
        library = ctypes.CDLL(path)
        _declare(library)
    except (OSError, AttributeError) as error:
        raise UsageError(
            f"the SQLite library of {module.__name__} cannot be called: {error}", next_step=step
        ) from error
    connection = module.connect(":memory:")
    try:
        (used,) = connection.execute("SELECT sqlite_source_id()").fetchone()
    finally:
        connection.close()
    if library.sqlite3_sourceid().decode() != used:
        raise UsageError(
            f"{module.__name__} uses another SQLite library than the one that can be found",
            next_step=step,
        )
    return library


def _declare(library: ctypes.CDLL) -> None:
    """Declare the functions that are called here; raises AttributeError if one is missing."""
    library.sqlite3_sourceid.restype = c_char_p
    library.sqlite3_sourceid.argtypes = ()
    library.sqlite3_vfs_find.restype = c_void_p
    library.sqlite3_vfs_find.argtypes = (c_char_p,)
    library.sqlite3_vfs_register.argtypes = (POINTER(_Vfs), c_int)
    library.sqlite3_vfs_unregister.argtypes = (POINTER(_Vfs),)
    library.sqlite3_uri_parameter.restype = c_char_p
    library.sqlite3_uri_parameter.argtypes = (c_void_p, c_char_p)
    library.sqlite3_malloc.restype = c_void_p
    library.sqlite3_malloc.argtypes = (c_int,)
