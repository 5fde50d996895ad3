"""Pages of b-trees that SQLite wrote."""

from __future__ import annotations

import apsw
import pytest

from graft_vfs.sqlite_format import btree, header
from graft_vfs.sqlite_format.btree import KEY_MAX, KEY_MIN, NoTreeError


def test_varints_are_those_of_sqlite():
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    for key in (0, 127, 128, 16_383, 16_384, 1 << 55, 1 << 56, KEY_MAX, -1, KEY_MIN):
        connection.execute("DELETE FROM t")
        connection.execute("INSERT INTO t VALUES(?)", (key,))
        page = connection.serialize("main")[4096:8192]
        (cell,) = (int.from_bytes(page[8:10], "big"),)
        assert btree._varint(page, cell + 1) == key
    connection.close()


def test_the_children_of_a_table_hold_its_keys_in_order():
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t(v)")
    connection.execute(
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n LIMIT 1000) "
        "INSERT INTO t SELECT zeroblob(100) FROM n"
    )
    data = connection.serialize("main")
    connection.close()
    root = data[4096:8192]
    assert btree.kind(data[:4096], 1) == btree.LEAF_TABLE
    *others, (last, rest) = btree.children(root, 2, btree.kind(root, 2))
    assert rest is None
    keys = [key for _, key in others]
    assert keys == sorted(keys)
    assert 1 <= keys[0] <= keys[-1] < 1000
    for page in (*(page for page, _ in others), last):
        assert btree.kind(data[(page - 1) * 4096 : page * 4096], page) == btree.LEAF_TABLE
    with pytest.raises(NoTreeError):
        list(btree.children(data[:4096], 1, btree.LEAF_TABLE))


def test_an_empty_table_is_recognised_as_by_sqlite():
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t(v); DROP TABLE t")
    page = connection.serialize("main")[:4096]
    connection.close()
    assert page[btree.FIRST_PAGE_HEAD] == btree.empty_table(4096)


def test_a_trunk_of_the_freelist_names_the_free_pages():
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t(v); INSERT INTO t VALUES(zeroblob(40000)); DELETE FROM t")
    data, free = connection.serialize("main"), connection.pragma("freelist_count")
    connection.close()
    trunk = int.from_bytes(data[header.FIRST_FREELIST_TRUNK], "big")
    following, leaves = btree.freelist_trunk(data[(trunk - 1) * 4096 : trunk * 4096])
    assert (following, 1 + len(leaves)) == (0, free)
    assert len({trunk, *leaves} & set(range(3, len(data) // 4096 + 1))) == free
