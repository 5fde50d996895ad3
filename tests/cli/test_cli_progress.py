"""Which commands count while they work, and what they count."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from graft_vfs.cli import history, sync, transfer

LONG = ["import", "push", "clone", "fetch", "pull", "hydrate", "audit", "export", "diff"]


@pytest.fixture
def counted(monkeypatch):
    """What the commands show, as if standard error were a terminal: (what, done, total)."""
    shown: list[tuple[str, int, int]] = []

    @contextlib.contextmanager
    def recording(what: str) -> Iterator[object]:
        yield lambda done, total: shown.append((what, done, total))

    for module in (history, sync, transfer):
        monkeypatch.setattr(module, "progress", recording)
    return shown


@pytest.fixture
def ready(pushed, plain):
    """Two machines; `b` has a cold clone, and is three commits behind."""
    pushed.sql("main", "CREATE TABLE big AS SELECT id, hex(zeroblob(4000)) FROM t")
    pushed.ok("push", "main")
    pushed.machine("b")
    pushed.ok("clone", "main")
    pushed.machine("a")
    for number in range(3):
        pushed.sql("main", f"INSERT INTO t VALUES({-number - 1}, 'new')")
        pushed.ok("push", "main")
    return pushed


@pytest.mark.parametrize("command", LONG)
def test_a_long_command_counts_to_its_end(ready, plain, counted, command):
    arguments = {
        "import": (str(plain), "other"),
        "push": ("main",),
        "clone": ("main", "copy"),
        "export": ("main", str(ready.root / "export.db")),
        "diff": ("main", "1", "2"),
    }
    if command == "push":
        ready.sql("main", "UPDATE big SET id = id + 1")
    elif command in ("import", "audit"):
        # Every 256th page is told, and all pages must be here.
        ready.sql("main", "CREATE TABLE more AS SELECT * FROM big")
    else:
        ready.machine("b")
    if command == "import":
        exported = ready.root / "large.db"
        ready.ok("export", "main", str(exported))
        counted.clear()
        arguments["import"] = (str(exported), "other")
    ready.ok(command, *arguments.get(command, ("main",)))
    assert counted
    (what,) = {what for what, _, _ in counted}
    assert what
    done = [done for _, done, _ in counted]
    assert done == sorted(done)
    (total,) = {total for _, _, total in counted}
    assert 0 < done[-1] <= total
    assert total - done[-1] < 256
