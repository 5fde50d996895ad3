"""A hostile remote cannot make a client leave its data directory, crash, hang, or run code.

A child process meets one hostile remote after the other, see `remotes`, with every verb that reads.
An audit hook in it watches what Python opens, changes and runs; the tree of files before and after
shows what SQLite and native code did besides.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import graft_vfs
from graft_vfs.engine.config import RemoteConfig
from tests.hostile.remotes import SCENARIOS, SECRET, Remote
from tests.support.replicas import Replica

_ROOT = Path(__file__).parents[2]
MEMORY_MAX_BYTES = 256 << 20
"""Four times the largest header, of which a reader holds what it read and what it decodes."""
REQUESTS_MAX = 5000


def tree(top: Path) -> dict[str, tuple[int, bytes | str]]:
    """Return every name below `top` with its kind and content; links are not followed."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(top.rglob("*")):
        mode = path.lstat().st_mode
        content: bytes | str = ""
        if stat.S_ISREG(mode):
            content = path.read_bytes() if path.stat().st_size < 1 << 20 else "large"
        elif stat.S_ISLNK(mode):
            content = str(path.readlink())
        found[str(path.relative_to(top))] = stat.S_IFMT(mode), content
    return found


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a directory for each scenario, with its remote, and one outside of all of them."""
    top = tmp_path_factory.mktemp("hostile")
    outside = top / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    sound, data = top / "sound-remote", top / "sound-data"
    config = RemoteConfig(type="fs", root=str(sound))
    with Replica(data, config) as replica:
        connection = replica.connect()
        connection.execute("CREATE TABLE t(x)")
        for value in range(3):
            connection.execute("INSERT INTO t VALUES(?)", (value,))
            pushed = replica.engine.push("main")
    (top / "log").write_text(str(pushed.log))
    with Replica(top / "cloned", config) as replica:
        replica.engine.clone("main", "main")
    for name in ("warm", *SCENARIOS):
        home = top / name
        shutil.copytree(sound, home / "remote")
        shutil.copytree(top / "cloned", home / "data")
        (home / "out").mkdir()
        if name in SCENARIOS:
            SCENARIOS[name](Remote(home / "remote", pushed.log, outside))
    yield top
    # Python's own removal of a tree goes only as deep as calls can be nested.
    subprocess.run(["rm", "-rf", *map(str, top.iterdir())], check=True)


@pytest.fixture(scope="module")
def reports(sandbox: Path) -> dict[str, dict]:
    """Run the child once for all scenarios; returns what it says of each."""
    package = Path(graft_vfs.__file__).parents[1]
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("GRAFT_")},
        "PYTHONPATH": os.pathsep.join((str(package), str(_ROOT))),
        "HOME": str(sandbox / "outside"),
        "TMPDIR": str(sandbox / "outside"),
    }
    before = tree(sandbox / "outside")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.hostile.confined", str(sandbox)],
        env=environment,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert tree(sandbox / "outside") == before
    return {report["scenario"]: report for report in found}


def test_a_valid_remote_answers_every_verb(reports: dict[str, dict]) -> None:
    outcomes = reports["a sound remote"]["outcomes"]
    refused = {verb: outcome for verb, outcome in outcomes.items() if outcome != "ok"}
    assert refused == {"b dump 4": "NotFoundError", "main dump 4": "NotFoundError"}


# What a client must not take, and how it says so. Other verbs may still work.
REFUSED = {
    "a ref that names a path": {"clone ref": "CorruptObjectError"},
    "a ref that names a log with a nul": {"clone ref": "CorruptObjectError"},
    "a ref of a gibibyte": {"clone ref": "CorruptObjectError"},
    "a ref that leads outside": {"clone ref": "StoreError"},
    "a folder of refs that leads outside": {"clone ref": "NotFoundError"},
    "a folder of logs that leads outside": {"clone id": "NotFoundError"},
    "commits that lead outside": {"clone id": "StoreError", "fetch": "StoreError"},
    "a segment that leads outside": {"b hydrate": "StoreError"},
    "the largest lsn is listed": {"clone id": "CorruptObjectError"},
    "a commit of another log": {"clone id": "CorruptObjectError"},
    "a commit under the next key": {"clone id": "CorruptObjectError", "pull": "CorruptObjectError"},
    "a history with a gap": {"clone id": "CorruptObjectError"},
    "a history that was rewritten": {"clone id": "CorruptObjectError"},
    "a log that is its own parent": {"clone id": "CorruptObjectError"},
    "two logs that are each others parents": {"clone id": "CorruptObjectError"},
    "a row of forks without an end": {"clone id": "CorruptObjectError"},
    "a parent at the largest lsn": {"clone id": "CorruptObjectError"},
    "a parent that is absent": {"clone id": "CorruptObjectError"},
    "a page size that changes": {"b read": "CorruptError", "pull": "CorruptObjectError"},
    "a database that grows to the last page": {
        "b audit": "CorruptObjectError",
        "b export": "CorruptObjectError",
    },
    "a last page far from the others": {"b export": "CorruptObjectError"},
    "a body cut short": {"b hydrate": "CorruptObjectError", "b read": "CorruptError"},
    "a segment that is absent": {"b hydrate": "ObjectMissingError"},
    "a header that claims 64 mib": {"clone id": "CorruptObjectError"},
    "a frame of another content": {"b hydrate": "CorruptObjectError"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_objects_are_refused_by_name(reports: dict[str, dict], name: str) -> None:
    outcomes = reports[name]["outcomes"]
    assert {verb: outcomes[verb] for verb in REFUSED[name]} == REFUSED[name]


def test_foreign_names_among_the_commits_are_skipped(reports: dict[str, dict]) -> None:
    """What a file manager or an administrator leaves there must not keep anyone from the log."""
    outcomes = reports["foreign names among the commits"]["outcomes"]
    assert outcomes == reports["a sound remote"]["outcomes"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_hostile_remote_gets_a_declared_error_and_nothing_else(
    reports: dict[str, dict], name: str
) -> None:
    report = reports[name]
    undeclared = {
        verb: outcome
        for verb, outcome in report["outcomes"].items()
        if outcome.startswith("undeclared")
    }
    assert undeclared == {}
    assert report["watched"] == []
    assert report["requests"] <= REQUESTS_MAX
    assert report["grown_bytes"] <= MEMORY_MAX_BYTES
