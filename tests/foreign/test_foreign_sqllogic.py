"""SQLite's sqllogictest: statements and queries on a volume have the answers of its scripts.

The scripts (test/*.test, a gigabyte, six million records) are not here. SQLLOGICTEST_SCRIPTS names
the directory in a copy of them; SQLLOGICTEST_EVERY says that each n-th script is run (default 20),
beside all that are directly in the directory or in `evidence`. Connections have a cache of ten
pages, so that queries read from the volume, and page sizes take turns.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

import graft_vfs
from graft_vfs import Config
from graft_vfs.pages import PAGE_SIZES
from tests.foreign import sqllogic
from tests.support.engines import memory_remote, registered
from tests.support.sql import is_sound, stock

SCRIPT = """
# A comment.
statement ok
CREATE TABLE t(a INTEGER, b VARCHAR(8),
# A comment inside a record.
c REAL)

statement ok
INSERT INTO t VALUES(1, 'one', 1.5), (2, '', NULL), (10, 'ten', 2)

statement error
INSERT INTO t VALUES(1)

onlyif mysql
statement ok
This is no SQL.

skipif sqlite
query I
SELECT nothing at all

skipif mysql
query ITR nosort
SELECT a, b, c FROM t ORDER BY a
----
9 values hashing to 471e134baa2bc4aa9894ed861c721925

query I rowsort first
SELECT a FROM t
----
1
10
2

query I valuesort first
SELECT a FROM t ORDER BY a DESC
----
1
10
2

query TIR
SELECT 1.5, 'no number', 1
----
1.5
0
1.000

halt

statement ok
This is left out.
"""


@pytest.fixture
def volume(tmp_path):
    with registered(Config(data_dir=tmp_path / "data", remote=memory_remote())):
        yield graft_vfs.connect("logic")


def test_a_script_of_sqllogictest_has_its_answers_on_a_volume(volume):
    tally = sqllogic.run(SCRIPT, volume)
    assert tally.wrong == []
    assert (tally.statements, tally.queries) == (3, 4)


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [
        ("----\n1\n10\n2\n\nquery I val", "----\n1\n10\n3\n\nquery I val", 28),
        ("statement error", "statement ok", 11),
        ("ORDER BY a DESC", "WHERE a > 1", 35),
        ("hashing to 47", "hashing to 047", 23),
    ],
    ids=["values", "outcome", "label", "hash"],
)
def test_a_wrong_answer_is_detected(volume, right, wrong, line):
    assert right in SCRIPT
    tally = sqllogic.run(SCRIPT.replace(right, wrong), volume)
    assert tally.wrong
    assert all(each.startswith(f"line {line}:") for each in tally.wrong)


def scripts() -> list[Path]:
    """Return the scripts that the deep run takes."""
    directory = os.environ.get("SQLLOGICTEST_SCRIPTS")
    if not directory:
        return []
    every = int(os.environ.get("SQLLOGICTEST_EVERY", "20"))
    near = [*Path(directory).glob("*.test"), *Path(directory).glob("evidence/*.test")]
    far = sorted(set(Path(directory).rglob("*.test")).difference(near))
    return sorted(near) + far[::every]


def differences(script: Path) -> list[str]:
    """Return the answers of today's SQLite that are not those of an old script."""
    if script.stem != "slt_lang_aggfunc":  # It overflows sum(), which is an error now.
        return []
    with contextlib.closing(stock(":memory:")) as plain:
        found = sqllogic.run(script.read_text(), plain).wrong
    assert found
    return found


@pytest.mark.deep
@pytest.mark.skipif(not scripts(), reason="SQLLOGICTEST_SCRIPTS names no directory with scripts")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(len(scripts())), ids=lambda n: scripts()[n].stem)
def test_the_scripts_of_sqllogictest_have_their_answers_on_a_volume(
    volume, number, record_testsuite_property
):
    script = scripts()[number]
    volume.pragma("page_size", PAGE_SIZES[number % len(PAGE_SIZES)])
    volume.pragma("cache_size", 10)
    volume.pragma("synchronous", "off")  # There are a million commits, and no power cut.
    tally = sqllogic.run(script.read_text(), volume)
    record_testsuite_property(script.stem, f"{tally.statements} + {tally.queries}")
    assert tally.wrong == differences(script)
    assert tally.statements + tally.queries > 0
    assert is_sound(volume)
