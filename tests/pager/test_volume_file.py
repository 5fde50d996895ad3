"""The states of a `VolumeFile`: every transition in its module, and what may be believed after it.

The table is walked by calling the file as SQLite does. That SQLite makes no other transitions is
checked by watching it work.
"""

from __future__ import annotations

import ctypes
import itertools

import apsw
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import DiskFullError, LocalStorageError
from graft_vfs.local import branch_file
from graft_vfs.pager.journal import Journal
from graft_vfs.pager.volume_file import VolumeFile
from graft_vfs.volume.transaction import Transaction
from tests.support.locking import cannot_unlock
from tests.support.replicas import Replica

SIZE = 4096
HEADER = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7".ljust(512, b"\0")
OLD, NEW = b"o" * SIZE, b"n" * SIZE
OPEN, READER, WRITER, SYNCED, HOLDER = "OPEN", "READER", "WRITER", "SYNCED", "HOLDER"
STATES = OPEN, READER, WRITER, SYNCED, HOLDER


def state_of(file: VolumeFile) -> str:
    """Return the state of a file; fails for what is none."""
    has_transaction, is_staging = file.transaction is not None, file._staged is not None
    if file._level >= apsw.SQLITE_LOCK_RESERVED:
        if has_transaction:
            assert not is_staging or file._staged is file.transaction.staged
            return WRITER if is_staging else SYNCED
        assert not is_staging
        return HOLDER
    assert not has_transaction
    assert not is_staging
    return OPEN if file._level == apsw.SQLITE_LOCK_NONE else READER


def begin_journal(file):
    Journal(file.read_snapshot_page, file).xWrite(HEADER, 0)


def send_pragma(file):
    texts = (ctypes.c_char_p * 3)(None, b"cache_size", None)
    file.xFileControl(apsw.SQLITE_FCNTL_PRAGMA, ctypes.addressof(texts))


EVENTS = {
    "lock SHARED": lambda file: file.xLock(apsw.SQLITE_LOCK_SHARED),
    "lock RESERVED": lambda file: file.xLock(apsw.SQLITE_LOCK_RESERVED),
    "lock EXCLUSIVE": lambda file: file.xLock(apsw.SQLITE_LOCK_EXCLUSIVE),
    "unlock to SHARED": lambda file: file.xUnlock(apsw.SQLITE_LOCK_SHARED),
    "unlock to NONE": lambda file: file.xUnlock(apsw.SQLITE_LOCK_NONE),
    "write": lambda file: file.xWrite(NEW, SIZE),
    "truncate": lambda file: file.xTruncate(2 * SIZE),
    "sync": lambda file: file.xFileControl(apsw.SQLITE_FCNTL_SYNC, 0),
    "phase two": lambda file: file.xFileControl(apsw.SQLITE_FCNTL_COMMIT_PHASETWO, 0),
    "journal": begin_journal,
    "pragma": send_pragma,
    "probe": lambda file: file.xRead(16, 24),
    "read": lambda file: file.xRead(SIZE, SIZE),
}

TABLE = {
    OPEN: {"lock SHARED": READER, "unlock to NONE": OPEN, "pragma": OPEN},
    READER: {
        "lock RESERVED": WRITER,
        "unlock to SHARED": READER,
        "unlock to NONE": OPEN,
        "pragma": READER,
        "probe": READER,
        "read": READER,
    },
    WRITER: {
        "lock EXCLUSIVE": WRITER,
        "unlock to SHARED": READER,
        "unlock to NONE": OPEN,
        "write": WRITER,
        "truncate": WRITER,
        "sync": SYNCED,
        "phase two": HOLDER,
        "journal": WRITER,
        "pragma": WRITER,
        "probe": HOLDER,
        "read": WRITER,
    },
    SYNCED: {
        "unlock to SHARED": READER,
        "unlock to NONE": OPEN,
        "write": WRITER,
        "truncate": SYNCED,
        "sync": SYNCED,
        "phase two": HOLDER,
        "journal": HOLDER,
        "pragma": HOLDER,
        "probe": HOLDER,
        "read": SYNCED,
    },
    HOLDER: {
        "lock EXCLUSIVE": HOLDER,
        "unlock to SHARED": READER,
        "unlock to NONE": OPEN,
        "write": WRITER,
        "truncate": HOLDER,
        "sync": HOLDER,
        "phase two": HOLDER,
        "journal": HOLDER,
        "pragma": HOLDER,
        "probe": HOLDER,
        "read": HOLDER,
    },
}
"""What SQLite does, by state. What is missing here it never does."""
COMMITTING = {(WRITER, "phase two")} | {
    (SYNCED, event) for event, to in TABLE[SYNCED].items() if to in {HOLDER, READER, OPEN}
}
TRANSITIONS = [(state, event) for state in STATES for event in TABLE[state]]


