"""Page sizes, journal modes and synchronous levels: the same statements as on stock SQLite."""

from __future__ import annotations

import apsw
import pytest

import graft_vfs
from tests.support.engines import reopened
from tests.support.sql import content, is_sound, rows, stock, value

PAGE_SIZES = (512, 1024, 4096, 8192, 65536)
JOURNAL_MODES = ("delete", "truncate", "persist", "memory")
SYNCHRONOUS = ("off", "normal", "full")


def work(connection, page_size, journal_mode, synchronous):
    """Yield what can be seen after each step of a small application."""
    connection.pragma("page_size", page_size)
    yield connection.pragma("journal_mode", journal_mode)
    yield connection.pragma("synchronous", synchronous)
    yield connection.pragma("synchronous")
    execute = connection.execute
    execute("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, size REAL, data BLOB)")
    with connection:
        connection.executemany(
            "INSERT INTO item VALUES(?, ?, ?, zeroblob(?))",
            ((n, f"item {n}", n / 7, n * 13 % 2000) for n in range(120)),
        )
    yield content(connection)
    execute("CREATE UNIQUE INDEX item_name ON item(name)")
    execute("UPDATE item SET size = size * 2, data = zeroblob(id * 7) WHERE id % 3 = 0")
    yield connection.changes()
    execute("DELETE FROM item WHERE id % 5 = 0")
    yield content(connection)
    execute("BEGIN; UPDATE item SET name = 'gone ' || id; DELETE FROM item WHERE id < 60; ROLLBACK")
    yield content(connection)
    execute("BEGIN; INSERT INTO item VALUES(1000, 'kept', 1, 'x'); SAVEPOINT a")
    execute("DELETE FROM item; ROLLBACK TO a; INSERT INTO item VALUES(1001, 'kept too', 2, NULL)")
    execute("RELEASE a; COMMIT")
    yield content(connection)
    with pytest.raises(apsw.ConstraintError):
        execute("INSERT INTO item SELECT id + 5000, 'same', 1, NULL FROM item")
    yield rows(connection, "SELECT id, size FROM item WHERE name LIKE 'item 1%' ORDER BY name")
    execute("DROP INDEX item_name; CREATE TABLE other AS SELECT * FROM item WHERE id > 50")
    yield content(connection)
    yield connection.pragma("page_size")
    yield connection.pragma("page_count")
    yield connection.pragma("freelist_count")
    yield connection.pragma("journal_mode")


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("synchronous", SYNCHRONOUS)
@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_every_step_shows_what_stock_sqlite_shows_and_outlives_the_engine(
    config, tmp_path, page_size, journal_mode, synchronous
):
    expected = stock(tmp_path / "plain.db")
    found = graft_vfs.connect("main")
    steps = zip(
        work(found, page_size, journal_mode, synchronous),
        work(expected, page_size, journal_mode, synchronous),
        strict=True,
    )
    for number, (ours, theirs) in enumerate(steps):
        assert ours == theirs, f"step {number}"
    last = content(expected)

    engine = reopened(config)

    again = graft_vfs.connect("main")
    assert again.pragma("page_size") == page_size
    assert content(again) == last
    assert is_sound(again)
    exported = tmp_path / "exported.db"
    engine.export("main", exported)
    plain = stock(exported)
    assert content(plain) == last
    assert is_sound(plain)
    assert value(plain, "SELECT count(*) FROM other") == len(last["other"])
