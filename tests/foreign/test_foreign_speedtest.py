"""SQLite's speed tests, for their answers: graft gives the rows that the built-in VFS gives.

`apsw.speedtest` is installed with APSW. `speedtest1` is a program in SQLite's source tree
(`test/speedtest1.c`); it writes its SQL to a file (`speedtest1 --script F.sql --size 20 X.db`), and
the variable SPEEDTEST1_SCRIPTS names a directory of such files. Options such as `--pagesize`,
`--autovacuum`, `--utf16le`, `--without-rowid`, `--cachesize 10` and `--testset orm` make very
different databases. Of no use here are `--journal wal`, because a volume answers with another mode,
and `--pagesize` with `--autovacuum`, because that VACUUM changes the page size. Test sets `fp` and
`rtree` come without semicolons, which have to be added.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

import graft_vfs
from graft_vfs import Config
from graft_vfs.volume import transaction
from tests.support.engines import memory_remote, registered
from tests.support.sql import content, is_sound, stock

_PROGRAM = Path(__file__).with_name("speedtest_rows.py")
# The package may be installed, and then it is not beside the tests.
_PATH = os.pathsep.join(map(str, (Path(graft_vfs.__file__).parents[1], Path(__file__).parents[1])))


def run_speedtest(side: str, directory: Path, *arguments: str) -> dict[str, Any]:
    """Run APSW's speed test on `stock` or `graft`; return its rows and what it left."""
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, _PROGRAM, side, directory, *arguments],
        env={**os.environ, "PYTHONPATH": _PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compare_speedtest(directory: Path, *arguments: str) -> None:
    """Assert that both sides agree, and that there was something to agree on."""
    plain = run_speedtest("stock", directory / "stock", *arguments)
    assert plain["sound"]
    assert plain["rows"] > 1000
    assert run_speedtest("graft", directory / "graft", *arguments) == plain


def test_the_speed_test_of_apsw_gets_the_same_rows_as_on_a_plain_file(tmp_path):
    # A cache of 100 KiB makes each large transaction write early and each scan read.
    compare_speedtest(tmp_path, "--iterations", "2", "--scale", "1", "--sqlite-cache", "0.1")


_SHAPES = {
    "small-cache": ("--scale", "10", "--sqlite-cache", "0.1"),
    "usual-cache": ("--scale", "10", "--sqlite-cache", "2"),
    # Rows of some kilobytes in characters of four bytes: most have overflow pages.
    "large-rows": ("--scale", "1", "--unicode", "30", "--data-size", "40"),
}


@pytest.mark.deep
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shape", _SHAPES)
def test_the_speed_test_of_apsw_gets_the_same_rows_at_scale(tmp_path, shape):
    compare_speedtest(tmp_path, "--iterations", "2", *_SHAPES[shape])


def sections(script: str) -> Iterator[tuple[str, str]]:
    """Return the tests of a speedtest1 script: name and SQL, in order."""
    head, *rest = re.split(r"^-- begin test (.*)$", script, flags=re.MULTILINE)
    yield "before the first test", head
    yield from zip(rest[::2], rest[1::2], strict=True)


def assert_same_answers(script: str, plain: apsw.Connection, volume: apsw.Connection) -> int:
    """Run a script on both; return the number of rows, all of them equal."""
    count = 0
    for name, sql in sections(script):
        expected = plain.execute(sql).fetchall()
        assert volume.execute(sql).fetchall() == expected, name
        count += len(expected)
    assert content(volume) == content(plain)
    assert is_sound(volume)
    return count


SCRIPT = """
PRAGMA page_size=1024;
PRAGMA cache_size=10;
-- begin test 100 rows
BEGIN;
CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
INSERT INTO t SELECT i, printf('%.*c', i, 'x') FROM n;
COMMIT;
-- begin test 110 change half of them
BEGIN;
UPDATE t SET b = upper(b) WHERE a % 2 = 0;
SELECT count(*) FROM t WHERE b = upper(b);
COMMIT;
-- begin test 120 look at them
SELECT a, b FROM t WHERE a % 7 = 0;
SELECT sum(length(b)) FROM t;
"""


@pytest.fixture
def plain(tmp_path):
    connection = stock(tmp_path / "plain.db")
    connection.pragma("synchronous", "off")
    yield connection
    connection.close()


@pytest.fixture
def volume(tmp_path, monkeypatch):
    # So low that transactions of some hundred pages go through the log before their commit.
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", 1 << 16)
    config = Config(data_dir=tmp_path / "data", remote=memory_remote())
    with registered(config):
        yield graft_vfs.connect("speed")


def test_a_script_in_the_form_of_speedtest1_gets_the_same_answers(plain, volume):
    names = [name for name, _ in sections(SCRIPT)]
    assert names[1:] == ["100 rows", "110 change half of them", "120 look at them"]
    assert assert_same_answers(SCRIPT, plain, volume) == 500 // 7 + 2


def scripts() -> list[Path]:
    """Return the scripts of speedtest1 made for the deep run."""
    directory = os.environ.get("SPEEDTEST1_SCRIPTS")
    return sorted(Path(directory).glob("*.sql")) if directory else []


@pytest.mark.deep
@pytest.mark.skipif(not scripts(), reason="SPEEDTEST1_SCRIPTS names no directory with *.sql")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_a_script_of_speedtest1_gets_the_same_answers(plain, volume, script):
    assert assert_same_answers(script.read_text(), plain, volume) > 0