@pytest.fixture
def volume(tmp_path):
    """A volume of two pages, the second of which is OLD."""
    with Replica(tmp_path / "data", RemoteConfig(type="memory", root=str(tmp_path))) as replica:
        replica.connect().execute("CREATE TABLE t(x)")
        volume = replica.engine.open("main")
        with volume.writing() as snapshot:
            volume.write_pages(snapshot, {2: OLD}.items(), page_count=2)
        yield volume


def opened(volume):
    return VolumeFile("main", volume, on_pragma=lambda *_: None, on_close=lambda _: None)


def brought_to(state: str, volume) -> VolumeFile:
    """Return a file in a state; where there is a transaction, it has written NEW."""
    file = opened(volume)
    steps = ["lock SHARED", "lock RESERVED", "journal", "write", "sync", "phase two"]
    for step in steps[: {OPEN: 0, READER: 1, WRITER: 4, SYNCED: 5, HOLDER: 6}[state]]:
        EVENTS[step](file)
    assert state_of(file) == state
    return file


def committed(volume) -> bytes:
    """Return page 2 as another connection sees it."""
    with volume.pinned() as snapshot:
        return snapshot.read(2)


def can_write(volume) -> bool:
    lock = volume.try_writing()
    if lock is not None:
        lock.close()
    return lock is not None


def test_an_abandoned_file_has_no_lock(volume):
    file = brought_to(WRITER, volume)
    assert not can_write(volume)
    file.abandon()
    assert can_write(volume)
    file.xClose()


@pytest.mark.parametrize(("state", "event"), TRANSITIONS)
def test_each_transition(volume, state, event):
    file = brought_to(state, volume)
    before = file.snapshot
    EVENTS[event](file)
    after = TABLE[state][event]
    assert state_of(file) == after
    is_new = state == HOLDER or (state, event) in COMMITTING
    assert committed(volume) == (NEW if is_new else OLD)
    # What may be believed in the state that was reached.
    assert can_write(volume) == (after in {OPEN, READER})
    assert (file in volume.pins) == (after != OPEN)
    if after == READER and state == READER:
        assert file.snapshot is before
    if after in {WRITER, SYNCED, HOLDER}:
        assert file.snapshot is volume.snapshot
        shows_new = is_new or (file.transaction is not None and event != "lock RESERVED")
        assert bytes(file.xRead(SIZE, SIZE)) == (NEW if shows_new else OLD)
    file.xUnlock(apsw.SQLITE_LOCK_NONE)
    file.xClose()
    assert can_write(volume)


@pytest.mark.parametrize(
    "last", ["unlock to SHARED", "unlock to NONE", "pragma", "journal", "probe"]
)
def test_a_transaction_rolled_back_after_its_sync_is_dropped(volume, last):
    file = brought_to(SYNCED, volume)
    journal = file.journal
    journal.xRead(4, journal.xFileSize() - 16)  # As every rollback begins.
    file.xWrite(OLD, SIZE)
    assert state_of(file) == WRITER
    EVENTS["sync"](file)
    assert state_of(file) == SYNCED
    lsn = volume.snapshot.lsn
    EVENTS[last](file)
    assert (state_of(file) == SYNCED) == (last == "pragma")
    file.xUnlock(apsw.SQLITE_LOCK_NONE)
    assert volume.snapshot.lsn == lsn


