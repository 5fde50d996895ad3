"""The tests of `apsw.tests` that graft cannot pass, each with its reason and with how it fails.

A wrong answer is no reason. `failure` is what the test says when it meets the limit, so that a test
which begins to fail in another way is found, and so is one that passes again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exclusion:
    """Why a test is left out, and a part of the message that shows it."""

    reason: str
    failure: str


_ENCRYPTED = Exclusion(
    "stacks an encrypting VFS on the default one, then compares the files on disk; a volume reads "
    "its page size in page 1 and refuses one that is not SQLite's",
    "PageSizeError",
)
_READER_BLOCKS = Exclusion(
    "wants a COMMIT to fail because another connection reads; here readers block nobody",
    "Transaction was not rolled back",
)

EXCLUDED = {
    "APSW.testConfig": Exclusion(
        "shuts SQLite down, for which every connection has to be closed; the catalog's is open",
        "All connections need to be closed to call shutdown",
    ),
    "APSW.testConnection": Exclusion(
        "wants '.' to be refused because it is a directory; here it is a tag like any other",
        "CantOpenError not raised by Connection",
    ),
    "APSW.testConnectionPragma": Exclusion(
        "wants journal_mode=WAL to be taken; a volume answers with the mode that stays",
        "AssertionError: 'delete' != 'wal'",
    ),
    "APSW.testConnectionVfsname": Exclusion(
        "wants the name of the VFS; APSW itself answers, for a file in Python with its class",
        "in testConnectionVfsname\n    self.assertTrue(",
    ),
    "APSW.testErrorCodes": Exclusion(
        "writes a file of rubbish and opens it; here its name is a tag without commits",
        "self.assertTrue(isinstance(e, apsw.NotADBError))",
    ),
    "APSW.testFilename": Exclusion(
        "wants the absolute path of a relative file name; a tag stays as it is written",
        "self.assertTrue(os.sep in self.db.filename)",
    ),
    "APSW.testIssue98": _READER_BLOCKS,
    "APSW.testIssue106": _READER_BLOCKS,
    "APSW.testVFS": _ENCRYPTED,
    "APSW.testVFSWithWAL": _ENCRYPTED,
    "APSW.testWAL": Exclusion(
        "tests WAL mode and its hooks",
        "AssertionError: 'wal' != 'delete'",
    ),
    "APSW.testWikipedia": Exclusion(
        "removes its file to begin anew with each encoding; the tag keeps its database",
        "table foo already exists",
    ),
    "Extra.testExecutable": Exclusion(
        "gives the database to SQLite's command-line programs, which look for a file on disk",
        "no such table: one",
    ),
    "Shell.testShell": Exclusion(
        "`.open --wipe` empties the file on disk",
        "--wipe didn't wipe file",
    ),
}
