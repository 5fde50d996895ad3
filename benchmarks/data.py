"""Databases to measure with: plain files of random text, the same for everybody."""

from __future__ import annotations

import os
import random
from pathlib import Path

import apsw

_ROW_BYTES = 200


def random_text_database(path: Path, rows: int) -> None:
    """Write a plain database with `rows` rows of some 200 bytes of random hexadecimal text."""
    chance = random.Random(1)
    connection = apsw.Connection(str(path))
    connection.pragma("synchronous", "off")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
    with connection:
        connection.executemany(
            "INSERT INTO t VALUES(?, ?)",
            ((number, chance.randbytes(_ROW_BYTES // 2).hex()) for number in range(1, rows + 1)),
        )
    connection.close()


def large_database(path: Path, size_bytes: int) -> None:
    """Write a plain database of about `size_bytes`, with rows of 1000 bytes made by SQLite."""
    connection = apsw.Connection(str(path))
    connection.pragma("synchronous", "off")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, v TEXT)")
    connection.execute(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?) "
        "INSERT INTO t SELECT i, i, hex(randomblob(500)) FROM c",
        (max(1, size_bytes // 1_030),),
    ).fetchall()
    connection.close()


def forget_cached_pages(directory: Path) -> None:
    """Write out the files below a directory and have the kernel drop its copies of them."""
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