@pytest.mark.parametrize(
    ("mode", "image", "expected"),
    [("memory", NEW, NEW), ("memory", OLD, OLD), ("off", NEW, OLD), ("delete", NEW, OLD)],
)
def test_without_our_journal_a_rollback_is_recognised_by_its_pages(volume, mode, image, expected):
    """With MEMORY, a rollback writes the snapshot back. With OFF it would look like a commit."""
    file = opened(volume)
    file.journal_mode = mode
    for step in "lock SHARED", "lock RESERVED", "write", "sync":
        EVENTS[step](file)
    lsn = volume.snapshot.lsn
    if image == OLD:
        file.xWrite(OLD, SIZE)
        EVENTS["sync"](file)
    EVENTS["unlock to NONE"](file)
    assert state_of(file) == OPEN
    assert committed(volume) == expected
    assert volume.snapshot.lsn == lsn + (expected == NEW)


@pytest.mark.parametrize(
    ("state", "event", "method", "failure", "reported"),
    [
        (WRITER, "sync", "reserve", DiskFullError, apsw.FullError),
        (WRITER, "phase two", "commit", LocalStorageError, apsw.IOError),
        (SYNCED, "phase two", "commit", LocalStorageError, apsw.IOError),
    ],
)
def test_a_failure_drops_the_transaction_and_keeps_the_lock(  # noqa: PLR0917
    volume, monkeypatch, state, event, method, failure, reported
):
    file = brought_to(state, volume)
    file._room = 0

    def fail(*_):
        raise failure("the disk of a test")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, method, fail)
        with pytest.raises(reported, match="the disk of a test"):
            EVENTS[event](file)
    assert state_of(file) == HOLDER
    assert committed(volume) == OLD
    assert bytes(file.xRead(SIZE, SIZE)) == OLD
    EVENTS["unlock to NONE"](file)
    assert can_write(volume)


def test_after_an_incomplete_commit_everything_is_refused(volume, monkeypatch):
    file = brought_to(SYNCED, volume)

    def fail(*_):
        raise LocalStorageError("the disk of a test")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "commit", fail)
        with pytest.raises(apsw.IOError, match="the disk of a test"):
            EVENTS["pragma"](file)
    assert state_of(file) == HOLDER
    for event in "read", "write":
        with pytest.raises(apsw.IOError, match="close the connection and open it again"):
            EVENTS[event](file)
    EVENTS["unlock to NONE"](file)
    file.xClose()
    assert committed(volume) == OLD


@pytest.mark.parametrize("state", [OPEN, READER])
def test_a_page_is_written_only_under_the_writer_lock(volume, state):
    file = brought_to(state, volume)
    with pytest.raises(apsw.ReadOnlyError):
        EVENTS["write"](file)
    assert state_of(file) == state


# What SQLite does -------------------------------------------------------------------------------

WORK = """
    CREATE TABLE t(id INTEGER PRIMARY KEY, data);
    INSERT INTO t VALUES(1, 'a');
    BEGIN IMMEDIATE; COMMIT;
    BEGIN EXCLUSIVE; INSERT INTO t VALUES(2, 'b'); ROLLBACK;
    BEGIN; INSERT INTO t VALUES(3, 'c'); SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT;
    BEGIN; WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
        INSERT INTO t SELECT i, zeroblob(9000) FROM n;
    SELECT count(*) FROM t; PRAGMA cache_size; ROLLBACK;
    INSERT INTO t SELECT id + 100, zeroblob(50000) FROM t;
    DELETE FROM t WHERE id > 100;
    VACUUM;
    SELECT count(*) FROM t;
"""


def event_of(method: str, arguments: tuple) -> str | None:
    """Return which event a call is; None for one that is in no table."""
    levels = {1: "SHARED", 2: "RESERVED", 4: "EXCLUSIVE"}
    controls = {
        apsw.SQLITE_FCNTL_SYNC: "sync",
        apsw.SQLITE_FCNTL_COMMIT_PHASETWO: "phase two",
        apsw.SQLITE_FCNTL_PRAGMA: "pragma",
    }
    if method == "xLock":
        return f"lock {levels[arguments[0]]}"
    if method == "xUnlock":
        return "unlock to SHARED" if arguments[0] else "unlock to NONE"
    if method == "xRead":
        return {(16, 24): "probe", (100, 0): None}.get(arguments, "read")
    if method == "xFileControl":
        return controls.get(arguments[0])
    return {"xWrite": "write", "xTruncate": "truncate"}[method]


