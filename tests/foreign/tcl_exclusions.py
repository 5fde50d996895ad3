"""Where SQLite's TCL scripts may differ on volumes: each difference with its reason.

A wrong answer is no reason. `reason` looks for one; the table is for single checks, by script.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Outcome = tuple[str, str]
"""What came of a check, and its result."""


class Excluded(NamedTuple):
    """Checks of one script, as a pattern of their whole names."""

    script: str
    checks: str
    reason: str


NO_FILE = "the script reads, copies or measures the database's file itself; a volume has none"
MODE_STAYS = "journal_mode OFF and WAL are answered with the mode that stays, at first TRUNCATE"
READERS = "readers keep nobody from writing, nor the reverse: they have a snapshot"
NAMES = "names are tags and no paths: none is normalised, and none needs a directory"
NO_WAL = "a volume has no WAL that could be checkpointed, kept, or read at a snapshot of SQLite's"
DELETED = "the script deletes the file of an open connection, which goes on where there is no file"
CLOCK = "it is the time of day, where the other interpreter has one that stands still"
MAPS_NOTHING = "SQLite maps nothing of a volume, and mmap_size says so with 0"
RANDOM = "it draws other statements in each run, on a file too"
PAGE_SIZE = "a volume keeps its page size, and says so instead of ignoring another"

_FILE = re.compile(
    "no such file or directory|no files matched glob|could not read|error copying|couldn't open"
)
_KEEPS_PAGE_SIZE = re.compile("the volume's page size is fixed at [0-9]+ bytes")
_MODES = re.compile(r"\b(off|wal|delete|persist|truncate|memory)\b")

EXCLUDED = [
    Excluded("attach2.test", r"attach2-4\..*", READERS),
    Excluded("attach3.test", r"attach3-11\..*", NAMES),
    Excluded("corrupt.test", r"corrupt-1\.1", DELETED),
    Excluded("corruptC.test", r"corruptC-1\.1", DELETED),
    Excluded("exclusive.test", r"exclusive-2\..*", READERS),
    Excluded("exclusive2.test", r"exclusive2-.*", NO_FILE),
    Excluded("expr.test", r"expr-8\..*", CLOCK),
    Excluded("fuzz.test", r"fuzz-6\.1\..*", RANDOM),
    Excluded("incrvacuum.test", r"incrvacuum-12\.3", READERS),
    Excluded("incrvacuum.test", r"incrvacuum-16\.1", MAPS_NOTHING),
    Excluded("jrnlmode.test", r"jrnlmode-2\.1", NO_FILE),
    Excluded("lock.test", r"lock-.*", NAMES),
    Excluded("lock3.test", r"lock3-.*", NAMES),
    Excluded("lock5.test", r"lock5-.*", READERS),
    Excluded("misc7.test", r"misc7-4", NAMES),
    Excluded("mmap3.test", r"mmap3-1\.[23]", MAPS_NOTHING),
    Excluded("nockpt.test", r"nockpt-1\.1", NO_FILE),
    Excluded("shared6.test", r"shared6-.*", READERS),
    Excluded("snapshot.test", r"snapshot-1\..*", NO_WAL),
    Excluded("snapshot2.test", r"snapshot2-.*", NO_WAL),
    Excluded("snapshot_up.test", r"snapshot_up-1\..*", NO_WAL),
    Excluded("superlock.test", r"superlock-[2-6]\..*", NO_WAL),
    Excluded("symlink.test", r"symlink-.*", NAMES),
    Excluded("table.test", r"table-13\.2\..*", CLOCK),
    Excluded("temptable.test", r"temptable-[1-6]\..*", NAMES),
    Excluded("temptable2.test", r"temptable2-10\.2", MAPS_NOTHING),
    Excluded("tkt-f3e5abed55.test", r"tkt-f3e5abed55-1\.[45]", READERS),
    Excluded("vacuum-into.test", r"vacuum-into-410", NO_FILE),
    Excluded("wal6.test", r"wal6-4\.1", NO_WAL),
    Excluded("wal9.test", r"wal9-1\.6", NO_WAL),
    Excluded("walpersist.test", r"walpersist-1\..*", NO_WAL),
]


def reason(
    script: str, check: str, plain: Outcome | None, volume: Outcome | None, end: str
) -> str | None:
    """Return why a check may have come out otherwise on a volume; None if there is no reason.

    `end` is how the script ended on the volume: checks after that are missing.
    """
    for excluded in EXCLUDED:
        if excluded.script == script and re.fullmatch(excluded.checks, check):
            return excluded.reason
    if volume is None or plain is None:
        return NO_FILE if _FILE.search(end) else None
    if _FILE.search(volume[1]):
        return NO_FILE
    if _KEEPS_PAGE_SIZE.search(volume[1]):
        return PAGE_SIZE
    return MODE_STAYS if _MODES.sub("", plain[1]) == _MODES.sub("", volume[1]) else None
