"""Asynchronous programs: aiosqlite opens tags, and many coroutines share a volume."""

from __future__ import annotations

import asyncio
import sqlite3

import aiosqlite
import pytest

import graft_vfs
from tests.support.sql import is_sound, rows


@pytest.fixture
def table(engine):
    graft_vfs.enable_sqlite3()
    connection = graft_vfs.connect("main")
    connection.execute("CREATE TABLE t(who, n)")
    return connection


def opened(**parameters):
    uri = graft_vfs.uri("main", **parameters)
    return aiosqlite.connect(uri, uri=True, isolation_level=None, timeout=60)


def test_coroutines_write_one_after_another(table):
    async def work(who):
        async with opened() as connection:
            for _ in range(10):
                await connection.execute("BEGIN IMMEDIATE")
                async with connection.execute("SELECT count(*) FROM t") as cursor:
                    (count,) = await cursor.fetchone()
                await connection.execute("INSERT INTO t VALUES(?, ?)", (who, count))
                await connection.commit()

    async def together():
        await asyncio.gather(*(work(who) for who in range(4)))

    asyncio.run(together())
    assert [n for (n,) in rows(table, "SELECT n FROM t ORDER BY n")] == list(range(40))
    assert is_sound(table)


def test_a_coroutine_keeps_its_snapshot_while_another_commits(table):
    async def count(connection):
        async with connection.execute("SELECT count(*) FROM t") as cursor:
            return (await cursor.fetchone())[0]

    async def watch():
        async with opened() as reader, opened() as writer:
            await reader.execute("BEGIN")
            counts = [await count(reader)]
            await writer.execute("INSERT INTO t VALUES('writer', 1)")
            counts.append(await count(reader))
            await reader.commit()
            counts.append(await count(reader))
            return counts

    assert asyncio.run(watch()) == [0, 0, 1]


def test_a_cancelled_statement_leaves_a_usable_volume(table):
    endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "

    async def cancel():
        async with opened() as connection:
            inserting = asyncio.create_task(
                connection.execute(f"{endless} INSERT INTO t SELECT 'x', n FROM c")
            )
            async with opened() as other:
                # The writer lock tells that the statement has begun.
                await other.execute("PRAGMA busy_timeout=0")
                while not await is_locked(other):
                    await asyncio.sleep(0)
            await connection.interrupt()
            with pytest.raises(sqlite3.OperationalError, match="interrupted"):
                await inserting
            await connection.execute("INSERT INTO t VALUES('after', 1)")

    async def is_locked(connection):
        try:
            await connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        await connection.rollback()
        return False

    asyncio.run(cancel())
    assert rows(table, "SELECT * FROM t") == [("after", 1)]


def test_a_view_of_the_past_is_read_only(table, engine):
    engine.push("main")

    async def write():
        async with opened(lsn="1") as connection:
            await connection.execute("INSERT INTO t VALUES(1, 1)")

    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        asyncio.run(write())
