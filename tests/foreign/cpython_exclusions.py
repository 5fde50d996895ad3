"""The tests of CPython's `test.test_sqlite3` that graft cannot pass; see `apsw_exclusions`."""

from __future__ import annotations

from tests.foreign.apsw_exclusions import Exclusion

_ON_DISK = Exclusion(
    "looks for the database as a file on disk; a tag has none",
    "self.assertTrue(os.path.exists(path))",
)
_NO_PATH = Exclusion(
    "wants a path that cannot be opened to be refused; here it is a tag like any other",
    "not raised",
)
_UNDECODABLE = Exclusion(
    "opens a path that is no UTF-8; a tag is a text",
    "OperationalError: unable to open database file",
)

EXCLUDED = {
    "ConnectionTests.test_connection_bad_reinit": _NO_PATH,
    "ModuleTests.test_error_code_on_exception": _NO_PATH,
    "ConnectionTests.test_failed_open": _NO_PATH,
    "OpenTests.test_open_unquoted_uri": _ON_DISK,
    "OpenTests.test_open_uri": _ON_DISK,
    "OpenTests.test_open_uri_readonly": _ON_DISK,
    "OpenTests.test_open_with_bytes_path": _ON_DISK,
    "OpenTests.test_open_with_path_like_object": _ON_DISK,
    "OpenTests.test_open_undecodable_uri": _UNDECODABLE,
    "OpenTests.test_open_with_undecodable_path": _UNDECODABLE,
    "MultiprocessTests.test_ctx_mgr_rollback_if_commit_failed": Exclusion(
        "its second process does not know graft and opens a plain file of that name",
        "AssertionError: 1 != 0",
    ),
}