@pytest.fixture
def seen(monkeypatch):
    """The transitions that SQLite makes: (state, event, state)."""
    found = set()

    def watching(method, original):
        def watched(file, *arguments):
            before, event = state_of(file), event_of(method, arguments)
            try:
                return original(file, *arguments)
            finally:
                if event is not None:
                    found.add((before, event, state_of(file)))

        return watched

    for method in "xLock", "xUnlock", "xRead", "xWrite", "xTruncate", "xFileControl":
        monkeypatch.setattr(VolumeFile, method, watching(method, getattr(VolumeFile, method)))
    return found


@pytest.mark.parametrize("journal_mode", ["delete", "truncate", "persist", "memory"])
@pytest.mark.parametrize("locking_mode", ["normal", "exclusive"])
def test_sqlite_makes_no_other_transition(tmp_path, seen, locking_mode, journal_mode):
    with Replica(tmp_path / "data", RemoteConfig(type="memory", root=str(tmp_path))) as replica:
        connection = replica.connect()
        connection.execute(f"PRAGMA locking_mode={locking_mode}")
        connection.execute(f"PRAGMA journal_mode={journal_mode}; PRAGMA cache_size=5").fetchall()
        connection.execute("PRAGMA auto_vacuum=full")
        connection.execute(WORK).fetchall()
        with pytest.raises(apsw.ConstraintError):
            connection.execute("INSERT OR ROLLBACK INTO t VALUES(4, ''), (1, '')")
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        connection.close()
    unknown = {each for each in seen if TABLE[each[0]].get(each[1]) != each[2]}
    assert unknown == set()
    assert {state for state, _, _ in seen} == set(STATES)
    assert len(seen) > 15


def test_the_table_names_every_event():
    assert set(itertools.chain.from_iterable(TABLE.values())) == set(EVENTS)


# Locks that cannot be given back -----------------------------------------------------------------


@pytest.mark.parametrize("state", [WRITER, HOLDER])
def test_a_writer_lock_that_cannot_be_unlocked_is_released_by_closing(
    volume, monkeypatch, caplog, state
):
    file = brought_to(state, volume)

    with monkeypatch.context() as patch:
        patch.setattr(branch_file, "flock", cannot_unlock)
        EVENTS["unlock to NONE"](file)
    assert "No locks available" in caplog.text
    assert state_of(file) == OPEN
    assert can_write(volume)
    EVENTS["lock SHARED"](file)
    assert bytes(file.xRead(SIZE, SIZE)) == (NEW if state == HOLDER else OLD)
    with pytest.raises(apsw.IOError, match=r"could not be unlocked.*close this connection"):
        EVENTS["lock RESERVED"](file)
    EVENTS["unlock to NONE"](file)
    file.xClose()
    assert can_write(volume)


# Room in the log --------------------------------------------------------------------------------


def test_a_moved_file_does_not_use_space_of_the_previous_log(volume, monkeypatch, tmp_path):
    """It would meet a full disk when other databases of the transaction are committed already."""
    file = brought_to(HOLDER, volume)
    EVENTS["unlock to NONE"](file)
    reserved = []
    reserve = Transaction.reserve

    def noted(transaction):
        reserved.append(transaction.volume)
        return reserve(transaction)

    monkeypatch.setattr(Transaction, "reserve", noted)
    for step in "lock SHARED", "lock RESERVED", "write", "sync", "phase two", "unlock to NONE":
        EVENTS[step](file)
    assert not reserved  # The first commit has left room for this one.
    with Replica(tmp_path / "other", RemoteConfig(type="memory", root=str(tmp_path))) as replica:
        replica.connect().execute("CREATE TABLE t(x)")
        other = replica.engine.open("main")
        reserved.clear()
        file.move_to(other)
        for step in "lock SHARED", "lock RESERVED", "write", "sync":
            EVENTS[step](file)
        assert reserved == [other]
        EVENTS["unlock to NONE"](file)
        file.xClose()
